/* ops.h - the table of operations that the forward pass uses. The CPU implementation (worker/cpu/)
 * is the reference; cuda/ has the one for GPUs.
 *
 * Activations are row-major: a tensor is [rows, cols] with `stride` elements from row to row. On
 * the CPU they are float32. On CUDA the residual stream, the head and the logits are float32, and
 * the large products' inputs and outputs have the matrices' own type (the activation type); sums
 * are float32 everywhere.
 *
 * Every implementation is batch invariant: an output row's bits depend on that row's inputs alone,
 * never on the number of rows, the row's position, or the number of threads. On the CPU a product
 * is one FMA chain over `in`, in order, from 0 (in bfloat16 pair by pair, the second of a pair
 * first); the bias is added after it. Sums over a row (norms, softmax) have a fixed order.
 *
 * A batch is: begin, push of its small arrays, the operations, finish. Calls may be asynchronous;
 * only `poll` waits. Array arguments of operations (ids, positions, indices, spans) are pointers
 * that `push` returned. Sizes were checked when the model was loaded; an operation cannot fail
 * because of its input. A device failure ends the process (die).
 *
 * C++ includes this header too: use only the common subset. */
#ifndef ASSAY_OPS_H
#define ASSAY_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"
#include "worker/dtype.h"

/* Activations. The memory belongs to the device's arena. */
struct tensor {
    void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
    float *scale; /* [rows] of quantized types: value = stored * scale; else NULL */
};

/* A stored matrix [rows = out, cols = in]. Borrows its data from the mapped checkpoint, or from the
 * device after `prepare_weights`. */
struct weight {
    const void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
    const float *scale; /* [rows] of quantized types, else NULL */
    enum dtype
        factors; /* CPU only: the type of its products' factors; F32, or set by prepare_weights */
};

/* Matrices stacked along their output, which the device takes as one, in `dtype`. F8 and I8: the
 * device quantizes each row by its largest magnitude. BF16 on the CPU: products are in bfloat16. */
struct weight_stack {
    struct weight *parts;
    int n_parts;
    enum dtype dtype;
};

/* The location of a row's first n tokens in the batch: first .. first + n - 1, in an earlier row
 * that has no prefix itself. n 0: no prefix. */
struct attn_prefix {
    uint32_t first, n;
};

/* Which tokens see which: everything that attention needs beside q, k, v. Arrays are host memory,
 * borrowed until the forward pass returns. Rows here are sequences.
 *
 * Rows with a common beginning may share it: the beginning is in the batch once, as part of the
 * prefix owner, and the other rows name it as their prefix. Such a row has only its remaining
 * tokens in the batch; their positions begin at prefix.n, and they see the prefix's keys before
 * their own. Sharing does not change a row's bits. */
struct attn_metadata {
    uint32_t n_rows;
    const uint32_t *cu_seqlens; /* [n_rows + 1]: row r is tokens cu_seqlens[r] .. cu_seqlens[r+1]-1
                                   of the batch */
    uint32_t max_seqlen;        /* prefixes included */
    const uint32_t *out_rows; /* tokens (indices into the batch) whose hidden states are wanted, in
                                 this order; duplicates are allowed; NULL: all */
    uint32_t n_out_rows;
    const struct attn_prefix *prefix_segments; /* [n_rows]; NULL: no row has a prefix. Only if
                                                  ops.shares_prefixes. */
};

struct attention_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* of this rank */
    float scale;                            /* head_dim^-0.5 */
    uint32_t window; /* 0: causal only; else key k is visible iff k <= q and k > q - window */
};

/* How the pooler turns rows logits[first .. first + n - 1] into values: their mean if `mean`, then
 * each row's activation (schema/pooling.h). It writes to values[at] and on, row after row, n_labels
 * values per row, or class 1 alone. */
struct pool_span {
    uint32_t first, n;
    uint32_t mean;
    uint32_t activation;
    uint32_t at;
};

/* A row's length in memory is a multiple of this many elements: 16 bytes or more. */
#define ROW_ELEMENTS 16
/* A quantized tensor's memory has room for its rows rounded up to a multiple of this. */
#define QUANT_ROWS 32

static inline int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static inline struct tensor tensor_of(
    void *data, enum dtype dtype, int64_t rows, int64_t cols, int64_t stride)
{
    struct tensor t = {data, dtype, rows, cols, stride, NULL};
    return t;
}

/* The same, with the arena's stride. */
static inline struct tensor tensor_shaped(void *data, enum dtype dtype, int64_t rows, int64_t cols)
{
    return tensor_of(data, dtype, rows, cols, round_up(cols, ROW_ELEMENTS));
}

static inline size_t tensor_bytes(struct tensor t)
{
    return (size_t)(t.rows * t.stride * dtype_bytes(t.dtype));
}

/* Views of columns, and of rows, [from, from + n) of a tensor. */
static inline struct tensor tensor_columns(struct tensor t, int64_t from, int64_t n)
{
    t.data = (char *)t.data + from * dtype_bytes(t.dtype);
    t.cols = n;
    return t;
}

static inline struct tensor tensor_rows(struct tensor t, int64_t from, int64_t n)
{
    t.data = (char *)t.data + from * t.stride * dtype_bytes(t.dtype);
    t.rows = n;
    t.scale = t.scale ? t.scale + from : NULL;
    return t;
}

struct device; /* one per process: threads or streams, arena, communicator */
struct comm;   /* comm.h */

