/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who is at the ends. A socket's cgroup is certain; the process is whoever sends on it, which the hook sees where
 * sending happens in that process's own context, as nearly all does.
 *
 * Two sockets of one connection on the same host know each other by the sequence numbers of the first segment that
 * was followed: 64 bits of chance that stay the same through veth, bridge and address translation.
 */
#ifndef OBSERVE_IDENTITY_H
#define OBSERVE_IDENTITY_H

#include "choices.h"
#include "conversation.h"
#include "segment.h"

/* sequence numbers of a first segment -> who serves that connection. Made by the client's socket, written by the server's. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct identity);
} links SEC(".maps");

#ifndef ALIZE_HOST
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

typedef struct {
	int owned;
} socket_lock_t;

struct sock {
	socket_lock_t sk_lock;
};

#ifndef ALIZE_HOST
#pragma clang attribute pop
#endif

/*
 * Whether the current process is the one that sends. The socket is owned while a process is inside a call on it (and
 * while it works off the backlog, on its way out); soft interrupts and timers send only on sockets nobody owns.
 */
static __always_inline bool sends_itself(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct sock *kernel_sk = sk ? (struct sock *)bpf_skc_to_tcp_sock(sk) : 0;
	return kernel_sk && kernel_sk->sk_lock.owned;
}

static __always_inline void identity_now(struct __sk_buff *skb, struct identity *identity)
{
	identity->pid = bpf_get_current_pid_tgid() >> 32;
	/* Of the socket's maker: before Linux 6.16 this hook may not ask for that of the process. */
	identity->uid = bpf_get_socket_uid(skb);
	if (choices.may_ask_comm)
		bpf_get_current_comm(identity->comm, sizeof(identity->comm));
}

/* Brings `self` up to date with who is sending; cheap where nothing changed. */
static __always_inline bool identity_refresh(struct __sk_buff *skb, struct conversation *conversation)
{
	if (!conversation->self.cgroup)
		conversation->self.cgroup = bpf_skb_cgroup_id(skb);
	if (!choices.may_ask_pid || !sends_itself(skb) || conversation->self.pid == bpf_get_current_pid_tgid() >> 32)
		return false;
	identity_now(skb, &conversation->self);
	return true;
}

static __always_inline __u64 link_key(const struct segment *segment)
{
	return (__u64)segment->sequence << 32 | segment->acknowledged;
}

#endif
