/* test_store.c - the store on real files: chunks in any order, results once, states, holding, the
 * views as any sqlite3 sees them, kill -9, and a full disk. */
#include "tests/unit/store_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#include <sqlite3.h>

#include "broker/store_private.h"
#include "schema/log.h"

/* ---- chunks ---- */

static void check_order(struct store *s, int64_t job, const uint32_t *n_rows, uint32_t n_chunks)
{
    struct row_list list = queued(s, job, 0, 4096);
    uint32_t i = 0;
    for (uint32_t c = 0; c < n_chunks; c++)
        for (uint32_t k = 0; k < n_rows[c]; k++, i++) {
            assert_true(i < list.n);
            assert_int_equal(row_index(list.at[i]->row), i);
            assert_int_equal(row_job(list.at[i]->row), job);
            assert_int_equal(list.at[i]->ids[0], c);
            assert_int_equal(list.at[i]->ids[1], k);
        }
    assert_int_equal(list.n, i);
    free_rows(&list);
}

/* Four chunks, the seal on the last, in all 24 orders; the second one is empty. */
static void test_chunks_in_any_order(void **state)
{
    struct fixture *f = *state;
    const uint32_t n_rows[4] = {3, 0, 5, 2};
    for (int order = 0; order < 256; order++) {
        int at[4], seen = 0;
        for (int i = 0; i < 4; i++) {
            at[i] = order >> 2 * i & 3;
            seen |= 1 << at[i];
        }
        if (seen != 15)
            continue;
        char key[16];
        snprintf(key, sizeof key, "order-%d", order);
        int64_t job = new_job(f->s, key, 0);
        int next = 0;
        for (int i = 0; i < 4; i++) {
            uint32_t c = (uint32_t)at[i];
            assert_int_equal(job_now(f->s, job).sealed, 0);
            int outcome = put_chunk(f->s, job, c, n_rows[c], 4, c == 3);
            assert_int_equal(outcome, at[i] == next ? CHUNK_IN_ORDER : CHUNK_PAST_GAP);
            for (int there = 1; there;) {
                there = 0;
                for (int k = 0; k <= i; k++)
                    if (at[k] == next) {
                        next++;
                        there = 1;
                    }
            }
            if (i == 1)
                open_again(f); /* what is kept past a gap outlives the broker */
        }
        struct store_job now = job_now(f->s, job);
        assert_int_equal(now.sealed, 1);
        assert_int_equal(now.total, 10);
        assert_int_equal(now.placed, 10);
        assert_int_equal(now.accepted, 10);
        check_order(f->s, job, n_rows, 4);
    }
}

static void test_same_chunk_again(void **state)
{
    struct fixture *f = *state;
    int64_t job = new_job(f->s, "again", 0);
    assert_int_equal(put_chunk(f->s, job, 0, 3, 4, 0), CHUNK_IN_ORDER);
    assert_int_equal(put_chunk(f->s, job, 2, 2, 4, 1), CHUNK_PAST_GAP);
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(put_chunk(f->s, job, 0, 3, 4, 0), CHUNK_SAME);
        assert_int_equal(put_chunk(f->s, job, 2, 2, 4, 1), CHUNK_SAME);
        assert_int_equal(put_chunk(f->s, job, 0, 3, 5, 0), ASSAY_EKEYREUSED); /* other rows */
        assert_int_equal(put_chunk(f->s, job, 0, 2, 4, 0), ASSAY_EKEYREUSED);
        assert_int_equal(put_chunk(f->s, job, 0, 3, 4, 1), ASSAY_EKEYREUSED); /* a seal now */
        assert_int_equal(put_chunk(f->s, job, 2, 2, 4, 0), ASSAY_EKEYREUSED); /* none now */
        assert_int_equal(job_now(f->s, job).accepted, 5);
        open_again(f);
    }
    assert_int_equal(put_chunk(f->s, job, 1, 1, 4, 0), CHUNK_IN_ORDER);
    assert_int_equal(job_now(f->s, job).total, 6);
    assert_int_equal(put_chunk(f->s, job, 2, 2, 4, 1), CHUNK_SAME);
}

/* Version 3 kept BLAKE2b of a chunk: those are still known when they come again. */
static void test_old_chunk_again(void **state)
{
    struct fixture *f = *state;
    struct msg_writer w;
    uint8_t digest[32];
    char hex[65], sql[2500];
    int64_t job = new_job(f->s, "old", 0);
    put_chunk(f->s, job, 0, 3, 4, 0);
    encode_rows(&w, 3, 4);
    crypto_generichash(
        digest, sizeof digest, (const uint8_t *)w.buffer.data, w.buffer.size, NULL, 0);
    msg_writer_release(&w);
    snprintf(sql, sizeof sql,
        TO_VERSION_4
        "update chunk set digest = x'%s'; drop view workers; alter table worker drop column "
        "busy_us; alter table worker drop column up_us; drop view jobs; alter table job drop "
        "column copied; alter table job drop column cached; alter table job drop column fresh; "
        "pragma user_version = 3",
        sodium_bin2hex(hex, sizeof hex, digest, sizeof digest));
    store_close(&f->s);
    run_sql(f, sql);
    open_mode(f, MODE);
    assert_int_equal(put_chunk(f->s, job, 0, 3, 4, 0), CHUNK_SAME);
    assert_int_equal(put_chunk(f->s, job, 0, 3, 5, 0), ASSAY_EKEYREUSED);
    assert_int_equal(put_chunk(f->s, job, 1, 3, 4, 0), CHUNK_IN_ORDER);
    assert_int_equal(put_chunk(f->s, job, 1, 3, 4, 0), CHUNK_SAME);
    assert_int_equal(job_now(f->s, job).accepted, 6);
}

