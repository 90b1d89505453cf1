/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * UDP flows of sockets that are not connected. A flow is a socket and a service address: its datagrams stay with one
 * endpoint, and replies from that endpoint seem to come from the service.
 */
#ifndef ALIZE_FLOW_H
#define ALIZE_FLOW_H

#include "decide.h"

enum { FLOW_TIMEOUT_S = 60 }; /* a pause after which the next datagram is balanced anew */

/* socket -> its flows. Written by sendmsg, read by recvmsg. It goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flows);
} flows SEC(".maps");

static __always_inline struct flow *flow_of_service(struct flows *flows, const struct frontend_key *dialled)
{
	for (int i = 0; i < FLOWS_PER_SOCKET; i++) {
		struct flow *flow = &flows->flow[i];
		if (flow->used_ns && flow->service_port == dialled->port &&
		    address_equal(flow->service_address, dialled->address))
			return flow;
	}
	return 0;
}

/* Two services may share an endpoint; its reply is taken for that of the one that was asked last. */
static __always_inline struct flow *flow_of_endpoint(struct flows *flows, const __be32 address[4], __be16 port)
{
	struct flow *last = 0;
	for (int i = 0; i < FLOWS_PER_SOCKET; i++) {
		struct flow *flow = &flows->flow[i];
		if (flow->used_ns && flow->endpoint != NONE && flow->endpoint_port == port &&
		    address_equal(flow->endpoint_address, address) && (!last || flow->used_ns > last->used_ns))
			last = flow;
	}
	return last;
}

/* What goes first has the lowest: empty places, flows that are only observed, balanced ones; the longest unused first. */
static __always_inline __u64 flow_worth(const struct flow *flow)
{
	return flow->used_ns && flow->endpoint != NONE ? flow->used_ns | 1ULL << 63 : flow->used_ns;
}

/* A place for a new flow. */
static __always_inline struct flow *flow_place(struct flows *flows)
{
	struct flow *least = &flows->flow[0];
	for (int i = 0; i < FLOWS_PER_SOCKET; i++) {
		struct flow *flow = &flows->flow[i];
		if (flow_worth(flow) < flow_worth(least))
			least = flow;
	}
	return least;
}

static __always_inline bool flow_is_recent(const struct flow *flow, __u64 now)
{
	return flow->used_ns && now - flow->used_ns < FLOW_TIMEOUT_S * 1000000000ULL;
}

/*
 * Whether the next datagram may follow the last one, as decided in `mode`. A draining endpoint keeps its flows, a gone
 * or sick one not.
 */
static __always_inline bool flow_is_live(const struct flow *flow, __u32 mode, __u64 now)
{
	if (!flow_is_recent(flow, now))
		return false;
	if (flow->endpoint == NONE || mode != MODE_ENFORCE)
		/* A change of mode shows at once: what enforce chose holds in enforce alone. */
		return flow->endpoint == NONE && mode != MODE_ENFORCE;
	struct endpoint *endpoint = endpoint_get(flow->endpoint);
	return endpoint && (endpoint->state == ENDPOINT_ACTIVE || endpoint->state == ENDPOINT_DRAINING) &&
	       endpoint->port == flow->endpoint_port && address_equal(endpoint->address, flow->endpoint_address);
}

#endif
