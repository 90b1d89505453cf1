/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* FNV-1a over words, with the finish of SplitMix64: crates/model/src/http/hash.rs is the same, and the proxy hashes with it. */
#ifndef HTTP_HASH_H
#define HTTP_HASH_H

#include "alize/bpf.h"

#define HASH_BASIS 0xcbf29ce484222325ULL
#define HASH_PRIME 0x100000001b3ULL

static __always_inline __u64 hash_finish(__u64 hash)
{
	hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9ULL;
	hash = (hash ^ hash >> 27) * 0x94d049bb133111ebULL;
	return hash ^ hash >> 31;
}

#endif
