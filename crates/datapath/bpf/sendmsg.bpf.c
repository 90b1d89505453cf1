/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/sendmsg4, cgroup/sendmsg6: a UDP socket sends a datagram to an address it names. */
#include "alize/flow.h"
#include "alize/sock_addr.h"

static __always_inline void count_flow(const struct decision *decision)
{
	struct connection connection = {
		.service = decision->service,
		.endpoint = decision->mode == MODE_ENFORCE ? decision->number : NONE,
		.mode = decision->mode,
	};
	struct owners owners = connection_owners(&connection);
	COUNT_OWNERS(owners, connections);
	COUNT_SHADOW(&connection, connections);
}

/*
 * Remembers the flow in the place that its service had, or in another. What is only observed takes none from what is
 * balanced, whose replies would come from a stranger then.
 */
static __always_inline void flow_begin(struct flows *flows, struct flow *flow, const struct request *request,
				       const struct decision *decision)
{
	bool enforced = decision->mode == MODE_ENFORCE;
	if (!flow) {
		flow = flow_place(flows);
		if (flow->endpoint != NONE && flow_is_recent(flow, request->now)) {
			if (!enforced)
				return;
			count_anomaly(ANOMALY_FLOW_EVICTED);
		}
	}
	address_copy(flow->service_address, request->dialled.address);
	flow->service_port = request->dialled.port;
	address_copy(flow->endpoint_address, decision->endpoint.address);
	flow->endpoint_port = decision->endpoint.port;
	flow->endpoint = enforced ? decision->number : NONE;
	flow->used_ns = request->now;
}

/* Where the datagram goes is left in decision->endpoint when `number` is not NONE. */
static __always_inline int send(struct bpf_sock_addr *ctx, struct request *request, struct decision *decision)
{
	request->dialled.port = ctx->user_port;
	request->dialled.protocol = ADDRESS_IPPROTO_UDP;
	decision->service = frontend_find(&request->dialled);
	if (decision->service == NONE || !ctx->sk)
		return VERDICT_PASS;

	request->now = bpf_ktime_get_ns();
	struct flows *own = bpf_sk_storage_get(&flows, ctx->sk, 0, 0);
	struct flow *flow = own ? flow_of_service(own, &request->dialled) : 0;
	__u32 mode = FIELD(service_word(decision->service, request->dialled.address), SERVICE_MODE);
	if (flow && flow_is_live(flow, mode, request->now)) {
		flow->used_ns = request->now;
		address_copy(decision->endpoint.address, flow->endpoint_address);
		decision->endpoint.port = flow->endpoint_port;
		decision->number = flow->endpoint;
		return VERDICT_PASS;
	}

	request->client = ctx_client(ctx);
	decide(request, decision);
	decision_count(decision);
	if (decision_refuses(decision))
		return ctx_refuse(decision);
	if (decision_would_refuse(decision))
		tell_refusal(decision, EVENT_WOULD_REFUSE);
	bool enforced = decision->mode == MODE_ENFORCE;
	own = own ?: bpf_sk_storage_get(&flows, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (own)
		flow_begin(own, flow, request, decision);
	else
		count_anomaly(ANOMALY_FLOW_UNTRACKED);
	if (!own && enforced)
		/* Sent on, its reply would come from a stranger: better a clear error now. */
		return ctx_refuse(decision);
	count_flow(decision);
	if (!enforced)
		decision->number = NONE;
	return VERDICT_PASS;
}

/* Also datagrams of IPv6 sockets to ::ffff:a.b.c.d: the kernel sends those as IPv4. */
SEC("cgroup/sendmsg4")
int alize_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct request request = {};
	struct decision decision = {.service = NONE, .number = NONE};
	ctx_address4(ctx, request.dialled.address);
	int verdict = send(ctx, &request, &decision);
	if (verdict == VERDICT_PASS && decision.number != NONE)
		ctx_set4(ctx, decision.endpoint.address, decision.endpoint.port);
	return verdict;
}

SEC("cgroup/sendmsg6")
int alize_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct request request = {.v6_only = true};
	struct decision decision = {.service = NONE, .number = NONE};
	ctx_address6(ctx, request.dialled.address);
	int verdict = send(ctx, &request, &decision);
	if (verdict == VERDICT_PASS && decision.number != NONE)
		ctx_set6(ctx, decision.endpoint.address, decision.endpoint.port);
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
