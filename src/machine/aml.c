/*
 * AML: see aml.h. The only thing that is not straight forward is PkgLength (ACPI 6.4 §20.2.4),
 * which stands before what it measures and takes one to four bytes: aml_end() inserts it when the
 * length is known.
 */
#include "machine/aml.h"

#include "base/util.h"

#include <stdio.h>
#include <string.h>

/* §20.3 */
enum {
	ZERO_OP = 0x00,
	ONE_OP = 0x01,
	NAME_OP = 0x08,
	BYTE_PREFIX = 0x0a,
	WORD_PREFIX = 0x0b,
	DWORD_PREFIX = 0x0c,
	STRING_PREFIX = 0x0d,
	QWORD_PREFIX = 0x0e,
	SCOPE_OP = 0x10,
	BUFFER_OP = 0x11,
	PACKAGE_OP = 0x12,
	METHOD_OP = 0x14,
	DUAL_NAME_PREFIX = 0x2e,
	MULTI_NAME_PREFIX = 0x2f,
	EXT_OP_PREFIX = 0x5b,
	CREATE_DWORD_FIELD_OP = 0x8a,
	IF_OP = 0xa0,
	ELSE_OP = 0xa1,
	ONES_OP = 0xff,

	EXT_DEVICE_OP = 0x82,
};

#define NAME_SEG          4
#define METHOD_SERIALIZED 0x08

/* §6.4.2 and §6.4.3: small tags carry their length, large ones are followed by it */
enum {
	TAG_IRQ = 0x22, /* no flags: edge, high, exclusive */
	TAG_IO = 0x47,
	TAG_END = 0x79,
	TAG_MEMORY32_FIXED = 0x86,
	TAG_DWORD_ADDRESS = 0x87,
	TAG_WORD_ADDRESS = 0x88,
	TAG_QWORD_ADDRESS = 0x8a,
};
enum { ADDRESS_MEMORY = 0, ADDRESS_IO = 1, ADDRESS_BUS = 2 };
#define IO_DECODE_16    0x01
#define MEMORY_WRITABLE 0x01
#define ADDRESS_FIXED   0x0c /* both ends, _MIF and _MAF; a producer, positively decoded */
#define IO_ENTIRE_RANGE 0x03

/* --- The buffer --- */

static uint8_t *extend(struct aml *a, size_t n)
{
	if (a->len + n > a->room) {
		size_t room = MAX(2 * a->room, a->len + n + 256);
		uint8_t *data = xcalloc(1, room);

		if (a->len)
			memcpy(data, a->data, a->len);
		free(a->data);
		a->data = data;
		a->room = room;
	}
	a->len += n;
	return a->data + a->len - n;
}

void aml_free(struct aml *a)
{
	free(a->data);
	*a = (struct aml){};
}

void aml_bytes(struct aml *a, const void *bytes, size_t n)
{
	uint8_t *to = extend(a, n);

	if (n)
		memcpy(to, bytes, n);
}

void aml_raw(struct aml *a, uint64_t value, unsigned n_bytes)
{
	aml_bytes(a, &value, n_bytes);
}

static void byte(struct aml *a, uint8_t value)
{
	aml_raw(a, value, 1);
}

void aml_end(struct aml *a, size_t start)
{
	size_t contents = a->len - start;
	unsigned n = contents + 1 <= 0x3f      ? 1
		     : contents + 2 <= 0xfff   ? 2
		     : contents + 3 <= 0xfffff ? 3
					       : 4;
	size_t length = contents + n;
	uint8_t *at;

	extend(a, n);
	at = a->data + start;
	memmove(at + n, at, contents);
	at[0] = n == 1 ? length : (n - 1) << 6 | (length & 0xf);
	for (unsigned i = 1; i < n; i++)
		at[i] = length >> (4 + 8 * (i - 1));
}

static size_t begin(struct aml *a, uint8_t op)
{
	byte(a, op);
	return a->len;
}

/* --- Data --- */

void aml_integer(struct aml *a, uint64_t value)
{
	static const struct {
		uint8_t prefix, bytes;
	} sizes[] = {
		{ BYTE_PREFIX, 1 }, { WORD_PREFIX, 2 }, { DWORD_PREFIX, 4 }, { QWORD_PREFIX, 8 }
	};
	unsigned i = 0;

	if (value <= 1 || value == UINT64_MAX) {
		byte(a, value == 0 ? ZERO_OP : value == 1 ? ONE_OP : ONES_OP);
		return;
	}
	while (sizes[i].bytes < 8 && value >> (8 * sizes[i].bytes))
		i++;
	byte(a, sizes[i].prefix);
	aml_raw(a, value, sizes[i].bytes);
}

void aml_string(struct aml *a, const char *s)
{
	byte(a, STRING_PREFIX);
	aml_bytes(a, s, strlen(s) + 1);
}

/* Three letters of five bits and four hex digits, the more significant byte first (§19.3.4). */
void aml_eisa_id(struct aml *a, const char *id)
{
	uint32_t letters = (id[0] & 0x1f) << 10 | (id[1] & 0x1f) << 5 | (id[2] & 0x1f);
	uint32_t number = strtoul(id + 3, NULL, 16);

	aml_integer(a, __builtin_bswap32(letters << 16 | number));
}

/* The first three fields are integers, hence little-endian (§19.6.142). */
void aml_uuid(struct aml *a, const char *uuid)
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	uint8_t bytes[16];

	for (unsigned i = 0; i < 16; i++) {
		unsigned value = 0;

		uuid += *uuid == '-';
		sscanf(uuid, "%2x", &value);
		uuid += 2;
		bytes[order[i]] = value;
	}
	aml_buffer(a, bytes, sizeof(bytes));
}

