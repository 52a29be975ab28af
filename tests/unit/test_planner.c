/* test_planner.c - order, fairness, packing, leases, and the search for a row that kills. */
#include "tests/unit/store_fixture.h"

#include "broker/sched/planner.h"

struct planned {
    struct fixture *f;
    struct planner *p;
};

static struct planned start_small(
    void **state, uint32_t max_tokens, uint32_t max_rows, uint32_t first_tokens)
{
    struct err err;
    struct planned t = {.f = *state};
    struct planner_limits limits = {.max_tokens = max_tokens,
        .max_rows = max_rows,
        .max_positions = 1 << 20,
        .max_values = 1 << 20,
        .slot_tokens = 1 << 20,
        .first_tokens = first_tokens};
    must(planner_new(&t.p, t.f->s, &limits, &err));
    return t;
}

static struct planned start(void **state, uint32_t max_tokens, uint32_t max_rows)
{
    return start_small(state, max_tokens, max_rows, 0);
}

static int64_t plan_job(struct planned *t, const char *key, int priority, uint32_t n, uint32_t len)
{
    struct err err;
    int64_t job = put_job(t->f->s, key, priority, n, len);
    must(planner_job_changed(t->p, job, &err));
    return job;
}

/* The lane's next batch with nothing in flight, NULL when nothing is ready. */
static struct batch *next_of(struct planned *t, uint32_t lane)
{
    struct err err;
    struct batch *b = NULL;
    int found = must(planner_next(t->p, planner_all(lane), 1, &b, &err));
    assert_int_equal(found, b != NULL);
    return b;
}

static struct batch *next(struct planned *t)
{
    return next_of(t, 0);
}

/* Its rows get results, failed ones when code is not 0. */
static void end_batch(struct planned *t, struct batch **b, int code)
{
    struct err err;
    must(store_begin(t->f->s, &err));
    for (uint32_t i = 0; i < (*b)->n_rows; i++)
        assert_int_equal(finish(t->f->s, (*b)->rows[i], code), 1);
    must(store_commit(t->f->s, &err));
    planner_finished(t->p, b);
    assert_null(*b);
}

static uint32_t rows_of(const struct batch *b, int64_t job)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->n_rows; i++)
        n += row_job(b->rows[i]->row_id) == job;
    return n;
}

static void test_fills_batches_in_order(void **state)
{
    struct planned t = start(state, 100, 64);
    int64_t job = plan_job(&t, "order", 0, 3000, 10);
    uint32_t i = 0;
    for (struct batch *b; (b = next(&t)); end_batch(&t, &b, 0)) {
        assert_int_equal(b->n_rows, 10);
        assert_int_equal(b->n_tokens, 100);
        for (uint32_t k = 0; k < b->n_rows; k++, i++)
            assert_int_equal(b->rows[k]->row_id, row_id_of(job, i));
    }
    assert_int_equal(i, 3000);
    assert_int_equal(job_now(t.f->s, job).state, JOB_DONE);
    planner_free(&t.p);
    assert_null(t.p);
}

static void test_limits_of_a_batch(void **state)
{
    struct planned t = start(state, 100, 4);
    struct batch *b;
    plan_job(&t, "many short", 0, 6, 5);
    b = next(&t);
    assert_int_equal(b->n_rows, 4); /* max_rows */
    end_batch(&t, &b, 0);
    b = next(&t);
    assert_int_equal(b->n_rows, 2);
    end_batch(&t, &b, 0);
    plan_job(&t, "too long", 0, 2, 250); /* over the budget: each alone */
    for (int i = 0; i < 2; i++) {
        b = next(&t);
        assert_int_equal(b->n_rows, 1);
        assert_int_equal(b->n_tokens, 250);
        end_batch(&t, &b, 0);
    }
    assert_null(next(&t));
    planner_free(&t.p);
}

