/* kernels.h - the kernels' launchers, which cuda/ops.c (C) calls; each .cu file has one or more.
 *
 * Each launches on `stream` and returns at once: cudaSuccess, or the launch's error. Tensors,
 * vectors, tables and indices are device memory; tensors are row-major with `stride` elements from
 * row to row. The arena gives bases aligned to 256 bytes and strides of whole 16 bytes, but columns
 * taken out of a wider tensor (k, v, up) may start anywhere: a kernel uses 16-byte accesses if base
 * and stride allow, else single elements, with the same bits.
 *
 * Float types here are F32, F16, BF16 (worker/dtype.h); all arithmetic is float32, in an order that
 * depends on the row alone. No kernel uses atomics on results, and none depends on the grid's size.
 * If rows is 0, nothing is launched. */
#ifndef ASSAY_CUDA_KERNELS_H
#define ASSAY_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#include "worker/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- embed.cu ---- */

/* out[t] = table[ids[t]], out F32, table of any float type. An id outside the table (a broken
 * peer: the host checked a copy) gives a row of NaN, which the broker refuses. */
cudaError_t kernel_embed(
    cudaStream_t stream, struct tensor out, const struct weight *table, const int32_t *ids);
/* out[i] = x[rows[i]]; any dtype, same in both */
cudaError_t kernel_gather(
    cudaStream_t stream, struct tensor out, struct tensor x, const uint32_t *rows);
/* out[slot + i] = x[token + i], i < n, for each of n_slots runs of at most KV_BLOCK_TOKENS; any
 * dtype, same in both. Runs that name one slot write the same to it. */
cudaError_t kernel_keep(cudaStream_t stream, struct tensor out, struct tensor x,
    const struct kv_slots *slots, uint32_t n_slots);

/* ---- norm.cu ---- */

/* If y: x += y (x F32; y any float type). out = x * rsqrt(mean(x^2) + eps) * weight; out F32, F16,
 * BF16, or F8 / I8 with out.scale: the row's largest magnitude / 448 (/ 127), 0 becoming 1, and
 * stored = round(value / scale), to nearest even, saturating. out may be x or y (same dtype, same
 * place). progress: a counter in memory that the host sees; the first block adds 1; may be NULL. */
cudaError_t kernel_rms_norm(cudaStream_t stream, struct tensor out, struct tensor x,
    const struct tensor *y, const float *weight, float eps, uint32_t *progress);
/* each of n_heads stretches of x.cols / n_heads in a row, in place; x of a float type */
cudaError_t kernel_head_norm(
    cudaStream_t stream, struct tensor x, uint32_t n_heads, const float *weight, float eps);

/* ---- rope.cu ---- */

/* (a, b) -> (a cos - b sin, b cos + a sin) for the halves of each head, in place; x of a float
 * type */
cudaError_t kernel_rope(cudaStream_t stream, struct tensor x, uint32_t n_heads,
    const struct rope_tables *tables, const int32_t *positions);

/* ---- swiglu.cu ---- */

/* out = gate / (1 + exp(-gate)) * up. gate and up of one float type; out of that type (may be gate)
 * or F8 / I8 with scales as in kernel_rms_norm. */
cudaError_t kernel_silu_mul(
    cudaStream_t stream, struct tensor out, struct tensor gate, struct tensor up);

/* ---- pooling.cu ---- */

cudaError_t kernel_relu(cudaStream_t stream, struct tensor x); /* float types */
cudaError_t kernel_add_bias(cudaStream_t stream, struct tensor x, const void *bias); /* x's dtype */
/* Pools by struct pool_span (worker/ops.h): mean over rows in order, softmax, sigmoid, class 1.
 * logits F32. */
cudaError_t kernel_pool(cudaStream_t stream, float *values, struct tensor logits,
    const struct pool_span *spans, uint32_t n_spans);

/* ---- reduce.cu ---- */

/* out[i] = parts[0][i] + parts[1][i] + ..., in rank order, in float32. parts: [n_ranks, n], F32,
 * F16 or BF16; out: n elements of that type, perhaps one of the parts. */
cudaError_t kernel_sum_ranks(cudaStream_t stream, void *out, struct tensor parts);
/* The same with the largest of them, which are not NaN. */
cudaError_t kernel_largest_of_ranks(cudaStream_t stream, void *out, struct tensor parts);

/* ---- quant.cu ---- */

