/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flight recorder: the slowest exchanges of late and the last that failed, kept although nobody was watching. */
#ifndef OBSERVE_RECORDER_H
#define OBSERVE_RECORDER_H

#include "tallies.h"

enum {
	SLOWEST_WINDOW = 600, /* seconds; what is older is replaced by anything */
	FAILED_FROM = 500, /* status */
	SECOND = 1000000000,
};

/* place -> record, the slowest of the last SLOWEST_WINDOW seconds in no order. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RECORDS);
	__type(key, __u32);
	__type(value, struct record);
} slowest SEC(".maps");

/* What is in the places of `slowest`. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slowest_order);
} slowest_orders SEC(".maps");

/* number of the failure % RECORDS -> record. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RECORDS);
	__type(key, __u32);
	__type(value, struct record);
} failed_exchanges SEC(".maps");

/* How many failures were recorded. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} failures_recorded SEC(".maps");

/* A reader that finds `sequence` odd, or changed when it is done, reads again. */
static __always_inline void record_write(struct record *record, const struct request_event *event)
{
	__u64 sequence = *(volatile __u64 *)&record->sequence;
	/* Another CPU is writing this place: with RECORDS places that is a lap ahead, and one of the two may go. */
	if (sequence & 1 || __sync_val_compare_and_swap(&record->sequence, sequence, sequence + 1) != sequence)
		return;
	__builtin_memcpy(&record->event, event, sizeof(*event));
	__sync_lock_test_and_set(&record->sequence, sequence + 2);
}

static __always_inline __u64 slowest_word(__u64 latency_ns, __u64 now)
{
	__u64 microseconds = latency_ns / 1000;
	if (microseconds > 0xffffffff)
		microseconds = 0xffffffff;
	return microseconds << 32 | now / SECOND;
}

/* The place to give up first. */
struct scan {
	struct slowest_order *order;
	__u64 second;
	__u64 least; /* latency, microseconds */
	__u64 held;
	__u32 place;
};

static long scan_step(__u32 i, void *context)
{
	struct scan *scan = context;
	if (i >= RECORDS)
		return 1;
	__u64 word = *(volatile __u64 *)&scan->order->places[i];
	__u64 latency = scan->second - (__u32)word > SLOWEST_WINDOW ? 0 : word >> 32;
	if (latency < scan->least) {
		scan->least = latency;
		scan->place = i;
		scan->held = word;
	}
	return 0;
}

/* Records the exchange if one of the places holds a faster or an old one. */
__noinline int record_slow(struct request_event *event, __u64 now)
{
	__u32 zero = 0;
	struct slowest_order *order = bpf_map_lookup_elem(&slowest_orders, &zero);
	if (!event || !order)
		return 0;
	struct scan scan = {.order = order, .second = now / SECOND, .least = ~0ULL};
	bpf_loop(RECORDS, scan_step, &scan, 0);
	__u32 place = scan.place;
	__u64 word = slowest_word(event->latency_ns, now);
	/* Until something slower comes or a second has gone by, only what beats the fastest place need look. */
	order->floor = scan.least << 32 | (__u32)scan.second;
	if (word >> 32 <= scan.least && scan.least)
		return 0;
	if (place >= RECORDS || __sync_val_compare_and_swap(&order->places[place], scan.held, word) != scan.held)
		return 0;
	struct record *record = bpf_map_lookup_elem(&slowest, &place);
	if (record)
		record_write(record, event);
	return 1;
}

/* Whether record_slow() would take an exchange: all that most of them cost. */
static __always_inline bool records_slow(__u64 latency_ns, __u64 now)
{
	__u32 zero = 0;
	struct slowest_order *order = bpf_map_lookup_elem(&slowest_orders, &zero);
	if (!order)
		return false;
	__u64 floor = *(volatile __u64 *)&order->floor;
	/* The floor sinks when records get old, so it is worked out anew now and then. */
	return latency_ns > (floor >> 32) * 1000 || (now >> 30) - ((floor & 0xffffffff) * SECOND >> 30) > 5;
}

static __always_inline void record_failed(const struct request_event *event)
{
	__u32 zero = 0;
	__u64 *recorded = bpf_map_lookup_elem(&failures_recorded, &zero);
	if (!recorded)
		return;
	__u32 place = __sync_fetch_and_add(recorded, 1) & (RECORDS - 1);
	struct record *record = bpf_map_lookup_elem(&failed_exchanges, &place);
	if (record)
		record_write(record, event);
}

#endif
