/*
 * Virtio over PCI: see pci.h.
 *
 * Common configuration is a structure of registers (§4.1.4.3). A read takes a copy of all of them
 * and returns the bytes asked for. A write finds its register in a table, which says how wide it is
 * and what must be so for the write to be allowed; a driver that writes anything else, or at the
 * wrong time (queue registers of an enabled queue, features after FEATURES_OK), is logged and
 * ignored. vCPUs come here one at a time under vpci->lock. What changes the device's life goes on
 * to its loop from there.
 *
 * Interrupts: with MSI-X a vector a queue and one for the configuration, chosen by the driver;
 * without, the ISR byte and INTA#.
 */
#include "virtio/pci.h"

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/machine.h"

#include <errno.h>
#include <string.h>

/* §4.1.2 */
#define VIRTIO_PCI_VENDOR      0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040
#define VIRTIO_PCI_SUBSYSTEM   0x1100 /* QEMU's */

/* §4.1.4 */
#define VIRTIO_PCI_CAP_COMMON_CFG 1
#define VIRTIO_PCI_CAP_NOTIFY_CFG 2
#define VIRTIO_PCI_CAP_ISR_CFG    3
#define VIRTIO_PCI_CAP_DEVICE_CFG 4
#define VIRTIO_PCI_CAP_PCI_CFG    5
#define CAP_SIZE                  16 /* struct virtio_pci_cap, header included */
#define CAP_OFFSET_BAR            4
#define CAP_OFFSET_OFFSET         8
#define CAP_OFFSET_LENGTH         12
#define CAP_OFFSET_DATA           16 /* notify_off_multiplier, or pci_cfg_data */

#define VIRTIO_MSI_NO_VECTOR      0xffff

/* §4.1.4.5 */
#define ISR_QUEUE  1
#define ISR_CONFIG 2

/* Where things are in BAR 4. */
#define MODERN_BAR        4
#define MODERN_BAR_SIZE   0x4000
#define MSIX_BAR          1
#define AREA_SIZE         0x1000
#define COMMON_OFFSET     0x0000
#define ISR_OFFSET        0x1000
#define DEVICE_OFFSET     0x2000
#define NOTIFY_OFFSET     0x3000
#define NOTIFY_MULTIPLIER 4

/* struct virtio_pci_common_cfg, §4.1.4.3, with 64-bit registers in halves */
struct common_cfg {
	uint32_t device_feature_select;
	uint32_t device_feature;
	uint32_t driver_feature_select;
	uint32_t driver_feature;
	uint16_t config_msix_vector;
	uint16_t num_queues;
	uint8_t device_status;
	uint8_t config_generation;
	uint16_t queue_select;
	uint16_t queue_size;
	uint16_t queue_msix_vector;
	uint16_t queue_enable;
	uint16_t queue_notify_off;
	uint64_t queue_desc;
	uint64_t queue_driver;
	uint64_t queue_device;
};

static const char *const auto_on_off[] = { "auto", "on", "off", NULL };

const struct prop virtio_pci_props[] = {
	{ "vectors", PROP_INT, .help = "MSI-X vectors; 0 is none, default one a queue and one more",
	  .max = 2048 },
	{ "ioeventfd", PROP_BOOL, "on", "let notifications by-pass the vCPU's thread" },
	{ "event_idx", PROP_BOOL, "on", "offer VIRTIO_F_EVENT_IDX" },
	{ "indirect_desc", PROP_BOOL, "on", "offer VIRTIO_F_INDIRECT_DESC" },
	{ "disable-legacy", PROP_ENUM, "auto", "there is no legacy interface: auto or on",
	  .choices = auto_on_off },
	{ "disable-modern", PROP_BOOL, "off", "there is only the modern interface: off" },
	{ "iommu_platform", PROP_BOOL, "off", "there is no IOMMU: off" },
	{ "packed", PROP_BOOL, "off", "there are no packed rings: off" },
	{},
};

/* --- Interrupts ---- */

static bool has_vector(const struct virtio_pci *vpci, uint16_t vector)
{
	return vector < vpci->pci.msix.n_vectors;
}

static void raise_isr(struct virtio_pci *vpci, uint8_t bit, bool intx)
{
	pthread_mutex_lock(&vpci->isr_lock);
	vpci->isr |= bit;
	if (intx)
		pci_intx_set(&vpci->pci, true);
	pthread_mutex_unlock(&vpci->isr_lock);
}

