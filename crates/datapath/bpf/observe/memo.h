/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Heads that come again and again: clients ask for the same, and servers answer alike for as long as the second lasts. What
 * was read of a head is kept with its bytes, and the same bytes need not be read once more; comparing them costs a tenth.
 * Each window has memos of its own, since a window is in one hand at a time.
 */
#ifndef OBSERVE_MEMO_H
#define OBSERVE_MEMO_H

#include "framing.h"

enum {
	MEMO_EVERY = 8, /* heads that were not known, of which one is kept: most never come again */
};

static __always_inline struct memo *memo_of(struct window *window, __u32 filled)
{
	__u64 hash = filled;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < 4; i++)
		hash = hash_word(hash, word_at(window, i * 8));
	__u32 place = hash >> 32;
	HIDE(place);
	return &window->memos[place & (MEMOS - 1)];
}

/* What is read of a request: all between the hash of its path and its host. */
static __always_inline void memo_copy(struct pending *to, const struct pending *from)
{
	enum { FROM = __builtin_offsetof(struct pending, path), TO = __builtin_offsetof(struct pending, trace_parent) };
	__builtin_memcpy((__u8 *)to + FROM, (const __u8 *)from + FROM, TO - FROM);
}

/* Reads the head with which the window begins, if it is known: its length, or 0. `request`: where it is kept; NULL for a response. */
__noinline __u32 memo_find(struct window *window, struct framing *framing, struct pending *request)
{
	if (!window || !framing)
		return 0;
	__u32 filled = window->progress.filled;
	struct memo *memo = memo_of(window, filled);
	__u32 length = memo->length;
	if (!length || length > filled || !request != !memo->request)
		return 0;
	__u32 whole = length / 8;
	for (__u32 i = 0; i < MEMO_SIZE / 8; i++) {
		__u64 differs = word_at(window, i * 8) ^ memo->words[i];
		if (i < whole && !differs)
			continue;
		if (i < whole || low_bytes(differs, length % 8))
			return 0;
		break;
	}
	framing->phase = PHASE_FIELDS;
	framing->flags = memo->flags;
	framing->remaining = memo->remaining;
	if (request) {
		framing->method = memo->pending.method;
		memo_copy(request, &memo->pending);
	} else {
		framing->status = memo->status;
	}
	return length;
}

/* Keeps the head of `length` bytes with which the window begins, now and then. */
__noinline int memo_keep(struct window *window, struct framing *framing, struct pending *request, __u32 length)
{
	if (!window || !framing)
		return 0;
	/* Who sends a traceparent sends another one each time. */
	if (length > MEMO_SIZE || (request && request->traced) || window->unknown++ % MEMO_EVERY)
		return 0;
	struct memo *memo = memo_of(window, window->progress.filled);
	memo->length = length;
	memo->request = request != 0;
	memo->flags = framing->flags;
	memo->remaining = framing->remaining;
	memo->status = framing->status;
	if (request)
		memo_copy(&memo->pending, request);
	for (__u32 i = 0; i < MEMO_SIZE / 8; i++) {
		if (i * 8 >= length)
			break;
		memo->words[i] = word_at(window, i * 8);
	}
	return 1;
}

/* The first line of a message, and if it is all there what follows. */
static __always_inline __u64 message_first(struct window *window, struct framing *framing, struct pending *request,
					   __u32 from, __u32 to)
{
	__u64 result =
		request ? request_line(window, framing, request, from, to) : status_line(window, framing, from, to);
	if (step_outcome(result) != OUTCOME_ON || framing->phase != PHASE_FIELDS)
		return result;
	return field_lines(window, framing, request, step_position(result), to);
}

/* One step at a place where lines are read. `request`: where it is kept; NULL for a response. */
static __always_inline __u64 message_step(struct window *window, struct framing *framing, struct pending *request,
					  __u32 from, __u32 to)
{
	switch (framing->phase) {
	case PHASE_START: {
		__u32 known = from ? 0 : memo_find(window, framing, request);
		if (known)
			return step(known, OUTCOME_HEAD);
		__u64 result = message_first(window, framing, request, from, to);
		if (!from && step_outcome(result) == OUTCOME_HEAD)
			memo_keep(window, framing, request, step_position(result));
		return result;
	}
	case PHASE_TARGET:
		return request ? request_line(window, framing, request, from, to) : failed(from, TALLY_NO_MEMORY);
	case PHASE_FIELDS:
	case PHASE_TRAILERS:
		return field_lines(window, framing, request, from, to);
	default:
		return chunk_line(window, framing, from, to);
	}
}

#endif
