/* score.c - builds a batch's metadata, and starts its forward and pooler on the device, or hands it
 * on to the next pipeline stage (score.h). */
#include "worker/score.h"

#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/chunked_prefill.h"
#include "worker/reuse.h"
#include "worker/sequences.h"

#define CANARY_TOKENS 8

/* Adds a row's tokens, or what it wants of them, to the spans. */
static void add_span(
    struct lora_span *spans, uint32_t *n_spans, uint32_t first, uint32_t n, uint32_t adapter)
{
    struct lora_span *last = *n_spans > 0 ? &spans[*n_spans - 1] : NULL;
    if (adapter == 0 || n == 0)
        return;
    if (last && last->adapter == adapter && last->first + last->n == first)
        last->n += n;
    else
        spans[(*n_spans)++] = (struct lora_span){first, n, adapter};
}

int score_map_adapters(const struct qwen2_reward_model *m, const struct stage_batch *b,
    const struct pooling_metadata *p, struct lora_mapping *mapping, struct err *e)
{
    struct lora_span *spans = xcalloc(2 * (size_t)b->n_rows, sizeof *spans);
    *mapping = (struct lora_mapping){.tokens = spans, .wanted = spans + b->n_rows};
    for (uint32_t r = 0; r < b->n_rows; r++) {
        uint32_t adapter = b->rows[r].adapter, first = b->cu_seqlens[r];
        if (adapter > m->lora_config.n_adapters)
            return err_set(e, ASSAY_EADAPTER,
                "row %u of the batch: adapter: expected at most %u, found %u", r,
                m->lora_config.n_adapters, adapter);
        add_span(spans, &mapping->n_tokens, first, b->cu_seqlens[r + 1] - first, adapter);
        add_span(spans + b->n_rows, &mapping->n_wanted, p->first[r], p->first[r + 1] - p->first[r],
            adapter);
    }
    return 0;
}

/* A batch, all of it or what the KV cache does not have, and where its scores go. */
struct run {
    struct pipeline *pipeline;
    const struct stage_batch *batch;
    const int32_t *ids;
    const struct pooling_metadata *wanted; /* of these tokens */
    struct pooling_metadata *pooling;      /* of the whole batch */
    const struct reuse *reuse;             /* NULL: there is no cache */
    int32_t *positions;
    float *values;
    int is_chunk;        /* of a larger batch (chunked_prefill.h) */
    uint32_t n_computed; /* tokens of it that the KV cache did not have; 0 without one */
};

static struct attn_metadata metadata_of(const struct run *r, const struct sequences *s, int shares)
{
    struct attn_metadata meta = {.n_rows = s->n,
        .cu_seqlens = s->cu_seqlens,
        .max_seqlen = s->longest,
        .out_rows = r->wanted->out_rows,
        .n_out_rows = r->wanted->n_out_rows,
        .prefix_segments = shares ? s->prefixes : NULL};
    if (r->reuse) {
        meta.block_tables = s->tables;
        meta.slot_mapping = r->reuse->slots;
        meta.n_slot_mapping = r->reuse->n_slots;
    }
    return meta;
}

/* Ends a stage's batch: with scores, or with what the next stage goes on from. */
static int end_stage(struct qwen2_reward_model *m, const struct run *r,
    const struct intermediate_tensors *out, struct err *e)
{
    if (qwen2_is_last_stage(m)) {
        pooler(m, out->hidden_states, r->pooling, r->values);
        return 0;
    }
    int rc = pipeline_send(r->pipeline, &r->batch->token, out, e);
    if (rc == 0)
        m->ops->device->finish(m->device, r->values, out->residual.data, 0);
    return rc;
}

/* Starts forward and what follows it. */
static int run(
    struct qwen2_reward_model *m, struct run *r, const struct sequences *s, struct err *e)
{
    struct lora_mapping mapping = {0};
    struct intermediate_tensors in, out;
    int is_first = qwen2_is_first_stage(m);
    struct attn_metadata meta = metadata_of(r, s, sequences_positions(s, r->positions));
    int rc = score_map_adapters(m, r->batch, r->wanted, &mapping, e);
    r->pooling->lora = &mapping;
    r->pooling->kept = r->reuse ? &r->reuse->logits : NULL;
    if (rc == 0 && !is_first) {
        in = qwen2_reward_model_make_empty_intermediate_tensors(m, r->batch->n_tokens);
        if (r->pipeline)
            rc = pipeline_receive(r->pipeline, &r->batch->token, &in, e);
    }
    if (rc == 0)
        rc = qwen2_reward_model_forward(m,
            &(struct forward_inputs){.input_ids = r->ids,
                .positions = r->positions,
                .kv_caches = r->reuse ? &m->kv_caches : NULL,
                .attn_metadata = &meta,
                .intermediate_tensors = is_first ? NULL : &in,
                .lora_mapping = mapping},
            &out, e);
    if (rc == 0)
        rc = end_stage(m, r, &out, e);
    free((void *)mapping.tokens);
    return rc;
}

