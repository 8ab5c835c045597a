/*
 * Does the time-stamp counter stand still when the machine does? Compared with the ACPI PM timer,
 * which does, for seconds=N of it. The host stops the machine meanwhile.
 */
#include "rt.h"

#define CALIBRATE_US 200000
#define MAX_GAP_MS   300

/* In units of 1024 ticks: they fit for some twenty minutes. */
static uint32_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return low >> 10 | high << 22;
}

void guest_main(void)
{
	const uint32_t ms = param("seconds", 2) * 1000;
	uint32_t start = time_us(), from = ticks(), per_ms, gap = 0, elapsed;

	while (time_us() - start < CALIBRATE_US)
		;
	per_ms = (ticks() - from) / (CALIBRATE_US / 1000);
	CHECK(per_ms > 0);
	print("%u MHz\nticking\n", per_ms * 1024 / 1000);
	start = time_us();
	from = ticks();
	do {
		uint32_t by_tsc = (ticks() - from) / per_ms;

		elapsed = (time_us() - start) / 1000;
		if (by_tsc > elapsed && by_tsc - elapsed > gap)
			gap = by_tsc - elapsed;
	} while (elapsed < ms);
	print("ahead by up to %u ms\n", gap);
	CHECK(gap < MAX_GAP_MS);
	print("PASS\n");
	verdict(PASS);
}
