/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The window: a copy of the beginning of a message, in which a head is read eight bytes at a time. Bytes behind the
 * message are left from earlier ones: whatever is found must be found before the end.
 */
#ifndef HTTP_WINDOW_H
#define HTTP_WINDOW_H

#include "alize/bpf.h"
#include "alize/text.h"
#include "http/abi.h"

enum { HTTP_WINDOW_MARGIN = 64 }; /* may be read behind any place */

struct http_window {
	__u8 bytes[HTTP_HEAD_SIZE + HTTP_WINDOW_MARGIN];
	__u64 busy;
};

/* The bytes from `at` on; HTTP_WINDOW_MARGIN of them may be read wherever that is. */
static __always_inline const __u8 *head_at(const struct http_window *window, __u32 at)
{
	HIDE(at);
	return &window->bytes[at & (HTTP_HEAD_SIZE - 1)];
}

static __always_inline __u64 head_word(const struct http_window *window, __u32 at)
{
	return *(const text_word *)head_at(window, at);
}

static __always_inline __u8 head_byte(const struct http_window *window, __u32 at)
{
	return *head_at(window, at);
}

#ifndef ALIZE_HOST
/*
 * CPU * HTTP_WINDOWS_PER_CPU + nesting -> a window. Of the programs alone. Sending runs in process context, where another
 * task may run the same program on the same CPU in between: each run takes a window that nobody holds.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HTTP_WINDOWS_PER_CPU); /* times the possible CPUs */
	__type(key, __u32);
	__type(value, struct http_window);
} http_windows SEC(".maps");

static __always_inline struct http_window *window_take(void)
{
	__u32 first = bpf_get_smp_processor_id() * HTTP_WINDOWS_PER_CPU;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < HTTP_WINDOWS_PER_CPU; i++) {
		__u32 place = first + i;
		struct http_window *window = bpf_map_lookup_elem(&http_windows, &place);
		if (!window)
			return 0;
		if (!__sync_lock_test_and_set(&window->busy, 1))
			return window;
	}
	return 0;
}

static __always_inline void window_give(struct http_window *window)
{
	WRITE_ONCE(window->busy, 0);
}

/* Copies the beginning of the message into the window; its length, 0 when the kernel has no memory. */
static __always_inline __u32 window_fill(struct http_window *window, struct sk_msg_md *msg)
{
	__u32 length = msg->size < HTTP_HEAD_SIZE ? msg->size : HTTP_HEAD_SIZE;
	/* The data may lie in several pages, or in some that were never copied (sendfile), which are not shown. */
	if (msg->data + length > msg->data_end && bpf_msg_pull_data(msg, 0, length, 0))
		return 0;
	HIDE(length);
	if (length > HTTP_HEAD_SIZE || bpf_probe_read_kernel(window->bytes, length, msg->data))
		return 0;
	return length;
}
#endif

#endif
