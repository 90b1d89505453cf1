/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Heads of requests and responses, strictly: only what every HTTP/1.1 server reads alike is taken, nothing is repaired and
 * nothing is normalised. A refusal costs speed only: the proxy reads the message then. RFC 9112, and docs/adr/0007 for
 * what is left out of it.
 *
 * Functions with a loop are global (not inlined), so that the verifier walks each loop once.
 */
#ifndef HTTP_HEAD_H
#define HTTP_HEAD_H

#include "headers.h"
#include "window.h"

enum {
	HEAD_FIELDS = 96, /* field lines that are read */
	HEAD_NAME = 64, /* bytes of a field's name */
	HEAD_TARGET_WORDS = 112, /* words of a target: longer ones cost the verifier more than they are worth */
	HEAD_HOST = 64, /* bytes of Host that are a name */
	HEAD_ADDRESS = 42, /* or an IPv6 address */
	HEAD_PORT = 6, /* of its port, with the colon */
	HEAD_NOWHERE = 0xffff, /* what was looked for is not there, or something is that must not */
};

enum head_flags {
	HEAD_HAS_HOST = 1,
	HEAD_HAS_LENGTH = 2,
	HEAD_ODD_PATH = 4, /* see HTTP_REASON_ODD_PATH */
};

struct head {
	__u32 length; /* with the empty line */
	__u32 flags; /* enum head_flags */
	__u64 found; /* what headers_meet() found in the fields */
	__u32 body; /* Content-Length, at most HTTP_MESSAGE_SIZE of a request, 0xffffffff of a response */
	__u16 path; /* where it begins */
	__u16 path_length; /* without the query */
	__u16 target_length; /* with it */
	__u16 host; /* where its value begins, and ends */
	__u16 host_end;
	__u16 status; /* of a response */
	__u8 method; /* enum http_method */
	__u8 zero[3];
};

/* The high bit of each byte that equals `byte`; all bytes must be below 0x80. */
static __always_inline __u64 exact_bytes(__u64 word, __u8 byte)
{
	return ~((word ^ BYTES(byte)) + BYTES(0x7f)) & HIGH_BITS;
}

/* The high bit of each byte below `from` (of 1 to 0x7f), of DEL, and of what is not ASCII. */
static __always_inline __u64 bytes_outside(__u64 word, __u8 from)
{
	__u64 low = word & ~HIGH_BITS;
	__u64 inside = (low + BYTES(0x80 - from)) & ~(low + BYTES(1));
	return (~inside | word) & HIGH_BITS;
}

/* The bits of the bytes before the first that is marked in `mask`, which is not 0. */
static __always_inline __u64 before_first(__u64 mask)
{
	return ((mask & -mask) - 1) >> 7;
}

/* The high bit of each of "#<>\\^`{|}. All bytes must be below 0x80. */
static __always_inline __u64 no_target_bytes(__u64 text)
{
	__u64 even = text | BYTES(1), pair = text | BYTES(2);
	return exact_bytes(even, '#') | exact_bytes(pair, '>') | exact_bytes(pair, '^') | exact_bytes(text, '`') |
	       exact_bytes(text, '{') | exact_bytes(even, '}');
}

/*
 * The end of the target that begins at `from`: the blank behind it. Of visible ASCII, and only of bytes that RFC 3986 knows:
 * others are refused by some servers.
 *
 * The target is walked twice, here and in head_path(), and what is found is gathered in masks: each loop has one way out,
 * for the verifier walks every way out of every step.
 */
__noinline __u32 head_target(struct http_window *window, __u32 from, __u32 to)
{
	if (!window)
		return HEAD_NOWHERE;
	__u64 strange = 0;
	for (__u32 i = 0; i < HEAD_TARGET_WORDS; i++) {
		__u32 at = from + i * 8;
		if (at >= to)
			return HEAD_NOWHERE;
		__u64 word = head_word(window, at);
		__u64 stop = bytes_outside(word, 0x21), found = no_target_bytes(word & ~HIGH_BITS);
		if (!stop) {
			strange |= found;
			continue;
		}
		/* Bytes behind the end may be anything. */
		strange |= found & before_first(stop);
		__u32 end = at + first_byte(stop);
		return end < to && head_byte(window, end) == ' ' && !strange ? end : HEAD_NOWHERE;
	}
	return HEAD_NOWHERE;
}

