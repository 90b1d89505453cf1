/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What must hold at any time, or the program ends and says where. */
#ifndef HOST_CHECK_H
#define HOST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                            \
	do {                                                                        \
		if (!(condition)) {                                                 \
			fprintf(stderr, "line %d: not %s\n", __LINE__, #condition); \
			abort();                                                    \
		}                                                                   \
	} while (0)

#endif
