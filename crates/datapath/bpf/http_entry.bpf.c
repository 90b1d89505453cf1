/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that sockets hold for life. A socket in a sockhash keeps the program it was put in with, whatever is
 * attached to the map later, so these never change and only lead on to what is in `http_programs` now.
 */
#include "alize/bpf.h"
#include "http/abi.h"

/* enum http_program -> the program in force. Written by the agent, one store each; read here. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, HTTP_PROGRAMS);
	__type(key, __u32);
	__type(value, __u32);
} http_programs SEC(".maps");

SEC("sk_msg")
int alize_http_client_entry(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &http_programs, HTTP_PROGRAM_CLIENT);
	return SK_PASS;
}

SEC("sk_msg")
int alize_http_far_entry(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &http_programs, HTTP_PROGRAM_FAR);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
