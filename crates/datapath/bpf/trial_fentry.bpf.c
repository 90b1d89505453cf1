/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether this kernel lets programs look at its functions: counts the TCP connects of one process. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u32 watched; /* process */
__u64 counted;

SEC("fentry/tcp_v4_connect")
int trial_fentry(void *ctx)
{
	if (bpf_get_current_pid_tgid() >> 32 == watched)
		__sync_fetch_and_add(&counted, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
