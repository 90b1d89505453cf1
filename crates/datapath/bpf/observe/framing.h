/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where messages begin and end in one direction of a connection. The state resumes at any byte: a line that is not
 * complete yet stays unread until the rest has come (the caller carries it over), or is skipped where nothing in it
 * matters. What cannot be framed for certain ends with a reason, never with a guess.
 */
#ifndef OBSERVE_FRAMING_H
#define OBSERVE_FRAMING_H

#include "target.h"

enum phase {
	PHASE_START = 0, /* between messages; all zero is the beginning of a connection */
	PHASE_TARGET, /* in a request line too long to be carried, whose beginning is kept already */
	PHASE_FIELDS,
	PHASE_CHUNK_SIZE,
	PHASE_CHUNK_END, /* the line end after a chunk */
	PHASE_TRAILERS,
	PHASE_LENGTH, /* in a body or chunk, `remaining` bytes are to come; from here on no byte is looked at */
	PHASE_CHUNK,
	PHASE_UNTIL_CLOSE,
};

enum framing_flags {
	FRAMING_HAS_LENGTH = 1,
	FRAMING_CHUNKED = 2,
	FRAMING_CODED = 4, /* Transfer-Encoding that does not end with chunked */
	FRAMING_SKIP_LINE = 8, /* in the middle of a line of which nothing matters */
};

struct framing {
	__u64 remaining; /* of a body or chunk; in a head the Content-Length */
	__u64 bytes; /* of the message so far */
	__u64 started_ns; /* first byte of the message; 0: none yet */
	__u32 next; /* sequence number */
	__u32 busy; /* a CPU is reading this direction */
	__u16 status; /* of a response */
	__u16 carried; /* bytes of an unfinished line, kept elsewhere */
	__u8 phase;
	__u8 flags;
	__u8 method; /* of a request */
	__u8 slotless; /* the request came when too many were outstanding */
};

/* What a step came to. */
enum outcome {
	OUTCOME_ON = 0, /* there may be more to do at once */
	OUTCOME_MORE, /* the line at the position is not complete */
	OUTCOME_HEAD, /* the head is complete */
	OUTCOME_FAILED, /* see the reason */
};

/* Position in the window, outcome, enum tally: one value, so that global functions can return it. */
static __always_inline __u64 step(__u32 position, __u32 outcome)
{
	return position | (__u64)outcome << 32;
}

static __always_inline __u64 failed(__u32 position, __u32 reason)
{
	return step(position, OUTCOME_FAILED) | (__u64)reason << 40;
}

static __always_inline __u32 step_position(__u64 step)
{
	return (__u32)step;
}

static __always_inline __u32 step_outcome(__u64 step)
{
	return step >> 32 & 0xff;
}

static __always_inline __u32 step_reason(__u64 step)
{
	return step >> 40;
}

enum {
	LONGEST_TOKEN = 24, /* of methods */
	VERSION_SIZE = 8,
	TARGET_TAIL = 16, /* kept unread of an endless request line: its end, the version, must stay readable */
	FIELD_STEPS = 128, /* lines of a head looked at in one go */
	SKIM_STEPS = 64, /* of those that do not matter, at once; the verifier walks each */
};

#define VERSION_1_0 TEXT8('H', 'T', 'T', 'P', '/', '1', '.', '0')
#define VERSION_1_1 TEXT8('H', 'T', 'T', 'P', '/', '1', '.', '1')
#define VERSION_2_0 TEXT8('H', 'T', 'T', 'P', '/', '2', '.', '0')
#define HTTP2_PREFACE TEXT8('P', 'R', 'I', ' ', '*', ' ', 'H', 'T') /* the beginning of it, RFC 9113, 3.4 */

/* The place of the line feed that ends the line, or `to`. A global function, so that the verifier walks its loop once. */
__noinline __u32 line_feed(struct window *window, __u32 from, __u32 to)
{
	if (!window)
		return to;
	for (int i = 0; i < WINDOW_SIZE / WINDOW_MARGIN + 1; i++) {
		if (from >= to)
			break;
		const text_word *words = (const text_word *)bytes_at(window, from);
#pragma clang loop unroll(full)
		for (int word = 0; word < WINDOW_MARGIN / 8; word++) {
			__u64 found = equal_bytes(words[word], '\n');
			if (found) {
				__u32 at = from + word * 8 + first_byte(found);
				return at < to ? at : to;
			}
		}
		from += WINDOW_MARGIN;
	}
	return to;
}

