/* PCI from a guest's side: see pci.h. */
#include "pci.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define CONFIG_ENABLE  0x80000000u
#define WINDOW_BASE    0xe0000000u /* clear of what firmware and monitors give out */
#define BUSES          4           /* the root bus and some ports */
#define BAR_IO         1
#define BAR_64         4

static unsigned select(pci_t fn, unsigned reg)
{
	outl(CONFIG_ADDRESS, CONFIG_ENABLE | (uint32_t)fn << 8 | (reg & 0xfc));
	return CONFIG_DATA + (reg & 3);
}

uint32_t pci_read(pci_t fn, unsigned reg, unsigned size)
{
	unsigned port = select(fn, reg);

	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void pci_write(pci_t fn, unsigned reg, unsigned size, uint32_t value)
{
	unsigned port = select(fn, reg);

	if (size == 1)
		outb(port, value);
	else if (size == 2)
		outw(port, value);
	else
		outl(port, value);
}

static bool is_there(pci_t fn)
{
	if (fn & 7 && !(pci_read(fn & ~7, PCI_HEADER_TYPE, 1) & 0x80))
		return false;
	return pci_read(fn, 0, 2) != 0xffff;
}

bool pci_next(pci_t *fn)
{
	for (uint32_t f = *fn; f < BUSES << 8; f++) {
		/* Functions of an absent device are not asked for one by one. */
		if (f & 7 && pci_read(f & ~7, 0, 2) == 0xffff) {
			f |= 7;
			continue;
		}
		if (is_there(f)) {
			*fn = f;
			return true;
		}
	}
	return false;
}

unsigned pci_find_cap(pci_t fn, unsigned id, unsigned after)
{
	unsigned cap = pci_read(fn, after ? after + 1 : PCI_CAPABILITIES, 1);

	for (unsigned n = 0; cap && n < 48; n++) {
		if (pci_read(fn, cap, 1) == id)
			return cap;
		cap = pci_read(fn, cap + 1, 1);
	}
	return 0;
}

uint32_t pci_window(uint32_t size)
{
	static uint32_t next = WINDOW_BASE;
	uint32_t at = (next + size - 1) & ~(size - 1);

	next = at + size;
	return at;
}

uint32_t pci_bar(pci_t fn, unsigned n, uint32_t *size)
{
	unsigned reg = PCI_BAR0 + 4 * n;
	uint32_t command = pci_read(fn, PCI_COMMAND, 2), bar = pci_read(fn, reg, 4), mask, high = 0;

	pci_write(fn, PCI_COMMAND, 2, command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY));
	pci_write(fn, reg, 4, UINT32_MAX);
	mask = pci_read(fn, reg, 4);
	mask &= bar & BAR_IO ? ~3u : ~15u;
	pci_write(fn, reg, 4, bar);
	if (bar & BAR_64 && !(bar & BAR_IO))
		high = pci_read(fn, reg + 4, 4);
	if (mask && (high || !(bar & ~15u))) {
		bar = pci_window(-mask);
		pci_write(fn, reg, 4, bar);
		pci_write(fn, reg + 4, 4, 0);
	}
	pci_write(fn, PCI_COMMAND, 2,
		  command | PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	if (size)
		*size = -mask;
	return mask ? bar & ~15u : 0;
}
