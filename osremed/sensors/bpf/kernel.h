// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// The kernel's structures as far as our programs read them, kept by hand. Order and gaps do not matter: each access is
// relocated to the running kernel by name (preserve_access_index). A field a kernel may lack is asked for first with
// bpf_core_field_exists. Names after ___ are dropped by libbpf: other layouts of the same structure.
#ifndef OSREMED_KERNEL_H
#define OSREMED_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>

typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
    __u64 session_id;
    __u64 seq_num;
};

struct task_struct {
    int pid;
    int tgid;
};

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
};

#pragma clang attribute pop

#endif
