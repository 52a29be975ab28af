/* test_pooler.c - which tokens of a packed batch are pooled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "worker/pooler.h"

#define NONE .pool.activation = ACTIVATION_NONE

/* Rows of a batch, packed, as a rank reads them from its slot. */
struct packed {
    struct stage_row rows[8];
    int32_t ids[32], positions[8];
    uint32_t cu_seqlens[9];
    struct stage_batch batch;
};

static void add(struct packed *p, struct stage_row row, const int32_t *ids, const int32_t *at)
{
    struct stage_batch *b = &p->batch;
    memcpy(p->ids + b->n_tokens, ids, row.n_tokens * sizeof *ids);
    if (row.n_positions > 0)
        memcpy(p->positions + b->n_positions, at, row.n_positions * sizeof *at);
    p->rows[b->n_rows++] = row;
    b->n_tokens += row.n_tokens;
    b->n_positions += row.n_positions;
    p->cu_seqlens[b->n_rows] = b->n_tokens;
    b->rows = p->rows;
    b->ids = p->ids;
    b->positions = p->positions;
    b->cu_seqlens = p->cu_seqlens;
}

static void test_every_pooling_in_one_batch(void **unused)
{
    static const int32_t ids[4] = {10, 9, 12, 9}, two[2] = {2, 0}, padded[1] = {1};
    static const uint32_t expected[] = {3, 4, 8, 9, 10, 11, 13, 15, 18, 16, 21, 24, 25, 26, 27};
    struct packed p = {.batch = {.n_rows = 0}};
    struct pooling_metadata m;
    struct err e = {0};
    struct stage_row row = {.n_tokens = 4, NONE, .pool.step_token = 9};
    (void)unused;
    row.pool.type = POOL_LAST, row.n_values = 1;
    add(&p, row, ids, NULL);
    row.pool.type = POOL_CLS;
    add(&p, row, ids, NULL);
    row.pool.type = POOL_ALL, row.n_values = 4;
    add(&p, row, ids, NULL);
    row.pool.type = POOL_STEP, row.n_values = 2;
    add(&p, row, ids, NULL);
    row.pool.type = POOL_POSITIONS, row.n_positions = 2;
    add(&p, row, ids, two);
    row.pool.type = POOL_LAST, row.n_positions = 1, row.n_values = 1; /* padding passed over */
    add(&p, row, ids, padded);
    row.pool.type = POOL_MEAN, row.n_positions = 0;
    add(&p, row, ids, NULL);
    assert_int_equal(pooling_metadata_init(&m, &p.batch, 1, 64, &e), 0);
    assert_int_equal(m.n_out_rows, sizeof expected / sizeof *expected);
    for (uint32_t i = 0; i < m.n_out_rows; i++)
        assert_int_equal(m.out_rows[i], expected[i]);
    pooling_metadata_release(&m);
}

/* Rows that share: what they pool of the leader's tokens is named again for each of them, in
 * order. */
static void test_shared_tokens_are_pooled_for_each_row(void **unused)
{
    static const int32_t leader[4] = {10, 9, 12, 9}, own[2] = {9, 14}, at[3] = {4, 0, 2};
    static const uint32_t expected[] = {0, 1, 2, 3, 0, 1, 2, 4, 5, 1, 6, 9, 0, 13, 0, 2, 14};
    struct packed p = {.batch = {.n_rows = 0}};
    struct pooling_metadata m;
    struct err e = {0};
    struct stage_row row = {.n_tokens = 4, NONE, .pool.step_token = 9};
    static const struct {
        uint32_t pool, n_values;
    } sharing[] = {
        {POOL_ALL, 5}, {POOL_STEP, 2}, {POOL_LAST, 1}, {POOL_CLS, 1}, {POOL_POSITIONS, 3}};
    (void)unused;
    row.pool.type = POOL_ALL, row.n_values = 4;
    add(&p, row, leader, NULL);
    for (int i = 0; i < 5; i++) { /* each its first 3 tokens and `own` */
        row = (struct stage_row){.n_tokens = 2, NONE, .pool.step_token = 9};
        row.pool.type = sharing[i].pool, row.n_values = sharing[i].n_values;
        row.n_positions = row.pool.type == POOL_POSITIONS ? 3 : 0;
        add(&p, row, own, at);
        p.rows[p.batch.n_rows - 1].n_tokens = 5;
        p.rows[p.batch.n_rows - 1].n_shared = 3;
    }
    row = (struct stage_row){.n_tokens = 1, NONE, .pool.type = POOL_CLS, .n_values = 1};
    add(&p, row, own, NULL);
    assert_int_equal(pooling_metadata_init(&m, &p.batch, 1, 17, &e), 0);
    assert_int_equal(m.n_out_rows, sizeof expected / sizeof *expected);
    assert_memory_equal(m.out_rows, expected, sizeof expected);
    pooling_metadata_release(&m);
    assert_int_equal(pooling_metadata_init(&m, &p.batch, 1, 16, &e), ASSAY_ETOOLARGE);
    pooling_metadata_release(&m);
}

static void test_counts_that_do_not_agree_are_refused(void **unused)
{
    static const int32_t ids[2] = {1, 2};
    struct err e = {0};
    const struct {
        struct stage_row row;
        int code;
    } cases[] = {
        {{.n_tokens = 2, NONE, .pool.type = POOL_LAST, .n_values = 2}, ASSAY_EFORMAT},
        {{.n_tokens = 2, NONE, .pool.type = POOL_STEP, .pool.step_token = 7}, ASSAY_ENOSTEP},
        {{.n_tokens = 2, NONE, .pool.type = POOL_POSITIONS}, ASSAY_ENOSTEP},
        {{.n_tokens = 2,
             .pool.activation = ACTIVATION_CLASS1,
             .pool.type = POOL_LAST,
             .n_values = 1},
            ASSAY_EFORMAT},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct packed p = {.batch = {.n_rows = 0}};
        struct pooling_metadata m;
        add(&p, cases[i].row, ids, NULL);
        assert_int_equal(pooling_metadata_init(&m, &p.batch, 1, 64, &e), cases[i].code);
        pooling_metadata_release(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pooling_in_one_batch),
        cmocka_unit_test(test_shared_tokens_are_pooled_for_each_row),
        cmocka_unit_test(test_counts_that_do_not_agree_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