/* The end of the text of a line. */
static __always_inline __u32 line_text(const struct window *window, __u32 from, __u32 line_feed)
{
	return line_feed > from && byte_at(window, line_feed - 1) == '\r' ? line_feed - 1 : line_feed;
}

/* The method and its length with the blank behind it; 0: not one of the well-known. */
static __always_inline __u32 known_method(__u64 word, __u8 *method)
{
	switch (word & 0xffffffff) {
	case TEXT4('G', 'E', 'T', ' '):
		*method = METHOD_GET;
		return 4;
	case TEXT4('P', 'U', 'T', ' '):
		*method = METHOD_PUT;
		return 4;
	case TEXT4('P', 'O', 'S', 'T'):
		*method = METHOD_POST;
		return (word >> 32 & 0xff) == ' ' ? 5 : 0;
	case TEXT4('H', 'E', 'A', 'D'):
		*method = METHOD_HEAD;
		return (word >> 32 & 0xff) == ' ' ? 5 : 0;
	case TEXT4('P', 'A', 'T', 'C'):
		*method = METHOD_PATCH;
		return (word >> 32 & 0xffff) == ('H' | ' ' << 8) ? 6 : 0;
	case TEXT4('T', 'R', 'A', 'C'):
		*method = METHOD_TRACE;
		return (word >> 32 & 0xffff) == ('E' | ' ' << 8) ? 6 : 0;
	case TEXT4('D', 'E', 'L', 'E'):
		*method = METHOD_DELETE;
		return (word >> 32 & 0xffffff) == ('T' | 'E' << 8 | ' ' << 16) ? 7 : 0;
	case TEXT4('O', 'P', 'T', 'I'):
		*method = METHOD_OPTIONS;
		return word >> 32 == TEXT4('O', 'N', 'S', ' ') ? 8 : 0;
	case TEXT4('C', 'O', 'N', 'N'):
		*method = METHOD_CONNECT;
		return word >> 32 == TEXT4('E', 'C', 'T', ' ') ? 8 : 0;
	}
	return 0;
}

static __always_inline bool token_byte(__u8 byte)
{
	return (byte >= 'A' && byte <= 'Z') || byte == '-' || byte == '_';
}

/* As known_method(), for every other token of capitals. */
__noinline __u32 other_method(struct window *window, __u32 from, __u32 to)
{
	if (!window)
		return 0;
	for (__u32 i = 0; i <= LONGEST_TOKEN; i++) {
		if (from + i >= to)
			return 0;
		__u8 byte = byte_at(window, from + i);
		if (byte == ' ')
			return i ? i + 1 : 0;
		if (!token_byte(byte))
			return 0;
	}
	return 0;
}

/* Why a first line is none of HTTP/1. */
static __always_inline __u32 foreign_protocol(const struct window *window, __u32 from)
{
	__u64 word = word_at(window, from);
	if ((word & 0xffff) == (0x16 | 0x03 << 8))
		return TALLY_TLS;
	if (word == HTTP2_PREFACE)
		return TALLY_HTTP2;
	return TALLY_NOT_HTTP;
}

/* HTTP/1.0 or 1.1 at the end of a request line, with a blank before. */
static __always_inline bool version_ends(const struct window *window, __u32 from, __u32 end)
{
	if (end < from + VERSION_SIZE + 1)
		return false;
	__u64 word = word_at(window, end - VERSION_SIZE);
	return (word == VERSION_1_1 || word == VERSION_1_0) && byte_at(window, end - VERSION_SIZE - 1) == ' ';
}

static __always_inline void head_begins(struct framing *framing)
{
	framing->phase = PHASE_FIELDS;
	framing->flags = 0;
	framing->remaining = 0;
}