/* §4.1.4.5: reading clears. */
static uint8_t take_isr(struct virtio_pci *vpci)
{
	uint8_t isr;

	pthread_mutex_lock(&vpci->isr_lock);
	isr = vpci->isr;
	vpci->isr = 0;
	if (isr)
		pci_intx_set(&vpci->pci, false);
	pthread_mutex_unlock(&vpci->isr_lock);
	return isr;
}

static struct virtio_pci *of_device(struct virtio_device *vd)
{
	return vd->transport;
}

static void signal_queue(struct virtio_device *vd, unsigned q)
{
	struct virtio_pci *vpci = of_device(vd);

	if (pci_msix_enabled(&vpci->pci))
		pci_msix_raise(&vpci->pci, vpci->queue_vectors[q]);
	else
		raise_isr(vpci, ISR_QUEUE, true);
}

static void signal_config(struct virtio_device *vd)
{
	struct virtio_pci *vpci = of_device(vd);
	const bool msix = pci_msix_enabled(&vpci->pci);

	raise_isr(vpci, ISR_CONFIG, !msix);
	if (msix)
		pci_msix_raise(&vpci->pci, vpci->config_vector);
}

/* --- Common configuration ---- */

static struct virtq *selected(struct virtio_pci *vpci)
{
	return vpci->queue_select < vpci->vd->n_queues ? &vpci->vd->queues[vpci->queue_select]
						       : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? features >> (32 * select) : 0;
}

static void copy_common(struct virtio_pci *vpci, struct common_cfg *cfg)
{
	const struct virtio_device *vd = vpci->vd;
	const struct virtq *vq = selected(vpci);

	*cfg = (struct common_cfg){
		.device_feature_select = vpci->device_feature_select,
		.device_feature = feature_word(vd->host_features, vpci->device_feature_select),
		.driver_feature_select = vpci->driver_feature_select,
		.driver_feature = feature_word(vd->driver_features, vpci->driver_feature_select),
		.config_msix_vector = vpci->config_vector,
		.num_queues = vd->n_queues,
		.device_status = vd->status,
		.config_generation = vd->config_generation,
		.queue_select = vpci->queue_select,
	};
	if (!vq)
		return; /* queue_size 0: there is no such queue */
	cfg->queue_size = vq->size;
	cfg->queue_msix_vector = vpci->queue_vectors[vpci->queue_select];
	cfg->queue_enable = vq->enabled;
	cfg->queue_notify_off = vpci->queue_select;
	cfg->queue_desc = vq->desc_gpa;
	cfg->queue_driver = vq->driver_gpa;
	cfg->queue_device = vq->device_gpa;
}

static void write_driver_feature(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	const uint32_t select = vpci->driver_feature_select;
	uint64_t *features = &vpci->vd->driver_features;

	if (select < 2)
		*features = (*features & ~((uint64_t)UINT32_MAX << (32 * select))) |
			    (uint64_t)value << (32 * select);
	else if (value)
		log_item(LOG_GUEST_ERRORS, "%s: driver accepts features beyond bit 63",
			 vpci->vd->name);
}

/* §4.1.5.1.2: a vector that is not there reads back as NO_VECTOR. */
static uint16_t accept_vector(const struct virtio_pci *vpci, uint32_t value)
{
	return has_vector(vpci, value) ? value : VIRTIO_MSI_NO_VECTOR;
}

static void write_config_vector(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	vpci->config_vector = accept_vector(vpci, value);
}

static void write_queue_vector(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	vpci->queue_vectors[vpci->queue_select] = accept_vector(vpci, value);
}

struct status_write {
	struct virtio_device *vd;
	uint8_t status;
};

static void set_status_on_loop(void *opaque)
{
	struct status_write *w = opaque;

	virtio_set_status(w->vd, w->status);
}

static void reset_registers(struct virtio_pci *vpci)
{
	vpci->device_feature_select = vpci->driver_feature_select = 0;
	vpci->queue_select = 0;
	vpci->config_vector = VIRTIO_MSI_NO_VECTOR;
	for (unsigned q = 0; q < vpci->vd->n_queues; q++)
		vpci->queue_vectors[q] = VIRTIO_MSI_NO_VECTOR;
	take_isr(vpci);
}

