/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Endpoints: where they are, what state they are in, how much they hold. */
#ifndef ALIZE_ENDPOINT_H
#define ALIZE_ENDPOINT_H

#include "address.h"

/* number of an endpoint -> where it is. Written by the agent before any slot names it; read by all programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* number of an endpoint -> what it holds now. Written by connect, sockops and release; read by connect and the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, struct endpoint_load);
} endpoint_load SEC(".maps");

static __always_inline struct endpoint *endpoint_get(__u32 endpoint)
{
	return bpf_map_lookup_elem(&endpoints, &endpoint);
}

static __always_inline struct endpoint_load *endpoint_load_get(__u32 endpoint)
{
	return bpf_map_lookup_elem(&endpoint_load, &endpoint);
}

#endif