static void test_seals(void **state)
{
    struct fixture *f = *state;
    int64_t job = new_job(f->s, "sealed", 0);
    assert_int_equal(put_chunk(f->s, job, 0, 2, 4, 0), CHUNK_IN_ORDER);
    assert_int_equal(job_now(f->s, job).total, -1);
    assert_int_equal(put_chunk(f->s, job, 1, 0, 4, 1), CHUNK_IN_ORDER); /* no rows, only the seal */
    assert_int_equal(job_now(f->s, job).total, 2);
    assert_int_equal(put_chunk(f->s, job, 2, 1, 4, 0), ASSAY_ESTATE);

    int64_t empty = new_job(f->s, "empty", 0);
    assert_int_equal(put_chunk(f->s, empty, 0, 0, 4, 1), CHUNK_IN_ORDER);
    assert_int_equal(job_now(f->s, empty).state, JOB_DONE);
    assert_true(job_now(f->s, empty).finished_ms > 0);

    int64_t past = new_job(f->s, "past", 0);
    assert_int_equal(put_chunk(f->s, past, 5, 1, 4, 1), CHUNK_PAST_GAP);
    assert_int_equal(put_chunk(f->s, past, 6, 1, 4, 0), ASSAY_ESTATE);
    assert_int_equal(put_chunk(f->s, past, 0, 1, 4, 0), CHUNK_IN_ORDER);
    assert_int_equal(job_now(f->s, past).total, -1);
}

/* A million bytes past a gap count as queued until they are placed, and a rollback forgets them. */
static void test_queued_bytes(void **state)
{
    struct fixture *f = *state;
    struct err err;
    assert_int_equal(store_queued_bytes(f->s), 0);
    int64_t job = put_job(f->s, "bytes", 0, 10, 100);
    assert_int_equal(store_queued_bytes(f->s), 4000);
    must(store_begin(f->s, &err));
    add_row(f->s, job, 0, 0, 50);
    assert_int_equal(store_queued_bytes(f->s), 4200);
    store_rollback(f->s);
    assert_int_equal(store_queued_bytes(f->s), 4000);
    assert_int_equal(finish_some(f->s, job, 4, 0), 4);
    assert_int_equal(store_queued_bytes(f->s), 2400);
    open_again(f);
    assert_int_equal(store_queued_bytes(f->s), 2400);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, job, &err));
    must(store_commit(f->s, &err));
    assert_int_equal(store_queued_bytes(f->s), 0);
    open_again(f);
    assert_int_equal(store_queued_bytes(f->s), 0);
}

/* Rows that were kept by an older version are four bytes a token; so are those with an id that the
 * packed form has no room for. */
static void test_packed_and_plain_ids(void **state)
{
    struct fixture *f = *state;
    struct err err;
    const int32_t ids[5] = {1, 70000, 151935, 262143, 3}, large[3] = {1, 262144, INT32_MAX};
    struct store_row rows[2] = {{.ids = ids, .n_tokens = 5, .pool_type = POOL_LAST, .n_values = 1},
        {.ids = large, .n_tokens = 3, .pool_type = POOL_LAST, .n_values = 1}};
    int64_t job = new_job(f->s, "packed", 0);
    char out[200];
    must(store_begin(f->s, &err));
    for (int k = 0; k < 3; k++)
        must(add_rows(f->s, job, &rows[k % 2], 1, &err));
    must(store_commit(f->s, &err));
    store_close(&f->s);
    run_sql(f, "update row_input set ids = x'01000000701101007f510200ffff030003000000' "
               "where row & 4294967295 = 2");
    assert_string_equal(shell(f, "select length(ids) from row_input order by row", out, sizeof out),
        "12\n12\n20\n");
    open_mode(f, MODE);
    struct row_list list = queued(f->s, job, 0, 10);
    assert_int_equal(list.n, 3);
    for (uint32_t k = 0; k < 3; k++) {
        assert_int_equal(list.at[k]->n_tokens, k == 1 ? 3 : 5);
        assert_memory_equal(
            list.at[k]->ids, k == 1 ? large : ids, k == 1 ? sizeof large : sizeof ids);
    }
    free_rows(&list);
}

/* Good rows and rows born failed in one call: indices, cursors and counts. */
static void test_failed_rows_among_good_ones(void **state)
{
    struct fixture *f = *state;
    struct err err;
    const int32_t ids[2] = {1, 2};
    struct store_row rows[5];
    for (int k = 0; k < 5; k++)
        rows[k] =
            k % 2 ? (struct store_row){.error_code = ASSAY_ENOTOKENS, .error_message = "no tokens"}
                  : (struct store_row){.ids = ids, .n_tokens = 2, .n_values = 1};
    int64_t job = new_job(f->s, "mixed", 0);
    char out[200];
    for (int turn = 0; turn < 2; turn++) {
        must(store_begin(f->s, &err));
        must(add_rows(f->s, job, rows, 5, &err));
        must(store_commit(f->s, &err));
    }
    struct store_job now = job_now(f->s, job);
    assert_int_equal(now.placed, 10);
    assert_int_equal(now.done, 4);
    assert_int_equal(now.failed, 4);
    assert_int_equal(store_queued_bytes(f->s), 6 * 2 * 4);
    assert_string_equal(shell(f, "select i, cursor from results order by cursor", out, sizeof out),
        "1|1\n3|2\n6|3\n8|4\n");
    open_again(f);
    assert_int_equal(store_queued_bytes(f->s), 6 * 2 * 4);
}

