/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup/sock_release: an application closes a socket. TCP connections end in sockops, later; this hook is the end of
 * UDP sockets, and of TCP sockets whose connect() failed before a SYN went out.
 */
#include "alize/connection.h"

SEC("cgroup/sock_release")
int alize_release(struct bpf_sock *sk)
{
	struct connection *connection = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!connection)
		return 1;
	if (connection->protocol != ADDRESS_IPPROTO_TCP || connection->phase == PHASE_DECIDED)
		connection_closed(connection, 0, FAILURE_OTHER);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
