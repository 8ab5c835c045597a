/*
 * libFuzzer: the command line.
 *
 * Each line of the input is a word of argv. What was accepted must come out as JSON that can be
 * read again; what was refused must say so in one line that names an option.
 */
#include "base/error.h"
#include "base/util.h"
#include "revirter/description.h"
#include "revirter/dialect.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_WORDS 128

/* Help is printed on standard output; libFuzzer talks on the other. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return freopen("/dev/null", "w", stdout) ? 0 : 1;
}

static void check_accepted(struct description *desc)
{
	struct json_object *json = description_to_json(desc), *again;

	again = json_tokener_parse(json_object_to_json_string(json));
	if (!again || !desc->smp.cpus || desc->smp.cpus > MACHINE_MAX_VCPUS || !desc->memory.size ||
	    desc->smp.cpus !=
		    desc->smp.sockets * desc->smp.dies * desc->smp.cores * desc->smp.threads)
		abort();
	json_object_put(again);
	json_object_put(json);
}

static void check_refused(const struct error *err)
{
	const char *message = error_message(err);

	if (*message != '-' && strncmp(message, "nothing to boot", 15) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), *rest = text;
	char name[] = "revirter", *argv[MAX_WORDS + 1] = { name };
	struct description *desc = NULL;
	struct error *err = NULL;
	bool done = false;
	int argc = 1;

	while (rest && argc < MAX_WORDS)
		argv[argc++] = strsep(&rest, "\n");
	if (dialect_parse(argc, argv, &desc, &done, &err) < 0)
		check_refused(err);
	else if (done != !desc)
		abort();
	else if (desc)
		check_accepted(desc);
	error_free(err);
	description_free(desc);
	free(text);
	return 0;
}
