/*
 * Differential tests: random numbers (splitmix64), and states of a processor made of values at
 * which instructions change their minds.
 */
#include "diff.h"

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

struct rng rng_make(uint64_t seed, uint64_t number)
{
	return (struct rng){ mix(mix(seed) ^ number) };
}

uint64_t rng_next(struct rng *r)
{
	return mix(r->state += 0x9e3779b97f4a7c15ull);
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
	return (rng_next(r) >> 32) * n >> 32;
}

bool rng_percent(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}

uint64_t rng_value(struct rng *r)
{
	static const uint64_t edges[] = {
		0,
		1,
		0x7f,
		0x80,
		0xff,
		0x7fff,
		0x8000,
		0xffff,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffffffff,
		0x8000000000000000,
		0xffffffffffffffff,
		0xffffffff80000000,
		0xffffffffffff8000,
		0xffffffffffffff80,
	};

	switch (rng_below(r, 8)) {
	case 0: return edges[rng_below(r, COUNT(edges))];
	case 1: return edges[rng_below(r, COUNT(edges))] + rng_below(r, 5) - 2;
	case 2: return rng_below(r, 256);
	case 3: return -(uint64_t)rng_below(r, 256);
	case 4: return BIT(rng_below(r, 64)) - rng_below(r, 2);
	case 5: return rng_next(r) >> rng_below(r, 64);
	default: return rng_next(r);
	}
}

static uint32_t single(struct rng *r)
{
	static const uint32_t edges[] = {
		0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
		0x7fc00000, 0x7f800001, 0xffc12345, 0x00000001, 0x807fffff, 0x00800000,
		0x7f7fffff, 0x4f000000, 0xcf000000, 0x3f000000, 0x40490fdb, 0x4b800001,
	};

	switch (rng_below(r, 4)) {
	case 0: return edges[rng_below(r, COUNT(edges))];
	case 1: return rng_next(r);
	default: /* near 1 */ return (rng_next(r) & 0x807fffff) | (120 + rng_below(r, 16)) << 23;
	}
}

static uint64_t dual(struct rng *r)
{
	static const uint64_t edges[] = {
		0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
		0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001,
		0xfff8000000012345, 0x0000000000000001, 0x800fffffffffffff, 0x0010000000000000,
		0x7fefffffffffffff, 0x43e0000000000000, 0xc3e0000000000000, 0x41dfffffffc00000,
		0xc1e0000000000000, 0x3fe0000000000000, 0x3690000000000000, 0x47efffffe0000000,
	};

	switch (rng_below(r, 4)) {
	case 0: return edges[rng_below(r, COUNT(edges))];
	case 1: return rng_next(r);
	default: return (rng_next(r) & 0x800fffffffffffff) | (1015ull + rng_below(r, 16)) << 52;
	}
}

/* Eight bytes of something. */
static uint64_t word(struct rng *r)
{
	switch (rng_below(r, 4)) {
	case 0: return (uint64_t)single(r) << 32 | single(r);
	case 1: return dual(r);
	case 2: return rng_value(r);
	default: return rng_next(r);
	}
}

static void extended(struct rng *r, uint8_t *to)
{
	static const uint16_t exponents[] = { 0, 0,      1,      0x7fff, 0x7fff, 0x7ffe,
					      1, 0x3fff, 0x403e, 0x3f81, 0x3c01, 0x43fe };
	uint64_t mantissa = rng_next(r) | BIT(63);
	uint16_t exponent = 0x3ff0 + rng_below(r, 32);

	if (rng_percent(r, 30)) {
		exponent = exponents[rng_below(r, COUNT(exponents))];
		if (rng_percent(r, 40))
			mantissa = BIT(63) >> (rng_percent(r, 50) ? 0 : rng_below(r, 64));
		else if (rng_percent(r, 20))
			mantissa = rng_percent(r, 50) ? 0 : rng_value(r);
	} else if (rng_percent(r, 20)) { /* an integer */
		mantissa = BIT(63) | (uint64_t)rng_below(r, 256) << 56;
	}
	if (rng_percent(r, 50))
		exponent |= 0x8000;
	memcpy(to, &mantissa, 8);
	memcpy(to + 8, &exponent, 2);
}

#define FSW_EXCEPTIONS 0x3fu
#define FSW_ES         0x80u
#define FSW_SF         0x40u
#define FSW_B          0x8000u

static void x87(struct rng *r, uint8_t *fx)
{
	uint16_t fcw = 0x37f, fsw = rng_next(r) & 0x7f7f;
	uint8_t tags = 0xff;

	if (rng_percent(r, 60))
		fcw = (rng_next(r) & 0xf00) | 0x7f;
	if (rng_percent(r, 20)) /* unmasked; at times something is pending */
		fcw &= rng_next(r) | 0xffc0;
	if (rng_percent(r, 95))
		fsw &= ~FSW_EXCEPTIONS | (fcw & FSW_EXCEPTIONS);
	if (fsw & ~fcw & FSW_EXCEPTIONS)
		fsw |= FSW_ES | FSW_B;
	if (!(fsw & 1))
		fsw &= ~FSW_SF;
	switch (rng_below(r, 4)) {
	case 0: tags = rng_next(r); break;
	case 1: tags = 0; break;
	case 2: tags = 0xff << rng_below(r, 8); break;
	default: break;
	}
	memcpy(fx + FX_FCW, &fcw, 2);
	memcpy(fx + FX_FSW, &fsw, 2);
	fx[FX_FTW] = tags;
	for (unsigned i = 0; i < 8; i++) {
		if (rng_percent(r, 25)) { /* as MMX leaves them */
			uint64_t value = word(r);

			memcpy(fx + FX_ST0 + 16 * i, &value, 8);
			memset(fx + FX_ST0 + 16 * i + 8, 0xff, 2);
		} else {
			extended(r, fx + FX_ST0 + 16 * i);
		}
	}
}

#define MXCSR_MASKS 0x1f80u

static void sse(struct rng *r, uint8_t *fx)
{
	uint32_t mxcsr = MXCSR_MASKS;

	if (rng_percent(r, 60))
		mxcsr = (rng_next(r) & 0xffff) | MXCSR_MASKS;
	if (rng_percent(r, 15))
		mxcsr &= rng_next(r) | ~MXCSR_MASKS;
	memcpy(fx + FX_MXCSR, &mxcsr, 4);
	for (unsigned i = 0; i < 16; i++)
		rng_pool(r, fx + FX_XMM0 + 16 * i, 16);
}

void rng_state(struct rng *r, struct diff_state *s)
{
	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = rng_value(r);
	s->rflags = (rng_next(r) & (ARITHMETIC | FLAG_ID)) | FLAG_IF | 2;
	if (rng_percent(r, 30))
		s->rflags |= FLAG_DF;
	s->fs_base = FS_BASE;
	s->gs_base = GS_BASE;
	x87(r, s->fx);
	sse(r, s->fx);
}

void rng_pool(struct rng *r, uint8_t *pool, size_t size)
{
	for (size_t i = 0; i + 16 <= size; i += 16) {
		unsigned kind = rng_below(r, 6);

		for (unsigned j = 0; j < 16; j += 4) {
			uint64_t value = 0;

			if (j % 8 && kind != 0)
				continue;
			switch (kind) {
			case 0: value = single(r); break;
			case 1: value = dual(r); break;
			case 2: value = rng_value(r); break;
			default: value = word(r); break;
			}
			memcpy(pool + i + j, &value, kind == 0 ? 4 : 8);
		}
	}
}
