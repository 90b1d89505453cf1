/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_msg on the sockets of clients: a request is about to be sent. What can be routed goes straight into the socket of
 * an endpoint; all else passes by TCP to the proxy, as if nothing were here.
 */
#include "http/asked.h"
#include "http/client.h"
#include "http/queue.h"
#include "http/route.h"
#include "http/send.h"

/* Leaves the message to the proxy. `slot`: where a response to the client is outstanding. */
static __always_inline int pass(const struct http_client *client, __u32 reason, __u32 slot)
{
	count_reason(client->service, reason);
	http_tell(client->cookie, reason, slot, BPF_RB_NO_WAKEUP);
	return SK_PASS;
}

/* More of a request whose head has been routed. What is not sent on here cannot be made good: the proxy ends it. */
static __always_inline int body(struct sk_msg_md *msg, struct http_client *client)
{
	__u32 number = client->slot, size = msg->size;
	__u32 reason = size > client->left ? HTTP_REASON_EXCESS : HTTP_REASON_GONE;
	struct http_slot *slot = slot_get(number);
	if (size > client->left || !slot || !slot_is_held(slot, client->lease) ||
	    slot_send(msg, slot, number) != SK_PASS) {
		client->left = 0;
		return pass(client, reason, number);
	}
	client->left -= size;
	if (!client->left)
		slot_finish(number, client->lease, HTTP_SLOT_OPEN);
	return SK_PASS;
}

struct choice {
	__u32 slot; /* SLOT_NONE: why is told in `reason` */
	__u32 reason;
	__u32 rule; /* number plus 1 */
	__u32 endpoint;
	__u64 lease; /* of the slot */
	struct pick pick;
	struct http_caller caller; /* if it matters who calls */
};

/* What was counted for the request ahead of it, and is not to be: the proxy counts anew. */
static __always_inline void give_back(struct choice *choice)
{
	if (choice->pick.reserved)
		load_change(choice->endpoint, -1);
	if (choice->pick.limited)
		rule_give_back(choice->rule - 1, &choice->caller);
}

/* Where the request goes: rule, endpoint, an idle slot to it, and last a place within its rate limits. */
static __always_inline void choose(const struct http_client *client, struct http_window *window, struct head *head,
				   __u64 word, __u32 flags, struct choice *choice)
{
	choice->slot = SLOT_NONE;
	choice->rule = FIELD(word, HTTP_SERVICE_ON) ? route_find(window, head, word, &choice->reason) : 0;
	if (!choice->rule)
		return;
	choice->pick.found = head->found;
	choice->endpoint = rule_pick(choice->rule - 1, &choice->pick, &choice->caller);
	choice->reason = choice->pick.reason;
	if (choice->endpoint == NONE)
		return;
	choice->reason = HTTP_REASON_POOL_EMPTY;
	__u32 pool = pool_of(client->netns, choice->endpoint);
	if (pool != SLOT_NONE)
		choice->slot = slot_take(pool, client->cookie, flags, &choice->lease);
	__u32 outcome = HTTP_DRAW_TAKEN;
	if (choice->slot != SLOT_NONE && choice->pick.limited)
		outcome = rule_draw(choice->rule - 1, &choice->caller);
	if (outcome != HTTP_DRAW_TAKEN) {
		choice->reason = draw_reason(outcome);
		slot_return(choice->slot, choice->lease, choice->pick.reserved);
		choice->slot = SLOT_NONE;
		choice->pick.reserved = 0;
	}
	if (choice->slot != SLOT_NONE)
		return;
	choice->pick.limited = 0;
	give_back(choice);
}

static __always_inline void lend(struct http_client *client, struct http_slot *slot, const struct head *head,
				 const struct choice *choice, __u32 size)
{
	__u64 total = (__u64)head->length + head->body;
	slot->started_ns = bpf_ktime_get_ns();
	slot->left = 0;
	slot->request_bytes = total;
	slot->response_bytes = 0;
	slot->service = client->service;
	slot->route = choice->pick.route;
	slot->status = 0;
	slot->method = head->method;
	slot->phase = HTTP_PHASE_HEAD;
	slot->reason = HTTP_REASON_NONE;
	slot->used++;
	client->slot = choice->slot;
	client->lease = choice->lease;
	client->left = total - size;
	if (!choice->pick.reserved)
		load_change(choice->endpoint, 1);
}