void aml_buffer(struct aml *a, const void *bytes, size_t n)
{
	size_t buffer = begin(a, BUFFER_OP);

	aml_integer(a, n);
	aml_bytes(a, bytes, n);
	aml_end(a, buffer);
}

size_t aml_package(struct aml *a, uint8_t n_elements)
{
	size_t package = begin(a, PACKAGE_OP);

	byte(a, n_elements);
	return package;
}

/* --- Names --- */

static void name_seg(struct aml *a, const char *from, size_t len)
{
	for (size_t i = 0; i < NAME_SEG; i++)
		byte(a, i < len ? from[i] : '_');
}

void aml_path(struct aml *a, const char *path)
{
	unsigned parts = 1;

	if (*path == '\\')
		byte(a, *path++);
	for (const char *p = path; *p; p++)
		parts += *p == '.';
	if (parts == 2) {
		byte(a, DUAL_NAME_PREFIX);
	} else if (parts > 2) {
		byte(a, MULTI_NAME_PREFIX);
		byte(a, parts);
	}
	while (parts--) {
		size_t len = strcspn(path, ".");

		name_seg(a, path, len);
		path += len + (path[len] == '.');
	}
}

void aml_name(struct aml *a, const char *path)
{
	byte(a, NAME_OP);
	aml_path(a, path);
}

void aml_name_integer(struct aml *a, const char *path, uint64_t value)
{
	aml_name(a, path);
	aml_integer(a, value);
}

void aml_name_eisa_id(struct aml *a, const char *path, const char *id)
{
	aml_name(a, path);
	aml_eisa_id(a, id);
}

size_t aml_scope(struct aml *a, const char *path)
{
	size_t scope = begin(a, SCOPE_OP);

	aml_path(a, path);
	return scope;
}

size_t aml_device(struct aml *a, const char *path)
{
	size_t device;

	byte(a, EXT_OP_PREFIX);
	device = begin(a, EXT_DEVICE_OP);
	aml_path(a, path);
	return device;
}

size_t aml_method(struct aml *a, const char *path, unsigned n_args, bool serialized)
{
	size_t method = begin(a, METHOD_OP);

	aml_path(a, path);
	byte(a, n_args | (serialized ? METHOD_SERIALIZED : 0));
	return method;
}

void aml_dword_field(struct aml *a, unsigned arg, unsigned offset, const char *name)
{
	byte(a, CREATE_DWORD_FIELD_OP);
	byte(a, AML_ARG0 + arg);
	aml_integer(a, offset);
	aml_path(a, name);
}

/* --- Statements --- */

void aml_op(struct aml *a, enum aml_op op)
{
	byte(a, op);
}

size_t aml_if(struct aml *a)
{
	return begin(a, IF_OP);
}

size_t aml_else(struct aml *a)
{
	return begin(a, ELSE_OP);
}

/* --- Resources --- */

void aml_crs(struct aml *a, const struct aml *descriptors)
{
	/* The end tag's checksum of 0 means that there is none (§6.4.2.9). */
	static const uint8_t end[] = { TAG_END, 0 };
	size_t buffer;

	aml_name(a, "_CRS");
	buffer = begin(a, BUFFER_OP);
	aml_integer(a, descriptors->len + sizeof(end));
	aml_bytes(a, descriptors->data, descriptors->len);
	aml_bytes(a, end, sizeof(end));
	aml_end(a, buffer);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
	byte(a, TAG_IRQ);
	aml_raw(a, BIT(irq), 2);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t n)
{
	byte(a, TAG_IO);
	byte(a, IO_DECODE_16);
	aml_raw(a, base, 2);
	aml_raw(a, base, 2);
	byte(a, 1); /* alignment */
	byte(a, n);
}

void aml_res_memory32(struct aml *a, uint32_t base, uint32_t size)
{
	byte(a, TAG_MEMORY32_FIXED);
	aml_raw(a, 9, 2);
	byte(a, MEMORY_WRITABLE);
	aml_raw(a, base, 4);
	aml_raw(a, size, 4);
}

/* The three widths differ in that only (§6.4.3.5). */
static void window(struct aml *a, uint8_t tag, unsigned width, uint8_t type, uint8_t type_flags,
		   uint64_t base, uint64_t size)
{
	const uint64_t fields[] = { 0 /* granularity */, base, base + size - 1, 0 /* translation */,
				    size };

	byte(a, tag);
	aml_raw(a, 3 + width * ARRAY_SIZE(fields), 2);
	byte(a, type);
	byte(a, ADDRESS_FIXED);
	byte(a, type_flags);
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
		aml_raw(a, fields[i], width);
}

void aml_res_bus_window(struct aml *a, uint16_t base, uint16_t size)
{
	window(a, TAG_WORD_ADDRESS, 2, ADDRESS_BUS, 0, base, size);
}

void aml_res_io_window(struct aml *a, uint16_t base, uint32_t size)
{
	window(a, TAG_WORD_ADDRESS, 2, ADDRESS_IO, IO_ENTIRE_RANGE, base, size);
}

void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t size)
{
	window(a, TAG_DWORD_ADDRESS, 4, ADDRESS_MEMORY, MEMORY_WRITABLE, base, size);
}

void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t size)
{
	window(a, TAG_QWORD_ADDRESS, 8, ADDRESS_MEMORY, MEMORY_WRITABLE, base, size);
}
