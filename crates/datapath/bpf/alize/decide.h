/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The whole decision for one connect or one datagram of a new flow: service, affinity, balance. Over plain values,
 * so that connect and sendmsg, IPv4 and IPv6, the kernel and the host's unit tests all run this same text.
 */
#ifndef ALIZE_DECIDE_H
#define ALIZE_DECIDE_H

#include "affinity.h"
#include "balance.h"
#include "frontend.h"
#include "service.h"

struct request {
	struct frontend_key dialled;
	__u64 client;
	__u64 now;
	/* sendmsg6 cannot turn a datagram to IPv4: the kernel answers ENOTSUPP (net/ipv6/udp.c, udpv6_sendmsg) */
	bool v6_only;
};

struct decision {
	__u32 service; /* NONE: not ours */
	__u32 mode;
	__u32 number; /* of the endpoint; NONE: refused, or only observed */
	__u32 refusal; /* where number is NONE and mode is not MODE_OBSERVE */
	struct endpoint endpoint; /* a copy, where number is not NONE */
};

static __always_inline bool endpoint_fits(const struct endpoint *endpoint, const struct request *request, __u32 service)
{
	if (endpoint->service != service || endpoint->state == ENDPOINT_GONE)
		return false;
	bool v4 = address_is_v4(endpoint->address);
	return v4 ? !request->v6_only : !address_is_v4(request->dialled.address);
}

static __always_inline void decide(const struct request *request, struct decision *decision)
{
	bool v4 = address_is_v4(request->dialled.address);
	decision->number = NONE;
	decision->refusal = REFUSAL_NO_ENDPOINT;
	decision->service = frontend_find(&request->dialled);
	if (decision->service == NONE)
		return;

	__u64 word = service_word(decision->service, request->dialled.address);
	decision->mode = FIELD(word, SERVICE_MODE);
	if (decision->mode == MODE_OBSERVE)
		return;

	__u64 timeout = FIELD(word, SERVICE_AFFINITY);
	__u32 number = NONE;
	if (timeout)
		number = affinity_find(request->client, decision->service, timeout, v4, request->now);
	bool kept = number != NONE;
	if (!kept)
		number = balance(word, decision->service, request->client);
	if (number == NONE)
		return;

	struct endpoint *endpoint = endpoint_get(number);
	if (!endpoint || !endpoint_fits(endpoint, request, decision->service)) {
		decision->refusal = endpoint && endpoint->service == decision->service ? REFUSAL_NO_ENDPOINT
										       : REFUSAL_STALE;
		return;
	}
	decision->endpoint = *endpoint;
	decision->number = number;
	if (timeout && !kept)
		affinity_save(request->client, decision->service, v4, number, request->now);
}

/* Counts a decision; true when the caller is to be refused. */
static __always_inline bool decision_count(const struct decision *decision)
{
	if (decision->mode == MODE_OBSERVE)
		return false;
	if (decision->number != NONE && decision->mode == MODE_ENFORCE)
		return false;
	struct decisions *counts = decisions_of_service(decision->service);
	if (decision->mode == MODE_SHADOW) {
		if (!counts)
			return false;
		if (decision->number != NONE)
			COUNT(counts->would_balance, 1);
		else if (decision->refusal < REFUSALS)
			COUNT(counts->would_refuse[decision->refusal], 1);
		return false;
	}
	if (counts && decision->refusal < REFUSALS)
		COUNT(counts->refused[decision->refusal], 1);
	return true;
}

#endif
