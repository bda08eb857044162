// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// What every page of memory is used for: free, slab, page table, anonymous, of which file, charged to which control
// group. Reads the kernel's page structures; never attached, run by BPF_PROG_TEST_RUN over ranges of page frames.
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define MOST_PAGES (8 << 20) // the limit of bpf_loop
#define PAGE_WORDS 8
#define MOST_PARENTS 32
#define PATH_BYTES 1024 // a power of two
#define NAME_BYTES 256

// mm/internal.h and include/linux/page_pool: where the first word of a list would be, with the DMA index and two flags
#define POOL_SIGNATURE 0xdead000000000040ULL
#define POOL_MASK (~((0xffffffffULL << 7) | 3))

// The order is that of sensors/pagescan.py.
enum page_class {
    UNREADABLE,
    RESERVED,
    BUDDY,
    OFFLINE,
    TABLE,
    GUARD,
    HUGETLB,
    SLAB,
    ZSMALLOC,
    UNACCEPTED,
    LARGE_KMALLOC,
    NO_REFERENCE, // free in a per-CPU list, or in transit
    PAGE_POOL,
    MOVABLE,
    ANONYMOUS,
    CACHE,
    DETACHED, // on a list of reclaim, but of no file any more
    CHARGED,  // the kernel's, charged to a control group
    RAW,      // the kernel's, charged to nobody: vmalloc, per-CPU data, rings, drivers
    CLASSES,
};

enum { KEY_ANONYMOUS = 1, KEY_CHARGED = 2, KEY_OTHER_FILES = 3 };

struct held_key {
    __u64 mapping; // an address_space that is wanted, or one of KEY_*
    __u64 group;   // a mem_cgroup; with KEY_CHARGED an obj_cgroup
};

struct held {
    __u64 pages;
    __u64 active;
    __u64 dirty;
    __u64 unevictable;
};

struct group {
    __u64 id;
    __u32 flags;
    __u32 path_bytes;
    char path[PATH_BYTES + NAME_BYTES];
};

struct pool {
    __u32 ifindex;
    char name[16];
};

struct state {
    __u64 base; // of the array of page structures
    __u64 pages_seen;
    __u64 lost; // pages whose owner had no room in the map
    __u64 classes[32];
    __u64 words[PAGE_WORDS];
    __u64 pfn;
    __u64 end;
    __u64 step;
    __u64 last_head;
    __u64 last_class;
    __u64 last_flags;
    __u64 last_mapping;
    struct held_key key;
    struct held held;
    struct kernfs_node *node;
    struct group group;
    struct pool pool;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct state);
} states SEC(".maps");

// The files that are counted one by one, by their address_space; all others are one, for each group.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u64);
    __type(value, __u32);
} wanted SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __type(key, struct held_key);
    __type(value, struct held);
} owners SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64); // a page_pool
    __type(value, __u64);
} pools SEC(".maps");

static __always_inline struct state *the_state(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&states, &zero);
}

static __always_inline __u64 word(struct state *state, __u32 offset)
{
    return *(__u64 *)((void *)state->words + offset);
}

static __always_inline __u32 half(struct state *state, __u32 offset)
{
    return *(__u32 *)((void *)state->words + offset);
}

static __always_inline bool flag(__u64 flags, __u32 bit)
{
    return flags >> bit & 1;
}

// Adds what was collected for one owner to the map.
static __always_inline void flush(struct state *state)
{
    struct held *known;

    if (!state->held.pages)
        return;
    known = bpf_map_lookup_elem(&owners, &state->key);
    if (known) {
        known->pages += state->held.pages;
        known->active += state->held.active;
        known->dirty += state->held.dirty;
        known->unevictable += state->held.unevictable;
    } else if (bpf_map_update_elem(&owners, &state->key, &state->held, BPF_ANY)) {
        state->lost += state->held.pages;
    }
    __builtin_memset(&state->held, 0, sizeof(state->held));
}

static __always_inline void hold(struct state *state, __u64 mapping, __u64 group)
{
    if (state->last_mapping == mapping && state->key.group == group)
        return;
    flush(state);
    state->last_mapping = mapping;
    if (mapping > KEY_OTHER_FILES && !bpf_map_lookup_elem(&wanted, &mapping))
        mapping = KEY_OTHER_FILES;
    state->key.mapping = mapping;
    state->key.group = group;
}

