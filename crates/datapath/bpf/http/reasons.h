/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Nothing is silent: whatever the kernel leaves to the proxy has a reason, and the reason a counter. */
#ifndef HTTP_REASONS_H
#define HTTP_REASONS_H

#include "alize/counters.h"
#include "alize/text.h"
#include "http/abi.h"

/* service -> how often the proxy was needed, by reason. Written by connect, client and far, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct http_reasons);
} http_reasons SEC(".maps");

_Static_assert(VERSION_HTTP + HTTP_REASONS <= VERSION_COUNTS, "a place for each");

static const struct http_reasons no_http_reasons;

static __always_inline void count_reason(__u32 service, __u32 reason)
{
	struct http_reasons *reasons =
		counter_entry(&http_reasons, service, &no_http_reasons, ANOMALY_SERVICE_UNCOUNTED);
	/* What the compiler knows of the reason it would not ask, and the verifier does not know it. */
	HIDE(reason);
	if (reasons && reason < HTTP_REASONS)
		COUNT(reasons->count[reason], 1);
	count_for_version(VERSION_HTTP + reason);
}

#endif
