/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The HTTP router's reading of heads, its pools and its lookup of routes, for the host. */
#include <stdlib.h>
#include "http/route.h"

enum { SLOTS = 4096, POOLS = 16, CLASSES = 1024 };

struct host_class {
	struct http_class_key key;
	struct http_class class;
};

static struct http_slot host_slots[SLOTS];
static struct http_pool host_pools[POOLS];
static struct host_class host_classes[CLASSES];
static __u32 host_class_count;
static struct http_headers host_headers;
static bool host_has_headers;

static bool starts_alike(const struct http_class_key *entry, const struct http_class_key *asked)
{
	const __u8 *one = (const __u8 *)entry + sizeof(entry->prefix), *other = (const __u8 *)asked + sizeof(asked->prefix);
	return entry->prefix <= asked->prefix && !memcmp(one, other, entry->prefix / 8);
}

/* The longest prefix, as kernel/bpf/lpm_trie.c finds it; prefixes are of whole bytes. */
static struct http_class *longest_class(const struct http_class_key *asked)
{
	struct host_class *best = 0;
	for (__u32 i = 0; i < host_class_count; i++) {
		struct host_class *entry = &host_classes[i];
		if (starts_alike(&entry->key, asked) && (!best || entry->key.prefix > best->key.prefix))
			best = entry;
	}
	return best ? &best->class : 0;
}

void *http_map_lookup(const void *map, const void *key)
{
	__u32 number = *(const __u32 *)key;
	if (map == &http_slots)
		return number < SLOTS ? &host_slots[number] : 0;
	if (map == &http_pool_heads)
		return number < POOLS ? &host_pools[number] : 0;
	if (map == &http_headers)
		return host_has_headers ? &host_headers : 0;
	if (map == &http_classes)
		return longest_class(key);
	return 0;
}

__u32 http_random(void)
{
	static __thread __u64 seed = 0x9e3779b97f4a7c15ULL;
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return seed >> 32;
}

/* As in `struct head`, of which `zero` stays behind. */
struct host_head {
	__u32 length, flags, body;
	__u16 path, path_length, status;
	__u8 method;
};

/* A window with the message in it, and behind it what earlier ones left: `stale`, over and over. */
static struct http_window *window_with(const __u8 *bytes, __u32 size, const __u8 *stale, __u32 stale_size)
{
	struct http_window *window = malloc(sizeof(*window));
	if (!window)
		abort();
	memcpy(window->bytes, stale, stale_size);
	for (__u32 done = stale_size; done < sizeof(window->bytes);) {
		__u32 more = minimum(done, sizeof(window->bytes) - done);
		memcpy(window->bytes + done, window->bytes, more);
		done += more;
	}
	memcpy(window->bytes, bytes, size);
	window->busy = 1;
	return window;
}

/* Reads a message of any size, of which the kernel sees the beginning. `method` of a request, or -1 to read one. */
__u32 host_http_read(const __u8 *bytes, __u32 size, const __u8 *stale, __u32 stale_size, __s32 method,
		     struct host_head *told)
{
	__u32 seen = size < HTTP_HEAD_SIZE ? size : HTTP_HEAD_SIZE;
	struct http_window *window = window_with(bytes, seen, stale, stale_size);
	struct head head = {};
	__u32 reason = method < 0 ? request_read(window, &head, seen, 0) : response_read(window, &head, seen, method);
	*told = (struct host_head){
		.length = head.length,
		.flags = head.flags,
		.body = head.body,
		.path = head.path,
		.path_length = head.path_length,
		.status = head.status,
		.method = head.method,
	};
	free(window);
	return reason;
}

/* Forgets all classes. */
void host_http_classes_clear(void)
{
	host_class_count = 0;
	host_has_headers = false;
}

/* What the routes of the one table that has any ask of headers. */
int host_http_headers_set(const __u8 *bytes, __u32 size)
{
	if (size != sizeof(host_headers))
		return -1;
	memcpy(&host_headers, bytes, size);
	host_has_headers = true;
	return 0;
}

int host_http_class_add(__u32 table, const __u8 *path, __u32 bits, const __u32 *verdicts)
{
	if (host_class_count == CLASSES || bits < 32 || bits > 32 + HTTP_PATTERN_SIZE * 8)
		return -1;
	struct host_class *entry = &host_classes[host_class_count++];
	memset(entry, 0, sizeof(*entry));
	entry->key.prefix = bits;
	entry->key.table = table;
	memcpy(entry->key.path, path, (bits - 32) / 8);
	memcpy(entry->class.verdicts, verdicts, sizeof(entry->class.verdicts));
	return 0;
}

/* The verdict on a request that request_read takes; `reason` tells why it is the proxy's. */
__u32 host_http_route(const __u8 *bytes, __u32 size, __u64 service, __u32 *reason)
{
	static const __u8 stale[] = "/x\r\n";
	struct http_window *window = window_with(bytes, size, stale, sizeof(stale));
	struct head head = {};
	*reason = request_read(window, &head, size, headers_of(service));
	__u32 rule = *reason ? 0 : route_find(window, &head, service, reason);
	free(window);
	return rule;
}
