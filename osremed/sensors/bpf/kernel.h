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

struct list_head {
    struct list_head *next;
};

struct hlist_node {
    struct hlist_node *next;
    struct hlist_node **pprev;
};

struct hlist_head {
    struct hlist_node *first;
};

struct hlist_bl_node {
    struct hlist_bl_node **pprev;
};

struct rb_node;

struct rb_root {
    struct rb_node *rb_node;
};

struct rb_root_cached {
    struct rb_root rb_root;
};

struct xarray {
    void *xa_head;
};

struct file_system_type {
    const char *name;
};

struct super_block {
    struct list_head s_list;
    __u32 s_dev;
    unsigned long s_magic;
    struct file_system_type *s_type;
    struct dentry *s_root;
    struct list_head s_inodes;
    char s_id[32];
};

struct qstr {
    const unsigned char *name;
};

struct dentry {
    struct hlist_bl_node d_hash;
    struct dentry *d_parent;
    struct qstr d_name;
    struct super_block *d_sb;
    union {
        struct hlist_node d_alias;
    } d_u;
};

struct address_space {
    struct xarray i_pages;
    struct rb_root_cached i_mmap;
    unsigned long nrpages;
};

struct pipe_buffer {
    struct page *page;
};

struct pipe_inode_info {
    unsigned int head;
    unsigned int tail;
    unsigned int ring_size;
    struct page *tmp_page[2];
    struct pipe_buffer *bufs;
};

struct pipe_inode_info___one {
    struct page *tmp_page;
};

struct inode {
    struct pipe_inode_info *i_pipe;
    __u16 i_mode;
    struct super_block *i_sb;
    unsigned long i_ino;
    unsigned int i_nlink;
    __u32 i_rdev;
    long long i_size;
    __u32 i_generation;
    struct list_head i_sb_list;
    struct hlist_head i_dentry;
    struct address_space i_data;
};

// Values are relocated by name where the kernel has them (bpf_core_enum_value); the ones here are those of Linux 6.18.
enum pageflags {
    PG_dirty = 4,
    PG_lru = 5,
    PG_active = 8,
    PG_reserved = 13,
    PG_unevictable = 18,
    PG_slab = 63, // a flag until Linux 6.9
};

enum pagetype { // since Linux 6.12
    PGTY_buddy = 0xf0,
    PGTY_offline = 0xf1,
    PGTY_table = 0xf2,
    PGTY_guard = 0xf3,
    PGTY_hugetlb = 0xf4,
    PGTY_slab = 0xf5,
    PGTY_zsmalloc = 0xf6,
    PGTY_unaccepted = 0xf7,
    PGTY_large_kmalloc = 0xf8,
};

// The first word is the flags in every version; its type is not.
struct page {
    unsigned long compound_head;
    struct address_space *mapping;
    unsigned long private;
    unsigned int page_type;
    struct {
        int counter;
    } _refcount;
    unsigned long memcg_data;
};

struct kernfs_node {
    struct kernfs_node *__parent;
    const char *name;
    __u64 id;
};

struct kernfs_node___old { // until Linux 6.14
    struct kernfs_node *parent;
};

struct cgroup {
    struct kernfs_node *kn;
};

struct cgroup_subsys_state {
    struct cgroup *cgroup;
    unsigned int flags;
};

struct mem_cgroup {
    struct cgroup_subsys_state css;
};

struct obj_cgroup {
    struct mem_cgroup *memcg;
};

struct net_device {
    char name[16];
    int ifindex;
};

struct page_pool_params_slow {
    struct net_device *netdev;
};

struct page_pool { // its device since Linux 6.8
    struct page_pool_params_slow slow;
};

struct vfsmount {
    struct super_block *mnt_sb;
};

struct path {
    struct vfsmount *mnt;
    struct dentry *dentry;
};

struct fs_struct {
    struct path root;
};

struct file {
    struct address_space *f_mapping;
    void *private_data;
    struct inode *f_inode;
    struct path f_path;
};

struct sk_buff {
    struct sk_buff *next;
    unsigned int data_len;
    __u8 head_frag : 1;
    __u8 pp_recycle : 1;
    unsigned int end;
    unsigned int truesize;
};

struct sk_buff_head {
    struct sk_buff *next;
    __u32 qlen;
};

struct skb_shared_info {
    __u8 nr_frags;
};

struct sock_common {
    __u16 skc_family;
};

struct sock {
    struct sock_common __sk_common;
    struct sk_buff_head sk_receive_queue;
    struct sk_buff_head sk_write_queue;
    struct {
        struct {
            int counter;
        } rmem_alloc;
    } sk_backlog;
    int sk_wmem_queued;
    __u16 sk_protocol;
    __u16 sk_type;
};

struct socket {
    struct sock *sk;
};

struct pgv {
    char *buffer;
};

struct packet_ring_buffer {
    struct pgv *pg_vec;
    unsigned int pg_vec_pages;
    unsigned int pg_vec_len;
};

struct packet_sock {
    struct packet_ring_buffer rx_ring;
    struct packet_ring_buffer tx_ring;
};

struct xdp_umem {
    __u64 size;
};

struct xsk_queue {
    __u64 ring_vmalloc_size;
};

struct xdp_sock {
    struct xsk_queue *rx;
    struct xdp_umem *umem;
    struct xsk_queue *tx;
};

struct perf_buffer {
    int nr_pages;
    int aux_nr_pages;
};

struct perf_event {
    struct perf_buffer *rb;
};

struct io_mapped_region { // since Linux 6.13
    unsigned int nr_pages;
};

struct io_ring_ctx {
    struct io_mapped_region ring_region;
    struct io_mapped_region sq_region;
};

struct io_ring_ctx___paged { // Linux 6.5 to 6.12
    unsigned short n_ring_pages;
    unsigned short n_sqe_pages;
};

struct dma_buf {
    __u64 size;
    const char *exp_name;
};

struct fdtable {
    unsigned int max_fds;
    struct file **fd;
};

struct files_struct {
    struct fdtable *fdt;
};

struct task_struct {
    int pid;
    int tgid;
    struct fs_struct *fs;
    struct files_struct *files;
};

struct bpf_iter_meta {
    struct seq_file *seq;
    __u64 session_id;
    __u64 seq_num;
};

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
};

struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    __u32 fd;
    struct file *file;
};

#pragma clang attribute pop

#endif
