/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What redirected bytes hold in memory. They go into a queue that knows neither SO_RCVBUF nor a window (net/ipv4/tcp_bpf.c,
 * bpf_tcp_ingress), so the programs bound it: one message for each socket, and large ones only while there is plenty.
 */
#ifndef HTTP_QUEUE_H
#define HTTP_QUEUE_H

#include "alize/bpf.h"
#include "alize/kernel.h"
#include "http/abi.h"

/* Lowest bits of `sk_user_data` (net/sock.h, SK_USER_DATA_PTRMASK). */
#define QUEUE_FLAGS 7UL
/* Where pages are larger, the bound is a little stricter than it says. */
#define QUEUE_PAGE 4096

/*
 * Whether the application has read all that was ever redirected to the socket. The kernel's worker takes a packet off
 * its queue only after it has handed it over (net/core/skmsg.c, sk_psock_backlog), when who waits for it may have read it
 * and asked on: on a busy machine it seldom comes first. So the one in its hands does not count.
 */
static __always_inline bool queue_is_read(const struct tcp_sock *tcp)
{
	const struct sk_psock *psock = (void *)((unsigned long)((const struct sock *)tcp)->sk_user_data & ~QUEUE_FLAGS);
	const struct list_head *first = 0;
	const struct sk_buff *packet = 0;
	unsigned long is_to_go = 0;
	__u32 waiting = 0;
	if (bpf_probe_read_kernel(&first, sizeof(first), &psock->ingress_msg.next) ||
	    bpf_probe_read_kernel(&waiting, sizeof(waiting), &psock->ingress_skb.qlen))
		return false;
	if (first != &psock->ingress_msg || waiting > 1)
		return false;
	return !waiting || (!bpf_probe_read_kernel(&packet, sizeof(packet), &psock->ingress_skb.next) &&
			    !bpf_probe_read_kernel(&is_to_go, sizeof(is_to_go), &packet->_sk_redir) && !is_to_go);
}

/* Whether TCP would hold less than half of what it may without a thought (tcp_mem), with `more` bytes in a queue. */
static __always_inline bool queue_has_room(const struct tcp_sock *tcp, __u64 more)
{
	const struct proto *protocol = ((const struct sock *)tcp)->__sk_common.skc_prot;
	__s64 held = protocol->memory_allocated->counter;
	long low = 0;
	if (bpf_probe_read_kernel(&low, sizeof(low), protocol->sysctl_mem))
		return false;
	return 2 * (held + (__s64)(more / QUEUE_PAGE)) < low;
}

#endif
