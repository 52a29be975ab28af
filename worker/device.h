/* device.h - a device: what it is opened with, its memory, and batches in flight.
 * worker/cpu/device.c and cuda/device.c implement it; ops.h has the arithmetic.
 *
 * While the model is built: alloc, upload, prepare_weights, pin. Then for each batch: begin, push
 * of its small arrays, the operations (ops.h), finish. Calls may be asynchronous; only `poll`
 * waits. A device failure ends the process (die). */
#ifndef ASSAY_DEVICE_H
#define ASSAY_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"
#include "worker/tensor.h"

struct device; /* one per process: threads or streams, arena, communicator */
struct comm;   /* comm.h */

/* Options of a device. `bump` (may be NULL) is called with bump_arg after each block of work, on a
 * GPU after each batch, from any thread, so that a supervisor can tell long work from a hang. */
struct device_options {
    size_t arena_bytes;   /* for alloc; on the CPU address space, touched only as used */
    size_t input_bytes;   /* most bytes that one batch pushes */
    size_t output_bytes;  /* largest finish */
    size_t reduce_bytes;  /* largest all_reduce */
    struct comm *comm;    /* borrowed; NULL: alone */
    uint32_t deadline_ms; /* longest wait for the other ranks */
    enum dtype quant;     /* F8 or I8: the type that matrices are quantized to; F32: they are not
                             quantized. A device without that type refuses to open. */
    int64_t quant_rows, quant_in, quant_out; /* largest input of quantized products, and their
                                                longest output row */
    struct tensor rounded; /* the largest input of products whose inputs are rounded (tensor.h),
                              without memory; no rows: there are none */
    int shapes_only; /* prepare_weights uses only shapes: CUDA fills the matrices with noise, the
                        CPU keeps the file's. For runs that only make the device choose its
                        algorithms, or none at all; not for scores. */
    void (*bump)(void *);
    void *bump_arg;
    /* the CPU's */
    int n_threads; /* at least 1 */
    /* "auto", "avx512bf16", "avx512vnni", "avx512", "avx2", "portable": all give the same bits */
    const char *isa;
    /* CUDA's */
    int gpu;               /* index of the device */
    uint32_t head_dim;     /* 0: no heads; a device without room for such heads refuses to open */
    const char *cache_dir; /* where chosen algorithms are remembered; NULL: nowhere */
};

struct device_ops {
    int in_flight; /* batches that may be begun but not yet polled: 1 or 2 */

    int (*open)(struct device **d, const struct device_options *options, struct err *e);
    void (*close)(struct device **d);
    void (*describe)(const struct device *d, char *text, size_t bytes); /* "cpu (avx2)" */
    /* Whatever about the device determines a score's bits; equal texts mean equal bits: "cpu
     * arithmetic=4" */
    void (*identity)(const struct device *d, char *text, size_t bytes);

    /* ---- while the model is built ---- */

    /* Zeroed arena memory, valid until the device is closed. NULL if there is not enough. */
    void *(*alloc)(struct device *d, size_t bytes);
    void (*upload)(struct device *d, void *to, const void *from, size_t bytes); /* host to device */
    /* Takes every matrix of the model, in one call. A device with its own memory copies each stack
     * there, contiguous, and points the parts to the copy. The CPU leaves them in the file, except
     * for quantized ones (worker/cpu/prepare_weights.c). */
    int (*prepare_weights)(struct device *d, struct weight_stack *stacks, size_t n, struct err *e);
    /* Declares host memory that `push` will read from. Returns 1 if the device copies straight from
     * it, so that pushed data must not change until the batch is polled; 0 if pinning gains
     * nothing. */
    int (*pin)(struct device *d, const void *from, size_t bytes);
    /* Declares host memory for copy_out and copy_in, whole pages of it, that stays until the device
     * is closed; once. ASSAY_EUNSUPPORTED if the device cannot reach it. */
    int (*share)(struct device *d, void *host, size_t bytes, struct err *e);

    /* ---- a batch ---- */

    void (*begin)(struct device *d);
    /* Returns the device's view of host memory, valid until the batch is finished. Unpinned host
     * memory may be reused when `finish` returns. */
    const void *(*push)(struct device *d, const void *host, size_t bytes);
    /* Copies rows to shared host memory, without gaps, or from there; before finish. They are there
     * once the batch is done. What is copied in must not change until then. */
    void (*copy_out)(struct device *d, void *to, struct tensor from);
    void (*copy_in)(struct device *d, struct tensor to, const void *from);
    /* Ends the batch with a copy of `bytes` (0: none) from the device to `to`. */
    void (*finish)(struct device *d, void *to, const void *from, size_t bytes);
    /* Returns 1 if the oldest unpolled batch and its copy are done, which ends the batch; else 0.
     * With `wait`, blocks until it is done. */
    int (*poll)(struct device *d, int wait);
    /* A descriptor that becomes readable when a batch is done; -1: there is none, and a batch is
     * done when finish returns. */
    int (*poll_fd)(struct device *d);
    /* A counter that rises while the device works, so that a supervisor can tell a long batch from
     * a hang. The CPU returns 0: there device_options.bump says it. */
    uint32_t (*progress)(struct device *d);
};

#endif
