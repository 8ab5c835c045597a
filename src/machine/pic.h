/*
 * The two 8259A interrupt controllers of a PC (8259A datasheet; ICH9 §13.4), the second on line 2
 * of the first, with the edge/level registers of EISA. Pure; any thread; the host's function is
 * called with the PICs' lock held.
 */
#ifndef REVIRT_MACHINE_PIC_H
#define REVIRT_MACHINE_PIC_H

#include <stdbool.h>
#include <stdint.h>

struct pic_host {
	void *opaque;
	void (*raised)(void *opaque); /* the output to the processors went high */
};

struct pic;

struct pic *pic_new(const struct pic_host *host);
void pic_free(struct pic *pic); /* NULL is fine */
void pic_reset(struct pic *pic);
void pic_set(struct pic *pic, unsigned line, bool level); /* 0 to 15, but not 2 */
bool pic_output(const struct pic *pic);
/* Interrupt acknowledge: the vector; of a spurious interrupt when the reason has gone. */
uint8_t pic_acknowledge(struct pic *pic);

/* chip 0 or 1; offset 0 or 1. */
uint8_t pic_read(struct pic *pic, unsigned chip, unsigned offset);
void pic_write(struct pic *pic, unsigned chip, unsigned offset, uint8_t value);
uint8_t pic_read_elcr(struct pic *pic, unsigned chip);
void pic_write_elcr(struct pic *pic, unsigned chip, uint8_t value);

#endif
