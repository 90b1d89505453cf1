/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Back sockets that the kernel uses: the proxy's, to endpoints that have no socket here. */
#ifndef HTTP_BACK_H
#define HTTP_BACK_H

#include "http/slot.h"

/* cookie of a back socket -> the slot it serves: sk_skb programs have no socket storage. Written by the proxy, read by back. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* as http_back_sockets */
	__type(key, __u64);
	__type(value, struct http_far);
} http_backs SEC(".maps");

/* What back goes on with; as `http_next`, for a prog array holds programs of one type. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, HTTP_NEXTS);
	__type(key, __u32);
	__type(value, __u32);
} http_back_next SEC(".maps");

#endif
