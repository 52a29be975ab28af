/* device.c - the GPU as a struct device: memory, all taken at the start, and batches in flight
 * (gpu.h). */
#include "cuda/gpu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cuda/comm_nccl.h"
#include "cuda/gemm.h"
#include "cuda/self_check.h"
#include "schema/alloc.h"
#include "schema/log.h"

/* ---- open, close ---- */

static int choose_device(struct device *d, int index, struct err *e)
{
    int n = 0;
    int rc = GPU_TRY(cudaGetDeviceCount(&n), e);
    if (rc == 0 && index >= n)
        rc = err_set(
            e, ASSAY_EUNSUPPORTED, "GPU %d: this machine has %d (0 to %d)", index, n, n - 1);
    if (rc == 0)
        rc = GPU_TRY(cudaSetDevice(index), e);
    if (rc == 0)
        rc = GPU_TRY(cudaGetDeviceProperties(&d->properties, index), e);
    if (rc == 0 && d->properties.major < 8)
        rc = err_set(e, ASSAY_EUNSUPPORTED,
            "GPU %d (%s): expected compute capability 8.0 or newer, found %d.%d", index,
            d->properties.name, d->properties.major, d->properties.minor);
    d->index = index;
    return rc;
}

/* cuBLASLt multiplies F8 with a scale per row only on this generation. */
static int check_quant(const struct device *d, enum dtype quant, struct err *e)
{
    const struct cudaDeviceProp *p = &d->properties;
    if (quant != DTYPE_F8 || p->major == 9)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "--quant fp8: expected a GPU of compute capability 9.0, found GPU %d (%s) of %d.%d (an FP8 "
        "checkpoint's --activations as-stored needs it too: expected weights-only)",
        d->index, p->name, p->major, p->minor);
}

/* The attention kernel that takes any type and head size must fit, since rows may be laid out in a
 * way that the other one does not take. */
static int check_heads(const struct device *d, uint32_t head_dim, struct err *e)
{
    int found = 0;
    size_t expected = kernel_attention_simt_shared_bytes(head_dim);
    int rc = GPU_TRY(
        cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->index), e);
    if (rc != 0 || (size_t)found >= expected)
        return rc;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "head_dim %u: expected a GPU with %zu bytes of shared memory for a block, found GPU %d "
        "(%s) "
        "with %d",
        head_dim, expected, d->index, d->properties.name, found);
}

static int take_lane(struct device *d, struct lane *l, struct err *e)
{
    int rc =
        GPU_TRY(cudaHostAlloc((void **)&l->host_input, d->input_bytes, cudaHostAllocDefault), e);
    if (rc == 0)
        rc = GPU_TRY(
            cudaHostAlloc((void **)&l->host_output, d->output_bytes, cudaHostAllocDefault), e);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc((void **)&l->input, d->input_bytes), e);
    if (rc == 0)
        rc = GPU_TRY(cudaEventCreateWithFlags(&l->computed, cudaEventDisableTiming), e);
    if (rc == 0)
        rc = GPU_TRY(
            cudaEventCreateWithFlags(&l->done, cudaEventBlockingSync | cudaEventDisableTiming), e);
    return rc;
}

static int take_arena(struct device *d, struct err *e)
{
    size_t free_bytes = 0, total = 0;
    if (cudaMalloc((void **)&d->arena, d->arena_bytes) == cudaSuccess)
        return GPU_TRY(cudaMemsetAsync(d->arena, 0, d->arena_bytes, d->compute), e);
    cudaMemGetInfo(&free_bytes, &total);
    return err_set(e, ASSAY_EUNSUPPORTED,
        "GPU %d: activations and KV cache need %zu MiB, %zu of %zu MiB are free: lower --kv-cache, "
        "--max-batch-tokens or --max-len, or use more ranks",
        d->index, d->arena_bytes >> 20, free_bytes >> 20, total >> 20);
}

