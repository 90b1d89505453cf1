/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroup/sock_release: an application closes a socket, or ends. A client that still waits for responses will not have
 * them: what comes later finds no socket (a FIN_WAIT2 without owner turns into a timewait socket, net/ipv4/tcp.c).
 */
#include "observe/http2.h"

SEC("cgroup/sock_release")
int alize_observe_release(struct bpf_sock *sk)
{
	struct conversation *conversation = bpf_sk_storage_get(&conversations, sk, 0, 0);
	if (!conversation || conversation->role != ROLE_CLIENT)
		return 1;
	if (conversation->state == STATE_HTTP2) {
		struct http2 *http2 = bpf_sk_storage_get(&http2s, sk, 0, 0);
		if (http2)
			http2_end(conversation, http2);
		conversation->state = STATE_OFF;
		return 1;
	}
	if (conversation->state != STATE_FOLLOWED)
		return 1;
	/* Whoever reads a response at this moment ends what is behind it. */
	*(volatile __u8 *)&conversation->ending = ENDING_BROKEN;
	if (__sync_lock_test_and_set(&conversation->response.busy, 1))
		return 1;
	conversation_end(sk, conversation);
	turn_give(&conversation->response.busy);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
