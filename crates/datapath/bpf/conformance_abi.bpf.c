/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Never loaded: as abi.bpf.c, for the types of the conformance probe. */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#pragma clang diagnostic error "-Wpadded"
#include "conformance/abi.h"

struct conformance_abi_types {
	enum conformance_verb verb;
	enum conformance_seen seen;
};

struct conformance_abi_types conformance_abi_types;
struct conformance_plan conformance_abi_plan;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
