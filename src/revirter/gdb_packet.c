/*
 * Packets of GDB's remote serial protocol: see gdb_packet.h.
 *
 * "$data#xx", xx being the sum of the bytes between. In data "}" escapes the next byte (which is
 * sent with bit 5 turned over), and "*n" repeats the byte before it n - 29 times. "$" is always
 * escaped, so that one in a packet begins another, the rest of the first being lost.
 */
#include "revirter/gdb_packet.h"

#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ESCAPE     '}'
#define ESCAPE_BIT 0x20
#define RUN        '*'
#define RUN_BIAS   29 /* the count's character is printable: at least three times */
#define RUN_FIRST  ' '
#define RUN_LAST   '~'
#define CTRL_C     0x03

/* --- From the peer ---- */

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void gdb_framer_reset(struct gdb_framer *framer)
{
	framer->state = GDB_IDLE;
}

static void begin(struct gdb_framer *f)
{
	f->state = GDB_DATA;
	f->sum = f->told = 0;
	f->corrupt = f->too_long = false;
	f->len = 0;
}

static void append(struct gdb_framer *f, char byte, size_t n)
{
	for (; n; n--) {
		if (f->len == GDB_PACKET_MAX) {
			f->too_long = true;
			return;
		}
		f->data[f->len++] = byte;
	}
}

static void repeat(struct gdb_framer *f, uint8_t count)
{
	if (!f->len || count < RUN_FIRST || count > RUN_LAST)
		f->corrupt = true;
	else
		append(f, f->data[f->len - 1], count - RUN_BIAS);
}

static enum gdb_input between(struct gdb_framer *f, uint8_t byte)
{
	switch (byte) {
	case '$': begin(f); return GDB_MORE;
	case '+': return GDB_ACK;
	case '-': return GDB_NAK;
	case CTRL_C: return GDB_INTERRUPT;
	default: return GDB_MORE;
	}
}

static void inside(struct gdb_framer *f, uint8_t byte)
{
	if (byte == '$') {
		begin(f);
		return;
	}
	if (byte == '#') {
		/* An escape or a run that ends here has lost its second half. */
		f->corrupt = f->corrupt || f->state != GDB_DATA;
		f->state = GDB_SUM_HIGH;
		return;
	}
	f->sum += byte;
	switch (f->state) {
	case GDB_ESCAPE:
		append(f, byte ^ ESCAPE_BIT, 1);
		f->state = GDB_DATA;
		break;
	case GDB_RUN:
		repeat(f, byte);
		f->state = GDB_DATA;
		break;
	default:
		if (byte == ESCAPE)
			f->state = GDB_ESCAPE;
		else if (byte == RUN)
			f->state = GDB_RUN;
		else
			append(f, byte, 1);
		break;
	}
}

static enum gdb_input end(struct gdb_framer *f)
{
	f->state = GDB_IDLE;
	if (f->corrupt || f->told != f->sum)
		return GDB_CORRUPT;
	if (f->too_long)
		return GDB_TOO_LONG;
	f->data[f->len] = '\0';
	return GDB_PACKET;
}

enum gdb_input gdb_framer_push(struct gdb_framer *f, uint8_t byte)
{
	int d;

	switch (f->state) {
	case GDB_IDLE: return between(f, byte);
	case GDB_SUM_HIGH:
	case GDB_SUM_LOW:
		d = digit(byte);
		f->corrupt = f->corrupt || d < 0;
		f->told = f->told << 4 | (d & 15);
		if (f->state == GDB_SUM_LOW)
			return end(f);
		f->state = GDB_SUM_LOW;
		return GDB_MORE;
	default: inside(f, byte); return GDB_MORE;
	}
}

bool gdb_parse_hex(const char **text, uint64_t *value)
{
	const char *p = *text;
	uint64_t v = 0;

	for (; digit(*p) >= 0; p++) {
		if (p - *text == 16)
			return false;
		v = v << 4 | digit(*p);
	}
	if (p == *text)
		return false;
	*text = p;
	*value = v;
	return true;
}

bool gdb_parse_char(const char **text, char c)
{
	if (!c || **text != c)
		return false;
	(*text)++;
	return true;
}

bool gdb_parse_bytes(const char *text, void *bytes, size_t len)
{
	uint8_t *to = bytes;

	if (strlen(text) != 2 * len)
		return false;
	for (; len; len--, text += 2) {
		if (digit(text[0]) < 0 || digit(text[1]) < 0)
			return false;
		*to++ = digit(text[0]) << 4 | digit(text[1]);
	}
	return true;
}

static bool parse_number(const char **text, int64_t *number)
{
	uint64_t value;

	if (gdb_parse_char(text, '-')) {
		*number = GDB_ALL;
		return gdb_parse_char(text, '1');
	}
	if (!gdb_parse_hex(text, &value) || value > INT32_MAX)
		return false;
	*number = value;
	return true;
}

bool gdb_parse_thread(const char **text, int64_t *thread)
{
	int64_t process;

	if (!gdb_parse_char(text, 'p'))
		return parse_number(text, thread);
	if (!parse_number(text, &process) || process > 1)
		return false;
	if (gdb_parse_char(text, '.'))
		return parse_number(text, thread);
	*thread = GDB_ALL;
	return true;
}

/* --- To the peer ---- */

/* Room for len more bytes. */
static char *extend(struct gdb_buffer *b, size_t len)
{
	if (b->size - b->len < len) {
		b->size = MAX(b->len + len, 2 * b->size);
		b->data = realloc(b->data, b->size);
		if (!b->data)
			abort();
	}
	b->len += len;
	return b->data + b->len - len;
}

void gdb_add(struct gdb_buffer *b, const void *data, size_t len)
{
	if (len)
		memcpy(extend(b, len), data, len);
}

void gdb_addf(struct gdb_buffer *b, const char *fmt, ...)
{
	char text[512];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	gdb_add(b, text, MIN((size_t)MAX(n, 0), sizeof(text) - 1));
}

void gdb_add_hex(struct gdb_buffer *b, const void *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *from = data;
	char *to = len ? extend(b, 2 * len) : NULL;

	for (; len; len--, from++) {
		*to++ = digits[*from >> 4];
		*to++ = digits[*from & 15];
	}
}

void gdb_add_binary(struct gdb_buffer *b, const void *data, size_t len)
{
	const char *from = data;

	for (; len; len--, from++) {
		char c = *from, escaped[2] = { ESCAPE, c ^ ESCAPE_BIT };

		if (c == '#' || c == '$' || c == ESCAPE || c == RUN)
			gdb_add(b, escaped, 2);
		else
			gdb_add(b, &c, 1);
	}
}

void gdb_add_packet(struct gdb_buffer *b, const struct gdb_buffer *payload)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < payload->len; i++)
		sum += payload->data[i];
	gdb_add(b, "$", 1);
	gdb_add(b, payload->data, payload->len);
	gdb_addf(b, "#%02x", sum);
}

void gdb_buffer_free(struct gdb_buffer *b)
{
	free(b->data);
	*b = (struct gdb_buffer){};
}
