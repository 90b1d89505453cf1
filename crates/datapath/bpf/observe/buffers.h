/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Working buffers. Sending runs in process context, where a soft interrupt with a packet, or on a preemptible kernel
 * another task, may run the same program on the same CPU in between: each run takes a buffer that nobody holds.
 */
#ifndef OBSERVE_BUFFERS_H
#define OBSERVE_BUFFERS_H

#include "tallies.h"
#include "window.h"

enum { BUFFERS_PER_CPU = 4 };

/* CPU * BUFFERS_PER_CPU + nesting -> a window. Of the programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUFFERS_PER_CPU); /* times the possible CPUs */
	__type(key, __u32);
	__type(value, struct window);
} windows SEC(".maps");

static __always_inline struct window *window_take(void)
{
	__u32 first = bpf_get_smp_processor_id() * BUFFERS_PER_CPU;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < BUFFERS_PER_CPU; i++) {
		__u32 place = first + i;
		struct window *window = bpf_map_lookup_elem(&windows, &place);
		if (!window)
			return 0;
		if (!__sync_lock_test_and_set(&window->busy, 1))
			return window;
	}
	return 0;
}

static __always_inline void window_give(struct window *window)
{
	/* Who asks next is on this CPU, so a plain store will do. */
	*(volatile __u64 *)&window->busy = 0;
}

#endif
