/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which services are routed request by request, and where their proxy listens. */
#ifndef HTTP_SERVICE_H
#define HTTP_SERVICE_H

#include "alize/bpf.h"
#include "http/abi.h"

/*
 * service -> how its requests are routed, enum http_service_word. Written by the agent, one store each; read by connect and
 * client.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, __u64);
} http_services SEC(".maps");

/* network namespace -> where in it the proxy listens. Written by the proxy, read by connect. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct http_listener);
} http_listeners SEC(".maps");

static __always_inline __u64 http_service_word(__u32 service)
{
	__u64 *word = bpf_map_lookup_elem(&http_services, &service);
	return word ? READ_ONCE(*word) : 0;
}

#endif
