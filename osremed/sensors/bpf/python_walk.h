// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// The current thread of a CPython process and its frames, newest first, as pairs of words: code object, instruction. For
// every program that takes stacks. Define MOST_PYTHON (frames) and WORDS (a power of two, the length of the array they go
// to) before.
#ifndef OSREMED_PYTHON_WALK_H
#define OSREMED_PYTHON_WALK_H

#define FRAME_BYTES 112
#define NEXT_THREAD 8
#define MOST_STATES 512
#define ASK_AGAIN_NS 50000000

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct thread_struct___walk {
    unsigned long fsbase;
};
#else
struct upid___walk {
    int nr;
};

struct pid___walk {
    unsigned int level;
    struct upid___walk numbers[1];
};
#endif

struct task_struct___walk {
#if defined(__TARGET_ARCH_x86)
    struct thread_struct___walk thread;
#else
    struct pid___walk *thread_pid;
#endif
};

#pragma clang attribute pop

// Where CPython keeps what the walk needs; without `has_inner` the thread state holds the frame itself. The rest is for
// finding the state of a thread: lists of interpreters, and of threads in each; and for the names of code objects, see
// python_text.h. The same layout is in osremed/sensors/pyframes.py.
struct python {
    __u32 frame, has_inner, inner, code, instruction, previous, owner;
    __u32 interpreters, next_interpreter, threads, thread_id, native_id;
    __u32 version, file, name, table, first_line, ascii_data, text_data;
    __s32 bytecode; // where instructions begin in a code object; negative where a frame counts them
    __u64 runtime;
};

// `state` is the PyThreadState of a thread, 0 when it had none at `asked_ns`.
struct thread_state {
    __u64 state, asked_ns;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32); // tgid
    __type(value, struct python);
} pythons SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, __u32); // tid
    __type(value, struct thread_state);
} thread_states SEC(".maps");

// 0, which the verifier does not know. Before Linux 6.7 it follows the callback of a loop once, from what the state on the
// stack is then, and cuts off the branches that this does not take: what a callback changes and asks must begin unknown.
static __always_inline __u64 unseen_zero(void)
{
    __u64 here = bpf_get_current_pid_tgid(), same = here;

    asm volatile("" : "+r"(same));
    return here - same;
}

struct search {
    struct python *python;
    __u64 interpreter, thread, wanted;
    __u32 identity, found, broken, done;
};

// One thread state, or one step to the next interpreter. New threads are at the head of the list.
static long search_step(__u32 index, struct search *search)
{
    struct python *python = search->python;
    __u64 identity = 0;

    (void)index;
    if (!search->thread) {
        if (!search->interpreter) {
            search->done = 1;
            return 1;
        }
        if (bpf_probe_read_user(&search->thread, 8, (void *)(search->interpreter + python->threads)) ||
            bpf_probe_read_user(&search->interpreter, 8, (void *)(search->interpreter + python->next_interpreter)))
            return 1;
        return 0;
    }
    if (bpf_probe_read_user(&identity, 8, (void *)(search->thread + search->identity)))
        return 1;
    if (identity == search->wanted) {
        search->found = 1;
        return 1;
    }
    return bpf_probe_read_user(&search->thread, 8, (void *)(search->thread + NEXT_THREAD)) ? 1 : 0;
}

// What CPython calls the current thread: on x86 the address of its thread control block, which does not depend on the
// PID namespace and which all releases keep; else its number in its own namespace (3.11).
static __always_inline __u64 thread_name(struct search *search)
{
    struct task_struct___walk *task = (void *)bpf_get_current_task_btf();
#if defined(__TARGET_ARCH_x86)
    search->identity = search->python->thread_id;
    return BPF_CORE_READ(task, thread.fsbase);
#else
    struct pid___walk *pid = BPF_CORE_READ(task, thread_pid);
    __u32 level = BPF_CORE_READ(pid, level);
    int number = 0;

    search->identity = search->python->native_id;
    bpf_probe_read_kernel(&number, sizeof(number),
                          (void *)pid + bpf_core_field_offset(struct pid___walk, numbers) +
                              (__u64)level * bpf_core_type_size(struct upid___walk));
    return number;
#endif
}

// The PyThreadState of the current thread, 0 when it has none; `unknown` when that could not be found out.
static __always_inline __u64 find_state(struct python *python, __u32 tid, __u64 now, bool *unknown)
{
    struct thread_state *known = bpf_map_lookup_elem(&thread_states, &tid), fresh = {.asked_ns = now};
    struct search search = {.python = python, .thread = unseen_zero()};
    __u64 identity = 0;

    search.wanted = thread_name(&search);
    if (known && known->state) {
        if (!bpf_probe_read_user(&identity, 8, (void *)(known->state + search.identity)) && identity == search.wanted)
            return known->state;
    } else if (known && now - known->asked_ns < ASK_AGAIN_NS) {
        return 0;
    }
    if (bpf_probe_read_user(&search.interpreter, 8, (void *)(python->runtime + python->interpreters)))
        search.broken = 1;
    else
        bpf_loop(MOST_STATES, search_step, &search, 0);
    fresh.state = search.found ? search.thread : 0;
    *unknown = search.broken || (!search.found && !search.done);
    bpf_map_update_elem(&thread_states, &tid, &fresh, BPF_ANY);
    return fresh.state;
}

struct walk {
    __u64 *words;
    struct python *python;
    __u64 frame;
    __u32 at, count, error;
};

static long python_step(__u32 index, struct walk *walk)
{
    __u8 frame[FRAME_BYTES];
    struct python *python = walk->python;
    __u32 code = python->code, instruction = python->instruction, previous = python->previous, owner = python->owner;

    (void)index;
    if (!walk->frame || walk->count >= MOST_PYTHON)
        return 1;
    if (bpf_probe_read_user(frame, sizeof(frame), (void *)walk->frame)) {
        walk->error = 1;
        return 1;
    }
    if (owner >= FRAME_BYTES || code > FRAME_BYTES - 8 || instruction > FRAME_BYTES - 8 || previous > FRAME_BYTES - 8)
        return 1;
    if (frame[owner] != 3) { // 3: a frame of C code that begins an evaluation
        __u32 at = walk->at & (WORDS - 1);

        walk->words[at] = *(__u64 *)&frame[code & 0x78];
        walk->words[(at + 1) & (WORDS - 1)] = *(__u64 *)&frame[instruction & 0x78];
        walk->at += 2;
        walk->count++;
    }
    walk->frame = *(__u64 *)&frame[previous & 0x78];
    return 0;
}

// The frames of the thread whose PyThreadState is `state`, into words[at] and after it; how many. Negative: one of them
// could not be read, and ~result is how many were. `deeper`: there are more than are taken.
static __always_inline int walk_thread(struct python *python, __u64 state, __u64 *words, __u32 at, bool *deeper)
{
    struct walk walk = {.words = words, .python = python, .at = at, .count = unseen_zero()};
    __u64 frame = 0;

    if (bpf_probe_read_user(&frame, sizeof(frame), (void *)(state + python->frame)))
        walk.error = 1;
    else if (python->has_inner && bpf_probe_read_user(&frame, sizeof(frame), (void *)(frame + python->inner)))
        walk.error = 1;
    walk.frame = walk.error ? 0 : frame;
    bpf_loop(MOST_PYTHON + 32, python_step, &walk, 0);
    *deeper = !walk.error && walk.frame;
    return walk.error ? ~(int)walk.count : (int)walk.count;
}

#endif