/* A slow model has something to show soon; from then on batches are full, also after a pause. */
static void test_first_batches_are_small(void **state)
{
    static const uint32_t expected[] = {20, 20, 40, 80, 160, 160, 160};
    struct planned t = start_small(state, 160, 64, 20);
    struct batch *b;
    plan_job(&t, "first", 0, 64, 10);
    for (size_t k = 0; k < sizeof expected / sizeof expected[0]; k++) {
        b = next(&t);
        assert_int_equal(b->n_tokens, expected[k]);
        end_batch(&t, &b, 0);
    }
    assert_null(next(&t));
    plan_job(&t, "second", 0, 16, 10);
    b = next(&t);
    assert_int_equal(b->n_tokens, 160);
    end_batch(&t, &b, 0);
    planner_free(&t.p);
}

static void test_a_first_row_may_be_long(void **state)
{
    struct planned t = start_small(state, 160, 64, 20);
    struct batch *b;
    plan_job(&t, "long", 0, 3, 100);
    b = next(&t);
    assert_int_equal(b->n_rows, 1);
    end_batch(&t, &b, 0);
    plan_job(&t, "short", 1, 20, 10);
    b = next(&t);
    assert_int_equal(b->n_tokens, 100);
    end_batch(&t, &b, 0);
    b = next(&t);
    assert_int_equal(b->n_tokens, 100); /* what is left of the short ones; a long one has no room */
    end_batch(&t, &b, 0);
    planner_free(&t.p);
}

static void test_priority_first(void **state)
{
    struct planned t = start(state, 100, 64);
    int64_t low = plan_job(&t, "low", -5, 40, 10), high = plan_job(&t, "high", 7, 25, 10);
    uint32_t n_high = 0;
    for (struct batch *b; (b = next(&t)); end_batch(&t, &b, 0)) {
        if (n_high < 25)
            assert_true(rows_of(b, high) == 10 || n_high + rows_of(b, high) == 25);
        n_high += rows_of(b, high);
    }
    assert_int_equal(n_high, 25);
    assert_int_equal(job_now(t.f->s, low).state, JOB_DONE);
    planner_free(&t.p);
}

/* A job of 20 rows that comes while one of 3000 is under way waits for a few batches, not for it.
 */
static void test_small_job_beside_a_big_one(void **state)
{
    struct planned t = start(state, 100, 64);
    plan_job(&t, "big", 0, 3000, 10);
    for (int i = 0; i < 100; i++) {
        struct batch *b = next(&t);
        end_batch(&t, &b, 0);
    }
    int64_t small = plan_job(&t, "small", 0, 20, 10);
    int batches = 0;
    for (; job_now(t.f->s, small).state != JOB_DONE; batches++) {
        struct batch *b = next(&t);
        end_batch(&t, &b, 0);
    }
    assert_true(batches <= 5);
    planner_free(&t.p);
}

/* An open job that had little and waits for more is no yardstick: who comes after it is not owed
 * what the busy one was served, and neither is it when it goes on. */
static void test_idle_time_is_not_owed(void **state)
{
    struct err err;
    struct planned t = start(state, 100, 64);
    int64_t idle = new_job(t.f->s, "idle", 0);
    put_chunk(t.f->s, idle, 0, 1, 10, 0);
    must(planner_job_changed(t.p, idle, &err));
    struct batch *b = next(&t);
    end_batch(&t, &b, 0);
    int64_t busy = plan_job(&t, "busy", 0, 3000, 10);
    for (int i = 0; i < 100; i++) {
        b = next(&t);
        end_batch(&t, &b, 0);
    }
    plan_job(&t, "late", 0, 200, 10);
    put_chunk(t.f->s, idle, 1, 200, 10, 1);
    must(planner_job_changed(t.p, idle, &err));
    uint32_t n_busy = 0;
    for (int i = 0; i < 9; i++) {
        b = next(&t);
        n_busy += rows_of(b, busy);
        end_batch(&t, &b, 0);
    }
    print_message("busy: %u of 90 rows beside two others\n", n_busy);
    assert_in_range(n_busy, 20, 45);
    planner_free(&t.p);
}

