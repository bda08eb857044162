// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// The profiler's programs. What each may cost is decided by measurement: no system-call tracepoint stays attached, stacks
// at context switches are rare, system-call numbers are read from the registers that the kernel has saved anyway.
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define MOST_KERNEL 48
#define MOST_USER 240 // their number is one byte of a record
#define MOST_PYTHON 110
#define WORDS 512 // a power of two above the sum of all, those of Python twice
#define BUCKETS 20
#define PATH_BYTES 256
#define MOST_OBJECTS 250 // mappings of code with unwind rows, of a process
#define OBJECT_STEPS 8
#define SEARCH_STEPS 24
#define PF_KTHREAD 0x00200000

#include "python_walk.h"

enum { CPU_SAMPLE = 1, AWAY, OPENED, STACK, TEXT, MET };
enum { PYTHON_ERROR = 1, PYTHON_UNKNOWN = 2, UNWOUND = 4, USER_CUT = 8, PYTHON_CUT = 16 };
enum { NOT_IN_CALL = -1 };
#define USER32_CS 0x23
#define CALL32 0x20000000 // of a 32-bit program, whose calls have other numbers: syscalls.py

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sched_info___hot {
    unsigned long long run_delay;
};

struct task_struct___hot {
    int pid;
    int tgid;
    unsigned int flags;
    unsigned int __state;
    __u64 start_boottime;
    __u64 self_exec_id;
    struct task_struct___hot *group_leader;
    struct pid___hot *thread_pid;
    struct sched_info___hot sched_info;
    char comm[16];
};

struct upid___hot {
    int nr;
};

struct pid___hot {
    unsigned int level;
    struct upid___hot numbers[1];
};

struct pt_regs___hot {
#if defined(__TARGET_ARCH_x86)
    unsigned long bx, bp, r12;
    unsigned long dx, si, di, orig_ax, ip, sp, cs;
#else
    unsigned long long regs[31];
    unsigned long long sp, pc, orig_x0, pstate;
    int syscallno;
#endif
};

#pragma clang attribute pop

// The same layouts are in osremed/hotspot/records.py. A stack is sent once an epoch, before the first event that has it.
// Events differ in their leaf, words[0], which does not make another stack: a loop is one, not a hundred. Numbers are
// given one after the other: they pack better than hashes.
struct stack {
    __u16 kind;
    __u8 kernel, user, python, flags;
    __u16 exec; // counts the programs a process became (exec): its addresses mean something else after each
    __u64 number, start_ns;
    __u32 tgid, unused;
};

struct event {
    __u16 kind;
    __u16 exec;
    __s32 syscall;
    __u64 at_ns, since_ns, stack, leaf, argument;
    __u32 tid, tgid;
    char comm[16];
};

struct record {
    struct stack head;
    __u64 words[WORDS];
};

#include "python_text.h"

struct opened {
    struct event event;
    __u64 start_ns;
    char path[PATH_BYTES];
};

struct knobs {
    __u64 gate_ns; // a thread is only looked at when its sleep before was longer than this
    __u32 keep;    // of those, this part of 2^32
    __u32 stacks;  // 0: no stacks of waits
    __u64 epoch;   // another number begins `worst` and `opens` of the tallies anew, and has each stack sent again
    __u64 book;    // another number has each name sent again
};

struct tally {
    __u64 lost, eligible, taken, run_delay_ns, worst_delay_ns, worst_at_ns, opens;
    __u32 worst_tgid, tokens;
    __u64 refilled_ns, epoch;
    __u64 uncounted_waits, uncounted_calls, unread_opens; // what found no place
};

struct away {
    __u64 since_ns, last_ns, run_delay_ns, argument, leaf;
    __u64 stack; // 0: it was not taken
    __s32 syscall;
    __u32 unused;
};

struct call {
    __u32 tgid;
    __s32 syscall;
};

struct waits {
    __u64 count, total_ns, longest_ns;
    __u32 buckets[BUCKETS];
    char comm[16];
};

struct calls_made {
    __u64 count, bytes;
    char comm[16];
};

// A program as the programs here met it: the recorder is told when it has had `next` samples.
struct met {
    __u64 start_ns;
    __u32 samples, next;
    __u16 exec, unused[3];
};

