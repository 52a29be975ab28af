/* test_blocks.c - rows that came together are kept together, their states as bits: any of them can
 * be read, finished, failed and queued again by itself; and databases in which each row stood alone
 * go on. */
#include "tests/unit/store_fixture.h"

#include <signal.h>
#include <sys/wait.h>

#include "schema/request.h"

#define MANY 200

/* Row k of a mixed lot has k % 9 + 2 tokens, k and its successors. Every 7th was born failed, every
 * 10th has positions, every 11th is two responses. */
struct lot {
    uint32_t at, n;
    int32_t ids[16], positions[2];
    uint32_t ends[2];
};

static int born_failed(uint32_t k)
{
    return k % 7 == 3;
}

static int next_of_lot(void *arg, struct store_row *row, struct err *e)
{
    struct lot *l = arg;
    uint32_t k = l->at, n = k % 9 + 2;
    (void)e;
    for (uint32_t i = 0; i < n; i++)
        l->ids[i] = (int32_t)(k + i);
    *row = (struct store_row){.ids = l->ids,
        .n_tokens = n,
        .n_parts = 1,
        .pool.type = POOL_LAST,
        .pool.step_token = POOL_NO_STEP_TOKEN,
        .n_values = 1};
    if (k % 10 == 0) {
        l->positions[0] = (int32_t)(k % n); /* inside the row, as admission sees to it */
        row->pool.type = POOL_POSITIONS;
        row->positions = l->positions;
        row->n_positions = 1;
    } else if (k % 11 == 0) {
        l->ends[0] = 1;
        l->ends[1] = n;
        row->shape = ROW_RESPONSES;
        row->ends = l->ends;
        row->n_parts = 2;
        row->n_values = 2;
    }
    if (born_failed(k)) {
        row->error_code = ASSAY_EBADTOKEN;
        row->error_message = "as the test wished";
    }
    return l->at++ < l->n;
}

static int64_t put_lot(struct store *s, const char *key, uint32_t n, uint32_t chunk_rows)
{
    struct err err;
    struct lot lot = {0};
    int64_t job = new_job(s, key, 0);
    for (uint32_t c = 0; lot.at < n; c++) {
        uint32_t rows = n - lot.at < chunk_rows ? n - lot.at : chunk_rows;
        struct store_chunk chunk = {
            .job = job, .chunk = c, .n_rows = rows, .seal = lot.at + rows == n};
        lot.n = lot.at + rows;
        must(store_begin(s, &err));
        assert_int_equal(must(store_add_chunk(s, &chunk, &err)), CHUNK_IN_ORDER);
        must(add_from(s, job, next_of_lot, &lot, &err));
        must(store_commit(s, &err));
        lot.at = lot.n; /* the source has counted the one that it did not give */
    }
    return job;
}

static void expect_of_lot(const struct sequence *r)
{
    uint32_t k = row_index(r->row_id), n = k % 9 + 2, from = 0;
    assert_false(born_failed(k));
    if (r->of) {
        assert_int_equal(r->of->n_parts, 2);
        from = r->part;
        n = r->part ? n - 1 : 1;
    }
    assert_int_equal(r->n_tokens, n);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(r->ids[i], k + from + i);
    assert_int_equal(r->n_positions, k % 10 == 0);
    if (k % 10 == 0)
        assert_int_equal(r->positions[0], k % n);
}

/* Rows after `after`, at most limit, are the queued ones in order. */
static void expect_queued(struct store *s, int64_t job, uint32_t after, uint32_t limit)
{
    struct row_list list = queued(s, job, row_id_of(job, 0) + after, limit);
    uint32_t k = after + 1, rows = 0;
    for (uint32_t i = 0; i < list.n; i++) {
        if (list.at[i]->of && list.at[i]->part > 0)
            continue;
        while (born_failed(k))
            k++;
        assert_int_equal(row_index(list.at[i]->row_id), k++);
        rows++;
    }
    for (uint32_t i = 0; i < list.n; i++)
        expect_of_lot(list.at[i]);
    while (k < MANY && born_failed(k))
        k++;
    assert_int_equal(rows, k < MANY ? limit : rows);
    free_rows(&list);
}