static void write_status(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	struct status_write w = { vpci->vd, value };

	loop_call(vpci->vd->loop, set_status_on_loop, &w);
	if (!value)
		reset_registers(vpci);
}

static void write_device_feature_select(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	vpci->device_feature_select = value;
}

static void write_driver_feature_select(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	vpci->driver_feature_select = value;
}

static void write_queue_select(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	vpci->queue_select = value;
}

static void write_queue_size(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	struct virtq *vq = selected(vpci);

	if (!value || value & (value - 1) || value > vq->max_size)
		log_item(
			LOG_GUEST_ERRORS,
			"%s: driver wants queue %u of %u entries; a power of two up to %u would do",
			vpci->vd->name, vpci->queue_select, value, vq->max_size);
	else
		vq->size = value;
}

static void write_queue_enable(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	if (value == 1)
		selected(vpci)->enabled = true;
	else
		log_item(LOG_GUEST_ERRORS, "%s: driver writes %u to queue_enable of queue %u",
			 vpci->vd->name, value, vpci->queue_select);
}

static void write_half(uint64_t *reg, unsigned half, uint32_t value)
{
	const unsigned shift = 32 * half;

	*reg = (*reg & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static void write_queue_desc(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	write_half(&selected(vpci)->desc_gpa, half, value);
}

static void write_queue_driver(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	write_half(&selected(vpci)->driver_gpa, half, value);
}

static void write_queue_device(struct virtio_pci *vpci, unsigned half, uint32_t value)
{
	write_half(&selected(vpci)->device_gpa, half, value);
}

/* When a register may be written. */
enum {
	BEFORE_FEATURES_OK = 1 << 0,
	QUEUE = 1 << 1,     /* queue_select names a queue */
	QUEUE_OFF = 1 << 2, /* which is not enabled, and DRIVER_OK is not set */
};

#define REG(name)          offsetof(struct common_cfg, name), sizeof(((struct common_cfg *)0)->name), #name
#define REG_HALF(name, hi) offsetof(struct common_cfg, name) + 4 * (hi), 4, #name

static const struct register_write {
	unsigned offset, size;
	const char *name;
	unsigned when;
	void (*write)(struct virtio_pci *vpci, unsigned half, uint32_t value);
	unsigned half;
} register_writes[] = {
	{ REG(device_feature_select), 0, write_device_feature_select },
	{ REG(driver_feature_select), 0, write_driver_feature_select },
	{ REG(driver_feature), BEFORE_FEATURES_OK, write_driver_feature },
	{ REG(config_msix_vector), 0, write_config_vector },
	{ REG(device_status), 0, write_status },
	{ REG(queue_select), 0, write_queue_select },
	{ REG(queue_size), QUEUE | QUEUE_OFF, write_queue_size },
	{ REG(queue_msix_vector), QUEUE, write_queue_vector },
	{ REG(queue_enable), QUEUE | QUEUE_OFF, write_queue_enable },
	{ REG_HALF(queue_desc, 0), QUEUE | QUEUE_OFF, write_queue_desc, 0 },
	{ REG_HALF(queue_desc, 1), QUEUE | QUEUE_OFF, write_queue_desc, 1 },
	{ REG_HALF(queue_driver, 0), QUEUE | QUEUE_OFF, write_queue_driver, 0 },
	{ REG_HALF(queue_driver, 1), QUEUE | QUEUE_OFF, write_queue_driver, 1 },
	{ REG_HALF(queue_device, 0), QUEUE | QUEUE_OFF, write_queue_device, 0 },
	{ REG_HALF(queue_device, 1), QUEUE | QUEUE_OFF, write_queue_device, 1 },
};

static const char *forbidden(struct virtio_pci *vpci, const struct register_write *reg)
{
	const uint8_t status = vpci->vd->status;

	if (reg->when & BEFORE_FEATURES_OK && status & VIRTIO_STATUS_FEATURES_OK)
		return "after FEATURES_OK";
	if (reg->when & QUEUE && !selected(vpci))
		return "of a queue that is not there";
	if (reg->when & QUEUE_OFF && selected(vpci)->enabled)
		return "of an enabled queue";
	if (reg->when & QUEUE_OFF && status & VIRTIO_STATUS_DRIVER_OK)
		return "after DRIVER_OK";
	return NULL;
}

static void common_write(struct virtio_pci *vpci, uint64_t offset, unsigned size, uint32_t value)
{
	const struct register_write *reg = NULL;
	const char *why;

	for (unsigned i = 0; i < ARRAY_SIZE(register_writes); i++)
		if (register_writes[i].offset == offset && register_writes[i].size == size)
			reg = &register_writes[i];
	if (!reg) {
		log_item(LOG_GUEST_ERRORS,
			 "%s: driver writes %u bytes at 0x%x of the common configuration",
			 vpci->vd->name, size, (unsigned)offset);
		return;
	}
	why = forbidden(vpci, reg);
	if (why)
		log_item(LOG_GUEST_ERRORS, "%s: driver writes %s %s (queue %u)", vpci->vd->name,
			 reg->name, why, vpci->queue_select);
	else
		reg->write(vpci, reg->half, value);
}

static uint64_t common_read(struct virtio_pci *vpci, uint64_t offset, unsigned size)
{
	struct common_cfg cfg;
	uint64_t value = 0;

	if (offset + size > sizeof(cfg))
		return 0;
	copy_common(vpci, &cfg);
	memcpy(&value, (const char *)&cfg + offset, size);
	return value;
}

/* --- BAR 4 ---- */

/* Where the doorbell is not bound to its eventfd, or the access is not of its size. */
/* #syscalls:vcpu write */
static void kick(struct virtio_pci *vpci, uint64_t offset)
{
	const uint64_t q = offset / NOTIFY_MULTIPLIER, one = 1;

	if (offset % NOTIFY_MULTIPLIER || q >= vpci->vd->n_queues)
		log_item(LOG_GUEST_ERRORS, "%s: driver notifies at 0x%x, where no queue is",
			 vpci->vd->name, (unsigned)offset);
	else if (write(vpci->vd->kick_fds[q], &one, sizeof(one)) < 0 && errno != EAGAIN)
		LOG_ONCE("%s: notification lost: %s", vpci->vd->name, strerror(errno));
}

static uint64_t modern_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_pci *vpci = opaque;
	uint64_t value = 0;

	switch (offset & ~(uint64_t)(AREA_SIZE - 1)) {
	case COMMON_OFFSET:
		pthread_mutex_lock(&vpci->lock);
		value = common_read(vpci, offset, size);
		pthread_mutex_unlock(&vpci->lock);
		return value;
	case ISR_OFFSET: return offset == ISR_OFFSET ? take_isr(vpci) : 0;
	case DEVICE_OFFSET:
		virtio_read_config(vpci->vd, offset - DEVICE_OFFSET, &value, size);
		return value;
	default: return 0;
	}
}

static void modern_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *vpci = opaque;

	switch (offset & ~(uint64_t)(AREA_SIZE - 1)) {
	case COMMON_OFFSET:
		pthread_mutex_lock(&vpci->lock);
		common_write(vpci, offset, size, value);
		pthread_mutex_unlock(&vpci->lock);
		return;
	case DEVICE_OFFSET:
		virtio_write_config(vpci->vd, offset - DEVICE_OFFSET, &value, size);
		return;
	case NOTIFY_OFFSET: kick(vpci, offset - NOTIFY_OFFSET); return;
	default: log_item(LOG_GUEST_ERRORS, "%s: driver writes the ISR status", vpci->vd->name);
	}
}

