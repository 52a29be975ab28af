/* test_dedupe_refill.c - tables that are made again from the database: after a restart or damage,
 * in slices, however slowly, and when more jobs have rows than tables may be open. */
#include <sodium.h>
#include <sys/wait.h>

#include "schema/log.h"
#include "tests/unit/dedupe_file.h"
#include "tests/unit/dedupe_fixture.h"

/* A table is filled again, a small one and a large one. */
static void test_after_a_restart(void **state)
{
    struct fixture *f = *state;
    for (uint32_t n = 0; n <= 4000; n = n ? 4 * n : 1000) {
        struct dedupe *t = open_dedupe(f);
        int64_t job = new_job(f->s, n == 0 ? "none" : n == 1000 ? "some" : "many", 0);
        if (n > 0)
            put_chunk(f->s, job, 0, n, 5, 0);
        compute_many(f, t, job, n);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(dedupe_file(f->dir, job).bytes > 0, n == 4000);
            open_all_again(f, &t, MODE);
            assert_int_equal(count_known(f, t, job, n), n);
        }
        dedupe_free(&t);
        assert_int_equal(dedupe_file(f->dir, job).bytes, 0);
    }
}

/* Files that a version before, or a killed broker, has left are not looked into. */
static void test_files_of_before(void **state)
{
    struct fixture *f = *state;
    char path[128];
    int64_t job = new_job(f->s, "job", 0);
    snprintf(path, sizeof path, "%s/twins-%lld.map", f->dir, (long long)job);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 100000; i++)
        fputc(i * 7 % 251, file);
    fclose(file);
    struct dedupe *t = open_dedupe(f);
    assert_int_equal(access(path, F_OK), -1);
    put_chunk(f->s, job, 0, 4000, 5, 0);
    compute_many(f, t, job, 4000);
    assert_int_equal(count_known(f, t, job, 4000), 4000);
    dedupe_free(&t);
}

enum damage { OTHER_ROWS, RANDOM_SLOTS, DAMAGES };

/* Row numbers of the slots are exchanged for their neighbours', and for some that no row has; or
 * slots are bits that nobody wrote. */
static void damage_file(struct dedupe_file file, enum damage damage)
{
    uint64_t *slots = file.slots;
    assert_true(file.bytes > 0);
    for (uint64_t i = 0; i < file.bytes / sizeof *slots; i++)
        if (damage == RANDOM_SLOTS)
            slots[i] = (i + 1) * 0x9e3779b97f4a7c15ull;
        else
            slots[i] ^= slots[i] == 0 ? 0 : i % 5 == 0 ? 1u << 31 : 1;
}

/* A table that names other rows, or has no end, is no harm: what it names is compared, and it is
 * made again. */
static void test_a_table_that_lies(void **state)
{
    struct fixture *f = *state;
    struct dedupe *t = open_dedupe(f);
    for (int damage = 0; damage < DAMAGES; damage++) {
        int64_t job = new_job(f->s, damage == OTHER_ROWS ? "other" : "random", 0);
        put_chunk(f->s, job, 0, 4000, 5, 0);
        compute_many(f, t, job, 4000);
        damage_file(dedupe_file(f->dir, job), damage);
        assert_int_equal(count_known(f, t, job, 4000), 4000);
        assert_int_equal(dedupe_file(f->dir, job).bytes, 0); /* in memory from now on */
        open_all_again(f, &t, MODE);
        assert_int_equal(count_known(f, t, job, 4000), 4000);
    }
    dedupe_free(&t);
}

