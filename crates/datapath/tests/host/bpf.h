/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps and helpers of the kernel for headers that are compiled for the host. A map is known by the address of its
 * declaration; sizes come from the declaration's types, as they do in libbpf.
 */
#ifndef HOST_BPF_H
#define HOST_BPF_H

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, type) typeof(type) *name
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define bpf_htonl htonl

enum { HOST_ENTRIES = 512 };

/* A map: arrays have all their entries from the start, hashes only those that were put in. */
struct host_map {
	const void *declaration;
	size_t key_size, value_size;
	bool array;
	bool full; /* takes no new entry */
	bool used[HOST_ENTRIES];
	unsigned char *keys, *values;
};

extern struct host_map host_maps[];
extern const size_t host_map_count;

/* What a program may ask of the kernel, set by the tests. */
struct host_state {
	__u64 now;
	__u32 random[64]; /* drawn first; then a sequence of its own */
	size_t random_drawn, random_count;
	__u64 seed;
	unsigned char event[64];
	size_t event_size;
};

extern struct host_state host;

static inline struct host_map *host_map_of(const void *declaration)
{
	for (size_t i = 0; i < host_map_count; i++)
		if (host_maps[i].declaration == declaration)
			return &host_maps[i];
	abort();
}

static inline void *bpf_map_lookup_elem(const void *declaration, const void *key)
{
	struct host_map *map = host_map_of(declaration);
	if (map->array) {
		__u32 index;
		memcpy(&index, key, sizeof(index));
		return index < HOST_ENTRIES ? map->values + index * map->value_size : NULL;
	}
	for (size_t i = 0; i < HOST_ENTRIES; i++)
		if (map->used[i] && !memcmp(map->keys + i * map->key_size, key, map->key_size))
			return map->values + i * map->value_size;
	return NULL;
}

static inline long bpf_map_update_elem(const void *declaration, const void *key, const void *value, __u64 flags)
{
	struct host_map *map = host_map_of(declaration);
	void *entry = bpf_map_lookup_elem(declaration, key);
	if (entry && flags == BPF_NOEXIST)
		return -17; /* EEXIST */
	for (size_t i = 0; !entry && !map->array && !map->full && i < HOST_ENTRIES; i++) {
		if (map->used[i])
			continue;
		map->used[i] = true;
		memcpy(map->keys + i * map->key_size, key, map->key_size);
		entry = map->values + i * map->value_size;
	}
	if (!entry)
		return -7; /* E2BIG */
	memcpy(entry, value, map->value_size);
	return 0;
}

static inline __u32 bpf_get_prandom_u32(void)
{
	if (host.random_drawn < host.random_count)
		return host.random[host.random_drawn++];
	/* SplitMix64 */
	__u64 z = host.seed += 0x9e3779b97f4a7c15ULL;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return (z ^ (z >> 31)) >> 32;
}

static inline __u64 bpf_ktime_get_ns(void)
{
	return host.now;
}

static inline long bpf_ringbuf_output(void *ring, void *data, __u64 size, __u64 flags)
{
	(void)ring, (void)flags;
	if (size > sizeof(host.event))
		abort();
	memcpy(host.event, data, size);
	host.event_size = size;
	return 0;
}

#endif
