/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Not part of the product: an sk_msg program that emits a request, loaded by a test of emit.h. */
#include "observe/emit.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

SEC("sk_msg")
int emit_message(struct sk_msg_md *message)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 latency = 3000000;
	__u16 status = 503;
	if (!trace_wanted(latency, status, now))
		return SK_PASS;
	struct request_event *event = trace_draft();
	if (!event)
		return SK_PASS;
	event->started_ns = now - latency;
	event->latency_ns = latency;
	event->request_bytes = message->size;
	event->status = status;
	event->method = METHOD_GET;
	event->path_label = PATH_LABEL_KERNEL_L7;
	event->client.cgroup = bpf_get_current_cgroup_id();
	event->client.pid = bpf_get_current_pid_tgid() >> 32;
	event->client_address[2] = event->server_address[2] = bpf_htonl(0xffff);
	event->server_address[3] = message->remote_ip4;
	event->server_port = bpf_htons(bpf_ntohl(message->remote_port));
	event->target_length = 5;
	__builtin_memcpy(event->target, "/emit", 5);
	trace_emit(event, now);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
