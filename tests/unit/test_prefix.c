/* test_prefix.c - which rows of a batch share their first tokens, and how the planner makes batches
 * of such rows. */
#include "tests/unit/store_fixture.h"

#include "broker/sched/planner.h"
#include "schema/request.h"

enum { MIN = PLANNER_MIN_SHARED };

/* A row's ids: stretches of `n` tokens of a `kind`; stretches of one kind at one place are the
 * same.
 * */
struct stretch {
    int kind;
    uint32_t n;
};

static uint32_t write_ids(int32_t *ids, const struct stretch *parts, int n_parts)
{
    uint32_t n = 0;
    for (int i = 0; i < n_parts; i++)
        for (uint32_t k = 0; k < parts[i].n; k++)
            ids[n++] = parts[i].kind * 10000 + (int32_t)k;
    return n;
}

static struct sequence *make_row(const struct stretch *parts, int n_parts)
{
    uint32_t n = 0;
    for (int i = 0; i < n_parts; i++)
        n += parts[i].n;
    struct sequence *r = sequence_new(n, 0);
    r->pool.type = POOL_LAST;
    r->n_values = 1;
    write_ids(r->ids, parts, n_parts);
    return r;
}

/* What stage.h says of rows that share, and that the counts are right. */
static void check_batch(const struct batch *b)
{
    uint32_t tokens = 0, owner = 0;
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const struct sequence *r = b->rows[i], *before = i ? b->rows[i - 1] : NULL;
        tokens += r->n_tokens - r->n_shared;
        if (r->n_shared == 0) {
            owner = i;
            continue;
        }
        assert_true(i > 0 && r->n_shared < r->n_tokens && r->n_shared >= b->min_shared);
        assert_true(i == owner + 1 || before->n_shared == r->n_shared);
        assert_true(r->n_shared <= b->rows[owner]->n_tokens);
        assert_memory_equal(r->ids, b->rows[owner]->ids, r->n_shared * sizeof *r->ids);
    }
    assert_int_equal(b->n_tokens, tokens);
    assert_int_equal(b->prefix_owner, owner);
}

static void add(struct batch *b, const struct stretch *parts, int n_parts)
{
    struct sequence *r = make_row(parts, n_parts);
    struct joining j = batch_try(b, r);
    batch_add(b, &r);
    assert_int_equal(b->n_tokens, j.n_tokens);
    check_batch(b);
}

static void add_two(struct batch *b, int prompt, uint32_t n, int response, uint32_t own)
{
    add(b, (struct stretch[]){{prompt, n}, {response, own}}, 2);
}

static void expect_shared(struct batch **b, const uint32_t *expected, uint32_t n)
{
    assert_int_equal((*b)->n_rows, n);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal((*b)->rows[i]->n_shared, expected[i]);
    batch_free(b);
}

static void responses_to_a_prompt(void **unused)
{
    struct batch *b = batch_new(16, MIN), *none = batch_new(16, 0);
    (void)unused;
    for (int k = 0; k < 4; k++) {
        add_two(b, 1, 100, 10 + k, 20);
        add_two(none, 1, 100, 10 + k, 20);
    }
    assert_int_equal(b->n_tokens, 100 + 4 * 20);
    assert_int_equal(none->n_tokens, 4 * 120);
    expect_shared(&b, (uint32_t[]){0, 100, 100, 100}, 4);
    expect_shared(&none, (uint32_t[]){0, 0, 0, 0}, 4);
}

/* Too little in common; the same row again: one token is its own; a row that ends in the prefix. */
static void edges_of_sharing(void **unused)
{
    struct batch *b = batch_new(16, MIN);
    (void)unused;
    add_two(b, 1, MIN - 1, 10, 5);
    add_two(b, 1, MIN - 1, 11, 5);
    add_two(b, 2, MIN, 10, 5);
    add_two(b, 2, MIN, 11, 5);
    add_two(b, 3, 60, 12, 1);
    add_two(b, 3, 60, 12, 1);
    add_two(b, 4, 1, 12, 1);
    add(b, (struct stretch[]){{4, 1}}, 1);
    add(b, (struct stretch[]){{5, MIN}}, 1);
    add(b, (struct stretch[]){{5, MIN + 1}}, 1); /* all of the owner */
    expect_shared(&b, (uint32_t[]){0, 0, 0, MIN, 0, 60, 0, 0, 0, MIN}, 10);
}

/* Prompts that all begin with the same words: each prompt's responses share the prompt, also where
 * the batch begins with the last response to another. */
