/* pipeline_fixture.h - a pipeline's stages in one process, one after the other, through the segment
 * that ranks use. Included by one test program each. */
#ifndef ASSAY_TESTS_PIPELINE_FIXTURE_H
#define ASSAY_TESTS_PIPELINE_FIXTURE_H

#include "tests/unit/model_fixture.h"

#include "worker/pipeline.h"

#define MOST_STAGES 4

static const struct ops *chain_ops = &cpu_ops;

struct chain {
    uint32_t n;
    struct scorer stages[MOST_STAGES];
    struct pipeline *pipelines[MOST_STAGES];
    uint64_t sequence;
};

static void chain_open(struct chain *c, const char *name, uint32_t n)
{
    struct err e = {0};
    memset(c, 0, sizeof *c);
    c->n = n;
    for (uint32_t i = 0; i < n; i++)
        scorer_open_rank(
            &c->stages[i], chain_ops, name, "auto", 1, (struct scorer_rank){-1, 0, 1, i, n});
    uint32_t hidden = c->stages[0].model.config.hidden_size;
    int fd = n > 1 ? stage_segment_new(stage_pipeline_bytes(n, MAX_TOKENS, hidden), &e) : 0;
    die_on(fd < 0 ? fd : 0, &e);
    for (uint32_t i = 0; i < n; i++) {
        const struct scorer *s = &c->stages[i];
        struct pipeline_options o = {.n_ranks = 1,
            .pp_rank = i,
            .n_pp_ranks = n,
            .max_tokens = MAX_TOKENS,
            .hidden_size = hidden,
            .type = ops_activations(s->ops, s->model.config.activation_type),
            .deadline_ms = 1000,
            .ops = s->ops->device,
            .device = s->device};
        die_on(pipeline_new(&c->pipelines[i], fd, &o, &e), &e);
    }
    if (n > 1)
        close(fd);
}

/* The batch through all stages. Stages that are not the last leave `values` alone. */
static void chain_score(struct chain *c, struct stage_batch *b, float *values)
{
    static int32_t positions[MAX_TOKENS];
    static float untouched[1];
    struct err e = {0};
    b->token.sequence = ++c->sequence;
    for (uint32_t i = 0; i < c->n; i++) {
        struct scorer *s = &c->stages[i];
        die_on(score_batch(&s->model, c->pipelines[i], b, b->ids, positions,
                   i + 1 == c->n ? values : untouched, &e),
            &e);
        assert_int_equal(s->ops->device->poll(s->device, 1), 1);
        if (i + 1 < c->n)
            pipeline_sent(c->pipelines[i]);
    }
}

static void chain_close(struct chain *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        scorer_close(&c->stages[i]);
        pipeline_free(&c->pipelines[i]);
    }
}

#endif
