/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup_skb/egress, cgroup_skb/ingress: HTTP/1 and HTTP/2 seen in passing. The programs read packets and never change, drop or
 * delay one: the only value they return is "let it pass".
 *
 * Each message is read once a host, at the client's socket, where both requests and responses come by; the socket of
 * a server is read only when its client's is not observed. See identity.h for how two sockets know each other.
 */
#include "observe/follow.h"
#include "observe/http2.h"
#include "observe/routed.h"

enum { PASS = 1 };

/* Of the first bytes of a connection: were they ours to see? */
static __always_inline bool first_data(struct bpf_sock *sk, const struct __sk_buff *skb, bool egress)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	if (!tcp)
		return false;
	/* What is being sent is counted already, what is being received is not yet (net/ipv4/tcp_output.c, tcp_ipv4.c). */
	__u32 segments = egress ? (skb->gso_segs ? skb->gso_segs : 1) : 0;
	return tcp->data_segs_out == segments && !tcp->data_segs_in;
}

static __always_inline void directions_begin(struct conversation *conversation, const struct segment *segment)
{
	conversation_rewind(conversation);
	conversation->request.next = segment->sequence;
	conversation->response.next = segment->acknowledged;
	conversation->link = link_key(segment);
	conversation->linked = 0;
}

/* Who talks to whom: the packet says it. */
static __always_inline void ends_learn(struct __sk_buff *skb, struct conversation *conversation,
				       const struct segment *segment, bool request)
{
	struct ends *ends = &conversation->ends;
	segment_end(skb, segment, request, ends->client_address, &ends->client_port);
	segment_end(skb, segment, !request, ends->server_address, &ends->server_port);
}

/* The side that is not the client: whether its client's socket is observed. */
static __always_inline bool client_observed(struct conversation *conversation)
{
	__u64 key = conversation->link;
	return bpf_map_lookup_elem(&links, &key) != 0;
}

/* Makes the first request's segment known to the server's socket, which sees it next. */
static __always_inline void client_shows(struct conversation *conversation)
{
	static const struct identity nobody;
	__u64 key = conversation->link;
	bpf_map_update_elem(&links, &key, &nobody, BPF_ANY);
}

/* Both directions of a connection that turned out to be HTTP/2; `segment` is the client's. */
static __always_inline struct http2 *http2_turn(struct __sk_buff *skb, struct conversation *conversation,
						__u32 request_next, __u32 response_next)
{
	struct http2 *http2 = http2_begin(skb, conversation);
	if (http2) {
		http2->request.next = request_next;
		http2->response.next = response_next;
	}
	return http2;
}

/* A server that speaks first, and its SETTINGS are what it says. */
static __always_inline bool server_begins(struct __sk_buff *skb, struct conversation *conversation,
					  const struct segment *segment, bool egress)
{
	__u8 head[FRAME_HEAD];
	if (bpf_skb_load_bytes(skb, segment->payload, head, sizeof(head)) || !settings_first(head))
		return false;
	ends_learn(skb, conversation, segment, false);
	conversation->role = egress ? ROLE_SERVER : ROLE_CLIENT;
	struct http2 *http2 = http2_turn(skb, conversation, segment->acknowledged, segment->sequence);
	if (!http2)
		return true;
	http2->request.preface = PREFACE_SIZE;
	tally(TALLY_HTTP2_FOLLOWED);
	return true;
}

/* The client's preface, whose first bytes may have come before. */
static __always_inline bool client_begins(struct __sk_buff *skb, struct conversation *conversation,
					  struct segment *segment, bool egress)
{
	struct http2 *http2 = http2_turn(skb, conversation, segment->sequence, segment->acknowledged);
	if (!http2)
		return false;
	__u32 come = segment->sequence - (__u32)(conversation->link >> 32);
	http2->request.preface = come < PREFACE_SIZE ? PREFACE_SIZE - come : 0;
	http2->started = 1;
	tally(TALLY_HTTP2_FOLLOWED);
	http2_follow(skb, conversation, segment, egress);
	return true;
}

/* A request's HEADERS on a connection that was there before. */
static __always_inline bool http2_rejoin(struct __sk_buff *skb, struct conversation *conversation,
					 const struct segment *segment, bool egress)
{
	__u8 bytes[16] = {};
	/* The head of a request whose fields were all sent before is shorter than that. */
	__u32 last = segment->length < sizeof(bytes) ? segment->length - 1 : sizeof(bytes) - 1;
	HIDE(last);
	if (last > sizeof(bytes) - 1)
		return false;
	HIDE(last);
	if (bpf_skb_load_bytes(skb, segment->payload, bytes, last + 1) || !request_first(bytes))
		return false;
	directions_begin(conversation, segment);
	ends_learn(skb, conversation, segment, true);
	conversation->role = egress ? ROLE_CLIENT : ROLE_SERVER;
	if (!egress && client_observed(conversation)) {
		conversation->state = STATE_PEER;
		return false;
	}
	struct http2 *http2 = http2_turn(skb, conversation, segment->sequence, segment->acknowledged);
	if (!http2)
		return false;
	http2->late = 1;
	http2->response.lost = 1;
	tally(TALLY_HTTP2_JOINED);
	return true;
}