/* The request line. */
__noinline __u64 request_line(struct window *window, struct framing *framing, struct pending *pending, __u32 from,
			      __u32 to)
{
	if (!window || !framing || !pending)
		return failed(from, TALLY_NO_MEMORY);
	if (to > WINDOW_SIZE || from >= to)
		return step(from, OUTCOME_MORE);

	__u32 feed = line_feed(window, from, to);
	bool complete = feed < to;
	if (framing->phase == PHASE_TARGET) {
		if (!complete)
			return step(to - from > TARGET_TAIL ? to - TARGET_TAIL : from, OUTCOME_MORE);
		if (!version_ends(window, from, line_text(window, from, feed)))
			return failed(from, TALLY_BAD_REQUEST_LINE);
		head_begins(framing);
		return step(feed + 1, OUTCOME_ON);
	}

	__u8 first = byte_at(window, from);
	if (first == '\n' || (first == '\r' && (feed == from + 1 || from + 1 == to))) {
		/* RFC 9112, 2.2: an empty line before a request means nothing. */
		if (!complete)
			return step(from, OUTCOME_MORE);
		return step(feed + 1, OUTCOME_ON);
	}
	__u8 method = METHOD_OTHER;
	__u32 blank = known_method(word_at(window, from), &method);
	if (!blank || from + blank > to) {
		method = METHOD_OTHER;
		blank = other_method(window, from, to);
	}
	if (!blank) {
		/* The method itself may be cut. */
		if (!complete && token_byte(first) && to - from <= LONGEST_TOKEN)
			return step(from, OUTCOME_MORE);
		return failed(from, foreign_protocol(window, from));
	}
	if (!complete && to - from < CARRY_SIZE)
		return step(from, OUTCOME_MORE);

	__u32 end = complete ? line_text(window, from, feed) : to;
	if (complete) {
		if (!version_ends(window, from + blank, end))
			return failed(from, foreign_protocol(window, from));
		end -= VERSION_SIZE + 1;
	}
	if (end <= from + blank || !target_keep(window, from + blank, end, pending))
		return failed(from, TALLY_BAD_REQUEST_LINE);
	framing->method = method;
	pending->method = method;
	pending->host_length = 0;
	pending->traced = 0;
	if (complete) {
		head_begins(framing);
		return step(feed + 1, OUTCOME_ON);
	}
	framing->phase = PHASE_TARGET;
	return step(to - TARGET_TAIL, OUTCOME_MORE);
}

/* Three digits, or 0. */
static __always_inline __u16 status_digits(__u64 word)
{
	__u32 hundreds = (word & 0xff) - '0', tens = (word >> 8 & 0xff) - '0', ones = (word >> 16 & 0xff) - '0';
	if (hundreds < 1 || hundreds > 9 || tens > 9 || ones > 9)
		return 0;
	return hundreds * 100 + tens * 10 + ones;
}

/* The status line. */
__noinline __u64 status_line(struct window *window, struct framing *framing, __u32 from, __u32 to)
{
	if (!window || !framing)
		return failed(from, TALLY_NO_MEMORY);
	if (to > WINDOW_SIZE || from >= to)
		return step(from, OUTCOME_MORE);
	__u32 feed = line_feed(window, from, to);
	bool complete = feed < to;
	if (!complete && byte_at(window, from) == 'H' && to - from < CARRY_SIZE)
		return step(from, OUTCOME_MORE);
	__u64 version = word_at(window, from);
	__u64 rest = word_at(window, from + VERSION_SIZE);
	__u8 after = rest >> 32 & 0xff;
	framing->status = status_digits(rest >> 8);
	if (feed < from + VERSION_SIZE + 4 || (version != VERSION_1_1 && version != VERSION_1_0) ||
	    (rest & 0xff) != ' ' || !framing->status || (after != ' ' && after != '\r' && after != '\n'))
		return failed(from, TALLY_BAD_STATUS_LINE);
	head_begins(framing);
	if (complete)
		return step(feed + 1, OUTCOME_ON);
	framing->flags |= FRAMING_SKIP_LINE;
	return step(to, OUTCOME_ON);
}

/* These are global functions for the verifier's sake: what each returns is one unknown, not one case a turn. */
__noinline __u32 skip_blanks(struct window *window, __u32 from, __u32 to)
{
	if (!window)
		return from;
	for (int i = 0; i < 16; i++) {
		__u8 byte = byte_at(window, from);
		if (from >= to || (byte != ' ' && byte != '\t'))
			break;
		from++;
	}
	return from;
}

/* The end of [from, end) without blanks. */
__noinline __u32 trim_blanks(struct window *window, __u32 from, __u32 end)
{
	if (!window)
		return end;
	for (int i = 0; i < 16; i++) {
		__u8 byte = byte_at(window, end - 1);
		if (end <= from || (byte != ' ' && byte != '\t'))
			break;
		end--;
	}
	return end;
}

