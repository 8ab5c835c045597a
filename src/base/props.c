/*
 * Named values: see props.h.
 *
 * A set holds one slot for each name of its tables, in their order (aliases share the slot of the
 * name they stand for; a name that an earlier table has hides a later one). A slot keeps the value
 * decoded: texts as text, everything else as one number, so that accessors only look up and cast.
 * Both spellings, "key=value" and JSON, end in set_value(), which is the only place that decodes.
 */
#include "base/props.h"

#include "base/error.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

struct value {
	const struct prop *prop;
	bool present, given;
	char *text;      /* STRING, ENUM */
	uint64_t number; /* BOOL, INT, SIZE; MAC as 48 bits; ADDR as slot << 8 | function */
};

struct props {
	struct value *values;
	size_t n_values;
	const struct prop **aliases;
	size_t n_aliases;
};

static const char *const type_names[] = {
	[PROP_STRING] = "string", [PROP_BOOL] = "on|off", [PROP_INT] = "number",
	[PROP_SIZE] = "size",     [PROP_ENUM] = "choice", [PROP_MAC] = "mac",
	[PROP_ADDR] = "slot",
};

/* --- Parsing single values ------------------------------------------------------------------ */

int parse_u64(const char *text, uint64_t *value, struct error **err)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (!isdigit((unsigned char)*text) || *end) {
		error_set(err, "'%s' is not a number", text);
		return -1;
	}
	if (errno) {
		error_set(err, "'%s' is too large a number", text);
		return -1;
	}
	return 0;
}

int parse_bool(const char *text, bool *value, struct error **err)
{
	static const char *const words[][4] = { { "off", "no", "false", "n" },
						{ "on", "yes", "true", "y" } };

	for (unsigned i = 0; i < ARRAY_SIZE(words[0]); i++) {
		for (unsigned b = 0; b < 2; b++) {
			if (!strcmp(text, words[b][i])) {
				*value = b;
				return 0;
			}
		}
	}
	error_set(err, "'%s' is neither on nor off", text);
	return -1;
}

/* The multiplier of a size suffix, 0 when c is none. */
static uint64_t size_suffix(char c)
{
	static const char suffixes[] = "BKMGTPE";
	const char *s = c ? strchr(suffixes, toupper((unsigned char)c)) : NULL;

	return s ? UINT64_C(1) << (10 * (s - suffixes)) : 0;
}

/* The digits after a decimal point as numerator and denominator; digits past the 18th are noise. */
static const char *parse_fraction(const char *p, uint64_t *numerator, uint64_t *denominator)
{
	*numerator = 0;
	*denominator = 1;
	for (; isdigit((unsigned char)*p); p++) {
		if (*denominator < UINT64_C(1000000000000000000)) {
			*numerator = *numerator * 10 + (*p - '0');
			*denominator *= 10;
		}
	}
	return p;
}

int parse_size(const char *text, uint64_t unit, uint64_t *bytes, struct error **err)
{
	bool hex = text[0] == '0' && tolower((unsigned char)text[1]) == 'x';
	uint64_t whole, numerator = 0, denominator = 1, mul;
	unsigned __int128 total;
	char *end;
	const char *p;

	errno = 0;
	whole = strtoull(text, &end, hex ? 16 : 10);
	if (!isdigit((unsigned char)*text) || errno)
		goto bad;
	p = end;
	if (*p == '.' && !hex)
		p = parse_fraction(p + 1, &numerator, &denominator);
	mul = size_suffix(*p);
	if (*p && mul)
		p++;
	else if (p == end)
		mul = unit ? unit : 1;
	if (*p || !mul || (numerator && mul == 1))
		goto bad;
	total = (unsigned __int128)whole * mul +
		((unsigned __int128)numerator * mul + denominator / 2) / denominator;
	if (total > INT64_MAX)
		goto bad;
	*bytes = total;
	return 0;
bad:
	error_set(err,
		  "'%s' is not a size below 8 EiB; write a number, with K, M, G or T behind it",
		  text);
	return -1;
}

