/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A world of two sockets and some maps for the observing programs. One at a time: the caller holds a lock. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include "observe.bpf.c"
#include "observe/dns_stream.h"

enum { MAPS = 32, ENTRIES = 512, SOCKETS = 8, LARGEST_PACKET = 1 << 17, EVENTS = 1 << 16, HEADS = 1 << 24 };

struct host_map {
	const void *map;
	size_t count, value_size;
	unsigned char *keys[ENTRIES], *values[ENTRIES];
};

struct host_now host_now;
static struct host_map host_maps[MAPS];
static struct bpf_sock host_sockets[SOCKETS];
static unsigned char *host_packet;
static __u32 host_packet_size;
static struct request_event *host_events;
static __u32 host_event_count;
static unsigned char *host_heads;
static size_t host_heads_size;

static struct host_map *map_of(const void *map)
{
	for (int i = 0; i < MAPS; i++)
		if (host_maps[i].map == map || !host_maps[i].map) {
			host_maps[i].map = map;
			return &host_maps[i];
		}
	abort();
}

static void *find(struct host_map *map, const void *key, size_t key_size)
{
	for (size_t i = 0; i < map->count; i++)
		if (!memcmp(map->keys[i], key, key_size))
			return map->values[i];
	return 0;
}

static void *insert(struct host_map *map, const void *key, size_t key_size, size_t value_size)
{
	if (map->count == ENTRIES)
		return 0;
	size_t at = map->count++;
	map->keys[at] = malloc(key_size);
	memcpy(map->keys[at], key, key_size);
	return map->values[at] = calloc(1, value_size);
}

void *host_map_lookup(const void *address, const void *key, size_t key_size, size_t value_size, int type,
		      size_t entries)
{
	struct host_map *map = map_of(address);
	bool array = type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY;
	void *found = find(map, key, key_size);
	if (found || !array)
		return found;
	return *(const __u32 *)key < entries ? insert(map, key, key_size, value_size) : 0;
}

long host_map_update(const void *address, const void *key, const void *value, size_t key_size, size_t value_size,
		     int type, size_t entries, __u64 flags)
{
	struct host_map *map = map_of(address);
	void *found = find(map, key, key_size);
	if (found && flags == BPF_NOEXIST)
		return -1;
	if (!found && map->count >= entries)
		return -1;
	found = found ?: insert(map, key, key_size, value_size);
	if (!found)
		return -1;
	memcpy(found, value, value_size);
	return 0;
}

void *host_storage(const void *address, const struct bpf_sock *sk, size_t value_size, __u64 flags)
{
	struct host_map *map = map_of(address);
	__u64 key = (size_t)sk;
	void *found = find(map, &key, sizeof(key));
	return found || !flags ? found : insert(map, &key, sizeof(key), value_size);
}

void host_ring(const void *map, const void *bytes, size_t size)
{
	if (map == &http2_heads) {
		if (host_heads_size + sizeof(size) + size > HEADS)
			return;
		memcpy(host_heads + host_heads_size, &size, sizeof(size));
		memcpy(host_heads + host_heads_size + sizeof(size), bytes, size);
		host_heads_size += sizeof(size) + size;
		return;
	}
	if (host_event_count < EVENTS)
		memcpy(&host_events[host_event_count++], bytes, size);
}

/* Records of HTTP/2, each behind its size. */
const void *host_http2(size_t *size)
{
	*size = host_heads_size;
	return host_heads;
}

long host_load_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	if (offset > host_packet_size || size > host_packet_size - offset || !size)
		return -1;
	memcpy(to, host_packet + offset, size);
	return 0;
}

