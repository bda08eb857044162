// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Every inode in memory that has cached pages, with a name: no open file, no path and no mount needed. Never attached;
// run by BPF_PROG_TEST_RUN. The list of all super blocks is entered at that of the caller's root directory.
//
// Nothing is locked. A list that changes under us is noticed (an inode that is not of the super block whose list we
// walk) and counted as torn; the caller begins again. The CPU does nothing else while a program runs, so a walk goes in
// slices: the inode to go on with is known again by its number and generation.
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define MOST_SUPER_BLOCKS 4096
#define MOST_INODES (8 << 20) // the limit of bpf_loop
#define MOST_PARENTS 64
#define MOST_ALIASES 16
#define PATH_BYTES 1024 // a power of two
#define NAME_BYTES 256

#define S_IFMT 0170000
#define S_IFBLK 0060000

enum { SUPER_BLOCK = 1, FILE = 2 };
enum { UNHASHED = 1, CUT = 2, NO_NAME = 4, MAPPED = 8, OWN_ROOT = 16 };
enum { COUNT = 0, EMIT = 1, GO_ON = 2 };
enum { DONE = 0, MORE = 1, FAILED = 2 };
#define SIZES 40

// Layouts shared with sensors/pagecache.py.
struct totals {
    __u64 super_blocks;
    __u64 inodes;
    __u64 cached_inodes;
    __u64 cached_pages;
    __u64 torn; // super blocks whose list changed under us
    __u64 lost; // records for which the ring had no room
    __u64 lost_pages;
    __u64 closed; // 1 when the ring of super blocks was walked to its end
    __u64 sizes[SIZES]; // cached inodes by the binary logarithm of their pages
};

struct super_block_record {
    __u32 kind;
    __u32 dev;
    __u64 address;
    __u64 magic;
    __u64 inodes;
    __u64 pages;
    __u64 small_inodes; // with fewer pages than asked for
    __u64 small_pages;
    __u64 torn;
    char type[32];
    char id[32];
};

struct file_record {
    __u32 kind;
    __u32 dev;
    __u64 super_block;
    __u64 mapping;
    __u64 pages;
    __u64 size;
    __u64 ino;
    __u32 generation;
    __u32 nlink;
    __u32 mode;
    __u32 rdev;
    __u32 flags;
    __u32 path_bytes;
    char path[PATH_BYTES + NAME_BYTES];
};

struct state {
    struct totals totals;
    struct super_block *sb;
    struct list_head *first;
    struct list_head *at;      // in the ring of super blocks
    struct list_head *node;    // in the list of inodes
    struct list_head *head;    // its end
    struct dentry *dentry;
    __u64 emit;
    __u64 least_pages;
    __u64 left;   // inodes of this slice
    __u64 inside; // 1 between the slices of one super block
    __u64 ino;    // of the inode at `node`, when inside
    __u64 generation;
    struct super_block_record block;
    struct file_record file;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct state);
} states SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} records SEC(".maps");

static __always_inline struct state *the_state(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&states, &zero);
}

static long climb(__u32 index, void *unused)
{
    struct state *state = the_state();
    struct dentry *dentry, *parent;
    __u32 used;
    long copied;

    (void)unused;
    if (!state)
        return 1;
    dentry = state->dentry;
    parent = BPF_CORE_READ(dentry, d_parent);
    if (parent == dentry && index > 0)
        return 1; // the root of the file system; its own name counts only where there is no other (memfd, SysV)
    used = state->file.path_bytes;
    if (used >= PATH_BYTES) {
        state->file.flags |= CUT;
        return 1;
    }
    copied = bpf_probe_read_kernel_str(&state->file.path[used & (PATH_BYTES - 1)], NAME_BYTES,
                                       BPF_CORE_READ(dentry, d_name.name));
    if (copied < 0) {
        state->file.flags |= CUT;
        return 1;
    }
    state->file.path_bytes = used + copied;
    if (parent == dentry) {
        state->file.flags |= OWN_ROOT;
        return 1;
    }
    if (index == MOST_PARENTS - 1)
        state->file.flags |= CUT;
    state->dentry = parent;
    return 0;
}

// The alias that still has its name, else the first.
static __always_inline void find_name(struct state *state, struct inode *inode)
{
    struct hlist_node *alias = BPF_CORE_READ(inode, i_dentry.first);
    struct dentry *first = NULL;

    for (int i = 0; i < MOST_ALIASES && alias; i++) {
        struct dentry *dentry = (void *)alias - bpf_core_field_offset(struct dentry, d_u.d_alias);

        if (!first)
            first = dentry;
        if (BPF_CORE_READ(dentry, d_hash.pprev)) {
            state->dentry = dentry;
            return;
        }
        alias = BPF_CORE_READ(alias, next);
    }
    state->dentry = first;
    state->file.flags |= first ? UNHASHED : NO_NAME;
}

static __always_inline void emit_file(struct state *state, struct inode *inode, __u64 pages)
{
    struct file_record *file = &state->file;
    __u32 length;

    file->kind = FILE;
    file->dev = state->block.dev;
    file->super_block = (__u64)state->sb;
    file->mapping = (__u64)inode + bpf_core_field_offset(struct inode, i_data);
    file->pages = pages;
    file->size = BPF_CORE_READ(inode, i_size);
    file->ino = BPF_CORE_READ(inode, i_ino);
    file->generation = BPF_CORE_READ(inode, i_generation);
    file->nlink = BPF_CORE_READ(inode, i_nlink);
    file->mode = BPF_CORE_READ(inode, i_mode);
    file->rdev = BPF_CORE_READ(inode, i_rdev);
    file->flags = BPF_CORE_READ(inode, i_data.i_mmap.rb_root.rb_node) ? MAPPED : 0;
    file->path_bytes = 0;
    find_name(state, inode);
    if (state->dentry)
        bpf_loop(MOST_PARENTS, climb, NULL, 0);
    length = file->path_bytes;
    if (length > PATH_BYTES + NAME_BYTES)
        length = PATH_BYTES + NAME_BYTES;
    if (bpf_ringbuf_output(&records, file, __builtin_offsetof(struct file_record, path) + length,
                           BPF_RB_NO_WAKEUP)) {
        state->totals.lost++;
        state->totals.lost_pages += pages;
    }
}

