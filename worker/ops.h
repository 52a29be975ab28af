/* ops.h - the table of operations that the forward is written over: one implementation on the CPU
 * (worker/cpu/), one on CUDA (cuda/). The CPU one is the reference.
 *
 * Activations are row-major: a tensor is [rows, cols] with `stride` elements from row to row. On
 * the CPU they are float32. On CUDA the stream of residuals, the head and the logits are float32,
 * and what goes into and comes out of the large products has the matrices' own type (activation
 * type); sums are float32 everywhere.
 *
 * The rule that every implementation keeps: an output row's bits depend on that row's inputs alone,
 * never on how many rows there are, where it stands among them, or how many threads run. On the CPU
 * a product is one FMA chain over `in`, in order (of bfloat16 pair by pair, the second of a pair
 * first), from 0; the bias is added after. Sums over a row (norms, softmax) have a fixed order.
 *
 * A batch is: begin, push of its small arrays, the operations, finish. Calls may be asynchronous on
 * a device; only `poll` waits. Pointers that operations take (ids, positions, indices, spans) are
 * those that `push` gave. Sizes are the model's own and were checked when it was loaded; an
 * operation cannot fail because of its input. A device failure ends the process (die).
 *
 * This header is also read by C++: common subset of both. */
#ifndef ASSAY_OPS_H
#define ASSAY_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"
#include "worker/dtype.h"

/* Activations. Borrowed memory of the device's arena. */
struct tensor {
    void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
    float *scale; /* [rows] of quantized types: value = stored * scale; else NULL */
};

/* A stored matrix [rows = out, cols = in]. Borrowed: from the mapped checkpoint, and after `prepare_weights`
 * from the device. */
struct weight {
    const void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
    const float *scale; /* [rows] of quantized types, else NULL */
    enum dtype
        factors; /* the CPU's: of both sides of its products; F32, or as prepare_weights says */
};

/* Matrices that are stacked along their output, to be brought to the device as one, in `dtype`:
 * quantized there where that is F8 or I8, each row by its largest magnitude. On the CPU, products
 * with them are of bfloat16 where that is BF16. */
struct weight_stack {
    struct weight *parts;
    int n_parts;
    enum dtype dtype;
};

/* Where a row's first n tokens are in the batch: first .. first + n - 1, in a row before it which has
 * no prefix of its own. n 0: it has none. */
struct attn_prefix {
    uint32_t first, n;
};

/* Which tokens see which: everything the attention needs beside q, k, v. Arrays are host memory,
 * borrowed until the forward returns. Rows here are sequences.
 *
 * Rows that begin alike may have their common beginning in the batch once: as a row of its own, which
 * the others name as their prefix. Such a row has only the tokens behind it in the batch; their
 * positions begin at prefix.n, and they see the prefix's keys and then their own. To a row's bits it
 * is all one. */
struct attn_metadata {
    uint32_t n_rows;
    const uint32_t *cu_seqlens; /* [n_rows + 1]: row r is tokens cu_seqlens[r] .. cu_seqlens[r+1]-1
                                   of the batch */
    uint32_t max_seqlen;        /* prefixes included */
    const uint32_t *out_rows; /* tokens (indices into the batch) whose hidden states are wanted, in
                                 this order, one that is named twice twice; NULL: all */
    uint32_t n_out_rows;
    const struct attn_prefix *prefix_segments; /* [n_rows]; NULL: no row has a prefix. Only for ops
                                                  that share them. */
};

struct attention_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* of this rank */
    float scale;                            /* head_dim^-0.5 */
    uint32_t window; /* 0: causal only; else key k is visible iff k <= q and k > q - window */
};

/* What the pooler makes of logits[first .. first + n - 1] (rows): their mean over rows if `mean`,
 * then the activation (schema/pooling.h) of each row; written from values[at] on, row after row,
 * n_labels values a row, or class 1 alone. */
struct pool_span {
    uint32_t first, n;
    uint32_t mean;
    uint32_t activation;
    uint32_t at;
};

/* Rows begin at whole multiples of so many elements: 16 bytes or more. */
#define ROW_ELEMENTS 16
/* Memory of a quantized tensor has room for its rows rounded up to a multiple of this. */
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

/* The same, with rows as the arena's lie. */
static inline struct tensor tensor_shaped(void *data, enum dtype dtype, int64_t rows, int64_t cols)
{
    return tensor_of(data, dtype, rows, cols, round_up(cols, ROW_ELEMENTS));
}

static inline size_t tensor_bytes(struct tensor t)
{
    return (size_t)(t.rows * t.stride * dtype_bytes(t.dtype));
}

/* Columns [from, from + n) of a tensor, and rows [from, from + n). */
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

/* What a device is made with. `bump` is called with bump_arg after each block of work, from any
 * thread, so that a supervisor can tell a long batch from a hang; may be NULL. */
