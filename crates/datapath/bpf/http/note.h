/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Notes: what was asked on a slot and by whom, written down while somebody watches, for what the kernel routes never becomes
 * packets that the observer could read. When the response has ended http_told makes of it what the observer makes of
 * the requests it sees. While nobody watches, a request costs one read of a word.
 */
#ifndef HTTP_NOTE_H
#define HTTP_NOTE_H

#include "http/abi.h"
#include "http/socket.h"
#include "observe/window.h"

/* One word: whether to write notes. Written by the observer, once its http_told is in `http_next`; read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} http_watched SEC(".maps");

struct http_note {
	struct pending pending; /* method as enum http_method */
	struct identity client;
	__be32 client_address[4];
	__be16 client_port;
	__u8 zero[6];
};

/* slot -> the request on it. Made on first use and written by client, read by http_told while the slot is lent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* as http_slots */
	__type(key, __u32);
	__type(value, struct http_note);
} http_notes SEC(".maps");

/*
 * What far goes on with. A tail call fails where nobody put a program, and costs the tracing only. Written by the
 * observer, read by far.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, HTTP_NEXTS);
	__type(key, __u32);
	__type(value, __u32);
} http_next SEC(".maps");

/* Set at load (src/variant.rs): whether sk_msg programs may ask for the name of a thread (Linux 6.16). */
const volatile struct {
	__u32 may_ask_comm;
} asks SEC(".rodata.asks") = {1};

static __always_inline bool http_is_watched(void)
{
	__u32 zero = 0;
	__u64 *watched = bpf_map_lookup_elem(&http_watched, &zero);
	return watched && READ_ONCE(*watched);
}

static __always_inline void note_first_byte(__u32 number)
{
	struct http_note *note = bpf_map_lookup_elem(&http_notes, &number);
	if (note)
		note->pending.first_byte_ns = bpf_ktime_get_ns();
}

/* Whose thread this is: sending runs in the process that sends. */
static __always_inline void note_identity(struct identity *identity)
{
	identity->cgroup = bpf_get_current_cgroup_id();
	identity->pid = bpf_get_current_pid_tgid() >> 32;
	identity->uid = bpf_get_current_uid_gid();
	if (asks.may_ask_comm)
		bpf_get_current_comm(identity->comm, sizeof(identity->comm));
}

#endif
