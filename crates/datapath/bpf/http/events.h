/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the proxy should know about bytes that reach it, or cannot reach it. */
#ifndef HTTP_EVENTS_H
#define HTTP_EVENTS_H

#include "alize/counters.h"
#include "http/abi.h"

/* struct http_event, oldest first. Written by client and connect, read by the proxy, which bytes on a socket wake. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} http_events SEC(".maps");

static __always_inline void http_tell(__u64 cookie, __u32 reason, __u32 slot, __u64 wake)
{
	struct http_event event = {.cookie = cookie, .reason = reason, .slot = slot};
	if (bpf_ringbuf_output(&http_events, &event, sizeof(event), wake))
		count_anomaly(ANOMALY_EVENT_LOST);
}

#endif