/* ---- results ---- */

struct seen {
    uint64_t cursor;
    uint32_t n, i[4096];
    int failed;
};

static int see(void *arg, const struct store_result_row *row)
{
    struct seen *seen = arg;
    assert_true(row->cursor > seen->cursor);
    seen->cursor = row->cursor;
    seen->i[seen->n++] = row->i;
    if (row->error_code) {
        seen->failed++;
        assert_int_equal(row->n_values, 0);
    } else {
        assert_int_equal(row->n_values, 1);
        assert_true(row->values[0] == (float)row->i + 0.5f);
        assert_int_equal(row->n_pooled, 1);
        assert_int_equal(row->pooled_at[0], row->n_tokens - 1);
        assert_int_equal(row->pooled_at[1], 7);
    }
    return 0;
}

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
        struct row *swap = list.at[i];
        list.at[i] = list.at[k];
        list.at[k] = swap;
    }
    for (uint32_t i = 0; i < 500; i++) {
        must(store_begin(f->s, &err));
        assert_int_equal(finish(f->s, list.at[i], i % 50 == 0 ? ASSAY_ENONFINITE : 0), 1);
        assert_int_equal(finish(f->s, list.at[i], 0), 0); /* a second result is dropped */
        must(store_commit(f->s, &err));
        if (i % 7 == 0)
            must(store_each_result(f->s, job, seen.cursor, 5, see, &seen, &err));
    }
    finish_some(f->s, other, 100, 0);
    for (uint32_t before = seen.n + 1; before != seen.n;) {
        before = seen.n;
        must(store_each_result(f->s, job, seen.cursor, 33, see, &seen, &err));
    }
    assert_int_equal(seen.n, 500);
    assert_int_equal(seen.failed, 10);
    for (uint32_t i = 0; i < 500; i++)
        assert_int_equal(seen.i[i], row_index(list.at[i]->row)); /* the order of completion */
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
    must(store_each_result_by_index(f->s, job, see_by_index, &n, &err));
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
    assert_int_equal(row->pool_type, shape->pool_type);
    assert_int_equal(row->n_values, shape->n_values);
    for (uint32_t k = 0; k < row->n_values; k++)
        assert_true(row->values[k] == 0.1f * (float)(k + 1));
    assert_int_equal(row->n_pooled, shape->n_pooled);
    if (shape->n_pooled > 0)
        assert_memory_equal(row->pooled_at, shape->pooled, shape->n_pooled * 8);
    return 0;
}

/* Every pooling of the row {10, 9, 12, 9}, step token 9, positions 2 and 0. The last shape is a LAST
 * row that carries the position to use. */
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
            .pool_type = shapes[i].pool_type,
            .activation = ACTIVATION_NONE,
            .step_token = 9,
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
    must(store_each_result(f->s, job, 0, 100, see_shape, (void *)shapes, &err));
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
            .pool_type = POOL_LAST,
            .error_code = ASSAY_ENOTOKENS,
            .error_message = "no tokens"};
        must(add_rows(f->s, job, &row, 1, &err));
    }
    must(store_commit(f->s, &err));
    assert_int_equal(job_now(f->s, job).state, JOB_DONE); /* all rows were born failed */
    assert_int_equal(job_now(f->s, job).failed, 7);
    must(store_each_result(f->s, job, 0, 100, see_id, &ids, &err));
    assert_int_equal(ids.n, 7);
    char out[1024];
    assert_string_equal(
        shell(f, "select typeof(id), id, state from rows order by i", out, sizeof out),
        "integer|7|failed\ntext|hello|failed\ninteger|-9223372036854775808|failed\n"
        "text|18446744073709551615|failed\nnull||failed\ntext||failed\ntext|7|failed\n");
    assert_string_equal(shell(f, "select distinct code, message from errors", out, sizeof out),
        "no_tokens|no tokens\n");
}

/* ---- states ---- */

static void test_states(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = new_job(f->s, "states", 3), found = 0;
    assert_int_equal(job_now(f->s, job).state, JOB_OPEN);
    assert_int_equal(must(store_find_job(f->s, slice_of("states"), &found, &err)), 1);
    assert_int_equal(found, job);
    assert_int_equal(must(store_find_job(f->s, slice_of("state"), &found, &err)), 0);
    struct store_job none;
    assert_int_equal(must(store_get_job(f->s, job + 1, &none, &err)), 0);
    put_chunk(f->s, job, 0, 4, 4, 1);
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);

    struct row_list list = queued(f->s, job, 0, 2);
    struct batch *b = batch_new(2, 0);
    batch_add(b, &list.at[0]);
    batch_add(b, &list.at[1]);
    must(store_begin(f->s, &err));
    must(store_batch_started(f->s, b, 0, 1, &err));
    must(store_commit(f->s, &err));
    assert_true(b->number > 0);
    assert_int_equal(job_now(f->s, job).state, JOB_RUNNING);
    assert_int_equal(job_now(f->s, job).running, 2);
    char out[256];
    assert_string_equal(shell(f, "select state from rows order by i", out, sizeof out),
        "running\nrunning\nqueued\nqueued\n");
    assert_string_equal(
        shell(f, "select state, queued, running, done, total from jobs", out, sizeof out),
        "running|2|2|0|4\n");
    open_again(f); /* running is advisory: a restart forgets it */
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);

    must(store_begin(f->s, &err));
    must(store_batch_started(f->s, b, 0, 1, &err));
    finish(f->s, b->rows[0], 0);
    finish(f->s, b->rows[1], 0);
    b->ms = 12;
    must(store_batch_ended(f->s, b, 1, &err));
    must(store_commit(f->s, &err));
    batch_free(&b);
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);
    assert_int_equal(job_now(f->s, job).done, 2);
    must(store_pause(f->s, job, 1, &err));
    assert_int_equal(job_now(f->s, job).state, JOB_PAUSED);
    must(store_pause(f->s, job, 0, &err));
    assert_int_equal(finish_some(f->s, job, 9, 0), 2);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    assert_string_equal(
        shell(f, "select rows, tokens, ms from batches where batch > 1", out, sizeof out),
        "2|8|12\n");
}

