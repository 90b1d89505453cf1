/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Never loaded: its type information is how Rust learns the types of the border. One global a type; padding is an
 * error, because both sides would have to agree on bytes that nobody wrote.
 */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#pragma clang diagnostic error "-Wpadded"
#include "alize/abi.h"

struct abi_types {
	enum abi abi;
	enum mode mode;
	enum balance balance;
	enum service_word service_word;
	enum slot_word slot_word;
	enum endpoint_state endpoint_state;
	enum refusal refusal;
	enum failure failure;
	enum version_count version_count;
	enum anomaly anomaly;
	enum connection_phase connection_phase;
	enum connection_path connection_path;
	enum event_kind event_kind;
};

struct abi_types abi_types;
struct frontend_key abi_frontend_key;
struct service abi_service;
struct service_name abi_service_name;
struct endpoint abi_endpoint;
struct endpoint_load abi_endpoint_load;
struct traffic abi_traffic;
struct decisions abi_decisions;
struct outcomes abi_outcomes;
struct affinity_key abi_affinity_key;
struct affinity abi_affinity;
struct connection abi_connection;
struct flows abi_flows;
struct event abi_event;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
