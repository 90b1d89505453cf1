/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Traces: exchanges that somebody asked for, filtered here, so that the others cost no more than one load. */
#ifndef OBSERVE_TRACE_H
#define OBSERVE_TRACE_H

#include "tallies.h"

/* which filters are active, as bits. Written by the agent, before (off) and after (on) it writes a filter. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} tracing SEC(".maps");

/* place -> what a trace wants. Written by the agent, read by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILTERS);
	__type(key, __u32);
	__type(value, struct filter);
} filters SEC(".maps");

/* place -> what its rate limit has left. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILTERS);
	__type(key, __u32);
	__type(value, struct filter_state);
} filter_states SEC(".maps");

/* servers that a filter asks for. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536); /* budget */
	__type(key, struct filter_endpoint);
	__type(value, __u32);
} filter_endpoints SEC(".maps");

/* cgroups that a filter asks for. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536); /* budget */
	__type(key, struct filter_cgroup);
	__type(value, __u32);
} filter_cgroups SEC(".maps");

/* struct request_event, tcp_event and dns_event, oldest first. Written by the programs, read by the agent on a timer: nobody is woken. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* budget */
} traces SEC(".maps");

static __always_inline bool words_begin(const char *text, const char *prefix, __u32 length, __u32 words)
{
	__u64 differs = 0;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++) {
		if (i * 8 >= length)
			break;
		differs |= low_bytes(((const __u64 *)text)[i] ^ ((const __u64 *)prefix)[i], length - i * 8);
	}
	return !differs;
}

/* What a filter looks at, whatever the event is about. */
struct subject {
	__u32 type; /* enum event_type */
	__u32 service;
	__u64 latency_ns;
	const struct identity *client, *server; /* the server may be NULL */
	const __be32 *address; /* of the server; four words */
	__be16 port;
};

static __always_inline bool identity_matches(const struct identity *identity, const struct filter *filter, __u32 place)
{
	if (filter->pid && identity->pid != filter->pid)
		return false;
	if (filter->cgroup && identity->cgroup != filter->cgroup)
		return false;
	if (filter->sets & FILTER_SET_CGROUPS) {
		struct filter_cgroup key = {.cgroup = identity->cgroup, .place = place};
		if (!bpf_map_lookup_elem(&filter_cgroups, &key))
			return false;
	}
	return !filter->comm_length || words_begin(identity->comm, filter->comm, filter->comm_length, COMM_SIZE / 8);
}

/* By the service that was dialled; where that is not known, by the server's address. */
static __always_inline bool service_matches(const struct filter *filter, const struct subject *subject, __u32 place)
{
	bool endpoints = filter->sets & FILTER_SET_ENDPOINTS;
	if (filter->service == ~0U && !endpoints)
		return true;
	if (subject->service != ~0U && filter->service != ~0U)
		return subject->service == filter->service;
	if (!endpoints)
		return false;
	struct filter_endpoint key = {.port = subject->port, .place = place};
	__builtin_memcpy(key.address, subject->address, sizeof(key.address));
	return bpf_map_lookup_elem(&filter_endpoints, &key) != 0;
}

static __always_inline bool subject_matches(const struct filter *filter, const struct subject *subject, __u32 place)
{
	if (!filter->active || !(filter->events >> (subject->type & 31) & 1) ||
	    subject->latency_ns < filter->latency_ns)
		return false;
	if (!service_matches(filter, subject, place))
		return false;
	return identity_matches(subject->client, filter, place) ||
	       (subject->server && identity_matches(subject->server, filter, place));
}

static __always_inline bool request_matches(const struct filter *filter, const struct request_event *event)
{
	if (filter->methods && !(filter->methods >> (event->method & 31) & 1))
		return false;
	if (filter->status_to && (event->status < filter->status_from || event->status > filter->status_to))
		return false;
	return filter->prefix_length <= event->target_length &&
	       words_begin(event->target, filter->prefix, filter->prefix_length, PREFIX_SIZE / 8);
}

/*
 * The rate, as the time when the next event is due: it goes ahead by one interval an event, may lag behind now by
 * the burst, and who finds it in the future has to wait. One word, so that compare-and-swap is all the lock it needs.
 */
static __always_inline bool filter_allows(__u32 place, const struct filter *filter, __u64 now)
{
	if (!filter->interval_ns)
		return true;
	struct filter_state *state = bpf_map_lookup_elem(&filter_states, &place);
	if (!state)
		return false;
	__u64 due = *(volatile __u64 *)&state->allowed_ns;
	__u64 from = now > filter->burst_ns ? now - filter->burst_ns : 0;
	__u64 start = due > from ? due : from;
	if (start > now || __sync_val_compare_and_swap(&state->allowed_ns, due, start + filter->interval_ns) != due) {
		tally(TALLY_EVENT_LIMITED);
		return false;
	}
	return true;
}

/* By chance, and by the rate: asked last, when all else holds. */
static __always_inline bool filter_lets(__u32 place, const struct filter *filter, __u64 now)
{
	return (filter->one_in < 2 || bpf_get_prandom_u32() % filter->one_in == 0) && filter_allows(place, filter, now);
}

/* Which filters want the event, as bits. */
__noinline __u32 filters_matching(struct request_event *event, __u64 now)
{
	if (!event)
		return 0;
	struct subject subject = {
		.type = EVENT_TYPE_REQUEST,
		.service = event->service,
		.latency_ns = event->latency_ns,
		.client = &event->client,
		.server = &event->server,
		.address = event->server_address,
		.port = event->server_port,
	};
	__u32 matched = 0;
	for (__u32 i = 0; i < FILTERS; i++) {
		__u32 place = i;
		struct filter *filter = bpf_map_lookup_elem(&filters, &place);
		if (filter && subject_matches(filter, &subject, i) && request_matches(filter, event) &&
		    filter_lets(i, filter, now))
			matched |= 1U << i;
	}
	return matched;
}

static __always_inline bool trace_active(void)
{
	__u32 zero = 0;
	__u64 *active = bpf_map_lookup_elem(&tracing, &zero);
	return active && *active;
}

static __always_inline void trace_write(void *event, __u64 size)
{
	bool lost = bpf_ringbuf_output(&traces, event, size, BPF_RB_NO_WAKEUP);
	tally(lost ? TALLY_EVENT_LOST : TALLY_EVENT);
}

static __always_inline void trace_send(struct request_event *event, __u64 now)
{
	event->matched = filters_matching(event, now);
	if (event->matched)
		trace_write(event, sizeof(*event));
}

#endif
