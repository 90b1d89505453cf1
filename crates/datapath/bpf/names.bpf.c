/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No program: only the map that keeps the services' names beside their numbers. */
#include "alize/names.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
