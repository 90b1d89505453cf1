/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Called by far and back: the response to a request that somebody watches has ended, or is the proxy's from here on. The
 * request is counted, traced and recorded as if the observer had seen it. Loaded and put in `http_next` and
 * `http_back_next` by the observer.
 */
#include "http/back.h"
#include "http/far.h"
#include "http/note.h"
#include "http/slot.h"
#include "observe/emit.h"
#include "observe/series.h"
#include "observe/template.h"

struct told {
	__u64 now;
	__u64 latency_ns;
	__u64 first_byte_ns;
	__u64 response_bytes;
	struct identity server;
	__be32 address[4];
	__be16 port;
	__u16 status;
	__u32 service;
};

/* enum http_method -> enum method */
static __always_inline __u8 method_of(__u32 method)
{
	__u64 methods = (__u64)METHOD_GET | METHOD_HEAD << 4 | METHOD_POST << 8 | METHOD_PUT << 12 |
			METHOD_DELETE << 16 | METHOD_OPTIONS << 20 | (__u64)METHOD_PATCH << 24;
	return methods >> (method & 7) * 4 & 0xf;
}

/* The path that the request is counted under; see follow.h. */
static __always_inline void note_path(struct pending *pending)
{
	target_weigh(pending);
	struct window *window = window_take();
	if (!window)
		return;
	if (pending->foldable)
		pending->path = path_hash_folded(window, pending);
	pending->path = path_templated(window, pending);
	window_give(window);
}

/* Counts the request in its series. */
static __always_inline void told_count(struct http_note *note, const struct told *told)
{
	struct series_key key = {
		.source = note->client.cgroup,
		.destination = told->server.cgroup,
		.path = note->pending.path,
		.port = told->port,
		.status = told->status,
		.method = method_of(note->pending.method),
		.side = SIDE_CLIENT,
		.path_label = PATH_LABEL_KERNEL_L7,
		.service = told->service,
	};
	__builtin_memcpy(key.address, told->address, sizeof(key.address));
	struct series *series = series_get(&key, &note->pending);
	if (series)
		series_add(series, told->latency_ns, told->first_byte_ns, note->pending.request_bytes,
			   told->response_bytes);
}

static __always_inline void told_event(const struct http_note *note, const struct told *told)
{
	struct request_event *event = trace_draft();
	if (!event)
		return;
	const struct pending *pending = &note->pending;
	event->started_ns = pending->started_ns;
	event->first_byte_ns = told->first_byte_ns;
	event->latency_ns = told->latency_ns;
	event->request_bytes = pending->request_bytes;
	event->response_bytes = told->response_bytes;
	event->path = pending->path;
	event->client = note->client;
	event->server = told->server;
	__builtin_memcpy(event->client_address, note->client_address, sizeof(event->client_address));
	__builtin_memcpy(event->server_address, told->address, sizeof(event->server_address));
	event->client_port = note->client_port;
	event->server_port = told->port;
	event->service = told->service;
	event->status = told->status;
	event->method = method_of(pending->method);
	event->side = SIDE_CLIENT;
	event->flags = pending->flags;
	event->target_length = pending->target_length;
	event->host_length = pending->host_length;
	event->path_label = PATH_LABEL_KERNEL_L7;
	__builtin_memcpy(event->target, pending->target, PATH_SIZE);
	__builtin_memcpy(event->host, pending->host, HOST_SIZE);
	trace_emit(event, told->now);
}

/* `told` holds who answered. */
static __always_inline void tell(struct told *told, struct http_slot *slot, __u32 number, bool carried)
{
	struct http_note *note = bpf_map_lookup_elem(&http_notes, &number);
	/* What the proxy carries because not even its status could be read is no failure of the endpoint's. */
	if (!note || !slot->status) {
		tally(TALLY_EVENT_LOST);
		return;
	}
	told->now = bpf_ktime_get_ns();
	told->status = slot->status;
	told->service = slot->service;
	/* Of a carried response what its head announces. */
	told->response_bytes = slot->response_bytes + (carried ? slot->left : 0);
	struct pending *pending = &note->pending;
	pending->started_ns = slot->started_ns;
	pending->request_bytes = slot->request_bytes;
	told->latency_ns = told->now - slot->started_ns;
	if (pending->first_byte_ns > slot->started_ns)
		told->first_byte_ns = pending->first_byte_ns - slot->started_ns;
	note_path(pending);
	tally(TALLY_REQUEST);
	tally(TALLY_EXCHANGE);
	told_count(note, told);
	if (trace_wanted(told->latency_ns, told->status, told->now))
		told_event(note, told);
}

/* The slot's note is told, and what the caller has left to this program is done. */
static __always_inline void finish(struct told *told, __u32 number)
{
	struct http_slot *slot = slot_get(number);
	if (!slot)
		return;
	__u64 word = READ_ONCE(slot->state);
	bool carried = word & HTTP_SLOT_COPY;
	slot->noted = 0;
	tell(told, slot, number, carried);
	if (!carried)
		slot_finish(number, LEASE(word), HTTP_SLOT_BUSY);
}

SEC("sk_msg")
int alize_http_told(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct http_far *far = sk ? bpf_sk_storage_get(&http_far, sk, 0, 0) : 0;
	if (!far)
		return SK_PASS;
	struct told told = {.port = bpf_htons(msg->local_port)};
	SOCKET_ADDRESS(msg, local, told.address);
	note_identity(&told.server);
	finish(&told, far->slot);
	return SK_PASS;
}

/* Who answers is on another host: its address is all that is known. */
SEC("sk_skb/stream_verdict")
int alize_http_told_back(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct http_far *back = bpf_map_lookup_elem(&http_backs, &cookie);
	if (!back)
		return SK_PASS;
	/* the kernel shows the remote port in the upper half of a word in network order */
	struct told told = {.port = skb->remote_port >> 16};
	SOCKET_ADDRESS(skb, remote, told.address);
	finish(&told, back->slot);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
