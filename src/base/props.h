/*
 * Named values: what a person or a program said of one thing (a device, a disk, the machine),
 * checked against a table of what that thing understands.
 *
 * A table of `struct prop` stands beside the code that uses the values, and serves three readers:
 * the check (props_parse, props_from_json), the help (`-device NAME,help`), and the accessors.
 * After a successful check every value is well-typed and within its bounds, so accessors can't
 * fail; asking for a name or type that is not in the table is a bug and aborts.
 */
#ifndef REVIRT_BASE_PROPS_H
#define REVIRT_BASE_PROPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct json_object;
struct props;

enum prop_type {
	PROP_STRING,
	PROP_BOOL, /* on/off, yes/no, true/false, y/n; a bare name means on */
	PROP_INT,  /* unsigned, decimal or 0x…; min/max apply when max is not 0 */
	PROP_SIZE, /* bytes, with suffix B K M G T P E; a bare number counts in `unit` (1 when 0) */
	PROP_ENUM, /* one of choices */
	PROP_MAC,  /* six bytes, aa:bb:cc:dd:ee:ff */
	PROP_ADDR, /* a PCI slot: "5", "1d.2" (hexadecimal, as QEMU reads it) */
};

struct prop {
	const char *name;
	enum prop_type type;
	const char *def; /* default, as a person would write it; NULL: absent unless given */
	const char *help;
	const char *const *choices; /* PROP_ENUM, NULL-terminated */
	uint64_t min, max;
	uint64_t unit;
	const char *alias_of; /* another spelling of that name */
	bool required;
	bool list; /* STRING that may be given several times: the values stand one a line */
};

/*
 * Parses QEMU's "value,key=value,key,…" (a doubled comma is a comma). A first item without '='
 * is the value of `implied` when that is not NULL. Keys that several names lead to ("a.b=…") are
 * plain names here. Tables are searched in order; the array ends with NULL.
 * Error: "property 'foo' is not known; there are: a, b, c".
 */
struct props *props_parse(const char *text, const char *implied, const struct prop *const tables[],
			  struct error **err);
/* The same from a JSON object; nested objects are flattened to "outer.inner" names. */
struct props *props_from_json(struct json_object *object, const struct prop *const tables[],
			      struct error **err);
/* An empty set with defaults only. */
struct props *props_new(const struct prop *const tables[]);
void props_free(struct props *props);

/* Sets or replaces one value, checked as a person's. */
int props_set(struct props *props, const char *name, const char *value, struct error **err);

/* Was it given, or does it have a default? */
bool props_has(const struct props *props, const char *name);
/* Was it given explicitly? */
bool props_given(const struct props *props, const char *name);
const char *props_str(const struct props *props,
		      const char *name);                         /* STRING, ENUM; NULL if absent */
bool props_bool(const struct props *props, const char *name);    /* false if absent */
uint64_t props_u64(const struct props *props, const char *name); /* INT, SIZE; 0 if absent */
bool props_mac(const struct props *props, const char *name, uint8_t mac[6]); /* false if absent */
/* slot and function of an ADDR; false if absent. */
bool props_addr(const struct props *props, const char *name, unsigned *slot, unsigned *function);

/* All values, given and default, as a JSON object with native types; the caller puts it. */
struct json_object *props_to_json(const struct props *props);

/* "  name=<type>   help (default: x)" lines for -device NAME,help. */
void props_print_help(const struct prop *const tables[]);

/* Shared with other parsers of the dialect: "2G" → bytes. */
int parse_size(const char *text, uint64_t unit, uint64_t *bytes, struct error **err);
int parse_u64(const char *text, uint64_t *value, struct error **err);
int parse_bool(const char *text, bool *value, struct error **err);

#endif
