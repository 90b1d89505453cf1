/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/sockops: a TCP connection to a service is opened, established, closed. */
#include "alize/connection.h"
#include "alize/kernel.h"

enum {
	ERRNO_EPIPE = 32,
	ERRNO_ENETUNREACH = 101,
	ERRNO_ECONNRESET = 104,
	ERRNO_ETIMEDOUT = 110,
	ERRNO_ECONNREFUSED = 111,
	ERRNO_EHOSTUNREACH = 113,
};

/* Why connect() failed: what the kernel is about to tell the application. */
static __always_inline __u32 failure_of(const struct sock *sk, __u32 retransmits)
{
	if (!sk)
		return FAILURE_OTHER;
	switch (sk->sk_err) {
	case 0: /* the application closed; most do not wait the minutes until the kernel gives up */
		return retransmits ? FAILURE_TIMEOUT : FAILURE_ABORTED;
	case ERRNO_ECONNREFUSED:
		return FAILURE_REFUSED;
	case ERRNO_ETIMEDOUT:
		return FAILURE_TIMEOUT;
	case ERRNO_ENETUNREACH:
	case ERRNO_EHOSTUNREACH:
		return FAILURE_UNREACHABLE;
	case ERRNO_ECONNRESET:
	case ERRNO_EPIPE:
		return FAILURE_RESET;
	default:
		return FAILURE_OTHER;
	}
}

static __always_inline void closed(struct bpf_sock_ops *ctx, struct bpf_sock *sk, struct connection *connection)
{
	struct socket_totals totals = {
		.bytes_sent = ctx->bytes_acked,
		.bytes_received = ctx->bytes_received,
		.retransmits = ctx->total_retrans,
		.rtt_us = ctx->srtt_us >> 3, /* the kernel keeps eight times the value */
	};
	const struct sock *kernel_sk = (struct sock *)bpf_skc_to_tcp_sock(sk);
	totals_without_flags(&totals, ctx->args[0], kernel_sk && kernel_sk->__sk_common.skc_flags >> SOCK_DONE_BIT & 1);
	connection_closed(connection, &totals,
			  connection->phase == PHASE_ESTABLISHED ? 0 : failure_of(kernel_sk, totals.retransmits));
}

SEC("sockops")
int alize_sockops(struct bpf_sock_ops *ctx)
{
	/* Runs for every TCP socket of the cgroup, several times in its life: what is not ours leaves at once. */
	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	struct bpf_sock *sk = ctx->sk;
	struct connection *connection = sk ? bpf_sk_storage_get(&connections, sk, 0, 0) : 0;
	if (!connection)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (connection->phase != PHASE_DECIDED)
			break;
		connection_opened(connection, PHASE_CONNECTING);
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (connection->phase == PHASE_CONNECTING)
			connection_established(connection);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			closed(ctx, sk, connection);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
