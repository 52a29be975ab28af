/* test_twins.c - which rows are the same, what is remembered of them, and for how long. */
#include "tests/unit/store_fixture.h"

#include <sodium.h>

#include "broker/twins.h"

static struct twins *with(struct fixture *f, const char *digest, const char *mode, uint32_t n)
{
    struct twins_options options = {digest, mode, f->s, NULL, n};
    return twins_new(&options);
}

static struct row *make(int64_t job, uint32_t i, int32_t id, uint32_t n_positions)
{
    struct row *r = row_new(3, n_positions);
    r->row = row_number(job, i);
    r->pool_type = n_positions ? POOL_POSITIONS : POOL_LAST;
    r->activation = ACTIVATION_NONE;
    r->step_token = -1;
    r->n_values = n_positions ? n_positions : 1;
    r->ids[0] = id;
    return r;
}

static int find(struct twins *t, struct row *r)
{
    struct err err;
    struct row *leader;
    return must(twins_find(t, r, &leader, &err));
}

/* A row like that, computed with this result. */
static void compute(struct twins *t, struct row *r, const float *values)
{
    assert_int_equal(find(t, r), TWINS_NONE);
    twins_lead(t, r);
    twins_end(t, r, values);
    row_free(&r);
}

static int is_known(struct twins *t, struct row *r)
{
    int known = find(t, r) == TWINS_KNOWN;
    row_free(&r);
    return known;
}

static void test_whatever_makes_a_score_makes_the_key(void **state)
{
    const float value = 1.5f;
    struct twins *t = with(*state, "d", "m", 4096);
    struct row *r;
    compute(t, make(1, 0, 5, 0), &value);
    assert_true(is_known(t, make(1, 1, 5, 0)));
    assert_false(is_known(t, make(1, 1, 6, 0)));
    assert_false(is_known(t, make(2, 0, 5, 0))); /* another job's */
    assert_false(is_known(t, make(1, 1, 5, 1)));
    r = make(1, 1, 5, 0), r->pool_type = POOL_MEAN;
    assert_false(is_known(t, r));
    r = make(1, 1, 5, 0), r->activation = ACTIVATION_SIGMOID;
    assert_false(is_known(t, r));
    r = make(1, 1, 5, 0), r->n_values = 2;
    assert_false(is_known(t, r));
    r = make(1, 1, 5, 0), r->step_token = 7; /* which LAST does not look at */
    assert_true(is_known(t, r));
    r = make(1, 1, 5, 0), r->n_tokens = 2;
    assert_false(is_known(t, r));
    r = make(1, 1, 5, 0), r->pool_type = POOL_STEP, r->step_token = 7;
    compute(t, r, &value);
    r = make(1, 1, 5, 0), r->pool_type = POOL_STEP, r->step_token = 8;
    assert_false(is_known(t, r));
    r = make(1, 1, 5, 1), r->positions[0] = 2;
    compute(t, r, &value);
    r = make(1, 1, 5, 1), r->positions[0] = 1;
    assert_false(is_known(t, r));
    twins_free(&t);
    assert_null(t);
}

static void test_keys_are_of_a_model_and_a_mode(void **state)
{
    static const char *const names[][2] = {{"d", "m"}, {"e", "m"}, {"d", "n"}, {"dm", ""}};
    uint8_t keys[4][ROW_KEY_BYTES];
    for (int i = 0; i < 4; i++) {
        struct twins *t = with(*state, names[i][0], names[i][1], 8);
        struct row *r = make(1, 0, 5, 0);
        find(t, r);
        memcpy(keys[i], r->key, sizeof r->key);
        row_free(&r);
        twins_free(&t);
        for (int k = 0; k < i; k++)
            assert_memory_not_equal(keys[i], keys[k], ROW_KEY_BYTES);
    }
}

/* Also where their places in the table are the same. */
static void test_jobs_are_apart(void **state)
{
    const float value = 1.5f;
    struct twins *t = with(*state, "d", "m", 8);
    compute(t, make(1, 0, 5, 0), &value);
    assert_true(is_known(t, make(1, 1, 5, 0)));
    for (int job = 2; job < 20; job++)
        assert_false(is_known(t, make(job, 1, 5, 0)));
    twins_free(&t);
}

