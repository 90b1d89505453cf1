/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Third step: which endpoint. Every way of choosing reads one or two slots of a table that user space has worked
 * out, whatever the number of services and endpoints.
 */
#ifndef ALIZE_BALANCE_H
#define ALIZE_BALANCE_H

#include "atomics.h"
#include "client.h"
#include "endpoint.h"

/*
 * place -> slot word. Written by the agent, a run at a time, before a service word names the run; never rewritten
 * while a program may still read it. Read by connect and sendmsg.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* budgets.slots */
	__type(key, __u32);
	__type(value, __u64);
} slots SEC(".maps");

/* service -> turns taken so far. Written and read by connect and sendmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, __u64);
} turns SEC(".maps");

static __always_inline __u64 slot_read(__u64 word, __u32 index)
{
	__u32 place = FIELD(word, SERVICE_BASE) + index;
	__u64 *slot = bpf_map_lookup_elem(&slots, &place);
	return slot ? *slot : ~0ULL;
}

static __always_inline __u32 weighted_random(__u64 word, __u32 length)
{
	__u64 slot = slot_read(word, draw(length));
	__u32 odds = bpf_get_prandom_u32() >> (32 - SLOT_THRESHOLD_BITS);
	/* A threshold cannot say 2^24; an endpoint that is always taken is its own alias. */
	return odds < FIELD(slot, SLOT_THRESHOLD) ? FIELD(slot, SLOT_ENDPOINT) : FIELD(slot, SLOT_ALIAS);
}

static __always_inline __u32 round_robin(__u64 word, __u32 length, __u32 service)
{
	__u64 *turn = bpf_map_lookup_elem(&turns, &service);
	return FIELD(slot_read(word, turn ? FETCH_ADD(turn, 1) % length : 0), SLOT_ENDPOINT);
}

/* Open connections of the slot's endpoint, the new one included. */
static __always_inline __u64 load_with_one_more(__u64 slot)
{
	struct endpoint_load *load = endpoint_load_get(FIELD(slot, SLOT_ENDPOINT));
	return load ? (__u64)READ_ONCE(load->open) + 1 : 1;
}

/*
 * The better of two different endpoints drawn by chance (Mitzenmacher 2001): constant time, and no herd rushes to the
 * one that happens to be the emptiest.
 */
static __always_inline __u32 least_connections(__u64 word, __u32 length)
{
	__u32 one = draw(length);
	__u64 first = slot_read(word, one);
	if (length == 1)
		return FIELD(first, SLOT_ENDPOINT);
	__u64 second = slot_read(word, (one + 1 + draw(length - 1)) % length);
	/* load1 / weight1 <= load2 / weight2, without dividing */
	bool keep = load_with_one_more(first) * FIELD(second, SLOT_THRESHOLD) <=
		    load_with_one_more(second) * FIELD(first, SLOT_THRESHOLD);
	return FIELD(keep ? first : second, SLOT_ENDPOINT);
}

static __always_inline __u32 maglev(__u64 word, __u32 length, __u32 service, __u64 client)
{
	return FIELD(slot_read(word, mix(client ^ service) % length), SLOT_ENDPOINT);
}

/* The endpoint for a new connection; NONE when the service has none to offer. */
static __always_inline __u32 balance(__u64 word, __u32 service, __u64 client)
{
	__u32 length = FIELD(word, SERVICE_LENGTH);
	if (!length)
		return NONE;
	switch (FIELD(word, SERVICE_BALANCE)) {
	case BALANCE_ROUND_ROBIN:
		return round_robin(word, length, service);
	case BALANCE_LEAST_CONNECTIONS:
		return least_connections(word, length);
	case BALANCE_MAGLEV:
		return maglev(word, length, service, client);
	default:
		return weighted_random(word, length);
	}
}

#endif
