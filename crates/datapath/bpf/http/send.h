/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a request leaves the client's socket: into the endpoint's where that is on this host, else out of the proxy's by TCP. */
#ifndef HTTP_SEND_H
#define HTTP_SEND_H

#include "http/client.h"

/*
 * SK_DROP: the endpoint is gone, and nothing was sent. That it has closed is seen by http_back, in the same soft interrupt
 * that takes the FIN; one that comes after the look here finds the request sent, and the client is told by the proxy.
 */
static __always_inline int slot_send(struct sk_msg_md *msg, const struct http_slot *slot, __u32 number)
{
	if (READ_ONCE(slot->far))
		return bpf_msg_redirect_hash(msg, &http_far_sockets, &number, BPF_F_INGRESS);
	if (READ_ONCE(slot->ended))
		return SK_DROP;
	return bpf_msg_redirect_hash(msg, &http_back_sockets, &number, 0);
}

#endif