/*
 * Where the path of the target ends that begins at `from` and has a blank behind it, and in the upper half whether servers
 * might read it differently: it has an escape, a parameter, an empty or a dot segment.
 */
__noinline __u64 head_path(struct http_window *window, __u32 from)
{
	if (!window)
		return from | 1ULL << 32;
	__u64 odd = 0;
	for (__u32 i = 0; i < HEAD_TARGET_WORDS; i++) {
		__u32 at = from + i * 8;
		__u64 word = head_word(window, at), second = head_word(window, at + 1) & ~HIGH_BITS;
		__u64 text = word & ~HIGH_BITS;
		__u64 stop = bytes_outside(word, 0x21) | exact_bytes(text, '?');
		__u64 pair = exact_bytes(text, '/') & (exact_bytes(second, '/') | exact_bytes(second, '.'));
		__u64 found = pair | exact_bytes(text, '%') | exact_bytes(text, ';');
		if (!stop) {
			odd |= found;
			continue;
		}
		odd |= found & before_first(stop);
		return (at + first_byte(stop)) | (__u64)(odd != 0) << 32;
	}
	return from | 1ULL << 32;
}

/* The line end (CR LF) behind `from`, before which there are blanks, tabs and visible ASCII only. */
__noinline __u32 head_line_end(struct http_window *window, __u32 from, __u32 to)
{
	if (!window)
		return HEAD_NOWHERE;
	for (__u32 i = 0; i < HTTP_HEAD_SIZE / 8; i++) {
		__u32 at = from + i * 8;
		if (at >= to)
			break;
		__u64 word = head_word(window, at);
		__u64 found = bytes_outside(word, 0x20) & ~(exact_bytes(word & ~HIGH_BITS, '\t') & ~word);
		if (!found)
			continue;
		at += first_byte(found);
		return at + 1 < to && (head_word(window, at) & 0xffff) == ('\r' | '\n' << 8) ? at : HEAD_NOWHERE;
	}
	return HEAD_NOWHERE;
}

/* Letters, digits, and !#$%&'*+-.^_`|~ (RFC 9110, 5.6.2), one bit a byte: below 0x40, and from there on. */
#define TOKEN_LOW 0x03ff6cfa00000000ULL
#define TOKEN_HIGH 0x57ffffffc7fffffeULL

/* The colon behind the name of the field that begins at `from`. */
__noinline __u32 head_colon(struct http_window *window, __u32 from)
{
	if (!window)
		return HEAD_NOWHERE;
	for (__u32 i = 0; i < HEAD_NAME; i++) {
		__u8 byte = head_byte(window, from + i);
		if (byte == ':')
			return i ? from + i : HEAD_NOWHERE;
		__u64 set = byte & 0x40 ? TOKEN_HIGH : TOKEN_LOW;
		if (byte & 0x80 || !(set >> (byte & 0x3f) & 1))
			return HEAD_NOWHERE;
	}
	return HEAD_NOWHERE;
}

enum { HEAD_DIGITS = 10 }; /* of Content-Length: 10 GB are nobody's fast path */

/* The value [from, end) of Content-Length; at most 0xffffffff. */
__noinline __u64 head_length(struct http_window *window, __u32 from, __u32 end)
{
	if (!window)
		return ~0ULL;
	from = value_begins(window, from, end);
	end = value_ends(window, from, end);
	if (from >= end || end - from > HEAD_DIGITS)
		return ~0ULL;
	__u64 value = 0;
	for (__u32 i = 0; i < HEAD_DIGITS; i++) {
		if (from + i >= end)
			break;
		__u32 digit = (__u32)head_byte(window, from + i) - '0';
		if (digit > 9)
			return ~0ULL;
		value = value * 10 + digit;
	}
	return value > 0xffffffffULL ? ~0ULL : value;
}

