/*
 * The ACPI fixed hardware block at MACHINE_PM_BASE (ACPI 6.4 §4.8), for those who describe it in
 * the FADT and DSDT:
 *
 *	PM1a_EVT_BLK	PM_EVENT, 4 bytes
 *	PM1a_CNT_BLK	PM_CONTROL, 2 bytes
 *	PM_TMR_BLK	PM_TIMER, 4 bytes; 32 bits wide: set TMR_VAL_EXT
 *	GPE0_BLK	PM_GPE0, PM_GPE0_SIZE bytes
 *	SMI_CMD		0: there is no SMI; SCI_EN is always on, as on hardware-reduced firmware
 *	SCI_INT		MACHINE_SCI_GSI, level-triggered, active high
 *	_S5		SLP_TYP PM_SLP_TYP_S5 (0, which QEMU's q35 means by S5, powers off as well)
 *	PWR_BUTTON	flag clear: the power button is the fixed one
 *
 * The device class acpi_pm_class is in device_list.h.
 */
#ifndef REVIRT_MACHINE_PM_H
#define REVIRT_MACHINE_PM_H

#define PM_EVENT      0x00
#define PM_CONTROL    0x04
#define PM_TIMER      0x08
#define PM_GPE0       0x20
#define PM_GPE0_SIZE  16
#define PM_SIZE       0x30

#define PM_SLP_TYP_S5 5
#define PM_TIMER_HZ   3579545

#endif
