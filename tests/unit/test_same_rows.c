/* test_same_rows.c - the planner and rows that are the same: who waits, who is answered, who comes
 * again. */
#include "tests/unit/store_fixture.h"

#include <sodium.h>

#include "broker/sched/planner.h"
#include "broker/store/private.h"
#include "schema/request.h"

struct planned {
    struct fixture *f;
    struct planner *p;
    struct dedupe *dedupe;
};

/* It stands still: no row is left for a later pass because the machine is slow. */
static long long no_time(void)
{
    return 1;
}

static struct planned start(void **state, uint32_t max_tokens)
{
    struct err err;
    struct planned t = {.f = *state};
    struct planner_limits limits = {max_tokens, 64, 1 << 20, 1 << 20, max_tokens, 0, 0};
    struct dedupe_options options = {
        .digest = "d", .mode = "m", .store = t.f->s, .data_dir = t.f->dir, .now_ms = no_time};
    must(planner_new(&t.p, t.f->s, &limits, &err));
    t.dedupe = dedupe_new(&options);
    planner_use_dedupe(t.p, t.dedupe);
    return t;
}

static void stop(struct planned *t)
{
    planner_free(&t->p);
    dedupe_free(&t->dedupe);
}

/* A job of n rows of 4 tokens, of which `distinct` differ: row i is the same as row i +
 * distinct. */
static int64_t plan_job(struct planned *t, const char *key, uint32_t n, uint32_t distinct)
{
    struct err err;
    int64_t job = new_job(t->f->s, key, 0);
    must(store_begin(t->f->s, &err));
    for (uint32_t i = 0; i < n; i++)
        add_row(t->f->s, job, 0, i % distinct, 4);
    must(store_commit(t->f->s, &err));
    must(planner_job_changed(t->p, job, &err));
    return job;
}

static struct batch *next(struct planned *t)
{
    struct err err;
    struct batch *b = NULL;
    must(planner_next(t->p, planner_all(0), 1, &b, &err));
    return b;
}

static struct batch *known(struct planned *t)
{
    struct err err;
    struct batch *b = NULL;
    must(planner_known(t->p, &b, &err));
    return b;
}

static uint32_t n_duplicates(const struct sequence *r)
{
    uint32_t n = 0;
    for (const struct sequence *duplicate = r->duplicates; duplicate; duplicate = duplicate->next)
        n++;
    return n;
}

/* As the broker does it; the value of a row is its second token. Returns how many rows got a
 * result. */
static uint32_t answer(struct planned *t, struct batch **b, enum row_answer kind)
{
    struct err err;
    uint32_t n = 0;
    free((*b)->values);
    (*b)->values = calloc((*b)->n_rows, sizeof(float));
    must(store_begin(t->f->s, &err));
    for (uint32_t i = 0; i < (*b)->n_rows; i++) {
        struct sequence *r = (*b)->rows[i];
        (*b)->values[i] = (float)r->ids[1];
        r->answer = kind;
        n += 1 + (kind ? n_duplicates(r) : 0);
        finish(t->f->s, r, kind == ROW_VALUES ? 0 : ASSAY_ENONFINITE);
        for (struct sequence *duplicate = r->duplicates; kind && duplicate;
             duplicate = duplicate->next)
            finish(t->f->s, duplicate, kind == ROW_VALUES ? 0 : ASSAY_ENONFINITE);
    }
    must(store_commit(t->f->s, &err));
    planner_finished(t->p, b);
    return n;
}

static void test_duplicates_in_one_batch_wait(void **state)
{
    struct planned t = start(state, 1000);
    int64_t job = plan_job(&t, "job", 30, 3);
    struct batch *b = next(&t);
    assert_int_equal(b->n_rows, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(b->rows[i]->row_id, row_id_of(job, i));
        assert_int_equal(n_duplicates(b->rows[i]), 9);
    }
    assert_null(next(&t));
    assert_null(known(&t));
    assert_int_equal(answer(&t, &b, ROW_VALUES), 30);
    assert_int_equal(job_now(t.f->s, job).done, 30);
    plan_job(&t, "other", 6, 3); /* another job's are computed */
    b = next(&t);
    assert_int_equal(b->n_rows, 3);
    answer(&t, &b, ROW_VALUES);
    stop(&t);
}

