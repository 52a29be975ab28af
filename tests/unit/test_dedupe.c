/* test_dedupe.c - which rows are the same, and what is known of them: now, after a restart, under
 * another mode. */
#include "tests/unit/store_fixture.h"

#include <sodium.h>
#include <sys/wait.h>

#include "broker/sched/dedupe.h"
#include "schema/log.h"
#include "schema/request.h"
#include "tests/unit/dedupe_file.h"

#define TABLES 64 /* that are open at one time */

static struct dedupe *open_dedupe(struct fixture *f)
{
    struct dedupe_options options = {
        .digest = "d", .mode = "m", .store = f->s, .data_dir = f->dir, .max_tables = TABLES};
    return dedupe_new(&options);
}

/* As a restart does it. */
static void open_all_again(struct fixture *f, struct dedupe **t, const char *mode)
{
    dedupe_free(t);
    store_close(&f->s);
    open_mode(f, mode);
    *t = open_dedupe(f);
}

static struct store_row plain(const int32_t *ids, uint32_t n)
{
    return (struct store_row){.ids = ids,
        .n_tokens = n,
        .n_parts = 1,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = 1};
}

/* One more row of the job, as the planner gets it: of a list, its sequences. */
static struct row_list put(struct fixture *f, int64_t job, const struct store_row *row)
{
    struct err err;
    int64_t last = row_id_of(job, (uint32_t)job_now(f->s, job).placed) - 1;
    must(store_begin(f->s, &err));
    must(add_rows(f->s, job, row, 1, &err));
    must(store_commit(f->s, &err));
    return queued(f->s, job, last, 1);
}

static int find(struct dedupe *t, struct sequence *r)
{
    struct err err;
    struct sequence *primary;
    int found = DEDUPE_LATER;
    while (found == DEDUPE_LATER) {
        dedupe_reset_budget(t);
        found = must(dedupe_find(t, r, &primary, &err));
    }
    return found;
}

static void record(struct fixture *f, const struct sequence *r, const struct store_result *result)
{
    struct err err;
    must(store_begin(f->s, &err));
    assert_int_equal(must(store_finish_row(f->s, r, result, &err)), 1);
    must(store_commit(f->s, &err));
}

/* It is new, and is answered so. */
static void answer(
    struct fixture *f, struct dedupe *t, struct sequence *r, const struct store_result *a)
{
    assert_int_equal(find(t, r), DEDUPE_NONE);
    dedupe_add_primary(t, r);
    record(f, r, a);
    dedupe_remove_primary(t, r, a->values);
}

static void compute(struct fixture *f, struct dedupe *t, int64_t job, const struct store_row *row,
    const float *values)
{
    struct row_list list = put(f, job, row);
    struct store_result result = {.values = values, .n_values = row->n_values};
    answer(f, t, list.at[0], &result);
    free_rows(&list);
}

static void fail_with(
    struct fixture *f, struct dedupe *t, int64_t job, const struct store_row *row, int code)
{
    struct row_list list = put(f, job, row);
    struct store_result result = {.error_code = code, .error_message = "why"};
    answer(f, t, list.at[0], &result);
    free_rows(&list);
}

static int is_known(struct fixture *f, struct dedupe *t, int64_t job, const struct store_row *row)
{
    struct row_list list = put(f, job, row);
    int known = find(t, list.at[0]) == DEDUPE_KNOWN;
    free_rows(&list);
    return known;
}

