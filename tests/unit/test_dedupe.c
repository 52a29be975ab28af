/* test_dedupe.c - which rows are the same, and what is known of them: their bits, their errors, and
 * what another mode made. */
#include <sodium.h>

#include "schema/log.h"
#include "schema/request.h"
#include "tests/unit/dedupe_fixture.h"

static void fail_with(
    struct fixture *f, struct dedupe *t, int64_t job, const struct store_row *row, int code)
{
    struct row_list list = put(f, job, row);
    struct store_result result = {.error_code = code, .error_message = "why"};
    answer(f, t, list.at[0], &result);
    free_rows(&list);
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

/* What was made by another checkpoint or in another way is no answer; and is one again when that is
 * back. */
static void accept_mode(struct store *s, int64_t job)
{
    struct err err;
    must(store_begin(s, &err));
    must(store_accept_mode(s, job, &err));
    must(store_commit(s, &err));
}

static void test_under_another_mode(void **state)
{
    struct fixture *f = *state;
    struct dedupe *t = open_dedupe(f);
    int64_t job = new_job(f->s, "job", 0);
    put_chunk(f->s, job, 0, 1500, 5, 0);
    compute_many(f, t, job, 1500);
    open_all_again(f, &t, "device=cpu dtype=f32 tp=2");
    accept_mode(f->s, job);
    assert_int_equal(count_known(f, t, job, 1500), 0);
    open_all_again(f, &t, MODE);
    accept_mode(f->s, job);
    assert_int_equal(count_known(f, t, job, 1500), 1500);
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
        cmocka_unit_test_setup_teardown(test_equal_hashes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_under_another_mode, setup, teardown),
    };
    log_init("test", -1, LOG_LEVEL_ERROR);
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
