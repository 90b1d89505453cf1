/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Never loaded: as abi.bpf.c, for the types of the observing programs. */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#pragma clang diagnostic error "-Wpadded"
#include "observe/abi.h"

struct observe_abi_types {
	enum observe_abi observe_abi;
	enum method method;
	enum side side;
	enum latency latency;
	enum tally tally;
	enum request_flags request_flags;
	enum event_type event_type;
};

struct observe_abi_types observe_abi_types;
struct identity observe_abi_identity;
struct series_key observe_abi_series_key;
struct series observe_abi_series;
struct path observe_abi_path;
struct request_event observe_abi_request_event;
struct filter observe_abi_filter;
struct filter_state observe_abi_filter_state;
struct record observe_abi_record;
struct slowest_order observe_abi_slowest_order;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