static const struct region_ops modern_ops = { modern_read, modern_write, .max_size = 4 };

/* --- PCI configuration access capability, §4.1.4.9 ---- */

/* Where in BAR 4 the window points; false when the driver set it up wrongly. */
static bool cfg_window(struct virtio_pci *vpci, unsigned offset, unsigned size, uint32_t *where,
		       uint32_t *length)
{
	const unsigned data = vpci->cfg_cap + CAP_OFFSET_DATA;

	if (offset >= data + 4 || offset + size <= data)
		return false;
	*where = pci_get32(&vpci->pci, vpci->cfg_cap + CAP_OFFSET_OFFSET);
	*length = pci_get32(&vpci->pci, vpci->cfg_cap + CAP_OFFSET_LENGTH);
	return vpci->pci.config[vpci->cfg_cap + CAP_OFFSET_BAR] == MODERN_BAR &&
	       (*length == 1 || *length == 2 || *length == 4) && *where % *length == 0 &&
	       *where < MODERN_BAR_SIZE;
}

static void config_reading(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio_pci *vpci = pci->opaque;
	uint32_t where, length;

	if (cfg_window(vpci, offset, size, &where, &length))
		pci_set32(pci, vpci->cfg_cap + CAP_OFFSET_DATA, modern_read(vpci, where, length));
}

