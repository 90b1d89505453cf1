/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The target of a request: its text is kept as sent, its path is folded (/users/123 is /users/{n}), so that a server's
 * ids do not become series without end. A folded path is known by its hash; the text is stored once, see series.h.
 */
#ifndef OBSERVE_TARGET_H
#define OBSERVE_TARGET_H

#include "window.h"

enum {
	PATH_OTHER = 0,
	HEXADECIMAL_SEGMENT = 16, /* from this length on a segment of hexadecimal digits is an id */
};

static __always_inline __u64 hash_word(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

static __always_inline __u64 hash_end(__u64 hash, __u32 length)
{
	hash = hash_word(hash, length);
	return hash == PATH_OTHER ? 1 : hash;
}

/* The high bit of each byte that is a digit; all bytes must be below 0x80. */
static __always_inline __u64 digit_bytes(__u64 word)
{
	return (word + BYTES(0x80 - '0')) & ~(word + BYTES(0x7f - '9')) & HIGH_BITS;
}

/* Blanks, control characters and DEL: nothing of this may be in a target. What is not ASCII may not either, but servers take it. */
static __always_inline __u64 foreign_bytes(__u64 word)
{
	__u64 low = word & ~HIGH_BITS;
	__u64 printable = (low + BYTES(0x7f - 0x20)) & ~(low + BYTES(1));
	return ~(printable | word) & HIGH_BITS;
}

/*
 * Keeps the target at [from, end) of the window. False: it holds what no target may. What goes beyond PATH_SIZE is
 * neither kept nor looked at.
 */
static __always_inline bool target_keep(const struct window *window, __u32 from, __u32 end, struct pending *pending)
{
	__u32 length = end - from;
	__u32 kept = length < PATH_SIZE ? length : PATH_SIZE;
	__u32 path_length = PATH_SIZE + 1;
	__u64 digits = 0, foreign = 0, hash = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < PATH_SIZE / 8; i++) {
		if (i * 8 >= kept)
			break;
		__u32 left = kept - i * 8;
		__u64 word = low_bytes(word_at(window, from + i * 8), left);
		((__u64 *)pending->target)[i] = word;
		/* Past the end of the text there are zeros, which are none of a target's bytes but no fault. */
		foreign |= low_bytes(foreign_bytes(word), left);
		if (path_length <= PATH_SIZE)
			continue;
		__u64 query = equal_bytes(word, '?');
		if (query) {
			path_length = i * 8 + first_byte(query);
			word = low_bytes(word, first_byte(query));
		}
		digits |= digit_bytes(word & ~HIGH_BITS);
		if (word)
			hash = hash_word(hash, word);
	}
	if (foreign)
		return false;
	if (path_length > kept)
		path_length = kept;
	pending->target_length = kept;
	pending->path_length = path_length;
	pending->flags = length > PATH_SIZE ? REQUEST_FLAG_PATH_CUT : 0;
	pending->foldable = digits != 0;
	pending->path = hash_end(hash, path_length);
	return true;
}

/* As target_keep() for a target that is kept already, with the lengths of it and of its path, and zeros behind it. */
__noinline int target_weigh(struct pending *pending)
{
	if (!pending)
		return 0;
	__u64 digits = 0, hash = 0;
	for (__u32 i = 0; i < PATH_SIZE / 8; i++) {
		if (i * 8 >= pending->path_length)
			break;
		__u64 word = low_bytes(((const __u64 *)pending->target)[i], pending->path_length - i * 8);
		digits |= digit_bytes(word & ~HIGH_BITS);
		if (word)
			hash = hash_word(hash, word);
	}
	pending->foldable = digits != 0;
	pending->path = hash_end(hash, pending->path_length);
	return 1;
}

