/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * iter/bpf_sk_storage_map over `connections`: adds what open connections have done so far to the counters. Run by the
 * agent when somebody asks, so that long connections are counted without a hook on their packets.
 */
#include "alize/connection.h"
#include "alize/kernel.h"

SEC("iter/bpf_sk_storage_map")
int alize_sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	if (!sk)
		return 0;
	struct connection *connection = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!connection || connection->phase != PHASE_ESTABLISHED || connection->protocol != ADDRESS_IPPROTO_TCP)
		return 0;
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	struct socket_totals totals = {
		.bytes_sent = tcp->bytes_acked,
		.bytes_received = tcp->bytes_received,
		.retransmits = tcp->total_retrans,
		.rtt_us = tcp->srtt_us >> 3,
	};
	totals_without_flags(&totals, sk->__sk_common.skc_state, sk->__sk_common.skc_flags >> SOCK_DONE_BIT & 1);
	struct owners owners = connection_owners(connection);
	connection_account(connection, &owners, &totals);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