static void config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio_pci *vpci = pci->opaque;
	uint32_t where, length, value;

	if (!cfg_window(vpci, offset, size, &where, &length))
		return;
	value = pci_get32(pci, vpci->cfg_cap + CAP_OFFSET_DATA);
	modern_write(vpci, where, length,
		     length == 4 ? value : value & ((UINT32_C(1) << (8 * length)) - 1));
}

/* --- Making it ---- */

/* struct virtio_pci_cap; returns its offset. */
static uint8_t add_cap(struct virtio_pci *vpci, uint8_t type, uint8_t len, uint32_t offset,
		       uint32_t length)
{
	struct pci_device *pci = &vpci->pci;
	const uint8_t cap = pci_add_capability(pci, PCI_CAP_ID_VNDR, len);

	pci->config[cap + 2] = len;
	pci->config[cap + 3] = type;
	pci->config[cap + CAP_OFFSET_BAR] = MODERN_BAR;
	pci_set32(pci, cap + CAP_OFFSET_OFFSET, offset);
	pci_set32(pci, cap + CAP_OFFSET_LENGTH, length);
	return cap;
}

static void add_caps(struct virtio_pci *vpci)
{
	struct pci_device *pci = &vpci->pci;
	uint8_t cap;

	add_cap(vpci, VIRTIO_PCI_CAP_COMMON_CFG, CAP_SIZE, COMMON_OFFSET, AREA_SIZE);
	add_cap(vpci, VIRTIO_PCI_CAP_ISR_CFG, CAP_SIZE, ISR_OFFSET, AREA_SIZE);
	if (vpci->vd->config_size)
		add_cap(vpci, VIRTIO_PCI_CAP_DEVICE_CFG, CAP_SIZE, DEVICE_OFFSET, AREA_SIZE);
	cap = add_cap(vpci, VIRTIO_PCI_CAP_NOTIFY_CFG, CAP_SIZE + 4, NOTIFY_OFFSET, AREA_SIZE);
	pci_set32(pci, cap + CAP_OFFSET_DATA, NOTIFY_MULTIPLIER);

	vpci->cfg_cap = add_cap(vpci, VIRTIO_PCI_CAP_PCI_CFG, CAP_SIZE + 4, 0, 0);
	pci->config[vpci->cfg_cap + CAP_OFFSET_BAR] = 0;
	pci->writable[vpci->cfg_cap + CAP_OFFSET_BAR] = 0xff;
	memset(&pci->writable[vpci->cfg_cap + CAP_OFFSET_OFFSET], 0xff, 12);
	pci->config_reading = config_reading;
	pci->config_written = config_written;
}

