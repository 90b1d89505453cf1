/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What sockets dialled: see connection.h. */
#ifndef ALIZE_CONNECTIONS_H
#define ALIZE_CONNECTIONS_H

#include "bpf.h"

/*
 * socket -> what it dialled, what was chosen. Written by connect, sockops, release and sweep; read by getpeername,
 * recvmsg, terminate and the observer. It goes with the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connection);
} connections SEC(".maps");

#endif