static void a_common_system_prompt(void **unused)
{
    struct batch *b = batch_new(16, MIN);
    const uint32_t expected[] = {0, 0, 500, 500, 500, 0, 500, 500, 500};
    (void)unused;
    for (int k = 3; k < 12; k++)
        add(b, (struct stretch[]){{1, 40}, {2 + k / 4, 460}, {20 + k, 30}}, 3);
    expect_shared(&b, expected, 9);
    b = batch_new(16, MIN); /* single rows share the words alone */
    for (int k = 0; k < 4; k++)
        add(b, (struct stretch[]){{1, 40}, {2 + k, 460}}, 2);
    expect_shared(&b, (uint32_t[]){0, 40, 40, 40}, 4);
    b = batch_new(16, MIN); /* fewer shared tokens for all, where that is less in all */
    add(b, (struct stretch[]){{1, 90}, {2, 10}, {3, 5}}, 3);
    add(b, (struct stretch[]){{1, 90}, {2, 10}, {4, 5}}, 3);
    add(b, (struct stretch[]){{1, 90}, {5, 10}}, 2);
    expect_shared(&b, (uint32_t[]){0, 90, 90}, 3);
}

/* Whatever comes: the rules hold, and no more is computed than without sharing. */
static void any_rows(void **unused)
{
    (void)unused;
    srand(3);
    for (int turn = 0; turn < 300; turn++) {
        struct batch *b = batch_new(64, 1 + (unsigned)rand() % 40);
        uint32_t whole = 0;
        for (int k = 0; k < 30; k++) {
            struct stretch parts[3];
            for (int i = 0; i < 3; i++)
                parts[i] = (struct stretch){1 + rand() % 2, 1 + (unsigned)rand() % 40};
            add(b, parts, 3);
            whole += b->rows[k]->n_tokens;
        }
        assert_true(b->n_tokens <= whole);
        for (uint32_t at = 0, n; at < 30; at += n) { /* and hold in any part of it */
            n = 1 + (unsigned)rand() % (30 - at);
            struct batch *part = batch_new(n, b->min_shared);
            for (uint32_t i = at; i < at + n; i++)
                batch_move(part, &b->rows[i]);
            check_batch(part);
            assert_true(part->n_tokens <= b->n_tokens);
            batch_free(&part);
        }
        b->n_rows = 0;
        batch_free(&b);
    }
}

/* ---- the planner ---- */

static struct planner *plan(struct store *s, uint32_t max_tokens, uint32_t slot_tokens)
{
    struct err err;
    struct planner *p;
    struct planner_limits limits = {max_tokens, 100, 1000, 1 << 20, slot_tokens, MIN, 0};
    must(planner_new(&p, s, &limits, &err));
    return p;
}

/* A job with prompts of its own: its rows, and how many tokens they have in common, and each of its
 * own. `lines`: all responses to a prompt are one row. */
struct responses {
    const char *key;
    uint32_t prompts, responses, prompt_tokens, own;
    int pool_type, lines;
};

/* Makes it, sealed. */
static int64_t put_responses(struct store *s, const struct responses *of)
{
    struct err err;
    uint32_t responses = of->responses, len = of->prompt_tokens + of->own,
             n = of->prompts * responses, ends[64];
    int32_t *ids = calloc((size_t)n * len, sizeof *ids);
    struct store_row *rows = calloc(n, sizeof *rows);
    int64_t job = new_job(s, of->key, 0);
    for (uint32_t i = 0; i < n; i++) {
        struct stretch parts[] = {
            {(int)(1 + 100 * job + i / responses), of->prompt_tokens}, {(int)(1000 + i), of->own}};
        write_ids(ids + i * len, parts, 2);
        rows[i] = (struct store_row){.ids = ids + i * len,
            .n_tokens = len,
            .pool = {of->pool_type, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
            .n_values = of->pool_type == POOL_ALL ? len : 1};
        ends[i % 64] = (i % responses + 1) * len;
    }
    for (uint32_t i = 0; of->lines && i < of->prompts; i++) {
        rows[i] = rows[i * responses];
        rows[i].shape = ROW_RESPONSES;
        rows[i].n_tokens = rows[i].n_tokens * responses;
        rows[i].ends = ends;
        rows[i].n_parts = rows[i].n_values = responses;
    }
    n = of->lines ? of->prompts : n;
    struct store_chunk c = {.job = job, .n_rows = n, .seal = 1};
    must(store_begin(s, &err));
    assert_int_equal(must(store_add_chunk(s, &c, &err)), CHUNK_IN_ORDER);
    must(add_rows(s, job, rows, n, &err));
    must(store_commit(s, &err));
    free(ids);
    free(rows);
    return job;
}

static struct batch *next(struct planner *p)
{
    struct err err;
    struct batch *b;
    if (must(planner_next(p, planner_all(0), 1, &b, &err)) == 0)
        return NULL;
    check_batch(b);
    return b;
}

/* Finish batches until there are none: how many rows and tokens they had. */
static void run_all(struct planner *p, uint32_t *rows, uint32_t *tokens, uint32_t *batches)
{
    *rows = *tokens = *batches = 0;
    for (struct batch *b; (b = next(p)) != NULL; planner_finished(p, &b), ++*batches) {
        *rows += b->n_rows;
        *tokens += b->n_tokens;
    }
}

static void cancel(struct store *s, int64_t job)
{
    struct err err;
    must(store_begin(s, &err));
    must(store_cancel(s, job, &err));
    must(store_commit(s, &err));
}

/* Rows of their own, a row's sequences, and rows whose every token is pooled: those are counted for
 * each row. */
static void batches_hold_more_rows_that_share(void **state)
{
    static const struct {
        struct responses put;
        uint32_t budget, batches, tokens;
    } cases[] = {
        /* one prompt twice: its responses are in both */
        {{"share", 3, 8, 100, 50, POOL_LAST, 0}, 800, 2, 4 * 100 + 24 * 50},
        {{"lines", 3, 8, 100, 50, POOL_LAST, 1}, 3000, 1, 3 * 100 + 24 * 50},
        /* ten rows of 100 pooled tokens each */
        {{"all", 1, 20, 90, 10, POOL_ALL, 0}, 1000, 2, 2 * 90 + 20 * 10},
    };
    struct fixture *f = *state;
    uint32_t rows, tokens, batches;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        int64_t job = put_responses(f->s, &cases[k].put);
        struct planner *p = plan(f->s, cases[k].budget, cases[k].budget);
        run_all(p, &rows, &tokens, &batches);
        assert_int_equal(rows, cases[k].put.prompts * cases[k].put.responses);
        assert_int_equal(batches, cases[k].batches);
        assert_int_equal(tokens, cases[k].tokens);
        planner_free(&p);
        cancel(f->s, job); /* run_all leaves it queued */
    }
}

