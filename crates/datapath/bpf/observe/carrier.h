/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket that carries a session of TLS: which it is, and whose. A packet tells (of libraries that have no socket), or
 * the descriptor that a session was found to have (of Go).
 */
#ifndef OBSERVE_CARRIER_H
#define OBSERVE_CARRIER_H

#include <bpf/bpf_core_read.h>

#include "identity.h"
#include "session.h"

struct carrier {
	__u64 socket; /* cookie */
	__u64 cgroup;
	__be32 local_address[4];
	__be32 remote_address[4];
	__be16 local_port;
	__be16 remote_port;
	/* The sequence numbers that the connection began with: of what is sent, as a server counts, and of what is received. */
	__u32 sends_from;
	__u32 receives_from;
};

enum {
	FAMILY_V4 = 2, /* AF_INET */
	PROTOCOL_TCP = 6, /* IPPROTO_TCP */
	AGREEMENTS = 4,
};

static __always_inline void v4_mapped(__be32 *address, __be32 v4)
{
	address[0] = 0;
	address[1] = 0;
	address[2] = bpf_htonl(0xffff);
	address[3] = v4;
}

static __always_inline bool carrier_of_packet(struct __sk_buff *skb, struct bpf_sock *sk, struct carrier *carrier)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	if (!tcp)
		return false;
	carrier->socket = bpf_get_socket_cookie(skb);
	carrier->cgroup = bpf_skb_cgroup_id(skb);
	carrier->local_port = bpf_htons(sk->src_port);
	carrier->remote_port = sk->dst_port;
	/* All of them, and volatile: else clang 14 and 19 compute by the family where in the socket to read, which is refused. */
	const volatile struct bpf_sock *fields = sk;
	__be32 local_v4 = fields->src_ip4, remote_v4 = fields->dst_ip4;
	carrier->local_address[0] = fields->src_ip6[0];
	carrier->local_address[1] = fields->src_ip6[1];
	carrier->local_address[2] = fields->src_ip6[2];
	carrier->local_address[3] = fields->src_ip6[3];
	carrier->remote_address[0] = fields->dst_ip6[0];
	carrier->remote_address[1] = fields->dst_ip6[1];
	carrier->remote_address[2] = fields->dst_ip6[2];
	carrier->remote_address[3] = fields->dst_ip6[3];
	if (sk->family == FAMILY_V4) {
		v4_mapped(carrier->local_address, local_v4);
		v4_mapped(carrier->remote_address, remote_v4);
	}
	carrier->sends_from = tcp->snd_una - (__u32)tcp->bytes_acked;
	carrier->receives_from = tcp->rcv_nxt - (__u32)tcp->bytes_received;
	return true;
}

/* The kernel's own types again, under names that CO-RE takes for the same: other headers have other parts of them. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct file___carrier;

struct fdtable___carrier {
	unsigned int max_fds;
	struct file___carrier **fd;
};

struct files_struct___carrier {
	struct fdtable___carrier *fdt;
};

struct task_struct___carrier {
	struct files_struct___carrier *files;
};

struct inode___carrier {
	unsigned short i_mode;
};

struct file___carrier {
	struct inode___carrier *f_inode;
	void *private_data;
};

struct kernfs_node___carrier {
	__u64 id;
};

struct cgroup___carrier {
	struct kernfs_node___carrier *kn;
};

struct sock_cgroup_data___carrier {
	struct cgroup___carrier *cgroup;
};

struct sock_common___carrier {
	unsigned short skc_family;
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	struct {
		__be32 words[4];
	} skc_v6_daddr, skc_v6_rcv_saddr;
	struct {
		__s64 counter;
	} skc_cookie;
};

struct sock___carrier {
	struct sock_common___carrier __sk_common;
	__u16 sk_protocol;
	struct sock_cgroup_data___carrier sk_cgrp_data;
};

struct socket___carrier {
	struct sock___carrier *sk;
};

struct tcp_sock___carrier {
	__u32 snd_una;
	__u64 bytes_acked;
	__u32 rcv_nxt;
	__u64 bytes_received;
};

#pragma clang attribute pop

enum {
	MODE_KIND = 0170000, /* S_IFMT */
	MODE_SOCKET = 0140000, /* S_IFSOCK */
};

/* The TCP socket behind a descriptor of the current process; NULL: it is none. */
static __always_inline struct sock___carrier *descriptor_socket(__u64 descriptor)
{
	struct task_struct___carrier *task = (void *)bpf_get_current_task();
	struct fdtable___carrier *table = BPF_CORE_READ(task, files, fdt);
	struct file___carrier *file = 0, **files = BPF_CORE_READ(table, fd);
	if (descriptor >= BPF_CORE_READ(table, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), files + descriptor) || !file ||
	    (BPF_CORE_READ(file, f_inode, i_mode) & MODE_KIND) != MODE_SOCKET)
		return 0;
	struct socket___carrier *socket = BPF_CORE_READ(file, private_data);
	struct sock___carrier *sk = BPF_CORE_READ(socket, sk);
	return sk && BPF_CORE_READ(sk, sk_protocol) == PROTOCOL_TCP ? sk : 0;
}

