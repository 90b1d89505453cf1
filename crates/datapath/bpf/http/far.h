/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Far sockets: those that an endpoint has accepted from the proxy. */
#ifndef HTTP_FAR_H
#define HTTP_FAR_H

#include "alize/bpf.h"
#include "http/abi.h"

/*
 * socket -> the slot it serves, or SLOT_NONE of a connection that the proxy alone uses. Written by http_sockops, read by
 * far and the observer. It goes with the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct http_far);
} http_far SEC(".maps");

#endif
