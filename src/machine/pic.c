/*
 * The two 8259As: see pic.h.
 *
 * Each chip has eight lines, requests (IRR), a mask (IMR) and what is being served (ISR). A line's
 * priority is its distance from the lowest one, which rotation moves. After each change the outputs
 * are worked out anew: the second chip's is line 2 of the first.
 *
 * An edge is a request until it is acknowledged, also when the line has fallen by then. (The 8259A
 * would answer with a spurious interrupt; here edges of any length count, as timers send them.)
 */
#include "machine/pic.h"

#include "base/util.h"

#include <pthread.h>
#include <stdatomic.h>

#define CASCADE     2
#define SPURIOUS    7
#define ELCR_FIRST  0xf8 /* the timer, the keyboard and the cascade are edges always */
#define ELCR_SECOND 0xde /* and the RTC and the FPU */
#define ICW1        0x10
#define ICW1_IC4    0x01
#define ICW4_AEOI   0x02
#define ICW4_SFNM   0x10
#define OCW3        0x08
#define OCW3_RIS    0x01
#define OCW3_RR     0x02
#define OCW3_POLL   0x04
#define OCW3_SMM    0x20
#define OCW3_ESMM   0x40

struct chip {
	uint8_t lines, irr, imr, isr;
	uint8_t elcr, elcr_mask;
	uint8_t lowest; /* priority: this line's is the lowest */
	uint8_t vector; /* ICW2 */
	uint8_t next_icw;
	bool needs_icw4, auto_eoi, special_nested, special_mask, rotate_auto, read_isr, poll;
};

struct pic {
	struct pic_host host;
	pthread_mutex_t lock;
	struct chip chip[2];
	atomic_bool output;
};

/* --- Priorities; with the lock held, as all up to the registers ---- */

/* The line of highest priority in bits, or -1. */
static int first_of(const struct chip *c, uint8_t bits)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned line = (c->lowest + i) & 7;

		if (bits & 1u << line)
			return line;
	}
	return -1;
}

static unsigned rank(const struct chip *c, int line)
{
	return line < 0 ? 8 : (line - c->lowest - 1) & 7;
}

/* The line that is to interrupt, or -1. */
static int wanted(const struct chip *c, bool cascaded)
{
	uint8_t serving = c->isr;
	int line = first_of(c, c->irr & ~c->imr);

	if (c->special_mask)
		serving &= ~c->imr;
	/* In special fully nested mode the second chip may interrupt itself. */
	if (cascaded && c->special_nested)
		serving &= ~(1u << CASCADE);
	return rank(c, line) < rank(c, first_of(c, serving)) ? line : -1;
}

static void set_line(struct chip *c, unsigned line, bool level)
{
	uint8_t bit = 1u << line;

	if (c->elcr & bit)
		c->irr = level ? c->irr | bit : c->irr & ~bit;
	else if (level && !(c->lines & bit))
		c->irr |= bit;
	c->lines = level ? c->lines | bit : c->lines & ~bit;
}

static void update(struct pic *pic)
{
	bool second = wanted(&pic->chip[1], false) >= 0, output;

	set_line(&pic->chip[0], CASCADE, second);
	if (!second)
		pic->chip[0].irr &= ~(1u << CASCADE);
	output = wanted(&pic->chip[0], true) >= 0;
	if (output && !pic->output) {
		pic->output = true;
		pic->host.raised(pic->host.opaque);
	}
	pic->output = output;
}

static void serve(struct chip *c, unsigned line)
{
	uint8_t bit = 1u << line;

	if (!(c->elcr & bit))
		c->irr &= ~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_auto)
		c->lowest = line;
}

/* --- Outside ---- */

