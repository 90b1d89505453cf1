/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that crosses the border between the kernel programs and user space, written once.
 *
 * The generated skeleton of abi.bpf.c is the only Rust copy. A change here that alters the meaning or the size of
 * anything in a pinned map needs a new ABI_VERSION: pins of different versions live in different folders.
 */
#ifndef ALIZE_ABI_H
#define ALIZE_ABI_H

#include <linux/types.h>

enum abi {
	ABI_VERSION = 2,
	SERVICE_NAME_SIZE = 128,
	FLOWS_PER_SOCKET = 8,
};

/* "No such thing" wherever a service or an endpoint number is expected. */
enum { NONE = 0xffffffff };

enum mode {
	MODE_OBSERVE = 0, /* only count; what an empty service word says */
	MODE_SHADOW = 1, /* decide and count, change nothing */
	MODE_ENFORCE = 2,
};

enum balance {
	BALANCE_WEIGHTED_RANDOM = 0, /* slots are an alias table */
	BALANCE_ROUND_ROBIN = 1, /* slots are the turn order */
	BALANCE_LEAST_CONNECTIONS = 2, /* one slot an endpoint, its threshold is the weight */
	BALANCE_MAGLEV = 3, /* slots are the lookup table, its length is prime */
};

/*
 * A service is one 64-bit word per address family, so that a change is one store and no connect sees half of it:
 * where its slots begin, how many they are, how to choose among them, how far to go, how long a client stays.
 */
enum service_word {
	SERVICE_BASE_SHIFT = 0,
	SERVICE_BASE_BITS = 24,
	SERVICE_LENGTH_SHIFT = 24,
	SERVICE_LENGTH_BITS = 20,
	SERVICE_BALANCE_SHIFT = 44,
	SERVICE_BALANCE_BITS = 2,
	SERVICE_MODE_SHIFT = 46,
	SERVICE_MODE_BITS = 2,
	SERVICE_AFFINITY_SHIFT = 48, /* seconds, 0 is off */
	SERVICE_AFFINITY_BITS = 16,
};

/* A slot of a balancing table: an endpoint, the one to take instead, and the odds between them. */
enum slot_word {
	SLOT_ENDPOINT_SHIFT = 0,
	SLOT_ENDPOINT_BITS = 20,
	SLOT_ALIAS_SHIFT = 20,
	SLOT_ALIAS_BITS = 20,
	SLOT_THRESHOLD_SHIFT = 40, /* of 2^24: below it the endpoint, else the alias; or the weight */
	SLOT_THRESHOLD_BITS = 24,
};

enum endpoint_state {
	ENDPOINT_GONE = 0, /* removed; its number is kept until the last connection ends */
	ENDPOINT_ACTIVE = 1,
	ENDPOINT_DRAINING = 2, /* no new connection, not even by affinity */
	ENDPOINT_UNAVAILABLE = 3, /* unhealthy or ejected: as draining, and UDP flows move too */
};

/* Why a connect or a datagram was refused at once. */
enum refusal {
	REFUSAL_NO_ENDPOINT = 0, /* none is usable from the caller's address family */
	REFUSAL_STALE = 1, /* the tables name an endpoint that does not exist: a bug, fails closed */
	REFUSAL_NO_PROXY = 2, /* the service has rules that only requests can be held to, and no proxy listens here */
	REFUSALS,
};

/* Why a TCP connect that was let through failed. */
enum failure {
	FAILURE_REFUSED = 0,
	FAILURE_TIMEOUT = 1,
	FAILURE_UNREACHABLE = 2,
	FAILURE_RESET = 3,
	FAILURE_ABORTED = 4, /* the caller closed its socket before the first SYN was due again */
	FAILURE_OTHER = 5, /* no SYN went out (no route, no free port), or an error not listed */
	FAILURES,
};

/* Places in `version_counts`. */
enum version_count {
	VERSION_REFUSED = 0, /* and on, by enum refusal */
	VERSION_HTTP = 8, /* and on, by enum http_reason */
	VERSION_COUNTS = 64,
};

/* What should never happen and is counted when it does. */
enum anomaly {
	ANOMALY_CONNECTION_UNTRACKED = 0, /* no memory for a socket's record: balanced, not counted */
	ANOMALY_FLOW_UNTRACKED = 1, /* no memory for a socket's flows: datagram refused, in enforce */
	ANOMALY_FLOW_EVICTED = 2, /* a socket spoke to more than FLOWS_PER_SOCKET services at once */
	ANOMALY_SERVICE_UNCOUNTED = 3, /* counter map of services full */
	ANOMALY_ENDPOINT_UNCOUNTED = 4, /* counter map of endpoints full */
	ANOMALY_AFFINITY_UNSAVED = 5, /* affinity map refused a client */
	ANOMALY_EVENT_LOST = 6, /* event ring full */
	ANOMALIES,
};

/* Key of `frontends`: what a client dials. IPv4 is written v4-mapped (RFC 4291, 2.5.5.2). */
struct frontend_key {
	__be32 address[4];
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 zero;
};

