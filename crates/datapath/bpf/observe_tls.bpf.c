/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * uprobes in libraries of TLS, cgroup_skb/egress and cgroup/sock_release: HTTP within TLS, for the services that ask for it. The probes read the
 * memory of the process that calls and never write there. Where its functions keep what, user space has found out
 * (src/observe/tls/site.rs) and put into the cookie of each probe.
 *
 * A library's session has no socket; libraries are given sockets in many ways. It is the packet that tells: what a
 * thread sends while it is in the library, and begins as a record of TLS does, is that session's. Until a socket is
 * known, and is of a service that asks for it, nothing of the session is looked at.
 */
#include "observe/registers.h"
#include "observe/go.h"

enum { PASS = 1 };

/* By number, as enum tls_cookie has it. Copied first: a program may not compute where in its context it reads. */
struct arguments {
	__u64 numbered[8];
};

static __always_inline void arguments_read(const struct registers *registers, struct arguments *arguments)
{
	__builtin_memset(arguments, 0, sizeof(*arguments));
	arguments->numbered[1] = registers->di;
	arguments->numbered[2] = registers->si;
	arguments->numbered[3] = registers->dx;
	arguments->numbered[4] = registers->cx;
	arguments->numbered[5] = registers->r8;
	arguments->numbered[6] = registers->r9;
}

static __always_inline __u64 argument(const struct arguments *arguments, __u32 number)
{
	number &= 7;
	HIDE(number);
	return number < 8 ? arguments->numbered[number] : 0;
}

static __always_inline __u32 part(__u64 cookie, __u32 shift)
{
	return cookie >> shift & 0xff;
}

static __always_inline struct tls_key key_of(const struct registers *registers)
{
	return (struct tls_key){.session = registers->di, .process = bpf_get_current_pid_tgid() >> 32};
}

/* Whether what the call moves, or what is sent meanwhile, matters. A session may be used again, for another connection. */
static __always_inline bool session_asks(const struct tls_session *session, __u32 function)
{
	__u8 state = session->conversation.state;
	return function == TLS_FUNCTION_HANDSHAKE || (state != STATE_OFF && state != STATE_PEER);
}

SEC("uprobe.multi")
int alize_tls_enter(struct registers *registers)
{
	if (!meshed())
		return 0;
	__u64 cookie = bpf_get_attach_cookie(registers), thread = bpf_get_current_pid_tgid();
	__u32 type = part(cookie, TLS_COOKIE_TYPE_SHIFT), function = part(cookie, TLS_COOKIE_FUNCTION_SHIFT);
	struct arguments arguments;
	arguments_read(registers, &arguments);
	if (type && (__u32)argument(&arguments, type) != TLS_APPLICATION_DATA)
		return 0;
	struct tls_call call = {
		.key = key_of(registers),
		.data = argument(&arguments, part(cookie, TLS_COOKIE_DATA_SHIFT)),
		.count = argument(&arguments, part(cookie, TLS_COOKIE_COUNT_SHIFT)),
		.entered_ns = bpf_ktime_get_ns(),
		.function = function,
	};
	struct tls_call *outer = bpf_map_lookup_elem(&tls_calls, &thread);
	/* Reading and writing may do a handshake on the way. */
	if (function == TLS_FUNCTION_HANDSHAKE && outer && outer->function && outer->key.session == call.key.session)
		return 0;
	struct tls_session *session = session_get(&call.key, function == TLS_FUNCTION_HANDSHAKE);
	if (!session || !session_asks(session, function))
		call.function = 0;
	/* In place, since making an entry costs as much as all else here. */
	if (outer)
		*outer = call;
	else if (call.function)
		bpf_map_update_elem(&tls_calls, &thread, &call, BPF_ANY);
	return 0;
}

/* How many bytes the call has moved. */
static __always_inline __u32 moved(const struct tls_call *call, const struct registers *registers)
{
	__s32 returned = registers->ax;
	__u64 count = 0;
	if (returned <= 0)
		return 0;
	if (!call->count)
		return returned;
	bpf_probe_read_user(&count, sizeof(count), (void *)call->count);
	return count;
}

SEC("uretprobe.multi")
int alize_tls_leave(struct registers *registers)
{
	__u64 cookie = bpf_get_attach_cookie(registers), thread = bpf_get_current_pid_tgid();
	__u32 function = part(cookie, TLS_COOKIE_FUNCTION_SHIFT);
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &thread);
	if (!call || call->function != function)
		return 0;
	call->function = 0;
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, &call->key);
	if (!session)
		return 0;
	__u32 length = function == TLS_FUNCTION_HANDSHAKE ? 0 : moved(call, registers);
	bool sent = function == TLS_FUNCTION_WRITE;
	call->left = !session->socket;
	call->count = sent ? length : 0;
	if (!length)
		return 0;
	plain_follow(session, call->data, length, sent, sent ? call->entered_ns : bpf_ktime_get_ns());
	return 0;
}

