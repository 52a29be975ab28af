/* batch_invariance.h - a row's bits whatever else is in its batch: each of a file's rows alone,
 * then in random batches, other rows, other order, pruned or not, in every way of the CPU to
 * compute. */
#ifndef ASSAY_TEST_BATCH_INVARIANCE_H
#define ASSAY_TEST_BATCH_INVARIANCE_H

#include "tests/unit/model_fixture.h"
#include "tests/unit/ways.h"

/* Up to `most` rows of v, as many as a batch holds: how many, and which. */
static uint32_t draw_rows(const struct vector *v, uint32_t most, uint32_t *order)
{
    uint32_t n = 0, tokens = 0, wanted = 1 + next_random() % most;
    for (; n < wanted; n++) {
        order[n] = next_random() % v->n_rows;
        tokens += v->rows[order[n]].stage.n_tokens;
        if (tokens > MAX_TOKENS)
            break;
    }
    return n;
}

static void check_batch_invariance(const char *file, int turns)
{
    static float alone[MAX_ROWS][ROW_VALUES], values[MAX_VALUES];
    struct vector v = vector_open(file);
    struct scorer s;
    scorer_open(&s, &cpu_ops, v.model, "auto", 1);
    for (uint32_t r = 0; r < v.n_rows; r++) {
        assert_true(v.rows[r].stage.n_values <= ROW_VALUES);
        score(&s, &v, &r, 1, 1, alone[r]);
    }
    scorer_close(&s);
    for (int turn = 0; turn < turns; turn++) {
        const struct way *way = &ways[turn % n_ways];
        uint32_t most =
            strcmp(way->isa, "portable") == 0 ? 3 : 20; /* it takes twenty times as long */
        uint32_t order[MAX_ROWS], n = draw_rows(&v, most, order);
        scorer_open(&s, &cpu_ops, v.model, way->isa, way->threads);
        score(&s, &v, order, n, turn % 3, values);
        assert_same_bits(&v, order, n, values, alone);
        scorer_close(&s);
    }
    vector_close(&v);
}

/* The golden values of every row, on one rank. */
UNUSED static void check_alone(const struct vector *v)
{
    static float values[MAX_VALUES];
    struct scorer s;
    count_values(v);
    scorer_open(&s, &cpu_ops, v->model, "auto", 2);
    score_all(&s, v, values);
    scorer_close(&s);
    check_values(v, values);
}

#endif
