/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What crosses the border between conformance.bpf.c and user space. Nothing of it is ever pinned. */
#ifndef CONFORMANCE_ABI_H
#define CONFORMANCE_ABI_H

#include <linux/types.h>

/* What a socket's sk_msg program does with what is sent on it. */
enum conformance_verb {
	VERB_PASS = 0,
	VERB_INGRESS = 1, /* into the receive queue of the target */
	VERB_EGRESS = 2, /* out of the target, by TCP */
};

/* Places of `seen`. */
enum conformance_seen {
	SEEN_ACTIVE = 0, /* sockets that sockops put into the hash when their connect() was answered */
	SEEN_PASSIVE = 1, /* the same of those that were accepted */
	SEEN_REFUSED = 2, /* those that the hash did not take */
	SEEN_ERRNO = 3, /* why the last of them was refused */
	SEEN_CLOSED = 4, /* sockets of which the end was told */
	SEEN_LEFT_ALONE = 5, /* not counted: while it is not 0, sockops puts nothing into the hash */
	SEEN = 6,
};

/* Value of `plans`, on the socket: what is to be done with its messages, and what was done. */
struct conformance_plan {
	__u64 target; /* key of `sockets` */
	__u32 verb; /* enum conformance_verb */
	__u32 step; /* number of the program that saw the last message */
	__u64 messages;
	__u64 redirected;
	__u64 absent; /* the target was not in the hash */
	__u64 guard; /* each message swaps 1 for 2, and 2 for 1 */
};

#endif
