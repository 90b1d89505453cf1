/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What crosses the border between the HTTP router's programs, the agent that compiles routes, and the proxy that owns the
 * sockets. Written once; the generated skeleton of http_abi.bpf.c is the only Rust copy.
 */
#ifndef HTTP_ABI_H
#define HTTP_ABI_H

#include <linux/types.h>

enum http_limits {
	HTTP_HEAD_SIZE = 4096, /* the longest head that is read; a power of two */
	HTTP_MESSAGE_SIZE = 65536, /* head and body together: what one redirect may leave in a queue */
	HTTP_LARGE_SIZE = 1114112, /* of a response on the same host, while TCP has memory to spare */
	HTTP_PATTERN_SIZE = 64, /* bytes of a path that routes can tell apart */
	HTTP_WINDOWS_PER_CPU = 4,
	HTTP_CONDITIONS = 8, /* on headers, of the routes of a service; below 16 */
	HTTP_CHOICES = 64, /* by headers, of all classes of a service; a power of two */
	HTTP_NAME_SIZE = 24, /* of a header that a condition is about */
	HTTP_VALUE_SIZE = 32, /* that it asks for */
	HTTP_PLACES = 2039, /* into which what is hashed is divided */
	HTTP_RATES = 2, /* on the rate of a rule: the service's and its own */
	HTTP_LANES = 4, /* proxies at once, of which all but one are about to end */
};

/* Places in `http_programs`, and in `http_back_programs`: a prog array holds programs of one type. */
enum http_program {
	HTTP_PROGRAM_CLIENT = 0,
	HTTP_PROGRAM_FAR = 1,
	HTTP_PROGRAMS = 2,
	HTTP_PROGRAM_BACK = 0,
	HTTP_BACK_PROGRAMS = 1,
	HTTP_PROGRAM_LIMIT = 0, /* in `http_limit_programs` */
	HTTP_LIMIT_PROGRAMS = 1,
};

/* Places in `http_next`. */
enum http_next_program {
	HTTP_NEXT_TOLD = 0, /* the observer's http_told */
	HTTP_NEXTS = 4,
};

/* In the order of `verdicts` of a class. */
enum http_method {
	HTTP_GET = 0,
	HTTP_HEAD = 1,
	HTTP_POST = 2,
	HTTP_PUT = 3,
	HTTP_DELETE = 4,
	HTTP_OPTIONS = 5,
	HTTP_PATCH = 6,
	HTTP_METHODS = 7, /* CONNECT, TRACE and all others are the proxy's */
};

/* Why a request, or the rest of a response, is the proxy's. Values are pinned in counters: new ones go to the end. */
enum http_reason {
	HTTP_REASON_NONE = 0,
	HTTP_REASON_NOT_ELIGIBLE = 1, /* the client's socket could not be taken: another product's program, MPTCP */
	HTTP_REASON_BUSY = 2, /* no working buffer was free */
	HTTP_REASON_SPLIT_HEAD = 3, /* the head came in more than one piece, or is longer than HTTP_HEAD_SIZE */
	HTTP_REASON_METHOD = 4,
	HTTP_REASON_TARGET = 5, /* not origin form, or a byte that has no place in it */
	HTTP_REASON_ODD_PATH = 6, /* servers may read the path differently, and a route looks at paths */
	HTTP_REASON_VERSION = 7, /* not HTTP/1.1: 1.0, the HTTP/2 preface */
	HTTP_REASON_FIELD = 8, /* a field line that is not strictly well-formed */
	HTTP_REASON_FIELDS = 9, /* more fields than are read */
	HTTP_REASON_HOST = 10, /* not exactly one */
	HTTP_REASON_LENGTH = 11, /* Content-Length twice, not digits, or where none belongs */
	HTTP_REASON_CODING = 12, /* Transfer-Encoding */
	HTTP_REASON_UPGRADE = 13,
	HTTP_REASON_EXPECT = 14,
	HTTP_REASON_TRAILERS = 15, /* TE, Trailer */
	HTTP_REASON_CONNECTION = 16, /* a Connection option but keep-alive */
	HTTP_REASON_LARGE = 17, /* above HTTP_MESSAGE_SIZE, or above what there is room for */
	HTTP_REASON_PIPELINED = 18, /* more came than one request, or before the last response had ended */
	HTTP_REASON_UNREAD = 19, /* the connection to the proxy is not at rest: bytes under way, or unread */
	HTTP_REASON_ROUTE = 20, /* a rule that only the proxy can carry out, or none */
	HTTP_REASON_POOL_EMPTY = 21, /* no idle connection to the endpoint that was chosen */
	HTTP_REASON_NO_ENDPOINT = 22,
	HTTP_REASON_GONE = 23, /* the endpoint's socket went away in between */
	HTTP_REASON_REMOTE = 24, /* of an event: bytes on a back socket are the proxy's to look at */
	HTTP_REASON_STATUS = 25, /* of a response: not HTTP/1.1, 1xx, or below 100 */
	HTTP_REASON_UNFRAMED = 26, /* of a response: chunked, or until the connection closes */
	HTTP_REASON_EXCESS = 27, /* more bytes than the message has: a violation */
	HTTP_REASON_NO_PROXY =
		28, /* of a connection: none listens in its network namespace, so it was balanced as a whole */
	HTTP_REASON_RATE_LIMITED = 29,
	HTTP_REASON_LIMIT_FULL = 30, /* no bucket could be had for the client: the proxy keeps one */
	HTTP_REASON_CIRCUIT_OPEN = 31, /* the endpoint, or each one, has as many requests as it may */
	HTTP_REASONS,
};

