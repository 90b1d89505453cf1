/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What follows from a head that is complete, wherever its bytes came from: packets (follow.h), or within TLS (plain.h). */
#ifndef OBSERVE_MESSAGE_H
#define OBSERVE_MESSAGE_H

#include "exchange.h"
#include "memo.h"

static __always_inline void message_over(struct framing *framing)
{
	framing->phase = PHASE_START;
	framing->bytes = 0;
	framing->started_ns = 0;
}

/* The head of a request is complete. 0, or why the thread is lost. */
__noinline __u32 request_headed(struct conversation *conversation, struct window *window, struct pending *pending)
{
	if (!conversation || !window || !pending)
		return TALLY_NO_MEMORY;
	struct framing *framing = &conversation->request;
	tally(TALLY_REQUEST);
	__u32 reason = request_body(framing);
	if (reason)
		return reason;
	if (framing->slotless) {
		/* Which of those beyond the pipeline had no body in its response is not kept. */
		if (framing->method == METHOD_HEAD || framing->method == METHOD_CONNECT)
			return TALLY_UNPAIRED;
		tally(TALLY_PIPELINE_OVERFLOW);
		__sync_fetch_and_add(&conversation->overflow, 1);
	} else {
		pending->started_ns = framing->started_ns;
		pending->first_byte_ns = 0;
		pending->request_bytes = framing->bytes;
		pending->number = conversation->requests;
		if (conversation->sent != conversation->taken)
			pending->flags |= REQUEST_FLAG_PIPELINED;
		if (pending->foldable)
			pending->path = path_hash_folded(window, pending);
		pending->path = path_templated(window, pending);
		*(volatile __u32 *)&conversation->sent = conversation->sent + 1;
	}
	if (!conversation->requests++ && !conversation->probation)
		tally(TALLY_FOLLOWED);
	if (framing->phase == PHASE_START)
		message_over(framing);
	return 0;
}

/*
 * The head of a response to a request of `method` is complete. 0, or why the connection ends to be HTTP here; `over`: so
 * does the exchange.
 */
static __always_inline __u32 response_continues(struct framing *framing, __u8 method, bool *over)
{
	*over = false;
	if (framing->status < 200 && framing->status != 101) {
		message_over(framing);
		return 0;
	}
	__u32 end = 0;
	if (framing->status == 101)
		end = TALLY_UPGRADED;
	else if (method == METHOD_CONNECT && framing->status < 300)
		end = TALLY_TUNNEL;
	else
		response_body(framing, method);
	*over = end || framing->phase == PHASE_START;
	return end;
}

#endif
