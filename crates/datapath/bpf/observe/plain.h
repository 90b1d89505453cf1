/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Following HTTP within TLS. A library hands over each byte once and in order, so that there are no gaps; what is read
 * is read from the process's own memory when its call ends, line by line or frame by frame, and bodies are stepped over by
 * arithmetic.
 *
 * A session that was there before is followed from a call on whose bytes begin with a request; as with packets one
 * exchange, which is in no series, has to prove it.
 */
#ifndef OBSERVE_PLAIN_H
#define OBSERVE_PLAIN_H

#include "session.h"

enum {
	PLAIN_STEPS = 600, /* of one call */
	PLAIN_LOAD = WINDOW_SIZE - CARRY_SIZE,
};

/* Loads from `offset` of the data on to place `at` of the window, which is 0 or the end of a line carried over. */
static __always_inline bool plain_load(__u64 data, struct window *window, __u32 at, __u32 offset)
{
	struct progress *progress = &window->progress;
	__u32 size = progress->segment.length - offset;
	__u32 limit = at ? PLAIN_LOAD : WINDOW_SIZE;
	if (at > CARRY_SIZE)
		return false;
	if (size > limit)
		size = limit;
	HIDE(size);
	if (size > (at ? PLAIN_LOAD : WINDOW_SIZE))
		return false;
	if (bpf_probe_read_user(window->bytes + at, size, (void *)(data + offset)))
		return false;
	progress->filled = at + size;
	progress->base = (__s32)offset - (__s32)at;
	return true;
}

static __always_inline __u8 *plain_carry(struct tls_session *session, bool request)
{
	return request ? session->partial.request : session->partial.response;
}

/* The unfinished line at `from` waits for the next call. */
__noinline int plain_keep(struct tls_session *session, struct window *window, __u32 request, __u32 from)
{
	if (!session || !window)
		return 0;
	__u64 *words = (__u64 *)plain_carry(session, request);
	for (__u32 i = 0; i < CARRY_SIZE / 8; i++)
		words[i] = word_at(window, from + i * 8);
	return 1;
}

static __always_inline void plain_restore(struct tls_session *session, struct window *window, bool request)
{
	const __u64 *words = (__u64 *)plain_carry(session, request);
	for (__u32 i = 0; i < CARRY_SIZE / 8; i++)
		((__u64 *)window->bytes)[i] = words[i];
}

/* Whether a request that has a place waits for its response: only the first has. */
static __always_inline bool plain_waits(const struct conversation *conversation)
{
	return conversation->sent != conversation->taken;
}

static __always_inline bool plain_begins(struct conversation *conversation, const struct progress *progress)
{
	if (!progress->request) {
		if (conversation_idle(conversation))
			return false;
		conversation->response.started_ns = progress->now;
		if (plain_waits(conversation))
			conversation->first.first_byte_ns = progress->now;
		return true;
	}
	conversation->request.started_ns = progress->now;
	if (conversation_idle(conversation)) {
		conversation->taken = 0;
		conversation->sent = 0;
		if (conversation->probation && conversation->requests && conversation->response.phase == PHASE_START) {
			conversation->probation = 0;
			tally(TALLY_RESYNCHRONISED);
		}
	}
	conversation->request.slotless = !conversation_idle(conversation);
	return true;
}

/* The response in hand has ended. */
__noinline int plain_answered(struct conversation *conversation, __u64 now, __u32 flags)
{
	if (!conversation)
		return 0;
	struct exchange exchange = {
		.now = now,
		.response_bytes = conversation->response.bytes,
		.status = conversation->response.status,
		.flags = flags,
	};
	message_over(&conversation->response);
	if (plain_waits(conversation)) {
		exchange_end(conversation, &conversation->first, &exchange);
		conversation->taken = conversation->sent;
	} else if (conversation->overflow) {
		conversation->overflow--;
	}
	return 1;
}

/* A message that ended with its body. */
static __always_inline void plain_over(struct conversation *conversation, const struct progress *progress)
{
	if (!progress->request) {
		plain_answered(conversation, progress->now, 0);
		return;
	}
	if (!conversation->request.slotless)
		conversation->first.request_bytes = conversation->request.bytes;
	message_over(&conversation->request);
}

/* The head of a response is complete. 0, or why the session ends to be HTTP here. */
static __always_inline __u32 plain_responds(struct conversation *conversation, const struct progress *progress)
{
	bool over;
	__u8 method = plain_waits(conversation) ? conversation->first.method : METHOD_GET;
	__u32 end = response_continues(&conversation->response, method, &over);
	if (over)
		plain_answered(conversation, progress->now, 0);
	return end;
}

