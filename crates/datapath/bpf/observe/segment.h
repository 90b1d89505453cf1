/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A TCP segment as a cgroup_skb program sees it: the packet begins with the IP header. */
#ifndef OBSERVE_SEGMENT_H
#define OBSERVE_SEGMENT_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include "window.h"

enum segment_flags {
	SEGMENT_FIN = 1,
	SEGMENT_SYN = 2,
	SEGMENT_RST = 4,
};

enum {
	SEGMENT_TCP = 6,
	SEGMENT_FRAGMENT = 0x3fff, /* more fragments, or an offset */
};

/* False: no TCP, or nothing that concerns a stream in it. Bare acknowledgements, half of all packets, end here. */
static __always_inline bool segment_read(const struct __sk_buff *skb, struct segment *segment)
{
	const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	const struct iphdr *v4 = (const void *)data;
	__u32 header;
	if ((const void *)(v4 + 1) > (const void *)end)
		return false;
	segment->v6 = v4->version == 6;
	if (!segment->v6) {
		if (v4->protocol != SEGMENT_TCP || v4->frag_off & bpf_htons(SEGMENT_FRAGMENT))
			return false;
		header = v4->ihl * 4;
	} else {
		const struct ipv6hdr *v6 = (const void *)data;
		if ((const void *)(v6 + 1) > (const void *)end || v6->nexthdr != SEGMENT_TCP)
			return false;
		header = sizeof(*v6);
	}
	const __u8 *tcp = data + header;
	if (tcp + sizeof(struct tcphdr) > end)
		return false;
	const struct tcphdr *fields = (const void *)tcp;
	/* skb->len and not the header's length, which is 0 in packets above 64 KiB. */
	__u32 length = skb->len;
	segment->payload = header + fields->doff * 4;
	segment->length = length > segment->payload ? length - segment->payload : 0;
	segment->flags = tcp[13];
	/* A SYN takes a number of its own, before that of data in it (TCP Fast Open). */
	segment->sequence = bpf_ntohl(fields->seq) + (segment->flags & SEGMENT_SYN ? 1 : 0);
	segment->acknowledged = bpf_ntohl(fields->ack_seq);
	return segment->length || segment->flags & (SEGMENT_FIN | SEGMENT_RST | SEGMENT_SYN);
}

/* Who sent the packet, or whom it is for. */
static __always_inline void segment_end(struct __sk_buff *skb, const struct segment *segment, bool source,
					__be32 *address, __be16 *port)
{
	__u32 header = segment->payload;
	if (segment->v6) {
		bpf_skb_load_bytes(skb, source ? 8 : 24, address, 16);
		header = sizeof(struct ipv6hdr);
	} else {
		__u8 first = 0;
		address[0] = 0;
		address[1] = 0;
		address[2] = bpf_htonl(0xffff);
		bpf_skb_load_bytes(skb, source ? 12 : 16, &address[3], 4);
		bpf_skb_load_bytes(skb, 0, &first, 1);
		header = (first & 15) * 4;
	}
	bpf_skb_load_bytes(skb, header + (source ? 0 : 2), port, 2);
}

#endif
