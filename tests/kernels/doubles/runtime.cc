/* runtime.cc - the double of the CUDA runtime (doubles.h).
 *
 * Streams are lists of work that nobody has done yet. Whoever waits - for a stream, an event - does
 * one piece after the other, each time of a stream drawn at random among those that need not wait
 * for an event, until what is waited for is done. So work of two streams interleaves in ways that
 * only events forbid. Device memory (memory.h) is found in a table; all ones at first, which are NaN.
 * One lock around everything. */
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "tests/kernels/doubles/doubles.h"
#include "tests/kernels/doubles/memory.h"

struct CUevent_st {
    bool timed;
    uint64_t recorded, reached; /* records asked for, and come by */
    float clock;
};

namespace
{

struct work {
    std::function<bool()> run; /* false: not yet */
    float cost;
};

enum kind { DEVICE, PINNED, REGISTERED };
struct allocation {
    size_t bytes;
    kind what;
    bool read_only;
};

} // namespace

struct CUstream_st {
    std::deque<work> queue;
    float clock;
    bool computes; /* has had a kernel */
};

namespace
{

const int WAIT_US = 200, MOST_WAITS = 1500000; /* five minutes */

struct runtime {
    std::recursive_mutex lock;
    std::set<CUstream_st *> streams;
    std::map<const char *, allocation> memory;
    std::map<std::string, int> calls;
    std::string fail_name, fail_once, spoiled;
    int fail_at, fail_with, failed_with, device;
    uint64_t changes;
    uint64_t random;
    pid_t environment_of; /* the process that has read it; a fork reads it anew */
};

runtime &r()
{
    static runtime *one = new runtime{};
    return *one;
}
#define LOCKED std::lock_guard<std::recursive_mutex> locked(r().lock)

uint32_t draw(uint32_t below)
{
    r().random = r().random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(r().random >> 33) % below;
}

int number_of(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? atoi(text) : otherwise;
}

/* One piece of some stream's work. false: nothing can be done. */
bool step()
{
    std::vector<CUstream_st *> busy;
    for (CUstream_st *s : r().streams)
        if (!s->queue.empty())
            busy.push_back(s);
    if (busy.empty())
        return false;
    device_open open;
    while (!busy.empty()) {
        uint32_t i = draw(static_cast<uint32_t>(busy.size()));
        CUstream_st *s = busy[i];
        work w = s->queue.front();
        if (w.run()) {
            s->clock += w.cost;
            r().changes += w.cost > 0;
            s->queue.pop_front();
            return true;
        }
        busy.erase(busy.begin() + i);
    }
    return false;
}

/* Where nothing can be done another process has to come first; one that is gone never will. */
void work_until(const char *call, const std::function<bool()> &done)
{
    device_open open;
    for (int waits = 0; !done(); waits++) {
        if (step())
            waits = 0;
        else if (waits < MOST_WAITS)
            usleep(WAIT_US);
        else
            double_misuse(call, "waits for another rank, which does nothing");
    }
}

void read_environment()
{
    const char *fail = getenv("ASSAY_DOUBLE_FAIL"), *once = getenv("ASSAY_DOUBLE_FAIL_ONCE");
    if (r().environment_of == getpid())
        return;
    r().environment_of = getpid();
    char name[64];
    if (fail && sscanf(fail, "%63[^:]:%d:%d", name, &r().fail_at, &r().fail_with) == 3)
        r().fail_name = name;
    r().fail_once = once ? once : "";
    if (const char *kernel = getenv("ASSAY_DOUBLE_SPOIL"))
        r().spoiled = kernel;
    if (number_of("ASSAY_DOUBLE_THREAD", 0)) {
        std::thread([] {
            for (;;) {
                {
                    LOCKED;
                    step();
                }
                usleep(20);
            }
        }).detach();
    }
}

const std::pair<const char *const, allocation> *find(const void *at)
{
    const char *p = static_cast<const char *>(at);
    auto next = r().memory.upper_bound(p);
    if (next == r().memory.begin())
        return nullptr;
    auto &a = *--next;
    return p < a.first + a.second.bytes || p == a.first ? &a : nullptr;
}

void check_kind(const char *call, const void *at, size_t bytes, bool on_device, bool written)
{
    auto *a = find(at);
    if (!a)
        double_misuse(call, on_device ? "no device memory at this address"
                                      : "host memory is neither pinned nor registered");
    if (static_cast<const char *>(at) + bytes > a->first + a->second.bytes)
        double_misuse(call, "beyond the end of the allocation");
    if ((a->second.what == DEVICE) != on_device)
        double_misuse(call, "the kind of copy does not fit the memory");
    if (written && a->second.read_only)
        double_misuse(call, "memory that was registered as read-only is written");
}

cudaError_t take(const char *call, void **memory, size_t bytes, kind what)
{
    LOCKED;
    int rc = double_enter(call);
    *memory = nullptr;
    if (rc)
        return static_cast<cudaError_t>(rc);
    if (bytes == 0)
        double_misuse(call, "an allocation of no bytes");
    if (what == DEVICE)
        *memory = device_take(bytes);
    else if (posix_memalign(memory, 256, bytes) != 0)
        *memory = nullptr;
    if (!*memory)
        return cudaErrorMemoryAllocation;
    device_open open;
    memset(*memory, 0xff, bytes);
    r().memory[static_cast<char *>(*memory)] = {bytes, what, false};
    r().changes++;
    return cudaSuccess;
}

void drain_all()
{
    device_open open;
    while (step())
        ;
}

cudaError_t give(const char *call, void *memory, kind what)
{
    LOCKED;
    if (!memory)
        return cudaSuccess;
    drain_all(); /* as the real ones, which wait for the device */
    auto *a = find(memory);
    if (!a || a->first != memory || a->second.what != what)
        double_misuse(call, "not the start of such an allocation");
    size_t bytes = a->second.bytes;
    r().memory.erase(static_cast<char *>(memory));
    if (what == DEVICE)
        device_give(memory, bytes);
    else if (what == PINNED)
        free(memory);
    return cudaSuccess;
}

bool is_stream(cudaStream_t s)
{
    return r().streams.count(s) == 1;
}

} // namespace

