/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup/sockops: connects, accepts, ends and retransmits of TCP connections, for traces. Runs a few times in the life
 * of a connection and at each retransmit, never per packet. What was there before it was attached is not seen.
 */
#include "observe/choices.h"
#include "observe/connection.h"

enum { FAMILY_INET6 = 10 };

static __always_inline struct sock *kernel_socket(struct bpf_sock *sk)
{
	return (struct sock *)bpf_skc_to_tcp_sock(sk);
}

/* Whose socket it is: the current process, in whose call this runs. */
static __always_inline void process_now(const struct sock *kernel_sk, struct identity *owner)
{
	if (choices.may_ask_pid)
		owner->pid = bpf_get_current_pid_tgid() >> 32;
	if (choices.may_ask_comm) {
		owner->uid = bpf_get_current_uid_gid();
		bpf_get_current_comm(owner->comm, sizeof(owner->comm));
	} else if (kernel_sk) {
		owner->uid = kernel_sk->sk_uid.val;
	}
}

/* Whose it was when it last sent, as who observes HTTP has seen. A reset comes when nobody is inside a call. */
static __always_inline void process_before(struct bpf_sock *sk, struct identity *owner)
{
	const struct conversation *conversation = bpf_sk_storage_get(&conversations, sk, 0, 0);
	if (conversation && conversation->self.pid)
		*owner = conversation->self;
}

/* Read whatever the family is: the verifier refuses a load through a pointer into the context that branches share. */
#define CONTEXT(field) (*(const volatile __u32 *)&(field))

static __always_inline void addresses(struct bpf_sock_ops *ctx, struct tcp_event *event)
{
	__u32 local4 = CONTEXT(ctx->local_ip4), remote4 = CONTEXT(ctx->remote_ip4);
	event->local_address[0] = CONTEXT(ctx->local_ip6[0]);
	event->local_address[1] = CONTEXT(ctx->local_ip6[1]);
	event->local_address[2] = CONTEXT(ctx->local_ip6[2]);
	event->local_address[3] = CONTEXT(ctx->local_ip6[3]);
	event->remote_address[0] = CONTEXT(ctx->remote_ip6[0]);
	event->remote_address[1] = CONTEXT(ctx->remote_ip6[1]);
	event->remote_address[2] = CONTEXT(ctx->remote_ip6[2]);
	event->remote_address[3] = CONTEXT(ctx->remote_ip6[3]);
	if (ctx->family != FAMILY_INET6) {
		event->local_address[0] = event->remote_address[0] = 0;
		event->local_address[1] = event->remote_address[1] = 0;
		event->local_address[2] = event->remote_address[2] = bpf_htonl(0xffff);
		event->local_address[3] = local4;
		event->remote_address[3] = remote4;
	}
	event->local_port = bpf_htons(ctx->local_port);
	event->remote_port = bpf_htons(bpf_ntohl(ctx->remote_port));
}

/*
 * SYN and FIN each take a sequence number, and the kernel's byte counters count sequence numbers; all but the SYN of a
 * server, which is acknowledged before they begin (tcp_rcv_state_process).
 */
static __always_inline void bytes(struct bpf_sock_ops *ctx, const struct sock *kernel_sk, __u32 state,
				  struct tcp_event *event)
{
	bool fin_sent = state == BPF_TCP_FIN_WAIT2 || state == BPF_TCP_TIME_WAIT || state == BPF_TCP_LAST_ACK ||
			state == BPF_TCP_CLOSING;
	bool fin_received = kernel_sk && kernel_sk->__sk_common.skc_flags >> SOCK_DONE_BIT & 1;
	__u64 sent = ctx->bytes_acked, received = ctx->bytes_received;
	__u32 numbers = fin_sent + (event->side == SIDE_CLIENT);
	event->bytes_sent = sent > numbers ? sent - numbers : 0;
	event->bytes_received = received > fin_received ? received - fin_received : 0;
}