/* A request begins. 0, or why it is the proxy's. */
static __always_inline __u32 begin(struct sk_msg_md *msg, struct http_client *client, struct http_window *window)
{
	struct head head = {};
	__u32 size = msg->size, length = window_fill(window, msg);
	if (!length)
		return HTTP_REASON_BUSY;
	/* Read once: what it names belongs together. */
	__u64 word = http_service_word(client->service);
	__u32 reason = request_read(window, &head, length, headers_of(word));
	if (reason)
		return reason;
	__u64 total = (__u64)head.length + head.body;
	if (size > total)
		return HTTP_REASON_PIPELINED;
	struct choice choice = {.reason = HTTP_REASON_ROUTE};
	if (FIELD(word, HTTP_SERVICE_CALLER)) {
		choice.caller.netns = client->netns;
		SOCKET_ADDRESS(msg, local, choice.caller.address);
	}
	choose(client, window, &head, word, size < total ? HTTP_SLOT_OPEN : 0, &choice);
	__u32 number = choice.slot;
	if (number == SLOT_NONE) {
		/* The proxy makes more connections to just that endpoint. */
		client->slot = SLOT_NONE;
		client->wanted = choice.endpoint;
		return choice.reason;
	}
	struct http_slot *slot = slot_get(number);
	if (!slot) {
		give_back(&choice);
		return HTTP_REASON_GONE;
	}
	slot->noted = http_is_watched() && note_write(window, &head, number);
	if (slot->noted)
		note_client(msg, client, number);
	lend(client, slot, &head, &choice, size);
	if (slot_send(msg, slot, number) == SK_PASS)
		return 0;
	/*
	 * The endpoint has closed; the proxy is about to notice, and gets the whole request: nothing was sent yet. So no
	 * response is outstanding either, or the proxy would tell the client that it will not come, and serve the request.
	 */
	client->left = 0;
	__u32 flags;
	if (slot_flag(slot, client->lease, 0, HTTP_SLOT_OPEN | HTTP_SLOT_BUSY, &flags))
		load_change(choice.endpoint, -1);
	choice.pick.reserved = 0;
	give_back(&choice);
	return HTTP_REASON_GONE;
}

SEC("sk_msg")
int alize_http_client(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct http_client *client = sk ? bpf_sk_storage_get(&http_clients, sk, 0, 0) : 0;
	if (!client || !msg->size)
		return SK_PASS;
	if (client->left)
		return body(msg, client);

	__u32 number = client->slot;
	struct http_slot *slot = slot_get(number);
	if (slot && slot_is_lent(slot, client->lease)) {
		/* The proxy has given the client all of a response that it carried, and is about to give back the slot. */
		bool carried = READ_ONCE(slot->state) & HTTP_SLOT_COPY;
		return pass(client, carried ? HTTP_REASON_UNREAD : HTTP_REASON_PIPELINED, number);
	}
	const struct tcp_sock *tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tcp || !client_rests(client, tcp))
		return pass(client, HTTP_REASON_UNREAD, SLOT_NONE);
	/*
	 * Who asks on and does not read would else hold a response more with each request. What the proxy answers is read after
	 * what is in the queue; but from another host the last response may still be on its way there, and the proxy waits.
	 */
	if (!queue_is_read(tcp)) {
		bool queued = slot && READ_ONCE(slot->far);
		return pass(client, queued ? HTTP_REASON_UNREAD : HTTP_REASON_PIPELINED, queued ? SLOT_NONE : number);
	}

	struct http_window *window = window_take();
	if (!window)
		return pass(client, HTTP_REASON_BUSY, SLOT_NONE);
	__u32 reason = begin(msg, client, window);
	window_give(window);
	if (!reason)
		return SK_PASS;
	switch (reason) {
	case HTTP_REASON_GONE:
		return pass(client, reason, client->slot);
	case HTTP_REASON_POOL_EMPTY:
		return pass(client, reason, client->wanted);
	default:
		return pass(client, reason, SLOT_NONE);
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
