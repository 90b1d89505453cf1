/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The context of the connect, sendmsg, recvmsg and getpeername hooks: in and out of the one form of addresses. */
#ifndef ALIZE_SOCK_ADDR_H
#define ALIZE_SOCK_ADDR_H

#include "connection.h"

#include <bpf/bpf_core_read.h>

enum {
	VERDICT_REFUSE = 0,
	VERDICT_PASS = 1,
	ERRNO_ECONNREFUSED = 111,
};

static __always_inline void ctx_address4(const struct bpf_sock_addr *ctx, __be32 address[4])
{
	address_from_v4(address, ctx->user_ip4);
}

static __always_inline void ctx_address6(const struct bpf_sock_addr *ctx, __be32 address[4])
{
	address[0] = ctx->user_ip6[0];
	address[1] = ctx->user_ip6[1];
	address[2] = ctx->user_ip6[2];
	address[3] = ctx->user_ip6[3];
}

static __always_inline void ctx_set4(struct bpf_sock_addr *ctx, const __be32 address[4], __be16 port)
{
	ctx->user_ip4 = address[3];
	ctx->user_port = port;
}

static __always_inline void ctx_set6(struct bpf_sock_addr *ctx, const __be32 address[4], __be16 port)
{
	ctx->user_ip6[0] = address[0];
	ctx->user_ip6[1] = address[1];
	ctx->user_ip6[2] = address[2];
	ctx->user_ip6[3] = address[3];
	ctx->user_port = port;
}

/* TCP, UDP, or 0 for what is never balanced. MPTCP dials by a subflow, which is a TCP socket. */
static __always_inline __u8 ctx_protocol(const struct bpf_sock_addr *ctx)
{
	bool balanced = ctx->protocol == ADDRESS_IPPROTO_UDP || ctx->protocol == ADDRESS_IPPROTO_TCP;
	return balanced ? ctx->protocol : 0;
}

/* Who calls; see client.h. An IPv6 socket that is bound to nothing and an IPv4 one hash alike. */
static __always_inline __u64 ctx_client(struct bpf_sock_addr *ctx)
{
	__be32 source[4] = {};
	struct bpf_sock *sk = ctx->sk;
	if (sk) {
		if (sk->family == ADDRESS_AF_INET) {
			if (sk->src_ip4)
				address_from_v4(source, sk->src_ip4);
		} else {
			source[0] = sk->src_ip6[0];
			source[1] = sk->src_ip6[1];
			source[2] = sk->src_ip6[2];
			source[3] = sk->src_ip6[3];
		}
	}
	return client_hash(bpf_get_current_cgroup_id(), bpf_get_netns_cookie(ctx), source);
}

static __always_inline void tell_refusal(const struct decision *decision, __u32 kind)
{
	struct event event = {
		.time_ns = bpf_ktime_get_ns(),
		.cgroup = bpf_get_current_cgroup_id(),
		.kind = kind,
		.detail = decision->refusal,
		.service = decision->service,
		.endpoint = NONE,
		.pid = bpf_get_current_pid_tgid() >> 32,
	};
	event_send(&event);
}

static __always_inline int ctx_refuse(const struct decision *decision)
{
	tell_refusal(decision, EVENT_REFUSED);
	/* Without this (before Linux 5.18) the caller hears EPERM, which reads as a firewall. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_set_retval))
		bpf_set_retval(-ERRNO_ECONNREFUSED);
	return VERDICT_REFUSE;
}

#endif
