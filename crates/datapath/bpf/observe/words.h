/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every observing program starts from: the kernel's helpers, and text as words of eight bytes. */
#ifndef OBSERVE_WORDS_H
#define OBSERVE_WORDS_H

#ifdef ALIZE_HOST
#include "host/bpf.h"
#else
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#endif

#include "abi.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are compared as little-endian text"
#endif

#define BYTES(byte) (0x0101010101010101ULL * (byte))
#define HIGH_BITS BYTES(0x80)

/* Keeps the compiler from folding a mask away: the verifier needs to see it. */
#define HIDE(x) asm volatile("" : "+r"(x))

/* The high bit of each byte that equals `byte`, exact up to the first such byte. */
static __always_inline __u64 equal_bytes(__u64 word, __u8 byte)
{
	__u64 x = word ^ BYTES(byte);
	return (x - BYTES(1)) & ~x & HIGH_BITS;
}

/* The place, 0 to 7, of the first high bit in a mask that is not 0; BPF has no instruction to count zeros. */
static __always_inline __u32 first_byte(__u64 mask)
{
	return ((((mask - 1) & ~mask) & BYTES(1)) * BYTES(1) >> 56) - 1;
}

/* The first `count` bytes of a word, 0 to 8. */
static __always_inline __u64 low_bytes(__u64 word, __u32 count)
{
	if (count >= 8)
		return word;
	return word & ((1ULL << (count * 8)) - 1);
}

#define TEXT4(a, b, c, d) ((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24)
#define TEXT8(a, b, c, d, e, f, g, h) (TEXT4(a, b, c, d) | TEXT4(e, f, g, h) << 32)

/* Makes letters lower case; "-" and ":" stay. A few control characters turn into something else, never into a letter. */
#define LOWER(word) ((word) | BYTES(0x20))

#endif
