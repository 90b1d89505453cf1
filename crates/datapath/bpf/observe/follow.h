/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Following a connection, packet by packet. Sequence numbers decide what is new: what was sent again passes unread,
 * and bodies of known length are stepped over by arithmetic, so that no byte of them is touched and a lost packet
 * within them does no harm.
 *
 * A connection that was there before, or on which the thread was lost, is followed again from a safe place: a request
 * begins where a segment begins, all that the server had sent is acknowledged, its response begins exactly there, and
 * both end exactly where the next request begins. That one exchange is the proof and is in no series.
 */
#ifndef OBSERVE_FOLLOW_H
#define OBSERVE_FOLLOW_H

#include "message.h"

enum {
	WALK_STEPS = 600, /* of one packet */
	FIRST_LOAD = WINDOW_SIZE - CARRY_SIZE,
};

/* Loads the payload from `offset` on to place `at` of the window, which is 0 or the end of a line carried over. */
static __always_inline bool window_load(struct __sk_buff *skb, struct window *window, __u32 at, __u32 offset)
{
	struct progress *progress = &window->progress;
	__u32 size = progress->segment.length - offset;
	/* A copy of it that was put on the stack before a comparison has no bounds in Linux 6.1; one that is masked has. */
	HIDE(at);
	at &= 2 * CARRY_SIZE - 1;
	__u32 limit = at ? FIRST_LOAD : WINDOW_SIZE;
	if (at > CARRY_SIZE)
		return false;
	if (size > limit)
		size = limit;
	/* One less than it, so that Linux 6.1 sees it is not 0: of `size != 0` its verifier learns nothing. */
	__u32 last = size - 1;
	HIDE(last);
	if (last > (at ? FIRST_LOAD - 1 : WINDOW_SIZE - 1))
		return false;
	HIDE(last);
	size = last + 1;
	if (bpf_skb_load_bytes(skb, progress->segment.payload + offset, window->bytes + at, size))
		return false;
	progress->filled = at + size;
	progress->base = (__s32)offset - (__s32)at;
	return true;
}

static __always_inline __u8 *carry_of(struct __sk_buff *skb, bool request, bool create)
{
	struct bpf_sock *sk = skb->sk;
	if (!sk)
		return 0;
	struct partial *partial = create ? STORAGE_MADE(partials, sk) : bpf_sk_storage_get(&partials, sk, 0, 0);
	if (!partial)
		return 0;
	return request ? partial->request : partial->response;
}

/* Keeps the unfinished line at [from, to) of the window for the next packet. */
__noinline int carry_keep(struct __sk_buff *skb, struct window *window, __u32 request, __u32 from)
{
	if (!window)
		return 0;
	__u64 *words = (__u64 *)carry_of(skb, request, true);
	if (!words)
		return 0;
	for (__u32 i = 0; i < CARRY_SIZE / 8; i++)
		words[i] = word_at(window, from + i * 8);
	return 1;
}

/* Puts it back at the beginning of the window. */
__noinline int carry_restore(struct __sk_buff *skb, struct window *window, __u32 request)
{
	if (!window)
		return 0;
	const __u64 *words = (__u64 *)carry_of(skb, request, false);
	if (!words)
		return 0;
	for (__u32 i = 0; i < CARRY_SIZE / 8; i++)
		((__u64 *)window->bytes)[i] = words[i];
	return 1;
}

/* The first byte of a request has come. */
static __always_inline void request_begins(struct conversation *conversation, const struct progress *progress)
{
	if (conversation_idle(conversation)) {
		/* Nothing is outstanding, so the response's direction does not look: back to the place that is here. */
		conversation->taken = 0;
		conversation->sent = 0;
		if (conversation->probation && conversation->requests &&
		    progress->segment.acknowledged == conversation->response.next &&
		    conversation->response.phase == PHASE_START) {
			conversation->probation = 0;
			tally(TALLY_RESYNCHRONISED);
		}
	}
	conversation->request.slotless = conversation->overflow || conversation->sent - conversation->taken >= PIPELINE;
}

/* A request has ended with its body. */
static __always_inline void request_over(struct __sk_buff *skb, struct conversation *conversation)
{
	struct framing *framing = &conversation->request;
	if (!framing->slotless) {
		struct pending *pending = pending_at(skb->sk, conversation, conversation->sent - 1, true);
		if (pending)
			pending->request_bytes = framing->bytes;
	}
	message_over(framing);
}

/* The request whose response is in hand; NULL: it has no place. */
static __always_inline struct pending *response_slot(struct __sk_buff *skb, struct conversation *conversation)
{
	if (conversation->sent == conversation->taken)
		return 0;
	return pending_at(skb->sk, conversation, conversation->taken, false);
}

/* The response in hand has ended. */
__noinline int response_over(struct __sk_buff *skb, struct conversation *conversation, __u64 now)
{
	if (!conversation)
		return 0;
	struct exchange exchange = {
		.now = now,
		.response_bytes = conversation->response.bytes,
		.status = conversation->response.status,
	};
	message_over(&conversation->response);
	struct pending *pending = response_slot(skb, conversation);
	if (pending) {
		exchange_end(conversation, pending, &exchange);
		*(volatile __u32 *)&conversation->taken = conversation->taken + 1;
	} else if (conversation->overflow) {
		__sync_fetch_and_add(&conversation->overflow, -1);
	}
	return 1;
}

