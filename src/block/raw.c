/*
 * The raw format: the image is the file, byte for byte. What a format with a layout of its own
 * would do between the two (find the cluster, copy on write) is not there, so requests go straight
 * to the file.
 */
#include "block/internal.h"

const struct block_driver block_raw = {
	.name = "raw",
	.start = request_start,
};
