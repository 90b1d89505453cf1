/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of a TCP connection for its own sake, whatever is spoken on it. */
#ifndef OBSERVE_CONNECTION_H
#define OBSERVE_CONNECTION_H

#include "conversation.h"
#include "trace.h"

#ifndef ALIZE_HOST
#include <bpf/bpf_core_read.h>
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

struct sk_buff {
	char cb[48];
};

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
};

/* What is in `cb` of those in an error queue. */
struct sock_extended_err {
	__u32 ee_errno;
	__u8 ee_origin;
};

struct sock_exterr_skb {
	struct sock_extended_err ee;
};

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	kuid_t sk_uid;
	int sk_err;
	int sk_err_soft;
	struct sk_buff_head sk_error_queue;
	struct sock_cgroup_data sk_cgrp_data;
};

#ifndef ALIZE_HOST
#pragma clang attribute pop
#endif

enum {
	SOCK_DONE_BIT = 1, /* enum sock_flags of net/sock.h: the peer has sent its FIN (tcp_fin) */
	ERRNO_EACCES = 13,
	ERRNO_EPIPE = 32,
	ERRNO_ENETUNREACH = 101,
	ERRNO_ECONNRESET = 104,
	ERRNO_ETIMEDOUT = 110,
	ERRNO_ECONNREFUSED = 111,
	ERRNO_EHOSTUNREACH = 113,
	/* SO_EE_ORIGIN_ICMP and SO_EE_ORIGIN_ICMP6 of linux/errqueue.h */
	ORIGIN_ICMP = 2,
	ORIGIN_ICMP6 = 3,
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

/*
 * An ICMP error that came while connect() held the socket: the kernel only notes it and goes on (tcp_v4_err). An application
 * that asks (SO_ERROR) is told and closes, and then the note is gone; what stays is the copy in the queue of errors.
 */
static __always_inline int icmp_error(const struct sock *kernel_sk)
{
	if (kernel_sk->sk_err_soft)
		return kernel_sk->sk_err_soft;
	if (!kernel_sk->sk_error_queue.qlen)
		return 0;
	const char *cb = (const char *)kernel_sk->sk_error_queue.next +
			 __builtin_preserve_field_info(((struct sk_buff *)0)->cb, BPF_FIELD_BYTE_OFFSET);
	const struct sock_exterr_skb *queued = (const void *)cb;
	__u32 error = 0;
	__u8 origin = 0;
	if (bpf_core_read(&error, sizeof(error), &queued->ee.ee_errno) ||
	    bpf_core_read(&origin, sizeof(origin), &queued->ee.ee_origin))
		return 0;
	return origin == ORIGIN_ICMP || origin == ORIGIN_ICMP6 ? (int)error : 0;
}

/* Why connect() failed: what the kernel is about to tell the application, or has told. */
static __always_inline __u8 failure_reason(int error, __u32 retransmits)
{
	switch (error) {
	case 0: /* the application closed; most do not wait the minutes until the kernel gives up */
		return retransmits ? TCP_REASON_TIMEOUT : TCP_REASON_ABORTED;
	case ERRNO_ECONNREFUSED:
		return TCP_REASON_REFUSED;
	case ERRNO_ETIMEDOUT:
		return TCP_REASON_TIMEOUT;
	case ERRNO_EACCES: /* what IPv6 makes of "administratively prohibited" (icmpv6_err_convert) */
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
