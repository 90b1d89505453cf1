/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Slots: connections from the proxy to endpoints, lent to one client for one request. Pools are stacks without locks
 * (Treiber), shared with the proxy through mapped maps: a slot is in its pool, or somebody's, never both. Who takes a
 * slot off a stack owns it; the word then says for whom, and only compare-and-swap changes it, because the proxy may
 * retire the slot at the same moment.
 */
#ifndef HTTP_SLOT_H
#define HTTP_SLOT_H

#include "alize/bpf.h"
#include "http/abi.h"

enum {
	SLOT_TRIES = 16, /* compare-and-swaps against other CPUs; after that the pool counts as empty */
	SLOT_CORPSES = 8, /* dead slots passed over while taking one */
	SLOT_NONE = 0xffffffff,
};

/* number -> slot. Written by the programs and, mapped, by the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* budgets.http */
	__type(key, __u32);
	__type(value, struct http_slot);
} http_slots SEC(".maps");

/* number of a pool -> its stack. Written by the programs and, mapped, by the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* as http_pools */
	__type(key, __u32);
	__type(value, struct http_pool);
} http_pool_heads SEC(".maps");

/* endpoint -> requests outstanding. Written by the programs and, mapped, by the proxy. Whoever clears HTTP_SLOT_BUSY takes one off. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, __u32);
} http_load SEC(".maps");

static __always_inline void load_change(__u32 endpoint, __s32 change)
{
	__u32 *load = bpf_map_lookup_elem(&http_load, &endpoint);
	if (load)
		__sync_fetch_and_add(load, change);
}

static __always_inline struct http_slot *slot_get(__u32 number)
{
	return bpf_map_lookup_elem(&http_slots, &number);
}

#define POOL_SLOT(head) ((__u32)((head) & ((1ULL << HTTP_HEAD_SLOT_BITS) - 1)))
#define POOL_NEXT(head, slot) (((((head) >> HTTP_HEAD_SLOT_BITS) + 1) << HTTP_HEAD_SLOT_BITS) | (slot))

/* The number of the slot that was on top; SLOT_NONE when there is none, or others were always faster. */
static __always_inline __u32 pool_pop(struct http_pool *pool)
{
	for (int i = 0; i < SLOT_TRIES; i++) {
		__u64 head = READ_ONCE(pool->head);
		__u32 top = POOL_SLOT(head);
		if (!top)
			return SLOT_NONE;
		struct http_slot *slot = slot_get(top - 1);
		if (!slot)
			return SLOT_NONE;
		/* If it is taken in between, the tag differs, and what was read is of no consequence. */
		__u64 next = READ_ONCE(slot->next);
		if (__sync_val_compare_and_swap(&pool->head, head, POOL_NEXT(head, next)) == head)
			return top - 1;
	}
	return SLOT_NONE;
}

static __always_inline bool pool_push(struct http_pool *pool, struct http_slot *slot, __u32 number)
{
	for (int i = 0; i < SLOT_TRIES; i++) {
		__u64 head = READ_ONCE(pool->head);
		WRITE_ONCE(slot->next, POOL_SLOT(head));
		if (__sync_val_compare_and_swap(&pool->head, head, POOL_NEXT(head, number + 1)) == head)
			return true;
	}
	return false;
}

#define LEASE(word) ((word) & ~(__u64)HTTP_SLOT_FLAGS)
#define SLOT_COOKIE(word) ((word) >> HTTP_SLOT_COOKIE_SHIFT)
#define SLOT_GENERATION(word) ((__u32)FIELD(word, HTTP_SLOT_GENERATION))

static __always_inline bool slot_change(struct http_slot *slot, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(&slot->state, from, to) == from;
}

/* The proxy retired the slot while it was idle; now that it is in no pool, its number is the proxy's again. */
static __always_inline void slot_bury(struct http_slot *slot)
{
	__u64 word = READ_ONCE(slot->state);
	if (word & HTTP_SLOT_DEAD)
		slot_change(slot, word, word | HTTP_SLOT_OUT);
}

/*
 * Takes an idle slot of the pool for a client, with more flags if need be; its number, or SLOT_NONE. `lease` is told as it
 * was taken: read from the slot afterwards it could be another client's already.
 */
