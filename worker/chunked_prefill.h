/* chunked_prefill.h - cuts a batch that is too large to be computed at once into batches that are
 * not, one after the other through the KV cache.
 *
 * A row that is too long goes first as its first tokens, then as more of them, each time a chunk
 * more, so that the cache has all but the last chunk when the row itself comes. Short rows go
 * together, as many as fit; where they lose their prefix owner, the first of them is there whole
 * instead. By batch invariance and the cache's own rule (reuse.h) no bit changes.
 *
 * The cache must hold the longest row: qwen2_reward_model_init sees to that before it makes the
 * activations smaller than a row. */
#ifndef ASSAY_CHUNKED_PREFILL_H
#define ASSAY_CHUNKED_PREFILL_H

#include "schema/err.h"
#include "shm/stage.h"

struct chunked_prefill {
    const struct stage_batch *whole;
    uint32_t most, n_labels; /* most: tokens of a chunk, a multiple of KV_BLOCK_TOKENS */
    uint32_t row, token;     /* the next row, and how many of its tokens were given already */
    uint32_t n_positions, n_values; /* of the rows before it */
    struct stage_batch batch;       /* the present one, with memory of its own */
    int is_part; /* it is a row's first tokens, of which no value is wanted: its pooled tokens are
                    those of its last chunk, so that the cache has their logits */
};

void chunked_prefill_init(
    struct chunked_prefill *c, const struct stage_batch *whole, uint32_t most, uint32_t n_labels);

/* Makes the next batch: 1; 0 if there is none; negative: pooling_metadata_init's errors. Values of
 * one that is not a part begin at c->n_values - c->batch.n_values of the whole batch's. */
int chunked_prefill_next(struct chunked_prefill *c, struct err *e);
void chunked_prefill_release(struct chunked_prefill *c);

#endif