/* Prompts as long as the budget: their responses go beyond it, as far as the slot goes. */
static void a_long_prompt_goes_beyond_the_budget(void **state)
{
    struct fixture *f = *state;
    put_responses(f->s, &(struct responses){"long", 1, 60, 1000, 50, POOL_LAST, 0});
    put_responses(f->s, &(struct responses){"other", 1, 1, 30, 1, POOL_LAST, 0});
    struct planner *p = plan(f->s, 1000, 2500);
    const uint32_t expected[][2] = {{30, 2500}, {1, 31}, {30, 2500}};
    for (int i = 0; i < 3; i++) {
        struct batch *b = next(p);
        assert_int_equal(b->n_rows, expected[i][0]);
        assert_int_equal(b->n_tokens, expected[i][1]);
        planner_finished(p, &b);
    }
    assert_null(next(p));
    planner_free(&p);
    p = plan(f->s, 100, 1 << 20); /* or 16 times the shared tokens */
    struct batch *b = next(p);
    assert_int_equal(b->n_tokens, 1000 + 60 * 50);
    planner_finished(p, &b);
    planner_free(&p);
}

/* Two jobs at once: rows that share stay together, and both get on. */
static void jobs_take_turns_by_groups(void **state)
{
    struct fixture *f = *state;
    int64_t a = put_responses(f->s, &(struct responses){"a", 40, 8, 100, 10, POOL_LAST, 0}),
            seen[2] = {0, 0};
    put_responses(f->s, &(struct responses){"b", 40, 8, 100, 10, POOL_LAST, 0});
    struct planner *p = plan(f->s, 720, 720);
    uint32_t tokens = 0;
    for (int i = 0; i < 20; i++) {
        struct batch *b = next(p);
        tokens += b->n_tokens;
        for (uint32_t k = 0; k < b->n_rows; k++)
            seen[row_job(b->rows[k]->row_id) != a]++;
        planner_finished(p, &b);
    }
    assert_true(seen[0] - seen[1] <= 32 && seen[1] - seen[0] <= 32);
    assert_true(tokens / (seen[0] + seen[1]) < 30); /* 22.5 is least, 110 without sharing */
    planner_free(&p);
}

/* A row that kills its group is found among rows that share. */
static void a_culprit_among_rows_that_share(void **state)
{
    struct fixture *f = *state;
    uint32_t times[24] = {0}, blamed = 0;
    put_responses(f->s, &(struct responses){"culprit", 3, 8, 100, 10, POOL_LAST, 0});
    struct planner *p = plan(f->s, 1000, 1000);
    for (struct batch *b; (b = next(p)) != NULL;) {
        int kills = 0;
        for (uint32_t i = 0; i < b->n_rows; i++)
            kills |= row_index(b->rows[i]->row_id) == 13;
        for (uint32_t i = 0; !kills && i < b->n_rows; i++)
            times[row_index(b->rows[i]->row_id)]++;
        if (kills && planner_lost(p, &b, 1) == 0)
            continue;
        blamed += kills;
        planner_finished(p, &b);
    }
    assert_int_equal(blamed, 1);
    for (uint32_t i = 0; i < 24; i++)
        assert_int_equal(times[i], i != 13);
    planner_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(responses_to_a_prompt),
        cmocka_unit_test(edges_of_sharing),
        cmocka_unit_test(a_common_system_prompt),
        cmocka_unit_test(any_rows),
        cmocka_unit_test_setup_teardown(batches_hold_more_rows_that_share, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_prompt_goes_beyond_the_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(jobs_take_turns_by_groups, setup, teardown),
        cmocka_unit_test_setup_teardown(a_culprit_among_rows_that_share, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
