/* test_sequences.c - rows of several sequences: kept as one row, planned one by one, never lost or
 * given out twice when their job is paused in the middle; and a database of the version before
 * them. */
#include "tests/unit/store_fixture.h"

#include "broker/sched/planner.h"
#include "schema/request.h"

#define PARTS 5
#define LEN 4

/* A sealed job of one row of PARTS sequences of LEN tokens, and n plain rows behind it. */
static int64_t put_parts(struct store *s, const char *key, uint32_t n)
{
    struct err err;
    int32_t ids[PARTS * LEN], positions[PARTS];
    uint32_t ends[PARTS];
    for (uint32_t i = 0; i < PARTS * LEN; i++)
        ids[i] = (int32_t)i;
    for (uint32_t k = 0; k < PARTS; k++) {
        ends[k] = (k + 1) * LEN;
        positions[k] = (int32_t)k % LEN;
    }
    int64_t job = new_job(s, key, 0);
    struct store_row row = {.shape = ROW_RESPONSES,
        .ids = ids,
        .n_tokens = PARTS * LEN,
        .ends = ends,
        .n_parts = PARTS,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .positions = positions,
        .n_positions = PARTS,
        .n_values = PARTS};
    struct store_chunk c = {.job = job, .n_rows = n + 1, .seal = 1};
    must(store_begin(s, &err));
    assert_int_equal(must(store_add_chunk(s, &c, &err)), CHUNK_IN_ORDER);
    must(add_rows(s, job, &row, 1, &err));
    for (uint32_t k = 0; k < n; k++)
        add_row(s, job, 0, k, LEN);
    must(store_commit(s, &err));
    return job;
}

static void parts_come_one_by_one(void **state)
{
    struct fixture *f = *state;
    int64_t job = put_parts(f->s, "parts", 1);
    struct row_list list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, PARTS + 1);
    for (uint32_t k = 0; k < PARTS; k++) {
        const struct sequence *r = list.at[k];
        assert_int_equal(r->row_id, row_id_of(job, 0));
        assert_int_equal(r->part, k);
        assert_ptr_equal(r->of, list.at[0]->of);
        assert_int_equal(r->n_tokens, LEN);
        assert_int_equal(r->ids[0], k * LEN);
        assert_int_equal(r->n_positions, 1);
        assert_int_equal(r->positions[0], k % LEN);
        assert_int_equal(r->n_values, 1);
    }
    assert_null(list.at[PARTS]->of);
    assert_int_equal(list.at[0]->of->n_tokens, PARTS * LEN);
    free_rows(&list);
}

static int check_result(void *arg, const struct store_result_row *r)
{
    int *seen = arg;
    if (r->i != 0)
        return 0;
    assert_int_equal(r->shape, ROW_RESPONSES);
    assert_int_equal(r->n_values, PARTS);
    assert_int_equal(r->n_tokens, PARTS * LEN);
    assert_int_equal(r->n_pooled, PARTS);
    for (int k = 0; k < PARTS; k++) {
        assert_true(r->values[k] == (float)k * 0.5f);
        assert_int_equal(r->pooled_at[2 * k + 1], 100 + k);
    }
    ++*seen;
    return 0;
}

static void a_result_is_the_rows(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char out[200];
    int seen = 0;
    int64_t job = put_parts(f->s, "result", 0);
    struct row_list list = queued(f->s, job, 0, 10);
    struct row *line = list.at[0]->of;
    for (int k = 0; k < PARTS; k++) {
        line->values[k] = (float)k * 0.5f;
        line->pooled[2 * k + 1] = 100 + k;
    }
    line->n_pooled = PARTS;
    struct store_result result = {.values = line->values, .n_values = PARTS};
    must(store_begin(f->s, &err));
    assert_int_equal(must(store_finish_row(f->s, list.at[3], &result, &err)), 1);
    assert_int_equal(must(store_finish_row(f->s, list.at[4], &result, &err)), 0); /* not again */
    must(store_commit(f->s, &err));
    free_rows(&list);
    must(store_each_result(f->s, &(struct store_page){job, 0, 10}, check_result, &seen, &err));
    assert_int_equal(seen, 1);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    assert_int_equal(store_queued_bytes(f->s), 0);
    shell(f, "select values_json, score is null, n_tokens from results", out, sizeof out);
    assert_string_equal(out, "[0,0.5,1,1.5,2]|1|20\n");
}

static struct planner *plan(struct store *s, uint32_t max_tokens)
{
    struct err err;
    struct planner *p;
    struct planner_limits limits = {max_tokens, 100, 1000, 1000, 1000, 0, 0};
    must(planner_new(&p, s, &limits, &err));
    return p;
}

