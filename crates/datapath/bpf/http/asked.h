/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The client's half of a note: see note.h. */
#ifndef HTTP_ASKED_H
#define HTTP_ASKED_H

#include "http/client.h"
#include "http/head.h"
#include "http/note.h"

static const struct http_note no_note;

static __always_inline struct http_note *note_of(__u32 number)
{
	struct http_note *note = bpf_map_lookup_elem(&http_notes, &number);
	if (note)
		return note;
	bpf_map_update_elem(&http_notes, &number, &no_note, BPF_NOEXIST);
	note = bpf_map_lookup_elem(&http_notes, &number);
	if (!note)
		count_anomaly(ANOMALY_EVENT_LOST);
	return note;
}

/* The first `words` words of the text [from, from + length), with zeros behind it; how much of it there is room for. */
static __always_inline __u32 note_text(__u64 *to, __u32 words, const struct http_window *window, __u32 from,
				       __u32 length)
{
	if (length > words * 8)
		length = words * 8;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		to[i] = i * 8 < length ? low_bytes(head_word(window, from + i * 8), length - i * 8) : 0;
	return length;
}

/* Writes down what is asked on the slot; 0 when that could not be. */
__noinline __u32 note_write(struct http_window *window, struct head *head, __u32 number)
{
	if (!window || !head)
		return 0;
	struct http_note *note = note_of(number);
	if (!note)
		return 0;
	struct pending *pending = &note->pending;
	pending->first_byte_ns = 0;
	pending->method = head->method;
	pending->target_length =
		note_text((__u64 *)pending->target, PATH_SIZE / 8, window, head->path, head->target_length);
	pending->path_length = head->path_length < PATH_SIZE ? head->path_length : PATH_SIZE;
	__u32 span = value_of(window, head->host, head->host_end), host = span & 0xffff;
	__u32 host_length = (span >> 16) - host;
	pending->host_length = note_text((__u64 *)pending->host, HOST_SIZE / 8, window, host, host_length);
	pending->flags = (head->target_length > PATH_SIZE ? REQUEST_FLAG_PATH_CUT : 0) |
			 (host_length > HOST_SIZE ? REQUEST_FLAG_HOST_CUT : 0);
	note_identity(&note->client);
	return 1;
}

/* Where the client is: only the program itself may read it. */
static __always_inline void note_client(struct sk_msg_md *msg, const struct http_client *client, __u32 number)
{
	struct http_note *note = bpf_map_lookup_elem(&http_notes, &number);
	if (!note)
		return;
	SOCKET_ADDRESS(msg, local, note->client_address);
	note->client_port = bpf_htons(msg->local_port);
	/* The slot of an earlier request is remembered. */
	if (client->lease)
		note->pending.flags |= REQUEST_FLAG_REUSED;
}

#endif
