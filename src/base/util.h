/* Small things every room needs: sizes, alignment, checked arithmetic, cleanup attributes. */
#ifndef REVIRT_BASE_UTIL_H
#define REVIRT_BASE_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define KIB                   (UINT64_C(1) << 10)
#define MIB                   (UINT64_C(1) << 20)
#define GIB                   (UINT64_C(1) << 30)

#define ARRAY_SIZE(a)         (sizeof(a) / sizeof((a)[0]))
#define ALIGN_UP(x, a)        (((x) + (a)-1) & ~((uint64_t)(a)-1))
#define ALIGN_DOWN(x, a)      ((x) & ~((uint64_t)(a)-1))
#define MIN(a, b)             ((a) < (b) ? (a) : (b))
#define MAX(a, b)             ((a) > (b) ? (a) : (b))
#define BIT(n)                (UINT64_C(1) << (n))
#define container_of(p, t, m) ((t *)((char *)(p)-offsetof(t, m)))

static inline void free_cleanup(void *p)
{
	free(*(void **)p);
}
/* char *s AUTO_FREE = NULL; is freed at the end of its scope. */
#define AUTO_FREE __attribute__((cleanup(free_cleanup)))

/* #syscalls close */
static inline void fd_cleanup(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
/* int fd AUTO_CLOSE = -1; is closed at the end of its scope. */
#define AUTO_CLOSE __attribute__((cleanup(fd_cleanup)))

/* Ownership leaves the scope: return TAKE_FD(fd); return TAKE_PTR(p). */
#define TAKE_FD(fd)                \
	({                         \
		int taken_ = (fd); \
		(fd) = -1;         \
		taken_;            \
	})
#define TAKE_PTR(p)                       \
	({                                \
		__auto_type taken_ = (p); \
		(p) = NULL;               \
		taken_;                   \
	})

/* Memory that start-up cannot do without: a zeroed block, or abort() with a line that says so. */
void *xcalloc(size_t n, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