static int score_chunks(struct qwen2_reward_model *m, struct run *r, struct err *e);

/* The same for what the KV cache does not have of the batch; by chunks, if that is too much. */
static int run_rest(struct qwen2_reward_model *m, struct run *r, struct sequences *s, struct err *e)
{
    struct reuse u;
    struct run rest = *r;
    reuse_init(&u, m->kv_cache, r->batch, r->pooling, s);
    if (!r->is_chunk && u.batch.n_tokens > qwen2_reward_model_max_tokens(m)) {
        reuse_end(&u, 0);
        reuse_release(&u);
        return score_chunks(m, r, e);
    }
    rest.batch = &u.batch;
    rest.ids = u.batch.ids;
    rest.wanted = &u.wanted;
    rest.reuse = &u;
    int rc = run(m, &rest, s, e);
    reuse_end(&u, rc == 0);
    r->n_computed = u.batch.n_tokens;
    reuse_release(&u);
    return rc;
}

/* Scores a batch, or a chunk of one. */
static int score_run(struct qwen2_reward_model *m, struct run *r, struct err *e)
{
    struct pooling_metadata pooling;
    struct sequences s;
    uint32_t max_len = m->cache_config.max_len, max_tokens = m->cache_config.max_batch_tokens;
    int rc = pooling_metadata_init(
        &pooling, r->batch, m->config.n_labels, max_len > max_tokens ? max_len : max_tokens, e);
    r->wanted = r->pooling = &pooling;
    sequences_init(&s, r->batch);
    if (rc == 0 && s.longest > max_len)
        rc =
            err_set(e, ASSAY_ETOOLONG, "row of %u tokens: expected at most %u", s.longest, max_len);
    if (rc == 0)
        rc = m->kv_cache ? run_rest(m, r, &s, e) : run(m, r, &s, e);
    sequences_release(&s);
    pooling_metadata_release(&pooling);
    return rc;
}

/* Scores a batch chunk by chunk. Before each but the first the device ends its oldest batch, so in
 * the end as many are in flight as after a batch that is not cut. */
static int score_chunks(struct qwen2_reward_model *m, struct run *whole, struct err *e)
{
    struct chunked_prefill c;
    uint32_t most = qwen2_reward_model_max_tokens(m);
    chunked_prefill_init(&c, whole->batch, most, m->config.n_labels);
    int rc;
    for (int is_first = 1; (rc = chunked_prefill_next(&c, e)) > 0; is_first = 0) {
        if (!is_first)
            m->ops->device->poll(m->device, 1);
        float *values = c.is_part ? NULL : whole->values + (c.n_values - c.batch.n_values);
        struct run r = {.pipeline = whole->pipeline,
            .batch = &c.batch,
            .ids = c.batch.ids,
            .positions = whole->positions,
            .values = values,
            .is_chunk = 1};
        if ((rc = score_run(m, &r, e)) != 0)
            break;
        whole->n_computed += r.n_computed;
    }
    chunked_prefill_release(&c);
    return rc;
}

int score_batch(struct qwen2_reward_model *m, struct pipeline *pipeline,
    const struct stage_batch *b, const int32_t *ids, int32_t *positions, float *values,
    struct err *e)
{
    struct run r = {
        .pipeline = pipeline, .batch = b, .ids = ids, .positions = positions, .values = values};
    int rc = score_run(m, &r, e);
    if (rc != 0)
        return rc;
    m->tokens_given += b->n_tokens;
    m->tokens_reused += m->kv_cache && r.n_computed < b->n_tokens ? b->n_tokens - r.n_computed : 0;
    return 0;
}

int score_canary(struct qwen2_reward_model *m, struct pipeline *pipeline, uint32_t max_tokens,
    float *values, struct err *e)
{
    int32_t ids[CANARY_TOKENS], positions[CANARY_TOKENS], position = 0;
    uint32_t n = CANARY_TOKENS, cu_seqlens[2] = {0};
    if (n > m->cache_config.max_len)
        n = m->cache_config.max_len;
    if (n > max_tokens)
        n = max_tokens;
    cu_seqlens[1] = n;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i % m->config.vocab_size);
    struct stage_row row = {.n_tokens = n,
        .pool.type = POOL_LAST,
        .pool.activation = ACTIVATION_NONE,
        .n_values = m->config.n_labels};
    struct stage_batch b = {.n_rows = 1,
        .n_tokens = n,
        .n_values = row.n_values,
        .rows = &row,
        .ids = ids,
        .positions = &position};
    b.cu_seqlens = cu_seqlens;
    int rc = score_batch(m, pipeline, &b, ids, positions, values, e);
    if (rc == 0)
        m->ops->device->poll(m->device, 1);
    if (rc == 0 && !qwen2_is_last_stage(m))
        pipeline_sent(pipeline);
    if (rc == 0)
        qwen2_reward_model_choose_head(m);
    return rc;
}
