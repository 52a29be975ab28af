/* qwen2_memory.h - what a model's tensors beside its weights take of the device: activations, the
 * KV cache, rope tables. Private to qwen2.c, but for qwen2_device_needs (qwen2.h).
 *
 * Activations in the arena, with T tokens in the batch and this rank's sizes; float32 on the CPU
 * and where marked f32, else of the activation type:
 *     residual  [T, hidden] f32           the stream that every block adds to
 *     pruned    [wanted, hidden] f32      the same, in the last layer after attention
 *     normed    [T, hidden]               its norm1 or norm2; then what o_proj or down_proj gives
 *     qkv       [T, (heads + 2 kv) dim]
 *     context   [T, heads dim]            the output of attention
 *     gate_up   [mlp_rows, 2 mlp]         some rows at a time: a long row needs no more
 *     quantized [T, hidden]               a norm of the residual, if the layers' matrices are
 *     gated     [mlp_rows, mlp]           quantized; else these two lie in normed and gate_up
 *     lora      [T, ranks of adapters] f32 what goes between the two matrices of an adapter
 *     score     [T, hidden / ranks] f32, and [P, n_labels] f32 of the P tokens that a batch
 *     pools */
#ifndef ASSAY_QWEN2_MEMORY_H
#define ASSAY_QWEN2_MEMORY_H

#include "worker/qwen2.h"

struct activations {
    int64_t max_tokens;
    struct tensor residual, pruned, normed, qkv, context, gate_up, quantized, gated, score_hidden,
        logits, lora;
};

/* Allocates all of them in the device's memory. */
int qwen2_take_memory(struct qwen2_reward_model *m, struct err *e);

#endif