/* The line goes on in bytes that are not in the window. 1: in the next call. */
static __always_inline long plain_more(struct tls_session *session, struct framing *framing, struct window *window,
				       __u32 position)
{
	struct progress *progress = &window->progress;
	if (progress->base + (__s32)progress->filled < (__s32)progress->segment.length) {
		progress->reload = 1;
		return 0;
	}
	__u32 left = progress->filled - position;
	progress->offset = progress->segment.length;
	if (left && (left > CARRY_SIZE || !plain_keep(session, window, progress->request, position)))
		progress->reason = TALLY_NO_MEMORY;
	else
		framing->carried = left;
	return 1;
}

/* A line, the fields of a head, or a body. 1: the call is done, or the thread is lost. Global as walk_on() of follow.h is. */
__noinline int plain_on(struct tls_session *session, struct window *window, __u64 data)
{
	if (!session || !window)
		return 1;
	struct conversation *conversation = &session->conversation;
	struct progress *progress = &window->progress;
	struct framing *framing = progress->request ? &conversation->request : &conversation->response;
	__s32 length = progress->segment.length;
	if (progress->offset >= length)
		return 1;
	if (phase_skips(framing->phase)) {
		__u32 taken;
		bool last = body_take(framing, length - progress->offset, &taken);
		progress->offset += taken;
		framing->bytes += taken;
		if (last)
			plain_over(conversation, progress);
		return 0;
	}

	__u32 at = progress->offset - progress->base;
	if (progress->reload || at >= progress->filled) {
		progress->reload = 0;
		at = 0;
		if (progress->offset < 0 || !plain_load(data, window, 0, progress->offset)) {
			progress->reason = TALLY_GAP;
			return 1;
		}
	}
	if (!framing->started_ns && !plain_begins(conversation, progress)) {
		progress->reason = TALLY_UNSOLICITED;
		return 1;
	}
	struct pending *pending = &window->spare;
	if (progress->request && !framing->slotless)
		pending = &conversation->first;
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
		return plain_more(session, framing, window, position);
	case OUTCOME_HEAD:
		if (framing->phase == PHASE_TRAILERS)
			plain_over(conversation, progress);
		else if (progress->request)
			progress->reason = request_headed(conversation, window, pending);
		else
			progress->reason = plain_responds(conversation, progress);
		return progress->reason != 0;
	default:
		progress->reason = step_reason(result);
		return 1;
	}
}

struct plain_walk {
	struct tls_session *session;
	struct window *window;
	__u64 data;
};

static long plain_step(__u32 i, void *context)
{
	struct plain_walk *walk = context;
	int done = plain_on(walk->session, walk->window, walk->data);
	HIDE(done);
	return done ? 1 : 0;
}

/* The `length` bytes at `data`. 0, or why the thread is lost. */
static __always_inline __u32 plain_read(struct tls_session *session, __u64 data, __u32 length, bool request, __u64 now)
{
	struct conversation *conversation = &session->conversation;
	struct framing *framing = request ? &conversation->request : &conversation->response;
	__u32 taken;
	if (framing->phase == PHASE_UNTIL_CLOSE || (phase_skips(framing->phase) && framing->remaining > length)) {
		body_take(framing, length, &taken);
		framing->bytes += length;
		return 0;
	}
	struct plain_walk walk = {session, window_take(), data};
	if (!walk.window)
		return TALLY_NO_WINDOW;
	struct progress *progress = &walk.window->progress;
	progress->segment.length = length;
	progress->now = now;
	progress->offset = 0;
	progress->base = 0;
	progress->filled = 0;
	progress->reload = 0;
	progress->reason = 0;
	progress->request = request;
	__u32 carried = framing->carried;
	if (carried) {
		framing->carried = 0;
		progress->offset -= carried;
		plain_restore(session, walk.window, request);
		if (!plain_load(data, walk.window, carried, 0))
			progress->reason = TALLY_GAP;
	}
	if (!progress->reason) {
		bpf_loop(PLAIN_STEPS, plain_step, &walk, 0);
		if (!progress->reason && progress->offset < (__s32)length)
			progress->reason = TALLY_BUDGET;
	}
	__u32 reason = progress->reason;
	window_give(walk.window);
	return reason;
}

/* From here on the session speaks HTTP/2. Both directions may find so at the same time, on two threads. */
static __always_inline void plain_turn(struct tls_session *session, bool late)
{
	struct conversation *conversation = &session->conversation;
	struct http2 *http2 = &session->http2;
	if (!conversation_taken(conversation))
		return;
	__builtin_memset(http2, 0, sizeof(*http2));
	http2->cookie = session->socket;
	http2->late = late;
	http2->response.lost = late;
	http2->request.preface = late ? 0 : PREFACE_SIZE;
	conversation->state = STATE_HTTP2;
	tally(late ? TALLY_HTTP2_JOINED : TALLY_HTTP2_FOLLOWED);
	conversation_begun(conversation);
}