// As the recorder is told. `inside` is its number in its own PID namespace.
struct meeting {
    __u16 kind, exec;
    __u32 tgid;
    __u64 start_ns;
    __u32 samples, inside;
    char comm[16];
};

struct sent {
    __u64 epoch, number;
};

// A mapping of code: `bias` is what its addresses lie above the linked ones; its rows are `first` to `first + count`.
struct object {
    __u64 start, end, bias;
    __u32 first, count;
};

// In ascending order, of one program of a process.
struct objects {
    __u32 count, exec;
    struct object at[MOST_OBJECTS];
};

// From `address` (as linked) on: see sensors/ehframe.py. `rule` has the kind in 2 bits, rbp's place in 14 (in 8 bytes,
// signed, 0: not saved), the offset of the frame's base in 16 (signed, in 8 bytes).
struct row {
    __u32 address, rule;
};

enum { RULE_END, RULE_SP, RULE_BP, RULE_PLT };

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 19);
} ring SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 18);
} texts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} numbers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, struct record);
} scratch SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct opened);
} opening SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct knobs);
} knobs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, __u64); // hash of a stack
    __type(value, struct sent);
} sent SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct tally);
} tallies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct away);
} aways SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH); // one value for all CPUs: it is read as it is, and adding is rare
    __uint(max_entries, 1); // sensor.py says how many
    __type(key, struct call);
    __type(value, struct waits);
} blocked SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct call);
    __type(value, struct calls_made);
} calls SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u32); // tgid
    __type(value, struct met);
} mets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct row);
} rows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 512);
    __type(key, __u32); // tgid
    __type(value, struct objects);
} unwinds SEC(".maps");

struct unwinding {
    __u64 ip, sp, bp, asked, address;
    __u32 at, count, done, first, low, high;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct unwinding);
} unwindings SEC(".maps");

const struct waits no_waits = {};

static __always_inline struct tally *tally(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&tallies, &zero);
}

static __always_inline void begin_epoch(struct tally *sums, struct knobs *set)
{
    if (sums->epoch == set->epoch)
        return;
    sums->epoch = set->epoch;
    sums->worst_delay_ns = sums->opens = 0;
}

static __always_inline void read_call(struct task_struct___hot *task, __s32 *syscall, __u64 *argument)
{
    struct pt_regs___hot *regs;

    *syscall = NOT_IN_CALL;
    *argument = 0;
    if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
        return;
    regs = (void *)bpf_task_pt_regs((void *)task);
#if defined(__TARGET_ARCH_x86)
    *syscall = (__s32)BPF_CORE_READ(regs, orig_ax);
    if (*syscall >= 0 && BPF_CORE_READ(regs, cs) == USER32_CS) {
        *argument = BPF_CORE_READ(regs, bx);
        *syscall |= CALL32;
    } else if (*syscall >= 0) {
        *argument = BPF_CORE_READ(regs, di);
    }
#else
    *syscall = BPF_CORE_READ(regs, syscallno);
    if (*syscall >= 0)
        *argument = BPF_CORE_READ(regs, orig_x0);
#endif
    if (*syscall < 0)
        *syscall = NOT_IN_CALL;
}

static __always_inline void begin_stack(struct stack *head, struct task_struct___hot *task)
{
    head->kind = STACK;
    head->start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    head->tgid = BPF_CORE_READ(task, tgid);
    head->exec = BPF_CORE_READ(task, group_leader, self_exec_id);
    head->kernel = head->user = head->python = head->flags = 0;
    head->unused = 0;
}

static __always_inline void begin_event(struct event *event, struct task_struct___hot *task, __u16 kind, __u64 now)
{
    event->kind = kind;
    event->exec = BPF_CORE_READ(task, group_leader, self_exec_id);
    event->at_ns = now;
    event->since_ns = 0;
    event->tgid = BPF_CORE_READ(task, tgid);
    event->tid = BPF_CORE_READ(task, pid);
    BPF_CORE_READ_STR_INTO(&event->comm, task, comm);
}

