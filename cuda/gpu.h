/* gpu.h - internal to cuda/: the device, and how a failed call ends the process.
 *
 * There are three streams. Everything is computed on `compute`, in order. A batch's small inputs
 * are copied on `copy`, so that the next batch's inputs arrive while one is computed. On `report` a
 * call tells the host of each batch that is done, while the next one is computed. Two lanes, used
 * in turn, hold a batch's inputs (pinned host memory and the device's copy) and its results. All
 * batches share one arena of activations, in the compute stream's order. */
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
    void *to;             /* destination of the results */
    size_t output_bytes;
    cudaEvent_t computed, done; /* its results are there; and the host was told */
};

struct gemm;
struct comm_nccl;

/* A part of the mode: raise it with each change of the bits of scores that neither the kind of GPU
 * nor the choice of products shows. */
#define GPU_ARITHMETIC 3

struct device {
    int index;
    struct cudaDeviceProp properties;
    cudaStream_t compute, copy, report;
    uint8_t *arena, *weights;
    uint8_t *unpacked; /* in weights: one stack's matrix (packed.h); NULL: none is packed */
    size_t arena_bytes, arena_used, input_bytes, output_bytes;
    struct lane lanes[GPU_LANES];
    uint32_t first_lane, in_flight; /* lanes[(first_lane + i) % GPU_LANES] are not polled yet */
    cudaEvent_t copied;
    int copies_pending; /* pushed since compute last waited for `copied` */
    const void *pinned; /* host memory that pushes read from directly */
    size_t pinned_bytes;
    void *shared;                         /* host memory of copy_out and copy_in */
    struct attention_tiles tiles;         /* of this batch */
    uint32_t *progress, *progress_device; /* one counter, as the host and the device see it */
    int done_fd;
    void (*bump)(void *); /* device_options.bump */
    void *bump_arg;
    struct gemm *gemm;
    struct comm_nccl *comm_nccl; /* NULL: alone */
    struct comm *comm;           /* borrowed; NULL: alone */
    int shapes_only;             /* device_options.shapes_only */
};

/* Prints one line of JSON: {"devices": [{index, name, uuid, capability, memory_bytes}], "error":
 * null, or the driver's reason why there are none}. Returns the exit code. */
int gpu_list(FILE *out);

/* For a call that must not fail once the device is open. */
#define GPU_MUST(call) gpu_must(call, #call)
void gpu_must(cudaError_t rc, const char *call);
/* For a call while the device is opened: 0, or ASSAY_EUNSUPPORTED (ENOMEM) with the driver's
 * message. */
#define GPU_TRY(call, e) gpu_try(call, #call, e)
int gpu_try(cudaError_t rc, const char *call, struct err *e);

/* Returns the compute stream, after making it wait for everything that was pushed. */
cudaStream_t gpu_stream(struct device *d);

static inline size_t gpu_aligned(size_t bytes)
{
    return (bytes + GPU_ALIGNMENT - 1) / GPU_ALIGNMENT * GPU_ALIGNMENT;
}

/* Elements from row to row of a matrix in the device's memory: whole 16 bytes. */
static inline int64_t gpu_row_stride(int64_t cols, enum dtype type)
{
    int64_t size = dtype_bytes(type);
    return round_up(cols * size, 16) / size;
}

/* Fills [to, to + bytes) with numbers from -size to size (for one-byte types: random bytes that are
 * not F8's NaN), the same in every process, so that trials cost the power and time that real
 * numbers cost. Waits until they are there. */
cudaError_t gpu_fill_noise(struct device *d, void *to, size_t bytes, enum dtype type, float size);

/* Element i of memory of a type (not PACKED), on the host. */
float gpu_element(const void *data, enum dtype type, int64_t i);

extern const struct device_ops gpu_device_ops; /* worker/device.h */
/* See prepare_weights.c. */
int gpu_prepare_weights(struct device *d, struct weight_stack *stacks, size_t n, struct err *e);

#endif
