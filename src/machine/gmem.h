/*
 * Guest memory: the one door through which anything but a vCPU reaches it.
 *
 * RAM is a few regions of host memory, fixed before the first vCPU runs. Whoever is given an
 * address by the guest turns it into a host pointer here, where overflow and bounds are checked;
 * MMIO and ROM are not RAM and never come out. What lies behind a pointer may change under the
 * reader: read guest-controlled fields once into a local copy, check the copy, use the copy.
 *
 * Who writes through such a pointer says so with gmem_written(), afterwards, and before the guest
 * hears of it: there may be code that a backend has translated. Virtqueues do it for their devices.
 */
#ifndef REVIRT_MACHINE_GMEM_H
#define REVIRT_MACHINE_GMEM_H

#include "hav.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define GMEM_MAX_REGIONS 4

struct gmem_region {
	uint64_t gpa, size;
	uint8_t *host;
};

struct gmem {
	struct gmem_region regions[GMEM_MAX_REGIONS];
	unsigned n_regions;
	uint64_t size;          /* of all RAM, bytes */
	uint64_t low_size;      /* RAM below 4 GiB, from 0 */
	uint64_t high_size;     /* RAM from 4 GiB on */
	int fd;                 /* the memfd behind it, or -1; shared with vhost and vhost-user */
	uint8_t *host;          /* all of it, size bytes */
	void *reservation;      /* gmem.c's: the mapping with its alignment slack */
	struct hav_vm *watcher; /* wants to hear of writes: hav_vm_memory_written(); or NULL */
};

struct gmem_config {
	uint64_t size;
	uint64_t low_max; /* RAM above this is moved to 4 GiB */
	bool shared;      /* memfd, MAP_SHARED (memory-backend-memfd, share=on) */
	bool prealloc, merge, dump, hugepages;
};

/* Reserves host memory for RAM. vm may be NULL (unit tests); then nothing is mapped into a guest.
 */
int gmem_init(struct gmem *gm, struct hav_vm *vm, const struct gmem_config *config,
	      struct error **err);
void gmem_destroy(struct gmem *gm);

/* Host memory for [gpa, gpa + len), all in one RAM region; NULL if it is not. len 0 is valid RAM or
 * NULL. */
void *gmem_slice(const struct gmem *gm, uint64_t gpa, uint64_t len);

/* [gpa, gpa + len) has been written, through a pointer into it. Any thread, cheap. */
static inline void gmem_written(const struct gmem *gm, uint64_t gpa, uint64_t len)
{
	if (gm->watcher)
		hav_vm_memory_written(gm->watcher, gpa, len);
}

/* Copies out of or into RAM; false, nothing copied, when any of it is not RAM. */
bool gmem_read(const struct gmem *gm, uint64_t gpa, void *buf, size_t len);
bool gmem_write(const struct gmem *gm, uint64_t gpa, const void *buf, size_t len);

#endif