/* Value of `services`; an empty word observes and has no endpoints. */
struct service {
	__u64 word4; /* for callers that can reach IPv4 only */
	__u64 word6; /* for callers with an IPv6 socket */
};

/* Value of `service_names`: for the agent that adopts the maps, and for people with bpftool. */
struct service_name {
	char name[SERVICE_NAME_SIZE]; /* ends with NUL */
};

/* Value of `endpoints`. */
struct endpoint {
	__be32 address[4]; /* IPv4 is written v4-mapped */
	__be16 port;
	__u8 protocol;
	__u8 state; /* enum endpoint_state */
	__u32 service;
};

/* Value of `endpoint_load`: written by the kernel only, shared by all CPUs, changed atomically. */
struct endpoint_load {
	__u32 open; /* TCP connections and connected UDP sockets that count as open */
	__u32 failures; /* TCP connects that failed by the endpoint's fault since the last that did not */
};

/* Counters of a service or an endpoint; the value of `service_traffic` and `endpoint_traffic`, per CPU. */
struct traffic {
	__u64 connections; /* TCP connects, UDP flows */
	__u64 established; /* TCP */
	__u64 closed; /* connections - closed = open, for the kinds that can be seen closing */
	__u64 failures[FAILURES];
	__u64 bytes_sent; /* client to endpoint, acknowledged */
	__u64 bytes_received;
	__u64 retransmits; /* segments */
	__u64 rtt_us; /* sum of the samples of smoothed RTT, in microseconds */
	__u64 rtt_samples;
};

/* Value of `service_decisions`, per CPU: what does not concern one endpoint. */
struct decisions {
	__u64 refused[REFUSALS];
	__u64 would_balance; /* mode shadow */
	__u64 would_refuse[REFUSALS];
	__u64 affinity_kept; /* the remembered endpoint was taken */
};

/* Value of `shadow_outcomes`, per CPU: what really became of connections whose decision was only counted. */
struct outcomes {
	__u64 connections; /* TCP connects, UDP flows */
	__u64 established; /* TCP */
	__u64 failures[FAILURES];
};

/* Key of `affinity`. */
struct affinity_key {
	__u64 client; /* see alize/client.h */
	__u32 service;
	__u32 v4; /* 1: the caller can reach IPv4 only, so what it had is no guide for its IPv6 neighbour */
};

/* Value of `affinity`. */
struct affinity {
	__u64 seen_ns; /* of the last connection, bpf_ktime_get_ns() */
	__u32 endpoint;
	__u32 zero;
};

enum connection_phase {
	PHASE_NONE = 0, /* the socket is not, or no longer, connected to a service */
	PHASE_DECIDED = 1, /* connect() chose; nothing was sent */
	PHASE_CONNECTING = 2, /* counted as open */
	PHASE_ESTABLISHED = 3, /* counted as open */
	PHASE_SHOWN = 4, /* on an MPTCP socket, for getpeername() alone: its subflow has the life and the counts */
};

/* Where a connection leads. */
enum connection_path {
	PATH_PLAIN = 0, /* to an endpoint, or where it was dialled */
	PATH_HTTP = 1, /* to the proxy of an HTTP service; its requests are routed one by one */
};

/* Value of `connections`, on the socket: what it dialled and what was chosen for it. */
struct connection {
	__be32 address[4]; /* of the service, as dialled */
	__be16 port;
	__u8 phase; /* enum connection_phase */
	__u8 protocol; /* IPPROTO_TCP: sockops follows it; else it is open from connect() to close() */
	__u32 service;
	__u32 endpoint; /* NONE: observe or shadow, the address is as dialled */
	__u32 retransmits; /* what of the socket's own counters is in the traffic counters already */
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 cgroup; /* of the caller */
	__u32 pid; /* of the caller's process */
	__u16 path; /* enum connection_path */
	__u16 mode; /* enum mode, of the decision; a record of before this was told has 0 */
};

/* One UDP flow of a socket that uses sendto(): what was dialled, what was chosen. */
struct flow {
	__be32 service_address[4];
	__be32 endpoint_address[4];
	__be16 service_port;
	__be16 endpoint_port;
	__u32 endpoint; /* NONE: observed only */
	__u64 used_ns; /* 0: the place is empty */
};

/* Value of `flows`, on the socket. */
struct flows {
	struct flow flow[FLOWS_PER_SOCKET];
};

enum event_kind {
	EVENT_CONNECT_FAILED = 1, /* detail is enum failure */
	EVENT_REFUSED = 2, /* detail is enum refusal */
	EVENT_WOULD_REFUSE = 3, /* mode shadow; detail is enum refusal */
};

/* Record of `events`. */
struct event {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u64 cgroup; /* of the caller */
	__u32 kind;
	__u32 detail;
	__u32 service;
	__u32 endpoint;
	__u32 pid; /* of the caller's process */
	__u32 zero;
};

#endif
