/* test_store_chunks.c - what comes in: chunks in any order and again, seals, rows born failed. */
#include "tests/unit/store_fixture.h"

#include <sodium.h>

#include "broker/store/private.h"

static void check_order(struct store *s, int64_t job, const uint32_t *n_rows, uint32_t n_chunks)
{
    struct row_list list = queued(s, job, 0, 4096);
    uint32_t i = 0;
    for (uint32_t c = 0; c < n_chunks; c++)
        for (uint32_t k = 0; k < n_rows[c]; k++, i++) {
            assert_true(i < list.n);
            assert_int_equal(row_index(list.at[i]->row_id), i);
            assert_int_equal(row_job(list.at[i]->row_id), job);
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
        char key[24];
        snprintf(key, sizeof key, "order-%d", order);
        int64_t job = new_job(f->s, key, 0);
        int next = 0;
        for (int i = 0; i < 4; i++) {
            uint32_t c = (uint32_t)at[i];
            assert_int_equal(job_now(f->s, job).sealed, 0);
            int outcome = put_chunk(f->s, job, c, n_rows[c], 4, c == 3);
            assert_int_equal(outcome, at[i] == next ? CHUNK_IN_ORDER : CHUNK_KEPT);
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
    assert_int_equal(put_chunk(f->s, job, 2, 2, 4, 1), CHUNK_KEPT);
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
        "update chunk set digest = x'%s'; drop view if exists workers; alter table worker drop "
        "column "
        "busy_us; alter table worker drop column up_us; alter table job drop "
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
    assert_int_equal(put_chunk(f->s, past, 5, 1, 4, 1), CHUNK_KEPT);
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
    struct store_row rows[2] = {{.ids = ids, .n_tokens = 5, .pool.type = POOL_LAST, .n_values = 1},
        {.ids = large, .n_tokens = 3, .pool.type = POOL_LAST, .n_values = 1}};
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
