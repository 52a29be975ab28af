/* test_kept_chunks.c - chunks that are kept: their bytes in pieces, and their rows placed in
 * several transactions. A broker that ends in between goes on where it was, and no row is placed
 * twice. */
#include "scrub_fixture.h"

#include "broker/store/private.h"

enum { N_ROWS = 400, LEN = 20, BYTES = 1 << 20 };

/* Bytes that stand for the encoded rows of a chunk. */
static uint8_t *bytes_of(uint32_t chunk)
{
    uint8_t *bytes = malloc(BYTES);
    for (uint32_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 977 + chunk);
    return bytes;
}

/* Its rows from `first` on, {chunk, k, 7, 7 ..}; k % 5 == 2 is born failed, and so are 100 to
 * 250. */
static struct store_rows *rows_of(uint32_t chunk, uint32_t first)
{
    struct packed_writer scratch = {0};
    struct store_rows *rows = store_rows_new(&scratch);
    for (uint32_t k = first; k < N_ROWS; k++) {
        int32_t ids[LEN] = {(int32_t)chunk, (int32_t)k, 7, 7};
        store_rows_add(
            rows, &(struct store_row){.ids = ids,
                      .n_tokens = LEN,
                      .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
                      .n_values = 1,
                      .error_code = k % 5 == 2 || (k >= 100 && k < 250) ? ASSAY_EBADTOKEN : 0,
                      .error_message = "as the test wished"});
    }
    store_rows_end(rows);
    packed_writer_release(&scratch);
    return rows;
}

static int add(struct store *s, int64_t job, uint32_t chunk, int is_slow)
{
    struct err err;
    uint8_t *bytes = bytes_of(chunk);
    struct store_chunk c = {
        .job = job, .chunk = chunk, .rows = {bytes, BYTES}, .n_rows = N_ROWS, .is_slow = is_slow};
    must(store_begin(s, &err));
    int outcome = store_add_chunk(s, &c, &err);
    must(store_commit(s, &err));
    free(bytes);
    return outcome;
}

/* Places some of the next chunk: 1 while there are more. */
static int place_some(struct store *s, struct store_pending *p, const struct store_rows *rows,
    struct store_written *w, int keep)
{
    struct err err;
    must(store_begin(s, &err));
    int more = must(store_place_pending(s, p, rows, w, 0, &err));
    if (keep)
        must(store_commit(s, &err));
    else
        store_rollback(s);
    return more;
}

/* The job has all rows of n chunks, in order, and each once. */
static void has_chunks(const struct fixture *f, int64_t job, uint32_t n)
{
    struct row_list list = queued(f->s, job, 0, 8192);
    uint32_t at = 0;
    for (uint32_t k = 0; k < n * N_ROWS; k++) {
        uint32_t i = k % N_ROWS;
        if (i % 5 == 2 || (i >= 100 && i < 250))
            continue;
        assert_true(at < list.n);
        const struct sequence *r = list.at[at++];
        assert_int_equal(row_index(r->row_id), k);
        assert_int_equal(r->found_error, 0);
        assert_int_equal(r->ids[0], k / N_ROWS);
        assert_int_equal(r->ids[1], i);
    }
    assert_int_equal(at, list.n);
    struct store_job j = job_now(f->s, job);
    assert_int_equal(j.placed, n * N_ROWS);
    assert_int_equal(j.accepted, n * N_ROWS);
    assert_int_equal(j.done, n * N_ROWS - list.n);
    assert_int_equal(j.failed, j.done);
    assert_int_equal(store_queued_bytes(f->s), (uint64_t)list.n * LEN * 4);
    free_rows(&list);
    assert_int_equal(damage(f), 0);
}

