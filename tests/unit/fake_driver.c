/* A machine without a VM, and a driver of its Virtio devices: see fake_driver.h. */
#include "fake_driver.h"

#define PATIENCE_NS UINT64_C(5000000000)
#define TICK_NS     1000000

static const struct pci_windows windows = {
	.ecam_base = MACHINE_ECAM_BASE,
	.mem32_base = MACHINE_MEM32_BASE,
	.mem32_size = MACHINE_MEM32_END - MACHINE_MEM32_BASE,
	.mem64_base = 0x800000000,
	.mem64_size = 0x800000000,
	.io_base = 0x1000,
	.io_size = 0xf000,
};

void fake_machine_init(struct fake_machine *fm, uint64_t ram)
{
	struct machine *m = &fm->m;

	*fm = (struct fake_machine){ .m = { .type = MACHINE_Q35, .name = "q35" } };
	m->main_loop = loop_new(NULL);
	assert_non_null(m->main_loop);
	assert_int_equal(gmem_init(&m->mem, NULL,
				   &(struct gmem_config){ .size = ram, .low_max = 2 * GIB }, NULL),
			 0);
	m->io = bus_new(HAV_SPACE_IO, NULL);
	m->memory = bus_new(HAV_SPACE_MEMORY, NULL);
	irqs_init(&m->irqs, NULL);
	m->pci = pci_host_new(m->io, m->memory, &m->irqs, &windows, NULL);
	assert_non_null(m->pci);
	m->backends = backends_new();
}

void fake_machine_destroy(struct fake_machine *fm)
{
	struct machine *m = &fm->m;

	machine_destroy_devices(m);
	backends_free(m->backends);
	pci_host_free(m->pci);
	bus_free(m->memory);
	bus_free(m->io);
	gmem_destroy(&m->mem);
	loop_free(m->main_loop);
}

struct device *fake_device(struct fake_machine *fm, const struct device_class *class,
			   const char *text, struct error **err)
{
	const struct prop *const tables[] = { class->props,
					      class->more_props ? class->more_props
								: device_common_props(class->bus),
					      device_common_props(class->bus), NULL };
	struct error *e = NULL;
	struct props *props = props_parse(text, NULL, tables, &e);
	int result = props ? machine_add_device(&fm->m, class, props, &e) : -1;

	props_free(props);
	if (err && result < 0) {
		*err = e;
		return NULL;
	}
	if (result < 0)
		fail_msg("%s", error_message(e));
	return fm->m.last_device;
}

struct virtio_device *fake_vd(struct device *device)
{
	return container_of(device, struct virtio_pci, dev)->vd;
}

uint64_t fake_alloc(struct fake_machine *fm, size_t len)
{
	uint64_t gpa = fm->allocated;

	fm->allocated += ALIGN_UP(len, 4096);
	assert_non_null(gmem_slice(&fm->m.mem, gpa, len));
	memset(fake_ptr(fm, gpa), 0, len);
	return gpa;
}

void *fake_ptr(struct fake_machine *fm, uint64_t gpa)
{
	void *p = gmem_slice(&fm->m.mem, gpa, 0);

	assert_non_null(p);
	return p;
}

uint64_t fake_data(struct fake_machine *fm, const void *data, size_t len)
{
	uint64_t gpa = fake_alloc(fm, len);

	memcpy(fake_ptr(fm, gpa), data, len);
	return gpa;
}

/* In place of the transport's. */
static _Atomic unsigned queue_signals[FAKE_QUEUES], config_signals;

static void count_queue_signal(struct virtio_device *vd, unsigned q)
{
	queue_signals[q]++;
}

static void count_config_signal(struct virtio_device *vd)
{
	config_signals++;
}

struct status {
	struct virtio_device *vd;
	uint8_t status;
};

static void set_status_on_loop(void *opaque)
{
	struct status *s = opaque;

	virtio_set_status(s->vd, s->status);
}

static void set_status(struct virtio_device *vd, uint8_t status)
{
	struct status s = { vd, status };

	loop_call(vd->loop, set_status_on_loop, &s);
}

void fake_reset(struct virtio_device *vd)
{
	set_status(vd, 0);
	assert_int_equal(vd->status, 0);
}

static void set_up_queue(struct fake_machine *fm, struct virtio_device *vd, unsigned q)
{
	struct fake_queue *fq = &fm->queues[q];
	struct virtq *vq = &vd->queues[q];

	*fq = (struct fake_queue){ .vd = vd, .q = q, .size = vq->max_size };
	vq->desc_gpa = fake_alloc(fm, 16 * fq->size);
	vq->driver_gpa = fake_alloc(fm, 6 + 2 * fq->size);
	vq->device_gpa = fake_alloc(fm, 6 + 8 * fq->size);
	vq->enabled = true;
	fq->desc = fake_ptr(fm, vq->desc_gpa);
	fq->avail = fake_ptr(fm, vq->driver_gpa);
	fq->used = fake_ptr(fm, vq->device_gpa);
}

