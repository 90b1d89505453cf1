/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which rule a request falls under, which endpoint it gets. The tables are compiled by user space; see docs/adr/0008. */
#ifndef HTTP_ROUTE_H
#define HTTP_ROUTE_H

#include "http/account.h"
#include "http/hash.h"
#include "http/head.h"
#include "http/limit.h"
#include "http/service.h"

/* table and path -> a rule for each method. Written by the agent before a service names the table; read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services, four each */
	__type(key, struct http_class_key);
	__type(value, struct http_class);
} http_classes SEC(".maps");

/* table -> what its routes ask of headers. Written by the agent before a service names the table; read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct http_headers);
} http_headers SEC(".maps");

static __always_inline struct http_headers *headers_of(__u64 word)
{
	__u32 table = FIELD(word, HTTP_SERVICE_TABLE);
	return FIELD(word, HTTP_SERVICE_HEADERS) ? bpf_map_lookup_elem(&http_headers, &table) : 0;
}

/* number -> a rule. Written by the agent before a table names it; read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* budgets.services, two each */
	__type(key, __u32);
	__type(value, struct http_rule);
} http_rules SEC(".maps");

/* number -> endpoints of a backend. Written by the agent before a rule names it; read by client, which takes turns in it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* as http_rules, two each */
	__type(key, __u32);
	__type(value, struct http_group);
} http_groups SEC(".maps");

/* place -> slot word, as in `slots`. Written by the agent before a rule or a group names it; read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* budgets.slots, within a bound */
	__type(key, __u32);
	__type(value, __u64);
} http_targets SEC(".maps");

static __always_inline __u64 target_read(__u32 place)
{
	__u64 *slot = bpf_map_lookup_elem(&http_targets, &place);
	return slot ? *slot : ~0ULL;
}

/* A slot of an alias table: the endpoint, or the one to take instead. */
static __always_inline __u32 alias_pick(__u32 base, __u32 length)
{
	__u64 slot = target_read(base + draw(length));
	__u32 odds = bpf_get_prandom_u32() >> (32 - SLOT_THRESHOLD_BITS);
	return odds < FIELD(slot, SLOT_THRESHOLD) ? FIELD(slot, SLOT_ENDPOINT) : FIELD(slot, SLOT_ALIAS);
}

static __always_inline __u64 outstanding_with_one_more(__u64 slot)
{
	__u32 endpoint = FIELD(slot, SLOT_ENDPOINT);
	__u32 *load = bpf_map_lookup_elem(&http_load, &endpoint);
	return load ? (__u64)READ_ONCE(*load) + 1 : 1;
}

/* The better of two endpoints drawn by chance, as alize/balance.h does for connections. */
static __always_inline __u32 least_requests(__u32 base, __u32 length)
{
	__u32 one = draw(length);
	__u64 first = target_read(base + one);
	if (length == 1)
		return FIELD(first, SLOT_ENDPOINT);
	__u64 second = target_read(base + (one + 1 + draw(length - 1)) % length);
	bool keep = outstanding_with_one_more(first) * FIELD(second, SLOT_THRESHOLD) <=
		    outstanding_with_one_more(second) * FIELD(first, SLOT_THRESHOLD);
	return FIELD(keep ? first : second, SLOT_ENDPOINT);
}

/* Which of the HTTP_PLACES who calls has: Caller::place() of the model is the same. */
static __always_inline __u32 caller_place(const struct http_caller *caller)
{
	__u64 hash = HASH_BASIS;
#pragma clang loop unroll(full)
	for (int i = 0; i < 6; i++) {
		__u32 word = i < 2 ? (__u32)(caller->netns >> i * 32) : caller->address[i - 2];
		hash = (hash ^ word) * HASH_PRIME;
	}
	return hash_finish(hash) % HTTP_PLACES;
}

/* `hashed`: the place of the header's value plus 1. */
static __always_inline __u32 group_pick(struct http_group *group, const struct http_caller *caller, __u32 hashed)
{
	__u32 base = group->base, length = group->length;
	if (!length)
		return NONE;
	switch (group->balance) {
	case HTTP_ROUND_ROBIN:
		return FIELD(target_read(base + __sync_fetch_and_add(&group->turn, 1) % length), SLOT_ENDPOINT);
	case HTTP_WEIGHTED_RANDOM:
		return alias_pick(base, length);
	case HTTP_SOURCE_HASH:
		hashed = caller_place(caller) + 1;
		break;
	case HTTP_HEADER_HASH:
		break;
	default:
		hashed = 0;
	}
	return hashed ? FIELD(target_read(base + (hashed - 1) % length), SLOT_ENDPOINT) : least_requests(base, length);
}

