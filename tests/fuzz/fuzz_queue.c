/*
 * Guest memory and what the device does to a queue in it, as the fuzzer likes: every piece popped
 * lies in RAM, and nothing else happens.
 *
 * Built by clang this is a libFuzzer target; by another compiler main() feeds it seeded random
 * inputs instead (-runs=N), most of them bent from rings that are right.
 */
#include "base/util.h"
#include "machine/gmem.h"
#include "virtio/queue.h"

#include <stdio.h>
#include <string.h>

#define RAM     (64 * KIB)
#define MAX_IOV 130
#define CHECK(x)                                                                \
	do {                                                                    \
		if (!(x)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); \
			abort();                                                \
		}                                                               \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	uint16_t size;
	uint8_t event_idx, n_ops;
	uint32_t desc, avail, used;
	uint8_t ops[48];
};

static void check_chain(const struct gmem *gm, const struct virtq_chain *chain)
{
	const uint8_t *start = gm->host;
	uint64_t bytes[2] = { 0, 0 };

	CHECK(chain->n_out + chain->n_in > 0);
	CHECK(chain->n_out + chain->n_in <= MAX_IOV);
	for (unsigned i = 0; i < (unsigned)chain->n_out + chain->n_in; i++) {
		const uint8_t *p = chain->iov[i].iov_base;

		CHECK(p >= start && p < start + RAM && chain->iov[i].iov_len > 0);
		CHECK(chain->iov[i].iov_len <= (size_t)(start + RAM - p));
		bytes[i >= chain->n_out] += chain->iov[i].iov_len;
	}
	CHECK(bytes[0] == chain->out_bytes && bytes[1] == chain->in_bytes);
}

static void one_op(struct virtq *vq, uint8_t op, struct virtq_chain *chain, struct iovec *iov)
{
	switch (op % 8) {
	case 0:
	case 1:
	case 2:
		if (virtq_pop(vq, chain, iov, MAX_IOV) == 1)
			check_chain(vq->gm, chain);
		break;
	case 3:
		if (vq->in_flight)
			virtq_push(vq, chain->head, op);
		break;
	case 4: virtq_should_signal(vq); break;
	case 5: virtq_enable_notify(vq); break;
	case 6: virtq_disable_notify(vq); break;
	case 7:
		if (!vq->unpublished)
			virtq_unpop(vq);
		break;
	}
	CHECK(vq->in_flight <= vq->size || vq->broken);
	CHECK(!vq->broken || vq->reason);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gmem gm;
	static struct iovec iov[MAX_IOV];
	struct virtq_chain chain = { 0 };
	struct input in = { 0 };
	struct virtq vq = { .gm = &gm, .max_size = VIRTQ_MAX_SIZE };

	if (!gm.host) {
		const struct gmem_config config = { .size = RAM, .low_max = GIB };

		CHECK(gmem_init(&gm, NULL, &config, NULL) == 0);
	}
	memcpy(&in, data, MIN(size, sizeof(in)));
	memset(gm.host, 0, RAM);
	if (size > sizeof(in))
		memcpy(gm.host, data + sizeof(in), MIN(size - sizeof(in), RAM));
	vq.size = in.size;
	vq.desc_gpa = in.desc;
	vq.driver_gpa = in.avail;
	vq.device_gpa = in.used;
	virtq_start(&vq, in.event_idx & 1);
	for (unsigned i = 0; i < MIN(in.n_ops, sizeof(in.ops)); i++)
		one_op(&vq, in.ops[i], &chain, iov);
	virtq_stop(&vq);
	return 0;
}

#ifndef __clang__
static uint64_t state = 1;

static unsigned pick(unsigned n)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(state >> 33) % n;
}

/* Descriptors that are sensible, as a rule. */
static void random_table(struct virtq_desc *desc, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		desc[i].addr = pick(RAM + 64);
		desc[i].len = pick(20) ? 16 * (1 + pick(16)) : pick(0x10000);
		desc[i].flags = pick(8) ? pick(4) : pick(8);
		desc[i].next = pick(16) ? pick(n) : pick(0x10000);
	}
}

static size_t random_input(uint8_t *buf)
{
	struct input in = { .size = 1u << pick(8), .event_idx = pick(2), .n_ops = pick(49) };
	uint8_t *ram = buf + sizeof(in);
	struct virtq_avail *avail = (struct virtq_avail *)(ram + 0x8000);

	in.desc = 0x1000;
	in.avail = 0x8000;
	in.used = 0xa000;
	if (!pick(50))
		in.desc = pick(RAM);
	if (!pick(50))
		in.size = pick(0x10000);
	for (unsigned i = 0; i < sizeof(in.ops); i++)
		in.ops[i] = pick(256);
	memset(ram, 0, RAM);
	random_table((struct virtq_desc *)ram, 256);
	random_table((struct virtq_desc *)(ram + 0x1000), 128);
	avail->idx = pick(20) ? pick(in.size + 1) : pick(0x10000);
	for (unsigned i = 0; i < 256; i++)
		avail->ring[i] = pick(64) ? pick(in.size ? in.size : 1) : pick(0x10000);
	memcpy(buf, &in, sizeof(in));
	return sizeof(in) + RAM;
}

int main(int argc, char **argv)
{
	static uint8_t buf[sizeof(struct input) + RAM] __attribute__((aligned(16)));
	unsigned long runs = 20000;

	if (argc > 1 && sscanf(argv[1], "-runs=%lu", &runs) != 1)
		return 2;
	while (runs--)
		LLVMFuzzerTestOneInput(buf, random_input(buf));
	return 0;
}
#endif
