/* A libnvidia-ml.so.1 that says what a scenario file says.
 *
 * OSREMED_FAKE_NVML names the file: lines of `key value`, read again when it changes. Keys of one GPU are
 * `<index>.<name>`, of all `*.<name>`. `<index>.hang_ms` delays its calls, `<index>.lost 1` makes them answer 15,
 * `<index>.crash 1` ends the process that makes them.
 * `ledger DIRECTORY` adds what the processes of the fake of CUDA hold: files `<pid>` of `<index> <bytes>`.
 * `error.<function> N` makes a function answer N, `init N` the library, which takes `init_ms`. `<file>.events` holds lines
 * `<index> <type> <data> [gi ci]`; each is delivered once, in order. */
#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, SIZE = 7, TIMEOUT = 10, LOST = 15, VERSION = 25 };

static struct { char key[64]; char value[512]; } table[4096];
static int rows;
static struct timespec read_at;
static off_t read_size = -1;
static struct { int index; } devices[64];

static void load(void) {
    const char *path = getenv("OSREMED_FAKE_NVML");
    struct stat facts;
    char line[640];
    if (!path || stat(path, &facts)) { rows = 0; return; }
    if (facts.st_mtim.tv_sec == read_at.tv_sec && facts.st_mtim.tv_nsec == read_at.tv_nsec && facts.st_size == read_size)
        return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    read_at = facts.st_mtim;
    read_size = facts.st_size;
    rows = 0;
    while (rows < 4096 && fgets(line, sizeof line, file))
        if (sscanf(line, "%63s %511[^\n]", table[rows].key, table[rows].value) == 2) rows++;
    fclose(file);
}

static const char *find(const char *key) {
    for (int i = rows - 1; i >= 0; i--)
        if (!strcmp(table[i].key, key)) return table[i].value;
    return NULL;
}

static const char *text_of(int index, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "%d.%s", index, name);
    const char *value = find(key);
    if (value) return value;
    snprintf(key, sizeof key, "*.%s", name);
    return find(key);
}

static long long number_of(int index, const char *name, long long otherwise) {
    const char *value = text_of(index, name);
    return value ? strtoll(value, NULL, 0) : otherwise;
}

static int index_of(void *device) {
    long index = (long)((char *)device - (char *)devices) / (long)sizeof devices[0];
    return index >= 0 && index < 64 ? (int)index : -1;
}

static int error_of(const char *function) {
    char key[96];
    snprintf(key, sizeof key, "error.%.60s", function);
    const char *value = find(key);
    return value ? atoi(value) : OK;
}

static void take(long long ms) {
    struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
    if (ms) nanosleep(&rest, NULL);
}

static int enter(void *device, const char *function) {
    load();
    int index = index_of(device);
    if (index < 0) return INVALID;
    take(number_of(index, "hang_ms", 0));
    if (number_of(index, "crash", 0)) raise(SIGKILL);
    if (number_of(index, "lost", 0)) return LOST;
    return error_of(function);
}

/* A call that gives one unsigned number of a device. */
#define NUMBER(function, name, otherwise)                                  \
    API int function(void *device, unsigned *out) {                        \
        int code = enter(device, #function);                               \
        if (!code) *out = (unsigned)number_of(index_of(device), name, otherwise); \
        return code;                                                       \
    }
NUMBER(nvmlDeviceGetPowerUsage, "power_mw", 70000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw", 700000)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_gen", 5)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", 16)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max", 16)
NUMBER(nvmlDeviceGetPcieReplayCounter, "pcie_replay", 0)
NUMBER(nvmlDeviceGetIndex, "index", 0)

API int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    load();
    const char *ms = find("init_ms"), *value = find("init");
    take(ms ? atoll(ms) : 0);
    return value ? atoi(value) : OK;
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) { return OK; }
API const char *nvmlErrorString(int code) { return code ? "an error of the fake" : "no error"; }

API int nvmlDeviceGetCount_v2(unsigned *out) {
    load();
    const char *value = find("gpus");
    *out = value ? (unsigned)atoi(value) : 1;
    return error_of("nvmlDeviceGetCount_v2");
}
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    unsigned count;
    nvmlDeviceGetCount_v2(&count);
    if (index >= count || index >= 64) return INVALID;
    *out = &devices[index];
    return enter(*out, "nvmlDeviceGetHandleByIndex_v2");
}
static int copy(char *out, unsigned size, const char *text) {
    if (strlen(text) >= size) return SIZE;
    strcpy(out, text);
    return OK;
}
API int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    load();
    const char *value = find("driver");
    return copy(out, size, value ? value : "570.124.06");
}
API int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    int code = enter(device, "nvmlDeviceGetName");
    const char *value = text_of(index_of(device), "name");
    return code ? code : copy(out, size, value ? value : "FAKE H100");
}
API int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    char uuid[64];
    int code = enter(device, "nvmlDeviceGetUUID");
    snprintf(uuid, sizeof uuid, "GPU-00000000-0000-0000-0000-%012d", index_of(device));
    const char *value = text_of(index_of(device), "uuid");
    return code ? code : copy(out, size, value ? value : uuid);
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
API int nvmlDeviceGetPciInfo_v3(void *device, struct pci *out) {
    int code = enter(device, "nvmlDeviceGetPciInfo_v3");
    if (code) return code;
    memset(out, 0, sizeof *out);
    out->bus = (unsigned)number_of(index_of(device), "bus", 0x18 + index_of(device));
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", out->bus);
    return OK;
}

