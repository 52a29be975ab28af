/* results.c - reads results: by cursor, in order of index, or one for a duplicate of its row.
 *
 * Every record read is checked against its sum (sums.c): a damaged result, or one whose row is
 * damaged, is given as an error in its place. Cursors have no gaps but those that a retry made
 * (table gone): any other gap is a lost result. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/request.h"
#include "schema/utf8.h"

#define RESULTS                                                                                    \
    "select " STORE_RESULT_COLUMNS ", row.row, " STORE_ROW_COLUMNS                                 \
    "from result left join row on row.row = result.row "

/* The id as msgpack again, in *w. */
static struct slice encode_id(const struct client_id *id, struct msg_writer *w)
{
    char digits[24];
    msg_writer_clear(w);
    if (id->type == SQLITE_INTEGER) {
        msg_int(w, id->number);
    } else if (id->type == SQLITE_BLOB) {
        snprintf(digits, sizeof digits, "%.*s", (int)id->text.len, (const char *)id->text.at);
        msg_uint(w, strtoull(digits, NULL, 10));
    } else if (id->type == SQLITE_TEXT) {
        msg_str_len(w, (const char *)id->text.at, id->text.len);
    } else {
        return (struct slice){0};
    }
    return (struct slice){(const uint8_t *)w->buffer.data, w->buffer.size};
}

/* A walk over results. */
struct walk {
    struct store *s;
    int64_t job;
    int64_t next; /* the cursor or row expected next */
    struct msg_writer id;
    store_result_visitor *visit;
    void *arg;
};

/* A copy, because blobs may be unaligned; NULL when empty. */
static void *copy_of(struct slice bytes)
{
    void *copy = bytes.len > 0 ? xcalloc(1, bytes.len) : NULL;
    if (copy)
        memcpy(copy, bytes.at, bytes.len);
    return copy;
}

/* Whether the result has as many values as its row gives. */
static int has_its_values(const struct result_record *r, const struct row_record *row)
{
    size_t n = r->has_score ? 1 : r->vector.len / sizeof(float);
    if (r->error_code.at)
        return 1;
    int is_ensemble = row->adapter.at && memchr(row->adapter.at, ',', row->adapter.len);
    if (row_shape_is_choice((int)row->shape) && !is_ensemble)
        return 1;
    if (row->shape == ROW_PAIR && !is_ensemble)
        return n == 2;
    return n == (size_t)row->n_values;
}

static int give_result(struct walk *w, const struct result_record *r, const struct row_record *row)
{
    char code[32], message[ERR_MESSAGE_BYTES];
    float score = (float)r->score, *values = copy_of(r->vector);
    struct store_result_row out = {.cursor = (uint64_t)r->seq,
        .i = row_index(r->row),
        .finished_ms = r->finished_ms,
        .mode = r->mode,
        .is_other_mode = !store_mode_is_present(w->s, r->mode),
        .route = row->adapter,
        .client_id = encode_id(&row->id, &w->id),
        .n_tokens = (uint32_t)row->n_tokens,
        .shape = (int)row->shape,
        .pool = row->pool,
        .values = r->has_score ? &score : values,
        .n_values = r->has_score ? 1 : (uint32_t)(r->vector.len / sizeof(float)),
        .pooled_at = copy_of(r->pooled),
        .n_pooled = (uint32_t)(r->pooled.len / (2 * sizeof(int32_t)))};
    if (r->error_code.at) {
        snprintf(code, sizeof code, "%s", (const char *)r->error_code.at);
        snprintf(message, sizeof message, "%s",
            r->error_message.at ? (const char *)r->error_message.at : "");
        utf8_make_printable(code);
        utf8_make_printable(message);
        out.error_code = code;
        out.error_message = message;
    }
    int end = w->visit(w->arg, &out);
    free(values);
    free((void *)(uintptr_t)out.pooled_at);
    return end;
}

static void end_walk(struct walk *w, sqlite3_stmt *q)
{
    sqlite3_reset(q);
    msg_writer_release(&w->id);
}

static const struct row_record no_row = {.id = {.type = SQLITE_NULL}};

/* Makes `retry` look at this job's results. */
static void note_damaged(struct store *s, int64_t job)
{
    for (int i = 0; i < STORE_DAMAGED; i++)
        if (s->damaged[i] == job)
            return;
    s->damaged[s->n_damaged++ % STORE_DAMAGED] = job;
}

