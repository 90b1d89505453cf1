/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/2: where frames begin and end. Header blocks cannot be read here (HPACK has a state that grows with
 * each of them), so they are copied to a ring of their own, whole and in order, and user space decodes them; of all other
 * frames only type, length and stream are looked at, and payloads are stepped over by arithmetic.
 *
 * The bytes come in pieces: packets (http2.h), or what a library of TLS hands over (plain.h). A direction that lost its place
 * goes on where a piece begins with a frame that fits, and user space is told that heads may be missing.
 */
#ifndef OBSERVE_FRAMES_H
#define OBSERVE_FRAMES_H

#include "exchange.h"

/* What a piece is in: a packet, or the memory of the process that calls. Each object reads but one of them. */
#ifdef OBSERVE_MEMORY
typedef __u64 piece_source;
#define piece_load(source, at, to, size) bpf_probe_read_user(to, size, (void *)((source) + (at)))
#else
typedef struct __sk_buff *piece_source;
#define piece_load(source, at, to, size) bpf_skb_load_bytes(source, at, to, size)
#endif

enum http2_frame {
	FRAME_DATA = 0,
	FRAME_HEADERS = 1,
	FRAME_PRIORITY = 2,
	FRAME_RST_STREAM = 3,
	FRAME_SETTINGS = 4,
	FRAME_PUSH_PROMISE = 5,
	FRAME_PING = 6,
	FRAME_GOAWAY = 7,
	FRAME_WINDOW_UPDATE = 8,
	FRAME_CONTINUATION = 9,
	FRAMES,
};

enum http2_flags {
	HTTP2_END_STREAM = 1,
	HTTP2_PADDED = 8,
	HTTP2_PRIORITY = 32,
};

enum {
	PREFACE_SIZE = 24,
	FRAME_HEAD = 9,
	FRAME_LARGEST = 16384, /* unless SETTINGS say otherwise */
	SETTINGS_LARGEST = 120, /* of a first frame that is taken for HTTP/2 */
	HTTP2_STEPS = 8192, /* of 64 KiB full of the smallest frames */
};

/* One direction. */
struct http2_way {
	__u64 data_bytes; /* payload of DATA on `data_stream`, not told yet */
	__u32 next; /* sequence number */
	__u32 busy; /* a CPU is reading this direction */
	__u32 length; /* of the frame's payload */
	__u32 remaining; /* of that */
	__u32 stream;
	__u32 data_stream;
	__u32 number; /* of records told */
	__u8 head[12]; /* the frame's, as far as it has come */
	__u8 have; /* bytes of it */
	__u8 preface; /* bytes of the preface that are to come */
	__u8 type;
	__u8 flags;
	__u8 lost; /* looks for a piece that begins with a frame */
	__u8 zero[3];
};

struct http2 {
	struct http2_way request;
	struct http2_way response;
	__u64 cookie;
	__u8 late;
	__u8 started; /* the client has sent something */
	__u8 zero[6];
};

/* whether somebody reads `http2_heads`. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} http2_readers SEC(".maps");

/* struct http2_record with what belongs to it, oldest first. Written by the programs, read by the agent on a timer. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024); /* budget */
} http2_heads SEC(".maps");

static __always_inline bool http2_read(void)
{
	__u32 zero = 0;
	__u64 *readers = bpf_map_lookup_elem(&http2_readers, &zero);
	return readers && *readers;
}