/* Rows 0 and 2 of one job and 0 of another in the one batch, rows 1 and 3 in the other: the end of the first
 * leaves the second's alone. */
static void test_batches_end_by_themselves(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char out[128];
    int64_t job = put_job(f->s, "a", 0, 4, 4), other = put_job(f->s, "b", 0, 1, 4);
    struct row_list list = queued(f->s, job, 0, 4), others = queued(f->s, other, 0, 1);
    struct batch *first = batch_new(3, 0), *second = batch_new(2, 0);
    batch_add(first, &list.at[2]);
    batch_add(first, &others.at[0]);
    batch_add(first, &list.at[0]);
    batch_add(second, &list.at[1]);
    batch_add(second, &list.at[3]);
    must(store_begin(f->s, &err));
    must(store_batch_started(f->s, first, 0, 1, &err));
    must(store_batch_started(f->s, second, 0, 1, &err));
    must(store_batch_ended(f->s, first, 1, &err));
    must(store_commit(f->s, &err));
    assert_string_equal(shell(f, "select state from rows order by job, i", out, sizeof out),
        "queued\nrunning\nqueued\nrunning\nqueued\n");
    assert_int_equal(job_now(f->s, job).running, 2);
    batch_free(&first);
    batch_free(&second);
}

/* Rows of two jobs in turns, in one transaction: each job has its own cursors and counts. */
static void test_rows_of_two_jobs_in_turns(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char out[128];
    int64_t a = put_job(f->s, "a", 0, 3, 4), b = put_job(f->s, "b", 0, 3, 4);
    struct row_list rows_a = queued(f->s, a, 0, 3), rows_b = queued(f->s, b, 0, 3);
    must(store_begin(f->s, &err));
    for (int k = 2; k >= 0; k--) {
        assert_int_equal(finish(f->s, rows_a.at[k], k == 1 ? ASSAY_ENONFINITE : 0), 1);
        assert_int_equal(finish(f->s, rows_a.at[k], 0), 0); /* once */
        if (k > 0)
            assert_int_equal(finish(f->s, rows_b.at[k], 0), 1);
    }
    must(store_commit(f->s, &err));
    assert_int_equal(job_now(f->s, a).state, JOB_DONE);
    assert_int_equal(job_now(f->s, a).failed, 1);
    assert_int_equal(job_now(f->s, b).done, 2);
    assert_int_equal(store_queued_bytes(f->s), 4 * sizeof(int32_t));
    assert_string_equal(
        shell(f, "select job, cursor, i from results order by job, cursor", out, sizeof out),
        "1|1|2\n1|2|1\n1|3|0\n2|1|2\n2|2|1\n");
    assert_string_equal(
        shell(f, "select sum(rows), sum(tokens) from throughput", out, sizeof out), "5|20\n");
    must(store_begin(f->s, &err));
    assert_int_equal(finish(f->s, rows_b.at[0], 0), 1);
    store_rollback(f->s); /* neither the row nor its count */
    assert_int_equal(job_now(f->s, b).done, 2);
    assert_int_equal(finish_some(f->s, b, 9, 0), 1);
    assert_int_equal(job_now(f->s, b).state, JOB_DONE);
    free_rows(&rows_a);
    free_rows(&rows_b);
}

static void test_cancel_ends_rows(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "cancelled", 0, 5, 4);
    finish_some(f->s, job, 2, 0);
    struct row_list list = queued(f->s, job, 0, 10);
    must(store_begin(f->s, &err));
    must(store_cancel(f->s, job, &err));
    assert_int_equal(finish(f->s, list.at[0], 0), 0); /* a late result is dropped */
    must(store_commit(f->s, &err));
    free_rows(&list);
    assert_int_equal(job_now(f->s, job).state, JOB_CANCELLED);
    assert_int_equal(put_chunk(f->s, job, 1, 1, 4, 0), ASSAY_ESTATE);
    char out[256];
    assert_string_equal(shell(f, "select state from rows order by i", out, sizeof out),
        "done\ndone\ncancelled\ncancelled\ncancelled\n");
    assert_string_equal(
        shell(f, "select done, queued, cancelled from jobs", out, sizeof out), "2|0|3\n");
}

static void test_retry(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "retry", 0, 6, 4), n = 0;
    finish_some(f->s, job, 2, 0);
    finish_some(f->s, job, 3, ASSAY_EKILLED);
    finish_some(f->s, job, 1, 0);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    struct seen seen = {0};
    must(store_each_result(f->s, job, 0, 100, see, &seen, &err));
    assert_int_equal(seen.n, 6);
    must(store_begin(f->s, &err));
    must(store_retry(f->s, job, &n, &err));
    must(store_commit(f->s, &err));
    assert_int_equal(n, 3);
    struct store_job now = job_now(f->s, job);
    assert_int_equal(now.state, JOB_QUEUED);
    assert_int_equal(now.done, 3);
    assert_int_equal(now.failed, 0);
    assert_int_equal(now.finished_ms, 0);
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    must(store_each_result(f->s, job, seen.cursor, 100, see, &seen, &err));
    assert_int_equal(seen.n, 9); /* the three came back, at later cursors */
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
    struct seen all = {0};
    must(store_each_result(f->s, job, 0, 100, see, &all, &err));
    assert_int_equal(all.n, 6);
    must(store_begin(f->s, &err));
    must(store_retry(f->s, job, &n, &err));
    must(store_commit(f->s, &err));
    assert_int_equal(n, 0);
}

