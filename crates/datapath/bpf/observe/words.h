/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every observing program starts from: the kernel's helpers, and text as words of eight bytes. */
#ifndef OBSERVE_WORDS_H
#define OBSERVE_WORDS_H

#ifdef ALIZE_HOST
#include "host/bpf.h"
#else
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#endif

#include "abi.h"
#include "alize/text.h"

#endif
