/*
 * Guest memory: see gmem.h.
 *
 * All RAM is one host mapping; the part above low_max appears to the guest from 4 GiB on. Anonymous
 * private memory unless somebody else must map it too (memfd). It costs nothing until touched, and
 * the kernel may use huge pages for it.
 */
#include "machine/gmem.h"

#include "base/error.h"
#include "base/util.h"
#include "hav.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HIGH_RAM_BASE (4 * GIB)
/* Huge pages of the host line up with the guest's when both addresses are equal modulo their size.
 */
#define HUGE_PAGE_SIZE (2 * MIB)

static void add_region(struct gmem *gm, uint64_t gpa, uint64_t size, uint64_t offset)
{
	gm->regions[gm->n_regions++] = (struct gmem_region){ gpa, size, gm->host + offset };
}

static uint64_t mapping_size(const struct gmem *gm)
{
	return gm->size + HUGE_PAGE_SIZE;
}

/* Maps size bytes at a huge-page boundary; the slack around them stays reserved and unused. */
static int reserve(struct gmem *gm, const struct gmem_config *config, struct error **err)
{
	int flags = MAP_NORESERVE | (gm->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
	uint8_t *slack = mmap(NULL, mapping_size(gm), PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *at;

	if (slack == MAP_FAILED)
		goto fail;
	at = (uint8_t *)ALIGN_UP((uintptr_t)slack, HUGE_PAGE_SIZE);
	if (mmap(at, gm->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, gm->fd, 0) ==
	    MAP_FAILED) {
		munmap(slack, mapping_size(gm));
		goto fail;
	}
	gm->host = at;
	gm->reservation = slack;
	/* Advice: a kernel without the feature refuses, and nothing is lost. */
	madvise(at, gm->size, MADV_HUGEPAGE);
	if (config->merge)
		madvise(at, gm->size, MADV_MERGEABLE);
	if (!config->dump)
		madvise(at, gm->size, MADV_DONTDUMP);
	return 0;
fail:
	error_set_errno(err, errno, "cannot reserve %llu MiB of guest memory",
			(unsigned long long)(gm->size / MIB));
	return -1;
}

static int make_memfd(struct gmem *gm, const struct gmem_config *config, struct error **err)
{
	unsigned flags = MFD_CLOEXEC | (config->hugepages ? MFD_HUGETLB : 0);

	gm->fd = memfd_create("guest-ram", flags);
	if (gm->fd < 0 || ftruncate(gm->fd, gm->size) < 0) {
		error_set_errno(err, errno, "cannot make a memfd of %llu MiB for guest memory",
				(unsigned long long)(gm->size / MIB));
		return -1;
	}
	return 0;
}

static int populate(struct gmem *gm, struct error **err)
{
	if (madvise(gm->host, gm->size, MADV_POPULATE_WRITE) == 0)
		return 0;
	error_set_errno(err, errno, "cannot preallocate %llu MiB of guest memory",
			(unsigned long long)(gm->size / MIB));
	return -1;
}

static int map_into_guest(struct gmem *gm, struct hav_vm *vm, struct error **err)
{
	for (unsigned i = 0; i < gm->n_regions; i++) {
		struct gmem_region *r = &gm->regions[i];

		if (hav_vm_map(vm, r->gpa, r->host, r->size, HAV_MAP_RW, err) < 0)
			return -1;
	}
	gm->watcher = hav_vm_watches_memory(vm) ? vm : NULL;
	return 0;
}

int gmem_init(struct gmem *gm, struct hav_vm *vm, const struct gmem_config *config,
	      struct error **err)
{
	*gm = (struct gmem){ .size = config->size, .fd = -1 };
	gm->low_size = MIN(config->size, config->low_max);
	gm->high_size = config->size - gm->low_size;
	if (config->shared && make_memfd(gm, config, err) < 0)
		goto fail;
	if (reserve(gm, config, err) < 0)
		goto fail;
	if (config->prealloc && populate(gm, err) < 0)
		goto fail;
	add_region(gm, 0, gm->low_size, 0);
	if (gm->high_size)
		add_region(gm, HIGH_RAM_BASE, gm->high_size, gm->low_size);
	if (vm && map_into_guest(gm, vm, err) < 0)
		goto fail;
	return 0;
fail:
	gmem_destroy(gm);
	return -1;
}

void gmem_destroy(struct gmem *gm)
{
	if (gm->reservation)
		munmap(gm->reservation, mapping_size(gm));
	if (gm->fd >= 0)
		close(gm->fd);
	*gm = (struct gmem){ .fd = -1 };
}

void *gmem_slice(const struct gmem *gm, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < gm->n_regions; i++) {
		const struct gmem_region *r = &gm->regions[i];

		/* Written without gpa + len, which may overflow. */
		if (gpa >= r->gpa && gpa - r->gpa < r->size && len <= r->size - (gpa - r->gpa))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

bool gmem_read(const struct gmem *gm, uint64_t gpa, void *buf, size_t len)
{
	const void *host = gmem_slice(gm, gpa, len);

	if (host)
		memcpy(buf, host, len);
	return host;
}

bool gmem_write(const struct gmem *gm, uint64_t gpa, const void *buf, size_t len)
{
	void *host = gmem_slice(gm, gpa, len);

	if (!host)
		return false;
	memcpy(host, buf, len);
	gmem_written(gm, gpa, len);
	return true;
}
