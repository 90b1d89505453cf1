/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the proxy runs to draw a request from the buckets that the kernel draws from: the same code on the same words, so
 * that both together stay within a limit. See docs/adr/0031.
 */
#include "http/limit.h"

/* Of one type, which prog arrays are: the program in force. Written by the agent, read by the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, HTTP_LIMIT_PROGRAMS);
	__type(key, __u32);
	__type(value, __u32);
} http_limit_programs SEC(".maps");

/* lane -> the proxy that counts in it. Written and read by proxies alone; it is here to be pinned with the rest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HTTP_LANES);
	__type(key, __u32);
	__type(value, struct http_lane);
} http_lanes SEC(".maps");

struct sweep {
	__u64 now;
	__u32 count;
};

static long sweep_step(void *map, struct http_bucket_key *key, __u64 *full, struct sweep *sweep)
{
	if (bucket_close(full, sweep->now)) {
		bpf_map_delete_elem(map, key);
		sweep->count++;
	}
	return 0;
}

SEC("syscall")
int alize_http_limit(struct http_draw *asked)
{
	if (asked->sweep) {
		struct sweep sweep = {.now = bpf_ktime_get_ns()};
		bpf_for_each_map_elem(&http_buckets, sweep_step, &sweep, 0);
		bpf_for_each_map_elem(&http_caller_buckets, sweep_step, &sweep, 0);
		asked->sweep = sweep.count;
		return 0;
	}
	struct http_rates rates = asked->rates;
	struct http_caller caller = asked->caller;
	__u64 wait = 0;
	asked->outcome = limits_draw(&rates, &caller, &wait);
	asked->wait_ns = wait;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
