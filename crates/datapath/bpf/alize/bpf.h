/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every kernel program starts from. On the host (unit tests, sanitizers, fuzzing) the same logic is compiled
 * against the maps and helpers of tests/host/bpf.h; this is the only file that knows of both.
 */
#ifndef ALIZE_BPF_H
#define ALIZE_BPF_H

#ifdef ALIZE_HOST
#include "host/bpf.h"
#else
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#endif

#include "abi.h"

/* On the host the thread sanitizer has to know that a volatile access is meant to race. */
#ifdef ALIZE_HOST
#define READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, value) __atomic_store_n(&(x), value, __ATOMIC_RELAXED)
#else
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))
#endif

/* Reads a field that the enums NAME_SHIFT and NAME_BITS of abi.h lay out in a 64-bit word. */
#define FIELD(word, name) (((word) >> name##_SHIFT) & ((1ULL << name##_BITS) - 1))

/*
 * Counters are per CPU, yet a soft interrupt may come between load and store of the same CPU, so adding is atomic.
 */
#define COUNT(counter, amount) __sync_fetch_and_add(&(counter), (amount))

static __always_inline __u64 minimum(__u64 a, __u64 b)
{
	return a < b ? a : b;
}

/* A number below `bound` by chance: the high half of a product, which needs no division. */
static __always_inline __u32 draw(__u32 bound)
{
	return (__u64)bpf_get_prandom_u32() * bound >> 32;
}

#endif
