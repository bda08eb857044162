/* Libraries with the names and the calls of CUDA, NCCL and PyTorch's caching allocator, built one by one with
 * -DDRIVER, -DRUNTIME, -DNCCL and -DALLOCATOR. Memory is a number that is given out. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"), noinline))
#define MIB (1ul << 20)

#ifdef DRIVER
static uint64_t next = 0x7f0000000000;
/* FAKE_VRAM=directory:MiB: what this process holds is told to the fake of NVML in the file `directory/<pid>`, and a GPU
 * has so much. It is the first of CUDA_VISIBLE_DEVICES. For programs that allocate in one thread. */
static struct { uint64_t place; size_t size; } books[4096];
static size_t entries, held;
static int ledger_fd(unsigned long *total) {
    char path[512], name[560];
    if (sscanf(getenv("FAKE_VRAM"), "%511[^:]:%lu", path, total) != 2) abort();
    snprintf(name, sizeof name, "%s/%d", path, getpid());
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || flock(fd, LOCK_EX)) abort(); /* until it ends: so the fake of NVML knows that it lives */
    return fd;
}
static int tell_nvml(void) {
    static int fd = -1;
    static unsigned long total;
    char line[64];
    const char *shown = getenv("CUDA_VISIBLE_DEVICES");
    if (fd < 0) fd = ledger_fd(&total);
    if (held > total * MIB) return 2;
    int length = snprintf(line, sizeof line, "%d %20zu\n", shown ? atoi(shown) : 0, held);
    return pwrite(fd, line, (size_t)length, 0) == length ? 0 : 999;
}
static int enter(uint64_t place, size_t size) {
    if (!getenv("FAKE_VRAM")) return 0;
    if (entries == sizeof books / sizeof books[0]) return 2;
    held += size;
    int result = tell_nvml();
    if (result) {
        held -= size;
        return result;
    }
    books[entries].place = place;
    books[entries++].size = size;
    return 0;
}
static int strike(uint64_t place) {
    for (size_t at = 0; at < entries; at++)
        if (books[at].place == place) {
            held -= books[at].size;
            books[at] = books[--entries];
            return tell_nvml();
        }
    return place == 1;
}
API int cuMemAlloc_v2(uint64_t *place, size_t size) {
    if (size > 1024 * MIB) return 2;
    *place = __sync_fetch_and_add(&next, size);
    return enter(*place, size);
}
API int cuMemCreate(uint64_t *place, size_t size, const void *how, unsigned long long flags) {
    (void)how, (void)flags;
    return cuMemAlloc_v2(place, size) + 0;
}
API int cuCtxSetCurrent(void *context) { return context == (void *)1; }
API int cuCtxPushCurrent_v2(void *context) { return context == (void *)1; }
API int cuCtxPopCurrent_v2(void **place) { return place == (void *)1; }
API int cuMemFree_v2(uint64_t place) { return strike(place); }
API int cuMemRelease(uint64_t place) { return place == 1; }
/* FAKE_RANKS=file:n: ranks that meet, through a counter that they all map. */
static void meet(const char *where) {
    static volatile long *arrived;
    static long round, ranks;
    struct timespec rest = {0, 200000};
    if (!arrived) {
        char path[256];
        if (sscanf(where, "%255[^:]:%ld", path, &ranks) != 2) abort();
        int fd = open(path, O_RDWR);
        arrived = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
    }
    round++;
    __sync_fetch_and_add(arrived, 1);
    while (*arrived < round * ranks) nanosleep(&rest, NULL);
}
API int cuStreamSynchronize(void *stream) {
    if (getenv("FAKE_RANKS")) meet(getenv("FAKE_RANKS"));
    long ms = getenv("FAKE_SYNC_MS") ? atol(getenv("FAKE_SYNC_MS")) : 0;
    struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&rest, NULL);
    return stream == (void *)1;
}
#endif

