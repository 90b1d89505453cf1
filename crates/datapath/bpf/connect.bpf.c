/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/connect4, cgroup/connect6: a TCP or a connected UDP socket dials. */
#include "alize/sock_addr.h"

/* Remembers on the socket what was decided. Without memory the connection is balanced all the same, but not counted. */
static __always_inline void remember(struct bpf_sock_addr *ctx, struct connection *connection,
				     const struct request *request, const struct decision *decision)
{
	connection = connection ?: bpf_sk_storage_get(&connections, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection) {
		count_anomaly(ANOMALY_CONNECTION_UNTRACKED);
		return;
	}
	address_copy(connection->address, request->dialled.address);
	connection->port = request->dialled.port;
	/* Of MPTCP only the subflows, other sockets, show up in sockops. */
	connection->protocol = ctx->protocol == ADDRESS_IPPROTO_MPTCP ? 0 : request->dialled.protocol;
	connection->service = decision->service;
	connection->endpoint = decision->mode == MODE_ENFORCE ? decision->number : NONE;
	connection->bytes_sent = 0;
	connection->bytes_received = 0;
	connection->retransmits = 0;
	connection->cgroup = bpf_get_current_cgroup_id();
	connection->pid = bpf_get_current_pid_tgid() >> 32;
	if (connection->protocol == ADDRESS_IPPROTO_TCP)
		connection->phase = PHASE_DECIDED;
	else
		connection_opened(connection, PHASE_ESTABLISHED);
	struct owners owners = connection_owners(connection);
	COUNT_OWNERS(owners, connections);
}

static __always_inline int dial(struct bpf_sock_addr *ctx, struct request *request, struct decision *decision)
{
	request->dialled.port = ctx->user_port;
	request->dialled.protocol = ctx_protocol(ctx);
	if (!request->dialled.protocol || !ctx->sk)
		return VERDICT_PASS;

	/*
	 * A socket that dials again: a UDP socket moves on, a TCP socket's last try failed before a SYN went out (no
	 * route, say), which no other hook sees.
	 */
	struct connection *connection = bpf_sk_storage_get(&connections, ctx->sk, 0, 0);
	if (connection)
		connection_closed(connection, 0, FAILURE_OTHER);

	decision->service = frontend_find(&request->dialled);
	if (decision->service == NONE)
		return VERDICT_PASS;
	request->client = ctx_client(ctx);
	request->now = bpf_ktime_get_ns();
	decide(request, decision);
	decision_count(decision);
	if (decision_refuses(decision))
		return ctx_refuse(decision);
	remember(ctx, connection, request, decision);
	return VERDICT_PASS;
}

static __always_inline bool rewrites(const struct decision *decision)
{
	return decision->service != NONE && decision->number != NONE && decision->mode == MODE_ENFORCE;
}

SEC("cgroup/connect4")
int alize_connect4(struct bpf_sock_addr *ctx)
{
	struct request request = {};
	struct decision decision = {.service = NONE, .number = NONE};
	ctx_address4(ctx, request.dialled.address);
	int verdict = dial(ctx, &request, &decision);
	if (verdict == VERDICT_PASS && rewrites(&decision))
		ctx_set4(ctx, decision.endpoint.address, decision.endpoint.port);
	return verdict;
}

/* Also dials of ::ffff:a.b.c.d, which never run connect4. */
SEC("cgroup/connect6")
int alize_connect6(struct bpf_sock_addr *ctx)
{
	struct request request = {};
	struct decision decision = {.service = NONE, .number = NONE};
	ctx_address6(ctx, request.dialled.address);
	int verdict = dial(ctx, &request, &decision);
	if (verdict == VERDICT_PASS && rewrites(&decision))
		ctx_set6(ctx, decision.endpoint.address, decision.endpoint.port);
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