/* Every row is given out once while it is leased, whatever is said about its job. */
static void test_in_flight(void **state)
{
    struct err err;
    struct planned t = start(state, 100, 64);
    int64_t job = plan_job(&t, "in_flight", 0, 95, 10);
    static struct batch *out[16];
    uint32_t n = 0, rows = 0;
    for (struct batch *b; (b = next(&t)); out[n++] = b) {
        rows += b->n_rows;
        must(planner_job_changed(t.p, job, &err));
    }
    assert_int_equal(rows, 95);
    assert_null(next(&t));
    int seen[95] = {0};
    while (n > 0) {
        for (uint32_t i = 0; i < out[n - 1]->n_rows; i++)
            assert_int_equal(seen[row_index(out[n - 1]->rows[i]->row_id)]++, 0);
        end_batch(&t, &out[--n], 0);
    }
    must(planner_job_changed(t.p, job, &err));
    assert_null(next(&t));
    planner_free(&t.p);
}

/* Failed rows queued again lie behind what was read already; they come while the job goes on. */
static void test_retry_while_the_job_runs(void **state)
{
    struct err err;
    struct planned t = start(state, 100, 64);
    int64_t job = plan_job(&t, "retry", 0, 1500, 10), n = 0;
    struct batch *b = next(&t);
    end_batch(&t, &b, ASSAY_ENONFINITE);
    for (int i = 0; i < 10; i++) {
        b = next(&t);
        end_batch(&t, &b, 0);
    }
    must(store_begin(t.f->s, &err));
    n = retry_rows(t.f->s, job);
    must(store_commit(t.f->s, &err));
    assert_int_equal(n, 10);
    must(planner_job_changed(t.p, job, &err));
    while ((b = next(&t)))
        end_batch(&t, &b, 0);
    assert_int_equal(job_now(t.f->s, job).done, 1500);
    assert_int_equal(job_now(t.f->s, job).failed, 0);
    planner_free(&t.p);
}

static void test_pause_and_cancel(void **state)
{
    struct err err;
    struct planned t = start(state, 100, 64);
    int64_t job = plan_job(&t, "pause", 0, 50, 10), other = plan_job(&t, "cancel", -1, 50, 10);
    struct batch *b = next(&t);
    must(store_pause(t.f->s, job, 1, &err));
    must(planner_job_changed(t.p, job, &err));
    end_batch(&t, &b, 0);
    b = next(&t);
    assert_int_equal(rows_of(b, other), 10);
    end_batch(&t, &b, 0);
    must(store_begin(t.f->s, &err));
    must(store_cancel(t.f->s, other, &err));
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, other, &err));
    assert_null(next(&t));
    must(store_pause(t.f->s, job, 0, &err));
    must(planner_job_changed(t.p, job, &err));
    while ((b = next(&t)))
        end_batch(&t, &b, 0);
    assert_int_equal(job_now(t.f->s, job).done, 50);
    assert_int_equal(job_now(t.f->s, other).done, 10);
    planner_free(&t.p);
}

static int kills(const struct batch *b, uint32_t culprit)
{
    for (uint32_t i = 0; i < b->n_rows; i++)
        if (row_index(b->rows[i]->row_id) == culprit)
            return 1;
    return 0;
}

/* One row kills every group that runs it. Its neighbours finish, it fails after three deaths alone.
 */
static void find_culprit(void **state, uint32_t culprit)
{
    struct err err;
    struct planned t = start(state, 1000, 64);
    char key[32];
    snprintf(key, sizeof key, "culprit-%u", culprit);
    int64_t job = plan_job(&t, key, 0, 20, 10);
    int deaths = 0, blamed = 0;
    for (struct batch *b; (b = next(&t));) {
        assert_true(deaths < 20);
        if (b->suspect) {
            struct batch *none = NULL;
            assert_int_equal(
                must(planner_next(t.p, planner_all(0), 0, &none, &err)), 0); /* runs alone */
            assert_int_equal(must(planner_next(t.p, planner_all(0), 1, &none, &err)), 0);
            assert_true(planner_isolating(t.p, 0));
        }
        if (!kills(b, culprit)) {
            end_batch(&t, &b, 0);
            continue;
        }
        deaths++;
        if (planner_lost(t.p, &b, 1) == 1) {
            assert_int_equal(b->n_rows, 1);
            assert_int_equal(b->rows[0]->attempts, PLANNER_ATTEMPTS);
            blamed++;
            end_batch(&t, &b, ASSAY_EKILLED);
        } else {
            assert_null(b);
            assert_int_equal(
                must(planner_next(t.p, planner_all(0), 0, &b, &err)), 0); /* others are in flight */
        }
    }
    assert_int_equal(blamed, 1);
    assert_false(planner_isolating(t.p, 0));
    struct store_job now = job_now(t.f->s, job);
    assert_int_equal(now.done, 20);
    assert_int_equal(now.failed, 1);
    planner_free(&t.p);
}

