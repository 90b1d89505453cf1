/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/connect4, cgroup/connect6: a TCP or a connected UDP socket dials. */
#include "alize/kernel.h"
#include "alize/sock_addr.h"
#include "http/events.h"
#include "http/reasons.h"
#include "http/service.h"

#include <bpf/bpf_core_read.h>

enum { LOOPBACK_V4 = 0x7f000001 };

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

/*
 * Remembers on the socket what was decided. False, without memory: the connection is balanced all the same, but not
 * counted.
 */
static __always_inline bool remember(struct bpf_sock_addr *ctx, struct connection *connection,
				     const struct request *request, const struct decision *decision)
{
	connection = connection ?: bpf_sk_storage_get(&connections, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection) {
		count_anomaly(ANOMALY_CONNECTION_UNTRACKED);
		return false;
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
	connection->path = decision->proxied ? PATH_HTTP : PATH_PLAIN;
	connection->mode = decision->mode;
	if (connection->protocol == ADDRESS_IPPROTO_TCP)
		connection->phase = PHASE_DECIDED;
	else
		connection_opened(connection, PHASE_ESTABLISHED);
	struct owners owners = connection_owners(connection);
	COUNT_OWNERS(owners, connections);
	COUNT_SHADOW(connection, connections);
	show_above(ctx, connection);
	return true;
}

/* The port of the proxy in the caller's network namespace, if it listens there now: it may have died a moment ago. */
static __always_inline __be16 proxy_port(struct bpf_sock_addr *ctx, const struct request *request, __u64 netns)
{
	struct http_listener *listener = bpf_map_lookup_elem(&http_listeners, &netns);
	bool v4 = address_is_v4(request->dialled.address);
	__be16 port = !listener ? 0 : v4 ? listener->port4 : listener->port6;
	if (!port)
		return 0;
	struct bpf_sock_tuple tuple = {};
	if (v4) {
		tuple.ipv4.saddr = tuple.ipv4.daddr = bpf_htonl(LOOPBACK_V4);
		tuple.ipv4.dport = port;
	} else {
		tuple.ipv6.saddr[3] = tuple.ipv6.daddr[3] = bpf_htonl(1);
		tuple.ipv6.dport = port;
	}
	struct bpf_sock *found =
		bpf_sk_lookup_tcp(ctx, &tuple, v4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	bpf_sk_release(found);
	return port;
}

/*
 * A service whose requests are routed one by one: its connections go to the proxy beside the caller, which most of the
 * requests never reach. Where no proxy is, the connection is balanced as a whole, unless that would pass over a rule.
 */
static __always_inline void decide_http(struct bpf_sock_addr *ctx, const struct request *request,
					struct decision *decision, __u64 word)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	__be16 port = proxy_port(ctx, request, netns);
	if (port) {
		decision->mode = MODE_ENFORCE;
		decision->proxied = true;
		decision->endpoint.port = port;
		if (address_is_v4(request->dialled.address))
			address_from_v4(decision->endpoint.address, bpf_htonl(LOOPBACK_V4));
		else
			decision->endpoint.address[3] = bpf_htonl(1);
		return;
	}
	count_reason(decision->service, HTTP_REASON_NO_PROXY);
	http_tell(netns, HTTP_REASON_NO_PROXY, bpf_get_current_pid_tgid() >> 32, BPF_RB_FORCE_WAKEUP);
	decision->strict = FIELD(word, HTTP_SERVICE_STRICT);
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
	__u64 http = request->dialled.protocol == ADDRESS_IPPROTO_TCP ? http_service_word(decision->service) : 0;
	if (FIELD(http, HTTP_SERVICE_ON))
		decide_http(ctx, request, decision, http);
	bool refused = false;
	if (!decision->proxied) {
		request->client = ctx_client(ctx);
		request->now = bpf_ktime_get_ns();
		decide(request, decision);
		decision_count(decision);
		refused = decision_refuses(decision);
		if (decision_would_refuse(decision))
			tell_refusal(decision, EVENT_WOULD_REFUSE);
	}
	/* Without a record the proxy could not tell whose connection it is. */
	if (!refused)
		refused = !remember(ctx, connection, request, decision) && decision->proxied;
	return refused ? ctx_refuse(decision) : VERDICT_PASS;
}

static __always_inline bool rewrites(const struct decision *decision)
{
	return decision->proxied ||
	       (decision->service != NONE && decision->number != NONE && decision->mode == MODE_ENFORCE);
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
