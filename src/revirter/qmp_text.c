/*
 * QMP's text: a stream cut into JSON values, and values printed as QEMU prints them.
 *
 * The framer looks at brackets and quotes only, to find where a value ends; json-c then reads it as
 * a whole. So a value that is wrong costs one error, and what follows it is read as if nothing had
 * happened. A control character in a string, or a byte 0xff, ends a message at once: a way for
 * clients to find their feet again.
 */
#include "revirter/qmp_internal.h"

#include "base/error.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

#define FIRST_SIZE 4096
#define FLUSH_BYTE 0xff

/* --- Reading ---- */

static bool is_space(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_structural(unsigned char c)
{
	return c && strchr("{}[],:", c);
}

static void keep(struct qmp_framer *f, char c)
{
	if (f->len == QMP_MAX_MESSAGE)
		f->too_long = true;
	if (f->too_long)
		return;
	if (f->len == f->size) {
		f->size = f->size ? f->size * 2 : FIRST_SIZE;
		f->text = realloc(f->text, f->size);
		if (!f->text)
			abort();
	}
	f->text[f->len++] = c;
}

/* In a string. True: the message is complete. */
static bool push_string(struct qmp_framer *f, unsigned char c)
{
	keep(f, c);
	if (c < ' ' || c == FLUSH_BYTE)
		return true;
	if (f->escaped) {
		f->escaped = false;
	} else if (c == '\\') {
		f->escaped = true;
	} else if (c == (unsigned char)f->quote) {
		f->quote = 0;
		return f->depth == 0;
	}
	return false;
}

/* Between tokens. True: the message is complete. */
static bool push_token(struct qmp_framer *f, unsigned char c)
{
	if (is_space(c) && !f->len)
		return false;
	keep(f, c);
	if (c == FLUSH_BYTE)
		return true;
	if (c == '"' || c == '\'')
		f->quote = c;
	else if (c == '{' || c == '[')
		f->depth++;
	else if ((c == '}' || c == ']') && f->depth)
		return --f->depth == 0;
	else if (f->depth == 0 && is_structural(c))
		return true;
	else if (f->depth == 0)
		f->scalar = true;
	return false;
}

/* A number or word outside brackets ends before what can't be part of it. */
static bool ends_scalar(const struct qmp_framer *f, unsigned char c)
{
	return f->scalar && (is_space(c) || is_structural(c) || c == '"' || c == '\'');
}

size_t qmp_framer_push(struct qmp_framer *f, const char *data, size_t len, bool *complete)
{
	*complete = false;
	for (size_t i = 0; i < len; i++) {
		if (ends_scalar(f, data[i])) {
			*complete = true;
			return i;
		}
		*complete = f->quote ? push_string(f, data[i]) : push_token(f, data[i]);
		if (*complete)
			return i + 1;
	}
	return len;
}

/* A lone 0xff says nothing: it only ends what was before it. */
static bool is_flush(const struct qmp_framer *f)
{
	return f->len == 1 && (unsigned char)f->text[0] == FLUSH_BYTE;
}

static struct json_object *parse(const struct qmp_framer *f, struct error **err)
{
	struct json_tokener *tok = json_tokener_new_ex(QMP_MAX_DEPTH);
	struct json_object *value;
	enum json_tokener_error e;

	json_tokener_set_flags(tok, JSON_TOKENER_VALIDATE_UTF8);
	value = json_tokener_parse_ex(tok, f->text, f->len);
	/* A number may go on, for all json-c knows. */
	if (json_tokener_get_error(tok) == json_tokener_continue)
		value = json_tokener_parse_ex(tok, "", 1);
	e = json_tokener_get_error(tok);
	if (e != json_tokener_success)
		error_set(err, "JSON parse error, %s", json_tokener_error_desc(e));
	json_tokener_free(tok);
	return value;
}

struct json_object *qmp_framer_next(struct qmp_framer *f, bool *nothing, struct error **err)
{
	struct json_object *value = NULL;

	*nothing = is_flush(f);
	if (f->too_long)
		error_set(err, "JSON parse error, a message is longer than %u bytes",
			  QMP_MAX_MESSAGE);
	else if (!*nothing)
		value = parse(f, err);
	qmp_framer_reset(f);
	return value;
}

void qmp_framer_reset(struct qmp_framer *f)
{
	/* What a long message took is not kept. */
	free(f->text);
	*f = (struct qmp_framer){};
}

/* --- Writing ---- */

struct printer {
	FILE *out;
	bool pretty;
	unsigned indent;
};

static void print_value(struct printer *p, struct json_object *value);

static void new_line(struct printer *p)
{
	fprintf(p->out, "\r\n%*s", (int)(p->indent * 4), "");
}

static void open_bracket(struct printer *p, char c)
{
	putc(c, p->out);
	p->indent++;
}

static void separate(struct printer *p, bool first)
{
	if (!first)
		fputs(p->pretty ? "," : ", ", p->out);
	if (p->pretty)
		new_line(p);
}

static void close_bracket(struct printer *p, char c)
{
	p->indent--;
	if (p->pretty)
		new_line(p);
	putc(c, p->out);
}

static void print_string(struct printer *p, const char *s, int len)
{
	struct json_object *string = json_object_new_string_len(s, len);

	fputs(json_object_to_json_string_ext(string, JSON_C_TO_STRING_PLAIN |
							     JSON_C_TO_STRING_NOSLASHESCAPE),
	      p->out);
	json_object_put(string);
}

static void print_object(struct printer *p, struct json_object *object)
{
	bool first = true;

	open_bracket(p, '{');
	json_object_object_foreach(object, key, value)
	{
		separate(p, first);
		first = false;
		print_string(p, key, strlen(key));
		fputs(": ", p->out);
		print_value(p, value);
	}
	close_bracket(p, '}');
}

static void print_array(struct printer *p, struct json_object *array)
{
	open_bracket(p, '[');
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		separate(p, i == 0);
		print_value(p, json_object_array_get_idx(array, i));
	}
	close_bracket(p, ']');
}

static void print_value(struct printer *p, struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_object: print_object(p, value); break;
	case json_type_array: print_array(p, value); break;
	default:
		fputs(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
								    JSON_C_TO_STRING_NOSLASHESCAPE),
		      p->out);
	}
}

char *qmp_print(struct json_object *value, bool pretty, size_t *len)
{
	char *text = NULL;
	struct printer p = { open_memstream(&text, len), pretty };

	if (!p.out)
		abort();
	print_value(&p, value);
	fputs("\r\n", p.out);
	fclose(p.out);
	return text;
}