/* In order and slow, in one go. */
static void in_slices(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_pending p;
    struct store_written w = {0};
    struct store_rows *rows = rows_of(0, 0);
    int64_t job = new_job(f->s, "key", 0);
    int slices = 1;
    assert_int_equal(store_rows_failed(rows), 200);
    assert_int_equal(add(f->s, job, 0, 1), CHUNK_KEPT);
    assert_int_equal(add(f->s, job, 0, 1), CHUNK_SAME);
    assert_int_equal(number(f, "select count(*) from piece"), 4);
    assert_int_equal(must(store_next_pending(f->s, job, &p, &err)), 1);
    assert_int_equal(p.bytes, BYTES);
    uint8_t *bytes = read_pending(f->s, &p);
    assert_true(store_pending_is_sound(&p, bytes));
    free(bytes);
    for (; place_some(f->s, &p, rows, &w, 1); slices++) {
        assert_int_equal(job_now(f->s, job).placed, w.n_rows);
        assert_int_equal(damage(f), 0);
    }
    assert_true(slices >= N_ROWS / 64);
    must(store_begin(f->s, &err));
    while (must(store_drop_pieces(f->s, job, 0, 0, &err)))
        ;
    must(store_commit(f->s, &err));
    assert_int_equal(number(f, "select count(*) from piece"), 0);
    assert_int_equal(must(store_next_pending(f->s, job, &p, &err)), 0);
    has_chunks(f, job, 1);
    store_rows_free(&rows);
}

/* The broker ends, or a transaction is rolled back, after each part. Rows finish meanwhile. */
static void an_end_at_any_slice(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = new_job(f->s, "key", 0), found;
    assert_int_equal(add(f->s, job, 1, 0), CHUNK_KEPT);
    assert_int_equal(must(store_jobs_with_pending(f->s, 0, &found, &err)), 0);
    assert_int_equal(add(f->s, job, 0, 1), CHUNK_KEPT);
    for (int part = 0, more = 1; more; part++) {
        struct store_pending p;
        struct store_written w = {0};
        assert_int_equal(must(store_jobs_with_pending(f->s, 0, &found, &err)), 1);
        assert_int_equal(found, job);
        assert_int_equal(must(store_next_pending(f->s, job, &p, &err)), 1);
        assert_int_equal(p.n_left, N_ROWS - p.n_placed);
        struct store_rows *rows = rows_of(p.chunk, p.n_placed);
        more = place_some(f->s, &p, rows, &w, part % 3 != 2) || part % 3 == 2 || p.chunk == 0;
        if (part % 2)
            open_again(f);
        assert_int_equal(damage(f), 0);
        store_rows_free(&rows);
    }
    has_chunks(f, job, 2);
    open_again(f); /* deletes what nobody has */
    assert_int_equal(number(f, "select count(*) from piece"), 0);
    assert_int_equal(must(store_jobs_with_pending(f->s, 0, &found, &err)), 0);
    has_chunks(f, job, 2);
}

/* What is not as it arrived gives damaged rows, those that are not placed yet. */
static void damaged_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_pending p;
    struct store_written w = {0};
    int64_t job = new_job(f->s, "key", 0);
    struct store_rows *rows = rows_of(0, 0);
    add(f->s, job, 0, 1);
    must(store_next_pending(f->s, job, &p, &err));
    place_some(f->s, &p, rows, &w, 1);
    place_some(f->s, &p, rows, &w, 1);
    uint32_t placed = w.n_rows;
    store_rows_free(&rows);
    store_close(&f->s);
    run_sql(f, "update piece set bytes = zeroblob(length(bytes)) where piece = 2;");
    open_mode(f, MODE);
    assert_int_equal(damage(f), 1);
    assert_int_equal(must(store_next_pending(f->s, job, &p, &err)), 1);
    uint8_t *bytes = read_pending(f->s, &p);
    assert_false(store_pending_is_sound(&p, bytes));
    free(bytes);
    rows = store_damaged_rows(p.n_left);
    w = (struct store_written){0};
    while (place_some(f->s, &p, rows, &w, 1))
        ;
    store_rows_free(&rows);
    assert_int_equal(job_now(f->s, job).placed, N_ROWS);
    assert_int_equal(
        number(f, "select count(*) from errors where code = 'damaged'"), N_ROWS - placed);
}

