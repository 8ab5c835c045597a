/* Entropy sources: -object rng-random and rng-builtin, for virtio-rng. */
#ifndef REVIRT_VIRTIO_RNG_H
#define REVIRT_VIRTIO_RNG_H

struct error;

struct rng {
	int fd; /* non-blocking; -1: getrandom(2) */
};

/* filename NULL: the kernel's generator by system call. */
struct rng *rng_open(const char *filename, struct error **err);
void rng_close(struct rng *rng); /* NULL is fine */

#endif
