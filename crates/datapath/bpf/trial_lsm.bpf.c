/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether this kernel asks programs as security modules: counts the connects of one process, and forbids none. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u32 watched; /* process */
__u64 counted;

SEC("lsm/socket_connect")
int trial_lsm(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == watched)
		__sync_fetch_and_add(&counted, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
