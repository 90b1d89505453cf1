/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/connect4, cgroup/connect6: a TCP or a connected UDP socket dials. */
#include "alize/kernel.h"
#include "alize/sock_addr.h"

#include <bpf/bpf_core_read.h>

/*
 * The MPTCP socket above the subflow that dials: the one the application holds and asks for its peer's name. No hook
 * ever sees it dial (net/mptcp/protocol.c, mptcp_connect).
 */
static __always_inline struct mptcp_sock *socket_above(struct bpf_sock_addr *ctx)
{
	/* Linux 5.19, with CONFIG_MPTCP */
	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock) ||
	    !bpf_core_type_exists(struct mptcp_sock))
		return 0;
	return ctx->protocol == ADDRESS_IPPROTO_TCP ? bpf_skc_to_mptcp_sock(ctx->sk) : 0;
}

/* Lets the socket above a subflow answer getpeername() as the subflow would. */
static __always_inline void show_above(struct bpf_sock_addr *ctx, const struct connection *connection)
{
	struct mptcp_sock *above = socket_above(ctx);
	struct connection *shown = above ? bpf_sk_storage_get(&connections, above, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!shown)
		return;
	address_copy(shown->address, connection->address);
	shown->port = connection->port;
	shown->endpoint = connection->endpoint;
	shown->phase = PHASE_SHOWN;
}

/* The socket above dials again, and what it dials now is nobody's. */
static __always_inline void hide_above(struct bpf_sock_addr *ctx)
{
	struct mptcp_sock *above = socket_above(ctx);
	struct connection *shown = above ? bpf_sk_storage_get(&connections, above, 0, 0) : 0;
	if (shown)
		shown->phase = PHASE_NONE;
}

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
	connection->protocol = request->dialled.protocol;
	connection->service = decision->service;
	connection->endpoint = decision->mode == MODE_ENFORCE ? decision->number : NONE;
	connection->bytes_sent = 0;
	connection->bytes_received = 0;
	connection->retransmits = 0;
	connection->cgroup = bpf_get_current_cgroup_id();
	connection->pid = bpf_get_current_pid_tgid() >> 32;
	connection->mode = decision->mode;
	if (connection->protocol == ADDRESS_IPPROTO_TCP)
		connection->phase = PHASE_DECIDED;
	else
		connection_opened(connection, PHASE_ESTABLISHED);
	struct owners owners = connection_owners(connection);
	COUNT_OWNERS(owners, connections);
	COUNT_SHADOW(connection, connections);
	show_above(ctx, connection);
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
	if (decision->service == NONE) {
		hide_above(ctx);
		return VERDICT_PASS;
	}
	request->client = ctx_client(ctx);
	request->now = bpf_ktime_get_ns();
	decide(request, decision);
	decision_count(decision);
	if (decision_refuses(decision))
		return ctx_refuse(decision);
	if (decision_would_refuse(decision))
		tell_refusal(decision, EVENT_WOULD_REFUSE);
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
