/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's decisions as a process: reads requests from standard input, writes an answer to each. src/host.rs is
 * the other side. A request is a struct question and `size` bytes after it.
 */
#include "alize/connection.h"
#include "alize/flow.h"

#include <stdio.h>

enum operation {
	PUT = 0, /* map; key, value -> u32 error */
	GET = 1, /* map; key -> u32 found, value */
	FULL = 2, /* map; u32 -> : the map takes no new entry */
	RANDOM = 3, /* u32... -> : what is drawn next */
	DECIDE = 4, /* struct asked -> struct answered */
	FLOW_PLACE = 5, /* struct flows -> u32 index */
	FLOW_LIVE = 6, /* struct flow, u64 now, u32 mode -> u32 */
	FLOW_OF = 7, /* struct flows, struct frontend_key -> u32 index, u32 index: by service, by endpoint */
	CONNECTION = 8, /* struct connection, struct life -> struct connection */
	EVENT = 9, /* -> struct event, of zeros when there was none */
};

struct question {
	__u32 operation, map, size;
};

struct asked {
	struct frontend_key dialled;
	__u32 v6_only;
	__u64 client, now;
};

struct answered {
	__u32 service, mode, number, refusal, kept, zero;
	struct endpoint endpoint;
};

enum { OPENED, ESTABLISHED, ACCOUNTED, CLOSED };

struct life {
	__u32 step, failure, state, fin_received;
	__u64 bytes_sent, bytes_received;
	__u32 retransmits, rtt_us;
};

#define MAP(name)                                                                                       \
	{                                                                                               \
		.declaration = &name, .key_size = sizeof(*name.key), .value_size = sizeof(*name.value), \
		.array = sizeof(*name.type) / sizeof(int) == BPF_MAP_TYPE_ARRAY ||                      \
			 sizeof(*name.type) / sizeof(int) == BPF_MAP_TYPE_PERCPU_ARRAY                  \
	}

/* In the order of `Map` in src/host.rs. */
struct host_map host_maps[] = {
	MAP(frontends), MAP(services),	      MAP(endpoints),	    MAP(endpoint_load),	   MAP(slots),
	MAP(turns),	MAP(affinity),	      MAP(service_traffic), MAP(endpoint_traffic), MAP(service_decisions),
	MAP(anomalies), MAP(shadow_outcomes), MAP(shadow_would),    MAP(version_counts),
};
const size_t host_map_count = sizeof(host_maps) / sizeof(host_maps[0]);
struct host_state host;

static void must_read(void *to, size_t size)
{
	if (size && fread(to, size, 1, stdin) != 1)
		exit(1);
}

static void answer(const void *from, size_t size)
{
	if (size && fwrite(from, size, 1, stdout) != 1)
		exit(1);
}

static void decide_once(const struct asked *asked)
{
	struct request request = {
		.dialled = asked->dialled, .client = asked->client, .now = asked->now, .v6_only = asked->v6_only};
	struct decision decision = {.service = frontend_find(&request.dialled), .number = NONE};
	if (decision.service != NONE) {
		decide(&request, &decision);
		decision_count(&decision);
	}
	struct answered answered = {
		.service = decision.service,
		.mode = decision.mode,
		.number = decision.number,
		.refusal = decision_refuses(&decision) ? decision.refusal : NONE,
		.kept = decision.kept,
	};
	if (decision.number != NONE)
		answered.endpoint = decision.endpoint;
	answer(&answered, sizeof(answered));
}

static void live(struct connection *connection, const struct life *life)
{
	struct socket_totals totals = {
		.bytes_sent = life->bytes_sent,
		.bytes_received = life->bytes_received,
		.retransmits = life->retransmits,
		.rtt_us = life->rtt_us,
	};
	totals_without_flags(&totals, life->state, life->fin_received);
	struct owners owners = connection_owners(connection);
	switch (life->step) {
	case OPENED:
		connection_opened(connection, PHASE_CONNECTING);
		break;
	case ESTABLISHED:
		connection_established(connection);
		break;
	case ACCOUNTED:
		connection_account(connection, &owners, &totals);
		break;
	case CLOSED:
		connection_closed(connection, &totals, life->failure);
		break;
	}
	answer(connection, sizeof(*connection));
}

static __u32 index_of(const struct flows *flows, const struct flow *flow)
{
	return flow ? (__u32)(flow - flows->flow) : NONE;
}

static void serve(const struct question *question, unsigned char *body)
{
	struct host_map *map = question->map < host_map_count ? &host_maps[question->map] : NULL;
	__u32 word;
	switch (question->operation) {
	case PUT:
		word = bpf_map_update_elem(map->declaration, body, body + map->key_size, BPF_ANY) != 0;
		answer(&word, sizeof(word));
		break;
	case GET: {
		static const unsigned char nothing[1024];
		const void *value = bpf_map_lookup_elem(map->declaration, body);
		word = value != NULL;
		answer(&word, sizeof(word));
		answer(value ? value : nothing, map->value_size);
		break;
	}
	case FULL:
		memcpy(&word, body, sizeof(word));
		map->full = word;
		break;
	case RANDOM:
		host.random_drawn = 0;
		host.random_count = question->size / sizeof(__u32);
		if (question->size > sizeof(host.random))
			exit(1);
		memcpy(host.random, body, question->size);
		break;
	case DECIDE:
		decide_once((struct asked *)body);
		break;
	case FLOW_PLACE:
		word = index_of((struct flows *)body, flow_place((struct flows *)body));
		answer(&word, sizeof(word));
		break;
	case FLOW_LIVE: {
		struct flow *flow = (struct flow *)body;
		__u64 *now = (__u64 *)(flow + 1);
		word = flow_is_live(flow, *(__u32 *)(now + 1), *now);
		answer(&word, sizeof(word));
		break;
	}
	case FLOW_OF: {
		struct flows *own = (struct flows *)body;
		struct frontend_key *key = (struct frontend_key *)(body + sizeof(*own));
		word = index_of(own, flow_of_service(own, key));
		answer(&word, sizeof(word));
		word = index_of(own, flow_of_endpoint(own, key->address, key->port));
		answer(&word, sizeof(word));
		break;
	}
	case CONNECTION:
		live((struct connection *)body, (struct life *)(body + sizeof(struct connection)));
		break;
	case EVENT:
		answer(host.event, sizeof(struct event));
		memset(&host.event, 0, sizeof(host.event));
		break;
	default:
		exit(1);
	}
}

int main(void)
{
	for (size_t i = 0; i < host_map_count; i++) {
		host_maps[i].keys = calloc(HOST_ENTRIES, host_maps[i].key_size);
		host_maps[i].values = calloc(HOST_ENTRIES, host_maps[i].value_size);
	}
	static _Alignas(8) unsigned char body[4096];
	struct question question;
	while (fread(&question, sizeof(question), 1, stdin) == 1) {
		if (question.size > sizeof(body))
			return 1;
		must_read(body, question.size);
		serve(&question, body);
		fflush(stdout);
	}
	return 0;
}