static void test_whatever_makes_a_score_is_compared(void **state)
{
    struct fixture *f = *state;
    const float value = 1.5f;
    static const int32_t ids[] = {5, 0, 3}, other_ids[] = {6, 0, 3}, two[] = {2}, one[] = {1};
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0), other = new_job(f->s, "other", 0);
    struct store_row row = plain(ids, 3), r;
    compute(f, t, job, &row, &value);
    assert_true(is_known(f, t, job, &row));
    assert_false(is_known(f, t, other, &row));
    r = row, r.ids = other_ids;
    assert_false(is_known(f, t, job, &r));
    r = row, r.n_tokens = 2;
    assert_false(is_known(f, t, job, &r));
    r = row, r.pool.type = POOL_MEAN;
    assert_false(is_known(f, t, job, &r));
    r = row, r.pool.activation = ACTIVATION_SIGMOID;
    assert_false(is_known(f, t, job, &r));
    r = row, r.n_values = 2;
    assert_false(is_known(f, t, job, &r));
    r = row, r.pool.step_token = 7; /* which LAST does not look at */
    assert_true(is_known(f, t, job, &r));
    r = row, r.pool.type = POOL_STEP, r.pool.step_token = 7;
    compute(f, t, job, &r, &value);
    assert_true(is_known(f, t, job, &r));
    r.pool.step_token = 8;
    assert_false(is_known(f, t, job, &r));
    r = row, r.pool.type = POOL_POSITIONS, r.positions = two, r.n_positions = 1;
    compute(f, t, job, &r, &value);
    assert_true(is_known(f, t, job, &r));
    r.positions = one;
    assert_false(is_known(f, t, job, &r));
    dedupe_free(&t);
    assert_null(t);
}

