/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Never loaded: its type information is how Rust learns the types of the HTTP router's border. See abi.bpf.c. */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#pragma clang diagnostic error "-Wpadded"
#include "http/abi.h"

struct http_abi_types {
	enum http_limits limits;
	enum http_program program;
	enum http_next_program next_program;
	enum http_method method;
	enum http_reason reason;
	enum http_service_word service_word;
	enum http_verdict verdict;
	enum http_balance balance;
	enum http_draw_outcome draw_outcome;
	enum http_pool_head pool_head;
	enum http_slot_word slot_word;
	enum http_slot_phase slot_phase;
};

struct http_abi_types http_abi_types;
struct http_listener http_abi_listener;
struct http_front_key http_abi_front_key;
struct http_front http_abi_front;
struct http_class_key http_abi_class_key;
struct http_condition http_abi_condition;
struct http_choice http_abi_choice;
struct http_headers http_abi_headers;
struct http_class http_abi_class;
struct http_rule http_abi_rule;
struct http_group http_abi_group;
struct http_proxied http_abi_proxied;
struct http_lane http_abi_lane;
struct http_caller http_abi_caller;
struct http_limit http_abi_limit;
struct http_rates http_abi_rates;
struct http_bucket_key http_abi_bucket_key;
struct http_draw http_abi_draw;
struct http_pool_key http_abi_pool_key;
struct http_pool http_abi_pool;
struct http_slot http_abi_slot;
struct http_dial_key http_abi_dial_key;
struct http_rest http_abi_rest;
struct http_client http_abi_client;
struct http_far http_abi_far;
struct http_traffic_key http_abi_traffic_key;
struct http_traffic http_abi_traffic;
struct http_reasons http_abi_reasons;
struct http_event http_abi_event;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