/* The head of a response is complete. 0, or why the connection ends to be HTTP here. */
static __always_inline __u32 response_headed(struct __sk_buff *skb, struct conversation *conversation,
					     struct progress *progress)
{
	struct framing *framing = &conversation->response;
	struct pending *pending = response_slot(skb, conversation);
	bool over;
	__u32 end = response_continues(framing, pending ? pending->method : METHOD_GET, &over);
	if (over)
		response_over(skb, conversation, progress->now);
	return end;
}

/* First byte of a message. False: nobody asked for this response. */
static __always_inline bool message_begins(struct __sk_buff *skb, struct conversation *conversation,
					   const struct progress *progress)
{
	if (progress->request) {
		conversation->request.started_ns = progress->now;
		request_begins(conversation, progress);
		return true;
	}
	if (conversation_idle(conversation))
		return false;
	conversation->response.started_ns = progress->now;
	struct pending *pending = response_slot(skb, conversation);
	if (pending)
		pending->first_byte_ns = progress->now;
	return true;
}

/* A message that ended with its body. */
static __always_inline void body_over(struct __sk_buff *skb, struct conversation *conversation,
				      struct progress *progress)
{
	if (progress->request)
		request_over(skb, conversation);
	else
		response_over(skb, conversation, progress->now);
}

/* The line goes on in bytes that are not in the window. 1: in the next packet. */
static __always_inline long line_more(struct __sk_buff *skb, struct framing *framing, struct window *window,
				      __u32 position)
{
	struct progress *progress = &window->progress;
	if (progress->base + (__s32)progress->filled < (__s32)progress->segment.length) {
		progress->reload = 1;
		return 0;
	}
	__u32 left = progress->filled - position;
	progress->offset = progress->segment.length;
	if (left && (left > CARRY_SIZE || !carry_keep(skb, window, progress->request, position)))
		progress->reason = TALLY_NO_MEMORY;
	else
		framing->carried = left;
	return 1;
}

/*
 * A line, the fields of a head, or a body. 1: the packet is done, or the thread is lost. A global function, and what
 * changes from step to step is in the window and not on the stack: so the verifier looks at it once, and not once for
 * each way through the steps before (more than 1,000,000 instructions, Linux 6.18).
 */
__noinline int walk_on(struct __sk_buff *skb, struct conversation *conversation, struct framing *framing,
		       struct window *window)
{
	if (!conversation || !framing || !window)
		return 1;
	struct progress *progress = &window->progress;
	__s32 length = progress->segment.length;
	if (progress->offset >= length)
		return 1;
	if (phase_skips(framing->phase)) {
		__u32 taken;
		bool last = body_take(framing, length - progress->offset, &taken);
		progress->offset += taken;
		framing->bytes += taken;
		if (last)
			body_over(skb, conversation, progress);
		return progress->offset >= length;
	}

	__u32 at = progress->offset - progress->base;
	if (progress->reload || at >= progress->filled) {
		progress->reload = 0;
		at = 0;
		if (progress->offset < 0 || !window_load(skb, window, 0, progress->offset)) {
			progress->reason = TALLY_BUDGET;
			return 1;
		}
	}
	if (!framing->started_ns && !message_begins(skb, conversation, progress)) {
		progress->reason = TALLY_UNSOLICITED;
		return 1;
	}
	struct pending *pending = &window->spare;
	if (progress->request && !framing->slotless)
		pending = pending_at(skb->sk, conversation, conversation->sent, true);
	if (!pending) {
		progress->reason = TALLY_NO_MEMORY;
		return 1;
	}
	__u64 result = message_step(window, framing, progress->request ? pending : 0, at, progress->filled);
	__u32 position = step_position(result);
	progress->offset += position - at;
	framing->bytes += position - at;
	switch (step_outcome(result)) {
	case OUTCOME_ON:
		/* An empty line before a request is no part of it. */
		if (framing->phase == PHASE_START)
			message_over(framing);
		return 0;
	case OUTCOME_MORE:
		return line_more(skb, framing, window, position);
	case OUTCOME_HEAD:
		if (framing->phase == PHASE_TRAILERS)
			body_over(skb, conversation, progress);
		else if (progress->request)
			progress->reason = request_headed(conversation, window, pending);
		else
			progress->reason = response_headed(skb, conversation, progress);
		return progress->reason || progress->offset >= length;
	default:
		progress->reason = step_reason(result);
		return 1;
	}
}

struct walk {
	struct __sk_buff *skb;
	struct conversation *conversation;
	struct framing *framing;
	struct window *window;
};

static long walk_step(__u32 i, void *context)
{
	struct walk *walk = context;
	int done = walk_on(walk->skb, walk->conversation, walk->framing, walk->window);
	/* The compiler knows that this is 0 or 1 and the verifier does not: it looks at each function alone. */
	HIDE(done);
	return done ? 1 : 0;
}