// The Python frames of the current thread, into the record from word `at`.
static __always_inline void walk_python(struct record *record, __u32 at, __u64 now)
{
    __u32 tgid = record->head.tgid, tid = (__u32)bpf_get_current_pid_tgid();
    struct python *python = bpf_map_lookup_elem(&pythons, &tgid);
    __u64 state;
    bool unknown = false, deeper = false;
    int count;

    if (!python)
        return;
    state = find_state(python, tid, now, &unknown);
    if (!state) {
        if (unknown)
            record->head.flags |= PYTHON_UNKNOWN;
        return;
    }
    count = walk_thread(python, state, record->words, at, &deeper);
    if (count < 0)
        record->head.flags |= PYTHON_ERROR;
    if (deeper)
        record->head.flags |= PYTHON_CUT;
    record->head.python = count < 0 ? ~count : count;
}

#if defined(__TARGET_ARCH_x86)
// Pointers travel on the stack, all that changes lies in a map: else the verifier follows each value it can have.
struct unwind {
    struct record *record;
    struct objects *objects;
    struct unwinding *now;
};

static long bisect_objects(__u32 index, struct unwind *unwind)
{
    struct unwinding *now = unwind->now;
    __u32 middle = (now->low + now->high) / 2;

    (void)index;
    if (now->low >= now->high || middle >= MOST_OBJECTS)
        return 1;
    if (unwind->objects->at[middle].start <= now->asked)
        now->low = middle + 1;
    else
        now->high = middle;
    return 0;
}

// The rows to look in: none where no mapping has the address.
static __always_inline void find_object(struct unwind *unwind)
{
    struct unwinding *now = unwind->now;
    struct object *each;
    __u32 at;

    now->low = 0;
    now->high = unwind->objects->count;
    bpf_loop(OBJECT_STEPS, bisect_objects, unwind, 0);
    at = now->low - 1;
    now->first = now->low = now->high = 0;
    if (at >= MOST_OBJECTS)
        return;
    each = &unwind->objects->at[at];
    if (now->asked >= each->end)
        return;
    now->first = now->low = each->first;
    now->high = each->first + each->count;
    now->address = now->asked - each->bias;
}

static long bisect(__u32 index, struct unwind *unwind)
{
    struct unwinding *now = unwind->now;
    __u32 middle = now->low + (now->high - now->low) / 2;
    struct row *row;

    (void)index;
    if (now->low >= now->high)
        return 1;
    row = bpf_map_lookup_elem(&rows, &middle);
    if (!row)
        return 1;
    if (row->address <= now->address)
        now->low = middle + 1;
    else
        now->high = middle;
    return 0;
}

static long unwind_step(__u32 index, struct unwind *unwind)
{
    struct unwinding *now = unwind->now;
    __u32 at = now->at & (WORDS - 1), last;
    __s32 place, offset;
    __u64 base, saved = 0;
    struct row *row;

    (void)index;
    if (!now->ip || now->count >= MOST_USER) {
        now->done = !now->ip;
        return 1;
    }
    unwind->record->words[at] = now->ip;
    now->at++;
    now->asked = now->ip - (now->count > 0); // a return address may be the first byte of the next function
    now->count++;
    find_object(unwind);
    bpf_loop(SEARCH_STEPS, bisect, unwind, 0);
    if (now->low <= now->first)
        return 1;
    last = now->low - 1;
    row = bpf_map_lookup_elem(&rows, &last);
    if (!row)
        return 1;
    offset = (__s32)row->rule >> 16;
    place = (__s32)(row->rule << 16) >> 18;
    switch (row->rule & 3) {
    case RULE_SP:
        base = now->sp + 8 * (__s64)offset;
        break;
    case RULE_BP:
        base = now->bp + 8 * (__s64)offset;
        break;
    case RULE_PLT: // the linkage table pushes once more from the eleventh byte of each entry on
        base = now->sp + 8 + ((now->ip & 15) >= 11 ? 8 : 0);
        break;
    default: // nobody called: the root; without an offset it is a hole between functions, or a rule that is not known
        now->done = offset != 0;
        return 1;
    }
    if (place && bpf_probe_read_user(&saved, 8, (void *)(base + 8 * (__s64)place)))
        return 1;
    if (bpf_probe_read_user(&now->ip, 8, (void *)(base - 8)))
        return 1;
    if (place)
        now->bp = saved;
    now->sp = base;
    return 0;
}

