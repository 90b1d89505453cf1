/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/recvmsg4, cgroup/recvmsg6: a UDP socket is told where a datagram came from: from the service it dialled. */
#include "alize/flow.h"
#include "alize/sock_addr.h"

/* Replaces the endpoint's address by the service's; false when the datagram is nobody's reply. */
static __always_inline bool source_of_reply(struct bpf_sock_addr *ctx, __be32 address[4], __be16 *port)
{
	if (!ctx->sk)
		return false;
	struct connection *connection = bpf_sk_storage_get(&connections, ctx->sk, 0, 0);
	if (connection && connection->phase != PHASE_NONE && connection->endpoint != NONE) {
		struct endpoint *endpoint = endpoint_get(connection->endpoint);
		if (endpoint && endpoint->port == *port && address_equal(endpoint->address, address)) {
			address_copy(address, connection->address);
			*port = connection->port;
			return true;
		}
	}
	struct flows *own = bpf_sk_storage_get(&flows, ctx->sk, 0, 0);
	struct flow *flow = own ? flow_of_endpoint(own, address, *port) : 0;
	if (!flow)
		return false;
	address_copy(address, flow->service_address);
	*port = flow->service_port;
	return true;
}

SEC("cgroup/recvmsg4")
int alize_recvmsg4(struct bpf_sock_addr *ctx)
{
	__be32 address[4];
	__be16 port = ctx->user_port;
	ctx_address4(ctx, address);
	if (source_of_reply(ctx, address, &port))
		ctx_set4(ctx, address, port);
	return VERDICT_PASS;
}

/* An IPv6 socket is told of IPv4 peers here too, v4-mapped. */
SEC("cgroup/recvmsg6")
int alize_recvmsg6(struct bpf_sock_addr *ctx)
{
	__be32 address[4];
	__be16 port = ctx->user_port;
	ctx_address6(ctx, address);
	if (source_of_reply(ctx, address, &port))
		ctx_set6(ctx, address, port);
	return VERDICT_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
