/*
 * PCI Express: functions, their configuration space, BARs, capabilities, MSI-X, and bridges.
 *
 * A function is `struct pci_device`: 4 KiB of configuration space with a write mask beside it, up
 * to six BARs (each a region that is mapped while the command register enables it), and MSI-X. A
 * bus is 32 slots of 8 functions; root ports have a bus behind them. The host bridge reaches all of
 * it by ports 0xcf8/0xcfc and by ECAM (PCIe base 5.0 §7.2.2). Firmware or the guest assigns bus
 * numbers and BARs; for a direct boot pci_assign() does it before the first vCPU runs, as firmware
 * would.
 *
 * Configuration accesses are serialized by the host's lock. MSI-X: vectors may be raised from any
 * thread.
 */
#ifndef REVIRT_MACHINE_PCI_H
#define REVIRT_MACHINE_PCI_H

#include "machine/bus.h"
#include "machine/irq.h"

#define PCI_CONFIG_SIZE 4096
#define PCI_BARS        6
#define PCI_SLOTS       32

/* Configuration space, PCIe base 5.0 §7.5.1 */
#define PCI_VENDOR_ID          0x00
#define PCI_DEVICE_ID          0x02
#define PCI_COMMAND            0x04
#define PCI_COMMAND_IO         0x0001
#define PCI_COMMAND_MEMORY     0x0002
#define PCI_COMMAND_MASTER     0x0004
#define PCI_COMMAND_INTX_OFF   0x0400
#define PCI_STATUS             0x06
#define PCI_STATUS_INTERRUPT   0x0008
#define PCI_STATUS_CAP_LIST    0x0010
#define PCI_REVISION_ID        0x08
#define PCI_CLASS_PROG         0x09
#define PCI_CLASS_DEVICE       0x0a
#define PCI_CACHE_LINE_SIZE    0x0c
#define PCI_HEADER_TYPE        0x0e
#define PCI_BASE_ADDRESS_0     0x10
#define PCI_SUBSYSTEM_VENDOR   0x2c
#define PCI_SUBSYSTEM_ID       0x2e
#define PCI_ROM_ADDRESS        0x30
#define PCI_CAPABILITY_LIST    0x34
#define PCI_INTERRUPT_LINE     0x3c
#define PCI_INTERRUPT_PIN      0x3d
#define PCI_PRIMARY_BUS        0x18
#define PCI_SECONDARY_BUS      0x19
#define PCI_SUBORDINATE_BUS    0x1a
#define PCI_IO_BASE            0x1c
#define PCI_IO_LIMIT           0x1d
#define PCI_MEMORY_BASE        0x20
#define PCI_MEMORY_LIMIT       0x22
#define PCI_PREF_MEMORY_BASE   0x24
#define PCI_PREF_MEMORY_LIMIT  0x26
#define PCI_PREF_BASE_UPPER32  0x28
#define PCI_PREF_LIMIT_UPPER32 0x2c
#define PCI_BRIDGE_CONTROL     0x3e

#define PCI_CAP_ID_VNDR        0x09
#define PCI_CAP_ID_PCIE        0x10
#define PCI_CAP_ID_MSIX        0x11

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_MEM64_PREF };

struct pci_bus;
struct pci_device;
struct pci_host;

struct pci_bar {
	enum pci_bar_kind kind;
	struct region region; /* region.size is the BAR's */
};

struct msix_entry {
	uint32_t address_lo, address_hi, data, control;
};

struct pci_msix {
	unsigned n_vectors; /* 0: the function has none */
	uint8_t cap, bar;
	struct msix_entry *table;
	uint64_t *pending; /* one bit a vector */
	pthread_mutex_t lock;
};

struct pci_device_id {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision, class, subclass, prog_if;
};

struct pci_device {
	const char *name; /* for messages and query-pci; the device's -device name */
	const char *id;   /* -device id=, may be NULL */
	struct pci_bus *bus;
	uint8_t devfn;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* 1 bits the guest may write */
	struct pci_bar bars[PCI_BARS];
	struct pci_msix msix;
	struct irq_line intx;
	bool intx_wanted; /* the function's level, whatever the command register lets through */
	uint8_t next_cap; /* where the next capability goes */
	void *opaque;     /* the device's own */

