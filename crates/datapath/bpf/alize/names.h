/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Names: no program asks for them, but the agent that adopts the maps does, and people with bpftool. */
#ifndef ALIZE_NAMES_H
#define ALIZE_NAMES_H

#include "bpf.h"

/* service -> its name. Written and read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* budgets.services */
	__type(key, __u32);
	__type(value, struct service_name);
} service_names SEC(".maps");

#endif
