/* score.h - one batch through the model: pooling metadata, forward, pooler; or through one pipeline
 * stage of it: from the stage before, forward, to the stage after. */
#ifndef ASSAY_SCORE_H
#define ASSAY_SCORE_H

#include "schema/err.h"
#include "shm/stage.h"
#include "worker/pipeline.h"
#include "worker/pooler.h"
#include "worker/qwen2.h"

/* Starts a batch on the device: `values` holds the b->n_values scores once device_ops.poll reports
 * it done; on a pipeline stage that is not the last it stays as it is, and pipeline_sent must
 * follow then. `pipeline` leads to the other stages; NULL where there is one, or for a last stage
 * that takes what its memory has in place of the stage before. `ids` is b->ids, or a copy in pinned
 * memory; `positions` has room for b->n_tokens. ASSAY_ETOOLONG for a row longer than max_len; else
 * the errors of pooling_metadata_init and forward. */
int score_batch(struct qwen2_reward_model *m, struct pipeline *pipeline,
    const struct stage_batch *b, const int32_t *ids, int32_t *positions, float *values,
    struct err *e);

/* Finds which tokens go through adapters. The caller frees mapping->tokens, which has both lists.
 * ASSAY_EADAPTER for a number that no adapter has. */
int score_map_adapters(const struct qwen2_reward_model *m, const struct stage_batch *b,
    const struct pooling_metadata *p, struct lora_mapping *mapping, struct err *e);

/* Scores one short row of at most max_tokens and waits for it. On the last pipeline stage its
 * n_labels values are the first in `values`. Every operation and every shape of product runs
 * once, those of another stage's head excepted, for which the device chooses all the same. */
int score_canary(struct qwen2_reward_model *m, struct pipeline *pipeline, uint32_t max_tokens,
    float *values, struct err *e);

#endif