/* ---- for tests and the other doubles ---- */

void double_set_seed(uint64_t seed)
{
    LOCKED;
    r().random = seed * 2 + 1;
    simt_set_seed(seed);
}

void double_fail(const char *function, int k, int error)
{
    LOCKED;
    r().fail_name = function;
    r().fail_once.clear();
    r().fail_at = k + r().calls[function];
    r().fail_with = error;
    r().failed_with = 0;
}

void double_spoil(const char *kernel)
{
    LOCKED;
    r().spoiled = kernel;
}

int double_calls(const char *function)
{
    LOCKED;
    return r().calls[function];
}

size_t double_live_allocations(void)
{
    LOCKED;
    return r().memory.size();
}

void double_misuse(const char *call, const char *what)
{
    fprintf(stderr, "%s: %s\n", call, what);
    abort();
}

int double_enter(const char *function)
{
    LOCKED;
    read_environment();
    int n = ++r().calls[function];
    bool due = r().fail_once.empty() ? n == r().fail_at : n >= r().fail_at;
    if (r().fail_name == function && due && !r().failed_with &&
        (r().fail_once.empty() || unlink(r().fail_once.c_str()) == 0))
        r().failed_with = r().fail_with;
    return r().failed_with;
}

void double_check_device(const char *call, const void *at, size_t bytes)
{
    LOCKED;
    check_kind(call, at, bytes, true, false);
}

void double_queue_waiting(cudaStream_t stream, const std::function<bool()> &run)
{
    LOCKED;
    if (!is_stream(stream))
        double_misuse("a launch", "not a stream");
    stream->queue.push_back({run, 0});
}

void double_queue(cudaStream_t stream, const std::function<void()> &run, float cost)
{
    LOCKED;
    if (!is_stream(stream))
        double_misuse("a launch", "not a stream");
    stream->queue.push_back({[run] {
                                 run();
                                 return true;
                             },
        cost});
}

uint64_t double_changes()
{
    return r().changes;
}

int double_device()
{
    return r().device;
}

/* Runs a kernel and makes one of the numbers that it changed wrong: the highest bit of its exponent
 * is another. */
