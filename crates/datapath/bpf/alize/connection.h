/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The life of a socket that dialled a service: what is remembered on it and counted for it. */
#ifndef ALIZE_CONNECTION_H
#define ALIZE_CONNECTION_H

#include "atomics.h"
#include "connections.h"
#include "counters.h"
#include "decide.h"
#include "events.h"

/* Totals of a socket's own counters, as the kernel keeps them. */
struct socket_totals {
	__u64 bytes_sent;
	__u64 bytes_received;
	__u32 retransmits;
	__u32 rtt_us;
};

/*
 * SYN and FIN each take a sequence number, and the kernel's byte counters count sequence numbers. Whether ours was
 * acknowledged follows from the last state before closing, or from the present one; an abort may be off by one.
 */
static __always_inline void totals_without_flags(struct socket_totals *totals, __u32 state, bool fin_received)
{
	bool fin_sent = state == BPF_TCP_FIN_WAIT2 || state == BPF_TCP_TIME_WAIT || state == BPF_TCP_LAST_ACK ||
			state == BPF_TCP_CLOSING;
	totals->bytes_sent -= minimum(totals->bytes_sent, 1 + fin_sent);
	totals->bytes_received -= minimum(totals->bytes_received, fin_received);
}

static __always_inline void load_add_open(__u32 endpoint, __s32 change)
{
	struct endpoint_load *load = endpoint == NONE ? 0 : endpoint_load_get(endpoint);
	if (load)
		__sync_fetch_and_add(&load->open, change);
}

/* Both counters a connection belongs to; the endpoint's is NULL where none was chosen. */
struct owners {
	struct traffic *service;
	struct traffic *endpoint;
};

static __always_inline struct owners connection_owners(const struct connection *connection)
{
	struct owners owners = {
		.service = traffic_of_service(connection->service),
		.endpoint = connection->endpoint == NONE ? 0 : traffic_of_endpoint(connection->endpoint),
	};
	return owners;
}

#define COUNT_OWNERS(owners, field)                         \
	({                                                  \
		if ((owners).service)                       \
			COUNT((owners).service->field, 1);  \
		if ((owners).endpoint)                      \
			COUNT((owners).endpoint->field, 1); \
	})

/* What really became of a connection of mode shadow is counted apart, to be held against what would have been. */
#define COUNT_SHADOW(connection, field)                                        \
	({                                                                     \
		struct outcomes *outcomes = 0;                                 \
		if ((connection)->mode == MODE_SHADOW)                         \
			outcomes = outcomes_of_service((connection)->service); \
		if (outcomes)                                                  \
			COUNT(outcomes->field, 1);                             \
	})

/* How far a total has come since it was last seen; a look that was overtaken by a newer one adds nothing. */
static __always_inline __u64 forward64(__u64 now, __u64 *seen)
{
	__s64 way = now - EXCHANGE(seen, now);
	return way > 0 ? way : 0;
}

static __always_inline __u32 forward32(__u32 now, __u32 *seen)
{
	__s32 way = now - EXCHANGE(seen, now);
	return way > 0 ? way : 0;
}

/*
 * Adds what the socket did since it was last asked. Closing and sweeping may ask at the same moment on two CPUs; the
 * exchange gives each byte to one of them. A sweep reads an unlocked socket, so that its FIN may be in the bytes and not
 * in the state yet: a total can go back by one, a counter must not.
 */
static __always_inline void connection_account(struct connection *connection, const struct owners *owners,
					       const struct socket_totals *totals)
{
	struct traffic delta = {
		.bytes_sent = forward64(totals->bytes_sent, &connection->bytes_sent),
		.bytes_received = forward64(totals->bytes_received, &connection->bytes_received),
		.retransmits = forward32(totals->retransmits, &connection->retransmits),
		.rtt_us = totals->rtt_us,
		.rtt_samples = totals->rtt_us ? 1 : 0,
	};
	traffic_add(owners->service, &delta);
	traffic_add(owners->endpoint, &delta);
}

static __always_inline void connection_failed(const struct connection *connection, const struct owners *owners,
					      __u32 failure)
{
	if (failure >= FAILURES)
		failure = FAILURE_OTHER;
	COUNT_OWNERS(*owners, failures[failure]);
	COUNT_SHADOW(connection, failures[failure]);
	/* What is not the endpoint's fault must not get it ejected. */
	if (connection->endpoint == NONE || failure == FAILURE_ABORTED || failure == FAILURE_OTHER)
		return;
	struct endpoint_load *load = endpoint_load_get(connection->endpoint);
	if (load)
		__sync_fetch_and_add(&load->failures, 1);
	struct event event = {
		.time_ns = bpf_ktime_get_ns(),
		.cgroup = connection->cgroup,
		.kind = EVENT_CONNECT_FAILED,
		.detail = failure,
		.service = connection->service,
		.endpoint = connection->endpoint,
		.pid = connection->pid,
	};
	event_send(&event);
}

/* connect() got as far as sending a SYN, or is a UDP socket's, which is all there will be. */
static __always_inline void connection_opened(struct connection *connection, __u8 phase)
{
	connection->phase = phase;
	load_add_open(connection->endpoint, 1);
}

static __always_inline void connection_established(struct connection *connection)
{
	connection->phase = PHASE_ESTABLISHED;
	struct owners owners = connection_owners(connection);
	COUNT_OWNERS(owners, established);
	COUNT_SHADOW(connection, established);
	struct endpoint_load *load = connection->endpoint == NONE ? 0 : endpoint_load_get(connection->endpoint);
	/* Written only when it changes something: the line is shared by all CPUs. */
	if (load && READ_ONCE(load->failures))
		WRITE_ONCE(load->failures, 0);
}

/* The end of a connection in whatever phase it is; afterwards the socket may dial again. */
static __always_inline void connection_closed(struct connection *connection, const struct socket_totals *totals,
					      __u32 failure)
{
	__u8 phase = connection->phase;
	if (phase == PHASE_NONE || phase == PHASE_SHOWN)
		return;
	connection->phase = PHASE_NONE;
	struct owners owners = connection_owners(connection);
	if (totals)
		connection_account(connection, &owners, totals);
	if (phase != PHASE_ESTABLISHED)
		connection_failed(connection, &owners, failure);
	if (phase != PHASE_DECIDED)
		load_add_open(connection->endpoint, -1);
	COUNT_OWNERS(owners, closed);
}

#endif