/* A connection's first segment with data that we see. */
static __always_inline struct conversation *conversation_begin(struct __sk_buff *skb, struct bpf_sock *sk,
							       const struct segment *segment, bool egress)
{
	struct conversation *conversation = bpf_sk_storage_get(&conversations, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conversation) {
		tally(TALLY_NO_MEMORY);
		return 0;
	}
	conversation->service = ~0U;
	conversation->self.cgroup = bpf_skb_cgroup_id(skb);
	if (is_far(sk)) {
		conversation->state = STATE_OFF;
		return conversation;
	}
	if (!first_data(sk, skb, egress)) {
		conversation->state = STATE_JOINED;
		tally(TALLY_JOINED);
		return conversation;
	}
	directions_begin(conversation, segment);
	if (server_begins(skb, conversation, segment, egress))
		return conversation;
	ends_learn(skb, conversation, segment, true);
	conversation->role = egress ? ROLE_CLIENT : ROLE_SERVER;
	if (egress)
		proxied_learn(sk, conversation);
	if (!egress && client_observed(conversation))
		conversation->state = STATE_PEER;
	return conversation;
}

/* Whether a request may begin here, on a connection that is not being followed. */
static __always_inline bool conversation_rejoin(struct __sk_buff *skb, struct conversation *conversation,
						const struct segment *segment, bool egress)
{
	__u8 role = egress ? ROLE_CLIENT : ROLE_SERVER;
	if (conversation->role != ROLE_UNKNOWN && conversation->role != role)
		return false;
	__u64 word = 0;
	__u8 method;
	if (bpf_skb_load_bytes(skb, segment->payload, &word, sizeof(word)))
		return false;
	if (!known_method(word, &method))
		return http2_rejoin(skb, conversation, segment, egress);
	directions_begin(conversation, segment);
	ends_learn(skb, conversation, segment, true);
	conversation->probation = 1;
	conversation->state = STATE_FOLLOWED;
	struct bpf_sock *sk = skb->sk;
	if (egress && sk)
		proxied_learn(sk, conversation);
	if (!egress && client_observed(conversation))
		conversation->state = STATE_PEER;
	/* The role is certain only when the exchange has proved it; a failure goes back to any. */
	conversation->role = role;
	return conversation->state == STATE_FOLLOWED;
}

/* The server's socket of an observed client: says whose process it is. */
static __always_inline void peer_tell(struct __sk_buff *skb, struct conversation *conversation)
{
	if (!identity_refresh(skb, conversation) && conversation->linked)
		return;
	__u64 key = conversation->link;
	bpf_map_update_elem(&links, &key, &conversation->self, BPF_ANY);
	conversation->linked = 1;
}

static __always_inline void conversation_follow(struct __sk_buff *skb, struct conversation *conversation,
						struct segment *segment, bool egress)
{
	bool request = egress == (conversation->role == ROLE_CLIENT);
	struct framing *framing = request ? &conversation->request : &conversation->response;
	bool first = request && !conversation->requests;
	/* Sending holds the socket; what is received may be looked at by two CPUs at once. */
	if (!egress && __sync_lock_test_and_set(&framing->busy, 1)) {
		conversation_lose(conversation, TALLY_RACED);
		return;
	}
	__u32 reason = 0;
	/* Its application may have closed the socket meanwhile. */
	if (conversation->state == STATE_FOLLOWED)
		reason = direction_follow(skb, conversation, framing, segment, request);
	if (!egress) {
		__sync_lock_test_and_set(&framing->busy, 0);
		if (*(volatile __u8 *)&conversation->ending)
			conversation_finish(skb, conversation);
	}
	/* Even if it is lost already: the server's socket would only find the same. */
	if (first && egress)
		client_shows(conversation);
	if (reason == TALLY_HTTP2 && first && client_begins(skb, conversation, segment, egress))
		return;
	if (reason)
		conversation_lose(conversation, reason);
}

static __always_inline int observe(struct __sk_buff *skb, bool egress)
{
	struct segment segment;
	if (!segment_read(skb, &segment))
		return PASS;
	struct bpf_sock *sk = skb->sk;
	if (!sk)
		return PASS;
	struct conversation *conversation = bpf_sk_storage_get(&conversations, sk, 0, 0);
	if (!conversation) {
		/* A listener gets the data of a handshake that is not complete; its socket is not the connection's. */
		if (!segment.length || segment.flags & SEGMENT_SYN || sk->state == BPF_TCP_LISTEN)
			return PASS;
		conversation = conversation_begin(skb, sk, &segment, egress);
		if (!conversation)
			return PASS;
	}
	if (conversation->state == STATE_OFF)
		return PASS;
	if (conversation->state == STATE_JOINED &&
	    (!segment.length || !conversation_rejoin(skb, conversation, &segment, egress)))
		return PASS;
	if (conversation->state == STATE_PEER) {
		if (egress && segment.length)
			peer_tell(skb, conversation);
		return PASS;
	}
	if (egress && segment.length)
		identity_refresh(skb, conversation);
	if (conversation->state == STATE_HTTP2) {
		http2_follow(skb, conversation, &segment, egress);
		return PASS;
	}
	if (segment.length)
		conversation_follow(skb, conversation, &segment, egress);
	if (segment.flags & (SEGMENT_FIN | SEGMENT_RST) && conversation->state == STATE_FOLLOWED)
		conversation_close(skb, conversation, &segment, egress == (conversation->role == ROLE_CLIENT));
	return PASS;
}

SEC("cgroup_skb/egress")
int alize_observe_egress(struct __sk_buff *skb)
{
	return observe(skb, true);
}

SEC("cgroup_skb/ingress")
int alize_observe_ingress(struct __sk_buff *skb)
{
	return observe(skb, false);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