/* The value of Content-Length in [from, end). */
static __always_inline __u32 content_length(struct window *window, struct framing *framing, __u32 from, __u32 end)
{
	__u64 value = 0;
	__u32 digits = 0;
	from = skip_blanks(window, from, end);
	for (int i = 0; i < 18; i++) {
		__u32 digit = byte_at(window, from) - '0';
		if (from >= end || digit > 9)
			break;
		value = value * 10 + digit;
		digits++;
		from++;
	}
	if (!digits || skip_blanks(window, from, end) != end)
		return TALLY_BAD_LENGTH;
	if (framing->flags & FRAMING_HAS_LENGTH && framing->remaining != value)
		return TALLY_BAD_LENGTH;
	framing->flags |= FRAMING_HAS_LENGTH;
	framing->remaining = value;
	return 0;
}

/* The value of Transfer-Encoding that ends at `end`; only its last coding tells how the body ends. */
static __always_inline void transfer_encoding(struct window *window, struct framing *framing, __u32 from, __u32 end)
{
	end = trim_blanks(window, from, end);
	framing->flags &= ~(FRAMING_CHUNKED | FRAMING_CODED);
	framing->flags |= FRAMING_CODED;
	if (end < from + 7)
		return;
	__u64 last = LOWER(word_at(window, end - 8));
	__u8 before = byte_at(window, end - 8);
	if (last >> 8 != TEXT8('c', 'h', 'u', 'n', 'k', 'e', 'd', 0) ||
	    (end > from + 7 && before != ' ' && before != '\t' && before != ','))
		return;
	framing->flags &= ~FRAMING_CODED;
	framing->flags |= FRAMING_CHUNKED;
}

static __always_inline void host_keep(struct window *window, struct pending *pending, __u32 from, __u32 end)
{
	from = skip_blanks(window, from, end);
	end = trim_blanks(window, from, end);
	__u32 length = end > from ? end - from : 0;
	if (length > HOST_SIZE) {
		length = HOST_SIZE;
		pending->flags |= REQUEST_FLAG_HOST_CUT;
	}
	pending->host_length = length;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < HOST_SIZE / 8; i++)
		((__u64 *)pending->host)[i] =
			i * 8 < length ? low_bytes(word_at(window, from + i * 8), length - i * 8) : 0;
}

/* The value of traceparent in [from, end), which has one length (W3C Trace Context); user space reads it. */
static __always_inline void trace_keep(struct window *window, struct pending *pending, __u32 from, __u32 end)
{
	from = skip_blanks(window, from, end);
	end = trim_blanks(window, from, end);
	if (end != from + TRACE_SIZE - 1)
		return;
	pending->traced = 1;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < TRACE_SIZE / 8; i++)
		((__u64 *)pending->trace_parent)[i] = low_bytes(word_at(window, from + i * 8), TRACE_SIZE - 1 - i * 8);
}

enum field {
	FIELD_NONE = 0, /* nothing in it matters */
	FIELD_LENGTH,
	FIELD_CODING,
	FIELD_HOST,
	FIELD_TRACE,
	FIELD_FOLDED, /* not a field: goes on with the one before */
};

