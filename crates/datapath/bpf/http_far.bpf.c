/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_msg on the sockets of endpoints that the proxy's connections end at: a response is about to be sent. It goes straight
 * into the client's socket, as long as its end can be told and it is not large; else by TCP to the proxy, which carries it.
 */
#include "http/client.h"
#include "http/far.h"
#include "http/head.h"
#include "http/note.h"

/*
 * The proxy carries the response from here on: the flag first, then the bytes, by TCP. Who watches is told now: what
 * follows is not seen here.
 */
static __always_inline int carry(struct sk_msg_md *msg, struct http_slot *slot, __u64 lease, __u32 reason)
{
	__u32 flags;
	slot->reason = reason;
	if (slot_flag(slot, lease, HTTP_SLOT_COPY, 0, &flags)) {
		count_reason(slot->service, reason);
		if (slot->noted)
			bpf_tail_call(msg, &http_next, HTTP_NEXT_TOLD);
	}
	return SK_PASS;
}

static __always_inline void note_first_byte(__u32 number)
{
	struct http_note *note = bpf_map_lookup_elem(&http_notes, &number);
	if (note)
		note->pending.first_byte_ns = bpf_ktime_get_ns();
}

/* Reads the head of the response; its status, and in `left` how long it is in all. 0, or why the proxy carries it. */
static __always_inline __u32 begin(struct sk_msg_md *msg, struct http_slot *slot)
{
	struct http_window *window = window_take();
	if (!window)
		return HTTP_REASON_BUSY;
	struct head head = {};
	__u32 length = window_fill(window, msg);
	__u32 reason = length ? response_read(window, &head, length, slot->method) : HTTP_REASON_BUSY;
	window_give(window);
	/* Also of a response that the proxy carries, as far as it is known. */
	slot->status = head.status;
	slot->left = head.length ? (__u64)head.length + head.body : msg->size;
	if (reason)
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
	/* Nobody has asked, or the proxy has: what the endpoint says is the proxy's to hear. */
	if (!(word & HTTP_SLOT_BUSY) || word & (HTTP_SLOT_DEAD | HTTP_SLOT_COPY) ||
	    SLOT_GENERATION(word) != far->generation)
		return SK_PASS;
	if (slot->phase == HTTP_PHASE_HEAD) {
		if (slot->noted)
			note_first_byte(number);
		__u32 reason = begin(msg, slot);
		if (reason)
			return carry(msg, slot, lease, reason);
	}
	if (size > slot->left)
		return carry(msg, slot, lease, HTTP_REASON_EXCESS);
	/* The client is gone: the proxy hears of it, and what is left of the response. */
	if (bpf_msg_redirect_hash(msg, &http_client_sockets, &cookie, BPF_F_INGRESS) != SK_PASS)
		return carry(msg, slot, lease, HTTP_REASON_GONE);
	slot->left -= size;
	slot->response_bytes += size;
	if (!slot->left) {
		exchange_count(number);
		load_change(slot->endpoint, -1);
		/* It gives the slot back itself, for the note is the slot's. */
		if (slot->noted)
			bpf_tail_call(msg, &http_next, HTTP_NEXT_TOLD);
		slot_finish(number, lease, HTTP_SLOT_BUSY);
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
