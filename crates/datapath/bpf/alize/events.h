/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent should hear of at once. The ring's size is the limit; what does not fit is counted. */
#ifndef ALIZE_EVENTS_H
#define ALIZE_EVENTS_H

#include "counters.h"

/* struct event, oldest first. Written by all programs, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

static __always_inline void event_send(const struct event *event)
{
	if (bpf_ringbuf_output(&events, (void *)event, sizeof(*event), 0))
		count_anomaly(ANOMALY_EVENT_LOST);
}

#endif