/* A mended job keeps the part that is placed. */
static void mended_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_pending p;
    struct store_written w = {0};
    int64_t job = new_job(f->s, "key", 0);
    struct store_rows *rows = rows_of(0, 0);
    add(f->s, job, 0, 1);
    must(store_next_pending(f->s, job, &p, &err));
    place_some(f->s, &p, rows, &w, 1);
    place_some(f->s, &p, rows, &w, 1);
    store_rows_free(&rows);
    store_close(&f->s);
    run_sql(f, "update job set placed = 3, next_chunk = 9, accepted = 1, done = 2;");
    open_mode(f, MODE);
    assert_int_equal(job_now(f->s, job).placed, w.n_rows);
    assert_int_equal(job_now(f->s, job).accepted, N_ROWS);
    assert_int_equal(must(store_next_pending(f->s, job, &p, &err)), 1);
    assert_int_equal(p.n_placed, w.n_rows);
    rows = rows_of(0, p.n_placed);
    w = (struct store_written){0};
    while (place_some(f->s, &p, rows, &w, 1))
        ;
    store_rows_free(&rows);
    open_again(f);
    has_chunks(f, job, 1);
}

/* Its record is damaged: it has to be sent again, and its rows are there once. */
static void a_record_damaged_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_pending p;
    struct store_written w = {0};
    int64_t job = new_job(f->s, "key", 0);
    struct store_rows *rows = rows_of(0, 0);
    add(f->s, job, 0, 1);
    must(store_next_pending(f->s, job, &p, &err));
    for (int part = 0; part < 4; part++)
        place_some(f->s, &p, rows, &w, 1);
    store_rows_free(&rows);
    store_close(&f->s);
    run_sql(f, "update chunk set seal = 1;");
    open_mode(f, MODE);
    assert_int_equal(job_now(f->s, job).placed, 0);
    assert_int_equal(damage(f), 0);
    assert_int_equal(add(f->s, job, 0, 1), CHUNK_KEPT);
    must(store_next_pending(f->s, job, &p, &err));
    rows = rows_of(0, 0);
    w = (struct store_written){0};
    while (place_some(f->s, &p, rows, &w, 1))
        ;
    store_rows_free(&rows);
    open_again(f);
    has_chunks(f, job, 1);
}

/* Nothing is added to a job that is cancelled; a purge takes the pieces as well. */
static void cancelled_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_pending p;
    struct store_written w = {0};
    struct store_purged out;
    int64_t job = new_job(f->s, "key", 0);
    struct store_rows *rows = rows_of(0, 0);
    add(f->s, job, 0, 1);
    add(f->s, job, 2, 0);
    must(store_next_pending(f->s, job, &p, &err));
    place_some(f->s, &p, rows, &w, 1);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, job, &err));
    must(store_commit(f->s, &err));
    assert_int_equal(place_some(f->s, &p, rows, &w, 1), 0);
    assert_int_equal(must(store_next_pending(f->s, job, &p, &err)), 0);
    assert_int_equal(job_now(f->s, job).placed, w.n_rows);
    assert_int_equal(damage(f), 0);
    must(store_begin(f->s, &err));
    must(store_purge(f->s, job, INT64_MAX, &out, &err));
    must(store_commit(f->s, &err));
    while (must(store_purge_waits(f->s, &err))) {
        must(store_begin(f->s, &err));
        must(store_purge_step(f->s, 0, &err));
        must(store_commit(f->s, &err));
    }
    assert_int_equal(number(f, "select (select count(*) from piece) + (select count(*) from row) + "
                               "(select count(*) from chunk)"),
        0);
    store_rows_free(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(in_slices, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_at_any_slice, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_in_the_middle, setup, teardown),
        cmocka_unit_test_setup_teardown(mended_in_the_middle, setup, teardown),
        cmocka_unit_test_setup_teardown(a_record_damaged_in_the_middle, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelled_in_the_middle, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