/* The record at the beginning of a window, but for what belongs to its kind. */
static __always_inline struct http2_record *http2_record(struct conversation *conversation, struct http2 *http2,
							 struct window *window, bool response, __u64 now)
{
	struct http2_way *way = response ? &http2->response : &http2->request;
	struct http2_record *record = (struct http2_record *)window->bytes;
	const struct ends *ends = &conversation->ends;
	record->time_ns = now;
	record->connection = http2->cookie;
	record->data_bytes = way->data_bytes;
	way->data_bytes = 0;
	if (response)
		server_of(conversation, &record->sender);
	else if (conversation->role == ROLE_CLIENT)
		record->sender = conversation->self;
	else
		__builtin_memset(&record->sender, 0, sizeof(record->sender));
	__builtin_memcpy(record->client_address, ends->client_address, sizeof(ends->client_address));
	__builtin_memcpy(record->server_address, ends->server_address, sizeof(ends->server_address));
	record->client_port = ends->client_port;
	record->server_port = ends->server_port;
	record->service = conversation->service;
	record->number = way->number++;
	record->stream = way->stream;
	record->data_stream = way->data_stream;
	record->frame_length = way->length;
	record->offset = way->length - way->remaining;
	record->length = 0;
	record->kind = 0;
	record->frame_type = way->type;
	record->frame_flags = way->flags;
	record->response = response;
	record->side = conversation->role == ROLE_CLIENT ? SIDE_CLIENT : SIDE_SERVER;
	record->late = http2->late;
	record->path_label = conversation->path_label;
	__builtin_memset(record->zero, 0, sizeof(record->zero));
	return record;
}

static __always_inline void http2_sent(long error)
{
	tally(error ? TALLY_HTTP2_LOST : TALLY_HTTP2_RECORD);
}

/* A record without bytes of the packet. Global, so that the verifier looks at it once. */
__noinline int http2_tell(struct conversation *conversation, struct http2 *http2, struct window *window, __u32 response,
			  __u32 kind)
{
	if (!conversation || !http2 || !window)
		return 0;
	struct http2_record *record = http2_record(conversation, http2, window, response, window->progress.now);
	record->kind = kind;
	/* Its number is used up: who reads later knows that it was missed. */
	if (!http2_read())
		return 0;
	http2_sent(bpf_ringbuf_output(&http2_heads, record, sizeof(*record), BPF_RB_NO_WAKEUP));
	return 1;
}

/* The connection is over, and no packet in hand. */
static __always_inline void http2_end(struct conversation *conversation, struct http2 *http2)
{
	struct window *window = window_take();
	if (!window) {
		tally(TALLY_HTTP2_LOST);
		return;
	}
	window->progress.now = bpf_ktime_get_ns();
	http2_tell(conversation, http2, window, true, HTTP2_KIND_END);
	window_give(window);
}

/* `size` bytes of a header block, from `offset` on. */
__noinline int http2_copy(piece_source source, struct conversation *conversation, struct http2 *http2,
			  struct window *window, __u32 size)
{
	if (!conversation || !http2 || !window)
		return 0;
	struct progress *progress = &window->progress;
	struct http2_record *record = http2_record(conversation, http2, window, !progress->request, progress->now);
	if (!http2_read())
		return 0;
	__u32 last = size - 1;
	HIDE(last);
	if (last > HTTP2_PIECE - 1)
		return 0;
	HIDE(last);
	size = last + 1;
	record->kind = HTTP2_KIND_BLOCK;
	record->length = size;
	if (piece_load(source, progress->segment.payload + progress->offset, record + 1, size)) {
		tally(TALLY_HTTP2_LOST);
		return 0;
	}
	http2_sent(bpf_ringbuf_output(&http2_heads, record, sizeof(*record) + size, BPF_RB_NO_WAKEUP));
	return 1;
}

static __always_inline bool frame_copied(__u8 type)
{
	return type == FRAME_HEADERS || type == FRAME_CONTINUATION || type == FRAME_PUSH_PROMISE;
}

/* Whether nine bytes may be the head of a frame; `strictly` where nothing else says that one begins here. */
static __always_inline bool frame_fits(const __u8 *head, bool strictly)
{
	static const __u8 known_flags[FRAMES] = {0x09, 0x2d, 0, 0, 0x01, 0x0c, 0x01, 0, 0, 0x04};
	__u32 length = head[0] << 16 | head[1] << 8 | head[2];
	__u8 type = head[3];
	__u32 stream = (head[5] & 0x7f) << 24 | head[6] << 16 | head[7] << 8 | head[8];
	if (strictly && (type >= FRAMES || length > FRAME_LARGEST || head[5] & 0x80))
		return false;
	if (strictly && head[4] & ~known_flags[type < FRAMES ? type : 0])
		return false;
	switch (type) {
	case FRAME_DATA:
	case FRAME_HEADERS:
	case FRAME_CONTINUATION:
	case FRAME_PUSH_PROMISE:
		return stream != 0;
	case FRAME_PRIORITY:
		return stream && length == 5;
	case FRAME_RST_STREAM:
		return stream && length == 4;
	case FRAME_SETTINGS:
		return !stream && length % 6 == 0;
	case FRAME_PING:
		return !stream && length == 8;
	case FRAME_GOAWAY:
		return !stream && length >= 8;
	case FRAME_WINDOW_UPDATE:
		return length == 4;
	}
	return true;
}