	/* Optional: called after the guest wrote [offset, offset + size) of configuration space. */
	void (*config_written)(struct pci_device *dev, unsigned offset, unsigned size);
	/* Optional: called before the guest reads; may update dev->config. */
	void (*config_reading)(struct pci_device *dev, unsigned offset, unsigned size);
	struct pci_bus *secondary; /* bridges */
};

/* Sets the ids, header and write masks. dev is zeroed storage of the caller. */
void pci_device_init(struct pci_device *dev, const char *name, const struct pci_device_id *id);

/* Appends a capability of len bytes (with its two header bytes) and returns its offset. */
uint8_t pci_add_capability(struct pci_device *dev, uint8_t cap_id, uint8_t len);

/*
 * Declares BAR n (MEM64 kinds take n + 1 too). size is a power of two; ops see offsets in the BAR.
 */
void pci_add_bar(struct pci_device *dev, unsigned n, enum pci_bar_kind kind, uint64_t size,
		 const struct region_ops *ops, void *opaque);
/* Gives the function MSI-X with its table and PBA in BAR `bar`, a whole BAR of its own. */
void pci_add_msix(struct pci_device *dev, unsigned bar, unsigned n_vectors);
/* Gives the function an INTA# pin. */
void pci_add_intx(struct pci_device *dev);

bool pci_msix_enabled(const struct pci_device *dev);
/* Raises a vector: sends it, or marks it pending while masked. Any thread. Out of range: ignored.
 */
void pci_msix_raise(struct pci_device *dev, unsigned vector);
/* INTx level, honouring the command register. Any thread. */
void pci_intx_set(struct pci_device *dev, bool level);

/*
 * Plugs a function into a bus. slot -1: the first free one. Errors name the slot and its holder.
 */
int pci_plug(struct pci_bus *bus, struct pci_device *dev, int slot, int function,
	     struct error **err);
/* Back to the state after power-on: BARs unmapped, command 0, MSI-X off and masked. */
void pci_device_reset(struct pci_device *dev);
void pci_device_destroy(struct pci_device *dev);

/* Little-endian fields of the configuration space. */
uint16_t pci_get16(const struct pci_device *dev, unsigned offset);
uint32_t pci_get32(const struct pci_device *dev, unsigned offset);
void pci_set16(struct pci_device *dev, unsigned offset, uint16_t value);
void pci_set32(struct pci_device *dev, unsigned offset, uint32_t value);

const char *pci_bus_name(const struct pci_bus *bus); /* "pcie.0", or the root port's id */
unsigned pci_bus_number(const struct pci_bus *bus);
struct pci_device *pci_bus_device(struct pci_bus *bus, unsigned devfn);

/* --- The host bridge ---- */

struct pci_windows {
	uint64_t ecam_base; /* 256 buses of 1 MiB */
	uint64_t mem32_base, mem32_size;
	uint64_t mem64_base, mem64_size;
	uint16_t io_base, io_size;
};

struct pci_host *pci_host_new(struct bus *io, struct bus *memory, struct irqs *irqs,
			      const struct pci_windows *windows, struct error **err);
void pci_host_free(struct pci_host *host);
struct pci_bus *pci_host_root(struct pci_host *host);
/* A bus by QEMU's name ("pcie.0", or a root port's id); error lists what there is. */
struct pci_bus *pci_host_find_bus(struct pci_host *host, const char *name, struct error **err);
/* The bus behind a bridge, named after it; made by the root port device. */
struct pci_bus *pci_bus_new(struct pci_host *host, struct pci_device *bridge, const char *name);
/* Assigns bus numbers, bridge windows and BARs and enables decoding, as firmware would. */
void pci_assign(struct pci_host *host);
/* The highest bus number pci_assign() gave out. */
unsigned pci_last_bus(const struct pci_host *host);
/* GSI that INTA#.. of a root-bus slot reaches; matches the DSDT's _PRT. */
unsigned pci_intx_gsi(unsigned slot, unsigned pin);

#endif
