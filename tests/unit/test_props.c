/* Named values: both spellings, every type, and each way to be refused. */
#include "base/error.h"
#include "base/props.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <json-c/json.h>

#include <cmocka.h>

static const char *const colours[] = { "red", "green", NULL };
static const struct prop table[] = {
	{ "file", PROP_STRING, .help = "a path" },
	{ "filename", PROP_STRING, .alias_of = "file" },
	{ "server", PROP_BOOL, .def = "off" },
	{ "queues", PROP_INT, .def = "1", .min = 1, .max = 8 },
	{ "size", PROP_SIZE, .unit = MIB },
	{ "colour", PROP_ENUM, .choices = colours },
	{ "mac", PROP_MAC },
	{ "addr", PROP_ADDR },
	{ "cache.direct", PROP_BOOL },
	{ "forward", PROP_STRING, .list = true },
	{},
};
static const struct prop more[] = {
	{ "id", PROP_STRING, .required = true },
	{ "file", PROP_INT }, /* hidden by the table before */
	{},
};
static const struct prop *const tables[] = { table, NULL };
static const struct prop *const both[] = { table, more, NULL };

static struct props *parse(const char *text)
{
	struct error *err = NULL;
	struct props *props = props_parse(text, "file", tables, &err);

	if (!props)
		fail_msg("%s: %s", text, error_message(err));
	return props;
}

static void refuse(const char *text, const char *message)
{
	struct error *err = NULL;

	assert_null(props_parse(text, "file", tables, &err));
	assert_string_equal(error_message(err), message);
	error_free(err);
}

static void test_values(void **state)
{
	struct props *p = parse("a,,b,server,queues=0x4,size=1.5G,colour=green,"
				"mac=52:54:00:12:34:5F,addr=1d.2,cache.direct=yes");
	const uint8_t want[] = { 0x52, 0x54, 0, 0x12, 0x34, 0x5f };
	unsigned slot, function;
	uint8_t mac[6];

	assert_string_equal(props_str(p, "file"), "a,b");
	assert_string_equal(props_str(p, "filename"), "a,b");
	assert_true(props_bool(p, "server"));
	assert_int_equal(props_u64(p, "queues"), 4);
	assert_int_equal(props_u64(p, "size"), 1536 * MIB);
	assert_string_equal(props_str(p, "colour"), "green");
	assert_true(props_mac(p, "mac", mac));
	assert_memory_equal(mac, want, 6);
	assert_true(props_addr(p, "addr", &slot, &function));
	assert_int_equal(slot, 0x1d);
	assert_int_equal(function, 2);
	assert_true(props_bool(p, "cache.direct"));
	props_free(p);
}

static void test_defaults(void **state)
{
	struct props *p = parse("");
	unsigned slot, function;
	uint8_t mac[6];

	assert_false(props_has(p, "file"));
	assert_null(props_str(p, "file"));
	assert_true(props_has(p, "queues"));
	assert_false(props_given(p, "queues"));
	assert_int_equal(props_u64(p, "queues"), 1);
	assert_int_equal(props_u64(p, "size"), 0);
	assert_false(props_bool(p, "cache.direct"));
	assert_false(props_mac(p, "mac", mac));
	assert_false(props_addr(p, "addr", &slot, &function));
	props_free(p);
}

static void test_spellings(void **state)
{
	struct props *p = parse("file=x=y,,z,noserver,size=512,queues=2,queues=3");

	assert_string_equal(props_str(p, "file"), "x=y,z");
	assert_false(props_bool(p, "server"));
	assert_true(props_given(p, "server"));
	assert_int_equal(props_u64(p, "size"), 512 * MIB);
	assert_int_equal(props_u64(p, "queues"), 3);
	props_free(p);

	p = parse("filename=f");
	assert_string_equal(props_str(p, "file"), "f");
	props_free(p);
}

static void test_refused(void **state)
{
	refuse("x,foo=1",
	       "property 'foo' is not known; there are: file, server, queues, size, colour, mac, "
	       "addr, cache.direct, forward");
	refuse("x,,y,colour", "property 'colour' needs a value: colour=<choice>");
	refuse("server=maybe", "property 'server': 'maybe' is neither on nor off");
	refuse("queues=0", "property 'queues': 0 is out of range; from 1 to 8 is possible");
	refuse("queues=-1", "property 'queues': '-1' is not a number");
	refuse("queues=1x", "property 'queues': '1x' is not a number");
	refuse("queues=", "property 'queues': '' is not a number");
	refuse("queues=99999999999999999999",
	       "property 'queues': '99999999999999999999' is too large a number");
	refuse("colour=blue", "property 'colour': 'blue' is not one of red, green");
	refuse("mac=52:54:00:12:34", "property 'mac': '52:54:00:12:34' is not a MAC address; write "
				     "six bytes, as in 52:54:00:12:34:56");
	refuse("addr=20", "property 'addr': '20' is not a PCI slot; write slot.function, "
			  "hexadecimal, 0 to 1f.7");
	refuse("addr=1.8", "property 'addr': '1.8' is not a PCI slot; write slot.function, "
			   "hexadecimal, 0 to 1f.7");
}

