/*
 * The device classes of this room, by name: what a -device option may plug in, and what a PC has
 * soldered on. The second list is plugged by revirter's assemble.c; users do not name it.
 */
#ifndef REVIRT_MACHINE_DEVICE_LIST_H
#define REVIRT_MACHINE_DEVICE_LIST_H

#include "machine/device.h"

/* -device */
extern const struct device_class isa_debug_exit_class; /* "isa-debug-exit" */
extern const struct device_class isa_debugcon_class;   /* "isa-debugcon" */
extern const struct device_class isa_serial_class;     /* "isa-serial" */
extern const struct device_class pc_testdev_class;     /* "pc-testdev" */
extern const struct device_class pcie_root_port_class; /* "pcie-root-port" */
extern const struct device_class pvpanic_class;        /* "pvpanic" */

/* Soldered on. irqchip: before any device that interrupts, where the backend lacks it. RTC: after
 * memory and the number of vCPUs are known; its properties are -rtc's. */
extern const struct device_class i8042_class; /* "i8042": not on microvm, nor with i8042=off */
extern const struct device_class mc146818rtc_class; /* "mc146818rtc" */
extern const struct device_class acpi_pm_class;     /* "acpi-pm" */
extern const struct device_class irqchip_class;     /* "irqchip" */
extern const struct device_class reset_ports_class; /* "reset-ports": 0xcf9 and 0x92 */

#endif
