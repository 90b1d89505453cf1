/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How long something took, in the buckets of a native histogram: the same for what is observed and what is routed. */
#ifndef ALIZE_LATENCY_H
#define ALIZE_LATENCY_H

#include "observe/abi.h"

/*
 * The bucket of a native histogram of schema 2 (enum latency). Its bounds are powers of 2^(1/4) of a second, so time
 * is turned into units of 2^-30 s first; the rounding moves a bound by less than 1 part in 10 million.
 */
static __always_inline __u32 latency_bucket(__u64 ns)
{
	enum { UNIT = 30 };
	if (ns >= 1ULL << 43)
		return LATENCY_BUCKETS - 1;
	__u64 time = ns * 1125900 >> 20;
	if (time >> (UNIT + LATENCY_FIRST_OCTAVE) == 0)
		return 0;
	/* floor(log2), by halves: BPF cannot count zeros. */
	__u32 octave = 0;
	__u64 rest = time;
	if (rest >> 32) {
		octave += 32;
		rest >>= 32;
	}
	if (rest >> 16) {
		octave += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		octave += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		octave += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		octave += 2;
		rest >>= 2;
	}
	octave += rest >> 1;
	/* time / 2^octave in [1, 2), as 24 bits behind the point, beside 2^(1/4), 2^(1/2), 2^(3/4) */
	__u64 mantissa = octave >= 24 ? time >> (octave - 24) : time << (24 - octave);
	__u32 quarter = (mantissa >= 19951585) + (mantissa >= 23726566) + (mantissa >= 28215802);
	__u32 bucket = (octave - (UNIT + LATENCY_FIRST_OCTAVE)) * 4 + quarter;
	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

#endif
