/*
 * The human monitor's prompt: see monitor.h.
 *
 * Line editing for a terminal in raw mode: printable characters, backspace, Ctrl-U, Ctrl-W, Ctrl-C,
 * and the up and down arrows for the last lines. What is typed is echoed, also to a pipe, as QEMU
 * does. On a mux the prompt shows when the monitor gets the input.
 */
#include "revirter/monitor.h"

#include "base/error.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "revirter/vm.h"

#include <stdio.h>
#include <string.h>

#define PROMPT       "(qemu) " /* what programs that talk to QEMU's monitor wait for */
#define LINE_MAX_LEN 1024
#define HISTORY      16
#define READ_MAX     256
#define BACKLOG_MAX  (256u << 10) /* of output that nobody reads */

enum escape { NO_ESCAPE, GOT_ESC, GOT_CSI };

struct monitor {
	struct vm *vm;
	struct chardev *chr;
	bool greeted;
	char line[LINE_MAX_LEN + 1];
	size_t len;
	enum escape escape;
	bool after_cr;
	char *history[HISTORY]; /* newest first */
	int recalled;           /* index in history; -1: a new line */
	char *backlog;          /* output the chardev has not taken yet */
	size_t backlog_len;
	struct monitor *next;
};

static struct monitor *all;

/* --- Output ---- */

static void push_backlog(struct monitor *m)
{
	size_t n = chardev_write_from(m->chr, m, m->backlog, m->backlog_len);

	m->backlog_len -= n;
	memmove(m->backlog, m->backlog + n, m->backlog_len);
}

static void print_bytes(struct monitor *m, const char *text, size_t len)
{
	size_t n = m->backlog_len ? 0 : chardev_write_from(m->chr, m, text, len);

	len = MIN(len - n, BACKLOG_MAX - m->backlog_len);
	if (!len)
		return;
	m->backlog = realloc(m->backlog, m->backlog_len + len);
	if (!m->backlog)
		abort();
	memcpy(m->backlog + m->backlog_len, text + n, len);
	m->backlog_len += len;
}

static void print(struct monitor *m, const char *text)
{
	print_bytes(m, text, strlen(text));
}

static void show_prompt(struct monitor *m)
{
	if (!m->greeted)
		print(m,
		      "revirter " REVIRT_VERSION " monitor - type 'help' for more information\r\n");
	m->greeted = true;
	print(m, PROMPT);
}

/* --- Editing ---- */

static void erase(struct monitor *m, size_t n)
{
	for (n = MIN(n, m->len); n; n--, m->len--)
		print(m, "\b \b");
}

static void erase_word(struct monitor *m)
{
	while (m->len && m->line[m->len - 1] == ' ')
		erase(m, 1);
	while (m->len && m->line[m->len - 1] != ' ')
		erase(m, 1);
}

static void insert(struct monitor *m, char c)
{
	if (m->len == LINE_MAX_LEN)
		return;
	m->line[m->len++] = c;
	print_bytes(m, &c, 1);
}

static void recall(struct monitor *m, int which)
{
	if (which >= HISTORY || (which >= 0 && !m->history[which]))
		return;
	erase(m, m->len);
	m->recalled = MAX(which, -1);
	for (const char *p = which >= 0 ? m->history[which] : ""; *p; p++)
		insert(m, *p);
}

static void remember(struct monitor *m)
{
	if (m->history[0] && strcmp(m->history[0], m->line) == 0)
		return;
	free(m->history[HISTORY - 1]);
	memmove(&m->history[1], &m->history[0], (HISTORY - 1) * sizeof(m->history[0]));
	m->history[0] = xstrdup(m->line);
}

static void run_line(struct monitor *m)
{
	char *text;

	print(m, "\r\n");
	m->line[m->len] = '\0';
	if (m->len)
		remember(m);
	text = monitor_execute(m->vm, m->line);
	print(m, text);
	free(text);
	m->len = 0;
	m->recalled = -1;
	show_prompt(m);
}

