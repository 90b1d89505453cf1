/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that crosses the border between the observing programs and user space, written once.
 *
 * The generated skeleton of observe_abi.bpf.c is the only Rust copy. A change here that alters the meaning or the
 * size of anything in a pinned map needs a new OBSERVE_ABI_VERSION: pins of different versions live in different
 * folders.
 */
#ifndef OBSERVE_ABI_H
#define OBSERVE_ABI_H

#include <linux/types.h>

enum observe_abi {
	OBSERVE_ABI_VERSION = 1,
	PATH_SIZE = 112, /* bytes of a request target that are kept */
	HOST_SIZE = 40, /* bytes of a Host field that are kept */
	COMM_SIZE = 16, /* TASK_COMM_LEN of the kernel */
	FILTERS = 4, /* traces that may run at a time */
	PREFIX_SIZE = 64, /* longest path prefix of a filter */
	RECORDS = 128, /* places of each half of the flight recorder */
};

enum method {
	METHOD_OTHER = 0, /* a token that is none of the following */
	METHOD_GET = 1,
	METHOD_HEAD = 2,
	METHOD_POST = 3,
	METHOD_PUT = 4,
	METHOD_DELETE = 5,
	METHOD_CONNECT = 6,
	METHOD_OPTIONS = 7,
	METHOD_TRACE = 8,
	METHOD_PATCH = 9,
	METHODS,
};

/* At whose socket an exchange was seen. The server's is used only where the client's is not observed. */
enum side {
	SIDE_CLIENT = 0,
	SIDE_SERVER = 1,
};

/*
 * Latency is counted in exponential buckets of four an octave, those of a native histogram of schema 2: bucket i ends
 * at 2^((i + 1) / 4 + LATENCY_FIRST_OCTAVE) seconds. The first takes all that is faster, the last all that is slower.
 */
enum latency {
	LATENCY_FIRST_OCTAVE = -18, /* 3.8 us */
	LATENCY_BUCKETS = 96, /* up to 2^6 = 64 s */
};

/* What happened how often; reasons why a connection is not followed come first. */
enum tally {
	TALLY_JOINED = 0, /* connection was there before; exchanges are counted from the first safe place on */
	TALLY_NOT_HTTP = 1, /* first bytes are none of a request */
	TALLY_TLS = 2, /* TLS record */
	TALLY_HTTP2 = 3, /* preface of HTTP/2 */
	TALLY_BAD_REQUEST_LINE = 4,
	TALLY_BAD_STATUS_LINE = 5,
	TALLY_BAD_FIELD = 6, /* a folded field line, or blanks before the colon of one that frames */
	TALLY_BAD_LENGTH = 7, /* Content-Length is no number, or there are two that differ */
	TALLY_BAD_CODING = 8, /* a request whose transfer coding does not end with chunked */
	TALLY_BAD_CHUNK = 9, /* chunk size is no number, or a chunk does not end where it says */
	TALLY_LINE_TOO_LONG = 10, /* a line that frames does not fit */
	TALLY_UPGRADED = 11, /* 101: another protocol from here on */
	TALLY_TUNNEL = 12, /* 2xx to CONNECT */
	TALLY_UNSOLICITED = 13, /* response bytes without a request */
	TALLY_GAP = 14, /* bytes came out of order where each one counts; looks for a safe place again */
	TALLY_RACED = 15, /* two CPUs had segments of one direction at once; looks for a safe place again */
	TALLY_BUDGET = 16, /* more messages in one packet than the program may look at */
	TALLY_UNPAIRED = 17, /* too many requests outstanding to tell which response has a body */
	TALLY_NO_MEMORY = 18,
	TALLY_UNFOLLOWED, /* end of the reasons */

	TALLY_FOLLOWED = 19, /* connections followed from their first byte */
	TALLY_RESYNCHRONISED = 20, /* connections followed again, or at last */
	TALLY_UNSEEN_EXCHANGE = 21, /* exchange that served to find a safe place, in no series */
	TALLY_REQUEST = 22, /* request heads */
	TALLY_EXCHANGE = 23, /* requests with their response */
	TALLY_UNANSWERED = 24, /* requests whose connection ended before the response did */
	TALLY_PIPELINE_OVERFLOW = 25, /* exchange in no series: too many requests were outstanding */
	TALLY_SERIES_OVERFLOW = 26, /* exchange in the overflow series */
	TALLY_PATH_OVERFLOW = 27, /* exchange under the path "other" */
	TALLY_EVENT = 28, /* events sent */
	TALLY_EVENT_LOST = 29, /* event ring full */
	TALLY_EVENT_LIMITED = 30, /* event kept back by its filter's rate */
	TALLY_NO_WINDOW = 31, /* all working buffers of the CPU were in use: looks for a safe place again */
	TALLIES,
};

