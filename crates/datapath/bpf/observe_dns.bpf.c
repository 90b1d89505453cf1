/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup_skb/egress, cgroup_skb/ingress: DNS queries of the cgroup's processes and their responses, over UDP and TCP.
 * Attached only while a trace asks for DNS, since it runs at every packet; it only looks.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "observe/choices.h"
#include "observe/dns_stream.h"
#include "observe/trace.h"

enum { PASS = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, FRAGMENT = 0x3fff, SCRATCHES = 4 };

/*
 * who asked whom with which id -> the query; and of connections whose responses could not be followed, when that was. Written by
 * the programs; the agent takes out what was never answered.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192); /* budget */
	__type(key, struct dns_key);
	__type(value, struct dns_event);
} dns_queries SEC(".maps");

/* nesting -> working buffer, as `windows`. Of the programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct dns_scratch);
} dns_scratches SEC(".maps");

/* client's socket -> how far its messages have been read. Of the programs alone; it goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct dns_streams);
} dns_streams SEC(".maps");

static __always_inline struct dns_scratch *scratch_take(void)
{
	for (__u32 i = 0; i < SCRATCHES; i++) {
		__u32 place = i;
		struct dns_scratch *scratch = bpf_map_lookup_elem(&dns_scratches, &place);
		if (!scratch)
			break;
		if (__sync_lock_test_and_set(&scratch->busy, 1))
			continue;
		scratch->place = i;
		return scratch;
	}
	tally(TALLY_EVENT_LOST);
	return 0;
}

/* Where the payload is; ports and addresses go into the key. False: no packet to (or from) a DNS server, or an empty one. */
static __always_inline bool packet_read(struct __sk_buff *skb, bool egress, struct dns_key *key,
					struct dns_packet *packet)
{
	const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	const struct iphdr *v4 = (const void *)data;
	__u32 header;
	__u8 protocol;
	if ((const void *)(v4 + 1) > (const void *)end)
		return false;
	bool v6 = v4->version == 6;
	if (!v6) {
		if (v4->frag_off & bpf_htons(FRAGMENT))
			return false;
		protocol = v4->protocol;
		header = v4->ihl * 4;
	} else {
		const struct ipv6hdr *six = (const void *)data;
		if ((const void *)(six + 1) > (const void *)end)
			return false;
		protocol = six->nexthdr;
		header = sizeof(*six);
	}
	if (protocol != PROTOCOL_UDP && protocol != PROTOCOL_TCP)
		return false;
	const __u8 *transport = data + header;
	if (transport + sizeof(struct udphdr) > end)
		return false;
	__be16 source = *(const __be16 *)transport, destination = *(const __be16 *)(transport + 2);
	if ((egress ? destination : source) != bpf_htons(DNS_PORT))
		return false;
	key->client_port = egress ? source : destination;
	key->server_port = bpf_htons(DNS_PORT);
	if (protocol == PROTOCOL_TCP) {
		const struct tcphdr *tcp = (const void *)transport;
		if ((const void *)(tcp + 1) > (const void *)end)
			return false;
		key->tcp = DNS_TRANSPORT_TCP;
		packet->sequence = bpf_ntohl(tcp->seq) + tcp->syn;
		packet->at = header + tcp->doff * 4;
	} else {
		packet->at = header + sizeof(struct udphdr);
	}
	__u32 length = skb->len;
	if (length <= packet->at)
		return false;
	packet->left = length - packet->at;
	__be32 *from = egress ? key->client_address : key->server_address;
	__be32 *to = egress ? key->server_address : key->client_address;
	if (v6) {
		bpf_skb_load_bytes(skb, 8, from, 16);
		bpf_skb_load_bytes(skb, 24, to, 16);
	} else {
		from[0] = from[1] = to[0] = to[1] = 0;
		from[2] = to[2] = bpf_htonl(0xffff);
		bpf_skb_load_bytes(skb, 12, &from[3], 4);
		bpf_skb_load_bytes(skb, 16, &to[3], 4);
	}
	return true;
}