static void test_finished_ones_are_known(void **state)
{
    struct err err;
    struct planned t = start(state, 1000);
    int64_t job = plan_job(&t, "job", 3, 3);
    struct batch *b = next(&t);
    answer(&t, &b, ROW_VALUES);
    must(store_begin(t.f->s, &err));
    for (uint32_t i = 0; i < 5; i++)
        add_row(t.f->s, job, 0, i, 4); /* 3 known ones, 2 new */
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, job, &err));
    assert_null(known(&t)); /* a job's first turn is planner_next's to give */
    struct batch *new = next(&t);
    assert_int_equal(new->n_rows, 2);
    b = known(&t);
    assert_int_equal(b->n_rows, 3);
    assert_true(b->known);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(b->rows[i]->origin, ROW_COPIED);
        assert_true(b->values[i] == (float)i + 0.5f); /* as finish() says */
    }
    assert_null(known(&t)); /* given out, not known again */
    answer(&t, &b, ROW_VALUES);
    answer(&t, &new, ROW_VALUES);
    assert_int_equal(job_now(t.f->s, job).done, 8);
    stop(&t);
}

/* Without an answer the duplicates run for themselves: all at once, not one after the other. */
static void test_no_answer(void **state)
{
    struct planned t = start(state, 1000);
    int64_t job = plan_job(&t, "job", 20, 1);
    struct batch *b = next(&t);
    assert_int_equal(b->n_rows, 1);
    assert_int_equal(answer(&t, &b, ROW_NO_ANSWER), 1);
    b = next(&t);
    assert_int_equal(b->n_rows, 19);
    assert_int_equal(answer(&t, &b, ROW_VALUES), 19);
    assert_int_equal(job_now(t.f->s, job).done, 20);
    stop(&t);
}

/* An error that follows from the content is the duplicates' too, and forgotten then. */
static void test_an_error_is_answered_but_not_remembered(void **state)
{
    struct planned t = start(state, 1000);
    int64_t job = plan_job(&t, "job", 20, 1);
    struct err err;
    struct batch *b = next(&t);
    assert_int_equal(answer(&t, &b, ROW_ERROR), 20);
    assert_int_equal(job_now(t.f->s, job).failed, 20);
    must(store_begin(t.f->s, &err));
    assert_int_equal(retry_rows(t.f->s, job), 20);
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, job, &err));
    assert_null(known(&t));
    b = next(&t);
    assert_int_equal(b->n_rows, 1);
    assert_int_equal(answer(&t, &b, ROW_VALUES), 20);
    stop(&t);
}

/* A group dies under the row: its duplicates wait on, and have its result in the end. */
static void test_a_primary_is_lost(void **state)
{
    struct planned t = start(state, 1000);
    int64_t job = plan_job(&t, "job", 40, 4);
    struct batch *b = next(&t);
    assert_int_equal(planner_lost(t.p, &b, 1), 0);
    uint32_t done = 0;
    while ((b = next(&t)))
        done += answer(&t, &b, ROW_VALUES);
    assert_int_equal(done, 40);
    assert_int_equal(job_now(t.f->s, job).done, 40);
    b = NULL;
    stop(&t);
}

/* Of very many that wait only so many are held; those of other jobs go on. */
static void test_who_waits_is_bounded(void **state)
{
    enum { N = 3 * PLANNER_KNOWN_ROWS };
    struct planned t = start(state, 64);
    int64_t job = plan_job(&t, "same", N, 1), other = plan_job(&t, "other", 300, 300);
    struct batch *first = next(&t), *b;
    uint32_t others = 0, done, passes = 0;
    assert_int_equal(first->rows[0]->row_id, row_id_of(job, 0));
    assert_int_equal(n_duplicates(first->rows[0]), PLANNER_KNOWN_ROWS);
    others += first->n_rows - 1;
    while ((b = next(&t))) {
        others += b->n_rows;
        answer(&t, &b, ROW_VALUES);
    }
    assert_int_equal(others, 300);
    done = answer(&t, &first, ROW_VALUES);
    for (; (b = known(&t)); passes++) {
        assert_true(b->n_rows <= PLANNER_KNOWN_ROWS);
        done += answer(&t, &b, ROW_VALUES);
    }
    assert_int_equal(done, N + 15);
    assert_int_equal(passes, 2);
    assert_null(next(&t));
    assert_int_equal(job_now(t.f->s, job).done, N);
    assert_int_equal(job_now(t.f->s, other).done, 300);
    stop(&t);
}