static int count_job(void *arg, const struct store_job *job)
{
    (void)job;
    ++*(int *)arg;
    return 0;
}

static void test_each_job(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t done = put_job(f->s, "a", 0, 1, 4), open = put_job(f->s, "b", 0, 1, 4);
    finish_some(f->s, done, 1, 0);
    int all = 0, unfinished = 0, after = 0, limited = 0;
    must(store_each_job(f->s, 0, 100, 0, count_job, &all, &err));
    must(store_each_job(f->s, 0, 100, 1, count_job, &unfinished, &err));
    must(store_each_job(f->s, open, 100, 0, count_job, &after, &err));
    must(store_each_job(f->s, 0, 1, 0, count_job, &limited, &err));
    assert_int_equal(all, 2);
    assert_int_equal(unfinished, 1);
    assert_int_equal(after, 0);
    assert_int_equal(limited, 1);
}

static void test_other_mode_is_held(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = put_job(f->s, "held", 0, 3, 4), done = put_job(f->s, "done before", 0, 1, 4);
    finish_some(f->s, done, 1, 0);
    store_close(&f->s);
    open_mode(f, "device=cpu dtype=f32 tp=2");
    struct store_job now = job_now(f->s, job);
    assert_int_equal(now.held, 1);
    assert_int_equal(now.state, JOB_PAUSED);
    assert_non_null(strstr(now.reason, "tp=1"));
    assert_non_null(strstr(now.reason, "tp=2"));
    assert_non_null(strstr(now.reason, "0123456789ab"));
    assert_int_equal(job_now(f->s, done).state, JOB_DONE); /* nothing left to hold */
    char out[512];
    assert_non_null(
        strstr(shell(f, "select reason from jobs where key = 'held'", out, sizeof out), "tp=2"));
    must(store_accept_mode(f->s, job, &err));
    now = job_now(f->s, job);
    assert_int_equal(now.held, 0);
    assert_string_equal(now.reason, "");
    assert_int_equal(now.state, JOB_QUEUED);
    open_again(f);
    assert_int_equal(job_now(f->s, job).held, 1); /* it is the other's now */
}

/* ---- the file ---- */

static void test_second_opener_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store *second = NULL;
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    assert_int_equal(store_open(&second, f->dir, &options, &err), ASSAY_EBUSY);
    assert_null(second);
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    assert_non_null(strstr(err.msg, pid));
    assert_non_null(strstr(err.msg, f->dir));
    put_job(f->s, "still works", 0, 1, 4);
}

static void check_refused(struct fixture *f, const char *word)
{
    struct err err;
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    assert_true(store_open(&f->s, f->dir, &options, &err) < 0);
    assert_null(f->s);
    assert_non_null(strstr(err.msg, word));
}

/* ---- what must not grow with the queue ---- */

static int count_steps(void *arg)
{
    ++*(int *)arg;
    return 0;
}

/* Instructions of SQLite's machine, in hundreds, from here to end_counting. */
static void begin_counting(struct fixture *f, int *hundreds)
{
    *hundreds = 0;
    sqlite3_progress_handler(f->s->db, 100, count_steps, hundreds);
}

static int end_counting(struct fixture *f, const int *hundreds)
{
    sqlite3_progress_handler(f->s->db, 0, NULL, NULL);
    return *hundreds * 100;
}

static int64_t job_with_failed_rows(struct fixture *f, const char *key, uint32_t n, uint32_t failed)
{
    struct err err;
    int64_t job = put_job(f->s, key, 0, n, 4);
    struct row_list list = queued(f->s, job, 0, n);
    must(store_begin(f->s, &err));
    for (uint32_t i = 0; i < n; i++)
        finish(f->s, list.at[i], i < failed ? ASSAY_ENONFINITE : 0);
    must(store_commit(f->s, &err));
    free_rows(&list);
    return job;
}

/* A retry looks at the rows that failed and at no other. */
static void test_retry_of_a_few_among_many(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t job = job_with_failed_rows(f, "many", 3000, 3), n = 0;
    int hundreds;
    must(store_begin(f->s, &err));
    begin_counting(f, &hundreds);
    must(store_retry(f->s, job, &n, &err));
    assert_in_range(end_counting(f, &hundreds), 0, 2000);
    must(store_commit(f->s, &err));
    assert_int_equal(n, 3);
    assert_int_equal(job_now(f->s, job).done, 2997);
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    assert_int_equal(job_now(f->s, job).state, JOB_DONE);
}

static int see_job(void *arg, const struct store_job *j)
{
    int64_t *jobs = arg;
    jobs[1 + jobs[0]++] = j->job;
    return 0;
}

