/* score.h - one batch through the model: pooling metadata, forward, pooler. */
#ifndef ASSAY_SCORE_H
#define ASSAY_SCORE_H

#include "schema/err.h"
#include "shm/stage.h"
#include "worker/qwen2.h"

/* Hand a batch to the device: the scores of b->n_values are in `values` once ops.poll says that it
 * is done. `ids` are b->ids, or the same in memory that was pinned; `positions` is room for
 * b->n_tokens. ASSAY_ETOOLONG for a row beyond max_len, else as pooling_metadata_init and forward
 * say. */
int score_batch(struct qwen2_reward_model *m, const struct stage_batch *b, const int32_t *ids,
    int32_t *positions, float *values, struct err *e);

/* Score one short row of at most max_tokens and wait for it: the first of its n_labels values are
 * in `values`. Every operation and every shape of product runs once. */
int score_canary(struct qwen2_reward_model *m, uint32_t max_tokens, float *values, struct err *e);

#endif
