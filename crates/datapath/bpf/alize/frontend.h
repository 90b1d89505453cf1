/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* First step: is what the caller dials the address of a service? */
#ifndef ALIZE_FRONTEND_H
#define ALIZE_FRONTEND_H

#include "address.h"

/* what a client dials -> number of the service. Written by the agent, read by connect and sendmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* twice budgets.services */
	__type(key, struct frontend_key);
	__type(value, __u32);
} frontends SEC(".maps");

static __always_inline __u32 frontend_find(const struct frontend_key *key)
{
	__u32 *service = bpf_map_lookup_elem(&frontends, key);
	return service ? *service : NONE;
}

#endif