/* Whether what comes first in this direction is HTTP/2: the client's preface, or the server's SETTINGS. */
static __always_inline bool plain_speaks_http2(struct conversation *conversation, __u64 data, __u32 length,
					       bool request)
{
	const struct framing *framing = request ? &conversation->request : &conversation->response;
	__u8 first[12] = {};
	if (conversation->requests || framing->started_ns || framing->carried || length < FRAME_HEAD ||
	    bpf_probe_read_user(first, FRAME_HEAD, (void *)data))
		return false;
	return request ? *(text_word *)first == HTTP2_PREFACE : settings_first(first);
}

/* Whether a request may begin here, in a session that is not being followed. */
static __always_inline bool plain_rejoin(struct tls_session *session, __u64 data, __u32 length, bool request)
{
	struct conversation *conversation = &session->conversation;
	__u8 first[16] = {};
	__u8 method;
	/* The head of a request of HTTP/2 whose fields were all sent before is shorter than that. */
	__u32 size = length < sizeof(first) ? length : sizeof(first);
	HIDE(size);
	if (!request || size < sizeof(__u64) || size > sizeof(first) || bpf_probe_read_user(first, size, (void *)data))
		return false;
	if (request_first(first)) {
		plain_turn(session, true);
		return true;
	}
	if (!known_method(*(text_word *)first, &method))
		return false;
	conversation_rewind(conversation);
	conversation->probation = 1;
	conversation->state = STATE_FOLLOWED;
	return true;
}

/* What comes next of HTTP/2. */
static __always_inline void plain_frames(struct tls_session *session, __u64 data, __u32 length, bool request, __u64 now)
{
	struct http2 *http2 = &session->http2;
	struct http2_way *way = request ? &http2->request : &http2->response;
	if (http2_passes(way, length))
		return;
	struct window *window = window_take();
	if (!window) {
		tally(TALLY_NO_WINDOW);
		way->lost = 1;
		return;
	}
	struct progress *progress = &window->progress;
	progress->segment.payload = 0;
	progress->segment.length = length;
	progress->request = request;
	progress->now = now;
	progress->offset = 0;
	progress->reason = 0;
	http2_frames(data, &session->conversation, http2, window);
	window_give(window);
}

/* Plaintext that the process has sent or received. */
__noinline int plain_follow(struct tls_session *session, __u64 data, __u32 length, __u32 sent, __u64 now)
{
	if (!session || !length)
		return 0;
	struct conversation *conversation = &session->conversation;
	if (!session->socket)
		session->asked = 1;
	/* Whose it is decides whether it may be looked at. */
	if (!session->socket || conversation->role == ROLE_UNKNOWN)
		return 0;
	bool request = (conversation->role == ROLE_CLIENT) == (sent != 0);
	if (conversation->state == STATE_JOINED && !plain_rejoin(session, data, length, request))
		return 0;
	if (conversation->state == STATE_FOLLOWED && plain_speaks_http2(conversation, data, length, request))
		plain_turn(session, false);
	if (conversation->state == STATE_HTTP2)
		plain_frames(session, data, length, request, now);
	if (conversation->state != STATE_FOLLOWED)
		return 0;
	__u32 reason = plain_read(session, data, length, request, now);
	if (reason)
		conversation_lose(conversation, reason == TALLY_HTTP2 ? TALLY_TLS_HTTP2 : reason);
	return 0;
}

/* The session is over. */
static __always_inline void plain_end(struct tls_session *session)
{
	struct conversation *conversation = &session->conversation;
	if (!session->socket && session->asked)
		tally(TALLY_TLS_UNPLACED);
	if (conversation->state == STATE_HTTP2)
		http2_end(conversation, &session->http2);
	if (conversation->state != STATE_FOLLOWED) {
		conversation->state = STATE_OFF;
		return;
	}
	struct framing *response = &conversation->response;
	__u64 now = bpf_ktime_get_ns();
	/* The end of a body that has no other. */
	if (response->phase == PHASE_UNTIL_CLOSE) {
		plain_answered(conversation, now, 0);
	} else if (response->phase > PHASE_FIELDS) {
		plain_answered(conversation, now, REQUEST_FLAG_BROKEN);
	} else {
		response->status = 0;
		response->bytes = 0;
		if (plain_waits(conversation))
			plain_answered(conversation, now, 0);
	}
	conversation->state = STATE_OFF;
}

#endif
