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
__u32 http_random(void);

/* Maps that no test looks at are empty and take nothing. */
#define bpf_map_lookup_elem(map, key) http_map_lookup(map, key)
#define bpf_map_update_elem(map, key, value, flags) ((void)(value))
#define bpf_get_prandom_u32() http_random()
#define bpf_ktime_get_ns() 0ULL

#endif
