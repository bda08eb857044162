/* Libraries with the names and the calls of CUDA, NCCL and PyTorch's caching allocator, built one by one with
 * -DDRIVER, -DRUNTIME, -DNCCL and -DALLOCATOR. Memory is a number that is given out. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"), noinline))
#define MIB (1ul << 20)

#ifdef DRIVER
static uint64_t next = 0x7f0000000000;
API int cuMemAlloc_v2(uint64_t *place, size_t size) {
    if (size > 1024 * MIB) return 2;
    *place = __sync_fetch_and_add(&next, size);
    return 0;
}
API int cuMemCreate(uint64_t *place, size_t size, const void *how, unsigned long long flags) {
    (void)how, (void)flags;
    return cuMemAlloc_v2(place, size) + 0;
}
API int cuCtxSetCurrent(void *context) { return context == (void *)1; }
API int cuCtxPushCurrent_v2(void *context) { return context == (void *)1; }
API int cuCtxPopCurrent_v2(void **place) { return place == (void *)1; }
API int cuMemFree_v2(uint64_t place) { return place == 1; }
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
/* As the real one rounds: from 10 MiB on a segment of its own, in steps of 2 MiB. */
API uint64_t _ZN3c104cuda20CUDACachingAllocator6Native6mallocEm(size_t size) {
    uint64_t place = 0;
    size_t whole = size <= MIB ? 2 * MIB : size < 10 * MIB ? 20 * MIB : (size + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    return cudaMalloc(&place, whole) ? 0 : place;
}
API int _ZN3c104cuda20CUDACachingAllocator6Native4freeEm(uint64_t place) { int result = cudaFree(place); return result; }
#endif
