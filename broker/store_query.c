/* store_query.c - statements: kept, bound, stepped. See store_query.h. */
#include "broker/store_query.h"

#include <assert.h>

#include "broker/store_private.h"

int query_error(struct store *s, int rc, struct err *e)
{
    int code = (rc & 0xff) == SQLITE_FULL ? ASSAY_EFULL : ASSAY_EIO;
    err_set(
        e, code, "%s: %s (SQLite %d)", s->db_path, s->db ? sqlite3_errmsg(s->db) : "no memory", rc);
    if (code == ASSAY_EFULL)
        store_rollback(s);
    return code;
}

static sqlite3_stmt *prepared(struct store *s, const char *sql, int *rc)
{
    int i = 0;
    while (i < s->n_statements && s->statements[i].sql != sql)
        i++;
    if (i < s->n_statements)
        return s->statements[i].st;
    assert(i < QUERY_STATEMENTS);
    sqlite3_stmt *st = NULL;
    *rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL);
    if (*rc == SQLITE_OK)
        s->statements[s->n_statements++] = (struct store_statement){.sql = sql, .st = st};
    return st;
}

struct query query_begin(struct store *s, const char *sql)
{
    struct query q = {.store = s};
    q.st = prepared(s, sql, &q.rc);
    assert(!q.st || !sqlite3_stmt_busy(q.st));
    return q;
}

static void bound(struct query *q, int rc)
{
    if (q->rc == SQLITE_OK)
        q->rc = rc;
}

void query_int(struct query *q, int64_t value)
{
    bound(q, sqlite3_bind_int64(q->st, ++q->n_bound, value));
}

void query_real(struct query *q, double value)
{
    bound(q, sqlite3_bind_double(q->st, ++q->n_bound, value));
}

void query_text(struct query *q, const char *text, size_t len)
{
    bound(q, sqlite3_bind_text64(q->st, ++q->n_bound, text, len, SQLITE_STATIC, SQLITE_UTF8));
}

void query_blob(struct query *q, const void *bytes, size_t len)
{
    bound(q, sqlite3_bind_blob64(q->st, ++q->n_bound, bytes, len, SQLITE_STATIC));
}

int query_step(struct query *q, struct err *e)
{
    int rc = q->rc == SQLITE_OK ? sqlite3_step(q->st) : q->rc;
    if (rc == SQLITE_ROW)
        return 1;
    /* The words of the error must be taken before the reset, the rollback must come after it. */
    int code = rc == SQLITE_DONE ? 0 : query_error(q->store, rc, e);
    query_end(q);
    return code;
}

void query_end(struct query *q)
{
    sqlite3_reset(q->st);
}

int query_run(struct query *q, struct err *e)
{
    int found = query_step(q, e);
    if (found > 0)
        query_end(q);
    return found < 0 ? found : 0;
}

int query_one(struct query *q, int64_t *value, struct err *e)
{
    int found = query_step(q, e);
    if (found <= 0)
        return found;
    *value = sqlite3_column_int64(q->st, 0);
    query_end(q);
    return 1;
}
