/*
 * Packets of GDB's remote serial protocol (GDB manual, appendix E): framing, numbers, thread ids.
 * No I/O and no knowledge of what packets say.
 */
#ifndef REVIRT_REVIRTER_GDB_PACKET_H
#define REVIRT_REVIRTER_GDB_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GDB_PACKET_MAX 0x4000 /* bytes of a packet we take; told as PacketSize */

/* --- From the peer ---- */

enum gdb_input {
	GDB_MORE,      /* nothing complete yet */
	GDB_PACKET,    /* data and len are one, until the next push */
	GDB_CORRUPT,   /* one with a wrong checksum or a broken run length */
	GDB_TOO_LONG,  /* one that did not fit, and is dropped */
	GDB_ACK,       /* + */
	GDB_NAK,       /* - */
	GDB_INTERRUPT, /* Ctrl-C between packets */
};

struct gdb_framer {
	enum { GDB_IDLE, GDB_DATA, GDB_ESCAPE, GDB_RUN, GDB_SUM_HIGH, GDB_SUM_LOW } state;
	uint8_t sum, told; /* of what came; what the peer says it is */
	bool corrupt, too_long;
	size_t len;
	char data[GDB_PACKET_MAX + 1]; /* with a NUL after it */
};

enum gdb_input gdb_framer_push(struct gdb_framer *framer, uint8_t byte);
void gdb_framer_reset(struct gdb_framer *framer);

/* Reads a hexadecimal number of 1 to 16 digits and moves *text past it. */
bool gdb_parse_hex(const char **text, uint64_t *value);
/* Moves *text past this character, if it is there. */
bool gdb_parse_char(const char **text, char c);
/* Bytes written as pairs of digits; false: not `len` of them. */
bool gdb_parse_bytes(const char *text, void *bytes, size_t len);

#define GDB_ALL (-1)
#define GDB_ANY 0
/* "p1.2", "p1", "p1.-1", "2", "-1", "0": a thread's number, GDB_ALL or GDB_ANY. Process is always
 * 1, and what is said of another is nonsense. */
bool gdb_parse_thread(const char **text, int64_t *thread);

/* --- To the peer ---- */

struct gdb_buffer {
	char *data; /* without a NUL; NULL while there is nothing */
	size_t len, size;
};

void gdb_add(struct gdb_buffer *buffer, const void *data, size_t len);
void gdb_addf(struct gdb_buffer *buffer, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void gdb_add_hex(struct gdb_buffer *buffer, const void *data, size_t len);
/* Binary data, with what means something in a packet escaped. */
void gdb_add_binary(struct gdb_buffer *buffer, const void *data, size_t len);
/* Adds payload, which is escaped where it must be, as a packet. */
void gdb_add_packet(struct gdb_buffer *buffer, const struct gdb_buffer *payload);
void gdb_buffer_free(struct gdb_buffer *buffer);
#define GDB_BUFFER_AUTO __attribute__((cleanup(gdb_buffer_free)))

#endif