/* Whether the value [from, end) is keep-alive, in any case. */
static __always_inline bool is_keep_alive(const struct http_window *window, __u32 from, __u32 end)
{
	from = value_begins(window, from, end);
	end = value_ends(window, from, end);
	return end - from == 10 && LOWER(head_word(window, from)) == TEXT8('k', 'e', 'e', 'p', '-', 'a', 'l', 'i') &&
	       ((head_word(window, from + 8) & 0xffff) | 0x2020) == ('v' | 'e' << 8);
}

/* The name [from, from + length) in lower case, as far as two words go. */
#define NAME_IS(first, second, a, b) ((first) == (a) && (second) == (b))

/* Letters, digits, - . and _, and what an IPv6 address is made of: one bit a byte, as above. */
#define NAME_LOW 0x03ff600000000000ULL
#define NAME_HIGH 0x07fffffe87fffffeULL
#define ADDRESS_LOW 0x07ff400000000000ULL
#define ADDRESS_HIGH 0x0000007e0000007eULL

static __always_inline bool in_set(__u8 byte, __u64 low, __u64 high)
{
	__u64 set = byte & 0x40 ? high : low;
	return !(byte & 0x80) && set >> (byte & 0x3f) & 1;
}

/* What follows the IPv6 address that begins at `from` with its bracket. */
__noinline __u32 head_address(struct http_window *window, __u32 from)
{
	if (!window)
		return HEAD_NOWHERE;
	for (__u32 i = 1; i < HEAD_ADDRESS; i++) {
		__u8 byte = head_byte(window, from + i);
		if (in_set(byte, ADDRESS_LOW, ADDRESS_HIGH))
			continue;
		return byte == ']' && i > 2 ? from + i + 1 : HEAD_NOWHERE;
	}
	return HEAD_NOWHERE;
}

/* What follows the name or IPv4 address that begins at `from`. */
__noinline __u32 head_name(struct http_window *window, __u32 from)
{
	if (!window || head_byte(window, from) == '.')
		return HEAD_NOWHERE;
	for (__u32 i = 0; i < HEAD_HOST; i++) {
		__u32 pair = head_word(window, from + i) & 0xffff;
		if (pair == ('.' | '.' << 8))
			return HEAD_NOWHERE;
		if (!in_set(pair, NAME_LOW, NAME_HIGH))
			return i ? from + i : HEAD_NOWHERE;
	}
	return HEAD_NOWHERE;
}

/* Whether [from, end) is a colon and a port. */
__noinline __u32 head_port(struct http_window *window, __u32 from, __u32 end)
{
	if (!window || end - from < 2 || end - from > HEAD_PORT || head_byte(window, from) != ':')
		return 0;
	for (__u32 i = 1; i < HEAD_PORT; i++) {
		if (from + i >= end)
			break;
		if ((__u32)head_byte(window, from + i) - '0' > 9)
			return 0;
	}
	return 1;
}

/*
 * Whether the value [from, end) of Host is a name or an address, with a port or without: of all else servers make different
 * things.
 */
__noinline __u32 head_host(struct http_window *window, __u32 from, __u32 end)
{
	if (!window)
		return 0;
	from = value_begins(window, from, end);
	end = value_ends(window, from, end);
	__u32 rest = head_byte(window, from) == '[' ? head_address(window, from) : head_name(window, from);
	return rest == end || head_port(window, rest, end);
}

/* Content-Length [from, end): once, and digits. */
static __always_inline __u32 head_take_length(struct http_window *window, struct head *head, __u32 from, __u32 end)
{
	__u64 value = head_length(window, from, end);
	if (head->flags & HEAD_HAS_LENGTH || value == ~0ULL)
		return HTTP_REASON_LENGTH;
	head->flags |= HEAD_HAS_LENGTH;
	head->body = value;
	return 0;
}