static int parse_mac(const char *text, uint64_t *value, struct error **err)
{
	uint64_t mac = 0;
	const char *p = text;

	for (int i = 0; i < 6; i++) {
		char digits[3] = { 0 };

		for (int d = 0; d < 2; d++) {
			if (!isxdigit((unsigned char)*p))
				goto bad;
			digits[d] = *p++;
		}
		mac = mac << 8 | strtoul(digits, NULL, 16);
		if (i < 5 && *p != ':' && *p != '-')
			goto bad;
		p += i < 5;
	}
	if (*p)
		goto bad;
	*value = mac;
	return 0;
bad:
	error_set(err, "'%s' is not a MAC address; write six bytes, as in 52:54:00:12:34:56", text);
	return -1;
}

static int parse_addr(const char *text, uint64_t *value, struct error **err)
{
	unsigned long slot, function = 0;
	char *end;

	slot = strtoul(text, &end, 16);
	if (!isxdigit((unsigned char)*text) || slot > 31)
		goto bad;
	if (*end == '.') {
		const char *f = end + 1;

		function = strtoul(f, &end, 16);
		if (!isxdigit((unsigned char)*f) || function > 7)
			goto bad;
	}
	if (*end)
		goto bad;
	*value = slot << 8 | function;
	return 0;
bad:
	error_set(err, "'%s' is not a PCI slot; write slot.function, hexadecimal, 0 to 1f.7", text);
	return -1;
}

static char *join_choices(const char *const *choices, const char *between)
{
	char *list = xstrdup("");

	for (; *choices; choices++) {
		char *longer = xasprintf("%s%s%s", list, *list ? between : "", *choices);

		free(list);
		list = longer;
	}
	return list;
}

static int check_choice(const struct prop *prop, const char *text, struct error **err)
{
	for (const char *const *c = prop->choices; *c; c++) {
		if (!strcmp(*c, text))
			return 0;
	}
	char *list AUTO_FREE = join_choices(prop->choices, ", ");

	error_set(err, "'%s' is not one of %s", text, list);
	return -1;
}

static int check_range(const struct prop *prop, uint64_t number, struct error **err)
{
	if (!prop->max || (number >= prop->min && number <= prop->max))
		return 0;
	error_set(err, "%" PRIu64 " is out of range; from %" PRIu64 " to %" PRIu64 " is possible",
		  number, prop->min, prop->max);
	return -1;
}

/* Decodes text as prop's type into *number, or checks it when it stays text. */
static int decode(const struct prop *prop, const char *text, uint64_t *number, struct error **err)
{
	bool b = false;

	switch (prop->type) {
	case PROP_STRING: return 0;
	case PROP_ENUM: return check_choice(prop, text, err);
	case PROP_MAC: return parse_mac(text, number, err);
	case PROP_ADDR: return parse_addr(text, number, err);
	case PROP_BOOL:
		if (parse_bool(text, &b, err) < 0)
			return -1;
		*number = b;
		return 0;
	case PROP_INT:
		if (parse_u64(text, number, err) < 0)
			return -1;
		return check_range(prop, *number, err);
	case PROP_SIZE:
		if (parse_size(text, prop->unit, number, err) < 0)
			return -1;
		return check_range(prop, *number, err);
	}
	abort();
}

/* --- The set -------------------------------------------------------------------------------- */

/* The slot of a name or alias; NULL when there is none. */
static struct value *find(const struct props *props, const char *name)
{
	for (size_t i = 0; i < props->n_values; i++) {
		if (!strcmp(props->values[i].prop->name, name))
			return &props->values[i];
	}
	for (size_t i = 0; i < props->n_aliases; i++) {
		if (!strcmp(props->aliases[i]->name, name))
			return find(props, props->aliases[i]->alias_of);
	}
	return NULL;
}

/* A list grows by one line a value; its first replaces the default. */
static char *new_text(const struct value *value, const char *text)
{
	if (value->prop->list && value->given)
		return xasprintf("%s\n%s", value->text, text);
	return xstrdup(text);
}

