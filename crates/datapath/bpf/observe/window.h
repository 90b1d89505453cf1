/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The window: a piece of one direction of a connection, copied out of a packet, in which lines are found and read
 * eight bytes at a time. Unit tests and fuzzing compile all of the observing programs for the host, against the
 * helpers and maps of host/bpf.h.
 */
#ifndef OBSERVE_WINDOW_H
#define OBSERVE_WINDOW_H

#include "words.h"

enum {
	WINDOW_SIZE = 1024, /* a power of two */
	WINDOW_MARGIN = 32, /* may be read behind any place */
	CARRY_SIZE = 256, /* an unfinished line that waits for the next packet */
	FOLD_SIZE = 128, /* a power of two above PATH_SIZE */
	MEMO_SIZE = 512, /* heads up to this length are known again, see memo.h */
	MEMOS = 4, /* a power of two */
};

/* What is kept of a request while its response is outstanding. */
struct pending {
	__u64 started_ns;
	__u64 first_byte_ns; /* of the response */
	__u64 request_bytes;
	__u64 path; /* hash of the folded path */
	__u32 number; /* of the request on its connection, from 0 */
	__u8 method;
	__u8 flags; /* enum request_flags */
	__u8 target_length;
	__u8 path_length; /* of the target without query */
	__u8 host_length;
	__u8 foldable;
	__u8 traced; /* there is a `trace_parent` */
	__u8 zero[5];
	char target[PATH_SIZE];
	char host[HOST_SIZE];
	char trace_parent[TRACE_SIZE];
};

/* A TCP segment, see segment.h. */
struct segment {
	__u32 payload; /* offset in the packet */
	__u32 length; /* of the payload */
	__u32 sequence; /* of its first byte */
	__u32 acknowledged; /* the next byte expected from the other side */
	__u32 flags; /* enum segment_flags */
	__u32 v6;
};

/* How far a packet has been read, see follow.h. */
struct progress {
	struct segment segment;
	__u64 now;
	__s32 offset; /* in the payload; below 0 in a line carried over */
	__s32 base; /* offset of the window's first byte */
	__u32 filled; /* bytes in the window */
	__u32 reload; /* the line goes on beyond the window */
	__u32 reason; /* enum tally: the thread is lost */
	__u32 request; /* the direction */
};

/* A head and what was read of it. */
struct memo {
	__u32 length; /* 0: none */
	__u16 status; /* of a response */
	__u8 request;
	__u8 flags; /* enum framing_flags */
	__u64 remaining; /* the Content-Length */
	struct pending pending; /* of a request: its text */
	__u64 words[MEMO_SIZE / 8];
};

struct window {
	__u8 bytes[WINDOW_SIZE + WINDOW_MARGIN];
	__u8 fold[FOLD_SIZE + 8]; /* where target.h writes a folded path */
	__u64 folded; /* its length */
	struct progress progress;
	struct pending spare; /* where a request is read that has no place, and forgotten */
	struct memo memos[MEMOS];
	__u64 unknown; /* heads that were no memo's */
	__u64 busy; /* see buffers.h */
};

/* The bytes from `at` on; WINDOW_MARGIN of them may be read wherever that is. */
static __always_inline const __u8 *bytes_at(const struct window *window, __u32 at)
{
	HIDE(at);
	return &window->bytes[at & (WINDOW_SIZE - 1)];
}

static __always_inline __u64 word_at(const struct window *window, __u32 at)
{
	return *(const text_word *)bytes_at(window, at);
}

static __always_inline __u8 byte_at(const struct window *window, __u32 at)
{
	return *bytes_at(window, at);
}

#endif
