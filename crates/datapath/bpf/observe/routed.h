/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the mesh knows of a socket: a request that the proxy serves is seen at the client, and not once more on the proxy's
 * connection to the endpoint; one that the kernel routes is http_told's alone. Where no data path is loaded these
 * maps are empty.
 */
#ifndef OBSERVE_ROUTED_H
#define OBSERVE_ROUTED_H

#include "alize/connections.h"
#include "conversation.h"
#include "http/far.h"

/* Whether the socket is an endpoint's for a connection of the proxy. */
static __always_inline bool is_far(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&http_far, sk, 0, 0) != 0;
}

/* A client that dialled a service asked that service; where it was given to the proxy, whoever answers. */
static __always_inline void dialled_learn(struct bpf_sock *sk, struct conversation *conversation)
{
	struct connection *connection = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!connection || connection->phase == PHASE_NONE)
		return;
	conversation->service = connection->service;
	if (connection->path != PATH_HTTP)
		return;
	conversation->path_label = PATH_LABEL_PROXY;
	__builtin_memcpy(conversation->ends.server_address, connection->address, sizeof(connection->address));
	conversation->ends.server_port = connection->port;
}

#endif