static void test_under_way(void **state)
{
    struct err err;
    struct twins *t = with(*state, "d", "m", 4096);
    struct row *all[3000], *leader, *r;
    for (int i = 0; i < 3000; i++) {
        all[i] = make(1, (uint32_t)i, i, 0);
        assert_int_equal(find(t, all[i]), TWINS_NONE);
        twins_lead(t, all[i]);
    }
    for (int i = 0; i < 3000; i++) {
        r = make(1, 5000, i, 0);
        assert_int_equal(must(twins_find(t, r, &leader, &err)), TWINS_UNDER_WAY);
        assert_ptr_equal(leader, all[i]);
        row_free(&r);
    }
    for (int i = 0; i < 3000; i += 2) { /* those come back without an answer */
        twins_end(t, all[i], NULL);
        row_free(&all[i]);
    }
    for (int i = 0; i < 3000; i++) {
        r = make(1, 5000, i, 0);
        assert_int_equal(
            must(twins_find(t, r, &leader, &err)), i % 2 ? TWINS_UNDER_WAY : TWINS_NONE);
        row_free(&r);
    }
    for (int i = 1; i < 3000; i += 2) {
        twins_end(t, all[i], NULL);
        row_free(&all[i]);
    }
    twins_free(&t);
}

static void test_the_bits_are_the_same(void **state)
{
    static const float values[] = {-0.0f, 1e-42f, 3.4e38f, 0.1f, -1.0f / 3};
    struct twins *t = with(*state, "d", "m", 4096);
    for (int i = 0; i < 5; i++) {
        compute(t, make(1, (uint32_t)i, i, 0), &values[i]);
        struct row *r = make(1, 100, i, 0);
        assert_int_equal(find(t, r), TWINS_KNOWN);
        assert_int_equal(r->origin, ROW_COPIED);
        assert_memory_equal(r->known, &values[i], sizeof values[i]);
        row_free(&r);
    }
    twins_free(&t);
}

/* Results of several numbers come from the twin's row. */
static void test_vectors(void **state)
{
    struct fixture *f = *state;
    struct err err;
    static const float values[] = {0.5f, -0.0f, 7};
    struct store_result result = {.values = values, .n_values = 3};
    struct twins *t = with(f, "d", "m", 4096);
    int64_t job = put_job(f->s, "vectors", 0, 2, 5);
    struct row_list list = queued(f->s, job, 0, 2);
    for (uint32_t i = 0; i < 2; i++) {
        list.at[i]->n_values = 3;
        list.at[i]->pool_type = POOL_ALL;
        list.at[i]->ids[1] = 0; /* the same, then */
    }
    assert_int_equal(find(t, list.at[0]), TWINS_NONE);
    twins_lead(t, list.at[0]);
    twins_end(t, list.at[0], values);
    assert_int_equal(find(t, list.at[1]), TWINS_NONE); /* there is no such result */
    must(store_begin(f->s, &err));
    assert_int_equal(must(store_finish_row(f->s, list.at[0], &result, &err)), 1);
    must(store_commit(f->s, &err));
    assert_int_equal(find(t, list.at[1]), TWINS_KNOWN);
    assert_memory_equal(list.at[1]->known, values, sizeof values);
    free_rows(&list);
    twins_free(&t);
}

/* With room for 4096 the last 1000 are found and those of long ago are not. */
static void test_what_was_long_ago_is_forgotten(void **state)
{
    enum { N = 60000, NEAR = 1000 };
    struct twins *t = with(*state, "d", "m", 4096);
    int n_near = 0, n_far = 0;
    for (int i = 0; i < N; i++) {
        float value = (float)i;
        compute(t, make(1, (uint32_t)i, i, 0), &value);
    }
    for (int i = 0; i < NEAR; i++) {
        n_near += is_known(t, make(1, N, N - 1 - i, 0));
        n_far += is_known(t, make(1, N, i, 0));
    }
    assert_true(n_near > NEAR * 99 / 100);
    assert_int_equal(n_far, 0);
    twins_free(&t);
}

/* The table doubles on its way and loses nothing by it; who is asked for stays. */
static void test_the_table_grows(void **state)
{
    enum { N = 100000 };
    struct twins *t = with(*state, "d", "m", 1u << 18);
    int n = 0;
    for (int i = 0; i < N; i++) {
        float value = (float)i;
        compute(t, make(1, (uint32_t)i, i, 0), &value);
        assert_true(is_known(t, make(1, N, 0, 0)));
    }
    for (int i = 0; i < N; i++) {
        struct row *r = make(1, N, i, 0);
        n += find(t, r) == TWINS_KNOWN && r->known[0] == (float)i;
        row_free(&r);
    }
    assert_true(n > N * 99 / 100);
    twins_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whatever_makes_a_score_makes_the_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_are_of_a_model_and_a_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jobs_are_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_bits_are_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vectors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_long_ago_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_table_grows, setup, teardown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