/* Many known rows before one that is not: batches are filled from other jobs meanwhile, and what is
 * known costs its job nothing of its turn. */
static void test_known_rows_of_one_job_do_not_hold_up_others(void **state)
{
    struct err err;
    struct planned t = start(state, 64);
    int64_t same = plan_job(&t, "same", 1, 1);
    struct batch *b = next(&t);
    answer(&t, &b, ROW_VALUES);
    must(store_begin(t.f->s, &err));
    for (uint32_t i = 0; i < 3000; i++)
        add_row(t.f->s, same, 0, 0, 4);
    add_row(t.f->s, same, 0, 99, 4);
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, same, &err));
    int64_t other = plan_job(&t, "other", 40, 40);
    b = next(&t); /* nobody has taken what is known: it is full, and `same` stands still */
    assert_int_equal(b->n_rows, 16);
    for (uint32_t i = 0; i < b->n_rows; i++)
        assert_int_equal(row_job(b->rows[i]->row_id), other);
    answer(&t, &b, ROW_VALUES);
    for (int turn = 0; turn < 3; turn++) {
        b = known(&t);
        assert_non_null(b);
        answer(&t, &b, ROW_VALUES);
    }
    assert_null(known(&t));
    b = next(&t);
    assert_int_equal(row_index(b->rows[0]->row_id), 3001); /* its turn: it has had little */
    answer(&t, &b, ROW_VALUES);
    stop(&t);
}

static void test_cancelled_and_paused_while_duplicates_wait(void **state)
{
    struct err err;
    struct planned t = start(state, 1000);
    int64_t job = plan_job(&t, "paused", 20, 2), other = plan_job(&t, "cancelled", 20, 2);
    struct batch *b = next(&t);
    assert_int_equal(b->n_rows, 4);
    must(store_begin(t.f->s, &err));
    must(store_pause(t.f->s, job, 1, &err));
    must(store_cancel(t.f->s, other, &err));
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, job, &err));
    must(planner_job_changed(t.p, other, &err));
    must(store_pause(t.f->s, job, 0, &err)); /* and on again, while they are under way */
    must(planner_job_changed(t.p, job, &err));
    assert_null(next(&t));
    assert_null(known(&t));
    answer(&t, &b, ROW_VALUES);
    assert_null(next(&t));
    assert_int_equal(job_now(t.f->s, job).done, 20);
    assert_int_equal(job_now(t.f->s, other).done, 0);
    b = NULL;
    stop(&t);
}

/* The second of a pair is known, but there is no room for it, and then the job is paused: it runs
 * with the first, and is counted as what it is then. */
static void test_known_but_computed_after_all(void **state)
{
    struct err err;
    struct planned t = start(state, 64);
    static const int32_t ids[] = {0, 9, 7, 7, 0, 0, 7, 7};
    static const uint32_t ends[] = {4, 8};
    struct store_row pair = {.ids = ids,
        .n_tokens = 8,
        .shape = ROW_PAIR,
        .n_parts = 2,
        .ends = ends,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = 2};
    int64_t job = plan_job(&t, "job", 1, 1);
    struct batch *b = next(&t);
    answer(&t, &b, ROW_VALUES);
    must(store_begin(t.f->s, &err));
    for (uint32_t i = 0; i < PLANNER_KNOWN_ROWS; i++)
        add_row(t.f->s, job, 0, 0, 4);
    must(add_rows(t.f->s, job, &pair, 1, &err));
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, job, &err));
    b = next(&t);
    assert_int_equal(b->n_rows, 1);
    assert_int_equal(b->rows[0]->ids[1], 9);
    batch_free(&b);
    must(store_begin(t.f->s, &err));
    must(store_pause(t.f->s, job, 1, &err));
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, job, &err));
    b = next(&t);
    assert_int_equal(b->n_rows, 1);
    assert_int_equal(b->rows[0]->part, 1);
    assert_int_equal(b->rows[0]->origin, ROW_COMPUTED);
    batch_free(&b);
    b = known(&t);
    assert_int_equal(b->n_rows, PLANNER_KNOWN_ROWS);
    batch_free(&b);
    stop(&t);
}

