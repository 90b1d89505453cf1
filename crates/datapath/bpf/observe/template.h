/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Path templates that the user has given: /users/{name} for /users/alice and /users/bob. Most requests find in a small
 * cache which template their path belongs to; only a path that is new is compared with all of them.
 */
#ifndef OBSERVE_TEMPLATE_H
#define OBSERVE_TEMPLATE_H

#include "target.h"

/* place -> template; those in use come first. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPLATES);
	__type(key, __u32);
	__type(value, struct template);
} templates SEC(".maps");

/* hash of a folded path -> key of its template; 0: none has it. Written by the programs, emptied by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192); /* budget */
	__type(key, __u64);
	__type(value, __u64);
} templated_paths SEC(".maps");

/* Comparing a pattern and a path, a byte a step. */
struct match {
	const struct template *template;
	const struct window *window;
	__u32 length; /* of the path */
	__u32 at; /* in the path */
	__u32 pattern; /* in the pattern */
	__u32 began; /* where in the path the segment began that is passed over */
	__u32 matched;
};

static long match_step(__u32 i, void *context)
{
	struct match *match = context;
	__u32 at = match->at & (FOLD_SIZE - 1), pattern = match->pattern;
	__u8 wanted = 0, found = 0;
	HIDE(pattern);
	if (pattern < match->template->length && pattern < PATH_SIZE)
		wanted = match->template->pattern[pattern];
	HIDE(at);
#ifndef ALIZE_HOST
	at &= FOLD_SIZE - 1;
#endif
	if (at < match->length)
		found = match->window->fold[at];
	switch (wanted) {
	case TEMPLATE_REST:
		match->matched = 1;
		return 1;
	case TEMPLATE_SEGMENT:
		if (found && found != '/') {
			match->at++;
			return 0;
		}
		if (match->at == match->began)
			return 1;
		match->pattern++;
		return 0;
	}
	if (wanted != found)
		return 1;
	if (!wanted) {
		match->matched = 1;
		return 1;
	}
	match->pattern++;
	match->began = ++match->at;
	return 0;
}

struct templates_walk {
	const struct window *window;
	__u32 length;
	__u64 key;
};

static long templates_step(__u32 i, void *context)
{
	struct templates_walk *walk = context;
	__u32 place = i;
	struct template *template = bpf_map_lookup_elem(&templates, &place);
	if (!template || !template->length)
		return 1;
	struct match match = {.template = template, .window = walk->window, .length = walk->length};
	bpf_loop(2 * PATH_SIZE + 2, match_step, &match, 0);
	if (!match.matched)
		return 0;
	walk->key = template->key;
	return 1;
}

/* The key under which a request is counted: its template's, or that of its own folded path, `path`. */
__noinline __u64 path_templated(struct window *window, struct pending *pending)
{
	if (!window || !pending)
		return PATH_OTHER;
	__u32 zero = 0;
	__u64 path = pending->path;
	struct template *first = bpf_map_lookup_elem(&templates, &zero);
	if (!first || !first->length)
		return path;
	__u64 *known = bpf_map_lookup_elem(&templated_paths, &path);
	if (known)
		return *known ? *known : path;
	if (!pending->foldable) {
		for (int i = 0; i < PATH_SIZE / 8; i++)
			((__u64 *)window->fold)[i] = ((const __u64 *)pending->target)[i];
		window->folded = pending->path_length;
	}
	struct templates_walk walk = {.window = window, .length = window->folded};
	bpf_loop(TEMPLATES, templates_step, &walk, 0);
	bpf_map_update_elem(&templated_paths, &path, &walk.key, BPF_ANY);
	return walk.key ? walk.key : path;
}

#endif
