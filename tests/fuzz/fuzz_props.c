/*
 * libFuzzer: what people and programs write after -device and into device_add.
 *
 * The input is read as "value,key=value,..." and as JSON, against a table with every type. Whatever
 * was accepted must be readable by its accessor, survive the way through JSON, and be freed.
 */
#include "base/error.h"
#include "base/props.h"
#include "base/util.h"

#include <json-c/json.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const choices[] = { "one", "two", NULL };
static const struct prop table[] = {
	{ "s", PROP_STRING, .def = "none" },
	{ "b", PROP_BOOL },
	{ "i", PROP_INT, .min = 3, .max = 300 },
	{ "z", PROP_SIZE, .unit = MIB },
	{ "e", PROP_ENUM, .choices = choices },
	{ "m", PROP_MAC },
	{ "a", PROP_ADDR },
	{ "other", PROP_STRING, .alias_of = "s" },
	{ 0 },
};
static const struct prop *const tables[] = { table, NULL };

static void use(struct props *props)
{
	unsigned slot, function;
	uint8_t mac[6];
	struct json_object *json;
	struct props *again;
	struct error *err = NULL;

	if (!props)
		return;
	props_str(props, "s");
	props_bool(props, "b");
	if (props_has(props, "i") && (props_u64(props, "i") < 3 || props_u64(props, "i") > 300))
		abort();
	props_u64(props, "z");
	props_str(props, "e");
	props_mac(props, "m", mac);
	if (props_addr(props, "a", &slot, &function) && (slot > 31 || function > 7))
		abort();
	json = props_to_json(props);
	again = props_from_json(json, tables, &err);
	error_free(err);
	props_free(again);
	json_object_put(json);
	props_free(props);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	struct error *err = NULL;
	struct json_object *json = json_tokener_parse(text);

	use(props_parse(text, "s", tables, &err));
	error_free(err);
	err = NULL;
	if (json_object_is_type(json, json_type_object))
		use(props_from_json(json, tables, &err));
	error_free(err);
	json_object_put(json);
	free(text);
	return 0;
}
