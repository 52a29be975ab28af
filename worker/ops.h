/* ops.h - the table of operations that the forward is written over: one implementation on the CPU
 * (worker/cpu/), one on CUDA (cuda/). The CPU one is the reference.
 *
 * Activations are float32, row-major: a tensor is [rows, cols] with `stride` elements from row to
 * row. Weights stay as stored, [out, in] views into the mapped file (or its copy on the device),
 * and are widened on use.
 *
 * The rule that every implementation keeps: an output row's bits depend on that row's inputs alone,
 * never on how many rows there are, where it stands among them, or how many threads run. A product
 * is one FMA chain over `in`, in order, from 0; the bias is added after. Sums over a row (norms,
 * softmax) have a fixed order.
 *
 * Calls may be asynchronous on a device; `sync` waits. Sizes are the model's own and were checked
 * when it was loaded; an operation cannot fail because of its input. A device failure ends the
 * process (die).
 *
 * This header is also read by nvcc: common subset of C and C++. */
#ifndef ASSAY_OPS_H
#define ASSAY_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

/* float32 activations. Borrowed memory of the device's arena. */
struct tensor {
    float *data;
    int64_t rows, cols, stride;
};

/* A stored matrix [rows = out, cols = in], or a vector (rows = 1). Borrowed from the mapped
 * checkpoint. */
struct weight {
    const void *data;
    enum dtype dtype;
    int64_t rows, cols, stride;
};

/* Which tokens see which: everything the attention needs beside q, k, v. All arrays are host
 * memory, borrowed for the call. Rows here are sequences. */
struct attn_metadata {
    uint32_t n_rows;
    const uint32_t *cu_seqlens; /* [n_rows + 1]: row r is tokens cu_seqlens[r] .. cu_seqlens[r+1]-1
                                   of the batch */
    uint32_t max_seqlen;
    const uint32_t *out_rows; /* tokens (indices into the batch, ascending) whose hidden states are
                                 wanted; NULL: all */
    uint32_t n_out_rows;
    const void *prefix_segments; /* shared K/V ranges: not built, must be NULL */
};

struct attention_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* of this rank */
    float scale;                            /* head_dim^-0.5 */
    uint32_t window; /* 0: causal only; else key k is visible iff k <= q and k > q - window */
};

struct device; /* one per process: threads or a stream, arena, communicator */

struct ops {
    const char *name; /* "cpu", "cuda" */
    /* Arena memory for activations, zeroed, alive until the device is freed. Called only while the
     * model is built. NULL when there is not enough. */
    void *(*alloc)(struct device *d, size_t bytes);
    void (*upload)(struct device *d, void *to, const void *from, size_t bytes); /* host to device */
    void (*download)(
        struct device *d, void *to, const void *from, size_t bytes); /* device to host, then sync */
    void (*sync)(struct device *d);

    /* out[t] = table[ids[t]]; ids are host memory, each checked < table->rows by the caller */
    void (*embed)(
        struct device *d, struct tensor out, const struct weight *table, const int32_t *ids);
    /* out = x * [parts stacked along out]^T (+ bias, f32 [sum of rows], may be NULL). x->cols ==
     * parts[i].cols. */
    void (*linear)(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
        int n_parts, const float *bias);
    void (*add_bias)(struct device *d, struct tensor x, const float *bias);
    void (*add)(struct device *d, struct tensor x, struct tensor y); /* x += y */
    /* out = x * rsqrt(mean(x^2) + eps) * weight, each row; out may be x */
    void (*rms_norm)(
        struct device *d, struct tensor out, struct tensor x, const float *weight, float eps);
    /* the same for each of n_heads stretches of head_dim in x's row, in place; weight [head_dim] */
    void (*head_norm)(
        struct device *d, struct tensor x, uint32_t n_heads, const float *weight, float eps);
    /* rotate_half on each of n_heads stretches of head_dim, in place. cos, sin: [max_position,
     * head_dim/2] tables */
    void (*rope)(struct device *d, struct tensor x, uint32_t n_heads, uint32_t head_dim,
        const int32_t *positions, const float *cos_table, const float *sin_table);
    /* out [T, n_heads*head_dim] from q [T, n_heads*head_dim], k and v [T, n_kv_heads*head_dim],
     * softmax in float */
    void (*attention)(struct device *d, struct tensor out, struct tensor q, struct tensor k,
        struct tensor v, const struct attention_shape *shape, const struct attn_metadata *meta);
    void (*silu_mul)(struct device *d, struct tensor out, struct tensor gate,
        struct tensor up); /* out = silu(gate)*up; out may be gate */
    void (*relu)(struct device *d, struct tensor x);
    void (*softmax)(struct device *d, struct tensor x); /* over cols, each row, in place */
    void (*sigmoid)(struct device *d, struct tensor x);
    void (*gather)(struct device *d, struct tensor out, struct tensor x,
        const uint32_t *rows); /* out[i] = x[rows[i]]; host indices */
    /* out[r] = mean of x[first[r] .. first[r+1]-1], summed in order; host indices, out->rows + 1 of
     * them */
    void (*mean)(struct device *d, struct tensor out, struct tensor x, const uint32_t *first);
    /* sum over the group's ranks in rank order, same bits on every rank; nothing when alone */
    void (*all_reduce)(struct device *d, struct tensor x);
};

/* CPU device. `comm` (comm.h) may be NULL: alone. `bump` is called with bump_arg after each block
 * of work, from any thread, so that a supervisor can tell a long batch from a hang; may be NULL. */
struct comm;
struct cpu_device_options {
    int n_threads;      /* at least 1 */
    const char *isa;    /* "auto", "avx2", "portable": all give the same bits */
    size_t arena_bytes; /* address space for alloc; touched only as used */
    struct comm *comm;
    void (*bump)(void *);
    void *bump_arg;
};
int cpu_device_new(struct device **d, const struct cpu_device_options *options, struct err *e);
void cpu_device_free(struct device **d);
const char *cpu_device_isa(const struct device *d); /* the one chosen */
extern const struct ops cpu_ops;

#endif
