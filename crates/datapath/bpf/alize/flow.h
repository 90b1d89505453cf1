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

static __always_inline struct flow *flow_of_endpoint(struct flows *flows, const __be32 address[4], __be16 port)
{
	for (int i = 0; i < FLOWS_PER_SOCKET; i++) {
		struct flow *flow = &flows->flow[i];
		if (flow->used_ns && flow->endpoint != NONE && flow->endpoint_port == port &&
		    address_equal(flow->endpoint_address, address))
			return flow;
	}
	return 0;
}

/* A place for a new flow: an empty one, else the one unused for longest. */
static __always_inline struct flow *flow_place(struct flows *flows)
{
	struct flow *oldest = &flows->flow[0];
	for (int i = 0; i < FLOWS_PER_SOCKET; i++) {
		struct flow *flow = &flows->flow[i];
		if (flow->used_ns < oldest->used_ns)
			oldest = flow;
	}
	return oldest;
}

/* Whether the next datagram may follow the last one: a draining endpoint keeps its flows, a gone or sick one not. */
static __always_inline bool flow_is_live(const struct flow *flow, __u64 now)
{
	if (now - flow->used_ns >= FLOW_TIMEOUT_S * 1000000000ULL)
		return false;
	if (flow->endpoint == NONE)
		return false; /* observe and shadow decide anew, so that a change of mode shows at once */
	struct endpoint *endpoint = endpoint_get(flow->endpoint);
	return endpoint && (endpoint->state == ENDPOINT_ACTIVE || endpoint->state == ENDPOINT_DRAINING) &&
	       endpoint->port == flow->endpoint_port && address_equal(endpoint->address, flow->endpoint_address);
}

#endif