/* Matrix rows (output channels) to F8 or I8 with a scale each, as in kernel_rms_norm. */
cudaError_t kernel_quantize_rows(cudaStream_t stream, struct tensor out, struct tensor x);
/* out[t][j] = sums[t][j] * sums.scale[t] * w_scale[j] (+ bias[j] in out's dtype). sums holds int32,
 * whatever its dtype says; out a float type. */
cudaError_t kernel_dequantize(cudaStream_t stream, struct tensor out, struct tensor sums,
    const float *w_scale, const void *bias);

/* ---- round.cu ---- */

/* known[t] = the largest number of row t and the largest negated one, at least 0; NaN is left out.
 * x of a float type. */
cudaError_t kernel_measure_rows(cudaStream_t stream, float *known, struct tensor x);
/* out = x rounded to 8 bits and back as r says (worker/cpu/round_rows.c), and then to the float
 * type of both, once. known: what kernel_measure_rows found, or the largest of several ranks', for
 * whole rows only; NULL: each row's or group's own is found. */
cudaError_t kernel_round_rows(cudaStream_t stream, struct tensor out, struct tensor x,
    const struct rounding *r, const float *known);

/* ---- unpack.cu ---- */

/* The values of a packed matrix, rounded to out's float type. w's numbers, scales and the like are
 * device memory, w->packing is the host's. */
cudaError_t kernel_unpack(cudaStream_t stream, struct tensor out, const struct weight *w);

/* ---- adapters.cu ---- */

/* out = x * w^T and out += x * w^T, w F32; each element one chain of fused multiply-adds over
 * x.cols in order, rounded to out's type once. narrow: out F32, x of any type but packed (F8,
 * I8: with scales). add: x F32, out of a float type; the chain begins with out's value. */
cudaError_t kernel_linear_narrow(
    cudaStream_t stream, struct tensor out, struct tensor x, const struct weight *w);
cudaError_t kernel_linear_add(
    cudaStream_t stream, struct tensor out, struct tensor x, const struct weight *w);

/* ---- attention.cu (mma), attention_simt.cu ---- */

/* One block's work: query tokens at positions [from, from + ATTENTION_TILE_TOKENS) of a sequence of
 * `length` tokens; `from` is a multiple of ATTENTION_TILE_TOKENS. Where the token at position p
 * lies:
 *     p < cached    blocks[table + p / KV_BLOCK_TOKENS] of cached_k and cached_v (ops.h)
 *     p < prefix    token prefix_first + p of the batch, which is another sequence's
 *     else          token first + p of the batch
 * Sums are modulo 2^32, since a sequence may begin before the batch does. Only tokens from `prefix`
 * on are the sequence's own, and written. cached <= prefix < length. */
struct attention_tile {
    uint32_t first, length, from;
    uint32_t prefix_first, prefix;
    uint32_t cached, table;
};
#define ATTENTION_TILE_TOKENS 64
struct attention_tiles {
    const struct attention_tile *list; /* device memory */
    uint32_t n;
    const uint32_t *blocks; /* device memory; NULL: nothing is cached */
};
#define ATTENTION_BLOCKS_PER_SIGN 64 /* one of this many blocks shows progress */

/* Causal (and sliding-window) attention over packed sequences: one block per (tile, query head);
 * keys in tiles of 64 counted from position 0 of the sequence, online softmax in float32. q, k, v,
 * out, and what is cached, of one dtype. The tiles cover every token of the batch once, longest
 * sequences first.
 *
 * kernel_attention_mma: F16, BF16; head_dim 64, 80, 96 or 128; bases and strides of 16 bytes, also
 * of what is cached.
 * kernel_attention_simt: F32, F16, BF16; any head_dim up to 256, any alignment; also the reference
 * that the other is tested against.
 * progress: as for the norm, but some of the blocks add to it, as a long row takes seconds. */
cudaError_t kernel_attention_mma(cudaStream_t stream, struct tensor out,
    const struct attention_input *in, const struct attention_shape *shape,
    const struct attention_tiles *tiles, uint32_t *progress);
cudaError_t kernel_attention_simt(cudaStream_t stream, struct tensor out,
    const struct attention_input *in, const struct attention_shape *shape,
    const struct attention_tiles *tiles, uint32_t *progress);
/* Returns the shared memory that a block needs, to be compared with what a device has. */
size_t kernel_attention_simt_shared_bytes(uint32_t head_dim);
int kernel_attention_mma_fits(
    struct tensor out, const struct attention_input *in, const struct attention_shape *shape);

#ifdef __cplusplus
}
#endif

#endif