/* `state` is the last one that the connection was in, or is. */
static __always_inline void tell(struct bpf_sock_ops *ctx, struct bpf_sock *sk, struct life *life, __u8 kind,
				 __u32 state, __u64 duration, __u64 now)
{
	if (!trace_active())
		return;
	const struct sock *kernel_sk = kernel_socket(sk);
	int error = kernel_sk ? kernel_sk->sk_err : 0;
	struct tcp_event event = {
		.type = EVENT_TYPE_TCP,
		.time_ns = now,
		.duration_ns = duration,
		.owner = life->owner,
		.retransmits = ctx->total_retrans,
		.rtt_us = ctx->srtt_us >> 3, /* the kernel keeps eight times the value */
		.kind = kind,
		.side = life->side,
	};
	addresses(ctx, &event);
	bytes(ctx, kernel_sk, state, &event);
	if (kind == TCP_KIND_FAILED && !error && kernel_sk)
		error = icmp_error(kernel_sk);
	if (kind == TCP_KIND_FAILED)
		event.reason = failure_reason(error, event.retransmits);
	else if (kind == TCP_KIND_CLOSED)
		event.reason = end_reason(error, state);
	event.matched = filters_matching_tcp(&event, now);
	if (event.matched)
		trace_write(&event, sizeof(event));
}

static __always_inline struct life *life_begins(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u32 side)
{
	struct life *life = bpf_sk_storage_get(&lives, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!life) {
		tally(TALLY_NO_MEMORY);
		return 0;
	}
	life->side = side;
	struct sock *kernel_sk = kernel_socket(sk);
	if (kernel_sk)
		life->owner.cgroup = kernel_sk->sk_cgrp_data.cgroup->kn->id;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG |
					       BPF_SOCK_OPS_RETRANS_CB_FLAG);
	return life;
}

static __always_inline void state_changed(struct bpf_sock_ops *ctx, struct bpf_sock *sk, struct life *life)
{
	/* While the socket is owned the process that closes it is inside a call on it. */
	struct sock *kernel_sk = kernel_socket(sk);
	if (kernel_sk && kernel_sk->sk_lock.owned && !life->owner.pid)
		process_now(kernel_sk, &life->owner);
	if (ctx->args[1] != BPF_TCP_CLOSE)
		return;
	if (!life->owner.pid)
		process_before(sk, &life->owner);
	__u64 now = bpf_ktime_get_ns();
	if (life->established_ns)
		tell(ctx, sk, life, TCP_KIND_CLOSED, ctx->args[0], now - life->established_ns, now);
	else
		tell(ctx, sk, life, TCP_KIND_FAILED, ctx->args[0], now - life->opened_ns, now);
}

SEC("sockops")
int alize_observe_tcp(struct bpf_sock_ops *ctx)
{
	__u32 operation = ctx->op;
	if (operation != BPF_SOCK_OPS_TCP_CONNECT_CB && operation != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    operation != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && operation != BPF_SOCK_OPS_STATE_CB &&
	    operation != BPF_SOCK_OPS_RETRANS_CB)
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct life *life;
	__u64 now;
	switch (operation) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		/* Runs in connect() of the process itself. */
		life = life_begins(ctx, sk, SIDE_CLIENT);
		if (!life)
			return 1;
		life->opened_ns = bpf_ktime_get_ns();
		process_now(kernel_socket(sk), &life->owner);
		return 1;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		life = life_begins(ctx, sk, SIDE_SERVER);
		if (!life)
			return 1;
		now = bpf_ktime_get_ns();
		life->established_ns = now;
		tell(ctx, sk, life, TCP_KIND_ACCEPTED, BPF_TCP_ESTABLISHED, 0, now);
		return 1;
	}
	life = bpf_sk_storage_get(&lives, sk, 0, 0);
	if (!life)
		return 1;
	switch (operation) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		now = bpf_ktime_get_ns();
		life->established_ns = now;
		tell(ctx, sk, life, TCP_KIND_CONNECTED, BPF_TCP_ESTABLISHED, now - life->opened_ns, now);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		tell(ctx, sk, life, TCP_KIND_RETRANSMIT, ctx->state, 0, bpf_ktime_get_ns());
		break;
	case BPF_SOCK_OPS_STATE_CB:
		state_changed(ctx, sk, life);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