static int set_value(struct value *value, const char *text, bool given, struct error **err)
{
	const struct prop *prop = value->prop;
	struct error *e = NULL;
	uint64_t number = 0;
	char *new = NULL;

	if (decode(prop, text, &number, &e) < 0) {
		error_prefix(&e, "property '%s': ", prop->name);
		error_propagate(err, e);
		return -1;
	}
	if (prop->type == PROP_STRING || prop->type == PROP_ENUM)
		new = new_text(value, text);
	free(value->text);
	value->text = new;
	value->number = number;
	value->present = true;
	value->given = given;
	return 0;
}

/* A default that its own type refuses is a mistake in a table, found by whoever uses it first. */
static void set_default(struct value *value)
{
	struct error *err ERROR_AUTO = NULL;

	if (!value->prop->def || set_value(value, value->prop->def, false, &err) == 0)
		return;
	fprintf(stderr, "revirt: default of %s\n", error_message(err));
	abort();
}

struct props *props_new(const struct prop *const tables[])
{
	struct props *props = xcalloc(1, sizeof(*props));
	size_t n = 0;

	for (const struct prop *const *t = tables; *t; t++) {
		for (const struct prop *p = *t; p->name; p++)
			n++;
	}
	props->values = xcalloc(n + 1, sizeof(*props->values));
	props->aliases = xcalloc(n + 1, sizeof(*props->aliases));
	for (const struct prop *const *t = tables; *t; t++) {
		for (const struct prop *p = *t; p->name; p++) {
			if (find(props, p->name))
				continue;
			if (p->alias_of) {
				props->aliases[props->n_aliases++] = p;
				continue;
			}
			props->values[props->n_values].prop = p;
			set_default(&props->values[props->n_values++]);
		}
	}
	return props;
}

void props_free(struct props *props)
{
	if (!props)
		return;
	for (size_t i = 0; i < props->n_values; i++)
		free(props->values[i].text);
	free(props->values);
	free(props->aliases);
	free(props);
}

static void unknown(const struct props *props, const char *name, struct error **err)
{
	char *list AUTO_FREE = xstrdup("");

	for (size_t i = 0; i < props->n_values; i++) {
		char *longer =
			xasprintf("%s%s%s", list, i ? ", " : "", props->values[i].prop->name);

		free(list);
		list = longer;
	}
	if (props->n_values)
		error_set(err, "property '%s' is not known; there are: %s", name, list);
	else
		error_set(err, "property '%s' is not known; there are none", name);
}

int props_set(struct props *props, const char *name, const char *value, struct error **err)
{
	struct value *v = find(props, name);

	if (!v) {
		unknown(props, name, err);
		return -1;
	}
	return set_value(v, value, true, err);
}

/* A name without a value: "x" is x=on, and "nox" is x=off, as QEMU reads it. */
static int set_bare(struct props *props, const char *name, struct error **err)
{
	struct value *v = find(props, name);
	struct value *negated = strncmp(name, "no", 2) ? NULL : find(props, name + 2);

	if (!v && negated && negated->prop->type == PROP_BOOL)
		return set_value(negated, "off", true, err);
	if (!v) {
		unknown(props, name, err);
		return -1;
	}
	if (v->prop->type != PROP_BOOL) {
		error_set(err, "property '%s' needs a value: %s=<%s>", name, name,
			  type_names[v->prop->type]);
		return -1;
	}
	return set_value(v, "on", true, err);
}

static int check_required(const struct props *props, struct error **err)
{
	for (size_t i = 0; i < props->n_values; i++) {
		const struct value *v = &props->values[i];

		if (v->prop->required && !v->present) {
			error_set(err, "property '%s' is missing", v->prop->name);
			return -1;
		}
	}
	return 0;
}

/* --- The two spellings ---------------------------------------------------------------------- */

/* Copies the value at *p up to a single comma into buf, undoubling commas; steps over it. */
static void take_value(const char **p, char *buf)
{
	const char *s = *p;

	for (; *s; s++) {
		if (*s == ',' && *++s != ',')
			break;
		*buf++ = *s;
	}
	*buf = '\0';
	*p = s;
}

