/* test_ahead.c - rows that are written ahead, in many transactions: nobody sees any of them until
 * they are placed, all at once. What is not placed goes, whatever ends it, and is in nobody's
 * way. */
#include "scrub_fixture.h"

enum { N_ROWS = 300, LEN = 20 };

/* A chunk: rows {chunk, k, 7, 7 ..}; every seventh is born failed. */
struct chunk {
    struct packed_writer scratch;
    struct store_rows *rows;
    char bytes[16]; /* stand for its encoded rows */
    struct store_ahead_of of;
};

static void make_chunk(struct chunk *c, const char *key, uint32_t chunk)
{
    *c = (struct chunk){.of = {.chunk = chunk, .n_rows = N_ROWS}};
    snprintf(c->bytes, sizeof c->bytes, "%u", chunk);
    c->rows = store_rows_new(&c->scratch);
    for (int32_t k = 0; k < N_ROWS; k++) {
        int32_t ids[LEN] = {(int32_t)chunk, k, 7, 7};
        store_rows_add(c->rows, &(struct store_row){.ids = ids,
                                    .n_tokens = LEN,
                                    .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
                                    .n_values = 1,
                                    .error_code = k % 7 == 3 ? ASSAY_EBADTOKEN : 0,
                                    .error_message = "as the test wished"});
    }
    store_rows_end(c->rows);
    c->of.key = slice_of(key);
    c->of.rows = c->rows;
}

static void free_chunk(struct chunk *c)
{
    store_rows_free(&c->rows);
    packed_writer_release(&c->scratch);
}

/* Writes some rows: 1 while there are more. */
static int write_some(struct store *s, struct chunk *c)
{
    struct err err;
    must(store_begin_later(s, &err));
    int more = must(store_write_ahead(s, &c->of, 0, &err));
    must(store_commit(s, &err));
    return more;
}

/* Accepts the chunk in the open transaction, as the broker does. */
static int64_t accept_chunk(struct store *s, struct chunk *c)
{
    struct err err;
    int64_t job;
    if (!must(store_find_job(s, c->of.key, &job, &err))) {
        job = store_job_ahead(s, c->rows);
        must(store_new_job(s, c->of.key, 0, (struct slice){0}, &job, &err));
    }
    struct store_chunk chunk = {
        .job = job, .chunk = c->of.chunk, .rows = slice_of(c->bytes), .n_rows = N_ROWS};
    assert_int_equal(must(store_add_chunk(s, &chunk, &err)), CHUNK_IN_ORDER);
    must(store_add_rows(s, job, c->rows, &err));
    return job;
}

static int64_t put(struct store *s, struct chunk *c)
{
    struct err err;
    must(store_begin(s, &err));
    int64_t job = accept_chunk(s, c);
    must(store_commit(s, &err));
    store_forget_ahead(s);
    return job;
}

/* How many records of rows there are, seen or not. */
static int64_t records(const struct fixture *f)
{
    return number(f, "select (select count(*) from row) + (select count(*) from row_input)");
}

static void is_sound(const struct fixture *f)
{
    assert_int_equal(damage(f), 0);
}

/* The job has the chunk's rows from index `first` on, and they are what was sent. */
static void has_chunk(const struct fixture *f, int64_t job, uint32_t first, uint32_t chunk)
{
    struct row_list list = queued(f->s, job, (int64_t)row_id_of(job, first) - 1, 4096);
    uint32_t at = 0;
    for (int32_t k = 0; k < N_ROWS; k++) {
        if (k % 7 == 3)
            continue;
        const struct sequence *r = list.at[at++];
        assert_true(at <= list.n);
        assert_int_equal(row_index(r->row_id), first + (uint32_t)k);
        assert_int_equal(r->found_error, 0);
        assert_int_equal(r->n_tokens, LEN);
        assert_int_equal(r->ids[0], chunk);
        assert_int_equal(r->ids[1], k);
    }
    free_rows(&list);
    is_sound(f);
}

static void purge_all(struct store *s)
{
    struct err err;
    while (must(store_purge_waits(s, &err))) {
        must(store_begin(s, &err));
        must(store_purge_step(s, 0, &err));
        must(store_commit(s, &err));
    }
}

static int64_t seen(const struct fixture *f)
{
    return number(f, "select (select count(*) from rows) + (select count(*) from results) + "
                     "(select count(*) from jobs)");
}

