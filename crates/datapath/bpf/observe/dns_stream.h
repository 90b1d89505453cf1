/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * DNS over TCP (RFC 1035, 4.2.2): messages one behind the other, each with its length before it, cut into segments as it
 * comes. What a message begins with is kept until the question is whole; the rest is only counted.
 */
#ifndef OBSERVE_DNS_STREAM_H
#define OBSERVE_DNS_STREAM_H

#include "dns.h"
#include "turn.h"

enum {
	DNS_MESSAGES = 64, /* in one segment */
};

/* Copies bytes of the packet behind those that are in hand. */
static __always_inline bool dns_load(struct __sk_buff *skb, struct dns_scratch *scratch, __u32 at, __u32 have,
				     __u32 count)
{
	/* One less than it, so that Linux 6.1 sees it is not 0, as in window_load() of follow.h. */
	__u32 last = count - 1;
	HIDE(last);
	HIDE(have);
	if (last > DNS_BEGINNING - 1 || have > DNS_BEGINNING)
		return false;
	HIDE(last);
	return !bpf_skb_load_bytes(skb, at, scratch->bytes + have, last + 1);
}

/* Bytes of the segment that are done with. */
static __always_inline void dns_stream_pass(struct dns_scratch *scratch, struct dns_stream *stream, __u32 count)
{
	scratch->packet.at += count;
	scratch->packet.left -= count;
	stream->next += count;
}

/* Passes over what came before. False: bytes before the segment were missed. */
static __always_inline bool dns_stream_place(struct dns_scratch *scratch, const struct dns_stream *stream)
{
	__s32 again = stream->next - scratch->packet.sequence;
	if (again < 0)
		return false;
	__u32 count = again;
	if (count > scratch->packet.left)
		count = scratch->packet.left;
	scratch->packet.at += count;
	scratch->packet.left -= count;
	return true;
}

/* Goes on at a segment that is one message, whole and well formed; it does not pass for one by chance. */
static __always_inline bool dns_stream_rejoin(struct __sk_buff *skb, struct dns_scratch *scratch,
					      struct dns_stream *stream, __u32 response)
{
	__u8 length[2];
	__u32 at = scratch->packet.at, left = scratch->packet.left;
	if (left <= sizeof(length) || bpf_skb_load_bytes(skb, at, length, sizeof(length)))
		return false;
	__u32 size = length[0] << 8 | length[1];
	if (size != left - 2)
		return false;
	if (size > DNS_BEGINNING)
		size = DNS_BEGINNING;
	if (!dns_load(skb, scratch, at + 2, 0, size) || !dns_read(scratch, size, response))
		return false;
	stream->next = scratch->packet.sequence;
	stream->skip = 0;
	stream->have = 0;
	stream->size = 0;
	stream->digits = 0;
	return true;
}

/* Reads the message's length, as far as it is there. */
static __always_inline bool dns_stream_length(struct __sk_buff *skb, struct dns_scratch *scratch,
					      struct dns_stream *stream)
{
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < 2; i++) {
		__u8 byte = 0;
		if (stream->digits >= 2)
			break;
		if (!scratch->packet.left || bpf_skb_load_bytes(skb, scratch->packet.at, &byte, 1))
			return false;
		dns_stream_pass(scratch, stream, 1);
		stream->size = stream->size << 8 | byte;
		stream->digits++;
	}
	return true;
}

/*
 * Reads up to the next message whose beginning is whole and then is in hand: the bytes of it, or 0 where there is none.
 * True: there was one, maybe an empty one.
 */
__noinline int dns_stream_step(struct __sk_buff *skb, struct dns_scratch *scratch, struct dns_stream *stream)
{
	if (!scratch || !stream)
		return 0;
	__u32 skip = stream->skip;
	if (skip > scratch->packet.left)
		skip = scratch->packet.left;
	stream->skip -= skip;
	dns_stream_pass(scratch, stream, skip);
	if (stream->skip || !dns_stream_length(skb, scratch, stream))
		return 0;
	__u32 size = stream->size, have = stream->have;
	__u32 wanted = size < DNS_BEGINNING ? size : DNS_BEGINNING;
	__u32 count = wanted - have;
	if (count > scratch->packet.left)
		count = scratch->packet.left;
	if (have)
		__builtin_memcpy(scratch->bytes, stream->bytes, DNS_BEGINNING);
	if (count && !dns_load(skb, scratch, scratch->packet.at, have, count))
		return 0;
	dns_stream_pass(scratch, stream, count);
	have += count;
	if (have < wanted) {
		__builtin_memcpy(stream->bytes, scratch->bytes, DNS_BEGINNING);
		stream->have = have;
		return 0;
	}
	scratch->size = wanted;
	stream->skip = size - wanted;
	stream->have = 0;
	stream->size = 0;
	stream->digits = 0;
	return 1;
}

#endif
