/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Segments of one socket are looked at by several CPUs at once: sending holds the socket, but what is received comes here
 * before the socket is taken (net/ipv4/tcp_ipv4.c, sk_filter before bh_lock_sock), on the CPU that sent it, and a sender
 * that has moved to another CPU overtakes itself. So who comes second waits for the first, for a while: reading a
 * segment takes a microsecond, and where the first does not go on, as its CPU was taken away, nobody may hang on it.
 */
#ifndef OBSERVE_TURN_H
#define OBSERVE_TURN_H

#include "words.h"

enum { TURN_STEPS = 4096 }; /* some 20 us */

struct turn {
	__u32 *busy;
	const __u32 *next;
	__u32 sequence;
	__u32 taken;
};

static __always_inline bool turn_try(const struct turn *turn, bool late)
{
	if (*(volatile __u32 *)turn->busy)
		return false;
	if (!late && (__s32)(turn->sequence - *(const volatile __u32 *)turn->next) > 0)
		return false;
	return !__sync_lock_test_and_set(turn->busy, 1);
}

static long turn_step(__u32 i, void *context)
{
	struct turn *turn = context;
	/* In the last step also what is not next: the one before was lost. */
	turn->taken = turn_try(turn, i >= TURN_STEPS - 1);
	return turn->taken;
}

/*
 * Takes the turn to read the segment that begins with `sequence`, in a direction of which the bytes before `next` have been
 * read. False: another CPU has it, and goes on having it.
 */
static __always_inline bool turn_take(__u32 *busy, const __u32 *next, __u32 sequence)
{
	struct turn turn = {busy, next, sequence, 0};
	if (turn_try(&turn, false))
		return true;
	bpf_loop(TURN_STEPS, turn_step, &turn, 0);
	return turn.taken;
}

static __always_inline void turn_give(__u32 *busy)
{
	__sync_lock_test_and_set(busy, 0);
}

#endif