/* Folding, one byte at a time: bpf_loop() calls fold_step() with this. */
struct fold {
	struct window *window; /* where the folded text grows */
	struct pending *pending;
	__u32 length; /* of the path */
	__u32 out; /* bytes written */
	__u32 segment; /* where in them the current segment begins */
	__u32 digits; /* of the current segment */
	__u32 letters; /* a to f */
	__u32 dashes;
	__u64 dash_places;
};

static __always_inline void fold_put(struct fold *fold, __u8 byte)
{
	__u32 at = fold->out & (FOLD_SIZE - 1);
#ifndef ALIZE_HOST
	HIDE(at);
	at &= FOLD_SIZE - 1;
#endif
	fold->window->fold[at] = byte;
	fold->out++;
}

static __always_inline void fold_segment(struct fold *fold)
{
	__u32 length = fold->out - fold->segment;
	__u32 digits = fold->digits, hexadecimal = digits + fold->letters;
	__u64 uuid = 1ULL << 8 | 1ULL << 13 | 1ULL << 18 | 1ULL << 23;
	__u64 name;
	if (length && digits == length)
		name = TEXT8('{', 'n', '}', 0, 0, 0, 0, 0);
	else if (length == 36 && hexadecimal == 32 && fold->dashes == 4 && fold->dash_places == uuid)
		name = TEXT8('{', 'u', 'u', 'i', 'd', '}', 0, 0);
	else if (length >= HEXADECIMAL_SEGMENT && digits && hexadecimal == length)
		name = TEXT8('{', 'h', 'e', 'x', '}', 0, 0, 0);
	else
		return;
	fold->out = fold->segment;
#pragma clang loop unroll(full)
	for (int i = 0; i < 6; i++) {
		__u8 byte = name >> (i * 8);
		if (byte)
			fold_put(fold, byte);
	}
}

/* The end of the path counts as a last slash that is not written. 1: done. */
static long fold_step(__u32 i, void *context)
{
	struct fold *fold = context;
	bool end = i >= fold->length || fold->out > PATH_SIZE - 8;
	__u8 byte = '/';
	if (!end) {
		__u32 at = i & (FOLD_SIZE - 1);
		if (at >= PATH_SIZE)
			return 1;
		byte = fold->pending->target[at];
	}
	if (byte == '/') {
		fold_segment(fold);
		if (end)
			return 1;
		fold_put(fold, byte);
		fold->segment = fold->out;
		fold->digits = 0;
		fold->letters = 0;
		fold->dashes = 0;
		fold->dash_places = 0;
		return 0;
	}
	__u8 lower = byte | 0x20;
	if (byte >= '0' && byte <= '9') {
		fold->digits++;
	} else if (lower >= 'a' && lower <= 'f') {
		fold->letters++;
	} else if (byte == '-') {
		fold->dash_places |= 1ULL << ((fold->out - fold->segment) & 63);
		fold->dashes++;
	}
	fold_put(fold, byte);
	return 0;
}

/* Writes the folded path of `pending` into the window; gives its length. */
static __always_inline __u32 path_fold(struct window *window, struct pending *pending)
{
	if (!window || !pending)
		return 0;
	struct fold fold = {.window = window, .pending = pending, .length = pending->path_length};
	bpf_loop(PATH_SIZE + 1, fold_step, &fold, 0);
	window->folded = fold.out <= PATH_SIZE ? fold.out : PATH_SIZE;
	return window->folded;
}

/* As the hash of target_keep(), for a path that had digits. */
__noinline __u64 path_hash_folded(struct window *window, struct pending *pending)
{
	if (!window || !pending)
		return PATH_OTHER;
	__u32 length = path_fold(window, pending);
	__u64 hash = 0;
	for (__u32 i = 0; i < PATH_SIZE / 8; i++) {
		if (i * 8 >= length)
			break;
		__u64 word = low_bytes(((__u64 *)window->fold)[i], length - i * 8);
		if (word)
			hash = hash_word(hash, word);
	}
	return hash_end(hash, length);
}

#endif
