/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* As http_entry.bpf.c, for the proxy's own sockets: what they hold for life. */
#include "alize/bpf.h"
#include "http/abi.h"

/* HTTP_PROGRAM_BACK -> the program in force. Written by the agent, one store; read here. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, HTTP_BACK_PROGRAMS);
	__type(key, __u32);
	__type(value, __u32);
} http_back_programs SEC(".maps");

/* 0 -> whether the kernel was tried and may use back sockets. Written by the agent, read by the proxy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} http_remote SEC(".maps");

SEC("sk_skb/stream_verdict")
int alize_http_back_entry(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &http_back_programs, HTTP_PROGRAM_BACK);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
