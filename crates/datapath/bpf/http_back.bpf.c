/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_skb on the proxy's connections to endpoints that have no socket here: a piece of a response has arrived. It goes into
 * the client's socket by way of a kernel thread (net/core/skmsg.c, sk_psock_backlog), which knows no back-pressure: only
 * responses of known length under HTTP_MESSAGE_SIZE go there, one at a time. What is passed waits for the proxy.
 */
#include "http/back.h"
#include "http/note.h"
#include "http/response.h"

/* The proxy sleeps, for each redirected piece would wake it: it waits for no bytes of such a socket until it is told. */
static __always_inline int tell(struct http_slot *slot, __u32 number, __u64 lease)
{
	slot->phase = HTTP_PHASE_TOLD;
	http_tell(lease, HTTP_REASON_REMOTE, number, BPF_RB_FORCE_WAKEUP);
	return SK_PASS;
}

static __always_inline int carry(struct __sk_buff *skb, struct http_slot *slot, __u32 number, __u64 lease, __u32 reason)
{
	bool left = response_leave(slot, lease, reason);
	tell(slot, number, lease);
	if (left && slot->noted)
		bpf_tail_call(skb, &http_back_next, HTTP_NEXT_TOLD);
	return SK_PASS;
}

/* Bytes that no program follows. */
static __always_inline int leave(struct http_slot *slot, __u32 number, __u64 word)
{
	if (word & HTTP_SLOT_DEAD || (word & HTTP_SLOT_COPY && slot->phase == HTTP_PHASE_TOLD))
		return SK_PASS;
	/* Nobody has asked: never lent again, for who comes next would hear this. */
	if (!(word & HTTP_SLOT_COPY))
		WRITE_ONCE(slot->ended, 1);
	return tell(slot, number, LEASE(word));
}

/* Reads the head of the response. 0, or why the proxy carries it. */
static __always_inline __u32 begin(struct __sk_buff *skb, struct http_slot *slot, __u32 length)
{
	struct http_window *window = window_take();
	if (!window)
		return HTTP_REASON_BUSY;
	/* Before Linux 6.8 a verifier does not learn from `length != 0` that it is at least 1. */
	__u64 last = (length < HTTP_HEAD_SIZE ? length : HTTP_HEAD_SIZE) - 1ULL;
	HIDE(last);
	__u32 reason = HTTP_REASON_BUSY;
	if (last < HTTP_HEAD_SIZE && !bpf_skb_load_bytes(skb, 0, window->bytes, last + 1))
		reason = response_begin(slot, window, last + 1);
	window_give(window);
	return reason;
}

SEC("sk_skb/stream_verdict")
int alize_http_back(struct __sk_buff *skb)
{
	__u64 key = bpf_get_socket_cookie(skb);
	struct http_far *back = bpf_map_lookup_elem(&http_backs, &key);
	__u32 number = back ? back->slot : SLOT_NONE, size = skb->len;
	struct http_slot *slot = slot_get(number);
	if (!back || !slot)
		return size ? SK_PASS : SK_DROP;
	__u64 word = READ_ONCE(slot->state), cookie = SLOT_COOKIE(word), lease = LEASE(word);
	bool current = SLOT_GENERATION(word) == back->generation;
	struct bpf_sock *sk = skb->sk;
	/* tcp_fin() has run: with these bytes, or with none, the endpoint has closed. */
	if (current && sk && sk->state != BPF_TCP_ESTABLISHED)
		WRITE_ONCE(slot->ended, 1);
	/* A FIN alone. Passed on it would be a message without bytes, at which recv() fails on some kernels. */
	if (!size)
		return SK_DROP;
	if (!current)
		return SK_PASS;
	if (!response_is_due(word, back->generation))
		return leave(slot, number, word);
	if (slot->phase == HTTP_PHASE_HEAD) {
		if (slot->noted)
			note_first_byte(number);
		__u32 reason = begin(skb, slot, size);
		if (reason)
			return carry(skb, slot, number, lease, reason);
	}
	if (size > slot->left)
		return carry(skb, slot, number, lease, HTTP_REASON_EXCESS);
	if (bpf_sk_redirect_hash(skb, &http_client_sockets, &cookie, BPF_F_INGRESS) != SK_PASS)
		return carry(skb, slot, number, lease, HTTP_REASON_GONE);
	if (response_moved(slot, number, size)) {
		/* It gives the slot back itself, for the note is the slot's. */
		if (slot->noted)
			bpf_tail_call(skb, &http_back_next, HTTP_NEXT_TOLD);
		slot_finish(number, lease, HTTP_SLOT_BUSY);
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
