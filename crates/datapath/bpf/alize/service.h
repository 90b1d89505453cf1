/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Second step: what is to be done with a service's connections, read in one load. */
#ifndef ALIZE_SERVICE_H
#define ALIZE_SERVICE_H

#include "address.h"

/* number of a service -> its words. Written by the agent through mmap, one store a word; read by connect, sendmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

/* The word for a caller that dialled `address`: an IPv4 caller cannot reach an IPv6 endpoint. */
static __always_inline __u64 service_word(__u32 service, const __be32 address[4])
{
	struct service *entry = bpf_map_lookup_elem(&services, &service);
	if (!entry)
		return 0;
	return address_is_v4(address) ? READ_ONCE(entry->word4) : READ_ONCE(entry->word6);
}

#endif
