/* Segment descriptors: see segments.h. The fields lie scattered for the 286's sake. */
#include "x86/segments.h"

uint64_t segment_descriptor(uint32_t base, uint32_t limit, uint16_t attr)
{
	uint64_t units = attr & SEG_G ? limit >> 12 : limit;

	return (units & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
	       (uint64_t)(attr & 0xff) << 40 | (units >> 16 & 0xf) << 48 |
	       (uint64_t)(attr >> 8 & 0xf) << 52 | (uint64_t)(base >> 24) << 56;
}
