/* store_results.c - reading results: by cursor, and in order of index. */
#include <stdlib.h>
#include <string.h>

#include "broker/store_private.h"
#include "schema/log.h"

#define RESULT_COLUMNS                                                                             \
    "select seq, result.row, client_id, n_tokens, pool_type, activation, score, vector, pooled, "  \
    "error_code, error_message, shape from result join row on row.row = result.row "

/* The id as msgpack again, in *w. */
static struct slice client_id(sqlite3_stmt *q, struct msg_writer *w)
{
    msg_writer_clear(w);
    if (sqlite3_column_type(q, 2) == SQLITE_NULL)
        return (struct slice){0};
    if (sqlite3_column_type(q, 2) == SQLITE_INTEGER)
        msg_int(w, sqlite3_column_int64(q, 2));
    else if (sqlite3_column_type(q, 2) == SQLITE_BLOB)
        msg_uint(w, strtoull((const char *)sqlite3_column_text(q, 2), NULL, 10));
    else
        msg_str_len(w, sqlite3_column_text(q, 2), (size_t)sqlite3_column_bytes(q, 2));
    return (struct slice){(const uint8_t *)w->buffer.data, w->buffer.size};
}

static int visit_row(sqlite3_stmt *q, struct msg_writer *w, store_result_visitor *visit, void *arg)
{
    float score = (float)sqlite3_column_double(q, 6);
    int one = sqlite3_column_type(q, 6) != SQLITE_NULL;
    int32_t *pooled = NULL;
    struct store_result_row r = {
        .cursor = (uint64_t)sqlite3_column_int64(q, 0),
        .i = row_index(sqlite3_column_int64(q, 1)),
        .client_id = client_id(q, w),
        .n_tokens = (uint32_t)sqlite3_column_int64(q, 3),
        .shape = sqlite3_column_int(q, 11),
        .pool_type = sqlite3_column_int(q, 4),
        .activation = sqlite3_column_int(q, 5),
        .values = one ? &score : sqlite3_column_blob(q, 7),
        .n_values = one ? 1 : (uint32_t)(sqlite3_column_bytes(q, 7) / 4),
        .n_pooled = (uint32_t)(sqlite3_column_bytes(q, 8) / 8),
        .error_code = (const char *)sqlite3_column_text(q, 9),
        .error_message = (const char *)sqlite3_column_text(q, 10),
    };
    /* Blobs of a row need not be aligned. */
    float *values = NULL;
    if (!one && r.n_values > 0) {
        values = xcalloc(r.n_values, sizeof *values);
        memcpy(values, sqlite3_column_blob(q, 7), r.n_values * sizeof *values);
        r.values = values;
    }
    if (r.n_pooled > 0) {
        pooled = xcalloc(r.n_pooled, 2 * sizeof *pooled);
        memcpy(pooled, sqlite3_column_blob(q, 8), r.n_pooled * 2 * sizeof *pooled);
        r.pooled_at = pooled;
    }
    int end = visit(arg, &r);
    free(values);
    free(pooled);
    return end;
}

static int visit_all(
    struct store *s, sqlite3_stmt *q, store_result_visitor *visit, void *arg, struct err *e)
{
    struct msg_writer w;
    int rc, end = 0;
    msg_writer_init(&w);
    while ((rc = store_step(s, q, e)) == 1 && !end)
        end = visit_row(q, &w, visit, arg);
    sqlite3_reset(q);
    msg_writer_release(&w);
    return rc < 0 ? rc : 0;
}

int store_each_result(struct store *s, int64_t job, uint64_t after, uint32_t limit,
    store_result_visitor *visit, void *arg, struct err *e)
{
    int64_t from = after > INT64_MAX ? INT64_MAX : (int64_t)after;
    sqlite3_stmt *q = store_prepare(s,
        RESULT_COLUMNS "where result.job = ? and seq > ? order by result.job, seq limit ?", "iii",
        job, from, (int64_t)limit);
    return visit_all(s, q, visit, arg, e);
}

int store_each_result_by_index(
    struct store *s, int64_t job, store_result_visitor *visit, void *arg, struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        RESULT_COLUMNS "where result.row >= ? and result.row < ? order by result.row", "ii",
        row_number(job, 0), row_number(job + 1, 0));
    return visit_all(s, q, visit, arg, e);
}