/* And it has those again that were under way meanwhile. */
static void test_a_table_that_lies_while_rows_are_under_way(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct sequence *primary;
    struct dedupe *t = open_dedupe(f);
    const int32_t ids[] = {3, 4}, other[] = {5, 6};
    struct store_row row = plain(ids, 2), new = plain(other, 2);
    const float value = 2;
    struct store_result result = {.values = &value, .n_values = 1};
    int64_t job = new_job(f->s, "job", 0);
    put_chunk(f->s, job, 0, 4000, 5, 0);
    compute_many(f, t, job, 4000);
    struct row_list list = put(f, job, &row), again = put(f, job, &row), more = put(f, job, &new);
    assert_int_equal(find(t, list.at[0]), DEDUPE_NONE);
    dedupe_add_primary(t, list.at[0]);
    damage_file(dedupe_file(f->dir, job), RANDOM_SLOTS);
    assert_int_equal(find(t, more.at[0]), DEDUPE_NONE);
    assert_int_equal(dedupe_file(f->dir, job).bytes, 0);
    assert_int_equal(must(dedupe_find(t, again.at[0], &primary, &err)), DEDUPE_UNDER_WAY);
    assert_ptr_equal(primary, list.at[0]);
    record(f, list.at[0], &result);
    dedupe_remove_primary(t, list.at[0], &value);
    assert_int_equal(find(t, again.at[0]), DEDUPE_KNOWN);
    free_rows(&list);
    free_rows(&again);
    free_rows(&more);
    dedupe_free(&t);
}

