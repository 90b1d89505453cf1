/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Set at load (src/variant.rs): what the hooks of packets and of TCP's events may ask of the current thread. Its process came
 * with Linux 6.10, its name and its user with 6.16, for both at once (bpf_base_func_proto of kernel/bpf/helpers.c).
 */
#ifndef OBSERVE_CHOICES_H
#define OBSERVE_CHOICES_H

#include "words.h"

#ifdef ALIZE_HOST
static const struct {
	__u32 may_ask_pid;
	__u32 may_ask_comm;
} choices = {1, 1};
#else
const volatile struct {
	__u32 may_ask_pid;
	__u32 may_ask_comm;
} choices SEC(".rodata.choices") = {1, 1};
#endif

#endif