static void test_under_way(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct dedupe *t = open_dedupe(f);
    struct sequence *primary;
    enum { N = 3000 };
    int64_t job = put_job(f->s, "job", 0, N, 5);
    struct row_list all = queued(f->s, job, 0, N), again = queued(f->s, job, 0, N);
    for (uint32_t i = 0; i < N; i++) {
        again.at[i]->row_id = row_id_of(job, N + i);
        assert_int_equal(find(t, all.at[i]), DEDUPE_NONE);
        dedupe_add_primary(t, all.at[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(must(dedupe_find(t, again.at[i], &primary, &err)), DEDUPE_UNDER_WAY);
        assert_ptr_equal(primary, all.at[i]);
    }
    for (uint32_t i = 0; i < N; i += 2) /* those come back without an answer */
        dedupe_remove_primary(t, all.at[i], NULL);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(find(t, again.at[i]), i % 2 ? DEDUPE_UNDER_WAY : DEDUPE_NONE);
    for (uint32_t i = 1; i < N; i += 2)
        dedupe_remove_primary(t, all.at[i], NULL);
    free_rows(&all);
    free_rows(&again);
    dedupe_free(&t);
}

static void check_bits(struct fixture *f, struct dedupe *t, int64_t job,
    const struct store_row *row, const float *bits)
{
    struct row_list list = put(f, job, row);
    assert_int_equal(find(t, list.at[0]), DEDUPE_KNOWN);
    assert_int_equal(list.at[0]->origin, ROW_COPIED);
    assert_int_equal(list.at[0]->found_error, 0);
    assert_memory_equal(list.at[0]->found_values, bits, row->n_values * sizeof *bits);
    free_rows(&list);
}

static void test_the_bits_are_the_same(void **state)
{
    static const float zero = 0; /* what SQLite makes of -0.0 */
    static const float values[] = {1e-42f, -0.0f, 3.4e38f, 0.1f, -1.0f / 3};
    struct fixture *f = *state;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    for (int32_t i = 0; i < 5; i++) {
        int32_t ids[2] = {i, 9};
        struct store_row row = plain(ids, 2), all = row;
        all.pool.type = POOL_ALL;
        all.n_values = 5;
        compute(f, t, job, &row, &values[i]);
        compute(f, t, job, &all, values);
        check_bits(f, t, job, &row, values[i] == 0 ? &zero : &values[i]);
        check_bits(f, t, job, &all, values);
    }
    dedupe_free(&t);
}

/* Rows of several sequences: each is a row of its own, in both directions; of one that is not done
 * yet those sequences are known that are. */
static void test_sequences(void **state)
{
    static const float values[] = {0.25f, 0.5f};
    static const int32_t ids[] = {1, 2, 3, 1, 2};
    static const uint32_t ends[] = {3, 5};
    struct fixture *f = *state;
    struct store_row list_row = plain(ids, 5), first = plain(ids, 3), second = plain(ids + 3, 2);
    list_row.shape = ROW_RESPONSES;
    list_row.ends = ends;
    list_row.n_parts = list_row.n_values = 2;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    struct row_list list = put(f, job, &list_row);
    assert_int_equal(list.n, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(find(t, list.at[i]), DEDUPE_NONE);
        dedupe_add_primary(t, list.at[i]);
    }
    struct table in_flight = {0};
    table_set(&in_flight, list.at[0]->row_id, list.at[0]->of);
    dedupe_use_rows(t, &in_flight);
    list.at[0]->of->values[0] = values[0];
    list.at[0]->of->done[0] = 1;
    dedupe_remove_primary(t, list.at[0], values);
    check_bits(f, t, job, &first, &values[0]);
    assert_false(is_known(f, t, job, &second));
    list.at[0]->of->error_code = ASSAY_ENONFINITE; /* the second has failed, and with it the row */
    assert_false(is_known(f, t, job, &first));
    list.at[0]->of->error_code = 0;
    struct store_result result = {.values = values, .n_values = 2};
    record(f, list.at[1], &result);
    dedupe_remove_primary(t, list.at[1], values + 1);
    dedupe_use_rows(t, NULL);
    table_release(&in_flight);
    free_rows(&list);
    check_bits(f, t, job, &first, &values[0]);
    check_bits(f, t, job, &second, &values[1]);
    list = put(f, job, &list_row);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(find(t, list.at[i]), DEDUPE_KNOWN);
        assert_memory_equal(list.at[i]->found_values, &values[i], sizeof values[i]);
    }
    free_rows(&list);
    dedupe_free(&t);
}

/* A single score of zero has lost its sign, which a list would show: there it is no answer. */
static void test_the_sign_of_zero(void **state)
{
    static const float zero = -0.0f;
    static const int32_t ids[] = {1, 2, 3};
    static const uint32_t end = 3;
    struct fixture *f = *state;
    struct store_row row = plain(ids, 3), list_row = row;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    list_row.shape = ROW_RESPONSES;
    list_row.ends = &end;
    compute(f, t, job, &row, &zero);
    assert_true(is_known(f, t, job, &row));
    assert_false(is_known(f, t, job, &list_row));
    dedupe_free(&t);
}

/* An error of the content is known, another is not: it may have gone. And retried, it is
 * forgotten. */
static void test_errors(void **state)
{
    static const int codes[] = {ASSAY_ENONFINITE, ASSAY_EKILLED, ASSAY_ETOOLONG, ASSAY_EINTERNAL};
    struct fixture *f = *state;
    struct err err;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    for (int32_t i = 0; i < 4; i++) {
        int32_t ids[2] = {i, 9};
        struct store_row row = plain(ids, 2);
        fail_with(f, t, job, &row, codes[i]);
        assert_int_equal(is_known(f, t, job, &row), i < 2);
        struct row_list list = put(f, job, &row);
        find(t, list.at[0]);
        assert_int_equal(list.at[0]->found_error, i < 2 ? codes[i] : 0);
        if (i < 2)
            assert_string_equal(list.at[0]->found_message, "why");
        free_rows(&list);
    }
    must(store_begin(f->s, &err));
    assert_int_equal(retry_rows(f->s, job), 4);
    must(store_commit(f->s, &err));
    for (int32_t i = 0; i < 4; i++) {
        int32_t ids[2] = {i, 9};
        struct store_row row = plain(ids, 2);
        assert_false(is_known(f, t, job, &row));
    }
    dedupe_free(&t);
}

static void compute_many(struct fixture *f, struct dedupe *t, int64_t job, uint32_t n)
{
    struct err err;
    struct row_list list = queued(f->s, job, 0, n);
    assert_int_equal(list.n, n);
    must(store_begin(f->s, &err));
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(find(t, list.at[i]), DEDUPE_NONE);
        dedupe_add_primary(t, list.at[i]);
        assert_int_equal(finish(f->s, list.at[i], 0), 1);
    }
    must(store_commit(f->s, &err));
    for (uint32_t i = 0; i < n; i++)
        dedupe_remove_primary(t, list.at[i], NULL);
    free_rows(&list);
}