/* Options of a device. `bump` (may be NULL) is called with bump_arg after each block of work, from
 * any thread, so that a supervisor can tell a long batch from a hang. */
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
    int shapes_only; /* prepare_weights uses only shapes: CUDA fills the matrices with noise, the
                        CPU keeps the file's. For runs that only make the device choose its
                        algorithms, or none at all; not for scores. */
    /* the CPU's */
    int n_threads; /* at least 1 */
    const char *
        isa; /* "auto", "avx512bf16", "avx512vnni", "avx512", "avx2", "portable": all give the same bits */
    void (*bump)(void *);
    void *bump_arg;
    /* CUDA's */
    int gpu;               /* index of the device */
    uint32_t head_dim;     /* 0: no heads; a device without room for such heads refuses to open */
    const char *cache_dir; /* where chosen algorithms are remembered; NULL: nowhere */
};

struct ops {
    const char *name;    /* "cpu", "cuda" */
    int typed;           /* 1: activations have the matrices' type; 0: they are float32 */
    int64_t mlp_rows;    /* rows of gate_up computed at a time */
    int in_flight;       /* batches that may be begun but not yet polled: 1 or 2 */
    int shares_prefixes; /* attention takes prefix_segments */

    /* ---- the device ---- */

    int (*open)(struct device **d, const struct device_options *options, struct err *e);
    void (*close)(struct device **d);
    void (*describe)(const struct device *d, char *text, size_t bytes); /* "cpu (avx2)" */
    /* Whatever about the device determines a score's bits; equal texts mean equal bits: "cpu
     * arithmetic=3" */
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

    /* ---- a batch ---- */

    void (*begin)(struct device *d);
    /* Returns the device's view of host memory, valid until the batch is finished. Unpinned host
     * memory may be reused when `finish` returns. */
    const void *(*push)(struct device *d, const void *host, size_t bytes);
    /* Ends the batch with a copy of `bytes` from the device to `to`. */
    void (*finish)(struct device *d, void *to, const void *from, size_t bytes);
    /* Returns 1 if the oldest unpolled batch and its copy are done, which ends the batch; else 0.
     * With `wait`, blocks until it is done. */
    int (*poll)(struct device *d, int wait);
    /* A descriptor that becomes readable when a batch is done; -1: there is none, and a batch is
     * done when finish returns. */
    int (*poll_fd)(struct device *d);
    /* A counter that rises while the device works, so that a supervisor can tell a long batch from
     * a hang. The CPU returns 0 and calls device_options.bump instead. */
    uint32_t (*progress)(struct device *d);

    /* ---- operations ---- */

    /* out[t] = table[ids[t]], out float32; each id was checked < table->rows */
    void (*embed)(
        struct device *d, struct tensor out, const struct weight *table, const int32_t *ids);
    /* out = x * [parts stacked along out]^T (+ bias [sum of rows] in out's dtype, may be NULL).
     * x.cols == parts[i].cols. If the parts are quantized, x has their type, with scales, or a
     * float type, and then each row is quantized by itself. */
    void (*linear)(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
        int n_parts, const void *bias);
    void (*add_bias)(struct device *d, struct tensor x, const void *bias); /* in x's dtype */
    /* If y: x += y. Then out = x * rsqrt(mean(x^2) + eps) * weight, each row. x float32; out may be
     * x or y; a quantized out gets its scales. */
    void (*rms_norm)(struct device *d, struct tensor out, struct tensor x, const struct tensor *y,
        const float *weight, float eps);
    /* The same norm on each of n_heads stretches of head_dim in x's rows, in place; weight
     * [head_dim] */
    void (*head_norm)(
        struct device *d, struct tensor x, uint32_t n_heads, const float *weight, float eps);
    /* rotate_half on each of n_heads stretches of head_dim, in place. cos, sin: [max_position,
     * head_dim/2] tables */
    void (*rope)(struct device *d, struct tensor x, uint32_t n_heads, uint32_t head_dim,
        const int32_t *positions, const float *cos_table, const float *sin_table);
    /* Called once per batch, before the first attention: lets the device prepare for `meta`. */
    void (*plan_attention)(struct device *d, const struct attn_metadata *meta);
    /* out [T, n_heads*head_dim] from q [T, n_heads*head_dim], k and v [T, n_kv_heads*head_dim],
     * softmax in float */
    void (*attention)(struct device *d, struct tensor out, struct tensor q, struct tensor k,
        struct tensor v, const struct attention_shape *shape, const struct attn_metadata *meta);
    /* out = silu(gate) * up; out may be gate; a quantized out gets its scales */
    void (*silu_mul)(struct device *d, struct tensor out, struct tensor gate, struct tensor up);
    void (*relu)(struct device *d, struct tensor x);
    /* out[i] = x[rows[i]] */
    void (*gather)(struct device *d, struct tensor out, struct tensor x, const uint32_t *rows);
    /* values: float32 of the arena; logits float32 */
    void (*pool)(struct device *d, float *values, struct tensor logits,
        const struct pool_span *spans, uint32_t n_spans);
    /* sum over the group's ranks in rank order, same bits on every rank; nothing when alone */
    void (*all_reduce)(struct device *d, struct tensor x);
};

/* The type of activations if products have `type`. */
static inline enum dtype ops_activations(const struct ops *ops, enum dtype type)
{
    return ops->typed ? type : DTYPE_F32;
}

extern const struct ops cpu_ops;
extern const struct ops gpu_ops; /* cuda/ops.c; only in programs linked with it */

#endif