static void run_spoiled(const std::function<void()> &run)
{
    std::vector<std::pair<char *, std::vector<char>>> before;
    std::vector<uint32_t *> changed;
    for (auto &a : r().memory)
        if (a.second.what == DEVICE) {
            char *at = const_cast<char *>(a.first);
            before.push_back({at, std::vector<char>(at, at + a.second.bytes)});
        }
    run();
    for (auto &b : before)
        for (size_t i = 0; i + 4 <= b.second.size(); i += 4)
            if (memcmp(b.first + i, b.second.data() + i, 4) != 0)
                changed.push_back(reinterpret_cast<uint32_t *>(b.first + i));
    if (!changed.empty())
        *changed[changed.size() / 2] ^= 0x40000000u;
}

cudaError_t simt_submit(cudaStream_t stream, const char *kernel, const std::function<void()> &run)
{
    LOCKED;
    int rc = double_enter("launch");
    if (rc)
        return static_cast<cudaError_t>(rc);
    stream->computes = true;
    bool spoil = !r().spoiled.empty() && strstr(kernel, r().spoiled.c_str());
    double_queue(stream, spoil ? std::function<void()>([run] { run_spoiled(run); }) : run, 0.001f);
    return cudaSuccess;
}

/* As the real runtime does: what is not success stays a thread's last error until it is asked for,
 * "not ready" too. */
thread_local cudaError_t last_error;

static cudaError_t returned(int rc)
{
    if (rc != cudaSuccess)
        last_error = static_cast<cudaError_t>(rc);
    return static_cast<cudaError_t>(rc);
}

#define ENTER(name)                                                                                \
    LOCKED;                                                                                        \
    int failed = double_enter(name);                                                               \
    if (failed)                                                                                    \
    return returned(failed)

extern "C" {

/* ---- devices ---- */

static int device_count()
{
    return number_of("ASSAY_DOUBLE_DEVICES", 1);
}

cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER("cudaGetDeviceCount");
    *count = device_count();
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device)
{
    ENTER("cudaSetDevice");
    if (device < 0 || device >= device_count())
        return cudaErrorInvalidDevice;
    r().device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    ENTER("cudaGetDeviceProperties");
    if (device < 0 || device >= device_count())
        return cudaErrorInvalidDevice;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s",
        device == number_of("ASSAY_DOUBLE_ODD", -1) ? "Other Double" : "Test Double");
    memcpy(p->uuid.bytes, "test-double-", 12);
    memcpy(p->uuid.bytes + 12, &device, sizeof device);
    p->totalGlobalMem = 1u << 30;
    int capability = number_of("ASSAY_DOUBLE_CAPABILITY", 90);
    if (device < number_of("ASSAY_DOUBLE_OLD", 0))
        capability = 75;
    p->major = capability / 10;
    p->minor = capability % 10;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    ENTER("cudaDeviceGetAttribute");
    (void)device;
    *value = attr == cudaDevAttrHostRegisterReadOnlySupported
                 ? number_of("ASSAY_DOUBLE_READ_ONLY", 1)
             : attr == cudaDevAttrMaxSharedMemoryPerBlockOptin
                 ? number_of("ASSAY_DOUBLE_SHARED", 227 * 1024)
                 : 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    ENTER("cudaDeviceCanAccessPeer");
    *can = device != peer;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    ENTER("cudaDriverGetVersion");
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    ENTER("cudaRuntimeGetVersion");
    *version = 13000;
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    default:
        return "cudaErrorOther";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    default:
        return "another error";
    }
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t rc = last_error;
    last_error = cudaSuccess;
    return rc;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    return take("cudaMalloc", memory, bytes, DEVICE);
}

cudaError_t cudaFree(void *memory)
{
    return give("cudaFree", memory, DEVICE);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned int flags)
{
    (void)flags;
    return take("cudaHostAlloc", memory, bytes, PINNED);
}