static struct batch *next(struct planner *p)
{
    struct err err;
    struct batch *b;
    return must(planner_next(p, planner_all(0), 1, &b, &err)) == 1 ? b : NULL;
}

static void parts_fill_batches(void **state)
{
    struct fixture *f = *state;
    put_parts(f->s, "plan", 2);
    struct planner *p = plan(f->s, 2 * LEN);
    uint32_t parts = 0, rows = 0;
    for (struct batch *b; (b = next(p)) != NULL; planner_finished(p, &b))
        for (uint32_t i = 0; i < b->n_rows; i++) {
            assert_true(b->n_rows <= 2);
            parts += b->rows[i]->of != NULL;
            rows += b->rows[i]->of == NULL;
        }
    assert_int_equal(parts, PARTS);
    assert_int_equal(rows, 2);
    planner_free(&p);
}

/* Paused when some of its sequences are out, resumed: each comes exactly once. */
static void a_pause_in_the_middle_loses_nothing(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int times[PARTS] = {0};
    int64_t job = put_parts(f->s, "pause", 0);
    struct planner *p = plan(f->s, 2 * LEN);
    struct batch *first = next(p);
    must(store_begin(f->s, &err));
    must(store_pause(f->s, job, 1, &err));
    must(store_commit(f->s, &err));
    must(planner_job_changed(p, job, &err));
    must(store_begin(f->s, &err));
    must(store_pause(f->s, job, 0, &err));
    must(store_commit(f->s, &err));
    must(planner_job_changed(p, job, &err));
    int n = 0;
    for (struct batch *b = first; b; b = next(p)) {
        for (uint32_t i = 0; i < b->n_rows; i++, n++)
            times[b->rows[i]->part]++;
        if (n == PARTS) {
            must(store_begin(f->s, &err));
            assert_int_equal(finish(f->s, b->rows[0], ASSAY_EINTERNAL), 1);
            must(store_commit(f->s, &err));
        }
        planner_finished(p, &b);
    }
    for (int k = 0; k < PARTS; k++)
        assert_int_equal(times[k], 1);
    planner_free(&p);
}

static void a_dead_group_gives_parts_back(void **state)
{
    struct fixture *f = *state;
    int times[PARTS] = {0};
    put_parts(f->s, "dead", 0);
    struct planner *p = plan(f->s, 3 * LEN);
    struct batch *b = next(p);
    assert_int_equal(b->n_rows, 3);
    assert_int_equal(planner_lost(p, &b, 1), 0);
    while ((b = next(p)) != NULL) {
        for (uint32_t i = 0; i < b->n_rows; i++)
            times[b->rows[i]->part]++;
        planner_finished(p, &b);
    }
    for (int k = 0; k < PARTS; k++)
        assert_int_equal(times[k], 1);
    planner_free(&p);
}

/* Version 1 knew no sequences: its rows are all there afterwards, and so is a copy of the file. */
static void an_older_database_is_upgraded(void **state)
{
    struct fixture *f = *state;
    char out[200], path[128];
    int64_t job = put_job(f->s, "old", 0, 3, LEN);
    assert_int_equal(finish_some(f->s, job, 1, 0), 1);
    store_close(&f->s);
    run_sql(f,
        TO_VERSION_4 "drop index job_unfinished; drop index row_failed; drop index batch_running; "
                     "alter table row drop column shape; alter table row_input drop column ends; "
                     "alter table job drop column copied; "
                     "alter table job drop column cached; alter table job drop column fresh; "
                     "drop view if exists workers; alter table worker drop column busy_us; alter "
                     "table worker drop "
                     "column up_us; drop table purge; pragma user_version=1;");
    open_mode(f, MODE);
    assert_int_equal(job_now(f->s, job).done, 1);
    assert_int_equal(finish_some(f->s, job, 10, 0), 2);
    put_parts(f->s, "new", 0);
    shell(f, "pragma user_version; select count(*) from results where score is not null", out,
        sizeof out);
    assert_string_equal(out, "17\n3\n");
    snprintf(path, sizeof path, "%s/assay.db.v1", f->dir);
    assert_int_equal(access(path, F_OK), 0);
    open_again(f); /* no upgrade any more */
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(parts_come_one_by_one, setup, teardown),
        cmocka_unit_test_setup_teardown(a_result_is_the_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(parts_fill_batches, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pause_in_the_middle_loses_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_dead_group_gives_parts_back, setup, teardown),
        cmocka_unit_test_setup_teardown(an_older_database_is_upgraded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
