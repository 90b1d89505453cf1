/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of an exchange: a request and its response, or a request that will have none. */
#ifndef OBSERVE_EXCHANGE_H
#define OBSERVE_EXCHANGE_H

#include "identity.h"
#include "recorder.h"
#include "series.h"
#include "template.h"
#include "trace.h"

struct exchange {
	__u64 now;
	__u64 response_bytes;
	__u32 status; /* 0: unanswered */
	__u32 flags; /* enum request_flags */
};

/* The server's process, as far as it has shown itself. */
static __always_inline void server_of(const struct conversation *conversation, struct identity *server)
{
	__u64 key = conversation->link;
	if (conversation->role == ROLE_SERVER) {
		*server = conversation->self;
		return;
	}
	struct identity *told = bpf_map_lookup_elem(&links, &key);
	if (told)
		*server = *told;
	else
		__builtin_memset(server, 0, sizeof(*server));
}

static __always_inline void event_fill(struct conversation *conversation, struct pending *pending,
				       const struct exchange *exchange, struct request_event *event)
{
	const struct ends *ends = &conversation->ends;
	event->type = EVENT_TYPE_REQUEST;
	event->matched = 0;
	event->started_ns = pending->started_ns;
	event->first_byte_ns = pending->first_byte_ns ? pending->first_byte_ns - pending->started_ns : 0;
	event->latency_ns = exchange->now - pending->started_ns;
	event->request_bytes = pending->request_bytes;
	event->response_bytes = exchange->response_bytes;
	event->path = pending->path;
	if (conversation->role == ROLE_CLIENT)
		event->client = conversation->self;
	else
		__builtin_memset(&event->client, 0, sizeof(event->client));
	server_of(conversation, &event->server);
	__builtin_memcpy(event->server_address, ends->server_address, sizeof(ends->server_address));
	__builtin_memcpy(event->client_address, ends->client_address, sizeof(ends->client_address));
	event->server_port = ends->server_port;
	event->client_port = ends->client_port;
	event->service = conversation->service;
	event->status = exchange->status;
	event->method = pending->method;
	event->side = conversation->role == ROLE_CLIENT ? SIDE_CLIENT : SIDE_SERVER;
	event->flags = pending->flags | (pending->number ? REQUEST_FLAG_REUSED : 0) |
		       (exchange->status ? 0 : REQUEST_FLAG_UNANSWERED) | exchange->flags;
	event->target_length = pending->target_length;
	event->host_length = pending->host_length;
	event->path_label = conversation->path_label;
	__builtin_memcpy(event->target, pending->target, PATH_SIZE);
	__builtin_memcpy(event->host, pending->host, HOST_SIZE);
	if (pending->traced)
		__builtin_memcpy(event->trace_parent, pending->trace_parent, TRACE_SIZE);
	else
		__builtin_memset(event->trace_parent, 0, TRACE_SIZE);
}

/* Somebody wants the whole of it: a trace, or the flight recorder. */
__noinline int exchange_show(struct conversation *conversation, struct pending *pending, struct exchange *exchange)
{
	if (!conversation || !pending || !exchange)
		return 0;
	struct window *window = window_take();
	if (!window) {
		tally(TALLY_EVENT_LOST);
		return 0;
	}
	struct request_event *event = (struct request_event *)window->bytes;
	event_fill(conversation, pending, exchange, event);
	if (records_slow(event->latency_ns, exchange->now))
		record_slow(event, exchange->now);
	if (event->status >= FAILED_FROM || !event->status)
		record_failed(event);
	if (trace_active())
		trace_send(event, exchange->now);
	window_give(window);
	return 1;
}

/* Counts the exchange in its series. */
__noinline int exchange_count(struct conversation *conversation, struct pending *pending, struct exchange *exchange)
{
	if (!conversation || !pending || !exchange)
		return 0;
	const struct ends *ends = &conversation->ends;
	bool client_side = conversation->role == ROLE_CLIENT;
	struct series_key key = {
		.source = client_side ? conversation->self.cgroup : 0,
		.destination = client_side ? conversation->destination : conversation->self.cgroup,
		.path = pending->path,
		.port = ends->server_port,
		.status = exchange->status,
		.method = pending->method,
		.side = client_side ? SIDE_CLIENT : SIDE_SERVER,
		.service = conversation->service,
		.path_label = conversation->path_label,
	};
	__builtin_memcpy(key.address, ends->server_address, sizeof(key.address));
	struct series *series = series_get(&key, pending);
	__u64 first_byte = pending->first_byte_ns ? pending->first_byte_ns - pending->started_ns : 0;
	if (series)
		series_add(series, exchange->now - pending->started_ns, first_byte, pending->request_bytes,
			   exchange->response_bytes);
	return 1;
}

/* The server's socket on this host, if there is one, has said by now whose it is. */
static __always_inline void destination_learn(struct conversation *conversation)
{
	if (conversation->linked || conversation->role != ROLE_CLIENT)
		return;
	__u64 key = conversation->link;
	struct identity *told = bpf_map_lookup_elem(&links, &key);
	if (told)
		conversation->destination = told->cgroup;
	conversation->linked = 1;
}

static __always_inline void exchange_end(struct conversation *conversation, struct pending *pending,
					 struct exchange *exchange)
{
	if (conversation->probation) {
		tally(TALLY_UNSEEN_EXCHANGE);
		return;
	}
	tally(exchange->status ? TALLY_EXCHANGE : TALLY_UNANSWERED);
	destination_learn(conversation);
	exchange_count(conversation, pending, exchange);
	if (trace_active() || exchange->status >= FAILED_FROM || !exchange->status ||
	    records_slow(exchange->now - pending->started_ns, exchange->now))
		exchange_show(conversation, pending, exchange);
}

/* Requests that will have no response, or not all of it: the connection is over. */
static __always_inline void conversation_end(struct bpf_sock *sk, struct conversation *conversation)
{
	struct exchange exchange = {.now = bpf_ktime_get_ns()};
	const struct framing *response = &conversation->response;
	if (response->phase > PHASE_FIELDS) {
		exchange.status = response->status;
		exchange.response_bytes = response->bytes;
		exchange.flags = REQUEST_FLAG_BROKEN;
	}
	for (int i = 0; i < PIPELINE; i++) {
		if (conversation->sent == conversation->taken)
			break;
		struct pending *pending = pending_at(sk, conversation, conversation->taken, false);
		if (pending)
			exchange_end(conversation, pending, &exchange);
		conversation->taken++;
		exchange.status = 0;
		exchange.response_bytes = 0;
		exchange.flags = 0;
	}
	conversation->state = STATE_OFF;
}

#endif
