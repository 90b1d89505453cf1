/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that crosses the border between the observing programs and user space, written once.
 *
 * The generated skeleton of observe_abi.bpf.c is the only Rust copy. What is in a pinned map is carried over to the next
 * version by the names of the fields, so a field that comes to mean something else needs another name. Enums grow at their
 * ends.
 */
#ifndef OBSERVE_ABI_H
#define OBSERVE_ABI_H

#include <linux/types.h>

enum observe_abi {
	PATH_SIZE = 112, /* bytes of a request target that are kept */
	HOST_SIZE = 40, /* bytes of a Host field that are kept */
	COMM_SIZE = 16, /* TASK_COMM_LEN of the kernel */
	FILTERS = 4, /* traces that may run at a time */
	PREFIX_SIZE = 64, /* longest path prefix of a filter */
	RECORDS = 128, /* places of each half of the flight recorder */
	TEMPLATES = 32, /* path templates there may be */
	NAME_SIZE = 128, /* bytes of a DNS name, as text, that are kept */
	TRACE_SIZE = 56, /* of a traceparent field, whose 55 bytes are kept */
	HTTP2_PIECE = 512, /* bytes of a header block in one record */
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
	TALLY_HTTP2 = 3, /* HTTP/2 for which there was no memory */
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
	TALLY_TLS_HTTP2 = 19, /* HTTP/2 within TLS */
	TALLY_TLS_UNPLACED = 20, /* session of TLS that no socket was seen to carry: its plaintext is not looked at */
	TALLY_UNFOLLOWED, /* end of the reasons */

