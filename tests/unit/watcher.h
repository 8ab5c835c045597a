/*
 * A VM that watches guest memory: for tests of those who write there and have to say so. Each
 * write that is told is kept; `told` may look around at that very moment.
 */
#ifndef REVIRT_TESTS_WATCHER_H
#define REVIRT_TESTS_WATCHER_H

#include "base/util.h"
#include "hav/backend.h"

#define WATCHER_MAX 4096

static struct {
	struct {
		uint64_t gpa, size;
	} writes[WATCHER_MAX];
	unsigned n;
	void (*told)(uint64_t gpa, uint64_t size);
} watched;

static void watcher_told(struct hav_vm *vm, uint64_t gpa, uint64_t size)
{
	if (watched.told)
		watched.told(gpa, size);
	if (watched.n < WATCHER_MAX) {
		watched.writes[watched.n].gpa = gpa;
		watched.writes[watched.n].size = size;
	}
	watched.n++;
}

static const struct hav_backend watcher_backend = { .memory_written = watcher_told };
static struct hav_vm watcher = { .ops = &watcher_backend };

/* Was all of it told since watched.n was set to 0? In whatever pieces. */
static inline bool watcher_knows(uint64_t gpa, uint64_t size)
{
	const uint64_t end = gpa + size;
	uint64_t before;

	do {
		before = gpa;
		for (unsigned i = 0; i < watched.n && i < WATCHER_MAX; i++)
			if (watched.writes[i].gpa <= gpa &&
			    gpa - watched.writes[i].gpa < watched.writes[i].size)
				gpa = watched.writes[i].gpa + watched.writes[i].size;
	} while (gpa < end && gpa != before);
	return gpa >= end;
}

#endif
