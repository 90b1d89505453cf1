/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * iter/tcp, iter/udp: closes the sockets whose endpoint was removed with `terminate`. An iterator sees the sockets of
 * its opener's network namespace, so the agent runs it once in each.
 */
#include "alize/connection.h"
#include "alize/kernel.h"

/* Linux 6.5; without it the feature is off. */
extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* endpoint -> how many of its sockets were closed. Filled by the agent for one run, counted here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, __u64);
} terminating SEC(".maps");

static __always_inline void terminate(struct sock_common *sk, const struct connection *connection)
{
	if (!connection || connection->phase == PHASE_NONE)
		return;
	__u32 endpoint = connection->endpoint;
	__u64 *count = bpf_map_lookup_elem(&terminating, &endpoint);
	if (count && !bpf_sock_destroy(sk))
		COUNT(*count, 1);
}

SEC("iter/tcp")
int alize_terminate_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	/* Reading a field also keeps the type whole in our BTF; the kernel refuses bpf_sock_destroy() of a forward. */
	if (!sk || sk->skc_state == BPF_TCP_CLOSE)
		return 0;
	/* A request or time-wait socket is none of ours and has no storage. */
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp)
		terminate(sk, bpf_sk_storage_get(&connections, tcp, 0, 0));
	return 0;
}

SEC("iter/udp")
int alize_terminate_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	if (udp)
		terminate((struct sock_common *)udp, bpf_sk_storage_get(&connections, udp, 0, 0));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
