// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Pages the kernel allocated while this was attached and did not free yet, with the stack that asked for them. Movable
// allocations (memory of processes and of files) are left out: other tables say who holds those.
#include "kernel.h"

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define GFP_MOVABLE 0x08u // ___GFP_MOVABLE, the same since Linux 2.6.24
#define MOST_FRAMES 48

struct allocation {
    __s32 stack;
    __u32 order;
    __u32 pid;
    __u32 unused;
    char comm[16];
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __type(key, __u64); // the page
    __type(value, struct allocation);
} live SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_STACK_TRACE);
    __uint(max_entries, 16384);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, MOST_FRAMES * sizeof(__u64));
} stacks SEC(".maps");

enum { SEEN, DROPPED, COUNTERS };

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
    __u64 *found = bpf_map_lookup_elem(&counters, &which);

    if (found)
        *found += 1;
}

SEC("tp_btf/mm_page_alloc")
int on_alloc(__u64 *context)
{
    __u64 page = context[0];
    struct allocation made = {.order = context[1]};

    if (!page || (context[2] & GFP_MOVABLE))
        return 0;
    count(SEEN);
    // Another stack may have the place of this one; without a frame of our own it gets another place.
    made.stack = bpf_get_stackid(context, &stacks, 0);
    if (made.stack < 0)
        made.stack = bpf_get_stackid(context, &stacks, 1);
    if (made.stack < 0)
        made.stack = bpf_get_stackid(context, &stacks, 2);
    made.pid = bpf_get_current_pid_tgid() >> 32;
    bpf_get_current_comm(made.comm, sizeof(made.comm));
    if (bpf_map_update_elem(&live, &page, &made, BPF_ANY))
        count(DROPPED);
    return 0;
}

SEC("tp_btf/mm_page_free")
int on_free(__u64 *context)
{
    __u64 page = context[0];

    bpf_map_delete_elem(&live, &page);
    return 0;
}