// The user stack by unwind rows, into the record from word `at`; how many words, 0 where not even the caller is known.
static __always_inline __u32 unwind_user(struct record *record, __u32 at)
{
    struct pt_regs___hot *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
    __u32 tgid = record->head.tgid, zero = 0, count;
    struct unwind unwind = {.record = record};

    unwind.objects = bpf_map_lookup_elem(&unwinds, &tgid);
    unwind.now = bpf_map_lookup_elem(&unwindings, &zero);
    if (!unwind.objects || !unwind.now || unwind.objects->exec != record->head.exec)
        return 0;
    unwind.now->ip = BPF_CORE_READ(regs, ip);
    unwind.now->sp = BPF_CORE_READ(regs, sp);
    unwind.now->bp = BPF_CORE_READ(regs, bp);
    unwind.now->at = at;
    unwind.now->count = unwind.now->done = 0;
    bpf_loop(MOST_USER + 1, unwind_step, &unwind, 0);
    count = unwind.now->count;
    if (count < 2) // code without rows: its frame pointers may tell more
        return 0;
    record->head.flags |= UNWOUND | (unwind.now->done ? 0 : USER_CUT);
    return count;
}
#else
static __always_inline __u32 unwind_user(struct record *record, __u32 at)
{
    (void)record, (void)at;
    return 0;
}
#endif

// Wakes the recorder when it is told to, or when half of a ring is full.
static __always_inline bool send(void *map, void *data, __u64 bytes, bool wake)
{
    struct tally *sums = tally();
    __u64 full = bpf_ringbuf_query(map, BPF_RB_AVAIL_DATA), size = bpf_ringbuf_query(map, BPF_RB_RING_SIZE);

    if (!bpf_ringbuf_output(map, data, bytes, wake || full > size / 2 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP))
        return true;
    if (sums)
        sums->lost++;
    return false;
}

static __noinline __u64 next_number(void)
{
    __u32 zero = 0;
    __u64 *last = bpf_map_lookup_elem(&numbers, &zero);

    return last ? __sync_fetch_and_add(last, 1) + 1 : 0;
}

static __always_inline bool send_text(struct text *text, __u32 bytes)
{
    text->kind = TEXT;
    text->unused = 0;
    return send(&texts, text, offsetof(struct text, data) + (bytes & (TEXT_BYTES - 1)), false);
}

static __always_inline __u32 number_inside(struct task_struct___hot *task)
{
    struct pid___hot *pid = BPF_CORE_READ(task, group_leader, thread_pid);
    __u32 level = BPF_CORE_READ(pid, level);
    int number = 0;

    bpf_probe_read_kernel(&number, sizeof(number),
                          (void *)pid + bpf_core_field_offset(struct pid___hot, numbers) +
                              (__u64)level * bpf_core_type_size(struct upid___hot));
    return number;
}

// A program was met: the recorder is to look at it while it lives, and again after some samples, since libraries and an
// interpreter come with time. It is woken for the first few.
static __always_inline void meet(struct stack *head, struct task_struct___hot *task, bool sampled)
{
    struct met *met = bpf_map_lookup_elem(&mets, &head->tgid);
    struct met fresh = {.start_ns = head->start_ns, .samples = sampled, .next = sampled ? 4 : 1, .exec = head->exec};
    struct meeting meeting = {.kind = MET, .exec = head->exec, .tgid = head->tgid, .start_ns = head->start_ns};

    if (!met || met->start_ns != head->start_ns || met->exec != head->exec) {
        bpf_map_update_elem(&mets, &head->tgid, &fresh, BPF_ANY);
        meeting.samples = sampled;
    } else if (sampled && ++met->samples == met->next) {
        meeting.samples = met->samples;
        met->next = 3 * met->next + 1;
    } else {
        return;
    }
    meeting.inside = number_inside(task);
    BPF_CORE_READ_STR_INTO(&meeting.comm, task, group_leader, comm);
    send(&texts, &meeting, sizeof(meeting), sampled && meeting.samples <= 40);
}

struct mixing {
    struct record *record;
    __u64 number;
    __u32 words;
};

