// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// One program of each kind the loader can attach, each as small as can be.
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

const volatile struct {
    __u64 pid;
} only = {};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 8192);
    __type(key, __u64);
    __type(value, __u64);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} samples SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} ring SEC(".maps");

static __always_inline void count(__u64 key)
{
    __u64 one = 1, *found = bpf_map_lookup_elem(&counts, &key);

    if (found)
        __sync_fetch_and_add(found, 1);
    else
        bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
}

SEC("raw_tp")
int sum(__u64 *arguments)
{
    return arguments[0] + arguments[1];
}

// first argument: how many records; each holds its number as often as the number says, and every third is discarded
SEC("raw_tp")
int write_records(__u64 *arguments)
{
    __u64 written = 0;

    for (__u32 i = 0; i < 1000 && i < arguments[0]; i++) {
        __u32 *record = bpf_ringbuf_reserve(&ring, sizeof(*record) * 3, 0);

        if (!record)
            break;
        record[0] = i;
        record[1] = record[2] = ~i;
        if (i % 3 == 2) {
            bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
        } else {
            bpf_ringbuf_submit(record, i + 1 == arguments[0] ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
            written++;
        }
    }
    return written;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *context)
{
    struct task_struct *task = (void *)context[0];

    if (BPF_CORE_READ(task, tgid) == (int)only.pid)
        count(1);
    return 0;
}

SEC("raw_tp")
int on_raw_exit(__u64 *context)
{
    struct task_struct *task = (void *)context[0];

    if (BPF_CORE_READ(task, tgid) == (int)only.pid)
        count(2);
    return 0;
}

SEC("tp")
int on_tracepoint(void *context)
{
    (void)context;
    count(3);
    return 0;
}

SEC("perf_event")
int on_clock(void *context)
{
    __u32 zero = 0;
    __u64 *found = bpf_map_lookup_elem(&samples, &zero);

    (void)context;
    if (found)
        *found += 1;
    return 0;
}

SEC("uprobe")
int on_call(void *context)
{
    (void)context;
    count(4);
    return 0;
}

SEC("iter/task")
int tasks(struct bpf_iter__task *context)
{
    struct task_struct *task = context->task;
    int ids[2];

    if (!task)
        return 0;
    ids[0] = BPF_CORE_READ(task, tgid);
    ids[1] = BPF_CORE_READ(task, pid);
    bpf_seq_write(context->meta->seq, ids, sizeof(ids));
    return 0;
}

SEC("raw_tp")
int refused(__u64 *arguments)
{
    return *(volatile int *)arguments[0]; // no verifier lets this pass
}