static int take_progress(struct device *d, struct err *e)
{
    int rc =
        GPU_TRY(cudaHostAlloc((void **)&d->progress, sizeof *d->progress, cudaHostAllocMapped), e);
    if (rc != 0)
        return rc;
    *d->progress = 0;
    return GPU_TRY(cudaHostGetDevicePointer((void **)&d->progress_device, d->progress, 0), e);
}

static int take_memory(struct device *d, struct err *e)
{
    int rc = GPU_TRY(cudaStreamCreateWithFlags(&d->compute, cudaStreamNonBlocking), e);
    if (rc == 0)
        rc = GPU_TRY(cudaStreamCreateWithFlags(&d->copy, cudaStreamNonBlocking), e);
    if (rc == 0)
        rc = GPU_TRY(cudaStreamCreateWithFlags(&d->report, cudaStreamNonBlocking), e);
    if (rc == 0)
        rc = GPU_TRY(cudaEventCreateWithFlags(&d->copied, cudaEventDisableTiming), e);
    if (rc == 0)
        rc = take_progress(d, e);
    for (int i = 0; rc == 0 && i < GPU_LANES; i++)
        rc = take_lane(d, &d->lanes[i], e);
    return rc == 0 ? take_arena(d, e) : rc;
}

static int device_open(struct device **out, const struct device_options *o, struct err *e)
{
    struct device *d = xcalloc(1, sizeof *d);
    *out = d;
    d->arena_bytes = o->arena_bytes;
    d->input_bytes = o->input_bytes > GPU_ALIGNMENT ? o->input_bytes : GPU_ALIGNMENT;
    d->output_bytes = o->output_bytes > 0 ? o->output_bytes : 1;
    d->shapes_only = o->shapes_only;
    d->bump = o->bump;
    d->bump_arg = o->bump_arg;
    d->comm = o->comm && comm_size(o->comm) > 1 ? o->comm : NULL;
    d->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (d->done_fd < 0)
        return err_errno(e, ASSAY_EIO, "GPU: no event descriptor");
    int rc = choose_device(d, o->gpu, e);
    if (rc == 0)
        rc = check_quant(d, o->quant, e);
    if (rc == 0)
        rc = check_heads(d, o->head_dim, e);
    if (rc == 0)
        rc = take_memory(d, e);
    if (rc == 0)
        rc = gemm_new(&d->gemm, d, o, e);
    if (rc == 0 && d->comm)
        rc = comm_nccl_new(&d->comm_nccl, d, o, e);
    return rc == 0 ? self_check(d, o, e) : rc; /* last: ranks wait for each other before */
}

static void free_lane(struct lane *l)
{
    cudaFreeHost(l->host_input);
    cudaFreeHost(l->host_output);
    cudaFree(l->input);
    if (l->computed)
        cudaEventDestroy(l->computed);
    if (l->done)
        cudaEventDestroy(l->done);
}

/* Also closes a device that was only partly opened. */
static void device_close(struct device **out)
{
    struct device *d = *out;
    if (!d)
        return;
    comm_nccl_free(&d->comm_nccl); /* first: only this ends what waits for another rank */
    if (d->compute)
        cudaStreamSynchronize(d->compute);
    if (d->report)
        cudaStreamSynchronize(d->report);
    if (d->pinned)
        cudaHostUnregister((void *)d->pinned);
    if (d->shared)
        cudaHostUnregister(d->shared);
    gemm_free(&d->gemm);
    for (int i = 0; i < GPU_LANES; i++)
        free_lane(&d->lanes[i]);
    cudaFreeHost(d->progress);
    cudaFree(d->arena);
    cudaFree(d->weights);
    if (d->copied)
        cudaEventDestroy(d->copied);
    if (d->compute)
        cudaStreamDestroy(d->compute);
    if (d->copy)
        cudaStreamDestroy(d->copy);
    if (d->report)
        cudaStreamDestroy(d->report);
    if (d->done_fd >= 0)
        close(d->done_fd);
    free(d);
    *out = NULL;
}