__noinline __u32 slot_take(__u32 pool_number, __u64 cookie, __u32 flags, __u64 *lease)
{
	struct http_pool *pool = bpf_map_lookup_elem(&http_pool_heads, &pool_number);
	if (!pool || !lease)
		return SLOT_NONE;
	for (int i = 0; i < SLOT_CORPSES; i++) {
		__u32 number = pool_pop(pool);
		if (number == SLOT_NONE)
			break;
		struct http_slot *slot = slot_get(number);
		if (!slot)
			break;
		__u64 word = READ_ONCE(slot->state);
		bool idle = !(word & HTTP_SLOT_FLAGS) && !SLOT_COOKIE(word);
		*lease = word | cookie << HTTP_SLOT_COOKIE_SHIFT;
		if (idle && slot_change(slot, word, *lease | HTTP_SLOT_BUSY | flags))
			return number;
		slot_bury(slot);
	}
	COUNT(pool->empty, 1);
	return SLOT_NONE;
}

/* Whether the slot is still lent under `lease`, that is whether a response is outstanding. */
static __always_inline bool slot_is_lent(const struct http_slot *slot, __u64 lease)
{
	__u64 word = READ_ONCE(slot->state);
	return LEASE(word) == lease && word & HTTP_SLOT_BUSY && !(word & HTTP_SLOT_DEAD);
}

/* Whether nobody but the lease's holder may use the slot. */
static __always_inline bool slot_is_held(const struct http_slot *slot, __u64 lease)
{
	__u64 word = READ_ONCE(slot->state);
	return LEASE(word) == lease && !(word & HTTP_SLOT_DEAD);
}

/* Adds `set` to and takes `clear` from the flags, as long as the slot is lent under `lease`; whether it is. */
static __always_inline bool slot_flag(struct http_slot *slot, __u64 lease, __u32 set, __u32 clear, __u32 *flags)
{
	for (int i = 0; i < SLOT_TRIES; i++) {
		__u64 word = READ_ONCE(slot->state);
		if (LEASE(word) != lease || word & HTTP_SLOT_DEAD)
			return false;
		__u64 changed = (word | set) & ~(__u64)clear;
		if (slot_change(slot, word, changed)) {
			*flags = changed & HTTP_SLOT_FLAGS;
			return true;
		}
	}
	return false;
}

/*
 * The endpoint has ended the connection. Idle, the slot is dead at once, before anybody can be lent what will not answer;
 * lent, it is the proxy that hears of the end, and tells the client. It stays in its pool until somebody comes upon it.
 */
static __always_inline void slot_end(struct http_slot *slot, __u32 generation)
{
	for (int i = 0; i < SLOT_TRIES; i++) {
		__u64 word = READ_ONCE(slot->state);
		if (SLOT_GENERATION(word) != generation || SLOT_COOKIE(word) || word & HTTP_SLOT_FLAGS)
			return;
		if (slot_change(slot, word, word | HTTP_SLOT_DEAD))
			return;
	}
}

/*
 * The response has ended, or the request has: `clear` is HTTP_SLOT_BUSY or HTTP_SLOT_OPEN. When neither is left the slot
 * goes back to its pool.
 */
__noinline __u32 slot_finish(__u32 number, __u64 lease, __u32 clear)
{
	__u32 flags;
	struct http_slot *slot = slot_get(number);
	if (!slot || !slot_flag(slot, lease, 0, clear, &flags))
		return 0;
	/* Once, by whoever has cleared the flag: the proxy, which may retire the slot at this moment, does likewise. */
	if (clear & HTTP_SLOT_BUSY)
		load_change(slot->endpoint, -1);
	if (flags)
		return 0;
	/* Another's by now, perhaps: then what follows comes to nothing. */
	__u32 pool_number = READ_ONCE(slot->pool);
	struct http_pool *pool = bpf_map_lookup_elem(&http_pool_heads, &pool_number);
	/* As long as it is lent: of who is lent it next the proxy must not believe that a response has begun. */
	WRITE_ONCE(slot->response_bytes, 0);
	/* Idle first, then in the pool: from here on the proxy may retire it, and who takes a dead one buries it. */
	__u64 idle = lease & ((1ULL << HTTP_SLOT_COOKIE_SHIFT) - 1);
	if (!slot_change(slot, lease, idle))
		return 0;
	if (pool && pool_push(pool, slot, number))
		return 1;
	/* Retired in between, it is dead and in no pool, and nobody else will come upon it. */
	if (!slot_change(slot, idle, idle | HTTP_SLOT_LOST))
		slot_bury(slot);
	return 0;
}

#endif
