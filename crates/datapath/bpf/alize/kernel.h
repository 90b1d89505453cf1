/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's own types, cut down to the fields that are read; CO-RE finds where they are in the running kernel. */
#ifndef ALIZE_KERNEL_H
#define ALIZE_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* enum sock_flags of net/sock.h: the peer has sent its FIN (tcp_fin). */
enum { SOCK_DONE_BIT = 1 };

typedef struct {
	__s64 counter;
} atomic64_t;

struct list_head {
	struct list_head *next;
};

struct sk_buff {
	unsigned long _sk_redir; /* where a verdict sends it; 0 once it is on its way (skb_bpf_redirect_clear) */
};

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
};

/* What the kernel keeps of a socket that is in a sockmap (net/core/skmsg.c): its queues, beside the socket's own. */
struct sk_psock {
	struct sk_buff_head ingress_skb; /* redirected by sk_skb, not in the next yet */
	struct list_head ingress_msg; /* redirected to the socket, and not read */
};

/* What is common to all sockets of a protocol. */
struct proto {
	atomic64_t *memory_allocated; /* pages */
	long *sysctl_mem; /* net.ipv4.tcp_mem: below the first of its three figures memory is no matter */
};

struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	struct proto *skc_prot;
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	__u16 sk_protocol;
	void *sk_user_data; /* of a socket in a sockmap its sk_psock, and flags in the lowest bits */
};

struct tcp_sock {
	__u64 bytes_received;
	__u64 bytes_acked;
	__u32 total_retrans;
	__u32 srtt_us; /* eight times the microseconds */
	__u32 write_seq; /* the next byte that the application sends */
	__u32 rcv_nxt;
	__u32 copied_seq; /* the next byte that the application reads */
};

struct udp_sock;

struct mptcp_sock {
	struct sock_common sk; /* begins as every socket does; only whether there is such a type is asked */
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
	unsigned int uid;
};

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
	unsigned int uid;
	int bucket;
};

#pragma clang attribute pop

#endif
