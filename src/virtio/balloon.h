/*
 * The balloon as QMP sees it. All calls are made on the main loop, where the device lives.
 */
#ifndef REVIRT_VIRTIO_BALLOON_H
#define REVIRT_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

struct device;
struct machine;

/* What a guest can tell of its memory, §5.5.6.4, in the standard's order. */
#define BALLOON_STATS 10

struct balloon_stats {
	uint64_t last_update; /* seconds since 1970; 0: never */
	struct {
		const char *name; /* QEMU's: "stat-free-memory" */
		uint64_t value;   /* UINT64_MAX: the guest has not told */
	} stats[BALLOON_STATS];
};

/* The machine's balloon, or NULL: there is at most one. */
struct device *balloon_find(struct machine *machine);

/* How much memory the guest shall keep; more than it has means all. */
void balloon_set_target(struct device *device, uint64_t bytes);
/* How much it has now, bytes. */
uint64_t balloon_actual(struct device *device);

/* guest-stats, and guest-stats-polling-interval: seconds between two questions, 0 for none. */
void balloon_get_stats(struct device *device, struct balloon_stats *stats);
unsigned balloon_polling_interval(struct device *device);
void balloon_set_polling_interval(struct device *device, unsigned seconds);

#endif
