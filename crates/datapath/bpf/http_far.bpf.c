/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_msg on the sockets of endpoints that the proxy's connections end at: a response is about to be sent. It goes straight
 * into the client's socket, as long as its end can be told and there is room for it; else by TCP to the proxy, which carries
 * it.
 */
#include "http/far.h"
#include "http/note.h"
#include "http/queue.h"
#include "http/response.h"

/* Who watches is told when the proxy begins to carry: what follows is not seen here. */
static __always_inline int carry(struct sk_msg_md *msg, struct http_slot *slot, __u64 lease, __u32 reason)
{
	if (response_leave(slot, lease, reason) && slot->noted)
		bpf_tail_call(msg, &http_next, HTTP_NEXT_TOLD);
	return SK_PASS;
}

/* A large response, of which the rest is in order. It is in a queue until the client reads it, however slowly. */
static __always_inline bool has_room(const struct bpf_sock *sk, const struct http_slot *slot)
{
	const struct tcp_sock *tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock((void *)sk);
	return tcp && slot->left <= HTTP_LARGE_SIZE && queue_has_room(tcp, slot->left);
}

/* Reads the head of the response. 0, or why the proxy carries it. */
static __always_inline __u32 begin(struct sk_msg_md *msg, const struct bpf_sock *sk, struct http_slot *slot)
{
	struct http_window *window = window_take();
	if (!window)
		return HTTP_REASON_BUSY;
	__u32 reason = response_begin(slot, window, window_fill(window, msg));
	window_give(window);
	if (reason != HTTP_REASON_LARGE || !has_room(sk, slot))
		return reason;
	slot->phase = HTTP_PHASE_BODY;
	return 0;
}

SEC("sk_msg")
int alize_http_far(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct http_far *far = sk ? bpf_sk_storage_get(&http_far, sk, 0, 0) : 0;
	__u32 size = msg->size;
	if (!far || !size)
		return SK_PASS;
	__u32 number = far->slot;
	struct http_slot *slot = slot_get(number);
	if (!slot)
		return SK_PASS;
	__u64 word = READ_ONCE(slot->state), cookie = SLOT_COOKIE(word), lease = LEASE(word);
	if (!response_is_due(word, far->generation))
		return SK_PASS;
	if (slot->phase == HTTP_PHASE_HEAD) {
		if (slot->noted)
			note_first_byte(number);
		__u32 reason = begin(msg, sk, slot);
		if (reason)
			return carry(msg, slot, lease, reason);
	}
	if (size > slot->left)
		return carry(msg, slot, lease, HTTP_REASON_EXCESS);
	/* The client is gone: the proxy hears of it, and what is left of the response. */
	if (bpf_msg_redirect_hash(msg, &http_client_sockets, &cookie, BPF_F_INGRESS) != SK_PASS)
		return carry(msg, slot, lease, HTTP_REASON_GONE);
	if (response_moved(slot, number, size)) {
		/* It gives the slot back itself, for the note is the slot's. */
		if (slot->noted)
			bpf_tail_call(msg, &http_next, HTTP_NEXT_TOLD);
		slot_finish(number, lease, HTTP_SLOT_BUSY);
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