static int check_props(const struct props *props, struct error **err)
{
	static const struct {
		const char *name, *why;
	} must_be_off[] = {
		{ "disable-modern", "only the modern interface is supported" },
		{ "iommu_platform", "there is no IOMMU between the device and guest memory" },
		{ "packed", "split rings are supported" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(must_be_off); i++) {
		if (props_bool(props, must_be_off[i].name)) {
			error_set(err, "%s=on is not supported: %s", must_be_off[i].name,
				  must_be_off[i].why);
			return -1;
		}
	}
	if (strcmp(props_str(props, "disable-legacy"), "off") == 0) {
		error_set(err, "disable-legacy=off is not supported: only the modern interface is "
			       "(disable-legacy=on or auto)");
		return -1;
	}
	return 0;
}

static int plug(struct virtio_pci *vpci, struct machine *machine, const struct props *props,
		struct error **err)
{
	const char *bus_name = props_str(props, "bus");
	unsigned slot, function = 0;
	struct pci_bus *bus;

	if (!machine->pci) {
		error_set(err, "machine '%s' has no PCI bus; -M q35 has", machine->name);
		return -1;
	}
	bus = bus_name ? pci_host_find_bus(machine->pci, bus_name, err)
		       : pci_host_root(machine->pci);
	if (!bus)
		return -1;
	if (!props_addr(props, "addr", &slot, &function))
		return pci_plug(bus, &vpci->pci, -1, 0, err);
	return pci_plug(bus, &vpci->pci, slot, function, err);
}

static int add_doorbells(struct virtio_pci *vpci, struct error **err)
{
	struct region *region = &vpci->pci.bars[MODERN_BAR].region;

	for (unsigned q = 0; q < vpci->vd->n_queues; q++)
		if (region_add_doorbell(region, NOTIFY_OFFSET + q * NOTIFY_MULTIPLIER, 2,
					vpci->vd->kick_fds[q], err) < 0)
			return -1;
	return 0;
}

int virtio_pci_plug(struct virtio_pci *vpci, struct machine *machine, const struct props *props,
		    struct virtio_device *vd, uint32_t class_code, struct error **err)
{
	struct pci_device *pci = &vpci->pci;
	const struct pci_device_id id = {
		.vendor = VIRTIO_PCI_VENDOR,
		.device = VIRTIO_PCI_DEVICE_BASE + vd->device_id,
		.subsystem_vendor = VIRTIO_PCI_VENDOR,
		.subsystem = VIRTIO_PCI_SUBSYSTEM,
		.revision = 1,
		.class = class_code >> 16,
		.subclass = class_code >> 8,
		.prog_if = class_code,
	};
	unsigned vectors = props_has(props, "vectors") ? props_u64(props, "vectors")
						       : vd->n_queues + 1;

	if (check_props(props, err) < 0)
		return -1;
	if (!props_bool(props, "event_idx"))
		vd->host_features &= ~BIT(VIRTIO_F_EVENT_IDX);
	if (!props_bool(props, "indirect_desc"))
		vd->host_features &= ~BIT(VIRTIO_F_INDIRECT_DESC);

	vpci->vd = vd;
	vpci->id = props_str(props, "id") ? xstrdup(props_str(props, "id")) : NULL;
	vpci->queue_vectors = xcalloc(vd->n_queues, sizeof(*vpci->queue_vectors));
	pthread_mutex_init(&vpci->lock, NULL);
	pthread_mutex_init(&vpci->isr_lock, NULL);
	vd->transport = vpci;
	vd->signal_queue = signal_queue;
	vd->signal_config = signal_config;

	pci_device_init(pci, vpci->dev.class->name, &id);
	pci->id = vpci->id;
	pci->opaque = vpci;
	if (vectors)
		pci_add_msix(pci, MSIX_BAR, vectors);
	pci_add_bar(pci, MODERN_BAR, PCI_BAR_MEM64_PREF, MODERN_BAR_SIZE, &modern_ops, vpci);
	pci_add_intx(pci);
	add_caps(vpci);
	reset_registers(vpci);
	if ((props_bool(props, "ioeventfd") && add_doorbells(vpci, err) < 0) ||
	    plug(vpci, machine, props, err) < 0) {
		virtio_pci_unplug(vpci);
		return -1;
	}
	return 0;
}

void virtio_pci_unplug(struct virtio_pci *vpci)
{
	if (!vpci->vd)
		return;
	write_status(vpci, 0, 0); /* from here on it interrupts nobody */
	pci_device_destroy(&vpci->pci);
	vpci->vd->signal_queue = NULL;
	vpci->vd->signal_config = NULL;
	pthread_mutex_destroy(&vpci->lock);
	pthread_mutex_destroy(&vpci->isr_lock);
	free(vpci->queue_vectors);
	free(vpci->id);
	vpci->vd = NULL;
}

static struct virtio_pci *of_dev(struct device *dev)
{
	return container_of(dev, struct virtio_pci, dev);
}

void virtio_pci_reset(struct device *dev)
{
	struct virtio_pci *vpci = of_dev(dev);

	write_status(vpci, 0, 0);
	pci_device_reset(&vpci->pci);
}

void virtio_pci_pause(struct device *dev)
{
	virtio_pause(of_dev(dev)->vd);
}

void virtio_pci_resume(struct device *dev)
{
	virtio_resume(of_dev(dev)->vd);
}
