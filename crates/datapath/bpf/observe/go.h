/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Go's crypto/tls. A goroutine runs on whatever thread there is and may change it between two instructions, so nothing is
 * kept by thread here, and no packet tells whose session it carries: the connection itself does, by the descriptor that it
 * has. Returns are not seen, since Go moves its stacks. Where the probes are, plaintext is on its way, under the lock of its
 * direction, and the registers are those of Go's calling convention.
 */
#ifndef OBSERVE_GO_H
#define OBSERVE_GO_H

#include "carrier.h"
#include "plain.h"
#include "registers.h"

enum {
	GO_WRAPPERS = 2, /* around the connection of TCP, that have it as their first field */
	GO_DESCRIPTOR = 16, /* Sysfd in net.netFD: behind the three counters of poll.fdMutex, since Go 1.9 */
};

/* What a probe meets. Copied first: a program may not compute where in its context it reads. */
struct go_call {
	__u64 cookie;
	__u64 ip;
	__u64 sp;
	__u64 arguments[4]; /* in Go's order: ax, bx, cx, di */
	struct tls_key key;
};

/* A net.Conn: the table of its methods, which tells of what type it is, and what it is. */
struct go_interface {
	__u64 table;
	__u64 data;
};

/* Handshakes that have begun, of connections whose socket could not be told yet. Of the programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TLS_BEGUN); /* budget */
	__type(key, struct tls_key);
	__type(value, __u32);
} tls_begun SEC(".maps");

static __always_inline void go_call_read(const volatile struct registers *registers, struct go_call *call)
{
	call->cookie = bpf_get_attach_cookie((void *)registers);
	call->ip = registers->ip;
	call->sp = registers->sp;
	call->arguments[0] = registers->ax;
	call->arguments[1] = registers->bx;
	call->arguments[2] = registers->cx;
	call->arguments[3] = registers->di;
	call->key = (struct tls_key){.session = call->arguments[0], .process = bpf_get_current_pid_tgid() >> 32};
	__u32 kept = (__u32)call->cookie >> TLS_COOKIE_STACK_SHIFT;
	if (kept && bpf_probe_read_user(&call->key.session, sizeof(__u64), (void *)(call->sp + kept)))
		call->key.session = 0;
}

/* The socket under a connection; NULL: it is not one of TCP, or cannot be told to be. */
static __always_inline struct sock___carrier *go_socket(const struct go_call *call)
{
	__u64 table = call->ip + ((__s64)call->cookie >> TLS_COOKIE_INTERFACE_SHIFT);
	struct go_interface inner = {.data = call->key.session};
	__u64 descriptor = 0;
	/* tls.Conn has its net.Conn as its first field, too. */
#pragma clang loop unroll(full)
	for (__u32 i = 0; i <= GO_WRAPPERS; i++) {
		if (bpf_probe_read_user(&inner, sizeof(inner), (void *)inner.data))
			return 0;
		if (inner.table == table)
			break;
	}
	/* net.TCPConn has but a pointer to its net.netFD. */
	if (inner.table != table || bpf_probe_read_user(&inner.data, sizeof(inner.data), (void *)inner.data) ||
	    bpf_probe_read_user(&descriptor, sizeof(descriptor), (void *)(inner.data + GO_DESCRIPTOR)))
		return 0;
	return descriptor_socket(descriptor);
}

/*
 * A session begins on this socket, or is joined. NULL: not yet, since the socket has sent nothing. Apart, as the next two are,
 * so that what it takes of the stack is free again when plaintext is followed: before Linux 6.13 all that call each other
 * have 512 bytes together.
 */
static __noinline struct tls_session *go_begin(struct tls_key *key, struct sock___carrier *sk, bool from_start)
{
	struct carrier carrier;
	if (!carrier_of_socket(sk, &carrier))
		return 0;
	struct tls_session *session = session_get(key, from_start);
	if (!session)
		return 0;
	bpf_map_update_elem(&tls_sockets, &carrier.socket, key, BPF_ANY);
	session_place(&carrier, session);
	return session;
}

/*
 * A client makes itself known before its first packet of TLS leaves, so that the server's end knows, whatever library it
 * has. A server has to wait: who asks may have sent nothing yet, and its own socket has no cookie.
 */
static __noinline void go_handshake(struct go_call *call, bool client)
{
	const __u32 begun = 1;
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, &call->key);
	struct sock___carrier *sk = go_socket(call);
	if (session) {
		/* A client may do another handshake on the way, if the server asks. */
		if (sk && session->socket == socket_cookie(sk))
			return;
		/* Another connection is where one was whose end went unseen. */
		plain_end(session);
		bpf_map_delete_elem(&tls_sessions, &call->key);
	}
	if (!sk) {
		tally(TALLY_TLS_UNPLACED);
		return;
	}
	if (!client || !go_begin(&call->key, sk, true))
		bpf_map_update_elem(&tls_begun, &call->key, &begun, BPF_ANY);
}

/* Plaintext is on its way. */
static __noinline struct tls_session *go_session(struct go_call *call)
{
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, &call->key);
	if (session)
		return session;
	struct sock___carrier *sk = go_socket(call);
	if (!sk)
		return 0;
	bool from_start = !bpf_map_delete_elem(&tls_begun, &call->key);
	return go_begin(&call->key, sk, from_start);
}

#endif