struct process { unsigned pid; unsigned long long used; unsigned gi, ci; };
/* The living processes of the ledger that hold memory of a GPU; how many, of which `room` are put out. */
static unsigned in_ledger(int index, unsigned room, struct process *out) {
    char path[512];
    unsigned found = 0;
    const char *where = find("ledger");
    DIR *directory = where ? opendir(where) : NULL;
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        struct process one = {(unsigned)atoi(entry->d_name), 0, 0xFFFFFFFF, 0xFFFFFFFF};
        int device = -1;
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        snprintf(path, sizeof path, "%.480s/%.20s", where, entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        /* Its process holds a lock on it. One that ended holds nothing, also while nobody has reaped it. */
        int ended = !flock(fileno(file), LOCK_SH | LOCK_NB);
        if (!ended && fscanf(file, "%d %llu", &device, &one.used) == 2 && device == index) {
            if (out && found < room) out[found] = one;
            found++;
        }
        fclose(file);
    }
    if (directory) closedir(directory);
    return found;
}
static unsigned long long used_of(int index) {
    struct process holders[64];
    unsigned count = in_ledger(index, 64, holders);
    unsigned long long used = (unsigned long long)number_of(index, "vram_used", 1073741824LL);
    for (unsigned at = 0; at < count && at < 64; at++) used += holders[at].used;
    return used;
}
struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
API int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *out) {
    int code = enter(device, "nvmlDeviceGetMemoryInfo_v2");
    if (code) return code;
    if (out->version != 0x02000028) return VERSION;
    out->total = (unsigned long long)number_of(index_of(device), "vram_total", 85899345920LL);
    out->used = used_of(index_of(device));
    out->free = out->total - out->used;
    out->reserved = 0;
    return OK;
}
API int nvmlDeviceGetMemoryInfo(void *device, struct memory *out) {
    struct memory_v2 whole = {.version = 0x02000028};
    int code = enter(device, "nvmlDeviceGetMemoryInfo");
    if (code) return code;
    code = nvmlDeviceGetMemoryInfo_v2(device, &whole);
    if (code == VERSION || error_of("nvmlDeviceGetMemoryInfo_v2")) {
        whole.total = (unsigned long long)number_of(index_of(device), "vram_total", 85899345920LL);
        whole.used = used_of(index_of(device));
        whole.free = whole.total - whole.used;
    }
    out->total = whole.total;
    out->free = whole.free;
    out->used = whole.used;
    return OK;
}

API int nvmlDeviceGetUtilizationRates(void *device, unsigned out[2]) {
    int code = enter(device, "nvmlDeviceGetUtilizationRates");
    if (code) return code;
    out[0] = (unsigned)number_of(index_of(device), "sm_util", 50);
    out[1] = (unsigned)number_of(index_of(device), "mem_util", 20);
    return OK;
}

struct temperature { unsigned version, sensor; int degrees; };
API int nvmlDeviceGetTemperatureV(void *device, struct temperature *out) {
    int code = enter(device, "nvmlDeviceGetTemperatureV");
    if (code) return code;
    if (out->version != 0x100000C) return VERSION;
    out->degrees = (int)number_of(index_of(device), "temp", 45);
    return OK;
}
API int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *out) {
    (void)sensor;
    int code = enter(device, "nvmlDeviceGetTemperature");
    if (!code) *out = (unsigned)number_of(index_of(device), "temp", 45);
    return code;
}
struct margin { unsigned version; int degrees; };
API int nvmlDeviceGetMarginTemperature(void *device, struct margin *out) {
    int code = enter(device, "nvmlDeviceGetMarginTemperature");
    if (code) return code;
    if (out->version != 0x1000008) return VERSION;
    out->degrees = (int)number_of(index_of(device), "margin", 40);
    return OK;
}