/* A server that speaks first says what it can do. */
static __always_inline bool settings_first(const __u8 *head)
{
	return head[3] == FRAME_SETTINGS && !head[4] && frame_fits(head, true) && !head[0] && !head[1] &&
	       head[2] <= SETTINGS_LARGEST;
}

/*
 * Whether a request's HEADERS begin here, by the first two fields: one of them is a pseudo field of requests from the
 * static table (the other may be one that was sent before), and none is :status.
 */
static __always_inline bool request_first(const __u8 *bytes)
{
	enum { PADDING = 1, PRIORITY = 5 };
	if (bytes[3] != FRAME_HEADERS || !frame_fits(bytes, true) || !(bytes[8] & 1))
		return false;
	__u32 at = FRAME_HEAD + (bytes[4] & HTTP2_PADDED ? PADDING : 0) + (bytes[4] & HTTP2_PRIORITY ? PRIORITY : 0);
	HIDE(at);
	at &= 15;
	__u8 first = bytes[at], second = bytes[at + 1];
	return (first >= 0x82 && first <= 0x87) || first == 0x41 || first == 0x44 || first == 0x04 || first == 0x01 ||
	       (first >= 0xbe && second >= 0x82 && second <= 0x87);
}

/* The payload of a frame has come to its end. */
static __always_inline void frame_over(struct conversation *conversation, struct http2 *http2, struct http2_way *way,
				       struct window *window)
{
	bool response = !window->progress.request;
	if (way->type == FRAME_DATA && way->flags & HTTP2_END_STREAM)
		http2_tell(conversation, http2, window, response, HTTP2_KIND_DATA);
	else if (way->type == FRAME_RST_STREAM)
		http2_tell(conversation, http2, window, response, HTTP2_KIND_RESET);
	way->have = 0;
}

/* The head of a frame is complete. False: it cannot be one. */
static __always_inline bool frame_begins(struct conversation *conversation, struct http2 *http2, struct http2_way *way,
					 struct window *window)
{
	const __u8 *head = way->head;
	if (!frame_fits(head, false))
		return false;
	if (head[3] == FRAME_DATA) {
		__u32 stream = (head[5] & 0x7f) << 24 | head[6] << 16 | head[7] << 8 | head[8];
		if (way->data_bytes && way->data_stream != stream) {
			way->flags = 0;
			http2_tell(conversation, http2, window, !window->progress.request, HTTP2_KIND_DATA);
		}
		way->data_stream = stream;
	}
	way->length = head[0] << 16 | head[1] << 8 | head[2];
	way->remaining = way->length;
	way->type = head[3];
	way->flags = head[4];
	way->stream = (head[5] & 0x7f) << 24 | head[6] << 16 | head[7] << 8 | head[8];
	if (!way->length)
		frame_over(conversation, http2, way, window);
	return true;
}

/* Takes bytes of the payload; a piece of a header block at a time. */
static __always_inline void payload_take(piece_source source, struct conversation *conversation, struct http2 *http2,
					 struct http2_way *way, struct window *window)
{
	struct progress *progress = &window->progress;
	__u32 taken = progress->segment.length - progress->offset;
	if (taken > way->remaining)
		taken = way->remaining;
	if (frame_copied(way->type)) {
		if (taken > HTTP2_PIECE)
			taken = HTTP2_PIECE;
		http2_copy(source, conversation, http2, window, taken);
	} else if (way->type == FRAME_DATA) {
		way->data_bytes += taken;
	}
	way->remaining -= taken;
	progress->offset += taken;
	if (!way->remaining)
		frame_over(conversation, http2, way, window);
}

