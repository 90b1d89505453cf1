/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Rate limits: token buckets of one word, the time at which a bucket will be full again, changed by compare-and-swap
 * alone. The proxy draws from the same buckets by running alize_http_limit; see docs/adr/0031.
 */
#ifndef HTTP_LIMIT_H
#define HTTP_LIMIT_H

#include "alize/bpf.h"
#include "http/abi.h"

enum {
	LIMIT_TRIES = 16, /* compare-and-swaps against other CPUs */
	LIMIT_SWEPT_NS = 1000000000, /* a bucket that has been full for so long is like one that is not there */
};

/* Of a bucket that is about to be removed: nobody draws from it any more. */
#define BUCKET_GONE (~0ULL)

/* rule -> its rate limits. Written by the agent before a table names the rule; read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* as http_rules */
	__type(key, __u32);
	__type(value, struct http_rates);
} http_rates SEC(".maps");

/* limit -> its bucket. Made on first use; written by client and, by http_limit, the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* as http_rules, twice */
	__type(key, struct http_bucket_key);
	__type(value, __u64);
} http_buckets SEC(".maps");

/* limit and caller -> a bucket. As http_buckets, and apart from them: callers without number crowd nobody else out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct http_bucket_key);
	__type(value, __u64);
} http_caller_buckets SEC(".maps");

/* Draws one request, in `wait` how long until there is one. enum http_draw_outcome. */
static __always_inline __u32 bucket_draw(__u64 *full, const struct http_limit *limit, __u64 now, __u64 *wait)
{
	for (int i = 0; i < LIMIT_TRIES; i++) {
		__u64 before = READ_ONCE(*full), from = before > now ? before : now;
		if (before == BUCKET_GONE)
			return HTTP_DRAW_BUSY;
		if (from - now > limit->room_ns) {
			*wait = from - now - limit->room_ns;
			return HTTP_DRAW_OVER;
		}
		if (__sync_val_compare_and_swap(full, before, from + limit->interval_ns) == before)
			return HTTP_DRAW_TAKEN;
	}
	return HTTP_DRAW_BUSY;
}

/* A request that was drawn is not served after all. */
static __always_inline void bucket_give_back(__u64 *full, const struct http_limit *limit)
{
	/* What was drawn from is ahead of now, and is not removed. */
	__sync_fetch_and_add(full, -limit->interval_ns);
}

/*
 * Whether a bucket is to be removed, and was closed for that. Who draws at the same moment is either seen here, or sees that
 * the bucket is gone, and asks again.
 */
static __always_inline bool bucket_close(__u64 *full, __u64 now)
{
	__u64 before = READ_ONCE(*full);
	if (before == BUCKET_GONE || before + LIMIT_SWEPT_NS > now)
		return false;
	return __sync_val_compare_and_swap(full, before, BUCKET_GONE) == before;
}

static __always_inline __u64 *bucket_of(const struct http_limit *limit, const struct http_caller *caller)
{
	struct http_bucket_key key = {.bucket = limit->bucket};
	__u64 none = 0;
	if (!limit->per_caller) {
		__u64 *bucket = bpf_map_lookup_elem(&http_buckets, &key);
		if (bucket)
			return bucket;
		/* Another CPU may have been faster: only the second look tells. */
		bpf_map_update_elem(&http_buckets, &key, &none, BPF_NOEXIST);
		return bpf_map_lookup_elem(&http_buckets, &key);
	}
	key.caller = *caller;
	__u64 *bucket = bpf_map_lookup_elem(&http_caller_buckets, &key);
	if (bucket)
		return bucket;
	bpf_map_update_elem(&http_caller_buckets, &key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&http_caller_buckets, &key);
}

/* Draws a request from the buckets of all limits, or from none of them. */
static __always_inline __u32 limits_draw(const struct http_rates *rates, const struct http_caller *caller, __u64 *wait)
{
	__u64 now = bpf_ktime_get_ns();
	const struct http_limit *first = &rates->limit[0], *second = &rates->limit[1];
	__u64 *drawn = 0;
	if (first->bucket) {
		drawn = bucket_of(first, caller);
		__u32 outcome = drawn ? bucket_draw(drawn, first, now, wait) : HTTP_DRAW_FULL;
		if (outcome != HTTP_DRAW_TAKEN)
			return outcome;
	}
	if (!second->bucket)
		return HTTP_DRAW_TAKEN;
	__u64 *other = bucket_of(second, caller);
	__u32 outcome = other ? bucket_draw(other, second, now, wait) : HTTP_DRAW_FULL;
	if (outcome != HTTP_DRAW_TAKEN && drawn)
		bucket_give_back(drawn, first);
	return outcome;
}

/* Draws for a request under rule number `rule`; enum http_draw_outcome. */
__noinline __u32 rule_draw(__u32 rule, struct http_caller *caller)
{
	__u64 wait = 0;
	struct http_rates *rates = bpf_map_lookup_elem(&http_rates, &rule);
	return rates && caller ? limits_draw(rates, caller, &wait) : HTTP_DRAW_FULL;
}

/* The request that was drawn for is the proxy's after all, which draws for it. */
__noinline __u32 rule_give_back(__u32 rule, struct http_caller *caller)
{
	struct http_rates *rates = bpf_map_lookup_elem(&http_rates, &rule);
	if (!rates || !caller)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < HTTP_RATES; i++) {
		const struct http_limit *limit = &rates->limit[i];
		__u64 *bucket = limit->bucket ? bucket_of(limit, caller) : 0;
		if (bucket)
			bucket_give_back(bucket, limit);
	}
	return 1;
}

static __always_inline __u32 draw_reason(__u32 outcome)
{
	switch (outcome) {
	case HTTP_DRAW_OVER:
		return HTTP_REASON_RATE_LIMITED;
	case HTTP_DRAW_FULL:
		return HTTP_REASON_LIMIT_FULL;
	default:
		return HTTP_REASON_BUSY;
	}
}

#endif