static void test_culprit_is_found(void **state)
{
    find_culprit(state, 0);
    find_culprit(state, 7);
    find_culprit(state, 19);
}

/* A group that dies by no fault of a row: the batch that ran is tried in halves, the ones that
 * waited come whole, nothing is lost and nothing is blamed. */
static void test_innocent_batches_come_again(void **state)
{
    struct planned t = start(state, 100, 64);
    int64_t job = plan_job(&t, "innocent", 0, 40, 10);
    struct batch *running = next(&t), *waiting = next(&t), *b;
    int64_t first_waiting = waiting->rows[0]->row_id;
    assert_int_equal(planner_lost(t.p, &running, 1), 0);
    assert_int_equal(planner_lost(t.p, &waiting, 0), 0);
    uint32_t order = 0, waiting_rows = 0;
    for (; (b = next(&t)); order++) {
        if (order < 2) {
            assert_true(b->suspect);
            assert_int_equal(b->n_rows, 5);
        } else if (order == 2) {
            assert_false(b->suspect);
            assert_int_equal(b->rows[0]->row_id, first_waiting);
            waiting_rows = b->n_rows;
        }
        end_batch(&t, &b, 0);
    }
    assert_int_equal(waiting_rows, 10);
    assert_int_equal(job_now(t.f->s, job).done, 40);
    assert_int_equal(job_now(t.f->s, job).failed, 0);
    planner_free(&t.p);
}

/* Rows of a cancelled job are not tried again, nor does another job wait until they were. */
static void test_suspects_of_a_cancelled_job(void **state)
{
    struct err err;
    struct planned t = start(state, 200, 64);
    int64_t gone = plan_job(&t, "gone", 1, 15, 10), other = plan_job(&t, "other", 0, 25, 10);
    struct batch *running = next(&t), *waiting = next(&t), *b; /* 15 and 5; 20 */
    assert_int_equal(rows_of(running, gone), 15);
    assert_int_equal(rows_of(running, other), 5);
    assert_int_equal(planner_lost(t.p, &running, 1), 0);
    assert_int_equal(planner_lost(t.p, &waiting, 0), 0);
    must(store_begin(t.f->s, &err));
    must(store_cancel(t.f->s, gone, &err));
    must(store_commit(t.f->s, &err));
    must(planner_job_changed(t.p, gone, &err));
    b = next(&t); /* the first half had only rows of the cancelled job */
    assert_true(b->suspect);
    assert_int_equal(b->n_rows, 5);
    assert_int_equal(rows_of(b, other), 5);
    assert_int_equal(b->n_tokens, 50);
    end_batch(&t, &b, 0);
    while ((b = next(&t))) {
        assert_int_equal(rows_of(b, other), b->n_rows);
        end_batch(&t, &b, 0);
    }
    assert_int_equal(job_now(t.f->s, other).state, JOB_DONE);
    assert_int_equal(job_now(t.f->s, gone).done, 0);
    assert_false(planner_isolating(t.p, 0));
    planner_free(&t.p);
}

/* A row longer than this broker takes is never given out, whatever else its job has. */
static void test_rows_beyond_the_limits(void **state)
{
    static const struct store_limits limits[] = {
        {.max_len = 20}, {.vocab_size = 7}, {.n_labels = 2}};
    static const int codes[] = {ASSAY_ETOOLONG, ASSAY_EBADTOKEN, ASSAY_EBADREQ};
    for (int k = 0; k < 3; k++) {
        struct fixture *f = *state;
        struct err err;
        store_close(&f->s);
        struct store_options options = {.mode = MODE, .digest = DIGEST, .limits = limits[k]};
        must(store_open(&f->s, f->dir, &options, &err));
        struct planned t = start(state, 100, 64);
        char key[8] = {(char)('a' + k)};
        plan_job(&t, key, 0, 30, 30);
        struct batch *b = next(&t);
        assert_null(b);
        assert_int_equal(must(planner_known(t.p, &b, &err)), 1);
        assert_int_equal(b->n_rows, 30);
        for (uint32_t i = 0; i < b->n_rows; i++) {
            assert_int_equal(b->rows[i]->found_error, codes[k]);
            assert_int_equal(b->rows[i]->n_tokens, 30);
        }
        print_message("%s\n", b->rows[0]->found_message);
        end_batch(&t, &b, codes[k]);
        planner_free(&t.p);
    }
}