static void a_new_job(void **state)
{
    struct fixture *f = *state;
    struct chunk c;
    int slices = 1;
    make_chunk(&c, "key", 0);
    for (; write_some(f->s, &c); slices++) {
        assert_int_equal(seen(f), 0);
        purge_all(f->s); /* leaves them alone */
    }
    assert_true(slices >= N_ROWS / 16);
    assert_int_equal(seen(f), 0);
    is_sound(f);
    int64_t before = records(f), other = put_job(f->s, "other", 0, 1, 5);
    int64_t job = put(f->s, &c);
    assert_true(other != job);
    assert_int_equal(records(f), before + 2);
    assert_int_equal(number(f, "select count(*) from purge"), 0);
    assert_int_equal(job_now(f->s, job).placed, N_ROWS);
    assert_int_equal(job_now(f->s, job).failed, (N_ROWS + 3) / 7);
    has_chunk(f, job, 0, 0);
    open_again(f);
    has_chunk(f, job, 0, 0);
    free_chunk(&c);
}

/* Its first rows share a block of states with those that are there. */
static void a_job_that_is_there(void **state)
{
    struct fixture *f = *state;
    struct chunk first, c;
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 1);
    int64_t job = put(f->s, &first), before = seen(f);
    while (write_some(f->s, &c)) {
        assert_int_equal(seen(f), before);
        is_sound(f);
    }
    assert_int_equal(finish_some(f->s, job, 10, 0), 10); /* the others go on meanwhile */
    assert_int_equal(put(f->s, &c), job);
    assert_int_equal(job_now(f->s, job).placed, 2 * N_ROWS);
    has_chunk(f, job, N_ROWS, 1);
    free_chunk(&first);
    free_chunk(&c);
}

/* A broker that ends at any slice leaves nothing, and the chunk can be sent again. */
static void an_end_at_any_slice(void **state)
{
    struct fixture *f = *state;
    struct chunk first, c, new;
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 1);
    make_chunk(&new, "new", 0);
    int64_t job = put(f->s, &first), before = records(f);
    for (int slices = 3; slices < 22; slices += 3) {
        for (int i = 0; i < slices; i++)
            write_some(f->s, slices % 2 ? &c : &new);
        assert_true(records(f) > before);
        open_again(f);
        purge_all(f->s);
        assert_int_equal(records(f), before);
        is_sound(f);
    }
    assert_int_equal(put(f->s, &c), job);
    has_chunk(f, job, N_ROWS, 1);
    has_chunk(f, put(f->s, &new), 0, 0);
    free_chunk(&first);
    free_chunk(&c);
    free_chunk(&new);
}

/* The chunk is refused in the end. Another one is placed where its rows lie. */
static void refused_in_the_end(void **state)
{
    struct fixture *f = *state;
    struct chunk first, c, again;
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 1);
    make_chunk(&again, "key", 1);
    int64_t job = put(f->s, &first);
    for (int slices = 1; slices < 8; slices++)
        write_some(f->s, &c);
    store_forget_ahead(f->s);
    assert_int_equal(put_chunk(f->s, job, 1, 5, LEN, 0), CHUNK_IN_ORDER);
    is_sound(f);
    again.of.chunk = 2;
    while (write_some(f->s, &again))
        ;
    assert_int_equal(put(f->s, &again), job);
    has_chunk(f, job, N_ROWS + 5, 1);
    free_chunk(&first);
    free_chunk(&c);
    free_chunk(&again);
}

/* What was refused is deleted bit by bit before the next rows are written ahead. */
static void deleted_before_the_next(void **state)
{
    struct fixture *f = *state;
    struct chunk first, c, new, other;
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 1);
    make_chunk(&new, "new", 0);
    make_chunk(&other, "other", 0);
    int64_t job = put(f->s, &first), before = records(f);
    while (write_some(f->s, &c))
        ;
    store_forget_ahead(f->s);
    int64_t with_c = records(f);
    assert_true(write_some(f->s, &new));
    assert_true(records(f) < with_c);
    while (write_some(f->s, &new))
        ;
    store_forget_ahead(f->s);
    purge_all(f->s);
    assert_int_equal(records(f), before);
    while (write_some(f->s, &other))
        ;
    has_chunk(f, put(f->s, &other), 0, 0);
    has_chunk(f, job, 0, 0);
    free_chunk(&first);
    free_chunk(&c);
    free_chunk(&new);
    free_chunk(&other);
}

/* The transaction that accepts it is rolled back; it comes once more. */
static void rolled_back(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct chunk c;
    make_chunk(&c, "key", 0);
    for (int round = 0; round < 2; round++) {
        while (write_some(f->s, &c))
            ;
        must(store_begin(f->s, &err));
        accept_chunk(f->s, &c);
        store_rollback(f->s);
        store_forget_ahead(f->s);
        assert_int_equal(seen(f), 0);
    }
    purge_all(f->s);
    assert_int_equal(records(f), 0);
    has_chunk(f, put(f->s, &c), 0, 0);
    free_chunk(&c);
}