/* Bytes of a frame's head. */
static __always_inline bool head_take(piece_source source, struct http2_way *way, struct progress *progress)
{
	__u32 from = progress->segment.payload + progress->offset;
	if (!way->have && progress->segment.length - progress->offset >= FRAME_HEAD) {
		if (piece_load(source, from, way->head, FRAME_HEAD))
			return false;
		way->have = FRAME_HEAD;
		progress->offset += FRAME_HEAD;
		return true;
	}
	__u32 at = way->have;
	HIDE(at);
	if (at >= FRAME_HEAD || piece_load(source, from, &way->head[at], 1))
		return false;
	way->have = at + 1;
	progress->offset++;
	return true;
}

/* The next head or payload. 1: the piece is done, or the place is lost. Global for the verifier's sake, see follow.h. */
__noinline int http2_step(piece_source source, struct conversation *conversation, struct http2 *http2,
			  struct window *window)
{
	if (!conversation || !http2 || !window)
		return 1;
	struct progress *progress = &window->progress;
	struct http2_way *way = progress->request ? &http2->request : &http2->response;
	__u32 offset = progress->offset, length = progress->segment.length;
	if (offset >= length)
		return 1;
	if (way->preface) {
		__u32 taken = way->preface < length - offset ? way->preface : length - offset;
		way->preface -= taken;
		progress->offset += taken;
		return 0;
	}
	if (way->have == FRAME_HEAD) {
		payload_take(source, conversation, http2, way, window);
		return 0;
	}
	if (!head_take(source, way, progress)) {
		progress->reason = TALLY_HTTP2_FRAME;
		return 1;
	}
	if (way->have == FRAME_HEAD && !frame_begins(conversation, http2, way, window)) {
		progress->reason = TALLY_HTTP2_FRAME;
		return 1;
	}
	return 0;
}

struct http2_walk {
	piece_source source;
	struct conversation *conversation;
	struct http2 *http2;
	struct window *window;
};

static long http2_walk_step(__u32 i, void *context)
{
	struct http2_walk *walk = context;
	int done = http2_step(walk->source, walk->conversation, walk->http2, walk->window);
	HIDE(done);
	return done ? 1 : 0;
}

/* The place in this direction is lost: heads may be missed, and those that come later refer to them. */
static __always_inline void http2_lose(struct conversation *conversation, struct http2 *http2, struct http2_way *way,
				       struct window *window, __u32 reason)
{
	tally(reason);
	way->lost = 1;
	way->have = 0;
	way->data_bytes = 0;
	http2_tell(conversation, http2, window, !window->progress.request, HTTP2_KIND_GAP);
}

/* The place again, if the piece begins with a frame. */
static __always_inline bool http2_find(piece_source source, struct http2_way *way, const struct segment *segment)
{
	__u8 head[12] = {};
	if (segment->length < FRAME_HEAD || piece_load(source, segment->payload, head, FRAME_HEAD) ||
	    !frame_fits(head, true))
		return false;
	way->lost = 0;
	way->have = 0;
	way->preface = 0;
	return true;
}

/* The frames of a piece, from `offset` on. */
__noinline int http2_frames(piece_source source, struct conversation *conversation, struct http2 *http2,
			    struct window *window)
{
	if (!conversation || !http2 || !window)
		return 0;
	struct progress *progress = &window->progress;
	struct http2_way *way = progress->request ? &http2->request : &http2->response;
	if (way->lost && (progress->offset || !http2_find(source, way, &progress->segment)))
		return 0;
	struct http2_walk walk = {source, conversation, http2, window};
	bpf_loop(HTTP2_STEPS, http2_walk_step, &walk, 0);
	if (!progress->reason && progress->offset < (__s32)progress->segment.length)
		progress->reason = TALLY_HTTP2_GAP;
	if (progress->reason)
		http2_lose(conversation, http2, way, window, progress->reason);
	return 1;
}

/* A piece that is wholly in a payload of which nothing is kept: most of those of large bodies. */
static __always_inline bool http2_passes(struct http2_way *way, __u32 length)
{
	if (way->have != FRAME_HEAD || way->remaining <= length || frame_copied(way->type) || way->lost)
		return false;
	way->remaining -= length;
	if (way->type == FRAME_DATA)
		way->data_bytes += length;
	return true;
}

#endif