void pic_set(struct pic *pic, unsigned line, bool level)
{
	if (line > 15 || line == CASCADE)
		return;
	pthread_mutex_lock(&pic->lock);
	set_line(&pic->chip[line / 8], line % 8, level);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

bool pic_output(const struct pic *pic)
{
	return pic->output;
}

uint8_t pic_acknowledge(struct pic *pic)
{
	struct chip *c = &pic->chip[0];
	uint8_t vector;
	int line;

	pthread_mutex_lock(&pic->lock);
	line = wanted(c, true);
	if (line >= 0)
		serve(c, line);
	if (line == CASCADE) {
		c = &pic->chip[1];
		line = wanted(c, false);
		if (line >= 0)
			serve(c, line);
	}
	vector = c->vector + (line < 0 ? SPURIOUS : line);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
	return vector;
}

/* --- Registers ---- */

static void write_icw1(struct chip *c, uint8_t value)
{
	uint8_t lines = c->lines, elcr = c->elcr, mask = c->elcr_mask, vector = c->vector;

	*c = (struct chip){ .lines = lines,
			    .irr = lines & elcr,
			    .elcr = elcr,
			    .elcr_mask = mask,
			    .vector = vector,
			    .lowest = 7,
			    .next_icw = 2,
			    .needs_icw4 = value & ICW1_IC4 };
}

static void write_icw(struct chip *c, uint8_t value)
{
	switch (c->next_icw) {
	case 2:
		c->vector = value & 0xf8;
		c->next_icw = 3;
		break;
	case 3: c->next_icw = c->needs_icw4 ? 4 : 0; break;
	case 4:
		c->auto_eoi = value & ICW4_AEOI;
		c->special_nested = value & ICW4_SFNM;
		c->next_icw = 0;
		break;
	}
}

enum { EOI = 1, SPECIFIC = 2, ROTATE = 4 }; /* OCW2 bits 7 to 5 */

static void write_ocw2(struct chip *c, uint8_t value)
{
	unsigned command = value >> 5;
	int line = command & SPECIFIC ? value & 7 : first_of(c, c->isr);

	switch (command) {
	case 0: c->rotate_auto = false; break;
	case ROTATE: c->rotate_auto = true; break;
	case SPECIFIC: break;
	case ROTATE | SPECIFIC: c->lowest = line; break;
	default:
		if (line < 0)
			break;
		c->isr &= ~(1u << line);
		if (command & ROTATE)
			c->lowest = line;
		break;
	}
}

static void write_ocw3(struct chip *c, uint8_t value)
{
	if (value & OCW3_POLL)
		c->poll = true;
	if (value & OCW3_RR)
		c->read_isr = value & OCW3_RIS;
	if (value & OCW3_ESMM)
		c->special_mask = value & OCW3_SMM;
}

void pic_write(struct pic *pic, unsigned chip, unsigned offset, uint8_t value)
{
	struct chip *c = &pic->chip[chip & 1];

	pthread_mutex_lock(&pic->lock);
	if (offset && c->next_icw)
		write_icw(c, value);
	else if (offset)
		c->imr = value;
	else if (value & ICW1)
		write_icw1(c, value);
	else if (value & OCW3)
		write_ocw3(c, value);
	else
		write_ocw2(c, value);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

/* What was asked for by OCW3's poll bit stands for an acknowledge cycle. */
static uint8_t poll(struct chip *c, bool first)
{
	int line = wanted(c, first);

	c->poll = false;
	if (line < 0)
		return 0;
	serve(c, line);
	return 0x80 | line;
}

uint8_t pic_read(struct pic *pic, unsigned chip, unsigned offset)
{
	struct chip *c = &pic->chip[chip & 1];
	uint8_t value;

	pthread_mutex_lock(&pic->lock);
	if (c->poll) {
		value = poll(c, !chip);
		update(pic);
	} else if (offset) {
		value = c->imr;
	} else {
		value = c->read_isr ? c->isr : c->irr;
	}
	pthread_mutex_unlock(&pic->lock);
	return value;
}

uint8_t pic_read_elcr(struct pic *pic, unsigned chip)
{
	return pic->chip[chip & 1].elcr;
}

void pic_write_elcr(struct pic *pic, unsigned chip, uint8_t value)
{
	struct chip *c = &pic->chip[chip & 1];

	pthread_mutex_lock(&pic->lock);
	c->elcr = value & c->elcr_mask;
	c->irr = (c->irr & ~c->elcr) | (c->lines & c->elcr);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

/* --- Life ---- */

/* All masked, as nobody has said yet which vectors are theirs. */
void pic_reset(struct pic *pic)
{
	pthread_mutex_lock(&pic->lock);
	for (unsigned i = 0; i < 2; i++) {
		struct chip *c = &pic->chip[i];

		c->elcr = 0;
		c->elcr_mask = i ? ELCR_SECOND : ELCR_FIRST;
		write_icw1(c, 0);
		c->next_icw = 0;
		c->vector = 0;
		c->imr = 0xff;
	}
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

struct pic *pic_new(const struct pic_host *host)
{
	struct pic *pic = xcalloc(1, sizeof(*pic));

	pic->host = *host;
	pthread_mutex_init(&pic->lock, NULL);
	pic_reset(pic);
	return pic;
}

void pic_free(struct pic *pic)
{
	if (!pic)
		return;
	pthread_mutex_destroy(&pic->lock);
	free(pic);
}
