/* The root port: its configuration space, the bus behind it, and what it refuses. */
#include "platform_fixture.h"

#define ECAM(bus, slot, reg) (MACHINE_ECAM_BASE + ((bus) << 20) + ((slot) << 15) + (reg))

static const struct pci_windows windows = {
	.ecam_base = MACHINE_ECAM_BASE,
	.mem32_base = MACHINE_MEM32_BASE,
	.mem32_size = MACHINE_MEM32_END - MACHINE_MEM32_BASE,
	.mem64_base = 0x800000000,
	.mem64_size = 0x800000000,
	.io_base = 0x1000,
	.io_size = 0xf000,
};

static int setup(void **state)
{
	if (setup_machine(state) < 0)
		return -1;
	m.pci = pci_host_new(m.io, m.memory, &m.irqs, &windows, NULL);
	return m.pci ? 0 : -1;
}

static uint32_t cfg(unsigned bus, unsigned slot, unsigned reg, unsigned size)
{
	return bus_read(m.memory, ECAM(bus, slot, reg), size);
}

static void set_cfg(unsigned bus, unsigned slot, unsigned reg, unsigned size, uint32_t value)
{
	bus_write(m.memory, ECAM(bus, slot, reg), size, value);
}

static unsigned find_exp(void)
{
	unsigned cap = cfg(0, 3, PCI_CAPABILITY_LIST, 1);

	while (cap && cfg(0, 3, cap, 1) != PCI_CAP_ID_PCIE)
		cap = cfg(0, 3, cap + 1, 1);
	assert_int_not_equal(cap, 0);
	return cap;
}

static void test_header(void **state)
{
	plug(&pcie_root_port_class, "id=rp,addr=3,slot=5,port=2,chassis=1");
	assert_int_equal(cfg(0, 3, PCI_VENDOR_ID, 4), 0x000c1b36);
	assert_int_equal(cfg(0, 3, PCI_CLASS_DEVICE, 2), 0x0604);
	assert_int_equal(cfg(0, 3, PCI_HEADER_TYPE, 1), 0x01);
	set_cfg(0, 3, PCI_PRIMARY_BUS, 4, 0x00ffffff);
	assert_int_equal(cfg(0, 3, PCI_PRIMARY_BUS, 4), 0x00ffffff);
	set_cfg(0, 3, PCI_MEMORY_BASE, 4, 0xffffffff);
	assert_int_equal(cfg(0, 3, PCI_MEMORY_BASE, 4), 0xfff0fff0);
	set_cfg(0, 3, PCI_PREF_MEMORY_BASE, 4, 0xffffffff);
	assert_int_equal(cfg(0, 3, PCI_PREF_MEMORY_BASE, 4), 0xfff1fff1);
	set_cfg(0, 3, PCI_BASE_ADDRESS_0, 4, 0xffffffff);
	assert_int_equal(cfg(0, 3, PCI_BASE_ADDRESS_0, 4), 0);
	machine_reset_devices(&m);
	assert_int_equal(cfg(0, 3, PCI_PRIMARY_BUS, 4), 0);
	assert_int_equal(cfg(0, 3, PCI_MEMORY_BASE, 4), 0);
}

static void test_express_capability(void **state)
{
	static struct pci_device dev;
	static const struct pci_device_id id = { .vendor = 0x1234, .device = 0x5678 };
	unsigned exp;

	plug(&pcie_root_port_class, "id=rp,addr=3,slot=5,port=2");
	exp = find_exp();
	assert_int_equal(cfg(0, 3, exp + 2, 2), 0x0142);
	assert_int_equal(cfg(0, 3, exp + 0x0c, 4) >> 24, 2);
	assert_int_equal(cfg(0, 3, exp + 0x14, 4) >> 19, 5);
	assert_int_equal(cfg(0, 3, exp + 0x12, 2) & 0x2000, 0);
	assert_int_equal(cfg(0, 3, exp + 0x1a, 2) & 0x0040, 0);
	pci_device_init(&dev, "test", &id);
	assert_int_equal(pci_plug(pci_host_find_bus(m.pci, "rp", NULL), &dev, -1, 0, NULL), 0);
	assert_int_equal(cfg(0, 3, exp + 0x12, 2) & 0x2000, 0x2000);
	assert_int_equal(cfg(0, 3, exp + 0x1a, 2) & 0x0040, 0x0040);
	/* Behind the port once bus numbers are given. */
	assert_int_equal(cfg(1, 0, 0, 4), 0xffffffff);
	pci_assign(m.pci);
	assert_int_equal(cfg(1, 0, 0, 4), 0x56781234);
	assert_int_equal(cfg(1, 1, 0, 4), 0xffffffff);
	pci_device_destroy(&dev);
}

static void test_names(void **state)
{
	plug(&pcie_root_port_class, "");
	plug(&pcie_root_port_class, "");
	assert_non_null(pci_host_find_bus(m.pci, "pcie.1", NULL));
	assert_non_null(pci_host_find_bus(m.pci, "pcie.2", NULL));
	plug(&pcie_root_port_class, "id=x,multifunction=on,addr=4.0");
	plug(&pcie_root_port_class, "id=y,addr=4.1");
	assert_int_equal(cfg(0, 4, PCI_HEADER_TYPE, 1), 0x81);
}

static void test_refusals(void **state)
{
	static const struct {
		const char *options, *says;
	} bad[] = {
		{ "id=b,bus=pcie.9", "pcie.9" },
		{ "id=b,bus=rp", "root ports go on bus 'pcie.0'" },
		{ "id=b,addr=3", "taken by pcie-root-port" },
		{ "id=pcie.0", "already" },
		{ "id=b,hotplug=on", "hotplug=off" },
	};

	plug(&pcie_root_port_class, "id=rp,addr=3");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(try_plug(&pcie_root_port_class, bad[i].options), -1);
		if (!strstr(message, bad[i].says))
			fail_msg("'%s' does not say '%s'", message, bad[i].says);
	}
}

static void test_machine_without_pci(void **state)
{
	pci_host_free(m.pci);
	m.pci = NULL;
	assert_int_equal(try_plug(&pcie_root_port_class, "id=rp"), -1);
	assert_non_null(strstr(message, "no PCI"));
}

#define PCI_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown_machine)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PCI_TEST(test_header),   PCI_TEST(test_express_capability),  PCI_TEST(test_names),
		PCI_TEST(test_refusals), PCI_TEST(test_machine_without_pci),
	};

	return RUN_TESTS("root_port", tests);
}
