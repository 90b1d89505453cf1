/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Buckets under many threads: all draw from two limits, and give back some, against one clock that goes on. What was taken,
 * less what was given back, is within the bound of the bucket, to the request. For sanitizers; usage: buckets DRAWS
 */
#include <sched.h>
#include <stdio.h>
#include "../src/http.c"
#include "check.h"

enum { THREADS = 6, INTERVAL = 1000, BURST = 40 };

static const __u64 start = 1000000;
static __u64 ticks;
static long draws, taken, over, given_back, busy;

static const struct http_limit service = {.bucket = 7, .interval_ns = INTERVAL, .room_ns = INTERVAL * (BURST - 1)};
static const struct http_limit route = {
	.bucket = 8, .interval_ns = INTERVAL * 2, .room_ns = INTERVAL * (BURST - 1) * 2, .per_caller = 1};

static void *draw_all(void *argument)
{
	struct http_caller caller = {.netns = 3};
	/* The second limit refuses a half of what the first would let in, which has to be given back to that. */
	struct http_rates rates = {.limit = {service, route}};
	(void)argument;
	for (long i = 0; i < draws; i++) {
		__u64 wait = 0;
		WRITE_ONCE(host_clock, start + __sync_add_and_fetch(&ticks, 7));
		switch (limits_draw(&rates, &caller, &wait)) {
		case HTTP_DRAW_TAKEN:
			COUNT(taken, 1);
			if (http_random() % 8 == 0) {
				bucket_give_back(bucket_of(&service, &caller), &service);
				bucket_give_back(bucket_of(&route, &caller), &route);
				COUNT(given_back, 1);
			}
			break;
		case HTTP_DRAW_OVER:
			CHECK(wait);
			COUNT(over, 1);
			break;
		default:
			COUNT(busy, 1);
		}
		if (i % 64 == 0)
			sched_yield();
	}
	return 0;
}

int main(int count, char **arguments)
{
	draws = count > 1 ? atol(arguments[1]) : 10000;
	pthread_t threads[THREADS];
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], 0, draw_all, 0));
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], 0);
	long served = taken - given_back, most = BURST + ticks / (INTERVAL * 2);
	printf("%ld taken, %ld given back, %ld over, %ld busy, at most %ld\n", taken, given_back, over, busy, most);
	/* A draw that was given back may have kept another out meanwhile. */
	CHECK(served <= most && served > most * 8 / 10 && over > draws / 10 && given_back);
	return 0;
}
