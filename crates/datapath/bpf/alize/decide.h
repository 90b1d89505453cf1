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
	bool kept; /* the endpoint is the one the client had */
	bool proxied; /* to the proxy, whose address `endpoint` then holds; `number` is NONE */
	bool strict; /* only the proxy could do what the service's rules say, and there is none */
	struct endpoint endpoint; /* a copy, where number is not NONE */
};

static __always_inline bool endpoint_fits(const struct endpoint *endpoint, const struct request *request, __u32 service)
{
	if (endpoint->service != service || endpoint->state == ENDPOINT_GONE)
		return false;
	bool v4 = address_is_v4(endpoint->address);
	return v4 ? !request->v6_only : !address_is_v4(request->dialled.address);
}

/* Decides for `decision->service`, which frontend_find() has found: what is not ours must not pay for a client hash. */
static __always_inline void decide(const struct request *request, struct decision *decision)
{
	bool v4 = address_is_v4(request->dialled.address);
	decision->number = NONE;
	decision->kept = false;
	decision->refusal = REFUSAL_NO_ENDPOINT;

	__u64 word = service_word(decision->service, request->dialled.address);
	decision->mode = FIELD(word, SERVICE_MODE);
	if (decision->mode == MODE_OBSERVE)
		return;

	__u64 timeout = FIELD(word, SERVICE_AFFINITY);
	__u32 number = NONE;
	if (timeout)
		number = affinity_find(request->client, decision->service, timeout, v4, request->now);
	decision->kept = number != NONE;
	if (!decision->kept)
		number = balance(word, decision->service, request->client);
	if (number == NONE)
		return;

	struct endpoint *endpoint = endpoint_get(number);
	if (!endpoint || !endpoint_fits(endpoint, request, decision->service)) {
		decision->refusal =
			endpoint && endpoint->service == decision->service ? REFUSAL_NO_ENDPOINT : REFUSAL_STALE;
		return;
	}
	decision->endpoint = *endpoint;
	decision->number = number;
	if (timeout && !decision->kept)
		affinity_save(request->client, decision->service, v4, number, request->now);
}

/* A decision of mode enforce without an endpoint: the caller hears ECONNREFUSED at once. */
static __always_inline bool decision_refuses(const struct decision *decision)
{
	return decision->service != NONE && decision->mode == MODE_ENFORCE && decision->number == NONE;
}

/* The same of mode shadow: nobody hears it. */
static __always_inline bool decision_would_refuse(const struct decision *decision)
{
	return decision->service != NONE && decision->mode == MODE_SHADOW && decision->number == NONE;
}

/* Counts what the counters of connections cannot show: refusals, what would have been done, clients that stayed. */
static __always_inline void decision_count(const struct decision *decision)
{
	bool balanced = decision->number != NONE;
	if (decision->mode == MODE_OBSERVE || (balanced && decision->mode == MODE_ENFORCE && !decision->kept))
		return;
	struct decisions *counts = decisions_of_service(decision->service);
	if (!counts)
		return;
	if (decision->kept)
		COUNT(counts->affinity_kept, 1);
	if (balanced) {
		if (decision->mode == MODE_SHADOW) {
			COUNT(counts->would_balance, 1);
			count_would(decision->number);
		}
		return;
	}
	__u32 refusal = decision->refusal;
	if (refusal >= REFUSALS)
		return;
	COUNT(*(decision->mode == MODE_SHADOW ? &counts->would_refuse[refusal] : &counts->refused[refusal]), 1);
	if (decision->mode == MODE_ENFORCE)
		count_for_version(VERSION_REFUSED + refusal);
}

#endif
