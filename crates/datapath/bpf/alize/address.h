/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses: always 128 bits, IPv4 written v4-mapped, so that every later step has one form to handle. */
#ifndef ALIZE_ADDRESS_H
#define ALIZE_ADDRESS_H

#include "bpf.h"

enum {
	ADDRESS_AF_INET = 2,
	ADDRESS_AF_INET6 = 10,
	ADDRESS_IPPROTO_TCP = 6,
	ADDRESS_IPPROTO_UDP = 17,
};

static __always_inline void address_copy(__be32 to[4], const __be32 from[4])
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline void address_from_v4(__be32 to[4], __be32 v4)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = v4;
}

static __always_inline bool address_is_v4(const __be32 a[4])
{
	return a[0] == 0 && a[1] == 0 && a[2] == bpf_htonl(0xffff);
}

static __always_inline bool address_equal(const __be32 a[4], const __be32 b[4])
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

#endif