static void test_many_jobs(void **state)
{
    struct planned t = start(state, 512, 64);
    for (int i = 0; i < 300; i++) {
        char key[32];
        snprintf(key, sizeof key, "job-%d", i);
        plan_job(&t, key, i % 3, 3, 16);
    }
    uint32_t rows = 0, batches = 0;
    for (struct batch *b; (b = next(&t)); batches++) {
        rows += b->n_rows;
        end_batch(&t, &b, 0);
    }
    assert_int_equal(rows, 900);
    assert_int_equal(batches, 29); /* 32 rows a batch: rows of several jobs ride together */
    planner_free(&t.p);
}

/* More rows come to a job that had none left, while another's turn is before its own: they are
 * planned. */
static void test_more_rows_while_others_run(void **state)
{
    struct planned t = start(state, 512, 64);
    struct err err;
    uint32_t rows = 0;
    int64_t big = plan_job(&t, "big", 0, 100, 16), open = new_job(t.f->s, "open", 0);
    put_chunk(t.f->s, open, 0, 16, 16, 0);
    must(planner_job_changed(t.p, open, &err));
    struct batch *b = next(&t); /* 16 rows of each */
    assert_int_equal(row_job(b->rows[31]->row_id), open);
    end_batch(&t, &b, 0);
    put_chunk(t.f->s, open, 1, 16, 16, 1);
    must(planner_job_changed(t.p, open, &err));
    for (; (b = next(&t)); end_batch(&t, &b, 0))
        rows += b->n_rows;
    assert_int_equal(rows, 100 - 16 + 16);
    assert_int_equal(job_now(t.f->s, open).state, JOB_DONE);
    assert_int_equal(job_now(t.f->s, big).state, JOB_DONE);
    planner_free(&t.p);
}

/* Rows of two models in turns, the second model's at odd indices. */
static void add_mixed_rows(struct planned *t, int64_t job, uint32_t n)
{
    struct err err;
    must(store_begin(t->f->s, &err));
    for (uint32_t i = 0; i < n; i++) {
        int32_t ids[10] = {(int32_t)i};
        struct store_row row = {.ids = ids,
            .n_tokens = 10,
            .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
            .n_values = 1,
            .models = {i % 2 ? 9 : 0},
            .adapter = i % 2 ? slice_of("second/") : (struct slice){0}};
        must(add_rows(t->f->s, job, &row, 1, &err));
    }
    must(store_commit(t->f->s, &err));
    must(planner_job_changed(t->p, job, &err));
}

static void serve_at(struct planned *t, int place)
{
    struct err err;
    const struct store_model second = {.id = 9,
        .rank = 1,
        .is_current = 1,
        .name = "second",
        .digest = "another",
        .mode = MODE,
        .limits = {.max_len = 100, .vocab_size = 1000, .n_labels = 1}};
    must(store_serve(t->f->s, place, &second, &err));
}

static void serve_second(struct planned *t)
{
    serve_at(t, 1);
}

/* A batch has rows of one model, in order, and a model that gets no batches holds up nobody. */
static void test_each_model_has_a_lane(void **state)
{
    struct planned t = start(state, 50, 64);
    serve_second(&t);
    int64_t job = new_job(t.f->s, "mixed", 0);
    add_mixed_rows(&t, job, 100);
    for (uint32_t lane = 2; lane-- > 0;) { /* all of the second's first */
        uint32_t i = lane;
        for (struct batch *b; (b = next_of(&t, lane)); end_batch(&t, &b, 0))
            for (uint32_t k = 0; k < b->n_rows; k++, i += 2)
                assert_int_equal(b->rows[k]->row_id, row_id_of(job, i));
        assert_int_equal(i, 100 + lane);
    }
    planner_free(&t.p);
}

