/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The HTTP router's reading of heads, its pools and its lookup of routes, for the host. */
#include <pthread.h>
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
	const __u8 *one = (const __u8 *)entry + sizeof(entry->prefix),
		   *other = (const __u8 *)asked + sizeof(asked->prefix);
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

enum { BUCKETS = 512 };

struct host_bucket {
	const void *map; /* 0: nobody's */
	struct http_bucket_key key;
	__u64 full;
};

static struct host_bucket host_buckets[BUCKETS];
static pthread_mutex_t host_buckets_lock = PTHREAD_MUTEX_INITIALIZER;
static __u32 host_buckets_room = BUCKETS;

static struct host_bucket *bucket_at(const void *map, const struct http_bucket_key *key)
{
	for (__u32 i = 0; i < BUCKETS; i++)
		if (host_buckets[i].map == map && !memcmp(&host_buckets[i].key, key, sizeof(*key)))
			return &host_buckets[i];
	return 0;
}

static void *bucket_lookup(const void *map, const void *key)
{
	pthread_mutex_lock(&host_buckets_lock);
	struct host_bucket *found = bucket_at(map, key);
	pthread_mutex_unlock(&host_buckets_lock);
	return found ? &found->full : 0;
}

/* As with BPF_NOEXIST. */
long http_map_update(const void *map, const void *key, const void *value)
{
	if (map != &http_buckets && map != &http_caller_buckets)
		return -1;
	pthread_mutex_lock(&host_buckets_lock);
	long done = -1;
	for (__u32 i = 0; i < host_buckets_room && !bucket_at(map, key); i++) {
		struct host_bucket *bucket = &host_buckets[i];
		if (bucket->map)
			continue;
		memcpy(&bucket->key, key, sizeof(bucket->key));
		WRITE_ONCE(bucket->full, *(const __u64 *)value);
		bucket->map = map;
		done = 0;
		break;
	}
	pthread_mutex_unlock(&host_buckets_lock);
	return done;
}

void *http_map_lookup(const void *map, const void *key)
{
	if (map == &http_buckets || map == &http_caller_buckets)
		return bucket_lookup(map, key);
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

static __u64 host_clock;

__u64 http_now(void)
{
	return READ_ONCE(host_clock);
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

/* The verdict on a request that request_read takes; `reason` tells why it is the proxy's, `found` what was in its fields. */
__u32 host_http_route(const __u8 *bytes, __u32 size, __u64 service, __u32 *reason, __u64 *found)
{
	static const __u8 stale[] = "/x\r\n";
	struct http_window *window = window_with(bytes, size, stale, sizeof(stale));
	struct head head = {};
	*reason = request_read(window, &head, size, headers_of(service));
	__u32 rule = *reason ? 0 : route_find(window, &head, service, reason);
	*found = head.found;
	free(window);
	return rule;
}

/* Forgets all buckets, of which there may be `room` from now on. */
void host_http_buckets_clear(__u32 room)
{
	memset(host_buckets, 0, sizeof(host_buckets));
	host_buckets_room = room < BUCKETS ? room : BUCKETS;
}

/* Removes the buckets that have been full for a while. */
void host_http_buckets_sweep(__u64 now)
{
	for (__u32 i = 0; i < BUCKETS; i++)
		if (host_buckets[i].map && bucket_close(&host_buckets[i].full, now)) {
			pthread_mutex_lock(&host_buckets_lock);
			host_buckets[i].map = 0;
			pthread_mutex_unlock(&host_buckets_lock);
		}
}

/* Draws at `now`: enum http_draw_outcome. `rates` is a struct http_rates. */
__u32 host_http_draw(const __u8 *rates, __u64 netns, __u64 now, __u64 *wait)
{
	struct http_rates copy;
	struct http_caller caller = {.netns = netns};
	memcpy(&copy, rates, sizeof(copy));
	WRITE_ONCE(host_clock, now);
	return limits_draw(&copy, &caller, wait);
}

/* The place of a caller. */
__u32 host_http_caller_place(__u64 netns, const __u32 *address)
{
	struct http_caller caller = {.netns = netns};
	memcpy(caller.address, address, sizeof(caller.address));
	return caller_place(&caller);
}
