/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's helpers and maps as far as the programs use them, for the host. Maps are found by their address. */
#ifndef ALIZE_HOST_BPF_H
#define ALIZE_HOST_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <linux/bpf.h>

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline static __attribute__((noinline, unused))
#define SEC(name) __attribute__((unused))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

#define bpf_ntohl(x) __builtin_bswap32(x)
#define bpf_htonl(x) __builtin_bswap32(x)
#define bpf_htons(x) __builtin_bswap16(x)

void *host_map_lookup(const void *map, const void *key, size_t key_size, size_t value_size, int type, size_t entries);
long host_map_update(const void *map, const void *key, const void *value, size_t key_size, size_t value_size, int type,
		     size_t entries, __u64 flags);
void *host_storage(const void *map, const struct bpf_sock *sk, size_t value_size, __u64 flags);
void host_ring(const void *map, const void *bytes, size_t size);
long host_load_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size);

#define HOST_TYPE(map) ((int)(sizeof(*(map)->type) / sizeof(int)))
#define HOST_ENTRIES(map) (sizeof(*(map)->max_entries) / sizeof(int))
#define bpf_map_lookup_elem(map, key_) \
	host_map_lookup(map, key_, sizeof(*(map)->key), sizeof(*(map)->value), HOST_TYPE(map), HOST_ENTRIES(map))
#define bpf_map_update_elem(map, key_, value_, flags)                                                  \
	host_map_update(map, key_, value_, sizeof(*(map)->key), sizeof(*(map)->value), HOST_TYPE(map), \
			HOST_ENTRIES(map), flags)
#define bpf_sk_storage_get(map, sk, initial, flags) host_storage(map, sk, sizeof(*(map)->value), flags)
#define bpf_ringbuf_output(map, bytes, size, flags) (host_ring(map, bytes, size), 0)
#define bpf_skb_load_bytes(skb, offset, to, size) host_load_bytes(skb, offset, to, size)

static inline long bpf_loop(__u32 steps, long (*step)(__u32, void *), void *context, __u64 flags)
{
	(void)flags;
	for (__u32 i = 0; i < steps; i++)
		if (step(i, context))
			return i + 1;
	return steps;
}

/* What the surroundings of a packet are; host.c sets it. */
struct host_now {
	__u64 time;
	__u64 cgroup;
	__u32 pid;
	int owned;
	struct bpf_tcp_sock tcp;
};
extern struct host_now host_now;

#define bpf_ktime_get_ns() (host_now.time)
#define bpf_get_smp_processor_id() 0
#define bpf_get_prandom_u32() 0
#define bpf_skb_cgroup_id(skb) (host_now.cgroup)
#define bpf_get_current_pid_tgid() ((__u64)host_now.pid << 32 | host_now.pid)
#define bpf_get_socket_uid(skb) 0
#define bpf_get_socket_cookie(skb) ((__u64)(size_t)(skb)->sk)
#define bpf_get_current_comm(to, size) memcpy(to, "host", 5)
#define bpf_tcp_sock(sk) (&host_now.tcp)
#define bpf_skc_to_tcp_sock(sk) ((void *)&host_now.owned)

#endif
