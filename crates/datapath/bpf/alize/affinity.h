/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Before balancing: has this client been here, not too long ago, and is its endpoint still taking connections? */
#ifndef ALIZE_AFFINITY_H
#define ALIZE_AFFINITY_H

#include "counters.h"
#include "endpoint.h"

/* client and service -> the endpoint it had. Written and read by connect and sendmsg; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* budgets.affinity */
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinity SEC(".maps");

static __always_inline __u32 affinity_find(__u64 client, __u32 service, __u64 timeout_s, bool v4, __u64 now)
{
	struct affinity_key key = {.client = client, .service = service, .v4 = v4};
	struct affinity *kept = bpf_map_lookup_elem(&affinity, &key);
	if (!kept || now - READ_ONCE(kept->seen_ns) >= timeout_s * 1000000000ULL)
		return NONE;
	__u32 number = READ_ONCE(kept->endpoint);
	struct endpoint *endpoint = endpoint_get(number);
	if (!endpoint || endpoint->service != service || endpoint->state != ENDPOINT_ACTIVE)
		return NONE;
	/* The number may be another's by now, but then it is an active endpoint of this very service. */
	if (v4 && !address_is_v4(endpoint->address))
		return NONE;
	WRITE_ONCE(kept->seen_ns, now);
	return number;
}

static __always_inline void affinity_save(__u64 client, __u32 service, bool v4, __u32 endpoint, __u64 now)
{
	struct affinity_key key = {.client = client, .service = service, .v4 = v4};
	struct affinity kept = {.seen_ns = now, .endpoint = endpoint};
	if (bpf_map_update_elem(&affinity, &key, &kept, BPF_ANY))
		count_anomaly(ANOMALY_AFFINITY_UNSAVED);
}

#endif
