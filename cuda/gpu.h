/* gpu.h - inside of cuda/: the device, and how a failed call ends the process.
 *
 * Two streams. Everything is computed on `compute`, in order; a batch's small inputs are copied on
 * `copy`, so that those of the next batch arrive while one is computed. Two lanes, used by turns,
 * hold a batch's inputs (pinned host memory and the device's copy) and its results. Activations
 * are one arena, used by all batches in the compute stream's order. */
#ifndef ASSAY_CUDA_GPU_H
#define ASSAY_CUDA_GPU_H

#include <cuda_runtime_api.h>
#include <stdio.h>

#include "cuda/kernels.h"
#include "worker/comm.h"
#include "worker/ops.h"

/* Exit code after a CUDA, cuBLAS or NCCL error: the broker restarts the group and runs the rows
 * again. */
#define GPU_EXIT_ERROR 74

#define GPU_LANES 2
#define GPU_ALIGNMENT 256

struct lane {
    uint8_t *host_input, *input; /* pinned; the device's */
    size_t used;
    uint8_t *host_output; /* pinned */
    void *to;             /* where the results go */
    size_t output_bytes;
    cudaEvent_t done;
};

struct gemm;
struct comm_nccl;

struct device {
    int index;
    struct cudaDeviceProp properties;
    cudaStream_t compute, copy;
    uint8_t *arena, *weights;
    size_t arena_bytes, arena_used, input_bytes, output_bytes;
    struct lane lanes[GPU_LANES];
    uint32_t first_lane, in_flight; /* lanes[(first_lane + i) % GPU_LANES] are not polled yet */
    cudaEvent_t copied;
    int copies_pending; /* pushed since compute last waited for `copied` */
    const void *pinned; /* host memory that pushes read from directly */
    size_t pinned_bytes;
    const struct attention_tile *tiles; /* of this batch, on the device */
    uint32_t n_tiles;
    uint32_t *progress, *progress_device; /* one counter, as the host and the device see it */
    int done_fd;
    struct gemm *gemm;
    struct comm_nccl *comm_nccl; /* NULL: alone */
    struct comm *comm;           /* borrowed; NULL: alone */
    int shapes_only;             /* device_options.shapes_only */
};

/* Prints one line of JSON: {"devices": [{index, name, uuid, capability, memory_bytes}], "error":
 * null, or why there are none, in the driver's words}. Returns the exit code. */
int gpu_list(FILE *out);

/* A call that must not fail once the device is open. */
#define GPU_MUST(call) gpu_must(call, #call)
void gpu_must(cudaError_t rc, const char *call);
/* A call while the device is made: 0, or ASSAY_EUNSUPPORTED (ENOMEM) with the driver's words. */
#define GPU_TRY(call, e) gpu_try(call, #call, e)
int gpu_try(cudaError_t rc, const char *call, struct err *e);

/* The compute stream, after it was told to wait for what has been pushed. */
cudaStream_t gpu_stream(struct device *d);

static inline size_t gpu_aligned(size_t bytes)
{
    return (bytes + GPU_ALIGNMENT - 1) / GPU_ALIGNMENT * GPU_ALIGNMENT;
}

/* Numbers from -size to size (random bytes that are no F8 NaN, for one-byte types) all over [to, to
 * + bytes), the same in every process, so that what is tried on them costs the power and time that
 * real numbers cost. Waits until they are there. */
cudaError_t gpu_fill_noise(struct device *d, void *to, size_t bytes, enum dtype type, float size);

/* What the table holds; each is described at ops.h. */
int gpu_open(struct device **d, const struct device_options *options, struct err *e);
void gpu_close(struct device **d);
void gpu_describe(const struct device *d, char *text, size_t bytes);
void gpu_identity(const struct device *d, char *text, size_t bytes);
void *gpu_alloc(struct device *d, size_t bytes);
void gpu_upload(struct device *d, void *to, const void *from, size_t bytes);
int gpu_prepare_weights(struct device *d, struct weight_stack *stacks, size_t n, struct err *e);
int gpu_pin(struct device *d, const void *from, size_t bytes);
void gpu_begin(struct device *d);
const void *gpu_push(struct device *d, const void *host, size_t bytes);
void gpu_finish(struct device *d, void *to, const void *from, size_t bytes);
int gpu_poll(struct device *d, int wait);
int gpu_poll_fd(struct device *d);
uint32_t gpu_progress(struct device *d);

#endif