static long mix(__u32 index, struct mixing *mixing)
{
    __u32 at = (index + 1) & (WORDS - 1);

    if (index + 1 >= mixing->words)
        return 1;
    mixing->number = (mixing->number ^ mixing->record->words[at]) * 0x9e3779b97f4a7c15ULL;
    mixing->number ^= mixing->number >> 32;
    return 0;
}

static __always_inline __u64 hash_of(struct record *record, __u32 words)
{
    struct stack *head = &record->head;
    struct mixing mixing = {.record = record, .words = words};

    mixing.number = (head->start_ns ^ ((__u64)head->tgid << 32) ^ ((__u64)head->exec << 16)) * 0x9e3779b97f4a7c15ULL;
    mixing.number ^= (__u64)head->kernel << 24 | head->user << 16 | head->python << 8 | head->flags;
    bpf_loop(WORDS, mix, &mixing, 0);
    return mixing.number;
}

// Frames of Python get numbers for what they have of names.
static __always_inline void name_frames(struct record *record, __u32 which, __u32 at, __u64 book)
{
    struct naming naming = {.record = record, .start_ns = record->head.start_ns, .book = book, .first = at};
    __u32 tgid = record->head.tgid;

    naming.python = bpf_map_lookup_elem(&pythons, &tgid);
    naming.text = bpf_map_lookup_elem(&reading, &which);
    if (naming.python && naming.text)
        bpf_loop(record->head.python, name_frame, &naming, 0);
}

// The stacks of the current thread, sent if they are new in this epoch; how many words.
static __always_inline __u32 take_stacks(void *context, struct record *record, bool unwind, __u64 now)
{
    long kernel = bpf_get_stack(context, record->words, MOST_KERNEL * 8, 0), user = 0;
    __u32 at, zero = 0;
    struct knobs *set;
    struct sent *known, fresh;
    __u64 hash;

    at = kernel > 0 ? (__u32)kernel / 8 : 0;
    if (at > MOST_KERNEL)
        at = MOST_KERNEL;
    record->head.kernel = at;
    if (unwind) // too dear at a context switch
        user = unwind_user(record, at);
    if (!user) {
        user = bpf_get_stack(context, &record->words[at], MOST_USER * 8, BPF_F_USER_STACK);
        user = user > 0 ? (__u64)user >> 3 : 0;
    }
    if (user > MOST_USER)
        user = MOST_USER;
    record->head.user = user;
    at += user;
    walk_python(record, at, now);
    at += 2 * record->head.python;
    if (at > WORDS)
        return 0;
    hash = hash_of(record, at);
    known = bpf_map_lookup_elem(&sent, &hash);
    set = bpf_map_lookup_elem(&knobs, &zero);
    record->head.number = 0;
    if (!set)
        return 0;
    if (known && known->epoch == set->epoch) {
        record->head.number = known->number;
        return at;
    }
    if (record->head.python)
        name_frames(record, !unwind, at - 2 * record->head.python, set->book);
    fresh.epoch = set->epoch;
    fresh.number = record->head.number = next_number();
    if (send(&ring, record, sizeof(struct stack) + at * 8, false))
        bpf_map_update_elem(&sent, &hash, &fresh, BPF_ANY);
    return at;
}

SEC("perf_event")
int on_clock(void *context)
{
    struct task_struct___hot *task = (void *)bpf_get_current_task_btf();
    __u64 now = bpf_ktime_get_ns();
    struct event event = {};
    struct record *record;
    __u32 zero = 0;

    if (!BPF_CORE_READ(task, pid)) // idle
        return 0;
    record = bpf_map_lookup_elem(&scratch, &zero);
    if (!record)
        return 0;
    begin_event(&event, task, CPU_SAMPLE, now);
    read_call(task, &event.syscall, &event.argument);
    begin_stack(&record->head, task);
    meet(&record->head, task, true);
    if (take_stacks(context, record, true, now))
        event.leaf = record->words[0];
    event.stack = record->head.number;
    send(&ring, &event, sizeof(event), false);
    return 0;
}

// A token bucket behind the random choice: 200 stacks a second and CPU, 64 at once.
static __always_inline bool may_take(struct tally *sums, struct knobs *set, __u64 now)
{
    __u64 earned = (now - sums->refilled_ns) / 5000000;

    sums->eligible++;
    if (bpf_get_prandom_u32() > set->keep)
        return false;
    if (earned) {
        sums->tokens = sums->tokens + earned > 64 ? 64 : sums->tokens + earned;
        sums->refilled_ns = now;
    }
    if (!sums->tokens)
        return false;
    sums->tokens--;
    sums->taken++;
    return true;
}