/* A slice is rolled back: what it wrote is written again. */
static void a_slice_rolled_back(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct chunk c;
    make_chunk(&c, "key", 0);
    for (int committed = 0; committed < 3; committed++) {
        for (int i = 0; i < committed; i++)
            write_some(f->s, &c);
        must(store_begin_later(f->s, &err));
        must(store_write_ahead(f->s, &c.of, 0, &err));
        store_rollback(f->s);
        store_forget_ahead(f->s);
    }
    while (write_some(f->s, &c))
        ;
    has_chunk(f, put(f->s, &c), 0, 0);
    free_chunk(&c);
}

/* Not the next chunk of its job, or the job is cancelled: nothing is written. */
static void out_of_order(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct chunk first, c, past;
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 1);
    make_chunk(&past, "other", 1);
    int64_t job = put(f->s, &first), before = records(f);
    assert_int_equal(write_some(f->s, &first), 0);
    assert_int_equal(write_some(f->s, &past), 0);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, job, &err));
    must(store_commit(f->s, &err));
    assert_int_equal(write_some(f->s, &c), 0);
    assert_int_equal(records(f), before);
    free_chunk(&first);
    free_chunk(&c);
    free_chunk(&past);
}

/* The job is cancelled and purged while its rows are written. */
static void purged_meanwhile(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_purged out;
    struct chunk first, c, again;
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 1);
    make_chunk(&again, "key", 0);
    int64_t job = put(f->s, &first);
    write_some(f->s, &c);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, job, &err));
    must(store_purge(f->s, job, INT64_MAX, &out, &err));
    must(store_commit(f->s, &err));
    while (write_some(f->s, &c))
        purge_all(f->s); /* leaves its number for those that are still to come */
    store_forget_ahead(f->s);
    purge_all(f->s);
    assert_int_equal(records(f), 0);
    while (write_some(f->s, &again))
        ;
    int64_t new = put(f->s, &again);
    assert_true(new != job);
    has_chunk(f, new, 0, 0);
    free_chunk(&first);
    free_chunk(&c);
    free_chunk(&again);
}

/* A chunk past a gap, of a job that is there or not: its bytes are written, and nobody's until it
 * is accepted. A broker that ends leaves nothing. */
static void bytes_past_a_gap(void **state)
{
    enum { LONG = 5 << 18 };
    struct fixture *f = *state;
    struct err err;
    struct chunk first, c, new;
    uint8_t *bytes = calloc(1, LONG);
    make_chunk(&first, "key", 0);
    make_chunk(&c, "key", 2);
    make_chunk(&new, "new", 1);
    int64_t job = put(f->s, &first), before = seen(f);
    c.of.encoded = new.of.encoded = (struct slice){bytes, LONG};
    for (int end = 1; end < 5; end++) {
        struct chunk *at = end % 2 ? &c : &new;
        for (int i = 0; i < end; i++)
            assert_int_equal(write_some(f->s, at), 1);
        assert_int_equal(number(f, "select count(*) from piece"), end);
        assert_int_equal(seen(f), before);
        is_sound(f);
        open_again(f);
        purge_all(f->s);
        assert_int_equal(number(f, "select count(*) from piece"), 0);
    }
    while (write_some(f->s, &new))
        purge_all(f->s);
    store_forget_ahead(f->s); /* it is refused in the end */
    while (write_some(f->s, &c))
        ;
    purge_all(f->s);
    assert_int_equal(number(f, "select count(*) from piece"), 5);
    struct store_chunk past = {
        .job = job, .chunk = 2, .rows = c.of.encoded, .n_rows = N_ROWS, .seal = 1};
    must(store_begin(f->s, &err));
    assert_int_equal(must(store_add_chunk(f->s, &past, &err)), CHUNK_KEPT);
    must(store_commit(f->s, &err));
    store_forget_ahead(f->s);
    assert_int_equal(write_some(f->s, &c), 0); /* it is there */
    assert_int_equal(number(f, "select count(*) from piece"), 5);
    assert_int_equal(job_now(f->s, job).accepted, 2 * N_ROWS);
    is_sound(f);
    open_again(f);
    is_sound(f);
    assert_int_equal(number(f, "select count(*) from piece"), 5);
    free(bytes);
    free_chunk(&first);
    free_chunk(&c);
    free_chunk(&new);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_job, setup, teardown),
        cmocka_unit_test_setup_teardown(a_job_that_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_at_any_slice, setup, teardown),
        cmocka_unit_test_setup_teardown(refused_in_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(deleted_before_the_next, setup, teardown),
        cmocka_unit_test_setup_teardown(rolled_back, setup, teardown),
        cmocka_unit_test_setup_teardown(a_slice_rolled_back, setup, teardown),
        cmocka_unit_test_setup_teardown(out_of_order, setup, teardown),
        cmocka_unit_test_setup_teardown(bytes_past_a_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(purged_meanwhile, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