/* Looking for an endpoint that may be sent one more. */
struct scan {
	__u32 base;
	__u32 length;
	__u32 first;
	__u32 most;
	__u32 endpoint;
};

enum { SCAN_STEPS = 1024 }; /* slots that are looked at; beyond them the proxy looks */

static long scan_step(__u32 i, void *context)
{
	struct scan *scan = context;
	__u32 endpoint = FIELD(target_read(scan->base + (scan->first + i) % scan->length), SLOT_ENDPOINT);
	if (endpoint == NONE || !load_reserve(endpoint, scan->most))
		return 0;
	scan->endpoint = endpoint;
	return 1;
}

/* `endpoint`, or another of the group, counted as having one more request; NONE: each has as many as it may. */
static __always_inline __u32 group_reserve(const struct http_group *group, __u32 endpoint)
{
	if (load_reserve(endpoint, group->max_requests))
		return endpoint;
	/* Which one is next by hash is for the proxy to tell. */
	if (group->balance == HTTP_SOURCE_HASH || group->balance == HTTP_HEADER_HASH || !group->length)
		return NONE;
	struct scan scan = {
		.base = group->base,
		.length = group->length,
		.first = draw(group->length),
		.most = group->max_requests,
		.endpoint = NONE,
	};
	bpf_loop(minimum(group->length, SCAN_STEPS), scan_step, &scan, 0);
	return scan.endpoint;
}

/* What was picked beside the endpoint, and what that depended on. */
struct pick {
	__u64 found; /* in the fields, by headers_meet() */
	__u32 route;
	__u32 limited; /* the rule has rate limits */
	__u32 reserved; /* the request counts as outstanding already */
	__u32 reason; /* of NONE, enum http_reason */
};

/* The endpoint for a request under rule number `number`; NONE: it has none to offer. */
__noinline __u32 rule_pick(__u32 number, struct pick *pick, struct http_caller *caller)
{
	struct http_rule *rule = bpf_map_lookup_elem(&http_rules, &number);
	if (!pick)
		return NONE;
	pick->reason = HTTP_REASON_NO_ENDPOINT;
	if (!rule || !caller || !rule->length)
		return NONE;
	pick->route = rule->route;
	pick->limited = rule->limited;
	__u32 which = rule->length == 1 ? FIELD(target_read(rule->base), SLOT_ENDPOINT)
					: alias_pick(rule->base, rule->length);
	struct http_group *group = bpf_map_lookup_elem(&http_groups, &which);
	if (!group)
		return NONE;
	if (group->balance == HTTP_HEADER_HASH && pick->found & HTTP_HEADERS_VAGUE) {
		pick->reason = HTTP_REASON_ROUTE;
		return NONE;
	}
	__u32 endpoint = group_pick(group, caller, pick->found >> 32);
	if (!group->max_requests || endpoint == NONE)
		return endpoint;
	endpoint = group_reserve(group, endpoint);
	pick->reserved = endpoint != NONE;
	pick->reason = HTTP_REASON_CIRCUIT_OPEN;
	return endpoint;
}

static __always_inline void class_key(struct http_class_key *key, const struct http_window *window,
				      const struct head *head, __u32 table)
{
	key->prefix = 32 + HTTP_PATTERN_SIZE * 8;
	key->table = table;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < HTTP_PATTERN_SIZE / 8; i++)
		((__u64 *)key->path)[i] = i * 8 < head->path_length ? low_bytes(head_word(window, head->path + i * 8),
										head->path_length - i * 8)
								    : 0;
}

/*
 * The number of the rule plus 1; 0: the proxy's, and why is told in `reason`. `word` is the service's.
 */
__noinline __u32 route_find(struct http_window *window, struct head *head, __u64 word, __u32 *reason)
{
	if (!window || !head || !reason)
		return 0;
	*reason = HTTP_REASON_ROUTE;
	__u32 any = FIELD(word, HTTP_SERVICE_ANY);
	if (any)
		return any;
	if (head->flags & HEAD_ODD_PATH) {
		*reason = HTTP_REASON_ODD_PATH;
		return 0;
	}
	/* Written a word at a time, for which the stack must be aligned. */
	struct http_class_key key __attribute__((aligned(8)));
	class_key(&key, window, head, FIELD(word, HTTP_SERVICE_TABLE));
	struct http_class *class = bpf_map_lookup_elem(&http_classes, &key);
	__u32 method = head->method;
	HIDE(method);
	__u32 verdict = class && method < HTTP_METHODS ? class->verdicts[method] : 0;
	if (verdict & HTTP_VERDICT_CHOICE)
		return headers_choose(headers_of(word), verdict & ~HTTP_VERDICT_CHOICE, head->found);
	return verdict;
}

#endif
