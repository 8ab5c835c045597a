/*
 * AML, the byte code of ACPI's definition blocks (ACPI 6.4 §20.2), put together in a growing
 *buffer.
 *
 * Objects that contain others are opened by a function that returns where their contents begin, and
 * closed with aml_end():
 *
 *	size_t device = aml_device(&a, "COM1");
 *	aml_name(&a, "_UID");
 *	aml_integer(&a, 1);
 *	aml_end(&a, device);
 *
 * A zeroed struct is empty; aml_free() gives its memory back. Paths are written as in ASL:
 * "\\_SB.PCI0", "_CRS"; their parts have at most four characters.
 */
#ifndef REVIRT_MACHINE_AML_H
#define REVIRT_MACHINE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *data;
	size_t len, room;
};

void aml_free(struct aml *a);

/* Bytes as they are; integers little-endian, in so many bytes. */
void aml_bytes(struct aml *a, const void *bytes, size_t n);
void aml_raw(struct aml *a, uint64_t value, unsigned n_bytes);

/* --- Data, §20.2.3 --- */

void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *s);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A08" */
void aml_uuid(struct aml *a, const char *uuid);  /* as ToUUID() takes it */
void aml_buffer(struct aml *a, const void *bytes, size_t n);
size_t aml_package(struct aml *a, uint8_t n_elements);

/* --- Names and what is named, §20.2.2 and §20.2.5 --- */

void aml_path(struct aml *a, const char *path);
void aml_name(struct aml *a, const char *path); /* then its object */
void aml_name_integer(struct aml *a, const char *path, uint64_t value);
void aml_name_eisa_id(struct aml *a, const char *path, const char *id);
size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *path);
size_t aml_method(struct aml *a, const char *path, unsigned n_args, bool serialized);
/* CreateDWordField (ArgN, byte, name) */
void aml_dword_field(struct aml *a, unsigned arg, unsigned byte, const char *name);

/* Closes what the function that returned `start` opened. */
void aml_end(struct aml *a, size_t start);

/* --- Statements and expressions, §20.2.5.3 and .4; operands follow --- */

enum aml_op {
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_ARG1 = 0x69,
	AML_ARG3 = 0x6b,
	AML_STORE = 0x70, /* value, target */
	AML_AND = 0x7b,   /* a, b, target; target may be AML_NOWHERE */
	AML_OR = 0x7d,
	AML_LNOT = 0x92,
	AML_LEQUAL = 0x93,
	AML_RETURN = 0xa4,
	AML_NOWHERE = 0x00,
};
void aml_op(struct aml *a, enum aml_op op);
size_t aml_if(struct aml *a);
size_t aml_else(struct aml *a);

/* --- Resource descriptors, §6.4; collected in a buffer of their own --- */

/* Name (_CRS, ResourceTemplate { descriptors }) */
void aml_crs(struct aml *a, const struct aml *descriptors);

void aml_res_irq(struct aml *a, unsigned irq); /* edge-triggered, active high, exclusive */
void aml_res_io(struct aml *a, uint16_t base, uint8_t n);
void aml_res_memory32(struct aml *a, uint32_t base, uint32_t size);

/* What a bridge passes on: [base, base + size). */
void aml_res_bus_window(struct aml *a, uint16_t base, uint16_t size);
void aml_res_io_window(struct aml *a, uint16_t base, uint32_t size);
void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t size);
void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t size);

#endif