static __always_inline void goes(void *context, struct task_struct___hot *task, bool preempted, __u64 now)
{
    __u64 delay = BPF_CORE_READ(task, sched_info.run_delay);
    struct away *away;
    struct tally *sums = tally();
    struct record *record;
    struct knobs *set;
    __u32 zero = 0, one = 1;

    away = bpf_task_storage_get(&aways, (void *)task, 0, 0);
    if (!away)
        return;
    set = bpf_map_lookup_elem(&knobs, &zero);
    if (!sums || !set)
        return;
    begin_epoch(sums, set);
    if (delay > away->run_delay_ns) {
        __u64 waited = delay - away->run_delay_ns;

        sums->run_delay_ns += waited;
        if (waited > sums->worst_delay_ns) {
            sums->worst_delay_ns = waited;
            sums->worst_at_ns = now;
            sums->worst_tgid = BPF_CORE_READ(task, tgid);
        }
    }
    away->run_delay_ns = delay;
    away->since_ns = 0;
    if (preempted || !BPF_CORE_READ(task, __state))
        return;
    away->since_ns = now;
    away->stack = 0;
    read_call(task, &away->syscall, &away->argument);
    if (!set->stacks || away->last_ns < set->gate_ns || !may_take(sums, set, now))
        return;
    record = bpf_map_lookup_elem(&scratch, &one);
    if (!record)
        return;
    begin_stack(&record->head, task);
    meet(&record->head, task, false);
    away->leaf = take_stacks(context, record, false, now) ? record->words[0] : 0;
    away->stack = record->head.number;
}

