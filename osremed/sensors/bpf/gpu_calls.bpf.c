// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// What processes ask of CUDA and NCCL, and of which GPU: one program where a function is entered and one where it returns. Which function it
// is comes as the cookie of the attachment. Kernel launches are never probed: a trap costs more than a launch.
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define MOST_PYTHON 64
#define WORDS 128

#include "python_walk.h"

#define STALE_NS 600000000000ULL // a call that did not return in ten minutes has left another way

enum { ALLOCATES = 1, FREES, WAITS, COLLECTIVE, CHOOSES, ENTERS };
enum { PYTHON_ERROR = 1, PYTHON_UNKNOWN = 2 };
// Variants of a kind, in the cookie's upper byte. Where an allocation lies: on the thread's device, where its properties
// say (cuMemCreate), or on no one device.
enum { ON_CURRENT, BY_PROPERTY, ON_NONE };
enum { SETS, PUSHES, POPS };
enum { COUNT_IS_SECOND = 1 };
// Instead of a device's number; the same are in osremed/timeline/ledger.py.
enum { OF_CONTEXT = -2, OF_NONE = -3, OF_HOST = -4, CURRENT = -5 };

#define INVALID_DEVICE 101 // cudaErrorInvalidDevice: the device stays what it was
#define LOCATION_DEVICE 1 // CU_MEM_LOCATION_TYPE_DEVICE

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct___gpu {
    __u64 start_boottime;
    struct task_struct___gpu *group_leader;
};

struct pt_regs___gpu {
#if defined(__TARGET_ARCH_x86)
    unsigned long di, si, dx, cx, ax, sp;
#else
    unsigned long long regs[31];
    unsigned long long sp;
#endif
};

struct vm_area_struct___gpu {
    struct file *vm_file;
};

#pragma clang attribute pop

// The same layout is in osremed/timeline/callprobes.py.
struct record {
    __u64 at_ns, duration_ns, start_ns, bytes, address, caller, device_since_ns;
    __u32 tgid, tid;
    __s32 result, device;
    __u32 function;
    __u16 python, flags;
    __u64 words[WORDS];
};

struct flight {
    __u64 since_ns, bytes, place, caller, sp;
    __u32 tgid, cookie;
    __s32 device;
    __u32 rest;
};

// What a thread chose with cudaSetDevice, and when (boot time); `pushed` contexts lie above it.
struct choice {
    __u64 since_ns;
    __s32 device;
    __u32 pushed;
};

struct place {
    __u32 tgid, function;
};

struct sum {
    __u64 count, total_ns, longest_ns, bytes, last_ns;
};

struct tally {
    __u64 hits, lost;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, __u32); // tid
    __type(value, struct flight);
} flights SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct place);
    __type(value, struct sum);
} sums SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE); // goes with its thread: a number that is used again has chosen nothing
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct choice);
} choices SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct tally);
} tallies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct record);
} scratch SEC(".maps");

struct identity {
    __u64 inode;
    __u32 device, known;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct identity);
} identities SEC(".maps");

// Fields of the context are copied: its offsets must be constants, and a compiler may choose among two.
#if defined(__TARGET_ARCH_x86)
#define FIRST(registers) BPF_CORE_READ(registers, di)
#define SECOND(registers) BPF_CORE_READ(registers, si)
#define THIRD(registers) BPF_CORE_READ(registers, dx)
#define FOURTH(registers) BPF_CORE_READ(registers, cx)
#define RESULT(registers) BPF_CORE_READ(registers, ax)
#else
#define FIRST(registers) BPF_CORE_READ(registers, regs[0])
#define SECOND(registers) BPF_CORE_READ(registers, regs[1])
#define THIRD(registers) BPF_CORE_READ(registers, regs[2])
#define FOURTH(registers) BPF_CORE_READ(registers, regs[3])
#define RESULT(registers) BPF_CORE_READ(registers, regs[0])
#endif
#define STACK(registers) BPF_CORE_READ(registers, sp)

// The cookie: function in 16 bits, kind in 8, variant in 8.
static __always_inline __u32 kind_of(__u32 cookie)
{
    return cookie >> 16 & 0xff;
}

static __always_inline __u32 variant_of(__u32 cookie)
{
    return cookie >> 24;
}

static __always_inline struct tally *hit(void)
{
    __u32 zero = 0;
    struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);

    if (tally)
        tally->hits++;
    return tally;
}