/* What a field of a request means for it. `line` is the place of its name, `colon` and `end` of the value. */
__noinline __u32 request_field(struct http_window *window, struct head *head, __u32 line, __u64 place)
{
	if (!window || !head)
		return HTTP_REASON_BUSY;
	__u32 colon = place & 0xffff, end = place >> 16 & 0xffff;
	__u32 length = colon - line;
	__u64 first = low_bytes(LOWER(head_word(window, line)), length);
	__u64 second = length > 8 ? low_bytes(LOWER(head_word(window, line + 8)), length - 8) : 0;
	switch (length) {
	case 2:
		return first == TEXT8('t', 'e', 0, 0, 0, 0, 0, 0) ? HTTP_REASON_TRAILERS : 0;
	case 4:
		if (first != TEXT8('h', 'o', 's', 't', 0, 0, 0, 0))
			return 0;
		if (head->flags & HEAD_HAS_HOST || !head_host(window, colon + 1, end))
			return HTTP_REASON_HOST;
		head->flags |= HEAD_HAS_HOST;
		head->host = colon + 1;
		head->host_end = end;
		return 0;
	case 6:
		return first == TEXT8('e', 'x', 'p', 'e', 'c', 't', 0, 0) ? HTTP_REASON_EXPECT : 0;
	case 7:
		if (first == TEXT8('u', 'p', 'g', 'r', 'a', 'd', 'e', 0))
			return HTTP_REASON_UPGRADE;
		return first == TEXT8('t', 'r', 'a', 'i', 'l', 'e', 'r', 0) ? HTTP_REASON_TRAILERS : 0;
	case 10:
		if (NAME_IS(first, second, TEXT8('c', 'o', 'n', 'n', 'e', 'c', 't', 'i'), TEXT4('o', 'n', 0, 0)))
			return is_keep_alive(window, colon + 1, end) ? 0 : HTTP_REASON_CONNECTION;
		return 0;
	case 14:
		if (NAME_IS(first, second, TEXT8('c', 'o', 'n', 't', 'e', 'n', 't', '-'),
			    TEXT8('l', 'e', 'n', 'g', 't', 'h', 0, 0)))
			return head_take_length(window, head, colon + 1, end);
		if (NAME_IS(first, second, TEXT8('h', 't', 't', 'p', '2', '-', 's', 'e'),
			    TEXT8('t', 't', 'i', 'n', 'g', 's', 0, 0)))
			return HTTP_REASON_UPGRADE;
		return 0;
	case 16: /* an old spelling that some servers heed and some do not */
		return NAME_IS(first, second, TEXT8('p', 'r', 'o', 'x', 'y', '-', 'c', 'o'),
			       TEXT8('n', 'n', 'e', 'c', 't', 'i', 'o', 'n'))
			       ? HTTP_REASON_CONNECTION
			       : 0;
	case 17: /* of transfer-encoding the first two words are enough: 17 bytes, and nothing harmless begins so */
		return NAME_IS(first, second, TEXT8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r'),
			       TEXT8('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n'))
			       ? HTTP_REASON_CODING
			       : 0;
	}
	return 0;
}

/* The same for a response. */
__noinline __u32 response_field(struct http_window *window, struct head *head, __u32 line, __u64 place)
{
	if (!window || !head)
		return HTTP_REASON_BUSY;
	__u32 colon = place & 0xffff, end = place >> 16 & 0xffff;
	__u32 length = colon - line;
	__u64 first = low_bytes(LOWER(head_word(window, line)), length);
	__u64 second = length > 8 ? low_bytes(LOWER(head_word(window, line + 8)), length - 8) : 0;
	switch (length) {
	case 7:
		return first == TEXT8('u', 'p', 'g', 'r', 'a', 'd', 'e', 0) ? HTTP_REASON_UPGRADE : 0;
	case 10:
		if (NAME_IS(first, second, TEXT8('c', 'o', 'n', 'n', 'e', 'c', 't', 'i'), TEXT4('o', 'n', 0, 0)))
			return is_keep_alive(window, colon + 1, end) ? 0 : HTTP_REASON_CONNECTION;
		return 0;
	case 14:
		if (NAME_IS(first, second, TEXT8('c', 'o', 'n', 't', 'e', 'n', 't', '-'),
			    TEXT8('l', 'e', 'n', 'g', 't', 'h', 0, 0)))
			return head_take_length(window, head, colon + 1, end);
		return 0;
	case 17:
		return NAME_IS(first, second, TEXT8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r'),
			       TEXT8('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n'))
			       ? HTTP_REASON_UNFRAMED
			       : 0;
	}
	return 0;
}