/* Gives an error in place of a result that is damaged, or whose row is. */
static int give_damaged(
    struct walk *w, const struct result_record *r, const struct row_record *row, const char *what)
{
    char message[160];
    snprintf(message, sizeof message,
        "expected the %s as it was kept, found a record in the database that is damaged; `retry` "
        "computes it again",
        what);
    struct result_record error = {.seq = r->seq,
        .row = r->row,
        .error_code = store_text(err_name(ASSAY_EDAMAGED)),
        .error_message = store_text(message)};
    note_damaged(w->s, w->job);
    return give_result(w, &error, row);
}

/* Whether the index, too, says that this result is this row's. */
static int is_of_row(const struct walk *w, const struct result_record *r)
{
    int64_t n;
    int rc = store_integer(w->s, 0, &n, NULL,
        "select count(*) from result indexed by result_row where row = ? and job = ? and seq = ?",
        "iii", r->row, r->job, r->seq);
    return rc == 0 && n == 1;
}

int64_t store_row_of_result(struct store *s, const struct result_record *r)
{
    int64_t row;
    int rc = store_integer(s, 0, &row, NULL,
        "select row from result indexed by result_row where row between ? and ? and job = ? and "
        "seq = ?",
        "iiii", row_id_of(r->job, 0), row_last(r->job), r->job, r->seq);
    return rc == 0 && row != 0 ? row : r->row;
}

/* Gives the result that q is at. When it is damaged, the index says which row it belongs to. */
static int visit_row(struct walk *w, sqlite3_stmt *q)
{
    struct result_record r;
    struct row_record row;
    int sound = store_read_result(w->s, q, 0, &r);
    if (!sound)
        r.row = store_row_of_result(w->s, &r);
    int whole = sqlite3_column_type(q, 11) != SQLITE_NULL &&
                store_read_record(w->s, sqlite3_column_int64(q, 11), q, 12, &row);
    if (!sound)
        return give_damaged(w, &r, whole && is_of_row(w, &r) ? &row : &no_row, "result");
    if (!whole || !has_its_values(&r, &row))
        return give_damaged(w, &r, &no_row, "row");
    return give_result(w, &r, &row);
}

int store_result_as_kept(
    struct store *s, int64_t row, store_result_visitor *visit, void *arg, struct err *e)
{
    struct walk w = {.s = s, .job = row_job(row), .visit = visit, .arg = arg};
    struct result_record r;
    struct row_record of;
    sqlite3_stmt *q =
        store_prepare(s, RESULTS "where result.row = ? and error_code is null", "i", row);
    int rc = store_step(s, q, e);
    if (rc == 1) {
        msg_writer_init(&w.id);
        store_read_result(s, q, 0, &r);
        store_read_record(s, row, q, 12, &of);
        give_result(&w, &r, &of);
        end_walk(&w, q);
    }
    return rc;
}

/* Whether all results at the cursors from `from` to `to` are gone by intent: 0, else an error. */
static int check_gap(struct walk *w, int64_t from, int64_t to, struct err *e)
{
    int64_t gone;
    if (from > to)
        return 0;
    int rc = store_integer(w->s, 0, &gone, e,
        "select count(*) from gone where job = ? and seq between ? and ?", "iii", w->job, from, to);
    if (rc != 0 || gone == to - from + 1)
        return rc;
    w->s->suspect = w->job;
    return err_set(e, ASSAY_EINTERNAL,
        "%s/assay.db: job %lld: expected results at the cursors from %lld to %lld, found %lld of "
        "them missing: the database is damaged; their rows are computed again, ask again",
        w->s->dir, (long long)w->job, (long long)from, (long long)to,
        (long long)(to - from + 1 - gone));
}

/* Checks that there are as many results as finished rows. */
static int check_count(struct walk *w, int64_t next, int64_t done, struct err *e)
{
    int64_t gone;
    int rc =
        store_integer(w->s, 0, &gone, e, "select count(*) from gone where job = ?", "i", w->job);
    if (rc != 0 || next - 1 - gone == done)
        return rc;
    w->s->suspect = w->job;
    return err_set(e, ASSAY_EINTERNAL,
        "%s/assay.db: job %lld: expected results of the %lld rows that are over, found %lld: the "
        "database is damaged; it is mended, ask again",
        w->s->dir, (long long)w->job, (long long)done, (long long)(next - 1 - gone));
}

/* Called after the last result: checks that no result that was ever counted is missing. */
static int check_end(struct walk *w, struct err *e)
{
    const struct store_tally *t = &w->s->tally;
    int64_t next, done;
    sqlite3_stmt *q =
        store_prepare(w->s, "select next_seq, done from job where job = ?", "i", w->job);
    int rc = store_step(w->s, q, e);
    if (rc != 1)
        return rc;
    next = t->job == w->job ? t->next_seq : sqlite3_column_int64(q, 0);
    done = sqlite3_column_int64(q, 1) + (t->job == w->job ? t->done : 0);
    sqlite3_reset(q);
    rc = check_gap(w, w->next, next - 1, e);
    return rc == 0 ? check_count(w, next, done, e) : rc;
}