static void any_row_can_be_read(void **state)
{
    struct fixture *f = *state;
    static const uint32_t chunk_rows[] = {MANY, 1, 7, 64, 65};
    char key[8] = "0";
    for (int c = 0; c < 5; c++, key[0]++) {
        int64_t job = put_lot(f->s, key, MANY, chunk_rows[c]);
        for (uint32_t after = 0; after < MANY; after++)
            for (uint32_t limit = 1; limit < 80; limit += 13)
                expect_queued(f->s, job, after, limit);
        assert_int_equal(job_now(f->s, job).failed, 29);
    }
}

static void fail_or_finish(struct store *s, struct sequence *r)
{
    struct err err;
    float values[2] = {row_index(r->row_id), 0.5f};
    struct store_result ok = {.values = values, .n_values = r->of ? 2 : 1};
    struct store_result bad = {.error_code = ASSAY_ENONFINITE, .error_message = "not a number"};
    if (!r->of || r->part == 1)
        must(store_finish_row(s, r, row_index(r->row_id) % 4 == 1 ? &bad : &ok, &err));
}

/* Rows whose index leaves one of 0 to n - 1 when divided by 6 are finished, or fail. */
static void work(struct store *s, int64_t job, uint32_t n)
{
    struct err err;
    struct row_list list = queued(s, job, 0, 4000);
    must(store_begin(s, &err));
    for (uint32_t i = 0; i < list.n; i++)
        if (row_index(list.at[i]->row_id) % 6 < n)
            fail_or_finish(s, list.at[i]);
    must(store_commit(s, &err));
    free_rows(&list);
}

static void states_are_shown(void **state)
{
    struct fixture *f = *state;
    char out[400];
    int64_t job = put_lot(f->s, "shown", MANY, 50);
    work(f->s, job, 4);
    assert_string_equal(shell(f, "select state, count(*) from rows group by 1", out, sizeof out),
        "done|86\nfailed|58\nqueued|56\n");
    assert_string_equal(
        shell(f,
            "select count(*) from rows join results using (job, i) where state = 'done' and "
            "(i in (select i from errors) or i % 4 = 1 or i % 6 > 3)",
            out, sizeof out),
        "0\n");
    work(f->s, job, 6);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    assert_string_equal(
        shell(f, "select sum(queued) + sum(running) from block", out, sizeof out), "0\n");
}

/* Those that are over come back as they went in, but for those that were born failed. */
static void rows_that_are_over_can_be_read(void **state)
{
    struct fixture *f = *state;
    static const uint32_t chunk_rows[] = {MANY, 1, 4, 65};
    char key[8] = "0";
    for (int c = 0; c < 4; c++, key[0]++) {
        struct err err;
        struct row_list list = {.n = 0};
        int64_t job = put_lot(f->s, key, MANY, chunk_rows[c]);
        struct store_page page = {job, 0, 1};
        work(f->s, job, 4);
        for (uint32_t k = 0; k < MANY; k++) {
            must(store_one_row(f->s, row_id_of(job, k), list_row, &list, &err));
            assert_int_equal(list.n, born_failed(k) ? 0 : k % 11 == 0 && k % 10 != 0 ? 2 : 1);
            for (uint32_t i = 0; i < list.n; i++)
                expect_of_lot(list.at[i]);
            free_rows(&list);
        }
        for (uint32_t k = 0; k < MANY; k++) { /* one at a time, those that were born failed too */
            if (k % 6 >= 4 && !born_failed(k))
                continue;
            assert_int_equal(must(store_finished_rows(f->s, &page, list_row, &list, &err)), 1);
            assert_int_equal(row_index((int64_t)page.after), k);
            assert_int_equal(list.n > 0, !born_failed(k));
            for (uint32_t i = 0; i < list.n; i++) {
                assert_int_equal(list.at[i]->row_id, page.after);
                expect_of_lot(list.at[i]);
            }
            free_rows(&list);
        }
        assert_int_equal(must(store_finished_rows(f->s, &page, list_row, &list, &err)), 0);
        assert_int_equal(list.n, 0);
    }
}

/* Rows of more jobs than blocks are held at once, in turns, in one transaction; undone, and
 * done. */
