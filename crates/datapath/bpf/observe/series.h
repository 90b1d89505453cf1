/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Series: what the exchanges of one kind came to. Their number is bounded; what does not fit is counted as "overflow". */
#ifndef OBSERVE_SERIES_H
#define OBSERVE_SERIES_H

#include "alize/latency.h"
#include "buffers.h"
#include "target.h"

/* who asked whom for what with which result -> how often, how long. Written by the programs, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096); /* budget */
	__type(key, struct series_key);
	__type(value, struct series);
} series SEC(".maps");

/* All exchanges for which `series` had no room. Written by the programs, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct series);
} series_overflow SEC(".maps");

/* hash of a folded path -> its text. Written by the programs, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024); /* budget */
	__type(key, __u64);
	__type(value, struct path);
} paths SEC(".maps");

static const struct series no_series;

/* Remembers the text of a path; false: there is no room. */
static __always_inline bool path_learn(struct window *window, struct pending *pending)
{
	__u64 key = pending->path;
	if (bpf_map_lookup_elem(&paths, &key))
		return true;
	/* Built behind the folded text in the window, since it does not fit the stack. */
	struct path *path = (struct path *)window->bytes;
	path->zero = 0;
	path->length = pending->path_length;
	const __u64 *text = (const __u64 *)pending->target;
	if (pending->foldable) {
		path->length = path_fold(window, pending);
		text = (const __u64 *)window->fold;
	}
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < PATH_SIZE / 8; i++)
		((__u64 *)path->text)[i] = i * 8 < path->length ? low_bytes(text[i], path->length - i * 8) : 0;
	return !bpf_map_update_elem(&paths, &key, path, BPF_ANY);
}

/* Remembers the path of a series to be made; 1: it is to be made under another path than asked for. */
__noinline int series_name(struct series_key *key, struct pending *pending)
{
	if (!key || !pending)
		return 0;
	struct window *window = window_take();
	bool learned = window && path_learn(window, pending);
	if (window)
		window_give(window);
	if (!learned) {
		key->path = PATH_OTHER;
		tally(TALLY_PATH_OVERFLOW);
	}
	return !learned;
}

static __always_inline struct series *series_get(struct series_key *key, struct pending *pending)
{
	struct series *found = bpf_map_lookup_elem(&series, key);
	if (found)
		return found;
	series_name(key, pending);
	/* Not in series_name(): in Linux 6.1 an argument of a global function cannot be the key of a map. Another CPU may have been faster, which is no failure. */
	bpf_map_update_elem(&series, key, &no_series, BPF_NOEXIST);
	found = bpf_map_lookup_elem(&series, key);
	if (found)
		return found;
	tally(TALLY_SERIES_OVERFLOW);
	__u32 zero = 0;
	return bpf_map_lookup_elem(&series_overflow, &zero);
}

static __always_inline void series_add(struct series *to, __u64 latency, __u64 first_byte, __u64 request_bytes,
				       __u64 response_bytes)
{
	__u32 bucket = latency_bucket(latency);
	ADD(to->count, 1);
	ADD(to->request_bytes, request_bytes);
	ADD(to->response_bytes, response_bytes);
	ADD(to->latency_ns, latency);
	ADD(to->first_byte_ns, first_byte);
	if (bucket < LATENCY_BUCKETS)
		ADD(to->buckets[bucket], 1);
}

#endif