#ifdef RUNTIME
int cuMemAlloc_v2(uint64_t *place, size_t size);
int cuMemFree_v2(uint64_t place);
int cuStreamSynchronize(void *stream);
int cuCtxSetCurrent(void *context);
API int cudaSetDevice(int device) { int result = cuCtxSetCurrent((void *)16); return device > 7 ? 101 : result; }
API int cudaMalloc(uint64_t *place, size_t size) { int result = cuMemAlloc_v2(place, size); return result; }
API int cudaFree(uint64_t place) { int result = cuMemFree_v2(place); return result; }
API int cudaStreamSynchronize(void *stream) { int result = cuStreamSynchronize(stream); return result; }
API int cudaLaunchKernel(void) { return 0; }
#endif

#ifdef NCCL
int cudaMalloc(uint64_t *place, size_t size);
API int ncclCommInitRank(uint64_t *place) { int result = cudaMalloc(place, 4 * MIB); return result; }
API int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, void *comm, void *stream) {
    (void)from, (void)to, (void)type, (void)op, (void)comm, (void)stream;
    return count == 1;
}
API int ncclSend(const void *from, size_t count, int type, int peer, void *comm, void *stream) {
    (void)from, (void)type, (void)peer, (void)comm, (void)stream;
    return count == 1;
}
#endif

#ifdef ALLOCATOR
int cudaMalloc(uint64_t *place, size_t size);
int cudaFree(uint64_t place);
/* FAKE_ALLOWED_MIB=n: as the real one, it keeps what it is given back, for the stream that had it, and looks through what
 * it keeps when it has taken more than `garbage_collection_threshold` (PYTORCH_ALLOC_CONF) of n: the oldest goes first.
 * Without it nothing is kept. For programs that allocate in one thread. */
static struct block { uint64_t place, stream; size_t size; int used; } blocks[4096];
static size_t count, reserved;
static uint64_t current_stream;
API void _ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE(uint64_t stream) { current_stream = stream; }
static size_t allowed(void) { return getenv("FAKE_ALLOWED_MIB") ? strtoul(getenv("FAKE_ALLOWED_MIB"), NULL, 10) * MIB : 0; }
static double threshold(void) {
    const char *conf = getenv("PYTORCH_ALLOC_CONF"), *key = "garbage_collection_threshold:";
    const char *found = conf ? strstr(conf, key) : NULL;
    return found ? atof(found + strlen(key)) : 0;
}
static void collect(void) {
    double most = threshold() * (double)allowed();
    for (size_t at = 0; most > 0 && at < count && (double)reserved > most;) {
        if (blocks[at].used) {
            at++;
            continue;
        }
        cudaFree(blocks[at].place);
        reserved -= blocks[at].size;
        memmove(&blocks[at], &blocks[at + 1], (--count - at) * sizeof blocks[0]);
    }
}
static struct block *kept(size_t size) {
    for (size_t at = 0; at < count; at++)
        if (!blocks[at].used && blocks[at].stream == current_stream && blocks[at].size >= size) return &blocks[at];
    return NULL;
}
/* As the real one rounds: from 10 MiB on a segment of its own, in steps of 2 MiB. */
API uint64_t _ZN3c104cuda20CUDACachingAllocator6Native6mallocEm(size_t size) {
    uint64_t place = 0;
    size_t whole = size <= MIB ? 2 * MIB : size < 10 * MIB ? 20 * MIB : (size + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    struct block *block = allowed() ? kept(whole) : NULL;
    if (block) {
        block->used = 1;
        return block->place;
    }
    if (allowed()) collect();
    if (cudaMalloc(&place, whole)) return 0;
    if (allowed() && count < sizeof blocks / sizeof blocks[0]) {
        blocks[count++] = (struct block){place, current_stream, whole, 1};
        reserved += whole;
    }
    return place;
}
API int _ZN3c104cuda20CUDACachingAllocator6Native4freeEm(uint64_t place) {
    for (size_t at = 0; at < count; at++)
        if (blocks[at].place == place) return blocks[at].used = 0;
    int result = cudaFree(place);
    return result;
}
#endif
