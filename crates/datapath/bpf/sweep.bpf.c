/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * iter/tcp: adds what open connections have done so far to the counters. Run by the agent when somebody asks, so that
 * long connections are counted without a hook on their packets. An iterator over `connections` would see no other sockets,
 * and all network namespaces at once, but kernels that are locked down refuse iterators over maps.
 */
#include "alize/connection.h"
#include "alize/kernel.h"

SEC("iter/tcp")
int alize_sweep(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	/* A request or time-wait socket is none of ours and has no storage. */
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	if (!tcp)
		return 0;
	struct connection *connection = bpf_sk_storage_get(&connections, tcp, 0, 0);
	if (!connection || connection->phase != PHASE_ESTABLISHED || connection->protocol != ADDRESS_IPPROTO_TCP)
		return 0;
	struct socket_totals totals = {
		.bytes_sent = tcp->bytes_acked,
		.bytes_received = tcp->bytes_received,
		.retransmits = tcp->total_retrans,
		.rtt_us = tcp->srtt_us >> 3,
	};
	totals_without_flags(&totals, sk->skc_state, sk->skc_flags >> SOCK_DONE_BIT & 1);
	struct owners owners = connection_owners(connection);
	connection_account(connection, &owners, &totals);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