/* Neither do jobs that are over cost anything when the unfinished ones are looked for. */
static void test_unfinished_among_many(void **state)
{
    struct fixture *f = *state;
    struct err err;
    int64_t seen[8] = {0}, first = put_job(f->s, "first", 0, 1, 4);
    char key[16];
    int hundreds;
    for (int k = 0; k < 400; k++) {
        snprintf(key, sizeof key, "k%d", k);
        put_chunk(f->s, new_job(f->s, key, 0), 0, 0, 0, 1);
    }
    int64_t last = put_job(f->s, "last", 0, 1, 4);
    begin_counting(f, &hundreds);
    must(store_each_job(f->s, 0, 1000, 1, see_job, seen, &err));
    assert_in_range(end_counting(f, &hundreds), 0, 1000);
    assert_int_equal(seen[0], 2);
    assert_int_equal(seen[1], first);
    assert_int_equal(seen[2], last);
}

/* What is committed to be synced later is numbered and waited for; the next commit that is synced at once
 * has all before it on the disk with it. */
static void test_two_kinds_of_commit(void **state)
{
    struct fixture *f = *state;
    struct err err;
    uint64_t synced, before = store_written(f->s);
    int64_t job = new_job(f->s, "k", 0), level;
    for (int k = 0; k < 20; k++) {
        must(store_begin_later(f->s, &err));
        must(store_integer(f->s, -1, &level, &err, "pragma synchronous", ""));
        assert_int_equal(level, 1);
        assert_int_equal(add_chunk(f->s, job, (uint32_t)k, 1, 4, 0), CHUNK_IN_ORDER);
        must(store_commit(f->s, &err));
        must(store_synced(f->s, &synced, &err));
        assert_in_range(synced, before + 1, before + 2 + (uint64_t)k);
    }
    assert_int_equal(store_written(f->s), before + 21);
    must(store_wait_synced(f->s, &err));
    must(store_synced(f->s, &synced, &err));
    assert_int_equal(synced, before + 21);
    must(store_begin_later(f->s, &err));
    assert_int_equal(add_chunk(f->s, job, 20, 1, 4, 0), CHUNK_IN_ORDER);
    must(store_commit(f->s, &err));
    must(store_begin(f->s, &err));
    must(store_integer(f->s, -1, &level, &err, "pragma synchronous", ""));
    assert_int_equal(level, 2);
    assert_int_equal(add_chunk(f->s, job, 21, 1, 4, 0), CHUNK_IN_ORDER);
    must(store_commit(f->s, &err));
    must(store_synced(f->s, &synced, &err));
    assert_int_equal(synced, before + 23);
}

/* A database that was made with other pages keeps them. */
static void test_small_pages_stay(void **state)
{
    struct fixture *f = *state;
    char out[64];
    assert_string_equal(shell(f, "pragma page_size", out, sizeof out), "8192\n");
    int64_t job = put_job(f->s, "before", 0, 3, 600);
    store_close(&f->s);
    run_sql(f, "pragma journal_mode=delete; pragma page_size=4096; vacuum;");
    open_mode(f, MODE);
    assert_string_equal(
        shell(f, "pragma page_size; pragma journal_mode", out, sizeof out), "4096\nwal\n");
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    assert_int_equal(put_job(f->s, "after", 0, 3, 600), job + 1);
    open_again(f);
    assert_string_equal(shell(f, "pragma integrity_check", out, sizeof out), "ok\n");
    assert_int_equal(store_queued_bytes(f->s), 3 * 600 * 4);
}

static void test_strange_files_are_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t epoch = store_epoch(f->s);
    open_again(f);
    assert_int_equal(store_epoch(f->s), epoch + 1);
    store_close(&f->s);
    run_sql(f, "pragma user_version = 99;");
    check_refused(f, "99");
    char path[128];
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 10000; i++)
        fputs("this is not a database\n", file);
    fclose(file);
    check_refused(f, "assay.db");
    unlink(path);
    open_mode(f, MODE);
}

static void test_idle_empties_the_wal(void **state)
{
    struct fixture *f = *state;
    put_job(f->s, "idle", 0, 200, 100);
    assert_true(store_wal_bytes(f->s) > 80000);
    store_idle(f->s);
    store_idle(f->s);
    assert_int_equal(store_wal_bytes(f->s), 0);
    char path[128];
    snprintf(path, sizeof path, "%s/reserve", f->dir);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(store_free_reserve(f->s), 1);
    assert_int_equal(store_free_reserve(f->s), 0);
    store_idle(f->s);
    assert_int_equal(access(path, F_OK), 0); /* made again */
}

static void test_room(void **state)
{
    struct fixture *f = *state;
    struct err err;
    must(store_check_room(f->s, 1000, &err));
    assert_int_equal(store_check_room(f->s, (uint64_t)1 << 50, &err), ASSAY_EQUEUEFULL);
}

/* What is asked for within one answer of the disk adds up. */
static void test_room_is_used_up(void **state)
{
    struct fixture *f = *state;
    struct err err;
    long long begin_ms = now_mono_ms();
    int64_t asked;
    uint64_t room = (uint64_t)1 << 30;
    must(store_check_room(f->s, 0, &err));
    f->s->room = room;
    f->s->room_ms = begin_ms + 100000;
    for (asked = 0; f->s->room_ms == begin_ms + 100000 && asked < 2000; asked++)
        must(store_check_room(f->s, 1 << 20, &err));
    assert_int_equal(asked, 257); /* four times, as it is written twice and more */
}

/* A busy broker does not wait for the second to be over: the log is checkpointed and begun anew, and does
 * not grow but where a reader holds it. */
