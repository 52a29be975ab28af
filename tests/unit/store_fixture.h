/* store_fixture.h - a store in a directory of its own, and jobs whose rows say where they belong.
 *
 * Row k of chunk c holds the tokens {c, k, 7, 7 ..}: what comes back tells chunk and place. A
 * chunk's encoded form, as far as the store cares, is a msgpack array of its rows' lengths. */
#ifndef ASSAY_STORE_FIXTURE_H
#define ASSAY_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "broker/store/private.h"

#define MODE "device=cpu dtype=f32 tp=1"
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

struct fixture {
    char dir[64];
    struct store *s;
};

/* The value of a call that must not fail. */
#define must(call) must_at((call), &err, #call, __FILE__, __LINE__)
static inline int must_at(int rc, const struct err *e, const char *call, const char *file, int line)
{
    if (rc < 0) {
        print_error("%s = %d: %s\n", call, rc, e->msg);
        _fail(file, line);
    }
    return rc;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

/* A folder of the test's own, its name into dir[64]; and that it goes, whatever is in it. */
static inline void make_dir(char *dir)
{
    snprintf(dir, 64, "/tmp/assay_store_XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static inline void remove_dir(const char *dir)
{
    umount2(dir, MNT_DETACH); /* only test_full_disk mounts something there */
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void open_mode(struct fixture *f, const char *mode)
{
    struct err err;
    struct store_options options = {.reserve_bytes = 1 << 18, .mode = mode, .digest = DIGEST};
    must(store_open(&f->s, f->dir, &options, &err));
}

static inline void open_again(struct fixture *f)
{
    store_close(&f->s);
    open_mode(f, MODE);
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    make_dir(f->dir);
    open_mode(f, MODE);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    store_close(&f->s);
    remove_dir(f->dir);
    free(f);
    return 0;
}

/* An idle second, after one in which something was written if that is so, with what the thread does
 * of its work. */
static inline void idle(struct store *s)
{
    store_idle(s);
    if (s->changes)
        store_idle(s);
    store_copier_wait(s);
}

static inline struct store_job job_now(struct store *s, int64_t job)
{
    struct err err;
    struct store_job out;
    assert_int_equal(must(store_get_job(s, job, &out, &err)), 1);
    return out;
}

static inline int64_t new_job(struct store *s, const char *key, int priority)
{
    struct err err;
    int64_t job = 0;
    must(store_begin(s, &err));
    must(store_new_job(s, slice_of(key), priority, (struct slice){0}, &job, &err));
    must(store_commit(s, &err));
    assert_true(job > 0);
    return job;
}

/* Gives the next row: 1, 0 when there are no more, or negative. Its pointers stay valid until the
 * next call. */
typedef int row_source(void *arg, struct store_row *row, struct err *e);

static inline int add_from(struct store *s, int64_t job, row_source *next, void *arg, struct err *e)
{
    struct packed_writer scratch = {0};
    struct store_rows *rows = store_rows_new(&scratch);
    struct store_row row;
    int rc;
    while ((rc = next(arg, &row, e)) == 1)
        store_rows_add(rows, &row);
    store_rows_end(rows);
    if (rc == 0)
        rc = store_add_rows(s, job, rows, e);
    store_rows_free(&rows);
    packed_writer_release(&scratch);
    return rc;
}

static inline int add_rows(
    struct store *s, int64_t job, const struct store_row *list, uint32_t n, struct err *e)
{
    struct packed_writer scratch = {0};
    struct store_rows *rows = store_rows_new(&scratch);
    for (uint32_t i = 0; i < n; i++)
        store_rows_add(rows, &list[i]);
    store_rows_end(rows);
    int rc = store_add_rows(s, job, rows, e);
    store_rows_free(&rows);
    packed_writer_release(&scratch);
    return rc;
}

static inline void add_row(struct store *s, int64_t job, int32_t chunk, uint32_t k, uint32_t len)
{
    struct err err;
    int32_t *ids = calloc(len + 2, sizeof *ids);
    for (uint32_t i = 2; i < len; i++)
        ids[i] = 7;
    ids[0] = chunk;
    ids[1] = (int32_t)k;
    struct store_row row = {.ids = ids,
        .n_tokens = len,
        .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
        .n_values = 1};
    must(add_rows(s, job, &row, 1, &err));
    free(ids);
}

static inline void encode_rows(struct msg_writer *w, uint32_t n_rows, uint32_t len)
{
    msg_writer_init(w);
    msg_array(w, n_rows);
    for (uint32_t i = 0; i < n_rows; i++)
        msg_uint(w, len);
}

/* The number of the chunk is not in its kept bytes, so the caller says it. */
static inline void place_rows(struct store *s, int64_t job, int32_t chunk, struct slice rows)
{
    struct err err;
    struct msg_reader r;
    uint32_t n = 0;
    if (rows.len == 0)
        return;
    msg_reader_init(&r, rows.at, rows.len);
    must(msg_read_array(&r, "rows", &n, &err));
    for (uint32_t k = 0; k < n; k++) {
        int64_t len = 0;
        must(msg_read_int(&r, "row", 1, 1 << 20, &len, &err));
        add_row(s, job, chunk, k, (uint32_t)len);
    }
}

/* Reads the bytes of a kept chunk; the caller frees them. */
static inline uint8_t *read_pending(struct store *s, struct store_pending *p)
{
    struct err err;
    uint8_t *bytes = calloc(1, p->bytes + 1);
    int rc;
    while ((rc = store_read_pending(s, p, bytes, 0, &err)) == 1)
        ;
    must(rc);
    return bytes;
}

/* Places the kept chunks whose turn has come. */
static inline void place_kept(struct store *s, int64_t job)
{
    struct err err;
    struct store_pending p;
    while (must(store_next_pending(s, job, &p, &err)) == 1) {
        uint8_t *bytes = read_pending(s, &p);
        assert_true(store_pending_is_sound(&p, bytes));
        place_rows(s, job, (int32_t)p.chunk, (struct slice){bytes, p.bytes});
        must(store_end_pending(s, &p, &err));
        while (must(store_drop_pieces(s, job, p.chunk, 0, &err)))
            ;
        free(bytes);
    }
}

/* As the broker does it, without begin and commit: the outcome, or an error. */
static inline int add_chunk(
    struct store *s, int64_t job, uint32_t chunk, uint32_t n_rows, uint32_t len, int seal)
{
    struct err err;
    struct msg_writer w;
    encode_rows(&w, n_rows, len);
    struct store_chunk c = {.job = job, .chunk = chunk, .n_rows = n_rows, .seal = seal};
    if (n_rows > 0)
        c.rows = (struct slice){(const uint8_t *)w.buffer.data, w.buffer.size};
    int outcome = store_add_chunk(s, &c, &err);
    if (outcome == CHUNK_IN_ORDER) {
        place_rows(s, job, (int32_t)chunk, c.rows);
        place_kept(s, job);
    }
    msg_writer_release(&w);
    return outcome;
}

static inline int put_chunk(
    struct store *s, int64_t job, uint32_t chunk, uint32_t n_rows, uint32_t len, int seal)
{
    struct err err;
    must(store_begin(s, &err));
    int outcome = add_chunk(s, job, chunk, n_rows, len, seal);
    must(store_commit(s, &err));
    return outcome;
}

/* A sealed job of one chunk. */
static inline int64_t put_job(
    struct store *s, const char *key, int priority, uint32_t n_rows, uint32_t len)
{
    int64_t job = new_job(s, key, priority);
    assert_int_equal(put_chunk(s, job, 0, n_rows, len, 1), CHUNK_IN_ORDER);
    return job;
}

/* The score of a row is its index and a half; code 0: none. */
static inline int finish(struct store *s, const struct sequence *r, int code)
{
    struct err err;
    float value = (float)row_index(r->row_id) + 0.5f;
    struct store_result ok = {.values = &value, .n_values = 1};
    struct store_result bad = {.error_code = code, .error_message = "as the test wished"};
    return must(store_finish_row(s, r, code ? &bad : &ok, &err));
}

struct row_list {
    struct sequence *at[4096];
    uint32_t n;
};

static inline void list_row(void *arg, struct sequence *r)
{
    struct row_list *list = arg;
    assert_true(list->n < 4096);
    list->at[list->n++] = r;
}

static inline void free_rows(struct row_list *list)
{
    while (list->n > 0)
        sequence_free(&list->at[--list->n]);
}

static inline struct row_list queued(struct store *s, int64_t job, int64_t after, uint32_t limit)
{
    struct err err;
    struct row_list list = {.n = 0};
    must(store_queued_rows(
        s, &(struct store_page){job, (uint64_t)after, limit}, list_row, &list, &err));
    return list;
}

/* Finishes up to n queued rows of the job; with a code, as failures. Returns how many. */
static inline uint32_t finish_some(struct store *s, int64_t job, uint32_t n, int code)
{
    struct err err;
    struct row_list list = queued(s, job, 0, n);
    uint32_t n_rows = list.n;
    must(store_begin(s, &err));
    for (uint32_t i = 0; i < n_rows; i++)
        assert_int_equal(finish(s, list.at[i], code), 1);
    must(store_commit(s, &err));
    free_rows(&list);
    return n_rows;
}

/* How many rows a retry queued again; in the open transaction. */
static inline int64_t retry_rows(struct store *s, int64_t job)
{
    struct err err;
    struct store_retried retried = {0};
    must(store_retry(s, job, INT64_MAX, &retried, &err));
    return retried.rows;
}

/* What `sqlite3 -readonly` prints for a query, in a buffer of the caller's. */
static inline const char *shell(const struct fixture *f, const char *sql, char *out, size_t room)
{
    char command[1024];
    snprintf(command, sizeof command, "sqlite3 -readonly %s/assay.db \"%s\" 2>&1", f->dir, sql);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(out, 1, room - 1, p);
    out[n] = 0;
    assert_true(n < room - 1); /* else it may end by SIGPIPE */
    assert_int_equal(pclose(p), 0);
    return out;
}

/* SQL that makes a database of version 9 of one of now, all but the number: the bytes of a kept
 * chunk were in its record. */
#define TO_VERSION_14 "drop table ephemeral; drop index job_over; "

/* SQL that makes a database of version 9 of one of now. */
#define TO_VERSION_9                                                                               \
    TO_VERSION_14                                                                                  \
    "update chunk set pending = (select bytes from piece where piece.job = chunk.job and "         \
    "piece.chunk = chunk.chunk) where pending > 0; "                                               \
    "update chunk set pending = x'' where pending = 0; drop table piece; "                         \
    "drop view if exists jobs; alter table job drop column adapters; "                             \
    "drop view if exists rows; drop view if exists ensembles; drop view if exists pairs; "         \
    "drop view if exists responses; drop view if exists response_stats; "                          \
    "drop view if exists model_scores; drop view if exists step_stats; "                           \
    "alter table row drop column adapter; "                                                        \
    "alter table job drop column model; drop view if exists workers; "                             \
    "alter table worker drop column model; "                                                       \
    "alter table chunk drop column n_placed; "

/* SQL that makes a database of version 5 of one of now. */
#define TO_VERSION_5                                                                               \
    "drop index job_done; drop index job_paused; drop index job_cancelled; "                       \
    "drop view responses; drop view response_stats; "                                              \
    "drop view rows; drop view results; drop view errors; drop table "                             \
    "gone; " TO_VERSION_9                                                                          \
    "alter table chunk drop column sum; alter table job drop column truncation; "                  \
    "alter table job drop column sum; alter table row drop column sum; "                           \
    "alter table row_input drop column sums; alter table block drop column sum; "                  \
    "alter table result drop column sum; pragma user_version = 5; "

/* SQL that makes a database of version 4 of one of now, whose rows came one at a time. */
#define TO_VERSION_4                                                                               \
    TO_VERSION_5 "create table lease (row integer primary key, batch integer not null); "          \
                 "alter table row add column state integer not null default 0; "                   \
                 "update row set state = (select case when queued >> (row.row & 63) & 1 then 0 "   \
                 "when failed >> (row.row & 63) & 1 then 2 else 1 end from block where block = "   \
                 "row.row >> 6); "                                                                 \
                 "insert into lease select row, 7 from row join block on block = row >> 6 "        \
                 "where running >> (row & 63) & 1; "                                               \
                 "drop table block; alter table row_input drop column rows; "                      \
                 "create index row_queued on row (row) where state = 0; "                          \
                 "create index row_failed on row (row) where state = 2; pragma user_version = 4; "

static inline void run_sql(const struct fixture *f, const char *sql)
{
    char command[4000];
    snprintf(command, sizeof command, "sqlite3 %s/assay.db \"%s\"", f->dir, sql);
    assert_int_equal(system(command), 0);
}

#endif