/* Takes one item off *p and stores it; buf is room enough for any item. */
static int take_item(struct props *props, const char **p, const char *implied, char *buf,
		     struct error **err)
{
	size_t len = strcspn(*p, "=,");
	char *name AUTO_FREE = NULL;

	if ((*p)[len] != '=' && implied) {
		take_value(p, buf);
		return props_set(props, implied, buf, err);
	}
	name = xasprintf("%.*s", (int)len, *p);
	*p += len;
	if (**p != '=') {
		*p += **p == ',';
		return set_bare(props, name, err);
	}
	(*p)++;
	take_value(p, buf);
	return props_set(props, name, buf, err);
}

struct props *props_parse(const char *text, const char *implied, const struct prop *const tables[],
			  struct error **err)
{
	struct props *props = props_new(tables);
	char *buf AUTO_FREE = xcalloc(1, strlen(text) + 1);

	for (const char *p = text; *p; implied = NULL) {
		if (take_item(props, &p, implied, buf, err) < 0)
			goto fail;
	}
	if (check_required(props, err) == 0)
		return props;
fail:
	props_free(props);
	return NULL;
}

static int set_json(struct props *props, const char *name, struct json_object *value,
		    struct error **err);

static int set_json_object(struct props *props, const char *prefix, struct json_object *object,
			   struct error **err)
{
	json_object_object_foreach(object, key, member)
	{
		char *name AUTO_FREE = xasprintf("%s%s%s", prefix, *prefix ? "." : "", key);

		if (set_json(props, name, member, err) < 0)
			return -1;
	}
	return 0;
}

/* Elements of a list are plain strings, or objects whose "str" is one (QEMU's String). */
static int set_json_array(struct props *props, const char *prefix, struct json_object *array,
			  struct error **err)
{
	const struct value *list = find(props, prefix);

	for (size_t i = 0; i < json_object_array_length(array); i++) {
		struct json_object *element = json_object_array_get_idx(array, i), *str;
		char *name AUTO_FREE = NULL;

		if (list && list->prop->list) {
			name = xstrdup(prefix);
			if (json_object_object_get_ex(element, "str", &str))
				element = str;
		} else {
			name = xasprintf("%s.%zu", prefix, i);
		}
		if (set_json(props, name, element, err) < 0)
			return -1;
	}
	return 0;
}

/* An integer: for ADDR it is QEMU's devfn, the slot in bits 3 to 7. */
static int set_json_int(struct props *props, const char *name, struct json_object *value,
			struct error **err)
{
	struct value *v = find(props, name);
	uint64_t n = json_object_get_uint64(value);
	char *text AUTO_FREE = NULL;

	if (json_object_get_int64(value) < 0) {
		error_set(err, "property '%s': a negative number is not possible", name);
		return -1;
	}
	if (v && v->prop->type == PROP_ADDR)
		text = xasprintf("%" PRIx64 ".%" PRIx64, n >> 3, n & 7);
	else
		text = xasprintf("%" PRIu64 "%s", n, v && v->prop->type == PROP_SIZE ? "B" : "");
	if (v && (v->prop->type == PROP_BOOL || v->prop->type == PROP_STRING)) {
		error_set(err, "property '%s' is not a number", name);
		return -1;
	}
	return props_set(props, name, text, err);
}

static int set_json(struct props *props, const char *name, struct json_object *value,
		    struct error **err)
{
	const struct value *v;

	switch (json_object_get_type(value)) {
	case json_type_object: return set_json_object(props, name, value, err);
	case json_type_array: return set_json_array(props, name, value, err);
	case json_type_int: return set_json_int(props, name, value, err);
	case json_type_string: return props_set(props, name, json_object_get_string(value), err);
	case json_type_boolean:
		v = find(props, name);
		if (v && v->prop->type == PROP_STRING)
			break;
		return props_set(props, name, json_object_get_boolean(value) ? "on" : "off", err);
	default: break;
	}
	error_set(err, "property '%s': %s is not a value it can have", name,
		  json_object_to_json_string(value));
	return -1;
}

struct props *props_from_json(struct json_object *object, const struct prop *const tables[],
			      struct error **err)
{
	struct props *props;

