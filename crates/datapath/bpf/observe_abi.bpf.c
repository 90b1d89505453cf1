/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Never loaded: as abi.bpf.c, for the types of the observing programs. */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#pragma clang diagnostic error "-Wpadded"
#include "observe/abi.h"

struct observe_abi_types {
	enum observe_abi observe_abi;
	enum method method;
	enum side side;
	enum latency latency;
	enum tally tally;
	enum request_flags request_flags;
	enum template_byte template_byte;
	enum event_type event_type;
	enum path_label path_label;
	enum http2_kind http2_kind;
	enum tcp_kind tcp_kind;
	enum tcp_reason tcp_reason;
	enum dns_flags dns_flags;
	enum dns_transport dns_transport;
	enum filter_sets filter_sets;
	enum tls_function tls_function;
	enum tls_cookie tls_cookie;
	enum tls_limits tls_limits;
};

struct observe_abi_types observe_abi_types;
struct identity observe_abi_identity;
struct series_key observe_abi_series_key;
struct series observe_abi_series;
struct path observe_abi_path;
struct template observe_abi_template;
struct request_event observe_abi_request_event;
struct http2_record observe_abi_http2_record;
struct tcp_event observe_abi_tcp_event;
struct dns_event observe_abi_dns_event;
struct dns_key observe_abi_dns_key;
struct filter_endpoint observe_abi_filter_endpoint;
struct filter_cgroup observe_abi_filter_cgroup;
struct filter observe_abi_filter;
struct filter_state observe_abi_filter_state;
struct record observe_abi_record;
struct slowest_order observe_abi_slowest_order;
struct tls_server observe_abi_tls_server;
struct tls_key observe_abi_tls_key;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
