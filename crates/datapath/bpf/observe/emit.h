/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How another program than the observing ones tells of a request that it has seen: to the traces that want it, and to
 * the flight recorder. For any kind of program (sk_msg, sk_skb, cgroup), whose object the loader has to give
 * the observer's maps (`observe::share_maps` in Rust).
 *
 *	__u64 now = bpf_ktime_get_ns();
 *	if (trace_wanted(latency, status, now)) {
 *		struct request_event *event = trace_draft();
 *		if (event) {
 *			event->... = ...; // times are in ns; all that is not set is 0, no service, and seen at the client
 *			trace_emit(event, now);
 *		}
 *	}
 *
 * A draft that was taken has to be emitted or given back (trace_forget), or its place is lost to the CPU.
 */
#ifndef OBSERVE_EMIT_H
#define OBSERVE_EMIT_H

#include "recorder.h"
#include "trace.h"

enum { DRAFTS = 4 };

/* A request that is being written down. */
struct draft {
	struct request_event event; /* first: trace_emit() goes from it to the draft */
	__u64 busy;
};

/* nesting -> draft; a soft interrupt or another task may come in between on the same CPU. Of the programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DRAFTS);
	__type(key, __u32);
	__type(value, struct draft);
} drafts SEC(".maps");

/* Whether anybody would look at it; most requests cost no more than this. */
static __always_inline bool trace_wanted(__u64 latency_ns, __u32 status, __u64 now)
{
	return trace_active() || status >= FAILED_FROM || !status || records_slow(latency_ns, now);
}

/* A place to write a request down, cleared. NULL: all are in use, which is counted as a lost event. */
static __always_inline struct request_event *trace_draft(void)
{
	for (__u32 i = 0; i < DRAFTS; i++) {
		__u32 place = i;
		struct draft *draft = bpf_map_lookup_elem(&drafts, &place);
		if (!draft)
			break;
		if (__sync_lock_test_and_set(&draft->busy, 1))
			continue;
		__builtin_memset(&draft->event, 0, sizeof(draft->event));
		draft->event.type = EVENT_TYPE_REQUEST;
		draft->event.service = ~0U;
		return &draft->event;
	}
	tally(TALLY_EVENT_LOST);
	return 0;
}

static __always_inline void trace_forget(struct request_event *event)
{
	/* Who asks next is on this CPU, so a plain store will do. */
	*(volatile __u64 *)&((struct draft *)event)->busy = 0;
}

/* Sends the request to the traces that want it, and keeps it if it is among the slowest or has failed. */
static __always_inline void trace_emit(struct request_event *event, __u64 now)
{
	if (records_slow(event->latency_ns, now))
		record_slow(event, now);
	if (event->status >= FAILED_FROM || !event->status)
		record_failed(event);
	if (trace_active())
		trace_send(event, now);
	trace_forget(event);
}

#endif
