/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a thread has in its registers where a probe meets it. */
#ifndef OBSERVE_REGISTERS_H
#define OBSERVE_REGISTERS_H

#include <linux/types.h>

/* struct pt_regs of x86-64 (arch/x86/include/asm/ptrace.h), the only machine on which probes are placed. */
struct registers {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#endif
