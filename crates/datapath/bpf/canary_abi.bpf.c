/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Never loaded: as abi.bpf.c, for the types of the gates. */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#pragma clang diagnostic error "-Wpadded"
#include "canary/abi.h"

struct canary_abi_types {
	enum canary_lane lane;
	enum canary_hook hook;
};

struct canary_abi_types canary_abi_types;
struct canary_scope canary_abi_scope;
struct canary_count canary_abi_count;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
