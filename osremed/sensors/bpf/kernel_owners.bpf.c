// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// What the open files of all processes make the kernel hold: queues of sockets, packet rings, pipes, perf and io_uring
// rings, AF_XDP areas, DMA buffers. An iterator over all descriptors, in all namespaces; it writes a record for each
// that holds anything. `paged_bytes` is the part that is in no counter of the kernel: not slab, vmalloc or page cache.
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define MOST_PACKETS 65536
#define MOST_SLOTS 65536
#define DIRECT_MAP_BYTES (8ULL << 40)

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFIFO 0010000
#define DMA_BUF_MAGIC 0x444d4142
#define ANON_INODE_MAGIC 0x09041934

#define AF_PACKET 17
#define AF_XDP 44
#define IPPROTO_TCP 6
#define SOCK_STREAM 1

const volatile __u64 page_bytes = 4096;

// The order is that of sensors/kernelowners.py.
enum { QUEUE = 1, PACKET_RING, PIPE, PERF_RING, IO_URING, XDP_AREA, DMA_BUFFER };

struct owner {
    __u32 kind;
    __u32 pid;
    __u64 object; // the same for each descriptor of one thing
    __u64 inode;
    __u64 bytes;
    __u64 paged_bytes;
    __u32 family;
    __u32 type;
    char name[16];
};

struct queue {
    struct sk_buff *at;
    struct sk_buff *end;
    __u64 truesize;
    __u64 paged;
};

static __always_inline void write_out(struct bpf_iter__task_file *context, struct owner *owner)
{
    if (owner->bytes)
        bpf_seq_write(context->meta->seq, owner, sizeof(*owner));
}

// A packet's header is slab, and so is its linear part unless that is a page fragment; what is beyond lies in pages.
// Those of a packet that goes back to a page pool (Linux 5.14) are the pool's, and counted there.
static long each_packet(__u32 index, void *data)
{
    struct queue *queue = data;
    struct sk_buff *packet = queue->at;
    __u64 truesize, linear, slab;

    (void)index;
    if (!packet || packet == queue->end)
        return 1;
    truesize = BPF_CORE_READ(packet, truesize);
    linear = BPF_CORE_READ(packet, end) + bpf_core_type_size(struct skb_shared_info);
    slab = bpf_core_type_size(struct sk_buff);
    if (!BPF_CORE_READ_BITFIELD_PROBED(packet, head_frag))
        slab += linear;
    queue->truesize += truesize;
    if (!bpf_core_field_exists(packet->pp_recycle) || !BPF_CORE_READ_BITFIELD_PROBED(packet, pp_recycle))
        queue->paged += truesize > slab ? truesize - slab : 0;
    queue->at = BPF_CORE_READ(packet, next);
    return 0;
}

static __always_inline void walk_queue(struct queue *queue, struct sk_buff_head *head)
{
    queue->truesize = queue->paged = 0;
    queue->end = (struct sk_buff *)head;
    queue->at = BPF_CORE_READ(head, next);
    bpf_loop(MOST_PACKETS, each_packet, queue, 0);
}

// `counted` is what the socket itself counts; what was not walked is like what was.
static __always_inline void add_queue(struct owner *owner, struct queue *queue, __u64 counted, bool pages_by_default)
{
    __u64 bytes = counted > queue->truesize ? counted : queue->truesize;

    owner->bytes += bytes;
    if (queue->truesize)
        owner->paged_bytes += bytes / 1024 * queue->paged / (queue->truesize / 1024 + 1);
    else if (pages_by_default)
        owner->paged_bytes += bytes;
}

static __always_inline __u64 ring_bytes(struct packet_ring_buffer *ring, struct sock *sock, __u64 *paged)
{
    __u64 bytes = (__u64)BPF_CORE_READ(ring, pg_vec_len) * BPF_CORE_READ(ring, pg_vec_pages) * page_bytes;
    __u64 buffer = (__u64)BPF_CORE_READ(ring, pg_vec, buffer), here = (__u64)sock;
    __u64 distance = buffer > here ? buffer - here : here - buffer;

    if (!buffer)
        return 0;
    if (distance < DIRECT_MAP_BYTES) // else by vmalloc, which the kernel counts itself
        *paged += bytes;
    return bytes;
}