// The class a typed page names itself; CLASSES when it has no type. Until Linux 6.11 a type is a bit that is off.
static __always_inline __u32 typed(__u32 type, __u64 flags)
{
    if (bpf_core_enum_value_exists(enum pagetype, PGTY_buddy)) {
        __u32 kind = type >> 24;

        if (kind == bpf_core_enum_value(enum pagetype, PGTY_buddy))
            return BUDDY;
        if (kind == bpf_core_enum_value(enum pagetype, PGTY_slab))
            return SLAB;
        if (kind == bpf_core_enum_value(enum pagetype, PGTY_table))
            return TABLE;
        if (kind == bpf_core_enum_value(enum pagetype, PGTY_hugetlb))
            return HUGETLB;
        if (kind == bpf_core_enum_value(enum pagetype, PGTY_offline))
            return OFFLINE;
        if (kind == bpf_core_enum_value(enum pagetype, PGTY_guard))
            return GUARD;
        if (kind == bpf_core_enum_value(enum pagetype, PGTY_zsmalloc))
            return ZSMALLOC;
        if (bpf_core_enum_value_exists(enum pagetype, PGTY_unaccepted) &&
            kind == bpf_core_enum_value(enum pagetype, PGTY_unaccepted))
            return UNACCEPTED;
        if (bpf_core_enum_value_exists(enum pagetype, PGTY_large_kmalloc) &&
            kind == bpf_core_enum_value(enum pagetype, PGTY_large_kmalloc))
            return LARGE_KMALLOC;
        return CLASSES;
    }
    if (bpf_core_enum_value_exists(enum pageflags, PG_slab) &&
        flag(flags, bpf_core_enum_value(enum pageflags, PG_slab)))
        return SLAB;
    if ((type & 0xf0000000) != 0xf0000000 || type == 0xffffffff)
        return CLASSES;
    if (!(type & 0x80))
        return BUDDY;
    if (!(type & 0x100))
        return OFFLINE;
    if (!(type & 0x200))
        return TABLE;
    if (!(type & 0x400))
        return GUARD;
    return CLASSES;
}

static __always_inline __u32 classify(struct state *state)
{
    __u64 flags = state->words[0], mapping = word(state, bpf_core_field_offset(struct page, mapping)), group;
    __u64 second = state->words[1];
    __u32 kind;

    state->last_flags = flags;
    if (flag(flags, bpf_core_enum_value(enum pageflags, PG_reserved)))
        return RESERVED;
    kind = typed(half(state, bpf_core_field_offset(struct page, page_type)), flags);
    if (kind != CLASSES)
        return kind;
    if (!half(state, bpf_core_field_offset(struct page, _refcount)))
        return NO_REFERENCE;
    if ((second & POOL_MASK) == POOL_SIGNATURE) {
        __u64 pool = state->words[2], one = state->step, *known = bpf_map_lookup_elem(&pools, &pool);

        if (known)
            *known += one;
        else
            bpf_map_update_elem(&pools, &pool, &one, BPF_ANY);
        return PAGE_POOL;
    }
    group = bpf_core_field_exists(struct page, memcg_data) ? word(state, bpf_core_field_offset(struct page, memcg_data))
                                                           : 0;
    if ((mapping & 3) == 2)
        return MOVABLE;
    if (mapping & 1) {
        hold(state, KEY_ANONYMOUS, group & ~7ULL);
        return ANONYMOUS;
    }
    if (mapping && flag(flags, bpf_core_enum_value(enum pageflags, PG_lru))) {
        hold(state, mapping, group & ~7ULL);
        return CACHE;
    }
    if (mapping && !(group & 2)) {
        hold(state, mapping, group & ~7ULL);
        return CACHE;
    }
    if (flag(flags, bpf_core_enum_value(enum pageflags, PG_lru)))
        return DETACHED;
    if (group & 2) {
        hold(state, KEY_CHARGED, group & ~7ULL);
        return CHARGED;
    }
    return RAW;
}

static __always_inline void add(struct state *state, __u32 kind, __u64 pages)
{
    state->classes[kind & 31] += pages;
    state->pages_seen += pages;
    if (kind != ANONYMOUS && kind != CACHE && kind != CHARGED)
        return;
    state->held.pages += pages;
    if (flag(state->last_flags, bpf_core_enum_value(enum pageflags, PG_active)))
        state->held.active += pages;
    if (flag(state->last_flags, bpf_core_enum_value(enum pageflags, PG_dirty)))
        state->held.dirty += pages;
    if (flag(state->last_flags, bpf_core_enum_value(enum pageflags, PG_unevictable)))
        state->held.unevictable += pages;
}

static __always_inline bool read_page(struct state *state, __u64 address)
{
    return !bpf_probe_read_kernel(state->words, sizeof(state->words), (void *)address);
}