/* Key of `http_listeners` is the cookie of a network namespace. Both ports are of loopback; 0: none. */
struct http_listener {
	__be16 port4;
	__be16 port6;
	__u32 zero;
};

/* Key of `http_fronts`: how the proxy finds the client behind a connection that it has accepted. */
struct http_front_key {
	__u64 netns; /* cookie */
	__be32 address[4]; /* of the client; IPv4 is written v4-mapped */
	__be16 port;
	__u8 zero[6];
};

/* Value of `http_fronts`. */
struct http_front {
	__u64 cookie; /* of the client's socket */
	__u32 service;
	__u32 eligible; /* 0: its requests never leave TCP, because the socket could not be taken */
};

/* Word of `http_services`: one store switches a service to another table. */
enum http_service_word {
	HTTP_SERVICE_ON_SHIFT = 0,
	HTTP_SERVICE_ON_BITS = 1,
	HTTP_SERVICE_STRICT_SHIFT = 1, /* without a proxy the connection is refused, not balanced */
	HTTP_SERVICE_STRICT_BITS = 1,
	HTTP_SERVICE_KERNEL_SHIFT = 2, /* the kernel may route; else all is the proxy's, and no socket is touched */
	HTTP_SERVICE_KERNEL_BITS = 1,
	HTTP_SERVICE_HEADERS_SHIFT = 3, /* the table has conditions on headers, in `http_headers` */
	HTTP_SERVICE_HEADERS_BITS = 1,
	HTTP_SERVICE_CALLER_SHIFT = 4, /* who calls matters: to a rate limit, or to the balancing */
	HTTP_SERVICE_CALLER_BITS = 1,
	HTTP_SERVICE_ANY_SHIFT = 8, /* the one rule for all requests, plus 1; 0: look it up */
	HTTP_SERVICE_ANY_BITS = 24,
	HTTP_SERVICE_TABLE_SHIFT = 32, /* number of the table, in keys of `http_classes` */
	HTTP_SERVICE_TABLE_BITS = 32,
};

/*
 * Key of `http_classes`, a longest-prefix trie: a path that is matched whole is written with a NUL behind it, which no
 * path has.
 */
struct http_class_key {
	__u32 prefix; /* bits of what follows */
	__u32 table;
	__u8 path[HTTP_PATTERN_SIZE];
};

enum http_verdict {
	HTTP_VERDICT_CHOICE = 0x80000000, /* what is left is the first place among the choices of `http_headers` */
	HTTP_HEADERS_VAGUE_SHIFT = 31,
	HTTP_HEADERS_VAGUE = 0x80000000, /* in what was found in the fields: it cannot be told what they hold */
};

/* A header that some route asks for. */
struct http_condition {
	__u8 name[HTTP_NAME_SIZE]; /* lower case, zeros behind it, as behind the value */
	__u8 value[HTTP_VALUE_SIZE];
	__u32 name_length;
	__u32 value_length;
};

/* A request that meets all conditions of the mask has the verdict. */
struct http_choice {
	__u32 mask; /* 0: whatever is left */
	__u32 verdict; /* as in a class, but no choice */
};

/* Value of `http_headers`; the key is the number of a table. Choices of a class follow each other, the last has mask 0. */
struct http_headers {
	__u32 count;
	__u32 hashed; /* the condition, plus 1, that is about the header by whose value is balanced; 0: none is */
	struct http_condition condition[HTTP_CONDITIONS];
	struct http_choice choice[HTTP_CHOICES];
};

