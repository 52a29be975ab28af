/* test_planner_window.c - how many rows the planner reads at a time: a bounded number, however many
 * jobs take turns, and each row is given out once. */
#include "tests/unit/store_fixture.h"

#include "broker/sched/planner_private.h"

enum { JOBS = 200, ROWS = 100, BATCH = 150 };

static struct planner *start(struct fixture *f)
{
    struct err err;
    struct planner *p = NULL;
    char key[16];
    struct planner_limits limits = {.max_tokens = 1 << 16,
        .max_rows = BATCH,
        .max_positions = 1 << 20,
        .max_values = 1 << 20,
        .slot_tokens = 1 << 20};
    must(planner_new(&p, f->s, &limits, &err));
    for (int i = 0; i < JOBS; i++) {
        snprintf(key, sizeof key, "k%d", i);
        must(planner_job_changed(p, put_job(f->s, key, 0, ROWS, 5), &err));
    }
    return p;
}

static size_t rows_held(const struct planner *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->queues.n; i++)
        n += p->queues.heap[i]->n_held;
    return n;
}

static void test_many_jobs_share_the_window(void **state)
{
    struct err err;
    struct planner *p = start(*state);
    struct batch *b = NULL;
    static uint8_t given[JOBS][ROWS];
    size_t n = 0, most = 0;
    while (must(planner_next(p, planner_all(0), 1, &b, &err)) == 1) {
        most = rows_held(p) > most ? rows_held(p) : most;
        for (uint32_t i = 0; i < b->n_rows; i++, n++) {
            int64_t id = b->rows[i]->row_id;
            assert_int_equal(given[row_job(id) - 1][row_index(id)]++, 0);
        }
        batch_free(&b); /* its rows stay in flight */
    }
    assert_int_equal(n, JOBS * ROWS);
    assert_in_range(most, JOBS, 2 * PLANNER_WINDOW);
    planner_free(&p);
}

/* One job alone has all of it: its rows are read in few queries. */
static void test_one_job_has_all_of_it(void **state)
{
    struct err err;
    struct fixture *f = *state;
    struct planner *p = NULL;
    struct batch *b = NULL;
    struct planner_limits limits = {.max_tokens = 1 << 16,
        .max_rows = 100,
        .max_positions = 1 << 20,
        .max_values = 1 << 20,
        .slot_tokens = 1 << 20};
    must(planner_new(&p, f->s, &limits, &err));
    must(planner_job_changed(p, put_job(f->s, "k", 0, 2000, 5), &err));
    must(planner_next(p, planner_all(0), 1, &b, &err));
    batch_free(&b);
    assert_int_equal(rows_held(p), 64 + PLANNER_WINDOW - 100); /* the length is known from 64 on */
    planner_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many_jobs_share_the_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_job_has_all_of_it, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
