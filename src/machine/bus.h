/*
 * Address spaces: which device answers at a port or a physical address.
 *
 * A bus is a sorted table of regions, looked up without a lock (a sequence counter tells a reader
 * that the table moved under it) and changed under one. Regions live as long as the machine, so a
 * reader never holds a dead one; what moves is their address (PCI BARs).
 *
 * A region may have doorbells: registers whose writes only mean "look". They become ioeventfds
 * where the backend has them, and follow the region when it moves; elsewhere the bus signals the
 * eventfd itself.
 *
 * Accesses are 1, 2, 4 or 8 bytes, and lie within one region. Reads nobody answers give all ones,
 * writes nobody takes are dropped, as on a PC.
 */
#ifndef REVIRT_MACHINE_BUS_H
#define REVIRT_MACHINE_BUS_H

#include "hav.h"

#include <pthread.h>

struct error;

#define REGION_MAX_DOORBELLS 64

struct region_ops {
	/* offset is from the region's start; size 1, 2, 4 or 8. Called on the vCPU's thread. */
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
	unsigned max_size; /* larger accesses are split into several; 0 means 8 */
};

struct region {
	const char *name;
	uint64_t size;
	const struct region_ops *ops;
	void *opaque;
	int priority; /* where regions overlap the higher is seen; 0 as a rule */

	/* The bus's: */
	struct bus *bus; /* NULL while unmapped */
	uint64_t base;
	struct region_doorbell {
		uint64_t offset;
		uint32_t size;
		int fd;
	} * doorbells;
	unsigned n_doorbells;
};

struct bus;

struct bus *bus_new(enum hav_space space, struct hav_vm *vm); /* vm NULL: unit tests */
void bus_free(struct bus *bus);

/* Maps a region at base; an overlap with another of the same priority is an error. */
int bus_map(struct bus *bus, struct region *region, uint64_t base, struct error **err);
void bus_unmap(struct region *region); /* no-op when unmapped */

/* Adds a doorbell, mapped or not; fd stays the caller's and lives as long as the region. */
int region_add_doorbell(struct region *region, uint64_t offset, uint32_t size, int fd,
			struct error **err);

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

/* For `info mtree`-like listings and tests: the i-th mapping in address order, or NULL. */
const struct region *bus_region_at(struct bus *bus, unsigned i);

#endif