/* Value of `http_classes`: for each method the number of a rule plus 1, 0: the proxy's, or enum http_verdict. */
struct http_class {
	__u32 verdicts[HTTP_METHODS];
	__u32 zero;
};

/* Value of `http_rules`: the groups of endpoints that share its requests. Written before a table names it. */
struct http_rule {
	__u32 base; /* first place in `http_targets`: slot words, whose endpoints are places in `http_groups` */
	__u32 length;
	__u32 route; /* number of the rule in its service, for counters */
	__u32 limited; /* it has rate limits, in `http_rates` */
};

enum http_balance {
	HTTP_LEAST_REQUESTS = 0, /* one slot an endpoint, its threshold is the weight */
	HTTP_ROUND_ROBIN = 1, /* slots are the turn order */
	HTTP_WEIGHTED_RANDOM = 2, /* slots are an alias table */
	HTTP_SOURCE_HASH = 3, /* slots are found by the hash of who calls */
	HTTP_HEADER_HASH = 4, /* by that of a header's value; without it as HTTP_LEAST_REQUESTS */
};

/* Value of `http_groups`: endpoints of one backend of a rule. */
struct http_group {
	__u32 base; /* first place in `http_targets` */
	__u32 length;
	__u32 balance; /* enum http_balance */
	__u32 turn; /* of round robin */
	__u32 max_requests; /* outstanding at an endpoint; 0: any number */
	__u32 zero;
};

/*
 * Value of `http_proxied`: requests that proxies have outstanding at an endpoint, one lane a process, so that what a killed
 * one has left can be cleared.
 */
struct http_proxied {
	__u16 lane[HTTP_LANES];
};

/* Value of `http_lanes`: the process that has the lane; 0: nobody. */
struct http_lane {
	__u64 started; /* clock ticks from boot, as in /proc/PID/stat */
	__u32 pid;
	__u32 zero;
};

/* Who calls: a client's address in its network namespace. */
struct http_caller {
	__u64 netns; /* cookie */
	__be32 address[4];
};

/* A rate limit: a bucket is the time at which it will be full again (the "generic cell rate algorithm"). */
struct http_limit {
	__u64 bucket; /* the name of its buckets; 0: no limit */
	__u64 interval_ns; /* between two requests, in the long run */
	__u64 room_ns; /* how far ahead of now a bucket may be: one interval less than the burst has */
	__u32 per_caller; /* a bucket for each; 0: one for all */
	__u32 zero;
};

/* Value of `http_rates`, of which the key is the number of a rule. */
struct http_rates {
	struct http_limit limit[HTTP_RATES];
};

/* Key of `http_buckets` and `http_caller_buckets`. */
struct http_bucket_key {
	__u64 bucket;
	struct http_caller caller; /* zeros: for all */
};

enum http_draw_outcome {
	HTTP_DRAW_TAKEN = 0,
	HTTP_DRAW_OVER = 1, /* the limit; nothing was taken */
	HTTP_DRAW_FULL = 2, /* no bucket could be had */
	HTTP_DRAW_BUSY = 3, /* others were always faster: ask again */
};

/* What the proxy asks alize_http_limit, and what it is told. */
struct http_draw {
	struct http_rates rates;
	struct http_caller caller;
	__u64 wait_ns; /* told, when over: until a request may be taken */
	__u32 outcome; /* told: enum http_draw_outcome */
	__u32 sweep; /* asked: only to drop buckets that are full again; told: how many were */
};

/* Key of `http_pools`; the value is the number of a pool. */
struct http_pool_key {
	__u64 netns; /* cookie of the client's network namespace, from which the connections are made */
	__u32 endpoint;
	__u32 zero;
};

/* Value of `http_pool_heads`, mapped: the top of a stack of idle slots. */
struct http_pool {
	__u64 head; /* number of the top slot plus 1, and above it a tag that changes with each change (no ABA) */
	__u64 empty; /* how often nothing was there */
};

enum http_pool_head {
	HTTP_HEAD_SLOT_BITS = 24,
};

/*
 * The word of a slot, changed by compare-and-swap only: flags; the generation, which counts the connections the slot has
 * stood for; and the cookie of the client's socket it is lent to. Without flags and cookie it is idle and in its pool.
 * Generation and cookie together are a lease: who holds one from before cannot touch what came after. Cookies of sockets
 * count up from 1, so 40 bits are 10^12 sockets.
 */
