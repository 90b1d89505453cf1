/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of a TCP connection for its own sake, whatever is spoken on it. */
#ifndef OBSERVE_CONNECTION_H
#define OBSERVE_CONNECTION_H

#include "trace.h"

#ifndef ALIZE_HOST
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock_common {
	unsigned long skc_flags;
};

typedef struct {
	int owned;
} socket_lock_t;

typedef struct {
	__u32 val;
} kuid_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	kuid_t sk_uid;
	int sk_err;
	struct sock_cgroup_data sk_cgrp_data;
};

#ifndef ALIZE_HOST
#pragma clang attribute pop
#endif

enum {
	SOCK_DONE_BIT = 1, /* enum sock_flags of net/sock.h: the peer has sent its FIN (tcp_fin) */
	ERRNO_EPIPE = 32,
	ERRNO_ENETUNREACH = 101,
	ERRNO_ECONNRESET = 104,
	ERRNO_ETIMEDOUT = 110,
	ERRNO_ECONNREFUSED = 111,
	ERRNO_EHOSTUNREACH = 113,
};

/* The life of a connection since it was opened or accepted. */
struct life {
	struct identity owner;
	__u64 opened_ns; /* the SYN; 0 at the server's end */
	__u64 established_ns; /* 0: not yet */
	__u32 side; /* enum side */
	__u32 zero;
};

/* socket -> its life. Of sockops alone; it goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct life);
} lives SEC(".maps");

/* Why connect() failed: what the kernel is about to tell the application. */
static __always_inline __u8 failure_reason(int error, __u32 retransmits)
{
	switch (error) {
	case 0: /* the application closed; most do not wait the minutes until the kernel gives up */
		return retransmits ? TCP_REASON_TIMEOUT : TCP_REASON_ABORTED;
	case ERRNO_ECONNREFUSED:
		return TCP_REASON_REFUSED;
	case ERRNO_ETIMEDOUT:
		return TCP_REASON_TIMEOUT;
	case ERRNO_ENETUNREACH:
	case ERRNO_EHOSTUNREACH:
		return TCP_REASON_UNREACHABLE;
	case ERRNO_ECONNRESET:
	case ERRNO_EPIPE:
		return TCP_REASON_RESET_RECEIVED;
	default:
		return TCP_REASON_OTHER;
	}
}

/* Why an established connection is over; `state` is the last one before. */
static __always_inline __u8 end_reason(int error, __u32 state)
{
	switch (error) {
	case 0: /* closed without a FIN of ours: data was unread, or SO_LINGER was 0 (tcp_close) */
		return state == BPF_TCP_ESTABLISHED || state == BPF_TCP_CLOSE_WAIT ? TCP_REASON_RESET_SENT
										   : TCP_REASON_NONE;
	case ERRNO_ECONNRESET:
	case ERRNO_EPIPE:
		return TCP_REASON_RESET_RECEIVED;
	case ERRNO_ETIMEDOUT:
		return TCP_REASON_TIMEOUT;
	case ERRNO_ENETUNREACH:
	case ERRNO_EHOSTUNREACH:
		return TCP_REASON_UNREACHABLE;
	default:
		return TCP_REASON_OTHER;
	}
}

/* Which filters want the event, as bits. */
__noinline __u32 filters_matching_tcp(struct tcp_event *event, __u64 now)
{
	if (!event)
		return 0;
	bool client = event->side == SIDE_CLIENT;
	struct subject subject = {
		.type = EVENT_TYPE_TCP,
		.service = ~0U,
		.latency_ns = event->duration_ns,
		.client = &event->owner,
		.address = client ? event->remote_address : event->local_address,
		.port = client ? event->remote_port : event->local_port,
	};
	__u32 matched = 0;
	for (__u32 i = 0; i < FILTERS; i++) {
		__u32 place = i;
		struct filter *filter = bpf_map_lookup_elem(&filters, &place);
		if (filter && subject_matches(filter, &subject, i) && filter_lets(i, filter, now))
			matched |= 1U << i;
	}
	return matched;
}

#endif