static void many_blocks_in_turns(void **state)
{
    enum { JOBS = 100 };
    struct fixture *f = *state;
    struct err err;
    struct row_list lists[JOBS];
    char key[16], out[200];
    for (int j = 0; j < JOBS; j++) {
        snprintf(key, sizeof key, "t%d", j);
        lists[j] = queued(f->s, put_job(f->s, key, 0, 70, 4), 0, 100);
    }
    for (int again = 0; again < 2; again++) {
        must(store_begin(f->s, &err));
        for (uint32_t i = 0; i < 70; i++)
            for (int j = 0; j < JOBS; j++)
                assert_int_equal(finish(f->s, lists[j].at[i], 0), 1);
        assert_int_equal(finish(f->s, lists[3].at[5], 0), 0); /* it is over */
        if (!again)
            store_rollback(f->s);
        else
            must(store_commit(f->s, &err));
        shell(f, "select count(*) from rows where state = 'queued'", out, sizeof out);
        assert_string_equal(out, again ? "0\n" : "7000\n");
    }
    for (int j = 0; j < JOBS; j++)
        free_rows(&lists[j]);
}

/* Row numbers, each once. */
static uint32_t numbers_of(const struct row_list *list, int64_t *rows)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < list->n; i++)
        if (n == 0 || rows[n - 1] != list->at[i]->row_id)
            rows[n++] = list->at[i]->row_id;
    return n;
}

/* Of every queued row something comes: itself as it was put, or that it is damaged. Returns how
 * many are. */
static int check_damaged(struct store *s, int64_t job, const int64_t *rows, uint32_t n)
{
    static int64_t now[4096];
    struct row_list list = queued(s, job, 0, 4096);
    int damaged = 0;
    assert_int_equal(numbers_of(&list, now), n);
    assert_memory_equal(now, rows, n * sizeof *rows);
    for (uint32_t i = 0; i < list.n; i++) {
        if (list.at[i]->found_error == 0)
            expect_of_lot(list.at[i]);
        else
            assert_int_equal(list.at[i]->found_error, ASSAY_EDAMAGED);
        damaged += list.at[i]->found_error != 0;
    }
    free_rows(&list);
    return damaged;
}

static void a_damaged_record_is_its_rows_error(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *table, *what;
        uint32_t n_rows, chunk_rows;
    } damages[] = {{"row_input", "ids = x'00'", 40, 40}, {"row_input", "rows = x'ff'", 40, 40},
        {"row_input", "rows = null", 40, 40}, {"row_input", "rows = x'02000000ffffffff'", 40, 40},
        {"row_input", "row = row + 1", 40, 40}, {"row_input", "ends = x'0000'", 40, 40},
        {"row_input", "positions = x'02000000'", 1, 1},
        {"row_input", "positions = x'ffffffff'", 1, 1},
        {"row_input", "ends = x'0000000004000000'", 12, 1}, {"row_input", "sums = null", 40, 40},
        {"row_input", "sums = x'00'", 40, 40}, {"row_input", "row = row + 70", 40, 40},
        {"row", "shape = shape + 1", 40, 40}, {"row", "n_tokens = n_tokens + 1", 40, 40},
        {"row", "n_tokens = -1", 40, 40}, {"row", "pool_type = pool_type + 1", 40, 40},
        {"row", "activation = activation + 1", 40, 40}, {"row", "step_token = 3", 40, 40},
        {"row", "n_values = n_values + 1", 40, 40}, {"row", "n_values = 0", 40, 40},
        {"row", "n_values = 1 << 40", 40, 40}, {"row", "client_id = 'other'", 40, 40},
        {"row", "sum = null", 40, 40}, {"row", "sum = 'text'", 40, 40},
        {"row", "row = row + 1000", 40, 40}};
    static int64_t rows[4096];
    char sql[200];
    for (size_t k = 0; k < sizeof damages / sizeof *damages; k++) {
        snprintf(sql, sizeof sql, "d%zu", k);
        int64_t job = put_lot(f->s, sql, damages[k].n_rows, damages[k].chunk_rows);
        struct row_list list = queued(f->s, job, 0, 4096);
        uint32_t n = numbers_of(&list, rows);
        free_rows(&list);
        store_close(&f->s);
        snprintf(sql, sizeof sql, "update %s set %s where row = (select max(row) from %s where %s)",
            damages[k].table, damages[k].what, damages[k].table,
            damages[k].table[3] ? "1" : "n_values > 0");
        run_sql(f, sql);
        open_mode(f, MODE);
        assert_in_range(check_damaged(f->s, job, rows, n), 1, 40);
    }
}

