/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cgroup/sockops: sockets of clients and of endpoints are put where the HTTP router's programs find them. */
#include "alize/connection.h"
#include "http/client.h"
#include "http/far.h"
#include "http/service.h"
#include "http/socket.h"

/* a connection the proxy is about to make -> the slot it is for; SLOT_NONE: for the proxy's own requests. Written by the proxy, read here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct http_dial_key);
	__type(value, __u32);
} http_dials SEC(".maps");

/* a connection that the proxy accepts -> the client behind it. Written here, taken by the proxy; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* as http_client_sockets */
	__type(key, struct http_front_key);
	__type(value, struct http_front);
} http_fronts SEC(".maps");

/* Makes a client of the socket; false: it cannot be one, and all its requests are the proxy's. */
static __always_inline bool client_make(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u32 service, __u64 cookie,
					__u64 netns)
{
	const struct tcp_sock *tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	struct http_client *client = bpf_sk_storage_get(&http_clients, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tcp || !client)
		return false;
	client->cookie = cookie;
	client->netns = netns;
	client->service = service;
	client->slot = SLOT_NONE;
	client->sent_base = tcp->write_seq;
	client->received_base = tcp->rcv_nxt;
	if (!bpf_sock_hash_update(ctx, &http_client_sockets, &cookie, BPF_ANY))
		return true;
	bpf_sk_storage_delete(&http_clients, sk);
	return false;
}

/* A connection to the proxy is made; the proxy accepts it only after this, for the client's ACK has still to be sent. */
static __always_inline void client_connected(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct connection *connection = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!connection || connection->path != PATH_HTTP)
		return;
	__u64 cookie = bpf_get_socket_cookie(ctx), netns = bpf_get_netns_cookie(ctx);
	struct http_front_key key = {.netns = netns, .port = bpf_htons(ctx->local_port)};
	SOCKET_ADDRESS(ctx, local, key.address);
	struct http_front front = {.cookie = cookie, .service = connection->service};
	if (FIELD(http_service_word(connection->service), HTTP_SERVICE_KERNEL)) {
		front.eligible = client_make(ctx, sk, connection->service, cookie, netns);
		if (!front.eligible)
			count_reason(connection->service, HTTP_REASON_NOT_ELIGIBLE);
	}
	bpf_map_update_elem(&http_fronts, &key, &front, BPF_ANY);
}

/* An endpoint has accepted a connection: is it one of the proxy's? */
static __always_inline void endpoint_accepted(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct http_dial_key key = {
		.local_port = bpf_htons(ctx->local_port),
		/* the kernel shows the remote port in the upper half of a word in network order */
		.remote_port = ctx->remote_port >> 16,
	};
	SOCKET_ADDRESS(ctx, local, key.local);
	SOCKET_ADDRESS(ctx, remote, key.remote);
	__u32 *dialled = bpf_map_lookup_elem(&http_dials, &key);
	if (!dialled)
		return;
	__u32 number = *dialled;
	struct http_far *far = bpf_sk_storage_get(&http_far, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!far)
		return;
	far->slot = number;
	struct http_slot *slot = slot_get(number);
	if (!slot)
		return;
	far->generation = SLOT_GENERATION(READ_ONCE(slot->state));
	if (bpf_sock_hash_update(ctx, &http_far_sockets, &number, BPF_ANY))
		return;
	WRITE_ONCE(slot->far, far->generation + 1);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* An endpoint closes, or sends no more. */
static __always_inline void endpoint_ended(struct bpf_sock *sk)
{
	struct http_far *far = bpf_sk_storage_get(&http_far, sk, 0, 0);
	struct http_slot *slot = far ? slot_get(far->slot) : 0;
	if (slot)
		slot_end(slot, far->generation);
}

SEC("sockops")
int alize_http_sockops(struct bpf_sock_ops *ctx)
{
	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		client_connected(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		endpoint_accepted(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		endpoint_ended(sk);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