/* The search for a row that kills a worker of one model leaves the other's batches alone. */
static void test_a_suspect_concerns_its_lane(void **state)
{
    struct planned t = start(state, 50, 64);
    serve_second(&t);
    int64_t job = new_job(t.f->s, "mixed", 0);
    add_mixed_rows(&t, job, 20);
    struct batch *b = next_of(&t, 1);
    assert_int_equal(planner_lost(t.p, &b, 1), 0);
    assert_true(planner_isolating(t.p, 1));
    assert_false(planner_isolating(t.p, 0));
    struct batch *half = next_of(&t, 1), *other = next_of(&t, 0);
    assert_int_equal(half->n_rows, 3);
    assert_int_equal(other->n_rows, 5);
    assert_null(next_of(&t, 1)); /* nothing beside a suspect */
    end_batch(&t, &half, 0);
    end_batch(&t, &other, 0);
    planner_free(&t.p);
}

/* What waits in the lane of a model that goes is nowhere in flight: once the model is back, in another
 * place, each row runs once. */
static void test_a_lane_that_goes(void **state)
{
    struct err err;
    struct planned t = start(state, 50, 64);
    serve_second(&t);
    int64_t job = new_job(t.f->s, "mixed", 0);
    add_mixed_rows(&t, job, 60);
    struct batch *again = next_of(&t, 1), *suspect = next_of(&t, 1), *done = next_of(&t, 1);
    assert_int_equal(planner_lost(t.p, &again, 0), 0);
    assert_int_equal(planner_lost(t.p, &suspect, 1), 0);
    end_batch(&t, &done, 0);
    must(store_serve(t.f->s, 1, NULL, &err));
    planner_forget_lane(t.p, 1);
    assert_true(planner_is_clear(t.p, 1));
    must(planner_job_changed(t.p, job, &err));
    assert_int_equal(job_now(t.f->s, job).state, JOB_PAUSED);
    assert_null(next_of(&t, 0));
    serve_at(&t, 2);
    must(planner_job_changed(t.p, job, &err));
    uint32_t n[3] = {0};
    for (uint32_t lane = 0; lane < 3; lane++)
        for (struct batch *b; (b = next_of(&t, lane)); end_batch(&t, &b, 0))
            n[lane] += b->n_rows;
    assert_int_equal(n[0], 30);
    assert_int_equal(n[1], 0);
    assert_int_equal(n[2], 30 - 5);
    assert_int_equal(job_now(t.f->s, job).done, 60);
    planner_free(&t.p);
}

/* ---- homes ---- */

/* A job whose row i is of the session 1 + i % 3. */
static int64_t plan_sessions(struct planned *t, struct homes *h, const char *key, uint32_t n)
{
    struct err err;
    int64_t job = put_job(t->f->s, key, 0, n, 10), *sessions = calloc(n, sizeof *sessions);
    for (uint32_t i = 0; i < n; i++)
        sessions[i] = 1 + i % 3;
    homes_expect(h, job, &sessions, n);
    assert_null(sessions);
    must(planner_job_changed(t->p, job, &err));
    return job;
}

static struct batch *next_for(struct planned *t, uint32_t homes)
{
    struct err err;
    struct batch *b = NULL;
    must(planner_next(t->p, (struct choice){0, homes}, 1, &b, &err));
    return b;
}

/* Ends the batch; its rows are those of the job with these indexes. */
static void check_rows(
    struct planned *t, struct batch *b, int64_t job, const uint32_t *i, uint32_t n)
{
    assert_non_null(b);
    assert_int_equal(b->n_rows, n);
    for (uint32_t k = 0; k < n; k++)
        assert_int_equal(b->rows[k]->row_id, row_id_of(job, i[k]));
    end_batch(t, &b, 0);
}

