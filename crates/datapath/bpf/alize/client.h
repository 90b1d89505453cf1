/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who calls, for affinity and consistent hashing. At connect() no source address has been chosen yet, so a client is
 * the cgroup and the network namespace of the caller, and the source address where the socket is bound to one.
 */
#ifndef ALIZE_CLIENT_H
#define ALIZE_CLIENT_H

#include "address.h"

/* Finalizer of MurmurHash3: every input bit changes half of the output bits. */
static __always_inline __u64 mix(__u64 h)
{
	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdULL;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ULL;
	h ^= h >> 33;
	return h;
}

static __always_inline __u64 client_hash(__u64 cgroup, __u64 netns, const __be32 source[4])
{
	__u64 high = (__u64)source[0] << 32 | source[1];
	__u64 low = (__u64)source[2] << 32 | source[3];
	return mix(mix(mix(mix(cgroup) ^ netns) ^ high) ^ low);
}

#endif
