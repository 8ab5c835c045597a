/* What tests of interrupt controllers share: cmocka, and a clock that goes when it is told to. */
#ifndef REVIRT_TESTS_CONTROLLERS_H
#define REVIRT_TESTS_CONTROLLERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <string.h>

#include "base/util.h"

static uint64_t test_now;

static inline uint64_t read_now(void *opaque)
{
	return test_now;
}

#endif