static __always_inline void packet_ring(struct bpf_iter__task_file *context, struct owner *owner, struct sock *sock)
{
    struct packet_sock *packet = (void *)sock;

    if (!bpf_core_type_exists(struct packet_sock))
        return;
    owner->kind = PACKET_RING;
    owner->paged_bytes = 0;
    owner->bytes = ring_bytes((void *)packet + bpf_core_field_offset(struct packet_sock, rx_ring), sock,
                              &owner->paged_bytes) +
                   ring_bytes((void *)packet + bpf_core_field_offset(struct packet_sock, tx_ring), sock,
                              &owner->paged_bytes);
    write_out(context, owner);
}

// The packets lie in the process's own memory, the rings are vmalloc: nothing of it is uncounted.
static __always_inline void xdp_area(struct bpf_iter__task_file *context, struct owner *owner, struct sock *sock)
{
    struct xdp_sock *xdp = (void *)sock;

    if (!bpf_core_type_exists(struct xdp_sock))
        return;
    owner->kind = XDP_AREA;
    owner->paged_bytes = 0;
    owner->bytes = BPF_CORE_READ(xdp, umem, size);
    if (bpf_core_field_exists(struct xsk_queue, ring_vmalloc_size))
        owner->bytes += BPF_CORE_READ(xdp, rx, ring_vmalloc_size) + BPF_CORE_READ(xdp, tx, ring_vmalloc_size);
    write_out(context, owner);
}

static __always_inline void socket_file(struct bpf_iter__task_file *context, struct owner *owner, struct file *file)
{
    struct socket *socket = BPF_CORE_READ(file, private_data);
    struct sock *sock = BPF_CORE_READ(socket, sk);
    struct queue queue = {};
    bool tcp;

    if (!sock)
        return;
    owner->kind = QUEUE;
    owner->object = (__u64)sock;
    owner->family = BPF_CORE_READ(sock, __sk_common.skc_family);
    owner->type = BPF_CORE_READ(sock, sk_type);
    tcp = BPF_CORE_READ(sock, sk_protocol) == IPPROTO_TCP && owner->type == SOCK_STREAM;
    walk_queue(&queue, (void *)sock + bpf_core_field_offset(struct sock, sk_receive_queue));
    add_queue(owner, &queue, BPF_CORE_READ(sock, sk_backlog.rmem_alloc.counter), false);
    if (tcp) { // sent and not yet acknowledged is in another queue, and in pages
        walk_queue(&queue, (void *)sock + bpf_core_field_offset(struct sock, sk_write_queue));
        add_queue(owner, &queue, BPF_CORE_READ(sock, sk_wmem_queued), true);
    }
    write_out(context, owner);
    if (owner->family == AF_PACKET)
        packet_ring(context, owner, sock);
    if (owner->family == AF_XDP)
        xdp_area(context, owner, sock);
}

struct slots {
    struct pipe_buffer *bufs;
    __u32 at;
    __u32 head;
    __u32 mask;
    __u32 pages;
    __u32 others;
};

static long each_slot(__u32 index, void *data)
{
    struct slots *slots = data;
    struct pipe_buffer *slot;
    struct page *page;

    (void)index;
    if (slots->at == slots->head)
        return 1;
    slot = (void *)slots->bufs + (__u64)(slots->at & slots->mask) * bpf_core_type_size(struct pipe_buffer);
    slots->at++;
    page = BPF_CORE_READ(slot, page);
    if (!page)
        return 0;
    if (BPF_CORE_READ(page, mapping))
        slots->others++; // spliced in: a page of a file, which counts there
    else
        slots->pages++;
    return 0;
}

// Pages that the pipe keeps for its next writer: two, and one before Linux 6.15.
static __always_inline __u32 kept_pages(struct pipe_inode_info *pipe)
{
    struct pipe_inode_info___one *one = (void *)pipe;

    if (bpf_core_field_exists(pipe->tmp_page))
        return !!BPF_CORE_READ(pipe, tmp_page[0]) + !!BPF_CORE_READ(pipe, tmp_page[1]);
    return bpf_core_field_exists(one->tmp_page) && BPF_CORE_READ(one, tmp_page);
}