static void test_rows_wait_for_their_homes(void **state)
{
    struct planned t = start(state, 50, 64);
    struct homes *h = homes_new();
    planner_use_homes(t.p, h, 2);
    for (int64_t session = 1; session <= 3; session++)
        homes_open(h, session);
    homes_went(h, 2, 0, 1);
    homes_went(h, 3, 0, 2);
    homes_went(h, 1, 1, 2); /* in another lane */
    int64_t job = plan_sessions(&t, h, "a", 12);
    struct batch *b = next_for(&t, HOMES_BIT(2));
    check_rows(&t, b, job, (const uint32_t[]){2, 5, 8, 11}, 4);
    assert_null(next_for(&t, HOMES_BIT(2)));
    b = next_for(&t, HOMES_BIT(0) | HOMES_BIT(1));
    check_rows(&t, b, job, (const uint32_t[]){0, 1, 3, 4, 6}, 5);
    homes_went(h, 1, 0, 2); /* those of it that were read without a home wait for this one now */
    b = next_for(&t, HOMES_BIT(0) | HOMES_BIT(1));
    check_rows(&t, b, job, (const uint32_t[]){7, 10}, 2);
    b = next_for(&t, HOMES_ANY);
    check_rows(&t, b, job, (const uint32_t[]){9}, 1);
    assert_null(next_for(&t, HOMES_ANY));
    assert_int_equal(homes_session_of(h, row_id_of(job, 0)), 0);
    planner_free(&t.p);
    homes_free(&h);
}

/* A job with nothing for a replica leaves its turn to the next. A batch that comes again has no
 * home. */
static void test_who_has_no_row_for_it_is_passed_over(void **state)
{
    struct err err;
    struct planned t = start(state, 100, 64);
    struct homes *h = homes_new();
    planner_use_homes(t.p, h, 2);
    homes_open(h, 1);
    homes_went(h, 1, 0, 1);
    int64_t job = plan_sessions(&t, h, "a", 1), other = put_job(t.f->s, "b", 0, 1, 10);
    must(planner_job_changed(t.p, other, &err));
    check_rows(&t, next_for(&t, HOMES_BIT(0) | HOMES_BIT(2)), other, (const uint32_t[]){0}, 1);
    struct batch *b = next_for(&t, HOMES_BIT(0) | HOMES_BIT(1));
    assert_int_equal(planner_lost(t.p, &b, 0), 0);
    check_rows(&t, next_for(&t, HOMES_BIT(0) | HOMES_BIT(2)), job, (const uint32_t[]){0}, 1);
    planner_free(&t.p);
    homes_free(&h);
}

static void test_forks_go_their_own_ways(void **unused)
{
    struct homes *h = homes_new(), *none = NULL;
    (void)unused;
    homes_open(h, 1);
    homes_fork(h, 1, 2);
    homes_fork(h, 1, 3);
    assert_int_equal(homes_find(h, 3, 0), 0);
    homes_went(h, 2, 0, 4); /* the first one decides */
    for (int64_t session = 1; session <= 3; session++)
        assert_int_equal(homes_find(h, session, 0), 4);
    homes_went(h, 3, 0, 5);
    homes_fork(h, 3, 6);
    homes_close(h, 2);
    assert_int_equal(homes_find(h, 1, 0), 4);
    assert_int_equal(homes_find(h, 2, 0), 0);
    assert_int_equal(homes_find(h, 6, 0), 5);
    assert_int_equal(homes_find(h, 6, 1), 0);
    homes_went(h, 2, 0, 5); /* it is closed */
    homes_fork(h, 2, 7);
    assert_int_equal(homes_find(h, 7, 0), 0);
    homes_free(&h);
    homes_open(none, 1);
    assert_int_equal(homes_find(none, 1, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forks_go_their_own_ways),
        cmocka_unit_test_setup_teardown(test_rows_wait_for_their_homes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_has_no_row_for_it_is_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fills_batches_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_of_a_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_batches_are_small, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_first_row_may_be_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_priority_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_job_beside_a_big_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_time_is_not_owed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_while_the_job_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause_and_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_culprit_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_innocent_batches_come_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_suspects_of_a_cancelled_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_beyond_the_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_more_rows_while_others_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_model_has_a_lane, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_suspect_concerns_its_lane, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_lane_that_goes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