/* Which filters want the query, as bits: all that can be said before there is a response. */
__noinline __u32 filters_matching_query(struct dns_event *event, __u64 now)
{
	if (!event)
		return 0;
	struct subject subject = {
		.type = EVENT_TYPE_DNS,
		.service = ~0U,
		.latency_ns = ~0ULL,
		.client = &event->client,
		.address = event->server_address,
		.port = event->server_port,
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

/* Those of them whose time was reached. */
__noinline __u32 filters_matching_latency(__u32 matched, __u64 latency)
{
	for (__u32 i = 0; i < FILTERS; i++) {
		__u32 place = i;
		struct filter *filter = bpf_map_lookup_elem(&filters, &place);
		if (!filter || latency < filter->latency_ns)
			matched &= ~(1U << i);
	}
	return matched;
}

static __always_inline bool same_question(const struct dns_event *a, const struct dns_event *b)
{
	__u64 differs = (a->query_type ^ b->query_type) | (a->name_length ^ b->name_length);
	for (__u32 i = 0; i < NAME_SIZE / 8; i++)
		differs |= ((const __u64 *)a->name)[i] ^ ((const __u64 *)b->name)[i];
	return !differs;
}

static __always_inline void query(struct __sk_buff *skb, struct dns_scratch *scratch)
{
	struct dns_event *event = &scratch->event;
	struct dns_event *before = bpf_map_lookup_elem(&dns_queries, &scratch->key);
	if (before && same_question(before, event)) {
		before->flags |= DNS_FLAG_REPEATED;
		return;
	}
	event->type = EVENT_TYPE_DNS;
	event->time_ns = bpf_ktime_get_ns();
	event->latency_ns = 0;
	event->client.cgroup = bpf_skb_cgroup_id(skb);
	event->client.pid = choices.may_ask_pid ? bpf_get_current_pid_tgid() >> 32 : 0;
	/* Of the socket's maker, where the hook may not ask for that of the process. */
	event->client.uid = choices.may_ask_comm ? bpf_get_current_uid_gid() : bpf_get_socket_uid(skb);
	event->client.comm[0] = 0;
	if (choices.may_ask_comm)
		bpf_get_current_comm(event->client.comm, sizeof(event->client.comm));
	__builtin_memcpy(event->client_address, scratch->key.client_address, sizeof(event->client_address));
	__builtin_memcpy(event->server_address, scratch->key.server_address, sizeof(event->server_address));
	event->client_port = scratch->key.client_port;
	event->server_port = scratch->key.server_port;
	event->zero = 0;
	event->zero2 = 0;
	if (scratch->key.tcp == DNS_TRANSPORT_TCP)
		event->flags |= DNS_FLAG_TCP;
	tally(TALLY_DNS_QUERY);
	event->matched = filters_matching_query(event, event->time_ns);
	if (event->matched)
		bpf_map_update_elem(&dns_queries, &scratch->key, event, BPF_ANY);
}

static __always_inline void response(struct dns_scratch *scratch)
{
	struct dns_event *event = &scratch->event;
	struct dns_event *asked = bpf_map_lookup_elem(&dns_queries, &scratch->key);
	if (!asked || !same_question(asked, event)) {
		tally(TALLY_DNS_UNMATCHED);
		return;
	}
	asked->latency_ns = bpf_ktime_get_ns() - asked->time_ns;
	asked->code = event->code;
	asked->answers = event->answers;
	asked->flags |= event->flags & DNS_FLAG_TRUNCATED;
	asked->matched = filters_matching_latency(asked->matched, asked->latency_ns);
	if (asked->matched)
		trace_write(asked, sizeof(*asked));
	bpf_map_delete_elem(&dns_queries, &scratch->key);
}

/* The message in hand. The scratch by its place: Linux 6.1 takes no key or value of a map from a pointer that it was given. */
__noinline int message(struct __sk_buff *skb, __u32 place, __u32 egress)
{
	struct dns_scratch *scratch = bpf_map_lookup_elem(&dns_scratches, &place);
	if (!scratch)
		return 0;
	__u32 size = scratch->size;
	scratch->key.id = dns_word(scratch, 0);
	if (!dns_read(scratch, size, !egress)) {
		tally(TALLY_DNS_MALFORMED);
		/* It may be what was waited for, so that nobody may say that nothing came. */
		if (!egress && size >= DNS_HEADER)
			bpf_map_delete_elem(&dns_queries, &scratch->key);
		return 0;
	}
	if (egress)
		query(skb, scratch);
	else
		response(scratch);
	return 1;
}

static __always_inline void datagram(struct __sk_buff *skb, struct dns_scratch *scratch, bool egress)
{
	__u32 size = scratch->packet.left;
	if (size > DNS_BEGINNING)
		size = DNS_BEGINNING;
	scratch->size = size;
	if (dns_load(skb, scratch, scratch->packet.at, 0, size))
		message(skb, scratch->place, egress);
	else
		tally(TALLY_DNS_MALFORMED);
}

/* Both directions begin behind SYN and SYN-ACK, however much was sent before we came. */
static __always_inline struct dns_streams *streams_of(struct bpf_sock *sk, struct dns_scratch *scratch)
{
	struct dns_streams *streams = bpf_sk_storage_get(&dns_streams, sk, 0, 0);
	if (streams)
		return streams;
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	if (!tcp)
		return 0;
	/* The client's SYN is one of what is acknowledged; what is received is counted without one (net/ipv4/tcp_input.c). */
	scratch->fresh.queries.next = tcp->snd_una - (__u32)tcp->bytes_acked + 1;
	scratch->fresh.responses.next = tcp->rcv_nxt - (__u32)tcp->bytes_received;
	streams = bpf_sk_storage_get(&dns_streams, sk, &scratch->fresh, BPF_SK_STORAGE_GET_F_CREATE);
	/* Another CPU may have made it meanwhile. */
	return streams ? streams : bpf_sk_storage_get(&dns_streams, sk, 0, 0);
}

static __always_inline bool segment_follow(struct __sk_buff *skb, struct dns_scratch *scratch,
					   struct dns_stream *stream, bool egress)
{
	if (!dns_stream_place(scratch, stream) && !dns_stream_rejoin(skb, scratch, stream, !egress))
		return false;
	for (__u32 i = 0; i < DNS_MESSAGES; i++) {
		if (!dns_stream_step(skb, scratch, stream))
			break;
		message(skb, scratch->place, egress);
	}
	return !scratch->packet.left;
}

static __always_inline bool segment(struct __sk_buff *skb, struct dns_scratch *scratch, bool egress)
{
	struct bpf_sock *sk = skb->sk;
	struct dns_streams *streams = sk ? streams_of(sk, scratch) : 0;
	if (!streams)
		return false;
	/* Sending holds the socket. */
	if (egress)
		return segment_follow(skb, scratch, &streams->queries, true);
	struct dns_stream *stream = &streams->responses;
	if (!turn_take(&stream->busy, &stream->next, scratch->packet.sequence))
		return false;
	bool followed = segment_follow(skb, scratch, stream, false);
	turn_give(&stream->busy);
	return followed;
}

/* What was asked on the connection until now may be answered by what could not be read. */
static __always_inline void unfollowed(struct dns_scratch *scratch, bool egress)
{
	tally(TALLY_DNS_UNFOLLOWED);
	if (egress)
		return;
	scratch->key.id = 0;
	scratch->key.tcp = DNS_TRANSPORT_UNFOLLOWED;
	__builtin_memset(&scratch->event, 0, sizeof(scratch->event));
	scratch->event.time_ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&dns_queries, &scratch->key, &scratch->event, BPF_ANY);
}

static __always_inline int look(struct __sk_buff *skb, bool egress)
{
	struct dns_key key = {};
	struct dns_packet packet = {};
	if (!packet_read(skb, egress, &key, &packet) || !trace_active())
		return PASS;
	struct dns_scratch *scratch = scratch_take();
	if (!scratch)
		return PASS;
	scratch->key = key;
	scratch->packet = packet;
	if (key.tcp == DNS_TRANSPORT_UDP)
		datagram(skb, scratch, egress);
	else if (!segment(skb, scratch, egress))
		unfollowed(scratch, egress);
	/* Who asks next is on this CPU, so a plain store will do. */
	*(volatile __u64 *)&scratch->busy = 0;
	return PASS;
}

SEC("cgroup_skb/egress")
int alize_observe_dns_egress(struct __sk_buff *skb)
{
	return look(skb, true);
}

SEC("cgroup_skb/ingress")
int alize_observe_dns_ingress(struct __sk_buff *skb)
{
	return look(skb, false);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
