/*
 * Noise: random reads and writes, of every size, of everything a device shows: configuration space
 * by ports and by ECAM, common configuration, device configuration, notification, MSI-X. Values
 * are those that hurt: zeroes, ones, single bits, addresses of the arena.
 *
 * BARs and the command register move with it, so every so often they are put back. With gentle=1
 * only the victim is touched, not the functions around it.
 */
#include "hostile.h"

#define ROUND          64
#define BARS           6
#define CONFIG_DWORDS  16
#define MSIX_DATA_HIGH 9 /* of a table entry: the byte with the delivery mode */

static pci_t functions[32];
static unsigned n_functions;
static uint32_t msix_table, msix_size;

static uint32_t nasty_value(void)
{
	switch (random_below(8)) {
	case 0: return 0;
	case 1: return UINT32_MAX;
	case 2: return random32();
	case 3: return random_below(32);
	case 4: return 1u << random_below(32);
	case 5: return ARENA + (random_below(ARENA_SIZE >> 12) << 12);
	case 6: return random_below(0x10000);
	default: return SCRATCH + random_below(64);
	}
}

static void access(uint32_t at, bool write, uint32_t value)
{
	switch (random_below(3) | (write ? 4 : 0)) {
	case 0: read8(at); break;
	case 1: read16(at); break;
	case 2: read32(at); break;
	case 4: write8(at, value); break;
	case 5: write16(at, value); break;
	default: write32(at, value); break;
	}
}

static void config_by_ports(void)
{
	pci_t fn = functions[random_below(n_functions)];
	unsigned size = 1u << random_below(3), reg = random_below(256);

	if (random_below(2))
		pci_write(fn, reg, size, nasty_value());
	else
		pci_read(fn, reg, size);
}

static void config_by_ecam(void)
{
	pci_t fn = random_below(8) ? functions[random_below(n_functions)] : random_below(1 << 16);

	access(pci_ecam(fn, random_below(8) ? random_below(256) : random_below(4093)),
	       random_below(2), nasty_value());
}

/* The processor must not be sent NMIs, INITs or SMIs: bits 8 to 10 of the data word stay 0. */
static void msix_access(void)
{
	uint32_t offset = random_below(msix_size) & ~3u, value = nasty_value();

	if ((offset & 15) == (MSIX_DATA_HIGH & ~3))
		value &= ~0x700u;
	if (random_below(2))
		write32(msix_table + offset, value);
	else
		access(msix_table + offset, false, 0);
}

static void one_access(struct vdev *vd)
{
	switch (random_below(8)) {
	case 0: config_by_ports(); break;
	case 1: config_by_ecam(); break;
	case 2:
		access(vd->notify + random_below(0x1000 - 3), random_below(4), nasty_value());
		break;
	case 3: access(vd->isr + random_below(8), random_below(2), nasty_value()); break;
	case 4:
		if (vd->config)
			access(vd->config + random_below(vd->config_size + 8), random_below(2),
			       nasty_value());
		break;
	case 5:
		if (msix_size)
			msix_access();
		break;
	default:
		access(vd->common + random_below(COMMON_SIZE + 8), random_below(2), nasty_value());
		break;
	}
}

/* --- Putting back what moved ---- */

static uint32_t kept[ARRAY_SIZE(functions)][CONFIG_DWORDS];

static void keep(void)
{
	for (unsigned f = 0; f < n_functions; f++)
		for (unsigned i = 0; i < CONFIG_DWORDS; i++)
			kept[f][i] = pci_read(functions[f], 4 * i, 4);
}

static void put_back(struct vdev *vd)
{
	unsigned cap = pci_find_cap(vd->fn, PCI_CAP_MSIX, 0);

	for (unsigned f = 0; f < n_functions; f++) {
		pci_write(functions[f], PCI_COMMAND, 2, 0);
		for (unsigned i = 2; i < CONFIG_DWORDS; i++)
			pci_write(functions[f], 4 * i, 4, kept[f][i]);
		pci_write(functions[f], PCI_COMMAND, 2, kept[f][1]);
	}
	if (cap)
		pci_write(vd->fn, cap + 2, 2, 0);
}

static void find_functions(struct vdev *vd)
{
	if (param_given("gentle")) {
		functions[n_functions++] = vd->fn;
		return;
	}
	for (pci_t fn = 0; n_functions < ARRAY_SIZE(functions) && pci_next(&fn); fn++)
		functions[n_functions++] = fn;
}

static void find_msix(struct vdev *vd)
{
	unsigned cap = pci_find_cap(vd->fn, PCI_CAP_MSIX, 0);
	uint32_t where;

	if (!cap)
		return;
	where = pci_read(vd->fn, cap + 4, 4);
	msix_table = pci_bar(vd->fn, where & 7, NULL) + (where & ~7u);
	msix_size = ((pci_read(vd->fn, cap + 2, 2) & 0x7ff) + 1) * 16;
}

void run_noise(struct vdev *vd)
{
	unsigned n = param("noise", 1000);

	find_functions(vd);
	find_msix(vd);
	keep();
	for (unsigned i = 0; i < n; i++) {
		one_access(vd);
		if (i % ROUND != ROUND - 1)
			continue;
		put_back(vd);
		/* Half of the rounds begin with a device at work. */
		if (random_below(2) && vdev_start(vd)) {
			plain_request(vd);
			submit(vd, 0);
		}
	}
	put_back(vd);
	print("%u accesses\n", n);
}
