/* score.c - builds a batch's metadata, and starts its forward and pooler on the device
 * (score.h). */
#include "worker/score.h"

#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define CANARY_TOKENS 8

/* The batch as attention takes it. Tokens that a prefix owner shares become a sequence of their
 * own; the rest of each row, the owner's included, becomes a sequence that has the shared one as
 * its prefix. So nothing computed for shared tokens depends on the rest of any row. */
struct sequences {
    uint32_t n, longest;          /* longest: the longest whole row */
    uint32_t *cu_seqlens;         /* [n + 1] */
    struct attn_prefix *prefixes; /* [n] */
};

static void add_sequence(struct sequences *s, uint32_t end, struct attn_prefix prefix)
{
    s->prefixes[s->n++] = prefix;
    s->cu_seqlens[s->n] = end;
}

static struct sequences cut(const struct stage_batch *b)
{
    struct sequences s = {.cu_seqlens = xcalloc(2 * (size_t)b->n_rows + 1, sizeof *s.cu_seqlens),
        .prefixes = xcalloc(2 * (size_t)b->n_rows, sizeof *s.prefixes)};
    struct attn_prefix prefix = {0, 0};
    for (uint32_t r = 0; r < b->n_rows; r++) {
        const struct stage_row *row = &b->rows[r];
        if (row->n_tokens > s.longest)
            s.longest = row->n_tokens;
        if (row->n_shared == 0) {
            uint32_t n = r + 1 < b->n_rows ? row[1].n_shared : 0;
            prefix = (struct attn_prefix){b->cu_seqlens[r], n};
            if (n > 0)
                add_sequence(&s, prefix.first + n, (struct attn_prefix){0, 0});
            if (n == row->n_tokens)
                continue;
        }
        add_sequence(&s, b->cu_seqlens[r + 1], prefix);
    }
    return s;
}

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

int score_batch(struct qwen2_reward_model *m, const struct stage_batch *b, const int32_t *ids,
    int32_t *positions, float *values, struct err *e)
{
    struct pooling_metadata pooling;
    struct lora_mapping mapping = {0};
    struct tensor hidden_states;
    uint32_t max_len = m->cache_config.max_len, max_tokens = m->cache_config.max_batch_tokens;
    int rc = pooling_metadata_init(
        &pooling, b, m->config.n_labels, max_len > max_tokens ? max_len : max_tokens, e);
    struct sequences s = cut(b);
    int shares = 0;
    for (uint32_t k = 0; k < s.n; k++) {
        for (uint32_t i = s.cu_seqlens[k]; i < s.cu_seqlens[k + 1]; i++)
            positions[i] = (int32_t)(s.prefixes[k].n + i - s.cu_seqlens[k]);
        shares |= s.prefixes[k].n > 0;
    }
    if (rc == 0 && s.longest > max_len)
        rc =
            err_set(e, ASSAY_ETOOLONG, "row of %u tokens: expected at most %u", s.longest, max_len);
    struct attn_metadata meta = {s.n, s.cu_seqlens, s.longest, pooling.out_rows, pooling.n_out_rows,
        shares ? s.prefixes : NULL};
    if (rc == 0)
        rc = score_map_adapters(m, b, &pooling, &mapping, e);
    pooling.lora = &mapping;
    if (rc == 0)
        rc = qwen2_reward_model_forward(m,
            &(struct forward_inputs){.input_ids = ids,
                .positions = positions,
                .attn_metadata = &meta,
                .lora_mapping = mapping},
            &hidden_states, e);
    if (rc == 0)
        pooler(m, hidden_states, &pooling, values);
    free((void *)mapping.tokens);
    free(s.cu_seqlens);
    free(s.prefixes);
    pooling_metadata_release(&pooling);
    return rc;
}

int score_canary(struct qwen2_reward_model *m, uint32_t max_tokens, float *values, struct err *e)
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
    int rc = score_batch(m, &b, ids, positions, values, e);
    if (rc == 0)
        m->ops->device->poll(m->device, 1);
    return rc;
}