/* An unreadable page fails the request, not the broker. */
static int failed(struct walk *w, int rc, struct err *e)
{
    if (rc == ASSAY_EIO && (sqlite3_errcode(w->s->db) & 0xff) == SQLITE_CORRUPT && e)
        rc = e->code = ASSAY_EINTERNAL;
    return rc;
}

int store_each_result(struct store *s, const struct store_page *page, store_result_visitor *visit,
    void *arg, struct err *e)
{
    int64_t job = page->job, from = page->after >= INT64_MAX ? INT64_MAX - 1 : (int64_t)page->after;
    uint32_t left = page->limit;
    struct walk w = {.s = s, .job = job, .next = from + 1, .visit = visit, .arg = arg};
    sqlite3_stmt *q = store_prepare(
        s, RESULTS "where result.job = ? and seq > ? order by result.job, seq", "ii", job, from);
    int rc = 1, end = 0;
    msg_writer_init(&w.id);
    while (!end && left > 0 && (rc = store_step(s, q, e)) == 1) {
        int64_t seq = sqlite3_column_int64(q, 1);
        if (sqlite3_column_int64(q, 0) != job || seq < w.next)
            continue; /* out of place: it is found missing where it belongs */
        rc = check_gap(&w, w.next, seq - 1, e);
        if (rc != 0)
            break;
        rc = 1;
        w.next = seq + 1;
        left--;
        end = visit_row(&w, q);
    }
    if (rc == 0)
        rc = check_end(&w, e);
    end_walk(&w, q);
    return rc < 0 ? failed(&w, rc, e) : rc;
}

/* Gives an error for each finished row below `to` that has no result. */
static int give_missing(struct walk *w, int64_t to)
{
    int end = 0;
    for (; !end && w->next < to; w->next++) {
        struct result_record r = {.row = w->next};
        end = give_damaged(w, &r, &no_row, "result");
    }
    return end;
}

int store_each_result_by_index(struct store *s, int64_t job, uint32_t from,
    store_result_visitor *visit, void *arg, struct err *e)
{
    struct walk w = {.s = s, .job = job, .next = row_id_of(job, from), .visit = visit, .arg = arg};
    struct store_job j;
    int rc = store_get_job(s, job, &j, e), end = 0;
    if (rc != 1)
        return rc;
    int is_over = j.done >= j.placed;
    sqlite3_stmt *q =
        store_prepare(s, RESULTS "where result.row between ? and ? order by result.row", "ii",
            w.next, row_last(job));
    msg_writer_init(&w.id);
    while (!end && (rc = store_step(s, q, e)) == 1) {
        int64_t row = sqlite3_column_int64(q, 2);
        if (row < w.next || row_index(row) >= j.placed)
            continue; /* no row's result; the row that lacks one is found missing */
        end = is_over && give_missing(&w, row);
        w.next = row + 1;
        if (!end)
            end = visit_row(&w, q);
    }
    if (!end && rc == 0 && is_over)
        end = give_missing(&w, row_id_of(job, (uint32_t)j.placed));
    end_walk(&w, q);
    return rc < 0 ? failed(&w, rc, e) : end;
}

/* ---- answers ---- */

static const char *text_of(struct slice text)
{
    return text.at ? (const char *)text.at : "";
}

int store_read_answer(
    struct store *s, int64_t row, int64_t mode, struct store_answer *answer, struct err *e)
{
    struct result_record r;
    sqlite3_stmt *q = store_prepare(s,
        "select " STORE_RESULT_COLUMNS
        "from result indexed by result_row where result.row = ? and mode = ?",
        "ii", row, mode);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    rc = store_read_result(s, q, 0, &r) && r.row == row;
    float score = (float)r.score;
    const uint8_t *values = r.has_score ? (const uint8_t *)&score : r.vector.at;
    answer->n_values = r.has_score ? 1 : (uint32_t)(r.vector.len / sizeof(float));
    if (rc == 1 && answer->n > 0 && (uint64_t)answer->from + answer->n <= answer->n_values)
        memcpy(answer->values, values + answer->from * sizeof(float), answer->n * sizeof(float));
    snprintf(answer->error_code, sizeof answer->error_code, "%s", text_of(r.error_code));
    snprintf(answer->error_message, sizeof answer->error_message, "%s", text_of(r.error_message));
    sqlite3_reset(q);
    return rc;
}