/* What still waits, or is known, or under way, goes with the planner. */
static void test_freed_with_the_planner(void **state)
{
    struct planned t = start(state, 16);
    plan_job(&t, "job", 500, 100);
    struct batch *done = next(&t), *lost = next(&t);
    answer(&t, &done, ROW_VALUES);
    planner_lost(t.p, &lost, 0);
    done = next(&t);
    planner_lost(t.p, &done, 1);
    stop(&t);
}

/* A job of one row of n responses that are all the same. */
static int64_t plan_responses(struct planned *t, uint32_t n)
{
    struct err err;
    int32_t *ids = calloc(2 * n, sizeof *ids);
    uint32_t *ends = calloc(n, sizeof *ends);
    for (uint32_t i = 0; i < n; i++)
        ends[i] = 2 * (i + 1);
    struct store_row row = {.shape = ROW_RESPONSES,
        .ids = ids,
        .n_tokens = 2 * n,
        .ends = ends,
        .n_parts = n,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = n};
    int64_t job = new_job(t->f->s, "responses", 0);
    must(store_begin(t->f->s, &err));
    must(add_rows(t->f->s, job, &row, 1, &err));
    must(store_commit(t->f->s, &err));
    must(planner_job_changed(t->p, job, &err));
    free(ids);
    free(ends);
    return job;
}

/* Notes the value with the sequence's row, which is not finished by that. */
static void note_done(struct sequence *r, float value)
{
    r->of->values[r->part] = value;
    r->of->done[r->part] = 1;
    r->of->n_done++;
    r->answer = ROW_VALUES;
}

static int64_t pages_read(const struct planned *t)
{
    int hits = 0, misses = 0, high = 0;
    sqlite3_db_status(t->f->s->db, SQLITE_DBSTATUS_CACHE_HIT, &hits, &high, 0);
    sqlite3_db_status(t->f->s->db, SQLITE_DBSTATUS_CACHE_MISS, &misses, &high, 0);
    return (int64_t)hits + misses;
}

/* One of them is computed, some wait for it, the others take what it got: from their row, which is
 * not finished yet. The database is read a few times for each, not once for each two. */
static void test_many_equal_responses(void **state)
{
    enum { N = 4 * PLANNER_KNOWN_ROWS };
    struct planned t = start(state, 1000);
    plan_responses(&t, N);
    struct batch *b = next(&t);
    assert_int_equal(b->n_rows, 1);
    struct row *row = b->rows[0]->of;
    b->values = calloc(1, sizeof(float));
    b->values[0] = 2.5f;
    assert_int_equal(n_duplicates(b->rows[0]), PLANNER_KNOWN_ROWS);
    for (struct sequence *r = b->rows[0]->duplicates; r; r = r->next)
        note_done(r, 2.5f);
    note_done(b->rows[0], 2.5f);
    planner_finished(t.p, &b);
    int64_t before = pages_read(&t);
    while (row->n_done < N) {
        assert_null(next(&t)); /* none is computed */
        b = known(&t);
        assert_non_null(b);
        for (uint32_t i = 0; i < b->n_rows; i++) {
            assert_int_equal(b->rows[i]->origin, ROW_COPIED);
            assert_true(b->values[i] == 2.5f);
            note_done(b->rows[i], b->values[i]);
        }
        if (row->n_done == N) /* the row goes with its last sequence */
            break;
        planner_finished(t.p, &b);
    }
    assert_int_equal(row->n_done, N);
    planner_finished(t.p, &b);
    print_message("%lld pages read\n", (long long)(pages_read(&t) - before));
    assert_true(pages_read(&t) - before < N);
    stop(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_duplicates_in_one_batch_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_finished_ones_are_known, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_an_error_is_answered_but_not_remembered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_primary_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_waits_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_known_rows_of_one_job_do_not_hold_up_others, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_cancelled_and_paused_while_duplicates_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_known_but_computed_after_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_freed_with_the_planner, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_equal_responses, setup, teardown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
