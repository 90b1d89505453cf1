/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A response on its way to the client: followed by http_far where the endpoint sends it, by http_back where it arrives. It
 * goes straight into the client's socket as long as its end can be told and it is not large; else the proxy carries it.
 */
#ifndef HTTP_RESPONSE_H
#define HTTP_RESPONSE_H

#include "http/client.h"
#include "http/head.h"

/* Whether a response is outstanding under `word`, and the programs' to follow. If not, bytes are the proxy's to hear. */
static __always_inline bool response_is_due(__u64 word, __u32 generation)
{
	return word & HTTP_SLOT_BUSY && !(word & (HTTP_SLOT_DEAD | HTTP_SLOT_COPY)) &&
	       SLOT_GENERATION(word) == generation;
}

/* The proxy carries the response from here on: the flag first, then the bytes, by TCP. False: the lease has ended. */
static __always_inline bool response_leave(struct http_slot *slot, __u64 lease, __u32 reason)
{
	__u32 flags;
	slot->reason = reason;
	if (!slot_flag(slot, lease, HTTP_SLOT_COPY, 0, &flags))
		return false;
	count_reason(slot->service, reason);
	return true;
}

/*
 * Reads the head, of which the window holds `length` bytes. 0, or why the proxy carries the response. Its status, and in
 * `left` how long all of it is, are told as far as they are known.
 */
static __always_inline __u32 response_begin(struct http_slot *slot, struct http_window *window, __u32 length)
{
	struct head head = {};
	__u32 reason = length ? response_read(window, &head, length, slot->method) : HTTP_REASON_BUSY;
	slot->status = head.status;
	slot->left = (__u64)head.length + head.body;
	if (reason)
		return reason;
	slot->phase = HTTP_PHASE_BODY;
	return 0;
}

/* `size` bytes are on their way to the client. Whether they are the last; then the slot is to be given back. */
static __always_inline bool response_moved(struct http_slot *slot, __u32 number, __u32 size)
{
	slot->left -= size;
	slot->response_bytes += size;
	if (slot->left)
		return false;
	exchange_count(number);
	return true;
}

#endif
