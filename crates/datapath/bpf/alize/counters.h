/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: made on first use, so that a service nobody calls costs nothing; added to here, read by the agent. */
#ifndef ALIZE_COUNTERS_H
#define ALIZE_COUNTERS_H

#include "bpf.h"

/* enum anomaly -> how often. Written by all programs, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ANOMALIES);
	__type(key, __u32);
	__type(value, __u64);
} anomalies SEC(".maps");

/*
 * enum version_count -> how often connects were refused, and HTTP was left to the proxy. Of one version of the programs: while
 * another is on trial, that has a map of its own. Written by all programs, read and zeroed by the agent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERSION_COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} version_counts SEC(".maps");

/* service -> what its connections did. Written by all programs, read and removed from by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct traffic);
} service_traffic SEC(".maps");

/* endpoint -> what its connections did. Written by all programs, read and removed from by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, struct traffic);
} endpoint_traffic SEC(".maps");

/* service -> what was decided without an endpoint. Written by connect and sendmsg, read and removed from by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct decisions);
} service_decisions SEC(".maps");

/* service -> what became of its connections of mode shadow. Written by connect, sendmsg, sockops and release. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct outcomes);
} shadow_outcomes SEC(".maps");

/* endpoint -> how many connections it would have got in mode shadow. Written by connect and sendmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.endpoints */
	__type(key, __u32);
	__type(value, __u64);
} shadow_would SEC(".maps");

static __always_inline void count_anomaly(__u32 anomaly)
{
	__u64 *count = bpf_map_lookup_elem(&anomalies, &anomaly);
	if (count)
		COUNT(*count, 1);
}

static __always_inline void count_for_version(__u32 place)
{
	__u64 *count = bpf_map_lookup_elem(&version_counts, &place);
	if (count)
		COUNT(*count, 1);
}

/* The entry of `key`, made if need be; an anomaly is counted when the map takes no more. */
static __always_inline void *counter_entry(void *map, __u32 key, const void *zero, __u32 anomaly)
{
	void *entry = bpf_map_lookup_elem(map, &key);
	if (entry)
		return entry;
	/* Another CPU may have been faster: only the second look tells. */
	bpf_map_update_elem(map, &key, zero, BPF_NOEXIST);
	entry = bpf_map_lookup_elem(map, &key);
	if (!entry)
		count_anomaly(anomaly);
	return entry;
}

static const struct traffic no_traffic;
static const struct decisions no_decisions;
static const struct outcomes no_outcomes;
static const __u64 nothing;

static __always_inline struct traffic *traffic_of_service(__u32 service)
{
	return counter_entry(&service_traffic, service, &no_traffic, ANOMALY_SERVICE_UNCOUNTED);
}

static __always_inline struct traffic *traffic_of_endpoint(__u32 endpoint)
{
	return counter_entry(&endpoint_traffic, endpoint, &no_traffic, ANOMALY_ENDPOINT_UNCOUNTED);
}

static __always_inline struct decisions *decisions_of_service(__u32 service)
{
	return counter_entry(&service_decisions, service, &no_decisions, ANOMALY_SERVICE_UNCOUNTED);
}

static __always_inline struct outcomes *outcomes_of_service(__u32 service)
{
	return counter_entry(&shadow_outcomes, service, &no_outcomes, ANOMALY_SERVICE_UNCOUNTED);
}

static __always_inline void count_would(__u32 endpoint)
{
	__u64 *would = counter_entry(&shadow_would, endpoint, &nothing, ANOMALY_ENDPOINT_UNCOUNTED);
	if (would)
		COUNT(*would, 1);
}

/* What a connection adds to the counters of its service and of its endpoint, which are two maps of one shape. */
static __always_inline void traffic_add(struct traffic *to, const struct traffic *delta)
{
	if (!to)
		return;
	if (delta->bytes_sent)
		COUNT(to->bytes_sent, delta->bytes_sent);
	if (delta->bytes_received)
		COUNT(to->bytes_received, delta->bytes_received);
	if (delta->retransmits)
		COUNT(to->retransmits, delta->retransmits);
	if (delta->rtt_samples) {
		COUNT(to->rtt_us, delta->rtt_us);
		COUNT(to->rtt_samples, delta->rtt_samples);
	}
}

#endif