static long each_inode(__u32 index, void *unused)
{
    struct state *state = the_state();
    struct list_head *next;
    struct inode *inode;
    __u64 pages, size;

    (void)index;
    (void)unused;
    if (!state)
        return 1;
    if (state->node == state->head || !state->left)
        return 1;
    state->left--;
    inode = (void *)state->node - bpf_core_field_offset(struct inode, i_sb_list);
    next = BPF_CORE_READ(inode, i_sb_list.next);
    if (BPF_CORE_READ(inode, i_sb) != state->sb || !next || next == state->node) {
        state->block.torn = 1;
        return 1;
    }
    state->block.inodes++;
    state->node = next;
    pages = BPF_CORE_READ(inode, i_data.nrpages);
    if (!pages)
        return 0;
    state->totals.cached_inodes++;
    state->block.pages += pages;
    for (size = 0; size < SIZES - 1 && pages >> size > 1; size++)
        ;
    if (size < SIZES)
        state->totals.sizes[size]++;
    if (!state->emit)
        return 0;
    if (pages < state->least_pages) {
        state->block.small_inodes++;
        state->block.small_pages += pages;
        return 0;
    }
    emit_file(state, inode, pages);
    return 0;
}

// The next super block of the ring. False when what is there is none: the head of the list, or one that is being made or
// unmade, has no root of its own.
static __always_inline bool enter(struct state *state)
{
    struct super_block *sb = (void *)state->at - bpf_core_field_offset(struct super_block, s_list);
    struct dentry *root = BPF_CORE_READ(sb, s_root);

    state->at = BPF_CORE_READ(sb, s_list.next);
    if (!root || BPF_CORE_READ(root, d_sb) != sb)
        return false;
    state->sb = sb;
    __builtin_memset(&state->block, 0, sizeof(state->block));
    state->block.kind = SUPER_BLOCK;
    state->block.address = (__u64)sb;
    state->block.dev = BPF_CORE_READ(sb, s_dev);
    state->block.magic = BPF_CORE_READ(sb, s_magic);
    bpf_probe_read_kernel_str(state->block.type, sizeof(state->block.type), BPF_CORE_READ(sb, s_type, name));
    BPF_CORE_READ_STR_INTO(&state->block.id, sb, s_id);
    state->head = (void *)sb + bpf_core_field_offset(struct super_block, s_inodes);
    state->node = BPF_CORE_READ(sb, s_inodes.next);
    return true;
}

static __always_inline void leave(struct state *state)
{
    state->inside = 0;
    if (state->node != state->head)
        state->block.torn = 1;
    state->totals.super_blocks++;
    state->totals.inodes += state->block.inodes;
    state->totals.cached_pages += state->block.pages;
    state->totals.torn += state->block.torn;
    if (state->emit && bpf_ringbuf_output(&records, &state->block, sizeof(state->block), BPF_RB_NO_WAKEUP))
        state->totals.lost++;
}

// Remembers where to go on, or finds out whether it is still there.
static __always_inline bool pause(struct state *state, bool remember)
{
    struct inode *inode = (void *)state->node - bpf_core_field_offset(struct inode, i_sb_list);
    __u64 ino = BPF_CORE_READ(inode, i_ino), generation = BPF_CORE_READ(inode, i_generation);

    if (remember) {
        state->inside = 1;
        state->ino = ino;
        state->generation = generation;
        return true;
    }
    return BPF_CORE_READ(inode, i_sb) == state->sb && ino == state->ino && generation == state->generation;
}

static long each_super_block(__u32 index, void *unused)
{
    struct state *state = the_state();

    (void)unused;
    if (!state || !state->at)
        return 1;
    if (!state->inside) {
        if (index && state->at == state->first) {
            state->totals.closed = 1;
            return 1;
        }
        if (!enter(state))
            return 0;
    } else if (!pause(state, false)) {
        state->totals.torn++;
        return 1;
    }
    bpf_loop(MOST_INODES, each_inode, NULL, 0);
    if (!state->left && state->node != state->head && !state->block.torn) {
        pause(state, true);
        return 1;
    }
    leave(state);
    return 0;
}

// Arguments: COUNT, EMIT or GO_ON, the least pages of a file that gets a record of its own, and how many inodes to visit
// in this slice. MORE: run it again with GO_ON. FAILED: begin anew.
SEC("raw_tp")
int walk(__u64 *arguments)
{
    struct task_struct *task = (void *)bpf_get_current_task();
    struct state *state = the_state();
    struct super_block *sb;

    if (!state)
        return FAILED;
    if (arguments[0] != GO_ON) {
        __builtin_memset(&state->totals, 0, sizeof(state->totals));
        state->emit = arguments[0];
        state->least_pages = arguments[1];
        state->inside = 0;
        sb = BPF_CORE_READ(task, fs, root.mnt, mnt_sb);
        state->first = (void *)sb + bpf_core_field_offset(struct super_block, s_list);
        state->at = state->first;
    }
    state->left = arguments[2];
    bpf_loop(MOST_SUPER_BLOCKS, each_super_block, NULL, 0);
    if (state->totals.torn)
        return FAILED;
    return state->inside ? MORE : DONE;
}