/* TCP stamps what it sends, on the monotonic clock, so that reading the clock again is saved. */
static __always_inline __u64 packet_time(struct __sk_buff *skb, bool egress)
{
	__u64 sent = egress ? skb->tstamp : 0;
	return sent ? sent : bpf_ktime_get_ns();
}

/* The bytes of the packet from `offset` on. 0, or why the thread is lost. */
static __always_inline __u32 walk(struct __sk_buff *skb, struct conversation *conversation, struct framing *framing,
				  const struct segment *segment, bool request, __u32 offset)
{
	struct walk walk = {skb, conversation, framing, window_take()};
	if (!walk.window)
		return TALLY_NO_WINDOW;
	struct progress *progress = &walk.window->progress;
	progress->segment = *segment;
	progress->now = packet_time(skb, request == (conversation->role == ROLE_CLIENT));
	progress->offset = offset;
	progress->base = offset;
	progress->filled = 0;
	progress->reload = 0;
	progress->reason = 0;
	progress->request = request;
	__u32 carried = framing->carried;
	if (carried) {
		framing->carried = 0;
		progress->offset -= carried;
		if (!carry_restore(skb, walk.window, request) || !window_load(skb, walk.window, carried, offset))
			progress->reason = TALLY_NO_MEMORY;
	}
	if (!progress->reason) {
		bpf_loop(WALK_STEPS, walk_step, &walk, 0);
		if (!progress->reason && progress->offset < (__s32)segment->length)
			progress->reason = TALLY_BUDGET;
	}
	__u32 reason = progress->reason;
	window_give(walk.window);
	return reason;
}

/* The part of the payload that is new: `offset` is where it begins. False: nothing to read. */
static __always_inline bool segment_new(struct framing *framing, const struct segment *segment, __u32 *offset,
					__u32 *reason)
{
	__s32 ahead = segment->sequence - framing->next;
	if (ahead <= 0) {
		*offset = -ahead;
		return *offset < segment->length;
	}
	*offset = 0;
	if (!phase_skips(framing->phase) ||
	    (framing->phase != PHASE_UNTIL_CLOSE && (__u64)ahead >= framing->remaining)) {
		*reason = TALLY_GAP;
		return false;
	}
	/* The packet before is late, or was dropped and comes again: within a body nothing is lost with it. */
	__u32 taken;
	body_take(framing, ahead, &taken);
	framing->bytes += ahead;
	return true;
}

/* Reads what is new in the segment. 0, or why the thread is lost. */
static __always_inline __u32 direction_follow(struct __sk_buff *skb, struct conversation *conversation,
					      struct framing *framing, struct segment *segment, bool request)
{
	__u32 reason = 0, offset, taken;
	if (segment_new(framing, segment, &offset, &reason)) {
		__u32 left = segment->length - offset;
		framing->next = segment->sequence + segment->length;
		if (framing->phase == PHASE_UNTIL_CLOSE || (phase_skips(framing->phase) && framing->remaining > left)) {
			body_take(framing, left, &taken);
			framing->bytes += left;
		} else {
			reason = walk(skb, conversation, framing, segment, request, offset);
		}
	}
	return reason;
}

/* An end that all has come before, and that nobody else is reading. */
static __always_inline bool end_come(const struct conversation *conversation)
{
	const volatile __u32 *next = &conversation->response.next;
	return conversation->ending == ENDING_BROKEN || (__s32)(*next - conversation->end) >= 0;
}

/*
 * Ends what has said that it ends. A FIN may be looked at before the last of the response is, or while it is: they may
 * have been sent by two CPUs, each to itself. So the end waits for the bytes before it, and whoever reads them when it
 * comes looks again when done. What never comes ends with the socket. A global function, so that the verifier looks at
 * it once.
 */
__noinline int conversation_finish(struct __sk_buff *skb, struct conversation *conversation)
{
	if (!conversation)
		return 0;
	struct framing *framing = &conversation->response;
	if (!end_come(conversation) || __sync_lock_test_and_set(&framing->busy, 1))
		return 0;
	if (conversation->state == STATE_FOLLOWED && end_come(conversation)) {
		/* The end of a body that has no other; not if the connection broke. */
		if (conversation->ending == ENDING_CLOSED && framing->phase == PHASE_UNTIL_CLOSE)
			response_over(skb, conversation, bpf_ktime_get_ns());
		conversation_end(skb->sk, conversation);
	}
	turn_give(&framing->busy);
	return 1;
}

/* FIN or RST. A client that has only stopped sending still waits for its responses. */
static __always_inline void conversation_close(struct __sk_buff *skb, struct conversation *conversation,
					       const struct segment *segment, bool request)
{
	bool broken = segment->flags & SEGMENT_RST;
	if (request && !broken)
		return;
	conversation->end = segment->sequence + segment->length;
	*(volatile __u8 *)&conversation->ending = broken ? ENDING_BROKEN : ENDING_CLOSED;
	conversation_finish(skb, conversation);
}

#endif