/* By the first word of the line; the rest of the name is looked at when the line is read. */
static __always_inline __u32 field_of(const struct window *window, __u32 from, const struct pending *pending)
{
	__u64 word = word_at(window, from), name = LOWER(word);
	/* Most heads have a Content-Type too. */
	if (name == TEXT8('c', 'o', 'n', 't', 'e', 'n', 't', '-'))
		return (byte_at(window, from + 8) | 0x20) == 'l' ? FIELD_LENGTH : FIELD_NONE;
	if (name == TEXT8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r'))
		return FIELD_CODING;
	if (pending && (name & 0xffffffffff) == (TEXT4('h', 'o', 's', 't') | (__u64)':' << 32))
		return FIELD_HOST;
	if (pending && name == TEXT8('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r'))
		return FIELD_TRACE;
	__u8 first = word;
	if (first == ' ' || first == '\t')
		return FIELD_FOLDED;
	return FIELD_NONE;
}

/* Reads a field line [from, end) that matters. 0, or why the connection cannot be followed. */
__noinline __u32 field_line(struct window *window, struct framing *framing, struct pending *pending, __u32 from,
			    __u32 end)
{
	if (!window || !framing || end > WINDOW_SIZE)
		return TALLY_NO_MEMORY;
	__u64 second = LOWER(word_at(window, from + 8));
	__u8 after;
	switch (field_of(window, from, pending)) {
	case FIELD_LENGTH:
		if (end < from + 14 || low_bytes(second, 6) != TEXT8('l', 'e', 'n', 'g', 't', 'h', 0, 0))
			return 0;
		after = byte_at(window, from + 14);
		if (after == ':' && end > from + 14)
			return content_length(window, framing, from + 15, end);
		return after == ' ' || after == '\t' || end == from + 14 ? TALLY_BAD_FIELD : 0;
	case FIELD_CODING:
		if (end < from + 17 || second != TEXT8('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') ||
		    (byte_at(window, from + 16) | 0x20) != 'g')
			return 0;
		after = byte_at(window, from + 17);
		if (after == ':' && end > from + 17)
			transfer_encoding(window, framing, from + 18, end);
		else if (after == ' ' || after == '\t' || end == from + 17)
			return TALLY_BAD_FIELD;
		return 0;
	case FIELD_HOST:
		if (pending && !pending->host_length)
			host_keep(window, pending, from + 5, end);
		return 0;
	case FIELD_TRACE:
		if (pending && (__u32)second == TEXT4('e', 'n', 't', ':') && end > from + 12)
			trace_keep(window, pending, from + 12, end);
		return 0;
	case FIELD_FOLDED:
		return TALLY_BAD_FIELD;
	}
	return 0;
}

/* A line [from, to) whose end is not in the window. */
static __always_inline __u64 field_unfinished(struct window *window, struct framing *framing, struct pending *pending,
					      __u32 from, __u32 to, bool trailers)
{
	enum { LONGEST_NAME = 18 }; /* that matters, with what follows it */
	if (to - from < LONGEST_NAME)
		return step(from, OUTCOME_MORE);
	__u32 field = trailers ? FIELD_NONE : field_of(window, from, pending);
	if (field == FIELD_FOLDED)
		return failed(from, TALLY_BAD_FIELD);
	if (field != FIELD_NONE) {
		if (to - from < CARRY_SIZE)
			return step(from, OUTCOME_MORE);
		if (field == FIELD_HOST && pending) {
			if (!pending->host_length)
				host_keep(window, pending, from + 5, to);
		} else {
			__u8 flags = framing->flags;
			/* Another that begins alike may be as long as it likes: only one that frames must fit. */
			__u32 reason = field_line(window, framing, pending, from, to);
			if (reason || framing->flags != flags)
				return failed(from, TALLY_LINE_TOO_LONG);
		}
	}
	framing->flags |= FRAMING_SKIP_LINE;
	return step(to, OUTCOME_MORE);
}

/*
 * The start of the next field line at or after `from` that has to be read: one that matters, the empty line that ends
 * the head, or one whose end is not in the window. All others, most of a head, are stepped over at once.
 */
__noinline __u32 skim_fields(struct window *window, struct pending *pending, __u32 from, __u32 to)
{
	if (!window)
		return from;
	for (int i = 0; i < SKIM_STEPS; i++) {
		__u8 first = byte_at(window, from);
		if (from >= to || first == '\r' || first == '\n' || field_of(window, from, pending) != FIELD_NONE)
			break;
		__u32 feed = line_feed(window, from, to);
		if (feed >= to)
			break;
		from = feed + 1;
	}
	return from;
}

/* A field line, or the empty line that ends them. `pending`: a request's, to keep the host in; may be NULL. */
__noinline __u64 field_next(struct window *window, struct framing *framing, struct pending *pending, __u32 from,
			    __u32 to)
{
	if (!window || !framing)
		return failed(from, TALLY_NO_MEMORY);
	if (to > WINDOW_SIZE || from >= to)
		return step(from, OUTCOME_MORE);
	bool trailers = framing->phase == PHASE_TRAILERS;
	__u32 feed = to;
	if (trailers || framing->flags & FRAMING_SKIP_LINE)
		feed = line_feed(window, from, to);
	if (framing->flags & FRAMING_SKIP_LINE) {
		if (feed >= to)
			return step(to, OUTCOME_MORE);
		framing->flags &= ~FRAMING_SKIP_LINE;
		return step(feed + 1, OUTCOME_ON);
	}
	if (!trailers) {
		from = skim_fields(window, pending, from, to);
		if (from >= to)
			return step(to, OUTCOME_MORE);
		feed = line_feed(window, from, to);
	}
	if (feed >= to)
		return field_unfinished(window, framing, pending, from, to, trailers);
	if (feed == from || (feed == from + 1 && byte_at(window, from) == '\r'))
		return step(feed + 1, OUTCOME_HEAD);
	if (!trailers && field_of(window, from, pending) != FIELD_NONE) {
		__u32 reason = field_line(window, framing, pending, from, line_text(window, from, feed));
		if (reason)
			return failed(from, reason);
	}
	return step(feed + 1, OUTCOME_ON);
}

struct fields {
	struct window *window;
	struct framing *framing;
	struct pending *pending;
	__u64 result;
	__u32 to;
};

static long fields_step(__u32 i, void *context)
{
	struct fields *fields = context;
	fields->result =
		field_next(fields->window, fields->framing, fields->pending, step_position(fields->result), fields->to);
	return step_outcome(fields->result) != OUTCOME_ON;
}

/* Field lines up to the end of the head or of the window. */
static __always_inline __u64 field_lines(struct window *window, struct framing *framing, struct pending *pending,
					 __u32 from, __u32 to)
{
	struct fields fields = {window, framing, pending, step(from, OUTCOME_ON), to};
	bpf_loop(FIELD_STEPS, fields_step, &fields, 0);
	return fields.result;
}

/* The line with the size of a chunk, or the empty one after its data. */
__noinline __u64 chunk_line(struct window *window, struct framing *framing, __u32 from, __u32 to)
{
	if (!window || !framing)
		return failed(from, TALLY_NO_MEMORY);
	if (to > WINDOW_SIZE || from >= to)
		return step(from, OUTCOME_MORE);
	__u32 feed = line_feed(window, from, to);
	if (feed >= to)
		return to - from < CARRY_SIZE ? step(from, OUTCOME_MORE) : failed(from, TALLY_LINE_TOO_LONG);
	__u32 end = line_text(window, from, feed);
	if (framing->phase == PHASE_CHUNK_END) {
		if (end != from)
			return failed(from, TALLY_BAD_CHUNK);
		framing->phase = PHASE_CHUNK_SIZE;
		return step(feed + 1, OUTCOME_ON);
	}
	__u64 size = 0;
	__u32 digits = 0;
	for (int i = 0; i < 15; i++) {
		__u8 byte = byte_at(window, from + i), letter = (byte | 0x20) - 'a', digit = byte - '0';
		if (from + i >= end || (digit > 9 && letter > 5))
			break;
		size = size << 4 | (digit <= 9 ? digit : letter + 10);
		digits++;
	}
	__u32 after = skip_blanks(window, from + digits, end);
	if (!digits || (after != end && byte_at(window, after) != ';'))
		return failed(from, TALLY_BAD_CHUNK);
	framing->remaining = size;
	framing->phase = size ? PHASE_CHUNK : PHASE_TRAILERS;
	return step(feed + 1, OUTCOME_ON);
}

/* After a request's head: how its body ends. 0, or why that cannot be told. */
static __always_inline __u32 request_body(struct framing *framing)
{
	if (framing->flags & FRAMING_CODED)
		return TALLY_BAD_CODING;
	if (framing->flags & FRAMING_CHUNKED)
		framing->phase = PHASE_CHUNK_SIZE;
	else
		framing->phase = framing->remaining ? PHASE_LENGTH : PHASE_START;
	return 0;
}

/* After the head of a final response: how its body ends (RFC 9112, 6.3). */
static __always_inline void response_body(struct framing *framing, __u8 method)
{
	if (method == METHOD_HEAD || framing->status == 204 || framing->status == 304)
		framing->phase = PHASE_START;
	else if (framing->flags & FRAMING_CODED)
		framing->phase = PHASE_UNTIL_CLOSE;
	else if (framing->flags & FRAMING_CHUNKED)
		framing->phase = PHASE_CHUNK_SIZE;
	else if (!(framing->flags & FRAMING_HAS_LENGTH))
		framing->phase = PHASE_UNTIL_CLOSE;
	else
		framing->phase = framing->remaining ? PHASE_LENGTH : PHASE_START;
}

static __always_inline bool phase_skips(__u8 phase)
{
	return phase >= PHASE_LENGTH;
}

/* Takes up to `available` bytes of a body unread; true: that was the last of a message. */
static __always_inline bool body_take(struct framing *framing, __u32 available, __u32 *taken)
{
	*taken = available;
	if (framing->phase == PHASE_UNTIL_CLOSE)
		return false;
	if (framing->remaining > available) {
		framing->remaining -= available;
		return false;
	}
	*taken = framing->remaining;
	framing->remaining = 0;
	bool last = framing->phase == PHASE_LENGTH;
	framing->phase = last ? PHASE_START : PHASE_CHUNK_END;
	return last;
}

#endif