static __always_inline void take_python(struct record *record, __u64 now)
{
    __u32 tgid = record->tgid;
    struct python *python = bpf_map_lookup_elem(&pythons, &tgid);
    bool unknown = false, deeper = false;
    __u64 state;
    int count;

    if (!python)
        return;
    state = find_state(python, record->tid, now, &unknown);
    if (!state) {
        record->flags |= PYTHON_UNKNOWN;
        return;
    }
    count = walk_thread(python, state, record->words, 0, &deeper);
    if (count < 0)
        record->flags |= PYTHON_ERROR;
    record->python = count < 0 ? ~count : count;
}

// A thread that chose nothing is on device 0, CUDA's default, since it began. Whether all of that time was watched is
// for the reader to judge.
static __always_inline void take_device(struct record *record, struct task_struct___gpu *task, __s32 device)
{
    struct choice *choice;

    record->device = device;
    record->device_since_ns = ~0ULL;
    if (device != CURRENT)
        return;
    choice = bpf_task_storage_get(&choices, (void *)task, 0, 0);
    record->device = !choice ? 0 : choice->pushed ? OF_CONTEXT : choice->device;
    record->device_since_ns = choice ? choice->since_ns : BPF_CORE_READ(task, start_boottime);
}

static __always_inline struct choice *own_choice(void)
{
    return bpf_task_storage_get(&choices, (void *)bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline void choose(__s32 device)
{
    struct choice *choice = own_choice();

    if (!choice)
        return;
    choice->since_ns = bpf_ktime_get_boot_ns();
    choice->device = device;
    choice->pushed = 0;
}

// Which device a context belongs to is not known: from here on the thread's is not either, until what was pushed is
// popped again or cudaSetDevice says it anew.
static __always_inline void enter_context(__u32 variant)
{
    struct task_struct___gpu *task = (void *)bpf_get_current_task_btf();
    struct choice *choice;

    if (variant != PUSHES) {
        choice = bpf_task_storage_get(&choices, (void *)task, 0, 0);
        if (variant == POPS && choice && choice->pushed)
            choice->pushed--;
        else
            choose(OF_CONTEXT);
        return;
    }
    choice = own_choice();
    if (!choice)
        return;
    if (!choice->since_ns)
        choice->since_ns = BPF_CORE_READ(task, start_boottime);
    choice->pushed++;
}

// Where a CUmemAllocationProp says: two words, then the location's type and number.
static __always_inline __s32 device_of_property(__u64 property)
{
    __s32 location[2];

    if (bpf_probe_read_user(location, sizeof(location), (void *)(property + 8)))
        return OF_NONE;
    if (location[0] != LOCATION_DEVICE)
        return OF_HOST;
    return location[1] < 0 ? OF_NONE : location[1];
}

static __always_inline void send(struct flight *flight, __u64 now, __s32 result, __u64 address, struct tally *tally)
{
    struct task_struct___gpu *task = (void *)bpf_get_current_task_btf();
    __u64 thread = bpf_get_current_pid_tgid();
    struct record *record;
    __u32 zero = 0, words;

    record = bpf_map_lookup_elem(&scratch, &zero);
    if (!record)
        return;
    record->at_ns = now;
    record->duration_ns = now - flight->since_ns;
    record->start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    record->bytes = flight->bytes;
    record->address = address;
    record->caller = flight->caller;
    record->tgid = thread >> 32;
    record->tid = thread;
    record->result = result;
    record->function = flight->cookie & 0xffff;
    record->python = record->flags = 0;
    take_device(record, task, flight->device);
    if (kind_of(flight->cookie) == ALLOCATES)
        take_python(record, now);
    words = 2 * record->python;
    asm volatile("" : "+r"(words)); // so that it is this number that is compared, as the verifier wants it
    if (words > WORDS)
        return;
    if (bpf_ringbuf_output(&ring, record, __builtin_offsetof(struct record, words) + words * 8, 0) && tally)
        tally->lost++;
}

static __always_inline void add(__u32 cookie, __u64 now, __u64 length, __u64 bytes)
{
    struct place place = {.tgid = bpf_get_current_pid_tgid() >> 32, .function = cookie & 0xffff};
    struct sum *sum = bpf_map_lookup_elem(&sums, &place), fresh = {};

    if (!sum) {
        bpf_map_update_elem(&sums, &place, &fresh, BPF_NOEXIST);
        sum = bpf_map_lookup_elem(&sums, &place);
    }
    if (!sum)
        return;
    sum->count++;
    sum->total_ns += length;
    sum->bytes += bytes;
    sum->last_ns = now;
    if (length > sum->longest_ns)
        sum->longest_ns = length;
}

// Bytes of an element by ncclDataType_t: int8, uint8, int32, uint32, int64, uint64, half, float, double, bfloat16, fp8.
static __always_inline __u64 element_bytes(__u32 type)
{
    if (type < 2)
        return 1;
    if (type < 4 || type == 7)
        return 4;
    if (type < 6 || type == 8)
        return 8;
    return type == 6 || type == 9 ? 2 : 1;
}

SEC("uprobe")
int on_enter(struct pt_regs___gpu *regs)
{
    __u32 cookie = bpf_get_attach_cookie(regs), tid = bpf_get_current_pid_tgid(), kind = kind_of(cookie);
    struct flight flight = {.since_ns = bpf_ktime_get_ns(), .cookie = cookie, .sp = STACK(regs)}, *known;
    struct tally *tally = hit();

    if (kind == COLLECTIVE) { // returns as soon as it is queued: its own length says nothing
        bool second = variant_of(cookie) == COUNT_IS_SECOND;
        __u64 count = second ? SECOND(regs) : THIRD(regs);

        add(cookie, flight.since_ns, 0, count * element_bytes(second ? THIRD(regs) : FOURTH(regs)));
        return 0;
    }
    if (kind == FREES) {
        flight.device = OF_NONE;
        send(&flight, flight.since_ns, 0, FIRST(regs), tally);
        return 0;
    }
    known = bpf_map_lookup_elem(&flights, &tid);
    // The runtime calls the driver: what is asked for inside of another call is the same thing once more. A call whose
    // stack pointer lies above is over, though its return was not seen.
    if (known && known->tgid == bpf_get_current_pid_tgid() >> 32 && flight.sp < known->sp &&
        flight.since_ns - known->since_ns < STALE_NS)
        return 0;
    if (kind == ENTERS) {
        enter_context(variant_of(cookie));
        return 0;
    }
    flight.tgid = bpf_get_current_pid_tgid() >> 32;
    if (kind == ALLOCATES) {
        __u32 where = variant_of(cookie);

        flight.place = FIRST(regs);
        flight.bytes = SECOND(regs);
        flight.device = where == BY_PROPERTY ? device_of_property(THIRD(regs)) : where == ON_NONE ? OF_NONE : CURRENT;
    }
    if (kind == CHOOSES)
        flight.device = FIRST(regs);
#if defined(__TARGET_ARCH_x86)
    bpf_probe_read_user(&flight.caller, 8, (void *)flight.sp);
#else
    flight.caller = BPF_CORE_READ(regs, regs[30]);
#endif
    bpf_map_update_elem(&flights, &tid, &flight, BPF_ANY);
    return 0;
}

SEC("uretprobe")
int on_leave(struct pt_regs___gpu *regs)
{
    __u32 cookie = bpf_get_attach_cookie(regs), tid = bpf_get_current_pid_tgid();
    struct flight *known = bpf_map_lookup_elem(&flights, &tid), flight;
    __u64 now = bpf_ktime_get_ns(), address = 0;
    struct tally *tally = hit();

    // An inner call returns deeper in the stack than the outer one will, or has another name.
    if (!known || known->cookie != cookie || known->tgid != bpf_get_current_pid_tgid() >> 32 || STACK(regs) < known->sp)
        return 0;
    flight = *known;
    bpf_map_delete_elem(&flights, &tid);
    if (kind_of(cookie) == WAITS) {
        add(cookie, now, now - flight.since_ns, 0);
        return 0;
    }
    if (kind_of(cookie) == CHOOSES) {
        if ((__s32)RESULT(regs) != INVALID_DEVICE)
            choose((__s32)RESULT(regs) || flight.device < 0 ? OF_CONTEXT : flight.device);
        return 0;
    }
    if (!(__s32)RESULT(regs))
        bpf_probe_read_user(&address, 8, (void *)flight.place);
    send(&flight, now, RESULT(regs), address, tally);
    return 0;
}

static long take_identity(struct task_struct *task, struct vm_area_struct___gpu *area, struct identity *identity)
{
    struct inode *inode = BPF_CORE_READ(area, vm_file, f_inode);

    (void)task;
    if (!inode)
        return 0;
    identity->inode = BPF_CORE_READ(inode, i_ino);
    identity->device = BPF_CORE_READ(inode, i_sb, s_dev);
    identity->known = 1;
    return 0;
}

// Run by the watch, with an address at which it has mapped a file: the inode that probes of this file go by. For a file
// of an overlay that is the one below, which /proc/PID/maps does not name since Linux 6.8. Needs bpf_find_vma (5.17).
SEC("raw_tp")
int identify(struct bpf_raw_tracepoint_args *context)
{
    struct identity identity = {};
    __u32 zero = 0;

    bpf_find_vma((void *)bpf_get_current_task_btf(), context->args[0], take_identity, &identity, 0);
    bpf_map_update_elem(&identities, &zero, &identity, BPF_ANY);
    return 0;
}