cudaError_t cudaFreeHost(void *memory)
{
    return give("cudaFreeHost", memory, PINNED);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = static_cast<size_t>(number_of("ASSAY_DOUBLE_FREE", 512)) << 20;
    *total = 1u << 30;
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned int flags)
{
    ENTER("cudaHostGetDevicePointer");
    (void)flags;
    if (!find(host))
        double_misuse("cudaHostGetDevicePointer", "not pinned");
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned int flags)
{
    ENTER("cudaHostRegister");
    if (reinterpret_cast<uintptr_t>(memory) % 4096 != 0)
        double_misuse("cudaHostRegister", "not at the start of a page");
    r().memory[static_cast<char *>(memory)] = {
        bytes, REGISTERED, (flags & cudaHostRegisterReadOnly) != 0};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    return give("cudaHostUnregister", memory, REGISTERED);
}

/* The ends are checked now, the bytes go later. */
cudaError_t cudaMemcpyAsync(
    void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER("cudaMemcpyAsync");
    check_kind("cudaMemcpyAsync", to, bytes,
        kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, true);
    check_kind("cudaMemcpyAsync", from, bytes,
        kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, false);
    double_queue(
        stream,
        [=] {
            if (bytes > 0)
                memcpy(to, from, bytes);
        },
        0.001f);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
    size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER("cudaMemcpy2DAsync");
    if (width > to_pitch || width > from_pitch || height == 0)
        double_misuse("cudaMemcpy2DAsync", "rows longer than a pitch, or no rows");
    check_kind("cudaMemcpy2DAsync", to, (height - 1) * to_pitch + width,
        kind != cudaMemcpyDeviceToHost, true);
    check_kind("cudaMemcpy2DAsync", from, (height - 1) * from_pitch + width,
        kind != cudaMemcpyHostToDevice, false);
    double_queue(
        stream,
        [=] {
            for (size_t row = 0; row < height; row++)
                memcpy(static_cast<char *>(to) + row * to_pitch,
                    static_cast<const char *>(from) + row * from_pitch, width);
        },
        0.001f);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    ENTER("cudaMemsetAsync");
    check_kind("cudaMemsetAsync", memory, bytes, true, true);
    double_queue(
        stream, [=] { memset(memory, value, bytes); }, 0.001f);
    return cudaSuccess;
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    ENTER("cudaStreamCreateWithFlags");
    (void)flags;
    *stream = new CUstream_st{{}, 0, false};
    r().streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    LOCKED;
    if (!is_stream(stream))
        double_misuse("cudaStreamDestroy", "not a stream");
    drain_all();
    r().streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER("cudaStreamSynchronize");
    if (!is_stream(stream))
        double_misuse("cudaStreamSynchronize", "not a stream");
    work_until("cudaStreamSynchronize", [=] { return stream->queue.empty(); });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    ENTER("cudaStreamWaitEvent");
    (void)flags;
    uint64_t wanted = event->recorded;
    double_queue_waiting(stream, [=] { return event->reached >= wanted; });
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user_data)
{
    ENTER("cudaLaunchHostFunc");
    if (stream->computes)
        double_misuse("cudaLaunchHostFunc", "in a stream of kernels, which wait for the host then");
    double_queue(
        stream,
        [=] {
            device_shut shut;
            function(user_data);
        },
        0);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    ENTER("cudaEventCreateWithFlags");
    *event = new CUevent_st{(flags & cudaEventDisableTiming) == 0, 0, 0, 0};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    LOCKED;
    drain_all();
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER("cudaEventRecord");
    uint64_t mine = ++event->recorded;
    double_queue(
        stream,
        [=] {
            event->reached = mine;
            event->clock = stream->clock;
        },
        0);
    return cudaSuccess;
}

/* Asking takes time, in which a device may get on. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER("cudaEventQuery");
    for (uint32_t i = draw(4); i > 0; i--)
        step();
    return returned(event->reached == event->recorded ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER("cudaEventSynchronize");
    work_until("cudaEventSynchronize", [=] { return event->reached == event->recorded; });
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    ENTER("cudaEventElapsedTime");
    if (!start->timed || !end->timed || start->reached == 0 || end->reached == 0)
        double_misuse("cudaEventElapsedTime", "events without timing, or not recorded");
    *ms = end->clock - start->clock;
    return cudaSuccess;
}

} // extern "C"
