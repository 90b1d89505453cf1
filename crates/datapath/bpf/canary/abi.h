/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What crosses the border while two versions of the programs run side by side. Included by canary.bpf.c and abi.bpf.c. */
#ifndef ALIZE_CANARY_ABI_H
#define ALIZE_CANARY_ABI_H

/* Whose program runs. */
enum canary_lane {
	LANE_OLD,
	LANE_NEW,
	LANES,
};

/* The hooks with a gate, in the order of canary.rs. */
enum canary_hook {
	GATE_SOCKOPS,
	GATE_RELEASE,
	GATE_GETPEER4,
	GATE_GETPEER6,
	GATE_RECVMSG4,
	GATE_RECVMSG6,
	GATE_SENDMSG4,
	GATE_SENDMSG6,
	GATE_HTTP_SOCKOPS,
	GATE_CONNECT4,
	GATE_CONNECT6,
	GATE_HTTP_CLIENT,
	GATES,
};

/* Who gets the new programs. */
struct canary_scope {
	__u64 cgroup; /* number of the cgroup whose subtree does; 0: none */
	__u32 level; /* of that cgroup, the root's being 0 */
	__u32 share; /* per cent of the addresses that are dialled */
};

/* Of one hook and lane, on one CPU. */
struct canary_count {
	__u64 calls;
	__u64 timed; /* calls whose time is known */
	__u64 time_ns; /* of those */
	__u64 refused; /* calls after which the caller hears an error */
};

#endif
