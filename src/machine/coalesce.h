/*
 * Guest writes that are kept back for a moment: a polled console writes a byte, asks whether the
 * port is ready, writes the next. With its writes kept back each byte costs one exit, not two.
 *
 * A device turns this on for a register whose writes need no answer, only while its guest polls
 * another register between them, which delivers what was kept back, and calls coalesce_expect() at
 * each such poll: the last write has no poll after it and is delivered a moment later by the main
 * loop.
 */
#ifndef REVIRT_MACHINE_COALESCE_H
#define REVIRT_MACHINE_COALESCE_H

#include "machine/bus.h"

struct coalescer;
struct hav;
struct loop;

/* NULL where the backend keeps no writes back. */
struct coalescer *coalescer_new(const struct hav *hav, struct hav_vm *vm, struct bus *io,
				struct bus *memory, struct loop *main_loop);
void coalescer_free(struct coalescer *c); /* NULL is fine; the loop must not run any more */

/* Returns whether writes to the register of a mapped region are kept back from now on. c may be
 * NULL. Any thread. */
bool coalesce_register(struct coalescer *c, const struct region *region, uint64_t offset,
		       uint32_t size, bool on);

/* Writes may be on their way: have them delivered soon. c may be NULL. Any thread. */
void coalesce_expect(struct coalescer *c);

#endif
