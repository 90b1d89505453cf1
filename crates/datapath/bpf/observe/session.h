/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of a session of TLS, and of the calls that threads are making into their library. */
#ifndef OBSERVE_SESSION_H
#define OBSERVE_SESSION_H

#define OBSERVE_MEMORY
#include "frames.h"
#include "message.h"

enum { TLS_APPLICATION_DATA = 23 }; /* RFC 8446, 5.1 */

struct tls_session {
	struct conversation conversation;
	struct partial partial;
	struct http2 http2;
	__u64 socket; /* cookie; 0: no socket was seen to carry it */
	__u8 asked; /* there was data before a socket was seen */
	__u8 zero[7];
};

/* A thread is in the library. */
struct tls_call {
	struct tls_key key;
	__u64 data; /* address */
	__u64 count; /* address of the count; 0: it is returned. Of a call that has left: what it sent */
	__u64 entered_ns;
	__u32 function; /* enum tls_function; 0: it has left */
	__u32 left; /* it has left, and no socket was seen to carry its session */
};

/* A library's session in a process -> what is kept of it. Of the programs; the agent takes out those of processes that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TLS_SESSIONS); /* budget */
	__type(key, struct tls_key);
	__type(value, struct tls_session);
} tls_sessions SEC(".maps");

/* thread -> its call. Of the programs alone; what a thread that ended within leaves behind is the first to go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TLS_CALLS); /* budget */
	__type(key, __u64);
	__type(value, struct tls_call);
} tls_calls SEC(".maps");

/* socket cookie -> whose session it carries. Of the programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TLS_SESSIONS); /* budget */
	__type(key, __u64);
	__type(value, struct tls_key);
} tls_sockets SEC(".maps");

/* Addresses of the services that ask for it; the value says nothing. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TLS_SERVERS); /* budget */
	__type(key, struct tls_server);
	__type(value, __u32);
} tls_servers SEC(".maps");

/* The meshed cgroups, from place 0 on without a gap. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, TLS_CGROUPS);
	__type(key, __u32);
	__type(value, __u32);
} tls_cgroups SEC(".maps");

static const struct tls_session no_session;

/* Whether the current process is meshed: a probe is in the library's file, and runs in whoever uses it. */
static __always_inline bool meshed(void)
{
	for (__u32 i = 0; i < TLS_CGROUPS; i++) {
		long under = bpf_current_task_under_cgroup(&tls_cgroups, i);
		if (under)
			return under == 1;
	}
	return false;
}

static __always_inline void owner_learn(struct identity *owner)
{
	owner->cgroup = bpf_get_current_cgroup_id();
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(owner->comm, sizeof(owner->comm));
}

/* The session; made now if it was not known. NULL: there is no room. */
static __always_inline struct tls_session *session_get(struct tls_key *key, bool from_start)
{
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, key);
	if (session)
		return session;
	bpf_map_update_elem(&tls_sessions, key, &no_session, BPF_NOEXIST);
	session = bpf_map_lookup_elem(&tls_sessions, key);
	if (!session) {
		tally(TALLY_NO_MEMORY);
		return 0;
	}
	struct conversation *conversation = &session->conversation;
	owner_learn(&conversation->self);
	conversation->service = ~0U;
	conversation->path_label = PATH_LABEL_TLS;
	conversation->state = from_start ? STATE_FOLLOWED : STATE_JOINED;
	return session;
}

#endif
