/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the in-kernel HTTP path relies on, each in its smallest form, for src/conformance: it is tried on sockets of a
 * network namespace and a cgroup that nobody else is in.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "conformance/abi.h"

/* socket cookie -> socket. Written by sockops and by the probe; its sk_msg program is `conformance_entry`. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u64);
} sockets SEC(".maps");

/* The same, with another sk_msg program: a socket may be in one of the two only. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 4);
	__type(key, __u64);
	__type(value, __u64);
} others SEC(".maps");

/* socket -> what to do with its messages. Made by the probe. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conformance_plan);
} plans SEC(".maps");

/* enum conformance_seen -> count. Written by sockops, read by the probe. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SEEN);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

/* 0 -> the program that is in force. Written by the probe. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} steps SEC(".maps");

static __always_inline void count(__u32 what, __u64 amount)
{
	__u64 *counter = bpf_map_lookup_elem(&seen, &what);
	if (counter)
		__sync_fetch_and_add(counter, amount);
}

static __always_inline void remember(__u32 what, __u64 value)
{
	__u64 *place = bpf_map_lookup_elem(&seen, &what);
	if (place)
		*place = value;
}

static __always_inline bool left_alone(void)
{
	__u32 what = SEEN_LEFT_ALONE;
	__u64 *place = bpf_map_lookup_elem(&seen, &what);
	return place && *place;
}

SEC("sockops")
int conformance_sockops(struct bpf_sock_ops *ctx)
{
	bool active = ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB;
	if (ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE) {
		count(SEEN_CLOSED, 1);
		return 1;
	}
	if ((!active && ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) || left_alone())
		return 1;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	__u64 cookie = bpf_get_socket_cookie(ctx);
	long refused = bpf_sock_hash_update(ctx, &sockets, &cookie, BPF_NOEXIST);
	if (refused)
		remember(SEEN_ERRNO, -refused);
	count(refused ? SEEN_REFUSED : active ? SEEN_ACTIVE : SEEN_PASSIVE, 1);
	return 1;
}

static __always_inline int step(struct sk_msg_md *msg, __u32 number)
{
	struct bpf_sock *sk = msg->sk;
	struct conformance_plan *plan = sk ? bpf_sk_storage_get(&plans, sk, 0, 0) : 0;
	if (!plan)
		return SK_PASS;
	__sync_fetch_and_add(&plan->messages, 1);
	plan->step = number;
	if (__sync_val_compare_and_swap(&plan->guard, 1, 2) != 1)
		__sync_val_compare_and_swap(&plan->guard, 2, 1);
	if (plan->verb == VERB_PASS)
		return SK_PASS;
	__u64 target = plan->target;
	__u64 flags = plan->verb == VERB_INGRESS ? BPF_F_INGRESS : 0;
	if (bpf_msg_redirect_hash(msg, &sockets, &target, flags) == SK_PASS) {
		__sync_fetch_and_add(&plan->redirected, 1);
		return SK_PASS;
	}
	/* Without a redirection SK_PASS means: by TCP, to whom the socket is connected. */
	__sync_fetch_and_add(&plan->absent, 1);
	return SK_PASS;
}

SEC("sk_msg")
int conformance_one(struct sk_msg_md *msg)
{
	return step(msg, 1);
}

SEC("sk_msg")
int conformance_two(struct sk_msg_md *msg)
{
	return step(msg, 2);
}

/* Sockets keep the program that their hash had when they came in; what it calls can be changed under them. */
SEC("sk_msg")
int conformance_entry(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &steps, 0);
	return SK_PASS;
}

SEC("sk_msg")
int conformance_other(struct sk_msg_md *msg)
{
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