static void device_describe(const struct device *d, char *text, size_t bytes)
{
    snprintf(text, bytes, "cuda:%d (%.40s)", d->index, d->properties.name);
}

static void device_identity(const struct device *d, char *text, size_t bytes)
{
    snprintf(text, bytes, "cuda arithmetic=%d gpu=\"%.60s\" gemm=%016llx", GPU_ARITHMETIC,
        d->properties.name, (unsigned long long)gemm_table_hash(d->gemm));
}

/* ---- memory ---- */

static void *device_alloc(struct device *d, size_t bytes)
{
    size_t wanted = gpu_aligned(bytes);
    if (wanted < bytes || wanted > d->arena_bytes - d->arena_used)
        return NULL;
    void *at = d->arena + d->arena_used;
    d->arena_used += wanted;
    return at;
}

/* Copies through pinned memory, piece by piece; only while the model is built. */
static void device_upload(struct device *d, void *to, const void *from, size_t bytes)
{
    struct lane *l = &d->lanes[0];
    assert(d->in_flight == 0);
    for (size_t at = 0; at < bytes; at += d->input_bytes) {
        size_t n = bytes - at < d->input_bytes ? bytes - at : d->input_bytes;
        memcpy(l->host_input, (const char *)from + at, n);
        GPU_MUST(
            cudaMemcpyAsync((char *)to + at, l->host_input, n, cudaMemcpyHostToDevice, d->compute));
        GPU_MUST(cudaStreamSynchronize(d->compute));
    }
}

static int device_pin(struct device *d, const void *from, size_t bytes)
{
    int read_only = 0;
    GPU_MUST(
        cudaDeviceGetAttribute(&read_only, cudaDevAttrHostRegisterReadOnlySupported, d->index));
    if (!read_only ||
        cudaHostRegister((void *)from, bytes, cudaHostRegisterReadOnly) != cudaSuccess) {
        log_info("event=not_pinned reason=unsupported");
        return 0;
    }
    d->pinned = from;
    d->pinned_bytes = bytes;
    return 1;
}

static int device_share(struct device *d, void *host, size_t bytes, struct err *e)
{
    int rc = GPU_TRY(cudaHostRegister(host, bytes, cudaHostRegisterDefault), e);
    if (rc == 0)
        d->shared = host;
    return rc == 0 ? 0 : ASSAY_EUNSUPPORTED;
}

/* ---- batches ---- */

static struct lane *open_lane(struct device *d)
{
    return &d->lanes[(d->first_lane + d->in_flight) % GPU_LANES];
}

/* The lane's last batch was polled, so nothing reads its memory any more. */
static void device_begin(struct device *d)
{
    assert(d->in_flight < GPU_LANES);
    open_lane(d)->used = 0;
}

static int is_pinned(const struct device *d, const void *host, size_t bytes)
{
    const char *at = host, *from = d->pinned;
    return from && at >= from && at + bytes <= from + d->pinned_bytes;
}

static const void *device_push(struct device *d, const void *host, size_t bytes)
{
    struct lane *l = open_lane(d);
    size_t at = l->used;
    if (bytes > d->input_bytes - at)
        die(70, "event=input_too_large bytes=%zu room=%zu", bytes, d->input_bytes - at);
    if (!is_pinned(d, host, bytes)) {
        memcpy(l->host_input + at, host, bytes);
        host = l->host_input + at;
    }
    GPU_MUST(cudaMemcpyAsync(l->input + at, host, bytes, cudaMemcpyHostToDevice, d->copy));
    d->copies_pending = 1;
    l->used = gpu_aligned(at + bytes) < d->input_bytes ? gpu_aligned(at + bytes) : d->input_bytes;
    return l->input + at;
}

