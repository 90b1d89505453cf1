/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of a TCP connection, on the socket at which it is followed; and on the other one, that it is. */
#ifndef OBSERVE_CONVERSATION_H
#define OBSERVE_CONVERSATION_H

#include "framing.h"
#include "tallies.h"
#include "turn.h"

enum state {
	STATE_FOLLOWED = 0,
	STATE_JOINED, /* looks for a safe place; see follow.h */
	STATE_PEER, /* the client's socket is observed, so this one, the server's, has nothing to do but say who it is */
	STATE_OFF, /* for good */
	STATE_HTTP2, /* see http2.h */
};

enum role {
	ROLE_UNKNOWN = 0, /* of a connection that was there before */
	ROLE_CLIENT,
	ROLE_SERVER,
};

/* How the connection will be over, once what came before has been read. */
enum ending {
	ENDING_NOT = 0,
	ENDING_CLOSED, /* a FIN of who responds */
	ENDING_BROKEN, /* an RST of either side */
};

enum {
	PIPELINE = 32, /* requests outstanding at a time that are told apart; a power of two */
};

/* Addresses as struct series_key has them. */
struct ends {
	__be32 client_address[4];
	__be32 server_address[4];
	__be16 client_port;
	__be16 server_port;
	__u32 zero;
};

struct conversation {
	struct identity self; /* who sent on this socket */
	struct ends ends;
	struct framing request;
	struct framing response;
	__u64 link; /* key of `links` */
	__u64 destination; /* cgroup of the server's socket, once it was asked for */
	__u32 taken; /* requests whose response has ended; only the response's direction writes it */
	__u32 sent; /* requests whose head was complete; only the request's direction writes it */
	__u32 overflow; /* requests outstanding beyond the pipeline, behind all in it */
	__u32 requests; /* that were ever sent */
	__u32 service;
	__u8 state;
	__u8 role;
	__u8 probation; /* a safe place may have been found: one exchange has to prove it */
	__u8 linked; /* `destination` was asked for */
	__u8 path_label; /* enum path_label */
	__u8 ending; /* enum ending */
	__u8 begun; /* its first segment has been read; within TLS, it has been found to be HTTP/2 */
	__u8 zero;
	__u32 end; /* sequence number behind the last byte of the response's direction, once `ending` */
	__u32 beginning; /* a CPU makes it `begun`, or has done so */
	struct pending first; /* the only place most connections need */
};

/* The other places. */
struct pipeline {
	struct pending more[PIPELINE - 1];
};

/* Beginnings of lines that are not complete. */
struct partial {
	__u8 request[CARRY_SIZE];
	__u8 response[CARRY_SIZE];
};

/* socket -> its conversation. Of the observing programs alone; it goes with the socket, as the next two do. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conversation);
} conversations SEC(".maps");

/* socket -> requests outstanding behind the first. Made when a client first pipelines. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pipeline);
} pipelines SEC(".maps");

/* socket -> unfinished lines. Made when a packet first ends within a line. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct partial);
} partials SEC(".maps");

/* Making storage fails also where another CPU makes it, or the socket's first, at the same time: then it can be had. */
#define STORAGE_MADE(map, sk)                                                               \
	({                                                                                  \
		void *made = bpf_sk_storage_get(&map, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);  \
		made ? made : bpf_sk_storage_get(&map, sk, 0, BPF_SK_STORAGE_GET_F_CREATE); \
	})

static long begun_step(__u32 i, void *context)
{
	struct conversation **conversation = context;
	return *(volatile __u8 *)&(*conversation)->begun ? 1 : 0;
}

/* Whether it is for the caller to begin; if not, whoever does is waited for, maybe in vain. */
static __always_inline bool conversation_taken(struct conversation *conversation)
{
	if (!__sync_lock_test_and_set(&conversation->beginning, 1))
		return true;
	bpf_loop(TURN_STEPS, begun_step, &conversation, 0);
	return false;
}

static __always_inline void conversation_begun(struct conversation *conversation)
{
	*(volatile __u8 *)&conversation->begun = 1;
}

static __always_inline bool conversation_idle(const struct conversation *conversation)
{
	return conversation->sent == conversation->taken && !conversation->overflow;
}

/* Neither direction has brought anything yet. */
static __always_inline void conversation_rewind(struct conversation *conversation)
{
	__builtin_memset(&conversation->request, 0, sizeof(conversation->request));
	__builtin_memset(&conversation->response, 0, sizeof(conversation->response));
	conversation->sent = 0;
	conversation->taken = 0;
	conversation->overflow = 0;
	conversation->requests = 0;
}

/* Place number `number` in the pipeline; NULL where there is no memory. */
static __always_inline struct pending *pending_at(struct bpf_sock *sk, struct conversation *conversation, __u32 number,
						  bool create)
{
	__u32 place = number & (PIPELINE - 1);
	if (!place)
		return &conversation->first;
	if (!sk)
		return 0;
	struct pipeline *pipeline = create ? STORAGE_MADE(pipelines, sk) : bpf_sk_storage_get(&pipelines, sk, 0, 0);
	if (!pipeline)
		return 0;
	place -= 1;
	HIDE(place);
	if (place >= PIPELINE - 1)
		return 0;
	return &pipeline->more[place];
}

/* The connection is not followed any more, for good or until a safe place is found. */
static __always_inline void conversation_lose(struct conversation *conversation, __u32 reason)
{
	bool again = conversation->probation || reason == TALLY_GAP || reason == TALLY_RACED ||
		     reason == TALLY_NO_WINDOW || reason == TALLY_BUDGET;
	__u32 outstanding = conversation->sent - conversation->taken;
	/* What probation tried and found wanting was never said to be HTTP. */
	if (!conversation->probation) {
		tally(reason);
		if (outstanding)
			tally_add(TALLY_UNSEEN_EXCHANGE, outstanding);
	}
	conversation->state = again ? STATE_JOINED : STATE_OFF;
}

#endif