static void test_the_log_stays_small(void **state)
{
    struct fixture *f = *state;
    sqlite3 *reader = NULL;
    char path[128];
    uint64_t largest[2] = {0};
    int64_t job = new_job(f->s, "log", 0);
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    for (uint32_t k = 0; k < 160; k++) {
        if (k == 80)
            sqlite3_exec(reader, "begin; select * from jobs", NULL, NULL, NULL);
        put_chunk(f->s, job, k, 1, 1 << 20, 0);
        store_tend(f->s);
        if (store_wal_bytes(f->s) > largest[k / 80])
            largest[k / 80] = store_wal_bytes(f->s);
    }
    assert_in_range(largest[0], 40 << 20, 64 << 20);
    assert_in_range(largest[1], 160 << 20, 260 << 20);
    sqlite3_close(reader);
    put_chunk(f->s, job, 160, 1, 4, 0);
    store_idle(f->s);
    put_chunk(f->s, job, 161, 1, 4, 0);
    assert_in_range(store_wal_bytes(f->s), 0, 64 << 20);
    assert_in_range(f->s->wal_pages, 1, 100);
}

/* A reader in another process reads every view, over and over, while the broker writes. */
static void test_readers_in_parallel(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_worker worker = {.pid = 1, .device = "cpu", .state = "ready"};
    must(store_set_worker(f->s, &worker, &err));
    char command[1024];
    snprintf(command, sizeof command,
        "for i in 1 2 3 4 5 6 7 8 9 10; do for v in jobs rows results errors workers batches"
        " throughput; do sqlite3 -readonly %s/assay.db \"select * from $v\" || exit 1; done; done"
        " > /dev/null 2>%s/complaints",
        f->dir, f->dir);
    pid_t reader = fork();
    if (reader == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status = 0, turns = 0;
    for (; waitpid(reader, &status, WNOHANG) == 0; turns++) {
        char key[32];
        snprintf(key, sizeof key, "reader-%d", turns);
        int64_t job = put_job(f->s, key, 0, 20, 64);
        finish_some(f->s, job, 15, 0);
        finish_some(f->s, job, 5, ASSAY_ENONFINITE);
        store_idle(f->s);
    }
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
    assert_true(turns > 3);
    char out[256], want[64];
    snprintf(want, sizeof want, "%d|%d|%d\n", turns, turns * 20, turns * 5);
    assert_string_equal(shell(f,
                            "select (select count(*) from jobs where state = 'done'),"
                            " (select count(*) from results), (select count(*) from errors)",
                            out, sizeof out),
        want);
    assert_string_equal(
        shell(f, "select device, state from workers", out, sizeof out), "cpu|ready\n");
    snprintf(want, sizeof want, "%d\n", turns * 20);
    assert_string_equal(shell(f, "select sum(rows) from throughput", out, sizeof out), want);
}

/* Someone who stays in a read transaction: checkpoints cannot finish, but the broker does not wait.
 */
static void test_a_long_reader_does_not_block(void **state)
{
    struct fixture *f = *state;
    char path[128];
    sqlite3 *reader = NULL;
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    put_job(f->s, "before", 0, 20, 64);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(reader, "begin; select * from jobs", NULL, NULL, NULL), SQLITE_OK);
    long long from_ms = now_mono_ms();
    finish_some(f->s, put_job(f->s, "meanwhile", 0, 20, 64), 20, 0);
    for (int i = 0; i < 3; i++)
        store_idle(f->s);
    long long took_ms = now_mono_ms() - from_ms;
    print_message("%lld ms beside a reader\n", took_ms);
    sqlite3_close(reader);
    assert_true(took_ms < 1000);
    store_idle(f->s);
    store_idle(f->s);
    assert_int_equal(store_wal_bytes(f->s), 0); /* made up for, once it is gone */
}

/* SCHEMA.md has a section for every view, and names every column. */
static void test_schema_is_documented(void **state)
{
    struct fixture *f = *state;
    static char text[32768], names[4096];
    char wanted[80];
    FILE *file = fopen("schema/SCHEMA.md", "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    shell(f,
        "select v.name || ' ' || c.name from sqlite_master v, pragma_table_info(v.name) c"
        " where v.type = 'view'",
        names, sizeof names);
    int n = 0;
    for (char *line = strtok(names, "\n"); line; line = strtok(NULL, "\n"), n++) {
        char *column = strchr(line, ' ');
        *column++ = 0;
        snprintf(wanted, sizeof wanted, "## %s:", line);
        char *section = strstr(text, wanted);
        snprintf(wanted, sizeof wanted, "`%s`", column);
        char *there = section ? strstr(section, wanted) : NULL, *end = section;
        end = end ? strstr(end + 1, "\n## ") : NULL;
        if (!there || !end || there > end)
            fail_msg("schema/SCHEMA.md says nothing of %s.%s", line, column);
    }
    assert_true(n > 40);
}

/* ---- kill -9 ---- */

/* Promises go through the pipe only after the commit returned. */
struct promise {
    uint32_t chunks, done;
};

static _Noreturn void write_until_killed(struct fixture *f, int64_t job, int fd)
{
    struct err err;
    open_mode(f, MODE);
    struct promise p = {.done = (uint32_t)job_now(f->s, job).done};
    while (put_chunk(f->s, job, p.chunks, 3, 40, 0) == CHUNK_SAME)
        p.chunks++;
    for (p.chunks++;; p.chunks++) {
        if (write(fd, &p, sizeof p) != sizeof p)
            _exit(1);
        struct row_list list = queued(f->s, job, 0, 2);
        must(store_begin(f->s, &err));
        for (uint32_t i = 0; i < list.n; i++)
            p.done += (uint32_t)finish(f->s, list.at[i], 0);
        free_rows(&list);
        add_chunk(f->s, job, p.chunks, 3, 40, 0);
        must(store_commit(f->s, &err));
    }
}