struct device_options {
    size_t arena_bytes;   /* for alloc; on the CPU address space, touched only as used */
    size_t input_bytes;   /* most that the pushes of one batch take together */
    size_t output_bytes;  /* largest finish */
    size_t reduce_bytes;  /* largest all_reduce */
    struct comm *comm;    /* borrowed; NULL: alone */
    uint32_t deadline_ms; /* longest wait for the other ranks */
    enum dtype quant;     /* F8 or I8: matrices are quantized so; F32: they are not. A device that
                             does not have it refuses to open. */
    int64_t quant_rows, quant_in, quant_out; /* largest input of their products, and longest output
                                                row */
    int shapes_only; /* prepare_weights takes shapes alone: noise stands for the matrices on CUDA, those of the
                        file on the CPU. For a run that makes the device choose its algorithms, or
                        none at all, not for scores. */
    /* the CPU's */
    int n_threads; /* at least 1 */
    const char *
        isa; /* "auto", "avx512bf16", "avx512vnni", "avx512", "avx2", "portable": all give the same bits */
    void (*bump)(void *);
    void *bump_arg;
    /* CUDA's */
    int gpu;           /* index of the device */
    uint32_t head_dim; /* a device that has no room for such heads refuses to open; 0: none are */
    const char *cache_dir; /* remembers chosen algorithms; NULL: not */
};

struct ops {
    const char *name;    /* "cpu", "cuda" */
    int typed;           /* 1: activations have the matrices' type; 0: they are float32 */
    int64_t mlp_rows;    /* rows of gate_up that are computed at a time */
    int in_flight;       /* batches that may be begun and not yet polled: 1 or 2 */
    int shares_prefixes; /* attention takes prefix_segments */

    /* ---- the device ---- */

    int (*open)(struct device **d, const struct device_options *options, struct err *e);
    void (*close)(struct device **d);
    void (*describe)(const struct device *d, char *text, size_t bytes); /* "cpu (avx2)" */
    /* What about the device makes a score's bits; equal texts, equal bits: "cpu arithmetic=3" */
    void (*identity)(const struct device *d, char *text, size_t bytes);

    /* ---- while the model is built ---- */

    /* Arena memory, zeroed, alive until the device is freed. NULL when there is not enough. */
    void *(*alloc)(struct device *d, size_t bytes);
    void (*upload)(struct device *d, void *to, const void *from, size_t bytes); /* host to device */
    /* Every matrix of the model, once: where a device has memory of its own, the stacks are copied
     * to it, each contiguous, and their parts then point there. The CPU leaves them in the file, but
     * for those that are quantized (worker/cpu/prepare_weights.c). */
    int (*prepare_weights)(struct device *d, struct weight_stack *stacks, size_t n, struct err *e);
    /* Host memory that `push` will be given parts of, and that must then stay as it is until the
     * batch was polled: 1 when the device copies straight from it, 0 when that gains nothing. */
    int (*pin)(struct device *d, const void *from, size_t bytes);

    /* ---- a batch ---- */

    void (*begin)(struct device *d);
    /* The device's own view of host memory, valid until the batch is finished. Host memory that
     * was not pinned may be used again when `finish` returns. */
    const void *(*push)(struct device *d, const void *host, size_t bytes);
    /* The batch ends with a copy of `bytes` from the device to `to`. */
    void (*finish)(struct device *d, void *to, const void *from, size_t bytes);
    /* Is the oldest batch not yet polled done, and its copy made? wait: block until it is. 1 or 0.
     * 1 ends the batch. */
    int (*poll)(struct device *d, int wait);
    /* A descriptor that becomes readable when a batch is done; -1: none, batches are done when
     * finish returns. */
    int (*poll_fd)(struct device *d);
    /* Counts up while the device works, so that a supervisor can tell a long batch from a hang. The
     * CPU has cpu_device_options.bump instead and gives 0. */
    uint32_t (*progress)(struct device *d);

    /* ---- operations ---- */

    /* out[t] = table[ids[t]], out float32; each id was checked < table->rows */
    void (*embed)(
        struct device *d, struct tensor out, const struct weight *table, const int32_t *ids);
    /* out = x * [parts stacked along out]^T (+ bias [sum of rows] in out's dtype, may be NULL).
     * x.cols == parts[i].cols. Where the parts are quantized, x is of their type, with scales, or
     * of a float type and is quantized on the way, each row by itself. */
    void (*linear)(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
        int n_parts, const void *bias);
    void (*add_bias)(struct device *d, struct tensor x, const void *bias); /* in x's dtype */
    /* If y: x += y. Then out = x * rsqrt(mean(x^2) + eps) * weight, each row. x float32; out may be
     * x or y; a quantized out gets its scales. */
    void (*rms_norm)(struct device *d, struct tensor out, struct tensor x, const struct tensor *y,
        const float *weight, float eps);
    /* norm as above of each of n_heads stretches of head_dim in x's row, in place; weight
     * [head_dim] */
    void (*head_norm)(
        struct device *d, struct tensor x, uint32_t n_heads, const float *weight, float eps);
    /* rotate_half on each of n_heads stretches of head_dim, in place. cos, sin: [max_position,
     * head_dim/2] tables */
    void (*rope)(struct device *d, struct tensor x, uint32_t n_heads, uint32_t head_dim,
        const int32_t *positions, const float *cos_table, const float *sin_table);
    /* Once a batch, before the first attention: whatever the device wants to know of `meta`. */
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

/* What activations are of where products are of `type`. */
static inline enum dtype ops_activations(const struct ops *ops, enum dtype type)
{
    return ops->typed ? type : DTYPE_F32;
}

extern const struct ops cpu_ops;
extern const struct ops gpu_ops; /* cuda/ops.c; only in programs linked with it */

#endif
