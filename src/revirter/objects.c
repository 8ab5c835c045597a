/* The types of -object and their properties. What an object is made into, assemble.c knows. */
#include "revirter/description.h"

#define MIN_PAGE 4096

static const char *const only_on[] = { "on", NULL };

static const struct prop memory_props[] = {
	{ "size", PROP_SIZE, .help = "bytes", .required = true, .min = MIN_PAGE, .max = INT64_MAX },
	{ "share", PROP_BOOL, .help = "let other processes map it (memfd: on, ram: off)" },
	{ "prealloc", PROP_BOOL, "off", "take all of it from the host at start" },
	{ "merge", PROP_BOOL, .help = "let the kernel merge equal pages (default: mem-merge)" },
	{ "dump", PROP_BOOL, .help = "have it in core dumps (default: dump-guest-core)" },
	{ "reserve", PROP_ENUM, .help = "swap space is reserved", .choices = only_on },
	{},
};

static const struct prop memfd_props[] = {
	{ "hugetlb", PROP_BOOL, "off", "of huge pages" },
	{ "hugetlbsize", PROP_SIZE, .help = "size of those (default: the host's)" },
	{ "seal", PROP_BOOL, "on", "its size can't be changed" },
	{},
};

static const struct prop rng_random_props[] = {
	{ "filename", PROP_STRING, "/dev/urandom", "file to read from" },
	{},
};

static const struct prop no_props[] = { {} };

const struct object_class object_classes[] = {
	{ "iothread", OBJECT_IOTHREAD, "thread for the I/O of disks and NICs", no_props },
	{ "memory-backend-memfd", OBJECT_MEMORY_MEMFD, "guest memory others can map", memory_props,
	  memfd_props },
	{ "memory-backend-ram", OBJECT_MEMORY_RAM, "guest memory", memory_props },
	{ "rng-builtin", OBJECT_RNG_BUILTIN, "random numbers of the kernel", no_props },
	{ "rng-random", OBJECT_RNG_RANDOM, "random numbers of a file", rng_random_props },
	{},
};
