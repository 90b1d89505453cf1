/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/2 in plain text, packet by packet.
 *
 * A connection is recognised by its preface, by the server's SETTINGS where those come first, or, if it was there before,
 * by a segment that begins with a request's HEADERS.
 */
#ifndef OBSERVE_HTTP2_H
#define OBSERVE_HTTP2_H

#include "frames.h"

/* socket -> what is kept of HTTP/2 on it. Of the observing programs alone; it goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http2);
} http2s SEC(".maps");

/* What is new in the segment. */
__noinline int http2_walk(struct __sk_buff *skb, struct conversation *conversation, struct http2 *http2,
			  struct window *window)
{
	if (!conversation || !http2 || !window)
		return 0;
	struct progress *progress = &window->progress;
	struct segment *segment = &progress->segment;
	struct http2_way *way = progress->request ? &http2->request : &http2->response;
	__s32 ahead = segment->sequence - way->next;
	progress->reason = 0;
	progress->offset = ahead < 0 ? -ahead : 0;
	if (progress->offset >= (__s32)segment->length)
		return 0;
	if (ahead > 0 && !way->lost) {
		/* Within a payload that nobody looks at nothing is lost with what is missing. */
		if (way->have == FRAME_HEAD && !frame_copied(way->type) && (__u32)ahead < way->remaining) {
			way->remaining -= ahead;
			if (way->type == FRAME_DATA)
				way->data_bytes += ahead;
		} else {
			http2_lose(conversation, http2, way, window, TALLY_HTTP2_GAP);
		}
	}
	way->next = segment->sequence + segment->length;
	return http2_frames(skb, conversation, http2, window);
}

static __always_inline bool http2_skips(struct http2_way *way, const struct segment *segment)
{
	if (segment->sequence != way->next || !http2_passes(way, segment->length))
		return false;
	way->next += segment->length;
	return true;
}

/* The sequence number before which all must have been read, so that this segment can be. */
static __always_inline __u32 http2_awaits(const struct http2_way *way, const struct segment *segment)
{
	bool skips = way->have == FRAME_HEAD && !frame_copied(way->type);
	return way->lost || skips || segment->flags & SEGMENT_RST ? way->next : segment->sequence;
}

/* The first of the client's segments makes the two sockets of a connection on this host known to each other. */
static __always_inline bool http2_introduce(struct conversation *conversation, struct http2 *http2,
					    const struct segment *segment, bool egress)
{
	static const struct identity nobody;
	if (http2->started)
		return true;
	http2->started = 1;
	conversation->link = link_key(segment);
	__u64 key = conversation->link;
	if (egress) {
		bpf_map_update_elem(&links, &key, &nobody, BPF_ANY);
		return true;
	}
	if (!bpf_map_lookup_elem(&links, &key))
		return true;
	conversation->state = STATE_PEER;
	return false;
}

/* A segment of a connection that speaks HTTP/2. */
__noinline int http2_follow(struct __sk_buff *skb, struct conversation *conversation, struct segment *segment,
			    __u32 egress)
{
	if (!conversation || !segment)
		return 0;
	struct bpf_sock *sk = skb->sk;
	struct http2 *http2 = sk ? bpf_sk_storage_get(&http2s, sk, 0, 0) : 0;
	if (!http2)
		return 0;
	bool client = conversation->role == ROLE_CLIENT;
	bool request = client == (egress != 0);
	if (request && segment->length && !http2_introduce(conversation, http2, segment, egress))
		return 0;
	bool over = segment->flags & SEGMENT_RST || (segment->flags & SEGMENT_FIN && !request);
	if (!segment->length && !over)
		return 0;
	struct http2_way *way = request ? &http2->request : &http2->response;
	/* As in conversation_follow(); what is not read is a gap. */
	if (!egress && !turn_take(&way->busy, &way->next, http2_awaits(way, segment)))
		return 0;
	if (segment->length && !http2_skips(way, segment)) {
		struct window *window = window_take();
		if (window) {
			window->progress.segment = *segment;
			window->progress.request = request;
			window->progress.now = bpf_ktime_get_ns();
			http2_walk(skb, conversation, http2, window);
			window_give(window);
		}
	}
	if (!egress)
		turn_give(&way->busy);
	if (over) {
		http2_end(conversation, http2);
		conversation->state = STATE_OFF;
	}
	return 1;
}

/* From here on the connection speaks HTTP/2. NULL: there is no memory. */
static __always_inline struct http2 *http2_begin(struct __sk_buff *skb, struct conversation *conversation)
{
	struct bpf_sock *sk = skb->sk;
	struct http2 *http2 = sk ? STORAGE_MADE(http2s, sk) : 0;
	if (!http2) {
		conversation_lose(conversation, TALLY_HTTP2);
		return 0;
	}
	__builtin_memset(http2, 0, sizeof(*http2));
	http2->cookie = bpf_get_socket_cookie(skb);
	conversation->state = STATE_HTTP2;
	return http2;
}

#endif
