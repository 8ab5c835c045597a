/* What devices stand on, by id: see backends.h. A plain list: there are few, and look-ups are at
 * start-up. */
#include "machine/backends.h"

#include "base/error.h"
#include "base/util.h"

#include <stdio.h>
#include <string.h>

struct backend {
	enum backend_kind kind;
	char *id;
	char *user; /* NULL: free */
	void *object;
	struct backend *next;
};

struct backends {
	struct backend *first, **last;
};

static const char *const kind_names[] = {
	[BACKEND_BLOCK] = "drive",
	[BACKEND_NET] = "netdev",
	[BACKEND_CHARDEV] = "chardev",
	[BACKEND_RNG] = "entropy source",
	[BACKEND_IOTHREAD] = "iothread object",
};

struct backends *backends_new(void)
{
	struct backends *b = xcalloc(1, sizeof(*b));

	b->last = &b->first;
	return b;
}

/* What can serve several says itself when it cannot (chardev_attach() on what is no mux). */
static bool is_exclusive(enum backend_kind kind)
{
	return kind == BACKEND_BLOCK || kind == BACKEND_NET;
}

static struct backend *find(struct backends *b, enum backend_kind kind, const char *id)
{
	for (struct backend *e = b->first; e; e = e->next)
		if (e->kind == kind && strcmp(e->id, id) == 0)
			return e;
	return NULL;
}

int backends_add(struct backends *b, enum backend_kind kind, const char *id, void *object,
		 struct error **err)
{
	struct backend *e;

	if (find(b, kind, id)) {
		error_set(err, "there are two of %s '%s'; ids must differ", kind_names[kind], id);
		return -1;
	}
	e = xcalloc(1, sizeof(*e));
	e->kind = kind;
	e->id = xstrdup(id);
	e->object = object;
	*b->last = e;
	b->last = &e->next;
	return 0;
}

/* "a, b, c", or "none". */
static char *list_ids(struct backends *b, enum backend_kind kind)
{
	char *ids = xstrdup("");

	for (struct backend *e = b->first; e; e = e->next) {
		char *longer;

		if (e->kind != kind)
			continue;
		longer = xasprintf("%s%s%s", ids, *ids ? ", " : "", e->id);
		free(ids);
		ids = longer;
	}
	if (!*ids) {
		free(ids);
		ids = xstrdup("none");
	}
	return ids;
}

void *backends_take(struct backends *b, enum backend_kind kind, const char *id, const char *user,
		    struct error **err)
{
	struct backend *e = find(b, kind, id);

	if (!e) {
		char *ids AUTO_FREE = list_ids(b, kind);

		error_set(err, "no %s '%s'; there are: %s", kind_names[kind], id, ids);
		return NULL;
	}
	if (e->user && is_exclusive(kind)) {
		error_set(err, "%s '%s' is already used by %s", kind_names[kind], id, e->user);
		return NULL;
	}
	free(e->user);
	e->user = xstrdup(user);
	return e->object;
}

void *backends_find(struct backends *b, enum backend_kind kind, const char *id)
{
	struct backend *e = find(b, kind, id);

	return e ? e->object : NULL;
}

void *backends_at(struct backends *b, enum backend_kind kind, unsigned i, const char **id,
		  const char **user)
{
	for (struct backend *e = b->first; e; e = e->next) {
		if (e->kind != kind || i--)
			continue;
		if (id)
			*id = e->id;
		if (user)
			*user = e->user;
		return e->object;
	}
	return NULL;
}

void backends_free(struct backends *b)
{
	if (!b)
		return;
	for (struct backend *e = b->first, *next; e; e = next) {
		next = e->next;
		free(e->id);
		free(e->user);
		free(e);
	}
	free(b);
}