/* What was promised is there, and the counters say what the tables hold. */
static void check_promise(struct fixture *f, int64_t job, const struct promise *p)
{
    struct err err;
    struct seen *seen = calloc(1, sizeof *seen);
    open_mode(f, MODE);
    struct store_job now = job_now(f->s, job);
    assert_true(now.accepted >= 3 * (int64_t)p->chunks);
    assert_true(now.done >= p->done);
    assert_int_equal(now.accepted % 3, 0); /* a chunk is there whole or not at all */
    assert_int_equal(now.placed, now.accepted);
    must(store_each_result(f->s, job, 0, 4096, see, seen, &err));
    assert_int_equal(seen->n, now.done);
    for (uint32_t i = 0; i < seen->n; i++)
        assert_int_equal(seen->i[i], i); /* they were finished in order: none twice, none missing */
    struct row_list list = queued(f->s, job, 0, 4096);
    assert_int_equal(list.n, now.accepted - now.done);
    assert_int_equal(store_queued_bytes(f->s), list.n * 40 * 4);
    for (uint32_t i = 0; i < list.n; i++)
        assert_int_equal(3 * list.at[i]->ids[0] + list.at[i]->ids[1], row_index(list.at[i]->row));
    free_rows(&list);
    free(seen);
    store_close(&f->s);
}

/* Lets a child write until it has made some promises, and up to 3 ms longer, kills it; the last promise. So a kill
 * meets the child at work on a busy machine and on a quick one. */
static struct promise killed_writer(struct fixture *f, int64_t job)
{
    int fds[2], status;
    struct promise p = {0};
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        close(fds[0]);
        write_until_killed(f, job, fds[1]);
    }
    close(fds[1]);
    for (int promises = rand() % 20; promises > 0; promises--)
        assert_int_equal(read(fds[0], &p, sizeof p), sizeof p);
    usleep((useconds_t)rand() % 3000);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    while (read(fds[0], &p, sizeof p) == sizeof p)
        ;
    close(fds[0]);
    return p;
}

static void test_kill_at_random_moments(void **state)
{
    struct fixture *f = *state;
    int64_t job = new_job(f->s, "kills", 0);
    unsigned seed = (unsigned)time(NULL);
    uint32_t promised = 0;
    print_message("seed %u\n", seed);
    srand(seed);
    store_close(&f->s);
    for (int kill_number = 0; kill_number < 50; kill_number++) {
        struct promise last = killed_writer(f, job);
        check_promise(f, job, &last);
        promised = last.chunks > promised ? last.chunks : promised;
    }
    print_message("50 kills, %u chunks promised\n", promised);
    assert_true(promised > 20);
}

/* ---- a full disk ---- */

static uint32_t fill_disk(struct fixture *f, int64_t job, struct err *e)
{
    struct err err;
    for (uint32_t chunk = 0;; chunk++) {
        struct store_chunk c = {
            .job = job, .chunk = chunk, .n_rows = 8, .rows = slice_of("\x98 chunk")};
        int32_t ids[512] = {0};
        struct store_row row = {.ids = ids, .n_tokens = 512, .pool_type = POOL_LAST, .n_values = 1};
        must(store_begin(f->s, &err));
        int rc = store_add_chunk(f->s, &c, e);
        for (int i = 0; rc >= 0 && i < 8; i++)
            rc = add_rows(f->s, job, &row, 1, e);
        if (rc >= 0)
            rc = store_commit(f->s, e);
        if (rc < 0) {
            store_rollback(f->s);
            assert_int_equal(rc, ASSAY_EFULL);
            return chunk;
        }
        store_idle(f->s);
    }
}

static void test_full_disk(void **state)
{
    struct fixture *f = *state;
    struct err err;
    store_close(&f->s);
    if (mount("tmpfs", f->dir, "tmpfs", 0, "size=2m") != 0) {
        print_error("SKIPPED: a tmpfs cannot be mounted here: %s\n", strerror(errno));
        skip();
    }
    open_mode(f, MODE);
    int64_t job = new_job(f->s, "fills", 0);
    uint32_t chunks = fill_disk(f, job, &err);
    print_message("full after %u chunks: %s\n", chunks, err.msg);
    assert_true(chunks > 5);
    assert_int_equal(job_now(f->s, job).accepted, 8 * chunks);
    assert_int_equal(store_queued_bytes(f->s), 8 * chunks * 2048);
    assert_int_equal(store_check_room(f->s, 1 << 20, &err), ASSAY_EQUEUEFULL);
    open_again(f); /* a restart on a full disk finds its way, by the reserve if it must */
    store_free_reserve(f->s);
    assert_int_equal(finish_some(f->s, job, 8, 0), 8); /* results of accepted work still fit */
    store_close(&f->s);
    assert_int_equal(mount("tmpfs", f->dir, "tmpfs", MS_REMOUNT, "size=4m"), 0);
    open_mode(f, MODE);
    assert_int_equal(job_now(f->s, job).accepted, 8 * chunks);
    assert_int_equal(job_now(f->s, job).done, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_chunks_in_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_chunk_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_chunk_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queued_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_packed_and_plain_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_rows_among_good_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_of_a_few_among_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_kinds_of_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_pages_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unfinished_among_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cursor_gives_each_row_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_results_by_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pooled_at_and_shapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_ids_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_states, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches_end_by_themselves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_of_two_jobs_in_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_ends_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_job, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_mode_is_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_opener_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strange_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_empties_the_wal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room_is_used_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_log_stays_small, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_in_parallel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_schema_is_documented, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_long_reader_does_not_block, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kill_at_random_moments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