static __always_inline void pipe_file(struct bpf_iter__task_file *context, struct owner *owner, struct inode *inode)
{
    struct pipe_inode_info *pipe = BPF_CORE_READ(inode, i_pipe);
    struct slots slots = {};

    if (!pipe)
        return;
    owner->kind = PIPE;
    owner->object = (__u64)pipe;
    slots.bufs = BPF_CORE_READ(pipe, bufs);
    slots.at = BPF_CORE_READ(pipe, tail);
    slots.head = BPF_CORE_READ(pipe, head);
    slots.mask = BPF_CORE_READ(pipe, ring_size) - 1;
    bpf_loop(MOST_SLOTS, each_slot, &slots, 0);
    slots.pages += kept_pages(pipe);
    owner->paged_bytes = slots.pages * page_bytes;
    owner->bytes = owner->paged_bytes + slots.others * page_bytes;
    write_out(context, owner);
}

// The first eight letters of a word as the number they are in memory (little-endian machines).
#define EIGHT(w)                                                                                                       \
    ((__u64)w[0] | (__u64)w[1] << 8 | (__u64)w[2] << 16 | (__u64)w[3] << 24 | (__u64)w[4] << 32 | (__u64)w[5] << 40 | \
     (__u64)w[6] << 48 | (__u64)w[7] << 56)

static __always_inline void ring_file(struct bpf_iter__task_file *context, struct owner *owner, struct file *file)
{
    void *private = BPF_CORE_READ(file, private_data);
    __u64 name = 0, pages = 0;

    bpf_probe_read_kernel(&name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
    owner->object = (__u64)private;
    if (name == EIGHT("[perf_event]")) {
        struct perf_event *event = private;
        struct perf_buffer *ring = BPF_CORE_READ(event, rb);

        if (!ring || !bpf_core_type_exists(struct perf_buffer))
            return;
        owner->kind = PERF_RING;
        owner->object = (__u64)ring;
        pages = 1 + BPF_CORE_READ(ring, nr_pages) + BPF_CORE_READ(ring, aux_nr_pages);
    } else if (name == EIGHT("[io_uring]")) {
        owner->kind = IO_URING;
        if (bpf_core_field_exists(struct io_ring_ctx, ring_region)) {
            struct io_ring_ctx *ring = private;

            pages = BPF_CORE_READ(ring, ring_region.nr_pages) + BPF_CORE_READ(ring, sq_region.nr_pages);
        } else if (bpf_core_field_exists(struct io_ring_ctx___paged, n_ring_pages)) {
            struct io_ring_ctx___paged *ring = private;

            pages = BPF_CORE_READ(ring, n_ring_pages) + BPF_CORE_READ(ring, n_sqe_pages);
        }
    }
    owner->bytes = owner->paged_bytes = pages * page_bytes;
    write_out(context, owner);
}

static __always_inline void dma_file(struct bpf_iter__task_file *context, struct owner *owner, struct file *file)
{
    struct dma_buf *buffer = BPF_CORE_READ(file, private_data);

    if (!bpf_core_type_exists(struct dma_buf))
        return;
    owner->kind = DMA_BUFFER;
    owner->object = (__u64)buffer;
    owner->bytes = BPF_CORE_READ(buffer, size);
    bpf_probe_read_kernel_str(owner->name, sizeof(owner->name), BPF_CORE_READ(buffer, exp_name));
    write_out(context, owner);
}

SEC("iter/task_file")
int owners(struct bpf_iter__task_file *context)
{
    struct task_struct *task = context->task;
    struct file *file = context->file;
    struct owner owner = {};
    struct inode *inode;
    __u64 magic;
    __u16 mode;

    if (!task || !file)
        return 0;
    inode = BPF_CORE_READ(file, f_inode);
    mode = BPF_CORE_READ(inode, i_mode) & S_IFMT;
    magic = BPF_CORE_READ(inode, i_sb, s_magic);
    owner.pid = BPF_CORE_READ(task, tgid);
    owner.inode = BPF_CORE_READ(inode, i_ino);
    if (mode == S_IFSOCK)
        socket_file(context, &owner, file);
    else if (mode == S_IFIFO)
        pipe_file(context, &owner, inode);
    else if (magic == ANON_INODE_MAGIC)
        ring_file(context, &owner, file);
    else if (magic == DMA_BUF_MAGIC)
        dma_file(context, &owner, file);
    return 0;
}
