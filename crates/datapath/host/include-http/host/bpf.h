/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's helpers and maps as far as the HTTP router's headers use them, for the host; src/http.c has the maps. */
#ifndef ALIZE_HOST_BPF_H
#define ALIZE_HOST_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <linux/bpf.h>

#undef __always_inline
#define __always_inline inline __attribute__((always_inline, unused))
#define __noinline static __attribute__((noinline, unused))
#define SEC(name) __attribute__((unused))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

void *http_map_lookup(const void *map, const void *key);
long http_map_update(const void *map, const void *key, const void *value);
__u32 http_random(void);
__u64 http_now(void);

#ifndef BPF_NOEXIST
#define BPF_NOEXIST 1
#endif

/* Maps that no test looks at are empty and take nothing. */
#define bpf_map_lookup_elem(map, key) http_map_lookup(map, key)
#define bpf_map_update_elem(map, key, value, flags) http_map_update(map, key, value)
#define bpf_get_prandom_u32() http_random()
#define bpf_ktime_get_ns() http_now()

static inline long bpf_loop(__u32 steps, long (*step)(__u32, void *), void *context, __u64 flags)
{
	(void)flags;
	for (__u32 i = 0; i < steps; i++)
		if (step(i, context))
			return i + 1;
	return steps;
}

#endif