static __always_inline __u32 bucket_of(__u64 ns)
{
    __u32 us = ns / 1000 > 0xffffffff ? 0xffffffff : ns / 1000, bucket = 0;

    if (us >> 16) {
        us >>= 16;
        bucket += 16;
    }
    if (us >> 8) {
        us >>= 8;
        bucket += 8;
    }
    if (us >> 4) {
        us >>= 4;
        bucket += 4;
    }
    if (us >> 2) {
        us >>= 2;
        bucket += 2;
    }
    bucket += us >> 1;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static __always_inline void comes(struct task_struct___hot *task, __u64 now)
{
    struct away *away = bpf_task_storage_get(&aways, (void *)task, 0, 0);
    struct call key;
    struct waits *waits;
    struct tally *sums = tally();
    struct event event = {};
    __u64 since, length;

    if (!away || !away->since_ns)
        return;
    since = away->since_ns;
    away->since_ns = 0;
    length = now - since;
    away->last_ns = length;
    if (length > 200000) {
        key.tgid = BPF_CORE_READ(task, tgid);
        key.syscall = away->syscall;
        waits = bpf_map_lookup_elem(&blocked, &key);
        if (!waits) {
            bpf_map_update_elem(&blocked, &key, &no_waits, BPF_NOEXIST);
            waits = bpf_map_lookup_elem(&blocked, &key);
            if (waits)
                BPF_CORE_READ_STR_INTO(&waits->comm, task, group_leader, comm);
            else if (sums)
                sums->uncounted_waits++;
        }
        if (waits) {
            __sync_fetch_and_add(&waits->count, 1);
            __sync_fetch_and_add(&waits->total_ns, length);
            __sync_fetch_and_add(&waits->buckets[bucket_of(length) % BUCKETS], 1);
            if (length > waits->longest_ns) // of two at the same moment the shorter may win: it is no sum
                waits->longest_ns = length;
        }
    }
    if (!away->stack)
        return;
    begin_event(&event, task, AWAY, now);
    event.since_ns = since;
    event.stack = away->stack;
    event.leaf = away->leaf;
    event.syscall = away->syscall;
    event.argument = away->argument;
    away->stack = 0;
    send(&ring, &event, sizeof(event), false);
}

// Where a task's storage is made, or begins anew. Not at a switch: the run queue is locked there, and before Linux 6.4 the
// allocation may wake kswapd when memory is short, which takes that lock.
static __always_inline void welcome(struct task_struct *task)
{
    struct away *away = bpf_task_storage_get(&aways, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

    if (!away)
        return;
    away->run_delay_ns = BPF_CORE_READ((struct task_struct___hot *)task, sched_info.run_delay);
    away->since_ns = 0;
    away->last_ns = ~0ULL;
}

SEC("tp_btf/task_newtask")
int on_new_task(__u64 *context)
{
    welcome((void *)context[0]);
    return 0;
}

// Those that are there when switches begin to be followed.
SEC("iter/task")
int on_each_task(struct bpf_iter__task *context)
{
    struct task_struct *task = context->task;

    if (task)
        welcome(task);
    return 0;
}

SEC("tp_btf/sched_switch")
int on_switch(__u64 *context)
{
    struct task_struct___hot *leaves = (void *)context[1], *enters = (void *)context[2];
    __u64 now = bpf_ktime_get_ns();

    if (BPF_CORE_READ(leaves, pid))
        goes(context, leaves, context[0] & 1, now);
    if (BPF_CORE_READ(enters, pid))
        comes(enters, now);
    return 0;
}

#if defined(__TARGET_ARCH_x86)
#define CALL_OPEN 2
#define CALL_OPENAT 257
#define CALL_READ 0
#define CALL_WRITE 1
#else
#define CALL_OPEN -2
#define CALL_OPENAT 56
#define CALL_READ 63
#define CALL_WRITE 64
#endif

// Attached for some milliseconds now and then only.
SEC("tp_btf/sys_enter")
int on_call(__u64 *context)
{
    struct task_struct___hot *task = (void *)bpf_get_current_task_btf();
    struct pt_regs___hot *regs = (void *)context[0];
    struct call key = {.tgid = bpf_get_current_pid_tgid() >> 32, .syscall = context[1]};
    struct calls_made *made, fresh = {};
    struct tally *sums = tally();
    struct opened *opened;
    struct knobs *set;
    __u32 zero = 0;
    long bytes;
    const char *path;
    __u64 length;

#if defined(__TARGET_ARCH_x86)
    if (BPF_CORE_READ(regs, cs) == USER32_CS)
        key.syscall |= CALL32;
#endif
    made = bpf_map_lookup_elem(&calls, &key);
    if (!made) {
        bpf_map_update_elem(&calls, &key, &fresh, BPF_NOEXIST);
        made = bpf_map_lookup_elem(&calls, &key);
        if (made)
            BPF_CORE_READ_STR_INTO(&made->comm, task, group_leader, comm);
        else if (sums)
            sums->uncounted_calls++;
    }
    if (made)
        made->count++;
#if defined(__TARGET_ARCH_x86)
    length = BPF_CORE_READ(regs, dx);
    path = (void *)(key.syscall == CALL_OPEN ? BPF_CORE_READ(regs, di) : BPF_CORE_READ(regs, si));
#else
    length = BPF_CORE_READ(regs, regs[2]);
    path = (void *)BPF_CORE_READ(regs, regs[1]);
#endif
    if (made && (key.syscall == CALL_READ || key.syscall == CALL_WRITE))
        made->bytes += length;
    set = bpf_map_lookup_elem(&knobs, &zero);
    if ((key.syscall != CALL_OPEN && key.syscall != CALL_OPENAT) || !sums || !set)
        return 0;
    begin_epoch(sums, set);
    if (sums->opens >= 512) {
        sums->unread_opens++;
        return 0;
    }
    sums->opens++;
    opened = bpf_map_lookup_elem(&opening, &zero);
    if (!opened)
        return 0;
    begin_event(&opened->event, task, OPENED, bpf_ktime_get_ns());
    opened->event.syscall = key.syscall;
    opened->event.argument = opened->event.stack = opened->event.leaf = 0;
    opened->start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    bytes = bpf_probe_read_user_str(opened->path, PATH_BYTES, path);
    // Masked and not compared: Linux 6.1 forgets the bounds of what the compiler adds to before the comparison.
    if (bytes > 0)
        send(&ring, opened, sizeof(struct event) + 8 + 1 + ((bytes - 1) & (PATH_BYTES - 1)), false);
    return 0;
}