SEC("uprobe.multi")
int alize_tls_go(struct registers *registers)
{
	if (!meshed())
		return 0;
	struct go_call call;
	go_call_read(registers, &call);
	__u32 function = part(call.cookie, TLS_COOKIE_FUNCTION_SHIFT);
	bool sent = function == TLS_FUNCTION_GO_WRITE;
	if (function == TLS_FUNCTION_GO_CONNECT || function == TLS_FUNCTION_GO_ACCEPT) {
		go_handshake(&call, function == TLS_FUNCTION_GO_CONNECT);
		return 0;
	}
	if (sent && (__u8)call.arguments[1] != TLS_APPLICATION_DATA)
		return 0;
	struct tls_session *session = go_session(&call);
	if (!session || !session_asks(session, function))
		return 0;
	/* memmove(to, from, length), and writeRecordLocked(connection, type, data, length, capacity). */
	__u64 data = sent ? call.arguments[2] : call.arguments[1];
	__u32 length = sent ? call.arguments[3] : call.arguments[2];
	plain_follow(session, data, length, sent, bpf_ktime_get_ns());
	return 0;
}

SEC("uprobe.multi")
int alize_tls_free(struct registers *registers)
{
	if (!meshed())
		return 0;
	struct tls_key key = key_of(registers);
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, &key);
	if (!session)
		return 0;
	plain_end(session);
	__u64 socket = session->socket;
	bpf_map_delete_elem(&tls_sockets, &socket);
	bpf_map_delete_elem(&tls_sessions, &key);
	return 0;
}

enum {
	TLS_FIRST_TYPE = 20,
	TLS_HANDSHAKE = 22,
	TLS_MAJOR = 3,
	TLS_HEAD = 5,
	TLS_LEAST_TAG = 16, /* what the ciphers of TLS 1.2 and 1.3 add to a record */
	TLS_MOST_TAG = 24,
};

/* The packet begins as a record does. */
static __always_inline bool record_begins(struct __sk_buff *skb, __u8 *head)
{
	struct segment segment;
	return segment_read(skb, &segment) && segment.length >= TLS_HEAD &&
	       !bpf_skb_load_bytes(skb, segment.payload, head, TLS_HEAD) && head[0] >= TLS_FIRST_TYPE &&
	       head[0] <= TLS_APPLICATION_DATA && head[1] == TLS_MAJOR;
}

/*
 * A library that has no socket gives its records back, and the process sends them by itself (Node, asyncio). Of the thread's
 * next packets it is the one that begins a handshake where nothing was sent before, or has a record as long as what was written
 * last makes, on a socket that no other session has.
 */
static __always_inline bool record_fits(struct __sk_buff *skb, struct bpf_sock *sk, const struct tls_call *call,
					const __u8 *head)
{
	__u64 socket = bpf_get_socket_cookie(skb);
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	if (!tcp || bpf_map_lookup_elem(&tls_sockets, &socket))
		return false;
	if (head[0] == TLS_HANDSHAKE)
		return tcp->data_segs_out == (skb->gso_segs ? skb->gso_segs : 1);
	__u32 more = (head[3] << 8 | head[4]) - (__u32)call->count;
	return call->count && head[0] == TLS_APPLICATION_DATA && more >= TLS_LEAST_TAG && more <= TLS_MOST_TAG;
}

/* Another connection, or one whose handshake a call does on its way. */
static __always_inline void session_begin(struct conversation *conversation, bool from_start)
{
	conversation_rewind(conversation);
	conversation->linked = 0;
	conversation->probation = 0;
	conversation->beginning = 0;
	conversation->begun = 0;
	conversation->state = from_start ? STATE_FOLLOWED : STATE_JOINED;
}

SEC("cgroup_skb/egress")
int alize_tls_egress(struct __sk_buff *skb)
{
	__u64 thread = bpf_get_current_pid_tgid(), socket = bpf_get_socket_cookie(skb);
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &thread);
	struct bpf_sock *sk = skb->sk;
	if (!call || (!call->function && !call->left) || !sk || !sends_itself(skb))
		return PASS;
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, &call->key);
	__u8 head[TLS_HEAD];
	if (!session || session->socket == socket || !record_begins(skb, head))
		return PASS;
	if (!call->function && (session->socket || !record_fits(skb, sk, call, head)))
		return PASS;
	if (session->socket || head[0] == TLS_HANDSHAKE)
		session_begin(&session->conversation, head[0] == TLS_HANDSHAKE);
	call->left = 0;
	struct carrier carrier;
	if (!carrier_of_packet(skb, sk, &carrier))
		return PASS;
	bpf_map_update_elem(&tls_sockets, &socket, &call->key, BPF_ANY);
	session_place(&carrier, session);
	return PASS;
}

/* An application closes a socket, or ends. A library that is told so in time has ended its session already. */
SEC("cgroup/sock_release")
int alize_tls_release(struct bpf_sock *sk)
{
	__u64 socket = bpf_get_socket_cookie(sk);
	struct tls_key *key = bpf_map_lookup_elem(&tls_sockets, &socket);
	if (!key)
		return PASS;
	struct tls_key copy = *key;
	struct tls_session *session = bpf_map_lookup_elem(&tls_sessions, &copy);
	bpf_map_delete_elem(&tls_sockets, &socket);
	/* The library's session may have been given another connection since. */
	if (session && session->socket == socket) {
		plain_end(session);
		bpf_map_delete_elem(&tls_sessions, &copy);
	}
	return PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
