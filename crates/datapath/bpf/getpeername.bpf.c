/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/getpeername4, cgroup/getpeername6: an application asks for its peer and hears the address it dialled. */
#include "alize/sock_addr.h"

static __always_inline struct connection *balanced(struct bpf_sock_addr *ctx)
{
	struct connection *connection = ctx->sk ? bpf_sk_storage_get(&connections, ctx->sk, 0, 0) : 0;
	bool shown = connection && connection->phase != PHASE_NONE &&
		     (connection->endpoint != NONE || connection->path == PATH_HTTP);
	return shown ? connection : 0;
}

SEC("cgroup/getpeername4")
int alize_getpeername4(struct bpf_sock_addr *ctx)
{
	struct connection *connection = balanced(ctx);
	if (connection)
		ctx_set4(ctx, connection->address, connection->port);
	return VERDICT_PASS;
}

SEC("cgroup/getpeername6")
int alize_getpeername6(struct bpf_sock_addr *ctx)
{
	struct connection *connection = balanced(ctx);
	if (connection)
		ctx_set6(ctx, connection->address, connection->port);
	return VERDICT_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
