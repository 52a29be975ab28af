/* ops.h - the table of operations that the forward pass uses. The CPU implementation (worker/cpu/)
 * is the reference; cuda/ has the one for GPUs. A table includes its device's (device.h).
 *
 * On the CPU activations are float32. On CUDA the residual stream, the head and the logits are
 * float32, and the large products' inputs and outputs have the matrices' own type (the activation
 * type); sums are float32 everywhere.
 *
 * Every implementation is batch invariant: an output row's bits depend on that row's inputs alone,
 * never on the number of rows, the row's position, or the number of threads. On the CPU a product
 * is one FMA chain over `in`, in order, from 0 (in bfloat16 pair by pair, the second of a pair
 * first); the bias is added after it. Sums over a row (norms, softmax) have a fixed order.
 *
 * Array arguments (ids, positions, indices, spans) are pointers that `push` returned. Sizes were
 * checked when the model was loaded; an operation cannot fail because of its input.
 *
 * C++ includes this header too: use only the common subset. */
#ifndef ASSAY_OPS_H
#define ASSAY_OPS_H

#include "worker/device.h"

/* The location of n tokens of a row in the batch: first .. first + n - 1, in an earlier row that
 * has no prefix itself. They are the row's first tokens, or those after its cached ones. n 0: no
 * prefix. */
struct attn_prefix {
    uint32_t first, n;
};

/* Keys and values that are kept from batch to batch lie in blocks of this many tokens. A slot is a
 * token's place: block * KV_BLOCK_TOKENS + its place in the block. */
#define KV_BLOCK_TOKENS 16

/* The blocks of a row's first n_tokens, whole blocks of them. n_tokens 0: nothing is cached. */
struct attn_block_table {
    const uint32_t *blocks; /* [n_tokens / KV_BLOCK_TOKENS] */
    uint32_t n_tokens;
};

/* n tokens of the batch, from `token` on, are kept in slots from `slot` on, all of one block. */
struct kv_slots {
    uint32_t token, slot, n;
};

/* Which tokens see which: everything that attention needs beside q, k, v. Arrays are host memory,
 * borrowed until the forward pass returns. Rows here are sequences.
 *
 * Rows with a common beginning may share it: the beginning is in the batch once, as part of the
 * prefix owner, and the other rows name it as their prefix. Such a row has only its remaining
 * tokens in the batch; their positions begin at prefix.n, and they see the prefix's keys before
 * their own. Sharing does not change a row's bits.
 *
 * Keys and values of a row's first tokens may also be cached: computed by an earlier batch. Then
 * the row's tokens, or those of the prefix that it names, begin after them. A prefix and the rows
 * that name it have the same cached tokens. */
struct attn_metadata {
    uint32_t n_rows;
    const uint32_t *cu_seqlens; /* [n_rows + 1]: row r is tokens cu_seqlens[r] .. cu_seqlens[r+1]-1
                                   of the batch */
    uint32_t max_seqlen;        /* prefixes included */
    const uint32_t *out_rows; /* tokens (indices into the batch) whose hidden states are wanted, in
                                 this order; duplicates are allowed; NULL: all */
    uint32_t n_out_rows;
    const struct attn_prefix *prefix_segments;   /* [n_rows]; NULL: no row has a prefix. Only if
                                                  ops.shares_prefixes. */
    const struct attn_block_table *block_tables; /* [n_rows]; NULL: nothing is cached */
    const struct kv_slots *slot_mapping;         /* [n_slot_mapping] what of this batch is kept */
    uint32_t n_slot_mapping;
};

/* In the device's memory: cos and sin of every position and frequency, [max_position,
 * head_dim/2]. */
struct rope_tables {
    uint32_t head_dim;
    float *cos, *sin;
};

struct attention_input {
    struct tensor q;                  /* [T, n_heads*head_dim] */
    struct tensor k, v;               /* [T, n_kv_heads*head_dim] */
    struct tensor cached_k, cached_v; /* the same of all slots; for block_tables */
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

struct ops {
    const char *name;                /* "cpu", "cuda" */
    const struct device_ops *device; /* the device that the operations run on */
    int typed;           /* 1: activations have the matrices' type; 0: they are float32 */
    int64_t mlp_rows;    /* rows of gate_up computed at a time */
    int shares_prefixes; /* attention takes prefix_segments */

    /* out[t] = table[ids[t]], out float32; each id was checked < table->rows */
    void (*embed)(
        struct device *d, struct tensor out, const struct weight *table, const int32_t *ids);
    /* out = x * [parts stacked along out]^T (+ bias [sum of rows] in out's dtype, may be NULL).
     * x.cols == parts[i].cols. If the parts are quantized, x has their type, with scales, or a
     * float type, and then each row is quantized by itself. Parts may ask for inputs that are
     * rounded first (tensor.h); with is_split the ranks agree on scales, so all must call it. */
    void (*linear)(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
        int n_parts, const void *bias);
    /* Chooses, as `linear` would at its first call, for a product with one matrix [rows, cols], all
     * of this type: another rank of the group has it, and the device's identity tells of it. */
    void (*choose_linear)(
        struct device *d, enum dtype type, int64_t rows, int64_t cols, int has_bias);
    /* The products of adapters; matrices and sums are float32 whatever the type of activations. An
     * element is one chain over x.cols, in order, on GPUs too.
     * linear_narrow: out = x * [parts stacked along out]^T, out float32, x as linear takes it; the
     * parts lie anywhere.
     * linear_add: out += x * w^T, x float32, the chain beginning with out's value; rounded once. */
    void (*linear_narrow)(struct device *d, struct tensor out, struct tensor x,
        const struct weight *parts, int n_parts);
    void (*linear_add)(
        struct device *d, struct tensor out, struct tensor x, const struct weight *w);
    void (*add_bias)(struct device *d, struct tensor x, const void *bias); /* in x's dtype */
    /* If y: x += y. Then out = x * rsqrt(mean(x^2) + eps) * weight, each row. x float32; out may be
     * x or y; a quantized out gets its scales. */
    void (*rms_norm)(struct device *d, struct tensor out, struct tensor x, const struct tensor *y,
        const float *weight, float eps);
    /* The same norm on each of n_heads stretches of head_dim in x's rows, in place; weight
     * [head_dim] */
    void (*head_norm)(
        struct device *d, struct tensor x, uint32_t n_heads, const float *weight, float eps);
    /* rotate_half on each of n_heads stretches of head_dim, in place */
    void (*rope)(struct device *d, struct tensor x, uint32_t n_heads,
        const struct rope_tables *tables, const int32_t *positions);
    /* Called once per batch, before the first attention: lets the device prepare for `meta`. */
    void (*plan_attention)(struct device *d, const struct attn_metadata *meta);
    /* out [T, n_heads*head_dim], softmax in float */
    void (*attention)(struct device *d, struct tensor out, const struct attention_input *in,
        const struct attention_shape *shape, const struct attn_metadata *meta);
    /* out = silu(gate) * up; out may be gate; a quantized out gets its scales */
    void (*silu_mul)(struct device *d, struct tensor out, struct tensor gate, struct tensor up);
    void (*relu)(struct device *d, struct tensor x);
    /* out[i] = x[rows[i]] */
    void (*gather)(struct device *d, struct tensor out, struct tensor x, const uint32_t *rows);
    /* out[slot] = x[token], for all tokens of the n runs. Several runs may name one slot if the
     * rows are the same. */
    void (*keep)(struct device *d, struct tensor out, struct tensor x, const struct kv_slots *slots,
        uint32_t n);
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
