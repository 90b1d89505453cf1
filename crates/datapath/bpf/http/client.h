/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Clients: sockets that dialled an HTTP service and were given to the proxy, whose requests need not go there. */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include "alize/kernel.h"
#include "http/account.h"
#include "http/events.h"

/* socket -> the client it is. Written by http_sockops, which makes it, and client. It goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http_client);
} http_clients SEC(".maps");

/* cookie -> the client's socket. Written by http_sockops; far redirects responses into it. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1); /* budgets.http_clients */
	__type(key, __u64);
	__type(value, __u64);
} http_client_sockets SEC(".maps");

/* slot -> the endpoint's socket. Written by http_sockops; client redirects requests into it. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1); /* budgets.http_slots */
	__type(key, __u32);
	__type(value, __u64);
} http_far_sockets SEC(".maps");

/* slot -> the proxy's socket, where the endpoint's is elsewhere. Written by the proxy; client redirects requests out of it. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1); /* as http_far_sockets */
	__type(key, __u32);
	__type(value, __u64);
} http_back_sockets SEC(".maps");

/* cookie of a client -> what the proxy has read and written. Written by the proxy, read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* as http_client_sockets */
	__type(key, __u64);
	__type(value, struct http_rest);
} http_rests SEC(".maps");

/* network namespace and endpoint -> a pool. Written by the proxy, read by client. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* as http_pool_heads */
	__type(key, struct http_pool_key);
	__type(value, __u32);
} http_pools SEC(".maps");

static __always_inline __u32 pool_of(__u64 netns, __u32 endpoint)
{
	struct http_pool_key key = {.netns = netns, .endpoint = endpoint};
	__u32 *pool = bpf_map_lookup_elem(&http_pools, &key);
	return pool ? *pool : SLOT_NONE;
}

/*
 * Whether all that ever went by TCP between the client and the proxy was read and answered: then what the client sends
 * next begins a request, and no response can be overtaken. What is unread would be, because a socket reads what was
 * redirected to it before what came by TCP (net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg).
 */
static __always_inline bool client_rests(struct http_client *client, const struct tcp_sock *tcp)
{
	__u32 sent = tcp->write_seq - client->sent_base;
	__u32 received = tcp->rcv_nxt - client->received_base;
	if (tcp->copied_seq != tcp->rcv_nxt)
		return false;
	if (sent == client->rest.read && received == client->rest.written)
		return true;
	__u64 cookie = client->cookie;
	struct http_rest *rest = bpf_map_lookup_elem(&http_rests, &cookie);
	if (!rest)
		return false;
	client->rest = *rest;
	return sent == client->rest.read && received == client->rest.written;
}

#endif