/* Row k of the chunk that is put now is row k of the first one again. */
static uint32_t count_known(struct fixture *f, struct dedupe *t, int64_t job, uint32_t n)
{
    struct err err;
    uint32_t known = 0;
    int64_t last = row_id_of(job, (uint32_t)job_now(f->s, job).placed) - 1;
    must(store_begin(f->s, &err));
    for (uint32_t k = 0; k < n; k++)
        add_row(f->s, job, 0, k, 5);
    must(store_commit(f->s, &err));
    struct row_list list = queued(f->s, job, last, n);
    for (uint32_t k = 0; k < n; k++)
        known +=
            find(t, list.at[k]) == DEDUPE_KNOWN && list.at[k]->found_values[0] == (float)k + 0.5f;
    assert_int_equal(list.n, n);
    free_rows(&list);
    return known;
}

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

/* All with one hash, under way and answered: only what is the same is found. */
static void test_equal_hashes(void **state)
{
    enum { N = 12 };
    struct fixture *f = *state;
    struct err err;
    struct sequence *primary;
    struct dedupe *t = open_dedupe(f);
    int64_t job = put_job(f->s, "job", 0, N, 5);
    struct row_list all = queued(f->s, job, 0, N), again = queued(f->s, job, 0, N);
    for (uint32_t i = 0; i < N; i++) {
        again.at[i]->row_id = row_id_of(job, N + i);
        find(t, all.at[i]); /* gives it the table's seed */
        find(t, again.at[i]);
        all.at[i]->hash = again.at[i]->hash = 0x1234567890;
    }
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(find(t, all.at[i]), DEDUPE_NONE);
        dedupe_add_primary(t, all.at[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(must(dedupe_find(t, again.at[i], &primary, &err)), DEDUPE_UNDER_WAY);
        assert_ptr_equal(primary, all.at[i]);
    }
    must(store_begin(f->s, &err));
    for (uint32_t i = 0; i < N; i += 2)
        assert_int_equal(finish(f->s, all.at[i], 0), 1);
    must(store_commit(f->s, &err));
    for (uint32_t i = 0; i < N; i++)
        dedupe_remove_primary(t, all.at[i], NULL);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(find(t, again.at[i]), i % 2 ? DEDUPE_NONE : DEDUPE_KNOWN);
        assert_true(i % 2 || again.at[i]->found_values[0] == (float)i + 0.5f);
    }
    free_rows(&all);
    free_rows(&again);
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
    char key[8];
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

/* What was made by another checkpoint or in another way is no answer; and is one again when that is
 * back. */
static void test_under_another_mode(void **state)
{
    struct fixture *f = *state;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    put_chunk(f->s, job, 0, 1500, 5, 0);
    compute_many(f, t, job, 1500);
    open_all_again(f, &t, "device=cpu dtype=f32 tp=2");
    assert_int_equal(count_known(f, t, job, 1500), 0);
    open_all_again(f, &t, MODE);
    assert_int_equal(count_known(f, t, job, 1500), 1500);
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
        cmocka_unit_test_setup_teardown(test_whatever_makes_a_score_is_compared, setup, teardown),
        cmocka_unit_test_setup_teardown(test_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_bits_are_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sequences, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_sign_of_zero, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_of_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_table_that_lies, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_table_that_lies_while_rows_are_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_equal_hashes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_apart_and_killed_in_between, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filled_in_slices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filled_however_slowly, setup, teardown),
        cmocka_unit_test_setup_teardown(test_filled_while_the_job_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_that_are_filled_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_under_another_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_while_a_row_is_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_jobs, setup, teardown),
    };
    log_init("test", -1, LOG_LEVEL_ERROR);
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