/* The rows, to host memory or from there, where they follow each other without gaps. */
static void copy_rows(
    struct device *d, void *to, const void *from, struct tensor rows, enum cudaMemcpyKind kind)
{
    size_t size = (size_t)dtype_bytes(rows.dtype), width = (size_t)rows.cols * size,
           stride = (size_t)rows.stride * size;
    int out = kind == cudaMemcpyDeviceToHost;
    if (rows.rows > 0)
        GPU_MUST(cudaMemcpy2DAsync(to, out ? width : stride, from, out ? stride : width, width,
            (size_t)rows.rows, kind, gpu_stream(d)));
}

static void device_copy_out(struct device *d, void *to, struct tensor from)
{
    copy_rows(d, to, from.data, from, cudaMemcpyDeviceToHost);
}

static void device_copy_in(struct device *d, struct tensor to, const void *from)
{
    copy_rows(d, to.data, from, to, cudaMemcpyHostToDevice);
}

/* Runs on one of the driver's threads. */
static void wake(void *arg)
{
    struct device *d = arg;
    uint64_t one = 1;
    if (write(d->done_fd, &one, sizeof one) < 0)
        die(GPU_EXIT_ERROR, "event=wake_failed errno=%d", errno);
}

/* The last event is recorded after the wake-up call, so that when poll sees the event, the
 * descriptor is readable and poll can empty it. The call is not in the compute stream, where the
 * next batch would wait for the host. */
static void device_finish(struct device *d, void *to, const void *from, size_t bytes)
{
    struct lane *l = open_lane(d);
    cudaStream_t stream = gpu_stream(d);
    if (bytes > d->output_bytes)
        die(70, "event=output_too_large bytes=%zu room=%zu", bytes, d->output_bytes);
    l->to = to;
    l->output_bytes = bytes;
    GPU_MUST(cudaMemcpyAsync(l->host_output, from, bytes, cudaMemcpyDeviceToHost, stream));
    GPU_MUST(cudaEventRecord(l->computed, stream));
    GPU_MUST(cudaStreamWaitEvent(d->report, l->computed, 0));
    GPU_MUST(cudaLaunchHostFunc(d->report, wake, d));
    GPU_MUST(cudaEventRecord(l->done, d->report));
    d->in_flight++;
}

static int device_poll(struct device *d, int wait)
{
    struct lane *l = &d->lanes[d->first_lane];
    uint64_t one;
    if (d->in_flight == 0)
        return 0;
    cudaError_t rc = wait ? cudaEventSynchronize(l->done) : cudaEventQuery(l->done);
    if (rc == cudaErrorNotReady)
        return 0;
    gpu_must(rc, "cudaEventQuery(batch)");
    if (read(d->done_fd, &one, sizeof one) < 0)
        die(70, "event=wake_missing errno=%d", errno);
    if (l->output_bytes > 0)
        memcpy(l->to, l->host_output, l->output_bytes);
    if (d->bump)
        d->bump(d->bump_arg);
    d->first_lane = (d->first_lane + 1) % GPU_LANES;
    d->in_flight--;
    return 1;
}

static int device_poll_fd(struct device *d)
{
    return d->done_fd;
}

static uint32_t device_progress(struct device *d)
{
    return __atomic_load_n(d->progress, __ATOMIC_RELAXED);
}

const struct device_ops gpu_device_ops = {
    .in_flight = GPU_LANES,
    .open = device_open,
    .close = device_close,
    .describe = device_describe,
    .identity = device_identity,
    .alloc = device_alloc,
    .upload = device_upload,
    .prepare_weights = gpu_prepare_weights,
    .pin = device_pin,
    .share = device_share,
    .begin = device_begin,
    .push = device_push,
    .copy_out = device_copy_out,
    .copy_in = device_copy_in,
    .finish = device_finish,
    .poll = device_poll,
    .poll_fd = device_poll_fd,
    .progress = device_progress,
};
