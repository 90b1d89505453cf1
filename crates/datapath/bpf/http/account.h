/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel routed, and why it left the rest to the proxy. Made on first use, added to here, read by the agent. */
#ifndef HTTP_ACCOUNT_H
#define HTTP_ACCOUNT_H

#include "alize/counters.h"
#include "alize/latency.h"
#include "alize/text.h"
#include "http/reasons.h"
#include "http/slot.h"

/* service, route, endpoint -> what its requests came to. Written by far, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.endpoints, within a bound */
	__type(key, struct http_traffic_key);
	__type(value, struct http_traffic);
} http_traffic SEC(".maps");

/* endpoint -> requests that proxies have outstanding. Written by the proxy (mapped), read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, struct http_proxied);
} http_proxied SEC(".maps");

static const struct http_traffic no_http_traffic;

static __always_inline struct http_traffic *http_traffic_of(const struct http_traffic_key *key)
{
	struct http_traffic *traffic = bpf_map_lookup_elem(&http_traffic, key);
	if (traffic)
		return traffic;
	/* Another CPU may have been faster: only the second look tells. */
	bpf_map_update_elem(&http_traffic, key, &no_http_traffic, BPF_NOEXIST);
	traffic = bpf_map_lookup_elem(&http_traffic, key);
	if (!traffic)
		count_anomaly(ANOMALY_ENDPOINT_UNCOUNTED);
	return traffic;
}

/*
 * Counts one more request as outstanding at the endpoint, unless there are `most` already. The proxy does it in the same
 * order, its own count first and then the look at the other's: both together never let in more.
 */
static __always_inline bool load_reserve(__u32 endpoint, __u32 most)
{
	__u32 *load = bpf_map_lookup_elem(&http_load, &endpoint);
	struct http_proxied *proxied = bpf_map_lookup_elem(&http_proxied, &endpoint);
	if (!load || !proxied)
		return false;
	__u64 before = __sync_fetch_and_add(load, 1);
#pragma clang loop unroll(full)
	for (int i = 0; i < HTTP_LANES; i++)
		before += READ_ONCE(proxied->lane[i]);
	if (before < most)
		return true;
	__sync_fetch_and_add(load, -1);
	return false;
}

/*
 * The slot was taken for a request that is not sent on it, which is `counted` as outstanding already or not: it goes back,
 * and the request does not count. Who retires a slot that is lent takes one from the count, so it has to be in there first.
 */
__noinline __u32 slot_return(__u32 number, __u64 lease, __u32 counted)
{
	struct http_slot *slot = slot_get(number);
	if (!slot)
		return 0;
	if (!counted)
		load_change(slot->endpoint, 1);
	return slot_finish(number, lease, HTTP_SLOT_BUSY | HTTP_SLOT_OPEN);
}

/* Counts the exchange that has just ended on the slot; the caller still holds its lease. */
__noinline __u32 exchange_count(__u32 number)
{
	struct http_slot *slot = slot_get(number);
	if (!slot)
		return 0;
	struct http_traffic_key key = {
		.service = slot->service, .route = slot->route, .endpoint = slot->endpoint, .remote = !slot->far};
	struct http_traffic *traffic = http_traffic_of(&key);
	if (!traffic)
		return 0;
	__u64 latency = bpf_ktime_get_ns() - slot->started_ns;
	__u32 class = slot->status / 100;
	__u32 bucket = latency_bucket(latency);
	HIDE(class);
	COUNT(traffic->by_class[class < 6 ? class : 0], 1);
	COUNT(traffic->request_bytes, slot->request_bytes);
	COUNT(traffic->response_bytes, slot->response_bytes);
	COUNT(traffic->latency_ns, latency);
	HIDE(bucket);
	if (bucket < HTTP_LATENCY_BUCKETS)
		COUNT(traffic->latency[bucket], 1);
	return 1;
}

#endif
