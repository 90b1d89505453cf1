/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Gates between two versions of the programs. While a new version is tried, each link holds a gate in place of the old
 * program: it chooses a lane for the socket, once, and tail-calls the program of that lane. A meter behind it at the same
 * cgroup sees what came of it and how long it took: programs of one cgroup run in the order of their attachment, all of
 * them whatever the others say (bpf_prog_run_array_cg, kernel/bpf/cgroup.c).
 */
#include "alize/bpf.h"
#include "alize/kernel.h"
#include "canary/abi.h"

#include <bpf/bpf_core_read.h>

/* 0 -> who gets the new programs. Written by the agent before the first gate is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct canary_scope);
} canary_scope SEC(".maps");

/* Socket -> present: it is the new programs'. Never taken back, so that one version sees all of a connection. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} canary_sockets SEC(".maps");

/* lane * GATES + hook -> what was done there. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LANES *GATES);
	__type(key, __u32);
	__type(value, struct canary_count);
} canary_counts SEC(".maps");

struct begun {
	__u64 socket;
	__u64 time_ns;
	__u32 lane;
	__u32 unused;
};

/* Hook -> the call under way on this CPU. Another may come between: the meter then finds another socket, and does not time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GATES);
	__type(key, __u32);
	__type(value, struct begun);
} canary_begun SEC(".maps");

static __always_inline struct canary_count *count_of(__u32 lane, __u32 hook)
{
	__u32 key = lane * GATES + hook;
	return bpf_map_lookup_elem(&canary_counts, &key);
}

static __always_inline void begin(__u32 hook, __u32 lane, __u64 socket)
{
	struct canary_count *count = count_of(lane, hook);
	if (count)
		COUNT(count->calls, 1);
	struct begun *begun = bpf_map_lookup_elem(&canary_begun, &hook);
	if (!begun)
		return;
	begun->socket = socket;
	begun->lane = lane;
	begun->time_ns = bpf_ktime_get_ns();
}

static __always_inline void end(__u32 hook, __u64 socket, bool refused)
{
	__u64 now = bpf_ktime_get_ns();
	struct begun *begun = bpf_map_lookup_elem(&canary_begun, &hook);
	if (!begun || begun->socket != socket || !begun->time_ns)
		return;
	struct canary_count *count = count_of(begun->lane, hook);
	if (count) {
		COUNT(count->timed, 1);
		COUNT(count->time_ns, now - begun->time_ns);
		if (refused)
			COUNT(count->refused, 1);
	}
	begun->time_ns = 0;
}

static __always_inline __u32 lane_of(void *sk)
{
	return sk && bpf_sk_storage_get(&canary_sockets, sk, 0, 0) ? LANE_NEW : LANE_OLD;
}

/* A share of addresses, so that a service is the new programs' as a whole or not at all (MurmurHash3's last steps). */
static __always_inline bool in_share(__u32 ip, __u32 port, __u32 share)
{
	__u32 hash = ip ^ (port << 16 | port >> 16);
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	hash ^= hash >> 16;
	return hash % 100 < share;
}

/* A socket dials, for the first time since there are two lanes: chooses. */
static __always_inline __u32 choose(struct bpf_sock_addr *ctx, __u32 ip)
{
	__u32 zero = 0;
	if (!ctx->sk)
		return LANE_OLD;
	if (lane_of(ctx->sk) == LANE_NEW)
		return LANE_NEW;
	struct canary_scope *scope = bpf_map_lookup_elem(&canary_scope, &zero);
	if (!scope)
		return LANE_OLD;
	bool new = scope->cgroup &&bpf_get_current_ancestor_cgroup_id(scope->level) == scope->cgroup;
	if (!new && !(scope->share && in_share(ip, ctx->user_port, scope->share)))
		return LANE_OLD;
	/* Without memory for the mark the hooks to come would not know. */
	return bpf_sk_storage_get(&canary_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE) ? LANE_NEW : LANE_OLD;
}

/* What the programs before this one at the hook have said. */
static __always_inline bool is_refused(void)
{
	/* Linux 5.18 */
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_retval) && bpf_get_retval() < 0;
}

/*
 * NAME of the hook, its section, its number, the type of its context, the lane of a call, the number of its socket, and
 * whether it was refused. 1 passes at every hook, should a lane be empty.
 */
#define GATE(name, section, hook, context, choice, number, bad) \
	struct {                                                \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);          \
		__uint(max_entries, LANES);                     \
		__type(key, __u32);                             \
		__type(value, __u32);                           \
	} lanes_##name SEC(".maps");                            \
	SEC(section) int alize_gate_##name(context *ctx)        \
	{                                                       \
		__u32 lane = choice;                            \
		begin(hook, lane, number);                      \
		bpf_tail_call(ctx, &lanes_##name, lane);        \
		return 1;                                       \
	}                                                       \
	SEC(section) int alize_meter_##name(context *ctx)       \
	{                                                       \
		end(hook, number, bad);                         \
		return 1;                                       \
	}

#define COOKIE bpf_get_socket_cookie(ctx)
#define IP6 (ctx->user_ip6[0] ^ ctx->user_ip6[1] ^ ctx->user_ip6[2] ^ ctx->user_ip6[3])
#define ADDR struct bpf_sock_addr
#define OPS struct bpf_sock_ops

GATE(sockops, "sockops", GATE_SOCKOPS, OPS, lane_of(ctx->sk), COOKIE, false)
GATE(release, "cgroup/sock_release", GATE_RELEASE, struct bpf_sock, lane_of(ctx), COOKIE, false)
GATE(getpeer4, "cgroup/getpeername4", GATE_GETPEER4, ADDR, lane_of(ctx->sk), COOKIE, false)
GATE(getpeer6, "cgroup/getpeername6", GATE_GETPEER6, ADDR, lane_of(ctx->sk), COOKIE, false)
GATE(recvmsg4, "cgroup/recvmsg4", GATE_RECVMSG4, ADDR, lane_of(ctx->sk), COOKIE, false)
GATE(recvmsg6, "cgroup/recvmsg6", GATE_RECVMSG6, ADDR, lane_of(ctx->sk), COOKIE, false)
GATE(sendmsg4, "cgroup/sendmsg4", GATE_SENDMSG4, ADDR, choose(ctx, ctx->user_ip4), COOKIE, is_refused())
GATE(sendmsg6, "cgroup/sendmsg6", GATE_SENDMSG6, ADDR, choose(ctx, IP6), COOKIE, is_refused())
GATE(http_sock, "sockops", GATE_HTTP_SOCKOPS, OPS, lane_of(ctx->sk), COOKIE, false)
GATE(connect4, "cgroup/connect4", GATE_CONNECT4, ADDR, choose(ctx, ctx->user_ip4), COOKIE, is_refused())
GATE(connect6, "cgroup/connect6", GATE_CONNECT6, ADDR, choose(ctx, IP6), COOKIE, is_refused())

/* Requests in the kernel: called by the frozen program of the socket, as the program in force would be. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, LANES);
	__type(key, __u32);
	__type(value, __u32);
} lanes_http_clie SEC(".maps");

SEC("sk_msg")
int alize_gate_http_clie(struct sk_msg_md *msg)
{
	__u32 lane = lane_of(msg->sk);
	struct canary_count *count = count_of(lane, GATE_HTTP_CLIENT);
	if (count)
		COUNT(count->calls, 1);
	bpf_tail_call(msg, &lanes_http_clie, lane);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
