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

/* What is being sent is the first. It is counted already (net/ipv4/tcp_output.c). */
static __always_inline bool first_sent(const struct bpf_tcp_sock *tcp, const struct __sk_buff *skb)
{
	return tcp->data_segs_out == (skb->gso_segs ? skb->gso_segs : 1);
}

/*
 * What is being received is the first, and whoever sent it had heard nothing of us: what we have sent meanwhile is no
 * matter, both may speak at once. It is not counted yet (tcp_ipv4.c), and the SYN is one of what is acknowledged.
 */
static __always_inline bool first_received(const struct bpf_tcp_sock *tcp, const struct segment *segment)
{
	bool unheard = tcp->bytes_acked <= 1 && segment->acknowledged == tcp->snd_una;
	return !tcp->data_segs_in && (!tcp->data_segs_out || unheard);
}

/* Of the first bytes of a connection: were they ours to see? */
static __always_inline bool first_data(const struct bpf_tcp_sock *tcp, const struct __sk_buff *skb,
				       const struct segment *segment, bool egress)
{
	return egress ? first_sent(tcp, skb) && !tcp->data_segs_in : first_received(tcp, segment);
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

/*
 * The same where the first request went to the listener, as it overtook the end of the handshake: what the socket says
 * first is the answer, and where the request began is counted back to.
 */
static __always_inline bool client_overtook(const struct bpf_tcp_sock *tcp, const struct __sk_buff *skb,
					    struct conversation *conversation, const struct segment *segment)
{
	conversation->link = (__u64)(__u32)(tcp->rcv_nxt - tcp->bytes_received) << 32 | segment->sequence;
	return first_sent(tcp, skb) && client_observed(conversation);
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
static __always_inline void conversation_begin(struct __sk_buff *skb, struct bpf_sock *sk,
					       struct conversation *conversation, const struct segment *segment,
					       bool egress)
{
	conversation->service = ~0U;
	conversation->self.cgroup = bpf_skb_cgroup_id(skb);
	if (is_far(sk)) {
		conversation->state = STATE_OFF;
		return;
	}
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	if (tcp && egress && tcp->data_segs_in && client_overtook(tcp, skb, conversation, segment)) {
		conversation->role = ROLE_SERVER;
		conversation->state = STATE_PEER;
		return;
	}
	if (!tcp || !first_data(tcp, skb, segment, egress)) {
		conversation->state = STATE_JOINED;
		tally(TALLY_JOINED);
		return;
	}
	directions_begin(conversation, segment);
	if (server_begins(skb, conversation, segment, egress))
		return;
	ends_learn(skb, conversation, segment, true);
	conversation->role = egress ? ROLE_CLIENT : ROLE_SERVER;
	if (egress)
		dialled_learn(sk, conversation);
	if (!egress && client_observed(conversation))
		conversation->state = STATE_PEER;
}

/*
 * The conversation of a segment that may be its first. Where both sides speak at once, as those of HTTP/2 do, the other
 * one's first segment may be in the hands of another CPU: it is waited for. NULL: in vain, or there is no memory.
 */
static __always_inline struct conversation *conversation_open(struct __sk_buff *skb, struct bpf_sock *sk,
							      const struct segment *segment, bool egress)
{
	struct conversation *conversation = STORAGE_MADE(conversations, sk);
	if (!conversation) {
		tally(TALLY_NO_MEMORY);
		return 0;
	}
	if (!conversation_taken(conversation))
		return conversation->begun ? conversation : 0;
	conversation_begin(skb, sk, conversation, segment, egress);
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
		dialled_learn(sk, conversation);
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
	/* In a body nothing is lost with what comes late. */
	__u32 awaited = phase_skips(framing->phase) ? framing->next : segment->sequence;
	if (!egress && !turn_take(&framing->busy, &framing->next, awaited)) {
		conversation_lose(conversation, TALLY_RACED);
		return;
	}
	__u32 reason = 0;
	/* Its application may have closed the socket meanwhile. */
	if (conversation->state == STATE_FOLLOWED)
		reason = direction_follow(skb, conversation, framing, segment, request);
	if (!egress) {
		turn_give(&framing->busy);
		if (*(volatile __u8 *)&conversation->ending)
			conversation_finish(skb, conversation);
	}
	/* Even if it is lost already: the server's socket would only find the same. */
	if (first && egress)
		client_shows(conversation);
	/* A preface behind a request is none. */
	bool begins = reason == TALLY_HTTP2 && first && !conversation->requests;
	if (begins && client_begins(skb, conversation, segment, egress))
		return;
	if (reason)
		conversation_lose(conversation, reason);
}

/*
 * The server has taken the SYN. A request that was in it (TCP Fast Open, RFC 7413) is followed already; only now it is known
 * where the response begins, and by which numbers the server's socket knows the connection.
 */
static __always_inline void server_takes(struct __sk_buff *skb, struct conversation *conversation,
					 const struct segment *segment)
{
	struct bpf_sock *sk = skb->sk;
	/* Known from the beginning, as of most connections, or by now: the SYN may come again. */
	if (conversation->role != ROLE_CLIENT || (__u32)conversation->link)
		return;
	conversation->link |= segment->sequence;
	if (conversation->state == STATE_HTTP2) {
		struct http2 *http2 = sk ? bpf_sk_storage_get(&http2s, sk, 0, 0) : 0;
		if (http2)
			http2->response.next = segment->sequence;
	} else {
		conversation->response.next = segment->sequence;
	}
	client_shows(conversation);
}

static __always_inline void conversation_see(struct __sk_buff *skb, struct conversation *conversation,
					     struct segment *segment, bool egress)
{
	if (conversation->state == STATE_OFF)
		return;
	if (segment->flags & SEGMENT_SYN && !egress) {
		server_takes(skb, conversation, segment);
		return;
	}
	if (conversation->state == STATE_JOINED &&
	    (!segment->length || !conversation_rejoin(skb, conversation, segment, egress)))
		return;
	if (conversation->state == STATE_PEER) {
		if (egress && segment->length)
			peer_tell(skb, conversation);
		return;
	}
	if (egress && segment->length)
		identity_refresh(skb, conversation);
	if (conversation->state == STATE_HTTP2) {
		http2_follow(skb, conversation, segment, egress);
		return;
	}
	if (segment->length)
		conversation_follow(skb, conversation, segment, egress);
	if (segment->flags & (SEGMENT_FIN | SEGMENT_RST) && conversation->state == STATE_FOLLOWED)
		conversation_close(skb, conversation, segment, egress == (conversation->role == ROLE_CLIENT));
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
	/* A listener gets the data of a handshake that is not complete; its socket is not the connection's. */
	bool asked = segment.flags & SEGMENT_SYN && !egress;
	if (!conversation && (!segment.length || asked || sk->state == BPF_TCP_LISTEN))
		return PASS;
	bool begun = conversation && conversation->begun;
	if (!begun)
		conversation = conversation_open(skb, sk, &segment, egress);
	if (!conversation)
		return PASS;
	conversation_see(skb, conversation, &segment, egress);
	if (!begun)
		conversation_begun(conversation);
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
