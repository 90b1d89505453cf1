/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* As conformance.bpf.c: what routing to endpoints elsewhere relies on beyond that. An object of its own, for it may be refused. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "conformance/abi.h"

/* That of conformance.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u64);
} sockets SEC(".maps");

/* socket cookie -> socket. Written by the probe; its program is `conformance_back_entry`. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} backs SEC(".maps");

/* socket cookie -> what to do with what arrives there. Made by the probe. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct conformance_plan);
} back_plans SEC(".maps");

/* 0 -> the program that is in force. Written by the probe. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} back_steps SEC(".maps");

static __always_inline int step(struct __sk_buff *skb, __u32 number)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct conformance_plan *plan = bpf_map_lookup_elem(&back_plans, &cookie);
	struct bpf_sock *sk = skb->sk;
	if (plan && sk && sk->state != BPF_TCP_ESTABLISHED)
		plan->guard = 0;
	if (!skb->len)
		return SK_DROP;
	if (!plan)
		return SK_PASS;
	__sync_fetch_and_add(&plan->messages, 1);
	plan->step = number;
	if (plan->verb == VERB_PASS)
		return SK_PASS;
	__u64 target = plan->target;
	if (bpf_sk_redirect_hash(skb, &sockets, &target, BPF_F_INGRESS) == SK_PASS)
		__sync_fetch_and_add(&plan->redirected, 1);
	else
		__sync_fetch_and_add(&plan->absent, 1);
	return SK_PASS;
}

SEC("sk_skb/stream_verdict")
int conformance_back_one(struct __sk_buff *skb)
{
	return step(skb, 1);
}

SEC("sk_skb/stream_verdict")
int conformance_back_two(struct __sk_buff *skb)
{
	return step(skb, 2);
}

SEC("sk_skb/stream_verdict")
int conformance_back_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &back_steps, 0);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