API int nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *out) {
    (void)kind;
    int code = enter(device, "nvmlDeviceGetClockInfo");
    if (!code) *out = (unsigned)number_of(index_of(device), "sm_clock", 1980);
    return code;
}
API int nvmlDeviceGetMaxClockInfo(void *device, unsigned kind, unsigned *out) {
    (void)kind;
    int code = enter(device, "nvmlDeviceGetMaxClockInfo");
    if (!code) *out = (unsigned)number_of(index_of(device), "sm_clock_max", 1980);
    return code;
}
API int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *out) {
    int code = enter(device, "nvmlDeviceGetCurrentClocksEventReasons");
    if (!code) *out = (unsigned long long)number_of(index_of(device), "clock_reasons", 0);
    return code;
}
API int nvmlDeviceGetTotalEccErrors(void *device, unsigned kind, unsigned counter, unsigned long long *out) {
    (void)counter;
    int code = enter(device, "nvmlDeviceGetTotalEccErrors");
    if (!code) *out = (unsigned long long)number_of(index_of(device), kind ? "ecc_dbe" : "ecc_sbe", 0);
    return code;
}
API int nvmlDeviceGetRemappedRows(void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                                  unsigned *failed) {
    int index = index_of(device), code = enter(device, "nvmlDeviceGetRemappedRows");
    if (code) return code;
    *corrected = (unsigned)number_of(index, "rows_corrected", 0);
    *uncorrected = (unsigned)number_of(index, "rows_uncorrected", 0);
    *pending = (unsigned)number_of(index, "rows_pending", 0);
    *failed = (unsigned)number_of(index, "rows_failed", 0);
    return OK;
}
API int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *out) {
    int code = enter(device, "nvmlDeviceGetNvLinkState");
    if (code) return code;
    if (link >= number_of(index_of(device), "nvlinks", 18)) return link ? INVALID : UNSUPPORTED;
    *out = link >= number_of(index_of(device), "nvlinks_down", 0);
    return OK;
}
API int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    int code = enter(device, "nvmlDeviceGetMigMode");
    if (!code) *current = *pending = (unsigned)number_of(index_of(device), "mig", 0);
    return code;
}

struct field {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned kind, code;
    union { unsigned u; unsigned long long ull; } value;
};
API int nvmlDeviceGetFieldValues(void *device, int count, struct field *out) {
    int code = enter(device, "nvmlDeviceGetFieldValues");
    char name[32];
    if (code) return code;
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "field%u", out[i].field);
        out[i].kind = out[i].field == 230 ? 1 : 3;
        out[i].value.ull = (unsigned long long)number_of(index_of(device), name, 0);
        snprintf(name, sizeof name, "field%u_error", out[i].field);
        out[i].code = (unsigned)number_of(index_of(device), name, 0);
    }
    return OK;
}

/* `<index>.processes`, beside those of the ledger, is `pid:bytes[:gi:ci]` words; bytes -1 is "not available". `<index>.drawing` are those that draw. */
static int processes(void *device, const char *call, const char *key, unsigned *count, struct process *out) {
    char words[512];
    unsigned found = 0, room = *count;
    int code = enter(device, call);
    if (code) return code;
    if (!strcmp(key, "processes")) found = in_ledger(index_of(device), room, out);
    const char *value = text_of(index_of(device), key);
    snprintf(words, sizeof words, "%s", value ? value : "");
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "), found++) {
        struct process one = {0, 0, 0xFFFFFFFF, 0xFFFFFFFF};
        sscanf(word, "%u:%lld:%u:%u", &one.pid, (long long *)&one.used, &one.gi, &one.ci);
        if (out && found < room) out[found] = one;
    }
    *count = found;
    return found > room ? SIZE : OK;
}
API int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *out) {
    return processes(device, "nvmlDeviceGetComputeRunningProcesses_v3", "processes", count, out);
}
API int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, struct process *out) {
    return processes(device, "nvmlDeviceGetGraphicsRunningProcesses_v3", "drawing", count, out);
}

static long delivered;
API int nvmlEventSetCreate(void **out) {
    *out = &delivered;
    return error_of("nvmlEventSetCreate");
}
API int nvmlEventSetFree(void *set) { (void)set; return OK; }
API int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    (void)types;
    (void)set;
    return enter(device, "nvmlDeviceRegisterEvents");
}
struct event { void *device; unsigned long long type, data; unsigned gi, ci; };
static int next_event(struct event *out) {
    char path[4096], line[128];
    int index, found = 0;
    const char *scenario = getenv("OSREMED_FAKE_NVML");
    snprintf(path, sizeof path, "%.4000s.events", scenario ? scenario : "");
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    fseek(file, delivered, SEEK_SET);
    if (fgets(line, sizeof line, file) && strchr(line, '\n')) {
        out->gi = out->ci = 0xFFFFFFFF;
        if (sscanf(line, "%d %llu %llu %u %u", &index, &out->type, &out->data, &out->gi, &out->ci) >= 3) {
            out->device = &devices[index];
            found = 1;
        }
        delivered = ftell(file);
    }
    fclose(file);
    return found;
}
API int nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout_ms) {
    struct timespec tick = {0, 1000000};
    (void)set;
    for (unsigned waited = 0; waited <= timeout_ms; waited++) {
        load();
        if (error_of("nvmlEventSetWait_v2")) return error_of("nvmlEventSetWait_v2");
        if (next_event(out)) return OK;
        nanosleep(&tick, NULL);
    }
    return TIMEOUT;
}
