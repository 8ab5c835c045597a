/*
 * QEMU's command line, as far as Revirt speaks it: argv in, a checked description out.
 *
 * A pure function: it opens, creates and changes nothing, prints nothing but the help that was
 * asked for (on standard output), and keeps no state, so it can be called often and fuzzed.
 */
#ifndef REVIRT_REVIRTER_DIALECT_H
#define REVIRT_REVIRTER_DIALECT_H

#include <stdbool.h>

struct description;
struct error;

/*
 * 0 and *out, which the caller frees with description_free(); or 0 and *done, when help was asked
 * for and has been printed; or -1. Messages begin with the option they are about: "-m 0: …".
 */
int dialect_parse(int argc, char *const argv[], struct description **out, bool *done,
		  struct error **err);

#endif