	TALLY_FOLLOWED = 21, /* connections followed from their first byte */
	TALLY_RESYNCHRONISED = 22, /* connections followed again, or at last */
	TALLY_UNSEEN_EXCHANGE = 23, /* exchange that served to find a safe place, in no series */
	TALLY_REQUEST = 24, /* request heads */
	TALLY_EXCHANGE = 25, /* requests with their response */
	TALLY_UNANSWERED = 26, /* requests whose connection ended before the response did */
	TALLY_PIPELINE_OVERFLOW = 27, /* exchange in no series: too many requests were outstanding */
	TALLY_SERIES_OVERFLOW = 28, /* exchange in the overflow series */
	TALLY_PATH_OVERFLOW = 29, /* exchange under the path "other" */
	TALLY_EVENT = 30, /* events sent */
	TALLY_EVENT_LOST = 31, /* event ring full */
	TALLY_EVENT_LIMITED = 32, /* event kept back by its filter's rate */
	TALLY_NO_WINDOW = 33, /* all working buffers of the CPU were in use: looks for a safe place again */
	TALLY_DNS_QUERY = 34, /* queries seen while DNS is traced */
	TALLY_DNS_MALFORMED = 35, /* to or from port 53, and no message that can be read */
	TALLY_DNS_UNMATCHED = 36, /* responses that nobody traced has asked for */
	TALLY_HTTP2_FOLLOWED = 37, /* connections of HTTP/2 followed from their preface */
	TALLY_HTTP2_JOINED = 38, /* connections of HTTP/2 that were there before, followed from a request on */
	TALLY_HTTP2_FRAME = 39, /* frames of HTTP/2 that cannot be: looks for the next that fits */
	TALLY_HTTP2_GAP = 40, /* bytes between frames of HTTP/2 were missed: likewise */
	TALLY_HTTP2_RECORD = 41, /* records of HTTP/2 sent to user space */
	TALLY_HTTP2_LOST = 42, /* ring of HTTP/2 full: heads that user space will not see */
	TALLY_TLS_SESSION = 43, /* sessions of TLS, of a service that asks for it, whose plaintext is looked at */
	TALLY_TLS_PEER = 44, /* the same, which their client's process tells of */
	TALLY_DNS_UNFOLLOWED = 45, /* segments of DNS over TCP in which no message was found for certain */
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
	__u16 path_label; /* enum path_label */
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

enum template_byte {
	TEMPLATE_SEGMENT = 1, /* stands for one segment, which is not empty */
	TEMPLATE_REST = 2, /* stands for all that follows */
};

/* Value of `templates`. */
struct template
{
	__u64 key; /* of `paths`, where its text is */
	__u32 length; /* 0: the place is empty */
	__u32 zero;
	char pattern[PATH_SIZE]; /* bytes of a folded path, and enum template_byte */
};

enum request_flags {
	REQUEST_FLAG_PATH_CUT = 1, /* the target is longer than PATH_SIZE */
	REQUEST_FLAG_HOST_CUT = 2,
	REQUEST_FLAG_REUSED = 4, /* not the first request of its connection */
	REQUEST_FLAG_PIPELINED = 8, /* was sent before the response to the one before it ended */
	REQUEST_FLAG_UNANSWERED = 16,
	REQUEST_FLAG_BROKEN = 32, /* the connection ended within the response */
};

enum event_type {
	EVENT_TYPE_REQUEST = 1,
	EVENT_TYPE_TCP = 2,
	EVENT_TYPE_DNS = 3,
};

/* The way that a request took. */
enum path_label {
	PATH_LABEL_OBSERVED = 0, /* went by; nothing was done to it */
	PATH_LABEL_KERNEL_L7 = 1, /* routed by the kernel */
	PATH_LABEL_KERNEL_L4 = 2, /* its connection was balanced by the kernel */
	PATH_LABEL_PROXY = 3, /* routed by the proxy */
	PATH_LABEL_TLS = 4, /* went by within TLS; its plaintext was seen in the process */
	PATH_LABELS,
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
	__u8 path_label; /* enum path_label */
	char target[PATH_SIZE]; /* as sent, query included */
	char host[HOST_SIZE];
	char trace_parent[TRACE_SIZE]; /* the field of that name, up to a NUL; empty: there was none */
};

enum http2_kind {
	HTTP2_KIND_BLOCK = 1, /* a piece of HEADERS, PUSH_PROMISE or CONTINUATION follows */
	HTTP2_KIND_DATA = 2, /* a run of DATA frames is over; the stream's end if `frame_flags` say so */
	HTTP2_KIND_RESET = 3, /* RST_STREAM */
	HTTP2_KIND_GAP = 4, /* bytes of this direction were missed */
	HTTP2_KIND_END = 5, /* the connection is over */
	HTTP2_KINDS,
};

/* Record of `http2_heads`, before at most HTTP2_PIECE bytes: what user space needs to decode heads and pair streams. */
struct http2_record {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u64 connection; /* socket cookie */
	__u64 data_bytes; /* payload of DATA on `data_stream` that no record has told yet */
	struct identity sender; /* of this direction */
	__be32 client_address[4];
	__be32 server_address[4];
	__be16 client_port;
	__be16 server_port;
	__u32 service; /* that the client dialled; NONE */
	__u32 number; /* among the records of its direction: a lost one leaves a hole */
	__u32 stream;
	__u32 data_stream;
	__u32 frame_length; /* of the payload */
	__u32 offset; /* of the piece in the payload */
	__u16 length; /* of the piece */
	__u8 kind; /* enum http2_kind */
	__u8 frame_type;
	__u8 frame_flags;
	__u8 response; /* direction: 0 from the client, 1 to it */
	__u8 side; /* enum side */
	__u8 late; /* the connection was there before it was followed */
	__u8 path_label; /* enum path_label */
	__u8 zero[3];
};

enum tcp_kind {
	TCP_KIND_CONNECTED = 1, /* the client's end */
	TCP_KIND_ACCEPTED = 2, /* the server's end */
	TCP_KIND_FAILED = 3, /* connect() came to nothing */
	TCP_KIND_CLOSED = 4,
	TCP_KIND_RETRANSMIT = 5,
	TCP_KINDS,
};

/* Why a connection failed or ended. */
enum tcp_reason {
	TCP_REASON_NONE = 0, /* closed in good order */
	TCP_REASON_REFUSED = 1,
	TCP_REASON_TIMEOUT = 2,
	TCP_REASON_UNREACHABLE = 3,
	TCP_REASON_RESET_RECEIVED = 4,
	TCP_REASON_RESET_SENT = 5, /* closed with data unread, or without lingering */
	TCP_REASON_ABORTED = 6, /* given up by the application before it was established */
	TCP_REASON_OTHER = 7,
	TCP_REASONS,
};

/* Record of `traces`: something that happened to a TCP socket of a meshed cgroup. */
struct tcp_event {
	__u32 type; /* EVENT_TYPE_TCP */
	__u32 matched; /* bit i: filter i */
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u64 duration_ns; /* CONNECTED, FAILED: since the SYN; CLOSED: since it was established; 0: not known */
	__u64 bytes_sent; /* acknowledged so far */
	__u64 bytes_received;
	struct identity owner; /* whose socket it is */
	__be32 local_address[4];
	__be32 remote_address[4];
	__be16 local_port;
	__be16 remote_port;
	__u32 retransmits; /* so far */
	__u32 rtt_us; /* smoothed */
	__u8 kind; /* enum tcp_kind */
	__u8 reason; /* enum tcp_reason */
	__u8 side; /* enum side */
	__u8 zero;
};

enum dns_flags {
	DNS_FLAG_TCP = 1,
	DNS_FLAG_UNANSWERED = 2, /* no response within seconds */
	DNS_FLAG_TRUNCATED = 4, /* the server says that there is more by TCP */
	DNS_FLAG_NAME_CUT = 8, /* the name is longer than NAME_SIZE */
	DNS_FLAG_REPEATED = 16, /* asked more than once; the latency is since the first time */
};

/* Record of `traces`: a DNS query with its response; also the value of `dns_queries`, then without the response. */
struct dns_event {
	__u32 type; /* EVENT_TYPE_DNS */
	__u32 matched; /* bit i: filter i */
	__u64 time_ns; /* bpf_ktime_get_ns() of the query */
	__u64 latency_ns; /* to the response */
	struct identity client;
	__be32 client_address[4];
	__be32 server_address[4];
	__be16 client_port;
	__be16 server_port;
	__u16 query_type; /* as in DNS: 1 A, 28 AAAA */
	__u16 answers; /* records in the answer section */
	__u8 code; /* response code: 0 no error, 3 no such name */
	__u8 flags; /* enum dns_flags */
	__u8 name_length;
	__u8 zero;
	__u32 zero2;
	char name[NAME_SIZE]; /* without the last dot; what is not printable is '?' */
};

enum dns_transport {
	DNS_TRANSPORT_UDP = 0,
	DNS_TRANSPORT_TCP = 1,
	DNS_TRANSPORT_UNFOLLOWED =
		2, /* no query; at the event's time, responses of this connection could not be followed */
};

/* Key of `dns_queries`. */
struct dns_key {
	__be32 client_address[4];
	__be32 server_address[4];
	__be16 client_port;
	__be16 server_port;
	__u16 id;
	__u16 tcp; /* enum dns_transport */
};

/* Sets that a filter may ask for beside itself. */
enum filter_sets {
	FILTER_SET_ENDPOINTS = 1, /* the server's address must be in `filter_endpoints` */
	FILTER_SET_CGROUPS = 2, /* client or server must be in `filter_cgroups` */
};

/* Key of `filter_endpoints`; the value says nothing. */
struct filter_endpoint {
	__be32 address[4];
	__be16 port;
	__u16 place; /* of the filter */
};

/* Key of `filter_cgroups`; likewise. */
struct filter_cgroup {
	__u64 cgroup;
	__u64 place;
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
	__u32 events; /* bit i: enum event_type i */
	__u32 sets; /* enum filter_sets */
	char prefix[PREFIX_SIZE];
	char comm[COMM_SIZE]; /* of client or server */
};

/* Value of `filter_state`, beside each filter. */
struct filter_state {
	__u64 allowed_ns; /* when the next event is due; written by the kernel */
};

/* Which function of a TLS library a probe is at. */
enum tls_function {
	TLS_FUNCTION_READ = 1,
	TLS_FUNCTION_WRITE = 2,
	TLS_FUNCTION_HANDSHAKE = 3,
	TLS_FUNCTION_FREE = 4,
	/* Go's: a call within Read and one within Write, with a piece of plaintext, and the beginnings of handshakes. */
	TLS_FUNCTION_GO_READ = 5,
	TLS_FUNCTION_GO_WRITE = 6,
	TLS_FUNCTION_GO_CONNECT = 7,
	TLS_FUNCTION_GO_ACCEPT = 8,
};

/*
 * The cookie of a probe, which tells where its function has what. Arguments are numbered as the calling convention passes
 * them, from 1; the first is the session.
 */
enum tls_cookie {
	TLS_COOKIE_FUNCTION_SHIFT = 0, /* enum tls_function */
	TLS_COOKIE_DATA_SHIFT = 8, /* argument with the address of the data */
	TLS_COOKIE_COUNT_SHIFT = 16, /* argument that points to where the count is put; 0: it is returned */
	TLS_COOKIE_TYPE_SHIFT = 24, /* argument with the type of record, of which application data count; 0: none */
	/* Of Go, behind the function. */
	TLS_COOKIE_STACK_SHIFT = 8, /* 24 bits: distance of the connection on the stack; 0: it is the first argument */
	TLS_COOKIE_INTERFACE_SHIFT = 32, /* signed: from the probe to the table that says that a net.Conn is of TCP */
};

/* Bounds of TLS. */
enum tls_limits {
	TLS_CGROUPS = 64, /* meshed cgroups there may be */
	TLS_SESSIONS = 16384,
	TLS_CALLS = 8192, /* threads that are in a library at a time */
	TLS_SERVERS = 16384,
	TLS_BEGUN = 4096, /* handshakes under way at a time, of Go */
};

/* Key of `tls_servers`: an address that is asked for. */
struct tls_server {
	__be32 address[4];
	__be16 port;
	__u16 zero;
};

/* Key of `tls_sessions`. */
struct tls_key {
	__u64 session; /* the library's, an address in the process */
	__u32 process; /* thread group */
	__u32 zero;
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