/* Whether a head that could not be read seems to go on after what there is: only for telling the reason. */
static __always_inline bool head_is_cut(const struct http_window *window, __u32 to)
{
	if (to < 4)
		return true;
	return (head_word(window, to - 4) & 0xffffffff) != TEXT4('\r', '\n', '\r', '\n');
}

/* Reads the field lines from `from` to the empty line. 0, or why not. `headers`: of a request; may be NULL. */
static __always_inline __u32 head_fields(struct http_window *window, struct head *head, __u32 from, __u32 to,
					 bool response, struct http_headers *headers)
{
	__u32 line = from;
	for (__u32 i = 0; i < HEAD_FIELDS; i++) {
		if (line + 1 >= to)
			return HTTP_REASON_SPLIT_HEAD;
		if ((head_word(window, line) & 0xffff) == ('\r' | '\n' << 8)) {
			head->length = line + 2;
			return 0;
		}
		__u32 end = head_line_end(window, line, to);
		if (end == HEAD_NOWHERE)
			return head_is_cut(window, to) ? HTTP_REASON_SPLIT_HEAD : HTTP_REASON_FIELD;
		__u32 colon = head_colon(window, line);
		if (colon >= end)
			return HTTP_REASON_FIELD;
		__u64 place = colon | (__u64)end << 16;
		__u32 reason =
			response ? response_field(window, head, line, place) : request_field(window, head, line, place);
		if (reason)
			return reason;
		if (headers)
			head->found = headers_join(head->found, headers_meet(window, headers, line, place));
		line = end + 2;
	}
	return HTTP_REASON_FIELDS;
}

