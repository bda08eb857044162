// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// The frames of a CPython thread, newest first, as pairs of words: code object, instruction. For every program that takes
// stacks. Define MOST_PYTHON (frames) and WORDS (a power of two, the length of the array they go to) before.
#ifndef OSREMED_PYTHON_WALK_H
#define OSREMED_PYTHON_WALK_H

// Where CPython keeps what the walk needs; 0 in `inner` means that the thread state holds the frame itself. The same
// layout is in osremed/sensors/pyframes.py.
struct python {
    __u32 frame, has_inner, inner, code, instruction, previous, owner, unused;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32); // tgid
    __type(value, struct python);
} pythons SEC(".maps");

struct walk {
    __u64 *words;
    struct python *python;
    __u64 frame;
    __u32 at, count, error;
};

#define FRAME_BYTES 96

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
// could not be read, and ~result is how many were.
static __always_inline int walk_thread(struct python *python, __u64 state, __u64 *words, __u32 at)
{
    struct walk walk = {.words = words, .python = python, .at = at};
    __u64 frame = 0;

    if (bpf_probe_read_user(&frame, sizeof(frame), (void *)(state + python->frame)))
        walk.error = 1;
    else if (python->has_inner && bpf_probe_read_user(&frame, sizeof(frame), (void *)(frame + python->inner)))
        walk.error = 1;
    walk.frame = walk.error ? 0 : frame;
    bpf_loop(MOST_PYTHON + 32, python_step, &walk, 0);
    return walk.error ? ~(int)walk.count : (int)walk.count;
}

#endif
