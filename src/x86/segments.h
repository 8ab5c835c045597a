/*
 * Segment descriptors (Intel SDM vol. 3 §3.4.5, §7.2; APM vol. 2 §4.7). Freestanding.
 *
 * A descriptor's attributes are written as the VMCB's save area has them, the descriptor's bits 40
 * to 55 without the limit's nibble: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11.
 */
#ifndef REVIRT_X86_SEGMENTS_H
#define REVIRT_X86_SEGMENTS_H

#include <stdint.h>

#define SEG_TYPE_DATA_RW  0x3 /* read/write, accessed */
#define SEG_TYPE_CODE_RX  0xb /* execute/read, accessed */
#define SEG_TYPE_TSS_BUSY 0xb /* a system segment: 32-bit TSS, or the 64-bit one in long mode */
#define SEG_S             (1u << 4)
#define SEG_P             (1u << 7)
#define SEG_L             (1u << 9)
#define SEG_DB            (1u << 10)
#define SEG_G             (1u << 11)

#define SEG_ATTR_DATA     (SEG_TYPE_DATA_RW | SEG_S | SEG_P | SEG_DB | SEG_G)
#define SEG_ATTR_CODE32   (SEG_TYPE_CODE_RX | SEG_S | SEG_P | SEG_DB | SEG_G)
#define SEG_ATTR_CODE64   (SEG_TYPE_CODE_RX | SEG_S | SEG_P | SEG_L | SEG_G)
#define SEG_ATTR_TSS      (SEG_TYPE_TSS_BUSY | SEG_P)

/*
 * The eight bytes of a descriptor. limit is in bytes, as the hidden part of a segment register
 * holds it; with SEG_G it is cut to pages. (System descriptors of long mode have eight more, the
 * base's upper half.)
 */
uint64_t segment_descriptor(uint32_t base, uint32_t limit, uint16_t attr);

#endif