/* Of version 4: 150 rows in each state that there is, over several blocks. */
static void states_are_upgraded(void **state)
{
    struct fixture *f = *state;
    struct err err;
    static char before[60000], after[60000];
    static const char all[] =
        "select * from rows order by job, i; select * from results; select * from jobs";
    put_job(f->s, "all", 0, 150, 4);
    int64_t job = put_job(f->s, "mixed", 0, 150, 4), done = put_job(f->s, "done", 0, 64, 4);
    work(f->s, job, 4);
    work(f->s, done, 6);
    store_close(&f->s);
    shell(f, all, before, sizeof before);
    run_sql(f, TO_VERSION_4);
    open_mode(f, MODE);
    shell(f, all, after, sizeof after);
    assert_string_equal(before, after);
    work(f->s, job, 6);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    int64_t n = 0;
    must(store_begin(f->s, &err));
    n = retry_rows(f->s, job);
    must(store_commit(f->s, &err));
    assert_int_equal(n, 38);
    assert_int_equal(finish_some(f->s, job, 100, 0), 38);
    int64_t late = put_lot(f->s, "late", MANY, 70);
    expect_queued(f->s, late, 0, 100);
    assert_string_equal(shell(f, "pragma integrity_check", after, sizeof after), "ok\n");
}

/* Killed at any moment of an upgrade: a copy that has its name has everything. */
static void the_copy_is_whole(void **state)
{
    struct fixture *f = *state;
    char path[128], out[128];
    put_job(f->s, "job", 0, 10000, 40);
    store_close(&f->s);
    run_sql(f, TO_VERSION_4);
    snprintf(path, sizeof path, "%s/assay.db.v4", f->dir);
    for (useconds_t us = 0; access(path, F_OK) != 0; us += 500) {
        pid_t child = fork();
        if (child == 0) {
            open_mode(f, MODE);
            _exit(0);
        }
        usleep(us);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    char command[600];
    snprintf(command, sizeof command, "rm %s/assay.db-* && rm -f %s/synced && mv %s %s/assay.db",
        f->dir, f->dir, path, f->dir);
    assert_int_equal(system(command), 0);
    assert_string_equal(shell(f, "pragma integrity_check; select count(*) from row where state = 0",
                            out, sizeof out),
        "ok\n10000\n");
    open_mode(f, MODE);
}

/* Whoever goes back to the copy and upgrades again later has a copy of that, too. */
static void each_upgrade_has_a_copy(void **state)
{
    struct fixture *f = *state;
    char command[600];
    put_job(f->s, "first", 0, 100, 4);
    store_close(&f->s);
    run_sql(f, TO_VERSION_4);
    for (int k = 0; k < 2; k++) { /* the second time, the copy of an interrupted upgrade is there */
        snprintf(command, sizeof command, "cp %s/assay.db %s/before", f->dir, f->dir);
        assert_int_equal(system(command), 0);
        open_mode(f, MODE);
        store_close(&f->s);
        snprintf(command, sizeof command, "rm -f %s/assay.db-* %s/synced; cp %s/before %s/assay.db",
            f->dir, f->dir, f->dir, f->dir);
        assert_int_equal(system(command), 0);
        snprintf(command, sizeof command, "test ! -e %s/assay.db.v4.2", f->dir);
        assert_int_equal(system(command), 0);
    }
    run_sql(f, "update job set priority = 7");
    open_mode(f, MODE);
    store_close(&f->s);
    snprintf(command, sizeof command,
        "test \"$(for v in v4 v4.2; do sqlite3 %s/assay.db.$v 'select priority from job'; done)\" "
        "= "
        "\"$(printf '0\\n7')\"",
        f->dir);
    assert_int_equal(system(command), 0);
    open_mode(f, MODE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_row_can_be_read, setup, teardown),
        cmocka_unit_test_setup_teardown(states_are_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_that_are_over_can_be_read, setup, teardown),
        cmocka_unit_test_setup_teardown(many_blocks_in_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_record_is_its_rows_error, setup, teardown),
        cmocka_unit_test_setup_teardown(states_are_upgraded, setup, teardown),
        cmocka_unit_test_setup_teardown(each_upgrade_has_a_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(the_copy_is_whole, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