static void handle_control(struct monitor *m, char c)
{
	switch (c) {
	case '\r':
	case '\n': run_line(m); break;
	case '\b':
	case 0x7f: erase(m, 1); break;
	case 'U' & 0x1f: erase(m, m->len); break;
	case 'W' & 0x1f: erase_word(m); break;
	case 'C' & 0x1f:
		m->len = 0;
		print(m, "\r\n");
		show_prompt(m);
		break;
	case '\033': m->escape = GOT_ESC; break;
	default: break;
	}
}

/* ESC [ ... letter, or ESC O letter (ECMA-48 §5.4): only up and down mean something. */
static void handle_escape(struct monitor *m, char c)
{
	if (m->escape == GOT_ESC) {
		m->escape = c == '[' || c == 'O' ? GOT_CSI : NO_ESCAPE;
		return;
	}
	if (c < '@')
		return; /* parameters */
	m->escape = NO_ESCAPE;
	if (c == 'A')
		recall(m, m->recalled + 1);
	else if (c == 'B')
		recall(m, m->recalled - 1);
}

static void handle_byte(struct monitor *m, char c)
{
	bool second = c == '\n' && m->after_cr;

	m->after_cr = c == '\r';
	if (second)
		return;
	if (m->escape != NO_ESCAPE)
		handle_escape(m, c);
	else if ((unsigned char)c < ' ' || c == 0x7f)
		handle_control(m, c);
	else
		insert(m, c);
}

/* --- The chardev's side ---- */

static size_t monitor_can_receive(void *opaque)
{
	struct monitor *m = opaque;

	return m->backlog_len ? 0 : READ_MAX;
}

static void monitor_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct monitor *m = opaque;

	for (size_t i = 0; i < len; i++)
		handle_byte(m, data[i]);
}

static void start_line(struct monitor *m)
{
	m->len = 0;
	m->escape = NO_ESCAPE;
	m->recalled = -1;
	m->backlog_len = 0;
}

static void monitor_event(void *opaque, enum chardev_event event)
{
	struct monitor *m = opaque;

	switch (event) {
	case CHARDEV_OPENED:
		start_line(m);
		m->greeted = false;
		/* On a mux the focus tells when to speak. */
		if (!chardev_base_filename(m->chr))
			show_prompt(m);
		break;
	case CHARDEV_CLOSED: start_line(m); break;
	case CHARDEV_FOCUS_IN:
		if (chardev_is_open(m->chr)) {
			print(m, "\r\n");
			show_prompt(m);
			print_bytes(m, m->line, m->len);
		}
		break;
	case CHARDEV_FOCUS_OUT: print(m, "\r\n"); break;
	default: break;
	}
}

static void monitor_writable(void *opaque)
{
	struct monitor *m = opaque;

	if (m->backlog_len)
		push_backlog(m);
	if (!m->backlog_len)
		chardev_accept_input(m->chr);
}

static const struct chardev_handler monitor_handler = {
	.can_receive = monitor_can_receive,
	.receive = monitor_receive,
	.event = monitor_event,
	.writable = monitor_writable,
	.monitor = true,
};

/* --- Life ---- */

struct monitor *monitor_new(struct vm *vm, struct chardev *chr, struct error **err)
{
	struct monitor *m = xcalloc(1, sizeof(*m));

	m->vm = vm;
	m->chr = chr;
	m->recalled = -1;
	if (chardev_attach(chr, &monitor_handler, m, err) < 0) {
		free(m);
		return NULL;
	}
	m->next = all;
	all = m;
	return m;
}

static void monitor_free(struct monitor *m)
{
	chardev_attach(m->chr, NULL, m, NULL);
	for (unsigned i = 0; i < HISTORY; i++)
		free(m->history[i]);
	free(m->backlog);
	free(m);
}

void monitor_free_all(struct vm *vm)
{
	for (struct monitor **m = &all; *m;) {
		struct monitor *mine = *m;

		if (mine->vm != vm) {
			m = &mine->next;
			continue;
		}
		*m = mine->next;
		monitor_free(mine);
	}
}