	if (!json_object_is_type(object, json_type_object)) {
		error_set(err, "a JSON object {\"key\": value, ...} is needed");
		return NULL;
	}
	props = props_new(tables);
	if (set_json_object(props, "", object, err) == 0 && check_required(props, err) == 0)
		return props;
	props_free(props);
	return NULL;
}

/* --- Accessors ------------------------------------------------------------------------------ */

static const struct value *get(const struct props *props, const char *name, unsigned types)
{
	const struct value *v = find(props, name);

	if (v && types & 1u << v->prop->type)
		return v;
	fprintf(stderr, "revirt: property '%s' asked for %s\n", name,
		v ? "as a type it has not" : "is in no table");
	abort();
}

bool props_has(const struct props *props, const char *name)
{
	return get(props, name, ~0u)->present;
}

bool props_given(const struct props *props, const char *name)
{
	return get(props, name, ~0u)->given;
}

const char *props_str(const struct props *props, const char *name)
{
	return get(props, name, 1u << PROP_STRING | 1u << PROP_ENUM)->text;
}

bool props_bool(const struct props *props, const char *name)
{
	return get(props, name, 1u << PROP_BOOL)->number;
}

uint64_t props_u64(const struct props *props, const char *name)
{
	return get(props, name, 1u << PROP_INT | 1u << PROP_SIZE)->number;
}

bool props_mac(const struct props *props, const char *name, uint8_t mac[6])
{
	const struct value *v = get(props, name, 1u << PROP_MAC);

	if (v->present) {
		for (int i = 0; i < 6; i++)
			mac[i] = v->number >> (40 - 8 * i);
	}
	return v->present;
}

bool props_addr(const struct props *props, const char *name, unsigned *slot, unsigned *function)
{
	const struct value *v = get(props, name, 1u << PROP_ADDR);

	if (v->present) {
		*slot = v->number >> 8;
		*function = v->number & 0xff;
	}
	return v->present;
}

/* --- Output --------------------------------------------------------------------------------- */

static struct json_object *value_to_json(const struct value *v)
{
	char text[sizeof("00:00:00:00:00:00")];

	switch (v->prop->type) {
	case PROP_STRING:
	case PROP_ENUM: return json_object_new_string(v->text);
	case PROP_BOOL: return json_object_new_boolean(v->number);
	case PROP_INT:
	case PROP_SIZE: return json_object_new_uint64(v->number);
	case PROP_ADDR:
		snprintf(text, sizeof(text), "%x.%x", (unsigned)(v->number >> 8),
			 (unsigned)(v->number & 7));
		return json_object_new_string(text);
	case PROP_MAC:
		snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x",
			 (uint8_t)(v->number >> 40), (uint8_t)(v->number >> 32),
			 (uint8_t)(v->number >> 24), (uint8_t)(v->number >> 16),
			 (uint8_t)(v->number >> 8), (uint8_t)v->number);
		return json_object_new_string(text);
	}
	abort();
}

struct json_object *props_to_json(const struct props *props)
{
	struct json_object *object = json_object_new_object();

	for (size_t i = 0; i < props->n_values; i++) {
		if (props->values[i].present)
			json_object_object_add(object, props->values[i].prop->name,
					       value_to_json(&props->values[i]));
	}
	return object;
}

static void print_prop(const struct prop *p)
{
	char *head AUTO_FREE = NULL, *choices AUTO_FREE = NULL;

	if (p->choices)
		choices = join_choices(p->choices, "|");
	head = xasprintf("%s=<%s>", p->name, type_names[p->type]);
	printf("  %-26s %s", head, p->help ? p->help : "");
	if (choices)
		printf("%s%s", p->help ? ": " : "", choices);
	if (p->def)
		printf(" (default: %s)", p->def);
	printf("%s\n", p->required ? " (required)" : "");
}

void props_print_help(const struct prop *const tables[])
{
	struct props *props = props_new(tables);

	for (size_t i = 0; i < props->n_values; i++)
		print_prop(props->values[i].prop);
	props_free(props);
}
