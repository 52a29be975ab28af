/* test_store_results.c - results as they are read: each once along the cursors, by index, in every
 * shape. */
#include "tests/unit/seen_results.h"

static void test_cursor_gives_each_row_once(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "cursor", 0, 500, 4);
    int64_t other = put_job(f->s, "other", 0, 500, 4);
    struct seen seen = {0};
    struct row_list list = queued(f->s, job, 0, 500);
    srand(1);
    for (uint32_t i = list.n - 1; i > 0; i--) { /* completion in another order than i */
        uint32_t k = (uint32_t)rand() % (i + 1);
        struct sequence *swap = list.at[i];
        list.at[i] = list.at[k];
        list.at[k] = swap;
    }
    for (uint32_t i = 0; i < 500; i++) {
        must(store_begin(f->s, &err));
        assert_int_equal(finish(f->s, list.at[i], i % 50 == 0 ? ASSAY_ENONFINITE : 0), 1);
        assert_int_equal(finish(f->s, list.at[i], 0), 0); /* a second result is dropped */
        must(store_commit(f->s, &err));
        if (i % 7 == 0)
            must(store_each_result(
                f->s, &(struct store_page){job, seen.cursor, 5}, see, &seen, &err));
    }
    finish_some(f->s, other, 100, 0);
    for (uint32_t before = seen.n + 1; before != seen.n;) {
        before = seen.n;
        must(store_each_result(f->s, &(struct store_page){job, seen.cursor, 33}, see, &seen, &err));
    }
    assert_int_equal(seen.n, 500);
    assert_int_equal(seen.failed, 10);
    for (uint32_t i = 0; i < 500; i++)
        assert_int_equal(seen.i[i], row_index(list.at[i]->row_id)); /* the order of completion */
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    free_rows(&list);
}

static int see_by_index(void *arg, const struct store_result_row *row)
{
    uint32_t *n = arg;
    assert_int_equal(row->i, *n);
    ++*n;
    return *n == 30; /* ends the walk */
}

static void test_results_by_index(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "by index", 0, 50, 4);
    struct row_list list = queued(f->s, job, 0, 50);
    must(store_begin(f->s, &err));
    for (uint32_t i = list.n; i-- > 0;)
        finish(f->s, list.at[i], 0);
    must(store_commit(f->s, &err));
    uint32_t n = 0;
    must(store_each_result_by_index(f->s, job, 0, see_by_index, &n, &err));
    assert_int_equal(n, 30);
    free_rows(&list);
}

struct shape {
    int pool_type;
    uint32_t n_values, n_pooled;
    int32_t pooled[6];
};

static int see_shape(void *arg, const struct store_result_row *row)
{
    const struct shape *shape = (const struct shape *)arg + row->i;
    assert_int_equal(row->pool.type, shape->pool_type);
    assert_int_equal(row->n_values, shape->n_values);
    for (uint32_t k = 0; k < row->n_values; k++)
        assert_true(row->values[k] == 0.1f * (float)(k + 1));
    assert_int_equal(row->n_pooled, shape->n_pooled);
    if (shape->n_pooled > 0)
        assert_memory_equal(row->pooled_at, shape->pooled, shape->n_pooled * 8);
    return 0;
}

/* Every pooling of the row {10, 9, 12, 9}, step token 9, positions 2 and 0. The last shape is a
 * LAST row that carries the position to use. */
