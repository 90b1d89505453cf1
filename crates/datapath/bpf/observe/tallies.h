/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tallies: what happened how often; nothing that is not followed, kept or sent goes uncounted. */
#ifndef OBSERVE_TALLIES_H
#define OBSERVE_TALLIES_H

#include "words.h"

/* Per CPU, yet a soft interrupt may come between load and store, so adding is atomic. */
#define ADD(counter, amount) __sync_fetch_and_add(&(counter), (amount))

/* enum tally -> how often. Written by the observing programs, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TALLIES);
	__type(key, __u32);
	__type(value, __u64);
} tallies SEC(".maps");

static __always_inline void tally_add(__u32 tally, __u64 amount)
{
	__u64 *count = bpf_map_lookup_elem(&tallies, &tally);
	if (count)
		ADD(*count, amount);
}

static __always_inline void tally(__u32 tally)
{
	tally_add(tally, 1);
}

#endif
