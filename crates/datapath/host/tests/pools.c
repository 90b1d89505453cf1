/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pools under many threads: clients take and finish slots as the programs do, late finishers come with leases of before,
 * and one proxy retires slots, arms them anew and mends, as crates/datapath/src/http/router does. A slot must be one
 * client's at a time, and none may be lost or doubled. For sanitizers; usage: pools REQUESTS
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include "../src/http.c"
#include "check.h"

enum { CLIENTS = 6, LENT_SLOTS = 5, GENERATIONS = 1 << HTTP_SLOT_GENERATION_BITS, POOL = 3 };

static __u32 owners[LENT_SLOTS][GENERATIONS]; /* who has the slot in a generation */
static int running = CLIENTS;
static long requests, taken, finished, retired_lent, retired_idle, armed, mended;

static __u64 word_of(__u32 number)
{
	return READ_ONCE(host_slots[number].state);
}

/* Whether the threads have met: where there is but one CPU left for all that takes longer. */
static bool met(void)
{
	return READ_ONCE(finished) && READ_ONCE(retired_idle) && READ_ONCE(retired_lent) &&
	       READ_ONCE(armed) > LENT_SLOTS;
}

static void *client(void *argument)
{
	__u32 me = (__u32)(size_t)argument, late_slot = 0;
	__u64 late_lease = 0;
	for (long i = 0; i < requests || (!met() && i < 100 * requests); i++) {
		__u64 lease = 0, cookie = ((__u64)i << 8) + me;
		bool open = http_random() & 1;
		__u32 number = slot_take(POOL, cookie, open ? HTTP_SLOT_OPEN : 0, &lease);
		/* Clients are more than slots; and where there is one CPU for all, nobody else gets on meanwhile. */
		if (number == SLOT_NONE) {
			sched_yield();
			continue;
		}
		COUNT(taken, 1);
		CHECK(number < LENT_SLOTS && SLOT_COOKIE(lease) == cookie);
		__u32 *owner = &owners[number][SLOT_GENERATION(lease)];
		CHECK(__sync_val_compare_and_swap(owner, 0, me) == 0);
		/* A finisher of an earlier request, which must not end this one. */
		if (late_lease)
			CHECK(!slot_finish(late_slot, late_lease, HTTP_SLOT_BUSY));
		late_lease = lease;
		late_slot = number;
		bool dead = word_of(number) & HTTP_SLOT_DEAD;
		CHECK(dead || LEASE(word_of(number)) == lease ||
		      word_of(number) >> HTTP_SLOT_GENERATION_SHIFT != lease >> HTTP_SLOT_GENERATION_SHIFT);
		if (open && http_random() & 1) {
			slot_finish(number, lease, HTTP_SLOT_OPEN);
			open = false;
		}
		if (i % 16 == 0)
			sched_yield();
		CHECK(__sync_val_compare_and_swap(owner, me, 0) == me);
		if (open)
			CHECK(!slot_finish(number, lease, HTTP_SLOT_BUSY));
		if (slot_finish(number, lease, open ? HTTP_SLOT_OPEN : HTTP_SLOT_BUSY))
			COUNT(finished, 1);
		/* Not only while it is lent. */
		if (i % 16 == 8)
			sched_yield();
	}
	__sync_fetch_and_sub(&running, 1);
	return 0;
}

/* As Router::retire. */
static void retire(__u32 number)
{
	struct http_slot *slot = &host_slots[number];
	for (;;) {
		__u64 word = READ_ONCE(slot->state);
		if (word & HTTP_SLOT_DEAD)
			return;
		bool idle = !(word & (HTTP_SLOT_FLAGS & ~HTTP_SLOT_LOST)) && !SLOT_COOKIE(word);
		__u64 out = idle && !(word & HTTP_SLOT_LOST) ? 0 : HTTP_SLOT_OUT;
		if (slot_change(slot, word, word | HTTP_SLOT_DEAD | out)) {
			if (idle)
				COUNT(retired_idle, 1);
			else
				COUNT(retired_lent, 1);
			return;
		}
	}
}

/* As Router::reserve and Router::arm: only of what is in no pool. */
static void arm(__u32 number)
{
	struct http_slot *slot = &host_slots[number];
	__u32 generation = SLOT_GENERATION(word_of(number)) + 1;
	if (generation == GENERATIONS)
		return;
	WRITE_ONCE(slot->pool, POOL);
	__atomic_store_n(&slot->state, (__u64)generation << HTTP_SLOT_GENERATION_SHIFT, __ATOMIC_RELEASE);
	while (!pool_push(&host_pools[POOL], slot, number))
		;
	COUNT(armed, 1);
}

/* As Router::mend. */
static void mend(__u32 number)
{
	struct http_slot *slot = &host_slots[number];
	__u64 word = READ_ONCE(slot->state);
	if (!(word & HTTP_SLOT_LOST) || word & HTTP_SLOT_DEAD ||
	    !slot_change(slot, word, word & ~(__u64)HTTP_SLOT_LOST))
		return;
	while (!pool_push(&host_pools[POOL], slot, number))
		;
	mended++;
}

static void tend(void)
{
	for (__u32 number = 0; number < LENT_SLOTS; number++) {
		__u64 word = word_of(number);
		if (word & HTTP_SLOT_DEAD && word & HTTP_SLOT_OUT)
			arm(number);
		else if (word & HTTP_SLOT_LOST)
			mend(number);
	}
}

/* Each slot is in the pool once, idle or dead; or in none and dead. */
static void check_rest(void)
{
	int in_pool[LENT_SLOTS] = {};
	for (__u32 number; (number = pool_pop(&host_pools[POOL])) != SLOT_NONE;) {
		CHECK(number < LENT_SLOTS);
		CHECK(++in_pool[number] == 1);
	}
	for (__u32 number = 0; number < LENT_SLOTS; number++) {
		__u64 word = word_of(number);
		CHECK(in_pool[number] ? !(word & HTTP_SLOT_OUT) : (word & HTTP_SLOT_DEAD && word & HTTP_SLOT_OUT));
		CHECK(!SLOT_COOKIE(word) || word & HTTP_SLOT_DEAD);
		CHECK(!(word & (HTTP_SLOT_BUSY | HTTP_SLOT_OPEN)) || word & HTTP_SLOT_DEAD);
	}
}

int main(int count, char **arguments)
{
	requests = count > 1 ? atol(arguments[1]) : 10000;
	for (__u32 number = 0; number < LENT_SLOTS; number++)
		arm(number);
	pthread_t threads[CLIENTS];
	for (size_t i = 0; i < CLIENTS; i++)
		CHECK(!pthread_create(&threads[i], 0, client, (void *)(i + 1)));
	while (__sync_fetch_and_add(&running, 0)) {
		if (http_random() % 4 == 0)
			retire(http_random() % LENT_SLOTS);
		tend();
		sched_yield();
	}
	for (size_t i = 0; i < CLIENTS; i++)
		pthread_join(threads[i], 0);
	tend();
	check_rest();
	printf("%ld taken, %ld finished, %ld retired idle, %ld lent, %ld armed, %ld mended\n", taken, finished,
	       retired_idle, retired_lent, armed, mended);
	CHECK(taken > requests / 10 && met());
	return 0;
}
