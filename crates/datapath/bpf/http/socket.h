/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ends of a socket, as the contexts of sockops and sk_msg show them. */
#ifndef HTTP_SOCKET_H
#define HTTP_SOCKET_H

#include "alize/address.h"
#include "alize/text.h"

/*
 * Both forms are read, then one is chosen: left to itself clang chooses between two places of the context and reads from
 * there, which the verifier refuses ("dereference of modified ctx ptr"). The other form of a socket is old bytes.
 */
#define SOCKET_ADDRESS(ctx, side, address)                                   \
	({                                                                   \
		__be32 v4_ = (ctx)->side##_ip4;                              \
		__be32 a_ = (ctx)->side##_ip6[0], b_ = (ctx)->side##_ip6[1]; \
		__be32 c_ = (ctx)->side##_ip6[2], d_ = (ctx)->side##_ip6[3]; \
		HIDE(v4_);                                                   \
		HIDE(a_);                                                    \
		HIDE(b_);                                                    \
		HIDE(c_);                                                    \
		HIDE(d_);                                                    \
		__be32 v6_[4] = {a_, b_, c_, d_};                            \
		if ((ctx)->family == ADDRESS_AF_INET)                        \
			address_from_v4(address, v4_);                       \
		else                                                         \
			address_copy(address, v6_);                          \
	})

#endif