static void test_required(void **state)
{
	struct error *err = NULL;
	struct props *p;

	assert_null(props_parse("file=x", NULL, both, &err));
	assert_string_equal(error_message(err), "property 'id' is missing");
	error_free(err);
	err = NULL;
	p = props_parse("file=x,id=1", NULL, both, &err);
	assert_non_null(p);
	assert_string_equal(props_str(p, "file"), "x");
	props_free(p);
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t unit, bytes;
	} good[] = {
		{ "0", 1, 0 },        { "512", MIB, 512 * MIB },   { "2G", MIB, 2 * GIB },
		{ "2g", 1, 2 * GIB }, { "1.5G", MIB, 1536 * MIB }, { "0.5M", 1, MIB / 2 },
		{ "100b", MIB, 100 }, { "0x10", 1, 16 },           { "0x10M", 1, 16 * MIB },
		{ "010", 1, 10 },     { "1T", 1, 1024 * GIB },     { "1.K", 1, KIB },
	};
	static const char *const bad[] = { "",   "G",    "-1", "1.5",   "1.",       "1GB", "1Q",
					   " 1", "1e3x", "8E", "0x1.8", "9999999T", "+1",  "0.5b" };
	uint64_t bytes;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_size(good[i].text, good[i].unit, &bytes, NULL), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		if (parse_size(bad[i], MIB, &bytes, NULL) == 0)
			fail_msg("'%s' was taken as a size", bad[i]);
	}
}

static struct props *from_json(const char *text, struct error **err)
{
	struct json_object *object = json_tokener_parse(text);
	struct props *props;

	assert_non_null(object);
	props = props_from_json(object, tables, err);
	json_object_put(object);
	return props;
}

static void test_json(void **state)
{
	struct error *err = NULL;
	struct props *p = from_json("{\"filename\": \"x\", \"server\": true, \"queues\": 2, "
				    "\"size\": 4096, \"cache\": {\"direct\": \"on\"}, "
				    "\"addr\": 27, \"mac\": \"52:54:00:12:34:56\"}",
				    &err);
	struct json_object *out;

	assert_non_null(p);
	assert_int_equal(props_u64(p, "size"), 4096);
	out = props_to_json(p);
	assert_string_equal(
		json_object_to_json_string_ext(out, JSON_C_TO_STRING_PLAIN),
		"{\"file\":\"x\",\"server\":true,\"queues\":2,\"size\":4096,"
		"\"mac\":\"52:54:00:12:34:56\",\"addr\":\"3.3\",\"cache.direct\":true}");
	json_object_put(out);
	props_free(p);
}

static void test_json_refused(void **state)
{
	static const struct {
		const char *json, *message;
	} cases[] = {
		{ "[]", "a JSON object {\"key\": value, ...} is needed" },
		{ "{\"file\": 5}", "property 'file' is not a number" },
		{ "{\"file\": true}", "property 'file': true is not a value it can have" },
		{ "{\"file\": null}", "property 'file': null is not a value it can have" },
		{ "{\"queues\": 1.5}", "property 'queues': 1.5 is not a value it can have" },
		{ "{\"queues\": -1}", "property 'queues': a negative number is not possible" },
		{ "{\"queues\": true}", "property 'queues': 'on' is not a number" },
		{ "{\"addr\": 256}", "property 'addr': '20.0' is not a PCI slot; write "
				     "slot.function, hexadecimal, 0 to 1f.7" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error *err = NULL;

		assert_null(from_json(cases[i].json, &err));
		assert_string_equal(error_message(err), cases[i].message);
		error_free(err);
	}
	struct error *err = NULL;

	assert_null(from_json("{\"a\": [{\"b\": 1}]}", &err));
	assert_non_null(strstr(error_message(err), "property 'a.0.b' is not known"));
	error_free(err);
}

static void test_list(void **state)
{
	struct props *p = parse("forward=tcp::1-:2,forward=udp::3-:4");
	struct error *err = NULL;
	struct json_object *o =
		json_tokener_parse("{\"forward\": [\"a\", {\"str\": \"b\"}, \"c\"]}");

	assert_string_equal(props_str(p, "forward"), "tcp::1-:2\nudp::3-:4");
	props_free(p);
	p = props_from_json(o, tables, &err);
	assert_non_null(p);
	assert_string_equal(props_str(p, "forward"), "a\nb\nc");
	props_free(p);
	json_object_put(o);
}

static void test_set(void **state)
{
	struct error *err = NULL;
	struct props *p = props_new(tables);

	assert_int_equal(props_set(p, "queues", "9", &err), -1);
	assert_int_equal(props_u64(p, "queues"), 1);
	assert_int_equal(props_set(p, "queues", "8", NULL), 0);
	assert_int_equal(props_u64(p, "queues"), 8);
	error_free(err);
	props_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),    cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_spellings), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_required),  cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_json),      cmocka_unit_test(test_json_refused),
		cmocka_unit_test(test_set),       cmocka_unit_test(test_list),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