/* Forgets everything; a trace that wants every request is on afterwards. */
void host_reset(void)
{
	for (int i = 0; i < MAPS; i++) {
		for (size_t at = 0; at < host_maps[i].count; at++) {
			free(host_maps[i].keys[at]);
			free(host_maps[i].values[at]);
		}
		host_maps[i].map = 0;
		host_maps[i].count = 0;
	}
	/* The programs see addresses of packets as 32 bits. */
	if (!host_packet)
		host_packet =
			mmap(0, LARGEST_PACKET, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (host_packet == MAP_FAILED)
		abort();
	if (!host_events)
		host_events = calloc(EVENTS, sizeof(*host_events));
	if (!host_heads)
		host_heads = malloc(HEADS);
	host_event_count = 0;
	host_heads_size = 0;
	memset(&host_now, 0, sizeof(host_now));
	host_now.time = 1;
	__u32 zero = 0;
	__u64 active = 1;
	struct filter filter = {.active = 1, .service = ~0U, .events = ~0U};
	bpf_map_update_elem(&tracing, &zero, &active, BPF_ANY);
	bpf_map_update_elem(&http2_readers, &zero, &active, BPF_ANY);
	bpf_map_update_elem(&filters, &zero, &filter, BPF_ANY);
}

/* The socket has the cgroup `socket + 1` and its process the number `socket + 100`. */
int host_segment(__u32 socket, int egress, __u32 sequence, __u32 acknowledged, __u8 flags, int first,
		 const unsigned char *payload, __u32 size)
{
	enum { HEADERS = 40 };
	if (socket >= SOCKETS || size > LARGEST_PACKET - HEADERS)
		return -1;
	memset(host_packet, 0, HEADERS);
	host_packet[0] = 0x45;
	host_packet[9] = 6;
	host_packet[12] = host_packet[16] = 127;
	sequence = __builtin_bswap32(sequence);
	acknowledged = __builtin_bswap32(acknowledged);
	memcpy(host_packet + 24, &sequence, 4);
	memcpy(host_packet + 28, &acknowledged, 4);
	host_packet[32] = 5 << 4;
	host_packet[33] = flags;
	memcpy(host_packet + HEADERS, payload, size);
	host_packet_size = HEADERS + size;
	host_now.time += 1000;
	host_now.cgroup = socket + 1;
	host_now.pid = socket + 100;
	host_now.owned = egress;
	host_now.tcp.data_segs_out = first && egress ? 1 : first ? 0 : 2;
	host_now.tcp.data_segs_in = 0;
	struct __sk_buff skb = {
		.len = host_packet_size,
		.data = (__u32)(size_t)host_packet,
		.data_end = (__u32)(size_t)host_packet + (size < 64 ? host_packet_size : HEADERS),
		.sk = &host_sockets[socket],
	};
	host_sockets[socket].state = BPF_TCP_ESTABLISHED;
	return egress ? alize_observe_egress(&skb) : alize_observe_ingress(&skb);
}

__u64 host_tally(__u32 which)
{
	__u64 *count = bpf_map_lookup_elem(&tallies, &which);
	return count ? *count : 0;
}

const void *host_event(__u32 number, __u32 *size)
{
	*size = sizeof(*host_events);
	return number < host_event_count ? &host_events[number] : 0;
}

/* The bucket of a latency, for comparing with the bounds that user space knows. */
__u32 host_latency_bucket(__u64 ns)
{
	return latency_bucket(ns);
}

/* Reads a DNS message; false: it is none. */
int host_dns(const unsigned char *message, __u32 size, __u32 response, void *event)
{
	struct dns_scratch *scratch = calloc(1, sizeof(*scratch));
	memcpy(scratch->bytes, message, size < DNS_LOAD ? size : DNS_LOAD);
	scratch->event.type = EVENT_TYPE_DNS;
	int read = dns_read(scratch, size, response);
	memcpy(event, &scratch->event, sizeof(scratch->event));
	free(scratch);
	return read;
}

/*
 * Reads a direction of DNS over TCP, whose byte `from` is the first of a segment of `size` bytes; `stream` has room for a
 * `struct dns_stream`. Events of its messages are written to `events`. Their number; below 0: it cannot be followed.
 */
int host_dns_segment(void *stream, __u32 from, const unsigned char *segment, __u32 size, __u32 response, void *events,
		     __u32 room)
{
	struct dns_scratch *scratch = calloc(1, sizeof(*scratch));
	struct __sk_buff skb = {};
	int count = 0;
	memcpy(host_packet, segment, size);
	host_packet_size = size;
	scratch->packet = (struct dns_packet){.left = size, .sequence = from};
	if (!dns_stream_place(scratch, stream) && !dns_stream_rejoin(&skb, scratch, stream, response))
		count = -1;
	while (count >= 0 && dns_stream_step(&skb, scratch, stream)) {
		scratch->event.type = EVENT_TYPE_DNS;
		if (dns_read(scratch, scratch->size, response) && (__u32)count < room)
			memcpy((struct dns_event *)events + count++, &scratch->event, sizeof(scratch->event));
	}
	free(scratch);
	return count;
}

__u32 host_dns_stream_size(void)
{
	return sizeof(struct dns_stream);
}

/* The path under which a request is counted; its length. */
__u32 host_path(const void *key, unsigned char *text)
{
	struct path *path = bpf_map_lookup_elem(&paths, (const __u64 *)key);
	if (!path)
		return 0;
	memcpy(text, path->text, PATH_SIZE);
	return path->length;
}
