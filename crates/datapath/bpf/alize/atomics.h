/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Atomics that return what was there before: Linux 5.12 (BPF_FETCH). An older verifier refuses them wherever they stand,
 * also where no path leads, so that neither `const volatile` nor CO-RE can choose; hence a second build of the objects
 * that use them, with ALIZE_WITHOUT_FETCH, and src/variant.rs loads it there. In it two CPUs at the same moment may read
 * the same value.
 */
#ifndef ALIZE_ATOMICS_H
#define ALIZE_ATOMICS_H

#include "bpf.h"

#ifdef ALIZE_WITHOUT_FETCH
#define FETCH_ADD(place, amount)                               \
	({                                                     \
		typeof(*(place)) before = READ_ONCE(*(place)); \
		__sync_fetch_and_add((place), (amount));       \
		before;                                        \
	})
#define EXCHANGE(place, value)                                 \
	({                                                     \
		typeof(*(place)) before = READ_ONCE(*(place)); \
		WRITE_ONCE(*(place), (value));                 \
		before;                                        \
	})
#else
#define FETCH_ADD(place, amount) __sync_fetch_and_add((place), (amount))
#define EXCHANGE(place, value) __sync_lock_test_and_set((place), (value))
#endif

#endif