/* The method at the beginning of the window, its length with the blank in the upper half; 0: none that is taken. */
static __always_inline __u32 head_method(__u64 word)
{
	if ((word & 0xffffffff) == TEXT4('G', 'E', 'T', ' '))
		return HTTP_GET | 4 << 16;
	if ((word & 0xffffffff) == TEXT4('P', 'U', 'T', ' '))
		return HTTP_PUT | 4 << 16;
	if (low_bytes(word, 5) == TEXT8('P', 'O', 'S', 'T', ' ', 0, 0, 0))
		return HTTP_POST | 5 << 16;
	if (low_bytes(word, 5) == TEXT8('H', 'E', 'A', 'D', ' ', 0, 0, 0))
		return HTTP_HEAD | 5 << 16;
	if (low_bytes(word, 6) == TEXT8('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
		return HTTP_PATCH | 6 << 16;
	if (low_bytes(word, 7) == TEXT8('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
		return HTTP_DELETE | 7 << 16;
	if (word == TEXT8('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '))
		return HTTP_OPTIONS | 8 << 16;
	return 0;
}

static __always_inline bool method_has_body(__u8 method)
{
	return method == HTTP_POST || method == HTTP_PUT || method == HTTP_PATCH;
}

#define HEAD_VERSION TEXT8('H', 'T', 'T', 'P', '/', '1', '.', '1')

/*
 * Reads the head of a request of which the window holds `to` bytes, and in it the headers that the service's routes ask for,
 * if they do. 0, or why it is the proxy's.
 */
__noinline __u32 request_read(struct http_window *window, struct head *head, __u32 to, struct http_headers *headers)
{
	if (!window || !head || to > HTTP_HEAD_SIZE)
		return HTTP_REASON_BUSY;
	head->flags = 0;
	head->found = 0;
	head->body = 0;
	__u64 begin = head_word(window, 0);
	if (to < 16)
		return HTTP_REASON_SPLIT_HEAD;
	__u32 method = head_method(begin);
	if (!method)
		return begin == TEXT8('P', 'R', 'I', ' ', '*', ' ', 'H', 'T') ? HTTP_REASON_VERSION
									      : HTTP_REASON_METHOD;
	head->method = method;
	__u32 path = method >> 16;
	head->path = path;
	if (head_byte(window, path) != '/')
		return HTTP_REASON_TARGET;
	__u32 blank = head_target(window, path, to);
	if (blank == HEAD_NOWHERE)
		return head_is_cut(window, to) ? HTTP_REASON_SPLIT_HEAD : HTTP_REASON_TARGET;
	head->target_length = blank - path;
	__u64 read = head_path(window, path);
	head->path_length = (__u32)read - path;
	if (read >> 32)
		head->flags |= HEAD_ODD_PATH;
	/* An asterisk or an authority begins with no slash; two slashes would begin an authority. */
	__u32 end = blank + 9;
	if (end + 2 > to)
		return HTTP_REASON_SPLIT_HEAD;
	if (head_word(window, blank + 1) != HEAD_VERSION || (head_word(window, end) & 0xffff) != ('\r' | '\n' << 8))
		return HTTP_REASON_VERSION;
	__u32 reason = head_fields(window, head, end + 2, to, false, headers);
	if (reason)
		return reason;
	if (!(head->flags & HEAD_HAS_HOST))
		return HTTP_REASON_HOST;
	if (head->flags & HEAD_HAS_LENGTH && !method_has_body(head->method))
		return HTTP_REASON_LENGTH;
	if ((__u64)head->length + head->body > HTTP_MESSAGE_SIZE)
		return HTTP_REASON_LARGE;
	return 0;
}

/* The status of a status line, or 0. */
static __always_inline __u32 head_status(__u64 word)
{
	__u32 hundreds = (__u32)(word & 0xff) - '0', tens = (__u32)(word >> 8 & 0xff) - '0';
	__u32 ones = (__u32)(word >> 16 & 0xff) - '0';
	if (hundreds < 1 || hundreds > 9 || tens > 9 || ones > 9)
		return 0;
	return hundreds * 100 + tens * 10 + ones;
}

/* Reads the head of the response to a request of `method`. 0, or why the proxy has to carry it. */
__noinline __u32 response_read(struct http_window *window, struct head *head, __u32 to, __u32 method)
{
	if (!window || !head || to > HTTP_HEAD_SIZE)
		return HTTP_REASON_BUSY;
	head->flags = 0;
	head->body = 0;
	if (to < 16)
		return HTTP_REASON_SPLIT_HEAD;
	__u64 rest = head_word(window, 8);
	__u32 status = head_status(rest >> 8);
	__u8 after = rest >> 32;
	if (head_word(window, 0) != HEAD_VERSION || (rest & 0xff) != ' ' || status < 200 || status > 599 ||
	    (after != ' ' && after != '\r'))
		return HTTP_REASON_STATUS;
	head->status = status;
	__u32 end = head_line_end(window, 12, to);
	if (end == HEAD_NOWHERE)
		return HTTP_REASON_SPLIT_HEAD;
	__u32 reason = head_fields(window, head, end + 2, to, true, 0);
	if (reason)
		return reason;
	/* A length of what cannot be there: some clients wait for it. */
	if (status == 204 && head->body)
		return HTTP_REASON_LENGTH;
	if (method == HTTP_HEAD || status == 204 || status == 304)
		head->body = 0;
	else if (!(head->flags & HEAD_HAS_LENGTH))
		return HTTP_REASON_UNFRAMED;
	if ((__u64)head->length + head->body > HTTP_MESSAGE_SIZE)
		return HTTP_REASON_LARGE;
	return 0;
}

#endif