/* A process, as seen when it sent. Zeros: not seen. */
struct identity {
	__u64 cgroup; /* of the socket */
	__u32 pid; /* thread group */
	__u32 uid;
	char comm[COMM_SIZE]; /* of the thread; ends with NUL */
};

/* Key of `series`. */
struct series_key {
	__u64 source; /* cgroup of the client's socket; 0: not on this host or not observed */
	__u64 destination; /* cgroup of the server's socket; 0: likewise */
	__u64 path; /* key of `paths`; 0: other */
	__be32 address[4]; /* of the server, IPv4 is written v4-mapped */
	__be16 port;
	__u16 status; /* 0: unanswered */
	__u8 method; /* enum method */
	__u8 side; /* enum side */
	__u16 zero;
	__u32 service; /* that the client dialled; NONE */
	__u32 zero2;
};

/* Value of `series`, per CPU. */
struct series {
	__u64 count;
	__u64 request_bytes; /* heads and bodies */
	__u64 response_bytes;
	__u64 latency_ns; /* sum, first byte of the request to last of the response */
	__u64 first_byte_ns; /* sum, to the first byte of the response */
	__u64 buckets[LATENCY_BUCKETS]; /* of latency_ns */
};

/* Value of `paths`. */
struct path {
	__u32 length;
	__u32 zero;
	char text[PATH_SIZE]; /* numbers, UUIDs and long hexadecimal segments are {n}, {uuid} and {hex} */
};

enum request_flags {
	REQUEST_FLAG_PATH_CUT = 1, /* the target is longer than PATH_SIZE */
	REQUEST_FLAG_HOST_CUT = 2,
	REQUEST_FLAG_REUSED = 4, /* not the first request of its connection */
	REQUEST_FLAG_PIPELINED = 8, /* was sent before the response to the one before it ended */
	REQUEST_FLAG_UNANSWERED = 16,
};

enum event_type {
	EVENT_TYPE_REQUEST = 1,
};

/* Record of `traces`; also what the flight recorder keeps. */
struct request_event {
	__u32 type; /* EVENT_TYPE_REQUEST */
	__u32 matched; /* bit i: filter i */
	__u64 started_ns; /* bpf_ktime_get_ns() of the first byte of the request */
	__u64 first_byte_ns; /* from then to the first byte of the response; 0: there was none */
	__u64 latency_ns; /* to the last byte */
	__u64 request_bytes;
	__u64 response_bytes;
	__u64 path; /* key of `paths`, if some series has it */
	struct identity client;
	struct identity server;
	__be32 client_address[4];
	__be32 server_address[4];
	__be16 client_port;
	__be16 server_port;
	__u32 service;
	__u16 status;
	__u8 method;
	__u8 side;
	__u8 flags; /* enum request_flags */
	__u8 target_length;
	__u8 host_length;
	__u8 zero;
	char target[PATH_SIZE]; /* as sent, query included */
	char host[HOST_SIZE];
};

/* What a trace wants; all conditions must hold, and 0 means any. Place i of `filters`. */
struct filter {
	__u64 latency_ns; /* at least */
	__u64 cgroup; /* of client or server */
	__u64 interval_ns; /* one event an interval on average; 0: all */
	__u64 burst_ns; /* what may be saved up, as time */
	__u32 active;
	__u32 service; /* NONE: any */
	__u32 methods; /* bit i: enum method i */
	__u32 pid; /* of client or server */
	__u32 one_in; /* take one of so many, by chance; 0 and 1: all */
	__u16 status_from;
	__u16 status_to; /* included; 0: any */
	__u32 prefix_length;
	__u32 comm_length;
	char prefix[PREFIX_SIZE];
	char comm[COMM_SIZE]; /* of client or server */
};

/* Value of `filter_state`, beside each filter. */
struct filter_state {
	__u64 allowed_ns; /* when the next event is due; written by the kernel */
};

/* Value of `slowest` and `failed`. `sequence` is odd while the record is being written. */
struct record {
	__u64 sequence;
	struct request_event event;
};

/* Value of `slowest_order`: what is in the places of `slowest`, so that the fastest is found without reading them. */
struct slowest_order {
	__u64 floor; /* in microseconds: what is faster need not look */
	__u64 places[RECORDS]; /* latency in microseconds << 32 | time in seconds */
};

#endif