/* Far from each other, with the broker killed between them: ASSAY_FAR rows. */
static void compute_and_be_killed(struct fixture *f, int64_t job, uint32_t n_chunks)
{
    pid_t child = fork();
    if (child == 0) {
        open_mode(f, MODE);
        struct dedupe *t = open_dedupe(f);
        for (uint32_t c = 0; c < n_chunks; c++) {
            put_chunk(f->s, job, c, 4000, 5, 0);
            compute_many(f, t, job, 4000);
        }
        kill(getpid(), SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_far_apart_and_killed_in_between(void **state)
{
    struct fixture *f = *state;
    const char *far = getenv("ASSAY_FAR");
    uint32_t n_chunks = (uint32_t)((far ? atoi(far) : 40000) / 4000);
    int64_t job = new_job(f->s, "job", 0);
    store_close(&f->s);
    compute_and_be_killed(f, job, n_chunks);
    open_mode(f, MODE);
    struct dedupe *t = open_dedupe(f);
    int32_t ids[5] = {0, 0, 7, 7, 7};
    struct store_row row = plain(ids, 5);
    struct row_list list = put(f, job, &row);
    assert_int_equal(find(t, list.at[0]), DEDUPE_KNOWN);
    free_rows(&list);
    assert_int_equal(count_known(f, t, job, 4000), 4000);
    dedupe_free(&t);
}

/* The rows of before, read in slices, do not hold up their job for ever, nor are they in the table
 * twice. */
static void test_filled_in_slices(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct sequence *primary;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    put_chunk(f->s, job, 0, 4000, 5, 0);
    compute_many(f, t, job, 4000);
    for (int k = 0; k < 10; k++) /* 40,000 that are the same as those */
        for (uint32_t left = count_known(f, t, job, 4000); left == 4000; left = 0)
            finish_some(f->s, job, 4000, 0);
    uint64_t before = dedupe_file(f->dir, job).bytes;
    assert_true(before > 0);
    open_all_again(f, &t, MODE);
    assert_int_equal(dedupe_is_behind(t), 0);
    int32_t ids[5] = {0, 17, 7, 7, 7};
    struct store_row row = plain(ids, 5);
    struct row_list list = put(f, job, &row);
    int passes = 0, found;
    while ((found = must(dedupe_find(t, list.at[0], &primary, &err))) == DEDUPE_LATER) {
        assert_int_equal(dedupe_is_behind(t), 1);
        passes++;
        dedupe_reset_budget(t);
    }
    assert_int_equal(found, DEDUPE_KNOWN);
    assert_true(passes > 0);
    assert_int_equal(dedupe_file(f->dir, job).bytes, before);
    free_rows(&list);
    dedupe_free(&t);
}

/* A process that is held up for longer than a pass whenever it looks at the clock. */
static long long held_up(void)
{
    static long long now = 1;
    return now += 100;
}

/* Each pass reads some rows of before, so that a machine that is slow, or busy with other things,
 * gets on. */
static void test_filled_however_slowly(void **state)
{
    enum { ROWS = 3000, AT_LEAST_A_PASS = 50 };
    struct fixture *f = *state;
    struct err err;
    struct sequence *primary;
    int32_t ids[5] = {0, 17, 7, 7, 7};
    struct store_row row = plain(ids, 5);
    int64_t job = new_job(f->s, "job", 0);
    put_chunk(f->s, job, 0, ROWS, 5, 0);
    finish_some(f->s, job, ROWS, 0);
    struct row_list list = put(f, job, &row);
    struct dedupe *t = dedupe_new(
        &(struct dedupe_options){.digest = "d", .mode = "m", .store = f->s, .now_ms = held_up});
    int passes = 0, found = DEDUPE_LATER;
    for (; found == DEDUPE_LATER && passes < ROWS / AT_LEAST_A_PASS; passes++) {
        dedupe_reset_budget(t);
        found = must(dedupe_find(t, list.at[0], &primary, &err));
    }
    assert_int_equal(found, DEDUPE_KNOWN);
    assert_true(passes > 1);
    free_rows(&list);
    dedupe_free(&t);
}

/* A job waits for its table no longer than wait_ms. A row whose equal is not in it yet is computed
 * again; once the table is full, each is found. */
static void test_filled_while_the_job_goes_on(void **state)
{
    enum { ROWS = 3000 };
    struct fixture *f = *state;
    struct err err;
    struct sequence *primary;
    int32_t ids[5] = {0, 17, 7, 7, 7}, last_ids[5] = {0, ROWS - 1, 7, 7, 7};
    struct store_row row = plain(ids, 5), last_row = plain(last_ids, 5);
    int64_t job = new_job(f->s, "job", 0);
    put_chunk(f->s, job, 0, ROWS, 5, 0);
    finish_some(f->s, job, ROWS, 0);
    struct row_list first = put(f, job, &row), last = put(f, job, &last_row);
    struct dedupe *t = dedupe_new(&(struct dedupe_options){
        .digest = "d", .mode = "m", .store = f->s, .now_ms = held_up, .wait_ms = 1000});
    int found = DEDUPE_LATER, passes = 0;
    for (; found == DEDUPE_LATER; passes++, dedupe_reset_budget(t))
        found = must(dedupe_find(t, last.at[0], &primary, &err));
    assert_int_equal(found, DEDUPE_NONE);
    assert_true(passes > 1);
    assert_int_equal(dedupe_is_behind(t), 1);
    dedupe_add_primary(t, last.at[0]);
    assert_int_equal(must(dedupe_find(t, first.at[0], &primary, &err)), DEDUPE_KNOWN);
    do {
        dedupe_reset_budget(t);
        must(dedupe_find(t, first.at[0], &primary, &err));
    } while (dedupe_is_behind(t));
    dedupe_remove_primary(t, last.at[0], NULL);
    assert_int_equal(find(t, last.at[0]), DEDUPE_KNOWN);
    free_rows(&first);
    free_rows(&last);
    dedupe_free(&t);
}

/* More jobs than tables that may be open, all with much to read: each gets on, and one that has
 * nothing is not kept waiting. */
static void test_many_that_are_filled_at_once(void **state)
{
    enum { JOBS = TABLES + 10, ROWS = 3000 };
    struct fixture *f = *state;
    struct err err;
    struct sequence *primary;
    struct row_list rows[JOBS + 1];
    const int32_t ids[] = {3, 4};
    struct store_row row = plain(ids, 2);
    char key[24];
    int told[JOBS + 1] = {0}, left = JOBS + 1;
    for (int j = 0; j < JOBS; j++) {
        snprintf(key, sizeof key, "j%d", j);
        int64_t job = new_job(f->s, key, 0);
        put_chunk(f->s, job, 0, ROWS, 5, 0);
        finish_some(f->s, job, ROWS, 0);
        rows[j] = put(f, job, &row);
    }
    rows[JOBS] = put(f, new_job(f->s, "new", 0), &row);
    struct dedupe *t = open_dedupe(f);
    for (int passes = 0; left > 0; passes++) {
        dedupe_reset_budget(t);
        for (int k = 0; k <= JOBS; k++) { /* as the planner does it, in order and in turn */
            int j = (passes % 2 * passes + k) % (JOBS + 1), was = told[j];
            told[j] |= must(dedupe_find(t, rows[j].at[0], &primary, &err)) == DEDUPE_NONE;
            left -= !was && told[j];
        }
        assert_true(
            passes < 2000 * JOBS); /* a pass is of milliseconds: how many depends on the machine */
        assert_true(told[JOBS] || passes < 20 * JOBS);
    }
    for (int j = 0; j <= JOBS; j++)
        free_rows(&rows[j]);
    dedupe_free(&t);
}

/* A table that was closed and is filled again has the rows that were under way meanwhile. */
static void test_closed_while_a_row_is_under_way(void **state)
{
    struct fixture *f = *state;
    struct dedupe *t = open_dedupe(f);
    const float value = 2;
    const int32_t ids[] = {3, 4}, other[] = {5, 6};
    struct store_row row = plain(ids, 2), new = plain(other, 2);
    struct store_result result = {.values = &value, .n_values = 1};
    int64_t job = new_job(f->s, "job", 0);
    char key[16];
    struct row_list list = put(f, job, &row);
    assert_int_equal(find(t, list.at[0]), DEDUPE_NONE);
    dedupe_add_primary(t, list.at[0]);
    for (int k = 0; k < 10 * TABLES; k++) {
        snprintf(key, sizeof key, "j%d", k);
        compute(f, t, new_job(f->s, key, 0), &new, &value);
    }
    compute(f, t, job, &new, &value);
    record(f, list.at[0], &result);
    dedupe_remove_primary(t, list.at[0], &value);
    free_rows(&list);
    assert_true(is_known(f, t, job, &row));
    dedupe_free(&t);
}

/* Tables of very many jobs are not open at one time; none forgets for that. A large one stays, for
 * filling it again takes longest. A finished job's goes. */
static void test_many_jobs(void **state)
{
    enum { JOBS = TABLES + 50 };
    struct fixture *f = *state;
    struct err err;
    struct dedupe *t = open_dedupe(f);
    int64_t jobs[JOBS];
    char key[16];
    const float value = 2;
    const int32_t ids[] = {3, 4};
    struct store_row row = plain(ids, 2);
    int64_t large = new_job(f->s, "large", 0);
    put_chunk(f->s, large, 0, 4000, 5, 1);
    compute_many(f, t, large, 4000);
    for (int k = 0; k < JOBS; k++) {
        snprintf(key, sizeof key, "j%d", k);
        jobs[k] = new_job(f->s, key, 0);
        compute(f, t, jobs[k], &row, &value);
    }
    for (int k = 0; k < JOBS; k++)
        assert_true(is_known(f, t, jobs[k], &row));
    assert_true(dedupe_file(f->dir, large).bytes > 0);
    must(dedupe_idle(t, &err)); /* that is sealed, and all of its rows are done */
    assert_int_equal(dedupe_file(f->dir, large).bytes, 0);
    dedupe_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_of_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_table_that_lies, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_table_that_lies_while_rows_are_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_apart_and_killed_in_between, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filled_in_slices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filled_however_slowly, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filled_while_the_job_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_that_are_filled_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_while_a_row_is_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_jobs, setup, teardown),
    };
    log_init("test", -1, LOG_LEVEL_ERROR);
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
