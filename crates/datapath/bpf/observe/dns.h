/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * DNS messages (RFC 1035): the header and the one question. Strict: a question that is not whole, is compressed or has
 * labels of another kind is malformed, and nothing of it is shown.
 */
#ifndef OBSERVE_DNS_H
#define OBSERVE_DNS_H

#include "words.h"

enum {
	DNS_HEADER = 12,
	DNS_NAME = 255, /* longest name, as it is sent */
	DNS_BEGINNING = 272, /* bytes of a message up to the end of its question, in whole words */
	DNS_LOAD = 1024, /* a power of two, above twice of that */
	DNS_PORT = 53,
};

/* Where the payload is. */
struct dns_packet {
	__u32 at; /* offset in the packet */
	__u32 left; /* bytes from there on */
	__u32 sequence; /* of the first of them, over TCP */
	__u32 zero;
};

/* How far a direction of a connection has been read, see dns_stream.h. */
struct dns_stream {
	__u32 next; /* sequence number of the next byte */
	__u32 busy; /* see turn.h */
	__u32 skip; /* bytes up to the end of a message whose beginning was read */
	__u32 have; /* bytes of the beginning of the next, in `bytes` */
	__u32 size; /* of that message */
	__u32 digits; /* bytes of `size` that were read */
	__u8 bytes[DNS_BEGINNING];
};

struct dns_streams {
	struct dns_stream queries;
	struct dns_stream responses;
};

/* A message in hand, and what was read of it. */
struct dns_scratch {
	__u8 bytes[DNS_LOAD];
	struct dns_event event;
	struct dns_key key;
	struct dns_packet packet;
	struct dns_streams fresh; /* of a connection that was not seen before */
	__u32 size; /* bytes in hand */
	__u32 place; /* in `dns_scratches` */
	__u64 busy;
};

static __always_inline __u8 dns_byte(const struct dns_scratch *scratch, __u32 at)
{
	HIDE(at);
	return scratch->bytes[at & (DNS_LOAD - 1)];
}

static __always_inline __u16 dns_word(const struct dns_scratch *scratch, __u32 at)
{
	return dns_byte(scratch, at) << 8 | dns_byte(scratch, at + 1);
}

enum dns_name_state {
	DNS_NAME_ON = 0,
	DNS_NAME_WHOLE,
	DNS_NAME_BAD,
};

/* From labels to text, a byte a step. */
struct dns_name {
	struct dns_scratch *scratch;
	__u32 size; /* of the message, at most DNS_LOAD */
	__u32 left; /* of the label */
	__u32 out; /* bytes of text */
	__u32 state; /* enum dns_name_state */
	__u32 end; /* behind the name */
};

static __always_inline void dns_put(struct dns_name *name, __u8 byte)
{
	__u32 at = name->out++;
	HIDE(at);
	if (at < NAME_SIZE)
		name->scratch->event.name[at] = byte > 0x20 && byte < 0x7f ? byte : '?';
}

static long dns_name_step(__u32 i, void *context)
{
	struct dns_name *name = context;
	__u32 at = DNS_HEADER + i;
	if (at >= name->size || i >= DNS_NAME) {
		name->state = DNS_NAME_BAD;
		return 1;
	}
	__u8 byte = dns_byte(name->scratch, at);
	if (name->left) {
		name->left--;
		dns_put(name, byte);
		return 0;
	}
	if (byte > 63) {
		name->state = DNS_NAME_BAD;
		return 1;
	}
	if (!byte) {
		name->state = DNS_NAME_WHOLE;
		name->end = at + 1;
		return 1;
	}
	if (i)
		dns_put(name, '.');
	name->left = byte;
	return 0;
}

/*
 * Reads the message of `size` bytes into the event, whose other fields are left alone. False: malformed, or not the
 * kind of message that was asked for.
 */
__noinline int dns_read(struct dns_scratch *scratch, __u32 size, __u32 response)
{
	enum { RESPONSE = 0x80, OPCODE = 0x78, TRUNCATED = 0x02, CODE = 0x0f };
	if (!scratch || size < DNS_HEADER)
		return 0;
	if (size > DNS_LOAD)
		size = DNS_LOAD;
	__u8 flags = dns_byte(scratch, 2);
	if (!(flags & RESPONSE) != !response || flags & OPCODE || dns_word(scratch, 4) != 1)
		return 0;
	__builtin_memset(scratch->event.name, 0, NAME_SIZE);
	struct dns_name name = {.scratch = scratch, .size = size};
	bpf_loop(DNS_NAME + 1, dns_name_step, &name, 0);
	/* Type and class. */
	if (name.state != DNS_NAME_WHOLE || name.end + 4 > size)
		return 0;
	struct dns_event *event = &scratch->event;
	event->flags = 0;
	if (name.out > NAME_SIZE) {
		name.out = NAME_SIZE;
		event->flags |= DNS_FLAG_NAME_CUT;
	}
	event->name_length = name.out;
	event->query_type = dns_word(scratch, name.end);
	event->code = 0;
	event->answers = 0;
	if (response) {
		event->code = dns_byte(scratch, 3) & CODE;
		event->answers = dns_word(scratch, 6);
		if (flags & TRUNCATED)
			event->flags |= DNS_FLAG_TRUNCATED;
	}
	return 1;
}

#endif