static void test_pooled_at_and_shapes(void **state)
{
    struct fixture *f = *state;
    struct err err;
    const int32_t ids[4] = {10, 9, 12, 9}, positions[2] = {2, 0};
    const float values[8] = {
        0.1f * 1, 0.1f * 2, 0.1f * 3, 0.1f * 4, 0.1f * 5, 0.1f * 6, 0.1f * 7, 0.1f * 8};
    static const struct shape shapes[] = {
        {POOL_LAST, 1, 1, {3, 9}},
        {POOL_CLS, 2, 1, {0, 10}},
        {POOL_MEAN, 1, 0, {0}},
        {POOL_ALL, 8, 0, {0}},
        {POOL_STEP, 2, 2, {1, 9, 3, 9}},
        {POOL_POSITIONS, 4, 2, {2, 12, 0, 10}},
        {POOL_STEP, 2, 2, {1, 9, 3, 9}},
        {POOL_LAST, 1, 1, {2, 12}},
    };
    const uint32_t n = sizeof shapes / sizeof *shapes;
    int64_t job = new_job(f->s, "shapes", 0);
    struct store_chunk chunk = {.job = job, .n_rows = n, .seal = 1, .rows = slice_of("\x98")};
    must(store_begin(f->s, &err));
    assert_int_equal(store_add_chunk(f->s, &chunk, &err), CHUNK_IN_ORDER);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_positions = shapes[i].pool_type == POOL_POSITIONS ? 2 : i == n - 1;
        struct store_row row = {.ids = ids,
            .n_tokens = 4,
            .pool = {shapes[i].pool_type, ACTIVATION_NONE, 9},
            .positions = n_positions ? positions : NULL,
            .n_positions = n_positions,
            .n_values = shapes[i].n_values};
        must(add_rows(f->s, job, &row, 1, &err));
    }
    must(store_commit(f->s, &err));
    open_again(f);
    struct row_list list = queued(f->s, job, 0, 100);
    assert_int_equal(list.n, n);
    must(store_begin(f->s, &err));
    for (uint32_t i = 0; i < n; i++) {
        assert_memory_equal(list.at[i]->ids, ids, sizeof ids);
        assert_int_equal(list.at[i]->n_values, shapes[i].n_values);
        struct store_result result = {.values = values, .n_values = shapes[i].n_values};
        assert_int_equal(must(store_finish_row(f->s, list.at[i], &result, &err)), 1);
    }
    must(store_commit(f->s, &err));
    must(store_each_result(
        f->s, &(struct store_page){job, 0, 100}, see_shape, (void *)shapes, &err));
    char out[1024];
    assert_string_equal(
        shell(f, "select typeof(score), values_json from results order by i", out, sizeof out),
        "real|\n"
        "null|[0.100000001,0.200000003]\n"
        "real|\n"
        "null|[0.100000001,0.200000003,0.300000012,0.400000006,0.5,0.600000024,0.699999988,"
        "0.800000012]\n"
        "null|[0.100000001,0.200000003]\n"
        "null|[0.100000001,0.200000003,0.300000012,0.400000006]\n"
        "null|[0.100000001,0.200000003]\n"
        "real|\n");
    free_rows(&list);
}

struct ids_seen {
    struct slice want[8];
    uint32_t n;
};

static int see_id(void *arg, const struct store_result_row *row)
{
    struct ids_seen *ids = arg;
    struct slice want = ids->want[ids->n++];
    assert_int_equal(row->client_id.at == NULL, want.at == NULL);
    assert_int_equal(row->client_id.len, want.len);
    if (want.at)
        assert_memory_equal(row->client_id.at, want.at, want.len);
    return 0;
}

static void test_client_ids_come_back(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct ids_seen ids = {
        .want = {{(const uint8_t *)"\x07", 1}, {(const uint8_t *)"\xa5hello", 6},
            {(const uint8_t *)"\xd3\x80\0\0\0\0\0\0\0", 9},               /* the least integer */
            {(const uint8_t *)"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9}, /* the greatest */
            {NULL, 0}, {(const uint8_t *)"\xa0", 1},
            {(const uint8_t *)"\xa1"
                              "7",
                2}}};
    int64_t job = new_job(f->s, "ids", 0);
    struct store_chunk chunk = {.job = job, .n_rows = 7, .seal = 1, .rows = slice_of("\x97")};
    must(store_begin(f->s, &err));
    assert_int_equal(store_add_chunk(f->s, &chunk, &err), CHUNK_IN_ORDER);
    for (int i = 0; i < 7; i++) {
        struct store_row row = {.client_id = ids.want[i],
            .pool.type = POOL_LAST,
            .error_code = ASSAY_ENOTOKENS,
            .error_message = "no tokens"};
        must(add_rows(f->s, job, &row, 1, &err));
    }
    must(store_commit(f->s, &err));
    assert_int_equal(job_now(f->s, job).state, JOB_DONE); /* all rows were born failed */
    assert_int_equal(job_now(f->s, job).failed, 7);
    must(store_each_result(f->s, &(struct store_page){job, 0, 100}, see_id, &ids, &err));
    assert_int_equal(ids.n, 7);
    char out[1024];
    assert_string_equal(
        shell(f, "select typeof(id), id, state from rows order by i", out, sizeof out),
        "integer|7|failed\ntext|hello|failed\ninteger|-9223372036854775808|failed\n"
        "text|18446744073709551615|failed\nnull||failed\ntext||failed\ntext|7|failed\n");
    assert_string_equal(shell(f, "select distinct code, message from errors", out, sizeof out),
        "no_tokens|no tokens\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cursor_gives_each_row_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_results_by_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pooled_at_and_shapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_ids_come_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