void fake_start(struct fake_machine *fm, struct virtio_device *vd, uint64_t features)
{
	uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;

	fake_reset(vd);
	for (unsigned q = 0; q < FAKE_QUEUES; q++)
		queue_signals[q] = 0;
	config_signals = 0;
	vd->signal_queue = count_queue_signal;
	vd->signal_config = count_config_signal;
	set_status(vd, status);
	vd->driver_features = features | BIT(VIRTIO_F_VERSION_1);
	set_status(vd, status |= VIRTIO_STATUS_FEATURES_OK);
	assert_true(vd->status & VIRTIO_STATUS_FEATURES_OK);
	for (unsigned q = 0; q < vd->n_queues; q++)
		set_up_queue(fm, vd, q);
	set_status(vd, status | VIRTIO_STATUS_DRIVER_OK);
}

uint16_t fake_add(struct fake_queue *fq, const struct fake_piece *pieces, unsigned n)
{
	uint16_t head = fq->next_desc;

	for (unsigned i = 0; i < n; i++) {
		uint16_t next = (fq->next_desc + 1) % fq->size;

		fq->desc[fq->next_desc] = (struct virtq_desc){
			.addr = pieces[i].gpa,
			.len = pieces[i].len,
			.flags = (pieces[i].in ? VIRTQ_DESC_F_WRITE : 0) |
				 (i + 1 < n ? VIRTQ_DESC_F_NEXT : 0),
			.next = next,
		};
		fq->next_desc = next;
	}
	fq->avail->ring[fq->avail_idx++ % fq->size] = head;
	__atomic_store_n(&fq->avail->idx, fq->avail_idx, __ATOMIC_RELEASE);
	return head;
}

void fake_kick(struct fake_queue *fq)
{
	const uint64_t one = 1;

	assert_int_equal(write(fq->vd->kick_fds[fq->q], &one, sizeof(one)), sizeof(one));
}

bool fake_used(struct fake_queue *fq, struct virtq_used_elem *elem)
{
	if (__atomic_load_n(&fq->used->idx, __ATOMIC_ACQUIRE) == fq->used_seen)
		return false;
	*elem = fq->used->ring[fq->used_seen++ % fq->size];
	return true;
}

struct wait {
	struct loop *loop;
	struct loop_timer *timer;
	bool (*done)(void *opaque);
	void *opaque;
	uint64_t end;
	bool in_time;
};

static void on_tick(void *opaque)
{
	struct wait *w = opaque;

	w->in_time = w->done && w->done(w->opaque);
	if (w->in_time || now_ns() >= w->end)
		loop_stop(w->loop);
	else
		loop_timer_set(w->timer, now_ns() + TICK_NS);
}

static bool run(struct loop *loop, bool (*done)(void *opaque), void *opaque, uint64_t patience_ns)
{
	struct wait w = {
		.loop = loop, .done = done, .opaque = opaque, .end = now_ns() + patience_ns
	};

	w.timer = loop_timer_new(loop, on_tick, &w);
	loop_timer_set(w.timer, 0);
	loop_run(loop);
	loop_timer_free(w.timer);
	return w.in_time;
}

void fake_run(struct loop *loop, unsigned ms)
{
	run(loop, NULL, NULL, ms * UINT64_C(1000000));
}

void fake_wait(struct loop *loop, bool (*done)(void *opaque), void *opaque)
{
	if (!run(loop, done, opaque, PATIENCE_NS))
		fail_msg("nothing happened for 5 s");
}

struct used_wait {
	struct fake_queue *fq;
	struct virtq_used_elem elem;
};

static bool have_used(void *opaque)
{
	struct used_wait *w = opaque;

	return fake_used(w->fq, &w->elem);
}

struct virtq_used_elem fake_wait_used(struct fake_queue *fq)
{
	struct used_wait w = { .fq = fq };

	fake_wait(fq->vd->loop, have_used, &w);
	return w.elem;
}

bool fake_needs_reset(struct virtio_device *vd)
{
	return vd->status & VIRTIO_STATUS_NEEDS_RESET;
}

unsigned fake_interrupts(unsigned q)
{
	return queue_signals[q];
}

unsigned fake_config_interrupts(void)
{
	return config_signals;
}