/*
 * Nobody holds the socket here, and a packet that comes in may be between changing one number and the other that it is
 * subtracted from (tcp_snd_una_update, tcp_rcv_nxt_update of net/ipv4/tcp_input.c), which are neighbouring stores. Reading
 * takes longer than that, so what comes out twice in a row is right.
 */
static __always_inline void carrier_agrees(struct sock___carrier *sk, struct carrier *carrier)
{
	struct tcp_sock___carrier *tcp = (void *)sk;
	__u64 before = 0;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < AGREEMENTS; i++) {
		carrier->sends_from = BPF_CORE_READ(tcp, snd_una) - (__u32)BPF_CORE_READ(tcp, bytes_acked);
		carrier->receives_from = BPF_CORE_READ(tcp, rcv_nxt) - (__u32)BPF_CORE_READ(tcp, bytes_received);
		__u64 both = (__u64)carrier->sends_from << 32 | carrier->receives_from;
		if (i && both == before)
			break;
		before = both;
	}
}

static __always_inline __u64 socket_cookie(struct sock___carrier *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
}

/* False: the socket has no cookie, since nothing was sent on it that this object has seen. */
static __always_inline bool carrier_of_socket(struct sock___carrier *sk, struct carrier *carrier)
{
	__builtin_memset(carrier, 0, sizeof(*carrier));
	carrier->socket = socket_cookie(sk);
	carrier->cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
	carrier->local_port = bpf_htons(BPF_CORE_READ(sk, __sk_common.skc_num));
	carrier->remote_port = BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == FAMILY_V4) {
		v4_mapped(carrier->local_address, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		v4_mapped(carrier->remote_address, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	} else {
		BPF_CORE_READ_INTO(&carrier->local_address, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&carrier->remote_address, sk, __sk_common.skc_v6_daddr);
	}
	carrier_agrees(sk, carrier);
	return carrier->socket != 0;
}

/* Whether a service that asks for it has this address. */
static __always_inline bool server_asks(const __be32 *address, __be16 port)
{
	struct tls_server key = {.port = port};
	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&tls_servers, &key) != 0;
}

/*
 * What both sockets of a connection know alike: the sequence numbers that it began with, 64 bits of chance. What has come or
 * was acknowledged since is subtracted; the client counts its SYN among it and the server does not
 * (tcp_rcv_synsent_state_process and tcp_create_openreq_child of net/ipv4).
 */
static __always_inline __u64 connection_key(const struct carrier *carrier, bool client)
{
	__u32 own = carrier->sends_from + client;
	return client ? (__u64)own << 32 | carrier->receives_from : (__u64)carrier->receives_from << 32 | own;
}

/* The session's socket is known: who talks to whom, and whether it is to be looked at. */
static __always_inline void session_place(const struct carrier *carrier, struct tls_session *session)
{
	static const struct identity nobody;
	struct conversation *conversation = &session->conversation;
	struct ends *ends = &conversation->ends;
	bool client = server_asks(carrier->remote_address, carrier->remote_port);
	session->socket = carrier->socket;
	conversation->role = client ? ROLE_CLIENT : ROLE_SERVER;
	ends->client_port = client ? carrier->local_port : carrier->remote_port;
	ends->server_port = client ? carrier->remote_port : carrier->local_port;
	for (__u32 i = 0; i < 4; i++) {
		ends->client_address[i] = client ? carrier->local_address[i] : carrier->remote_address[i];
		ends->server_address[i] = client ? carrier->remote_address[i] : carrier->local_address[i];
	}
	if (!client && !server_asks(carrier->local_address, carrier->local_port)) {
		conversation->state = STATE_OFF;
		return;
	}
	conversation->self.cgroup = carrier->cgroup;
	__u64 key = connection_key(carrier, client);
	conversation->link = key;
	if (client) {
		bpf_map_update_elem(&links, &key, &nobody, BPF_NOEXIST);
	} else if (bpf_map_lookup_elem(&links, &key)) {
		bpf_map_update_elem(&links, &key, &conversation->self, BPF_ANY);
		conversation->state = STATE_PEER;
		tally(TALLY_TLS_PEER);
		return;
	}
	tally(conversation->state == STATE_JOINED ? TALLY_JOINED : TALLY_TLS_SESSION);
}

#endif
