/* sql.c - prepares each statement once, finds it again by its text's address, binds its values. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/log.h"

int store_failed(struct store *s, struct err *e, const char *what)
{
    int error = errno; /* sqlite3_system_errno has it in some cases only */
    int code = sqlite3_extended_errcode(s->db), primary = code & 0xff;
    int damaged = primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB;
    int why = code == SQLITE_IOERR_WRITE || code == SQLITE_IOERR_SHMSIZE ? error : 0;
    int no_quota = why == EDQUOT, too_large = why == EFBIG;
    if (primary == SQLITE_BUSY)
        return err_set(e, ASSAY_ELOCKED,
            "%s/assay.db: another process has the database locked (a sqlite3 that writes to it?)",
            s->dir);
    return err_set(e, primary == SQLITE_FULL || no_quota || too_large ? ASSAY_EFULL : ASSAY_EIO,
        "%s/assay.db: %.200s: %s (%d)%s", s->dir, what, sqlite3_errmsg(s->db), code,
        no_quota    ? ": the user's quota is used up"
        : too_large ? ": a file would grow beyond `ulimit -f`"
        : damaged   ? "; the file is damaged: `assay scrub` says where; put back a copy of it"
                    : "");
}

static void bind_all(sqlite3_stmt *statement, const char *types, va_list args)
{
    for (int i = 1; *types; types++, i++) {
        struct slice v;
        const char *text;
        switch (*types) {
        case 'i':
            sqlite3_bind_int64(statement, i, va_arg(args, int64_t));
            break;
        case 'd':
            sqlite3_bind_double(statement, i, va_arg(args, double));
            break;
        case 's':
            text = va_arg(args, const char *);
            sqlite3_bind_text(statement, i, text, -1, SQLITE_STATIC);
            break;
        case 't':
            v = va_arg(args, struct slice);
            sqlite3_bind_text64(
                statement, i, (const char *)v.at, v.len, SQLITE_STATIC, SQLITE_UTF8);
            break;
        default:
            v = va_arg(args, struct slice);
            sqlite3_bind_blob64(statement, i, v.at, v.len, SQLITE_STATIC);
            break;
        }
    }
}

static sqlite3_stmt *find_statement(struct store *s, const char *sql)
{
    for (int i = 0; i < s->n_cached; i++)
        if (s->cache[i].sql == sql)
            return s->cache[i].statement;
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) !=
        SQLITE_OK)
        return NULL; /* store_step says why */
    if (s->n_cached == STORE_MAX_STATEMENTS)
        die(70, "event=too_many_statements limit=%d", STORE_MAX_STATEMENTS);
    s->cache[s->n_cached].sql = sql;
    s->cache[s->n_cached++].statement = statement;
    return statement;
}

static sqlite3_stmt *prepare(struct store *s, const char *sql, const char *types, va_list args)
{
    sqlite3_stmt *statement = find_statement(s, sql);
    if (!statement)
        return NULL;
    sqlite3_reset(statement);
    bind_all(statement, types, args);
    return statement;
}

sqlite3_stmt *store_prepare(struct store *s, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(s, sql, types, args);
    va_end(args);
    return statement;
}

static int no_statement(struct store *s, struct err *e)
{
    return err_set(e, ASSAY_EIO,
        "%s/assay.db: %s: its schema is not what this version made, or cannot be read; `assay "
        "scrub` "
        "says more; put a copy in its place",
        s->dir, sqlite3_errmsg(s->db));
}

int store_step(struct store *s, sqlite3_stmt *statement, struct err *e)
{
    if (!statement)
        return no_statement(s, e);
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        return 1;
    int failed = rc == SQLITE_DONE ? 0 : store_failed(s, e, sqlite3_sql(statement));
    sqlite3_reset(statement);
    return failed;
}

int store_run(struct store *s, struct err *e, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(s, sql, types, args);
    va_end(args);
    s->changes = STORE_CHANGED_NOW;
    int rc = store_step(s, statement, e);
    sqlite3_reset(statement);
    return rc < 0 ? rc : 0;
}

int store_run_job(
    struct store *s, int64_t job, int what, struct err *e, const char *sql, const char *types, ...)
{
    va_list args;
    int rc = what & JOB_SAID ? store_touch_sound(s, job, e) : 0;
    if (rc == 0)
        rc = store_touch_job(s, job, what & JOB_COUNTED, e);
    if (rc != 0)
        return rc;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(s, sql, types, args);
    va_end(args);
    s->changes = STORE_CHANGED_NOW;
    rc = store_step(s, statement, e);
    sqlite3_reset(statement);
    return rc < 0 ? rc : 0;
}

int store_integer(struct store *s, int64_t fallback, int64_t *value, struct err *e, const char *sql,
    const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *statement = prepare(s, sql, types, args);
    va_end(args);
    int rc = store_step(s, statement, e);
    *value = rc == 1 ? sqlite3_column_int64(statement, 0) : fallback;
    sqlite3_reset(statement);
    return rc < 0 ? rc : 0;
}

void *store_scratch(struct store *s, size_t bytes)
{
    if (bytes > s->scratch_bytes) {
        free(s->scratch);
        s->scratch = xcalloc(1, bytes);
        s->scratch_bytes = bytes;
    }
    return s->scratch;
}
