/*
 * The form most options share: "KIND,key=value,...", or a JSON object with KIND as one member; and
 * the lists the description is made of.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"

#include <ctype.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define JSON_DEPTH 8

const struct prop id_props[] = {
	{ "id", PROP_STRING, .help = "name other options and QMP know it by", .required = true },
	{},
};

bool is_help(const char *text)
{
	return !strcmp(text, "help") || !strcmp(text, "?");
}

/* The length of the item text begins with, up to a single comma. */
static size_t item_length(const char *text)
{
	const char *p = text;

	while (*p && (*p != ',' || p[1] == ','))
		p += *p == ',' ? 2 : 1;
	return p - text;
}

/* A copy of the value with doubled commas made single. */
static char *undouble(const char *value, size_t len)
{
	char *copy = xcalloc(1, len + 1), *out = copy;

	for (size_t i = 0; i < len; i++) {
		*out++ = value[i];
		if (value[i] == ',')
			i++;
	}
	return copy;
}

/* Is the item's key `key`, or left out in the first item? Then its value begins at *value. */
static bool names_kind(const char *item, size_t len, const char *key, bool first, size_t *value)
{
	size_t key_len = strcspn(item, "=,");

	*value = 0;
	if (key_len >= len || item[key_len] != '=')
		return first;
	*value = key_len + 1;
	return key_len == strlen(key) && !strncmp(item, key, key_len);
}

static void split_text(const char *text, const char *key, struct item_source *source)
{
	bool first = true;

	source->text = xstrdup("");
	for (const char *p = text; *p; first = false) {
		size_t len = item_length(p), value;

		if (names_kind(p, len, key, first, &value)) {
			free(source->kind);
			source->kind = undouble(p + value, len - value);
		} else if ((len == 4 && !strncmp(p, "help", len)) || (len == 1 && *p == '?')) {
			source->help = true;
		} else {
			char *longer = xasprintf("%s%s%.*s", source->text, *source->text ? "," : "",
						 (int)len, p);

			free(source->text);
			source->text = longer;
		}
		p += len;
		p += *p == ',';
	}
}

static int split_json(const char *text, const char *key, struct item_source *source,
		      struct error **err)
{
	struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH);
	size_t len = strlen(text), used;
	struct json_object *kind;

	source->json = json_tokener_parse_ex(tokener, text, len + 1);
	used = json_tokener_get_parse_end(tokener);
	while (used < len && isspace((unsigned char)text[used]))
		used++;
	json_tokener_free(tokener);
	if (!json_object_is_type(source->json, json_type_object) || used < len) {
		error_set(err, "not a JSON object: it goes wrong at character %zu", used + 1);
		return -1;
	}
	if (json_object_object_get_ex(source->json, key, &kind) &&
	    json_object_is_type(kind, json_type_string)) {
		source->kind = xstrdup(json_object_get_string(kind));
		json_object_object_del(source->json, key);
	}
	return 0;
}

int item_split(const char *argument, const char *key, bool json_too, struct item_source *source,
	       struct error **err)
{
	*source = (struct item_source){ 0 };
	if (json_too && *argument == '{')
		return split_json(argument, key, source, err);
	split_text(argument, key, source);
	return 0;
}

struct props *item_props(const struct item_source *source, const struct prop *const tables[],
			 struct error **err)
{
	return source->json ? props_from_json(source->json, tables, err)
			    : props_parse(source->text, NULL, tables, err);
}

void item_clear(struct item_source *source)
{
	free(source->kind);
	free(source->text);
	json_object_put(source->json);
}

void collect(char **text, const char *argument, const char *implied)
{
	size_t key_len = strcspn(argument, "=,");
	bool keyless = implied && argument[key_len] != '=';
	char *longer = xasprintf("%s%s%s%s%s", *text ? *text : "", *text && **text ? "," : "",
				 keyless ? implied : "", keyless ? "=" : "", argument);

	free(*text);
	*text = longer;
}

int check_id(const char *id, struct error **err)
{
	const char *p = id;

	if (isalpha((unsigned char)*p)) {
		while (isalnum((unsigned char)*p) || (*p && strchr("-._", *p)))
			p++;
		if (!*p)
			return 0;
	}
	error_set(err, "'%s' is not an id; letters, digits, '-', '.' and '_', a letter first", id);
	return -1;
}

const struct desc_item *desc_find(const struct desc_list *list, const char *id)
{
	for (size_t i = 0; i < list->n; i++) {
		if (list->items[i].id && !strcmp(list->items[i].id, id))
			return &list->items[i];
	}
	return NULL;
}

/* Room for one more in an array that grows by doubling. */
static struct desc_item *new_item(struct desc_list *list)
{
	if (!(list->n & (list->n - 1))) {
		struct desc_item *items = xcalloc(list->n ? list->n * 2 : 1, sizeof(*items));

		if (list->n)
			memcpy(items, list->items, list->n * sizeof(*items));
		free(list->items);
		list->items = items;
	}
	return &list->items[list->n++];
}

int list_add(struct desc_list *list, const char *id, const void *class, struct props *props,
	     struct error **err)
{
	struct desc_item *item;

	if (id && desc_find(list, id)) {
		error_set(err, "there is already one with id '%s'", id);
		props_free(props);
		return -1;
	}
	item = new_item(list);
	item->id = id ? xstrdup(id) : NULL;
	item->device = class;
	item->props = props;
	return 0;
}

void list_append(struct desc_list *dst, struct desc_list *src)
{
	for (size_t i = 0; i < src->n; i++)
		*new_item(dst) = src->items[i];
	free(src->items);
	*src = (struct desc_list){ 0 };
}

void list_free(struct desc_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		free(list->items[i].id);
		props_free(list->items[i].props);
	}
	free(list->items);
}

void add_note(struct description *desc, const char *fmt, ...)
{
	char **notes = xcalloc(desc->n_notes + 1, sizeof(*notes));
	va_list ap;

	if (desc->n_notes)
		memcpy(notes, desc->notes, desc->n_notes * sizeof(*notes));
	free(desc->notes);
	desc->notes = notes;
	va_start(ap, fmt);
	if (vasprintf(&notes[desc->n_notes], fmt, ap) >= 0)
		desc->n_notes++;
	va_end(ap);
}

void add_name(char **names, const char *name)
{
	char *longer = xasprintf("%s%s%s", *names ? *names : "", *names ? ", " : "", name);

	free(*names);
	*names = longer;
}