static long each_page(__u32 index, void *unused)
{
    struct state *state = the_state();
    __u64 address, head, step;
    __u32 kind;

    (void)index;
    (void)unused;
    if (!state || state->pfn >= state->end)
        return 1;
    step = state->step;
    address = state->base + state->pfn * bpf_core_type_size(struct page);
    state->pfn += step;
    if (!read_page(state, address)) {
        add(state, UNREADABLE, step);
        return 0;
    }
    head = word(state, bpf_core_field_offset(struct page, compound_head));
    if (head & 1) {
        head--;
        if (head == state->last_head) {
            add(state, state->last_class, step);
            return 0;
        }
        if (!read_page(state, head)) {
            add(state, UNREADABLE, step);
            return 0;
        }
    } else {
        head = address;
    }
    kind = classify(state);
    state->last_head = head;
    state->last_class = kind;
    if (kind == BUDDY && step == 1) { // all of the block at once; its order is in `private`
        __u64 order = word(state, bpf_core_field_offset(struct page, private)), left = state->end - state->pfn + 1;
        __u64 pages = order < 20 ? 1ULL << order : 1;

        if (pages > left)
            pages = left;
        state->pfn += pages - 1;
        step = pages;
    }
    add(state, kind, step);
    return 0;
}

// Arguments: first page frame, how many, and every how manyth to look at.
SEC("raw_tp")
int scan(__u64 *arguments)
{
    struct state *state = the_state();

    if (!state || !state->base)
        return 1;
    state->pfn = arguments[0];
    state->end = arguments[0] + arguments[1];
    state->step = arguments[2];
    state->last_head = 0;
    bpf_loop(MOST_PAGES, each_page, NULL, 0);
    flush(state);
    return state->pfn < state->end;
}

// Arguments: a descriptor of ours whose file has one page cached, and that page's frame. Sets where the page structures
// begin, or compares when that is set already.
SEC("raw_tp")
int find_base(__u64 *arguments)
{
    struct task_struct *task = (void *)bpf_get_current_task();
    struct state *state = the_state();
    struct file **table, *file = NULL;
    __u64 entry, base;

    if (!state)
        return 1;
    table = BPF_CORE_READ(task, files, fdt, fd);
    bpf_probe_read_kernel(&file, sizeof(file), table + arguments[0]);
    if (!file)
        return 2;
    entry = (__u64)BPF_CORE_READ(file, f_mapping, i_pages.xa_head);
    if (!entry || entry & 3)
        return 3; // a page at index 0 alone is kept in the head itself
    base = entry - arguments[1] * bpf_core_type_size(struct page);
    if (state->base && state->base != base)
        return 4;
    state->base = base;
    return 0;
}

static long climb(__u32 index, void *unused)
{
    struct state *state = the_state();
    struct kernfs_node *node, *parent;
    __u32 used;
    long copied;

    (void)index;
    (void)unused;
    if (!state)
        return 1;
    node = state->node;
    if (bpf_core_field_exists(struct kernfs_node, __parent))
        parent = BPF_CORE_READ(node, __parent);
    else
        parent = BPF_CORE_READ((struct kernfs_node___old *)node, parent);
    used = state->group.path_bytes;
    if (!parent || used >= PATH_BYTES)
        return 1;
    copied = bpf_probe_read_kernel_str(&state->group.path[used & (PATH_BYTES - 1)], NAME_BYTES,
                                       BPF_CORE_READ(node, name));
    if (copied < 0)
        return 1;
    state->group.path_bytes = used + copied;
    state->node = parent;
    return 0;
}

// Arguments: a mem_cgroup, and 1 when it is an obj_cgroup of one.
SEC("raw_tp")
int name_group(__u64 *arguments)
{
    struct mem_cgroup *group = (void *)arguments[0];
    struct state *state = the_state();

    if (!state)
        return 1;
    if (arguments[1])
        group = BPF_CORE_READ((struct obj_cgroup *)arguments[0], memcg);
    state->group.id = BPF_CORE_READ(group, css.cgroup, kn, id);
    state->group.flags = BPF_CORE_READ(group, css.flags);
    state->group.path_bytes = 0;
    state->node = BPF_CORE_READ(group, css.cgroup, kn);
    bpf_loop(MOST_PARENTS, climb, NULL, 0);
    return 0;
}

SEC("raw_tp")
int name_pool(__u64 *arguments)
{
    struct page_pool *pool = (void *)arguments[0];
    struct state *state = the_state();
    struct net_device *device = NULL;

    if (!state)
        return 1;
    __builtin_memset(&state->pool, 0, sizeof(state->pool));
    if (bpf_core_field_exists(pool->slow.netdev))
        device = BPF_CORE_READ(pool, slow.netdev);
    if (!device)
        return 2;
    state->pool.ifindex = BPF_CORE_READ(device, ifindex);
    BPF_CORE_READ_STR_INTO(&state->pool.name, device, name);
    return 0;
}