enum http_slot_word {
	HTTP_SLOT_BUSY = 1, /* a response is outstanding */
	HTTP_SLOT_OPEN = 2, /* the request's body has not been sent whole */
	HTTP_SLOT_COPY = 4, /* the proxy carries the response from here on */
	HTTP_SLOT_DEAD = 8, /* its connection is to be, or is, closed */
	HTTP_SLOT_OUT = 16, /* with DEAD: it is in no pool, so that its number may be used again */
	HTTP_SLOT_LOST = 32, /* idle, but not put back for contention: the proxy does it */
	HTTP_SLOT_LAST = 64, /* it is not put back: its proxy ends, and this response is the last that it waits for */
	HTTP_SLOT_FLAGS = 0xff,
	HTTP_SLOT_GENERATION_SHIFT = 8,
	HTTP_SLOT_GENERATION_BITS = 16,
	HTTP_SLOT_COOKIE_SHIFT = 24,
};

enum http_slot_phase {
	HTTP_PHASE_HEAD = 0,
	HTTP_PHASE_BODY = 1,
	HTTP_PHASE_TOLD = 2, /* the proxy has been told that the rest is its own to carry */
};

/* Value of `http_slots`, mapped: a connection from the proxy to an endpoint (the back and the far socket). */
struct http_slot {
	__u64 state;
	__u64 next; /* in the stack of its pool: number plus 1 */
	__u64 started_ns; /* of the request */
	__u64 left; /* bytes of the response that are to come */
	__u64 request_bytes;
	__u64 response_bytes;
	__u32 pool;
	__u32 endpoint;
	__u32 service;
	__u32 route;
	__u16 status;
	__u8 method;
	__u8 phase; /* enum http_slot_phase */
	__u32 far; /* generation plus 1 of the connection whose far socket is in `http_far_sockets`; 0: elsewhere */
	__u32 reason; /* enum http_reason: why the proxy carries the response */
	__u32 noted; /* the request is in `http_notes`, and nobody was told of it yet */
	__u32 ended; /* of a connection whose other end is elsewhere: not 0 when that has closed, or spoke unasked */
	__u32 zero;
	__u64 used; /* requests so far */
};

/* Key of `http_dials`: a connection that the proxy is about to make, as the endpoint will see it. */
struct http_dial_key {
	__be32 local[4]; /* the endpoint */
	__be32 remote[4]; /* the proxy */
	__be16 local_port;
	__be16 remote_port;
	__u32 zero;
};

/*
 * Key of `http_rests` is the cookie of a client's socket: how many bytes the proxy has read from it and written to it when
 * its exchanges were complete. While just so many have gone by TCP, the connection is at rest and the kernel may route.
 */
struct http_rest {
	__u32 read; /* modulo 2^32, as sequence numbers are */
	__u32 written;
};

/* Value of `http_clients`, on the client's socket. */
struct http_client {
	__u64 cookie;
	__u64 netns;
	__u64 left; /* bytes of the request's body that are to come */
	__u64 lease; /* of the last slot it had */
	__u32 slot;
	__u32 service;
	__u32 sent_base; /* its sequence numbers when the connection was made */
	__u32 received_base;
	struct http_rest rest; /* as last seen */
	__u32 wanted; /* endpoint whose pool was empty */
	__u32 zero;
};

/* Value of `http_far`, on the endpoint's socket, and of `http_backs`, of which the key is the cookie of a back socket. */
struct http_far {
	__u32 slot;
	__u32 generation;
};

/* Key of `http_traffic`. */
struct http_traffic_key {
	__u32 service;
	__u32 route;
	__u32 endpoint;
	__u32 remote; /* 1: out of a back socket, by TCP; 0: straight into the endpoint's socket */
};

enum { HTTP_LATENCY_BUCKETS = 96 };

/* Value of `http_traffic`, per CPU. */
struct http_traffic {
	__u64 by_class[6]; /* by the first digit of the status; 0: another */
	__u64 request_bytes;
	__u64 response_bytes;
	__u64 latency_ns; /* sum */
	__u64 latency[HTTP_LATENCY_BUCKETS];
};

/* Value of `http_reasons`, per CPU; the key is the number of the service. */
struct http_reasons {
	__u64 count[HTTP_REASONS];
};

/*
 * Record of `http_events`: a request that goes by TCP to the proxy, told before its bytes arrive there. Of
 * HTTP_REASON_NO_PROXY: a connection from where the proxy does not listen yet. Of HTTP_REASON_REMOTE: a back socket whose
 * bytes are the proxy's, with the lease in place of the cookie.
 */
struct http_event {
	__u64 cookie; /* of the client; or of the network namespace */
	__u32 reason; /* enum http_reason */
	__u32 slot; /* in which a response is outstanding, or NONE; the endpoint of an empty pool; a process of the namespace */
};

#endif
