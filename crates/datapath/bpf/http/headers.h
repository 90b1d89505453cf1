/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Conditions on headers: a service's routes may ask for a few headers to have just some value. While a head is read each
 * field is held against them, and what was found is bits; classes then choose by these.
 */
#ifndef HTTP_HEADERS_H
#define HTTP_HEADERS_H

#include "alize/bpf.h"
#include "http/hash.h"
#include "window.h"

/* Blanks around a value do not belong to it (RFC 9112, 5.1); more than a few are not worth reading. */
enum { HEAD_BLANKS = 4 };

static __always_inline bool is_blank(__u8 byte)
{
	return byte == ' ' || byte == '\t';
}

static __always_inline __u32 value_begins(const struct http_window *window, __u32 from, __u32 end)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < HEAD_BLANKS; i++)
		if (from < end && is_blank(head_byte(window, from)))
			from++;
	return from;
}

static __always_inline __u32 value_ends(const struct http_window *window, __u32 from, __u32 end)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < HEAD_BLANKS; i++)
		if (end > from && is_blank(head_byte(window, end - 1)))
			end--;
	return end;
}

/* The value in [from, end): where it begins, and in the upper half where it ends. Global: its ways are walked once. */
__noinline __u32 value_of(struct http_window *window, __u32 from, __u32 end)
{
	if (!window)
		return 0;
	from = value_begins(window, from, end);
	return from | value_ends(window, from, end) << 16;
}

/* Whether the value [from, end) may be longer than it looks: more blanks than are taken away. */
static __always_inline bool value_is_vague(const struct http_window *window, __u32 from, __u32 end)
{
	return from < end && (is_blank(head_byte(window, from)) || is_blank(head_byte(window, end - 1)));
}

/* What of the text [from, from + length) is in its word number `i`, with zeros behind. Global: it is walked once. */
__noinline __u64 text_word_of(struct http_window *window, __u32 from, __u32 length, __u32 i)
{
	if (!window || length <= i * 8)
		return 0;
	return low_bytes(head_word(window, from + i * 8), length - i * 8);
}

/* 1 when nothing differs, without a branch: the verifier would walk on with each outcome of each condition. */
static __always_inline __u32 is_same(__u64 differs)
{
	return ((differs | -differs) >> 63) ^ 1;
}

/* Which of the HTTP_PLACES a value of at most HTTP_VALUE_SIZE has: alize_model::http::value_place() is the same. */
static __always_inline __u32 value_place(const __u64 value[HTTP_VALUE_SIZE / 8], __u32 length)
{
	__u64 hash = HASH_BASIS;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < HTTP_VALUE_SIZE / 8; i++)
		hash = (hash ^ value[i]) * HASH_PRIME;
	return hash_finish((hash ^ length) * HASH_PRIME) % HTTP_PLACES;
}

/*
 * Holds the field at `line` against the conditions: bits of those that it meets, and from HTTP_CONDITIONS on of those that
 * are about it; in the upper half, if requests are balanced by it, the place of its value plus 1. HTTP_HEADERS_VAGUE: its
 * value cannot be told. `place` is as in request_field().
 */
__noinline __u64 headers_meet(struct http_window *window, struct http_headers *headers, __u32 line, __u64 place)
{
	if (!window || !headers)
		return 0;
	__u32 colon = place & 0xffff, end = place >> 16 & 0xffff, found = 0, hashed = 0;
	__u32 span = value_of(window, colon + 1, end), from = span & 0xffff;
	end = span >> 16;
	__u32 vague = value_is_vague(window, from, end), name_length = colon - line, value_length = end - from;
	__u64 name[HTTP_NAME_SIZE / 8], value[HTTP_VALUE_SIZE / 8];
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < HTTP_NAME_SIZE / 8; i++)
		name[i] = text_word_of(window, line, name_length, i);
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < HTTP_VALUE_SIZE / 8; i++)
		value[i] = text_word_of(window, from, value_length, i);
	for (__u32 i = 0; i < HTTP_CONDITIONS; i++) {
		const struct http_condition *condition = &headers->condition[i];
		__u64 differs = condition->name_length ^ name_length;
#pragma clang loop unroll(full)
		for (__u32 word = 0; word < HTTP_NAME_SIZE / 8; word++)
			/* Zeros behind the name become blanks, which no name has. */
			differs |= LOWER(name[word]) ^ LOWER(((const __u64 *)condition->name)[word]);
		__u32 named = is_same(differs);
		differs = condition->value_length ^ value_length;
#pragma clang loop unroll(full)
		for (__u32 word = 0; word < HTTP_VALUE_SIZE / 8; word++)
			differs |= value[word] ^ ((const __u64 *)condition->value)[word];
		found |= named << (HTTP_CONDITIONS + i) | (named & is_same(differs)) << i |
			 (named & vague) << HTTP_HEADERS_VAGUE_SHIFT;
		hashed |= named & is_same(headers->hashed ^ (i + 1));
	}
	found |= (hashed & (value_length > HTTP_VALUE_SIZE)) << HTTP_HEADERS_VAGUE_SHIFT;
	__u64 of_value = value_place(value, value_length) + 1;
	return found | (of_value & -(__u64)hashed) << 32;
}

/* Of two fields, or what was found in all so far: a condition that two are about is the proxy's, which joins their values. */
static __always_inline __u64 headers_join(__u64 before, __u64 found)
{
	__u32 twice = (__u32)(before & found) >> HTTP_CONDITIONS & ((1U << HTTP_CONDITIONS) - 1);
	return before | found | (twice ? HTTP_HEADERS_VAGUE : 0);
}

/* The verdict that the choices from `at` on give to what was found; 0: the proxy's. */
__noinline __u32 headers_choose(struct http_headers *headers, __u32 at, __u32 found)
{
	if (!headers || found & HTTP_HEADERS_VAGUE)
		return 0;
	for (__u32 i = 0; i < HTTP_CHOICES; i++) {
		__u32 place = (at + i) & (HTTP_CHOICES - 1);
		HIDE(place);
		const struct http_choice *choice = &headers->choice[place & (HTTP_CHOICES - 1)];
		__u32 mask = choice->mask;
		if ((found & mask) == mask)
			return choice->verdict;
	}
	return 0;
}

#endif
