/* reader.c - opens a database that a broker may be using, to read it only. */
#include <stdio.h>
#include <stdlib.h>

#include "broker/store/private.h"
#include "schema/alloc.h"

static int open_database(struct store *s, struct err *e)
{
    char path[4200];
    int64_t version = 0;
    snprintf(path, sizeof path, "%s/assay.db", s->dir);
    if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return err_set(e, ASSAY_EIO, "%s: %s", path, sqlite3_errmsg(s->db));
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, 10000);
    int rc = store_read_version(s, &version, e);
    if (rc == 0 && version != STORE_SCHEMA_VERSION)
        rc = err_set(e, ASSAY_EFORMAT,
            "%s: schema version: expected %d, found %lld; a start of this version's assayd "
            "upgrades it",
            path, STORE_SCHEMA_VERSION, (long long)version);
    if (rc == 0)
        rc = store_read_present(s, e);
    if (rc == 0)
        rc = store_read_sums_from(s, e);
    int primary = sqlite3_errcode(s->db) & 0xff;
    return rc != 0 && (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB) ? ASSAY_EDAMAGED : rc;
}

int store_open_reader(struct store **out, const char *data_dir, struct err *e)
{
    struct store *s = xcalloc(1, sizeof *s);
    s->options.mode = s->options.digest = "";
    int fits = snprintf(s->dir, sizeof s->dir, "%s", data_dir) < (int)sizeof s->dir;
    int rc = fits ? open_database(s, e) : err_set(e, ASSAY_EIO, "data directory: path too long");
    *out = s;
    if (rc != 0)
        store_close_reader(out);
    return rc;
}

void store_close_reader(struct store **out)
{
    struct store *s = *out;
    if (!s)
        return;
    for (int i = 0; i < s->n_cached; i++)
        sqlite3_finalize(s->cache[i].statement);
    sqlite3_close(s->db);
    store_release_models(s);
    free(s->scratch);
    free(s->unsound);
    free(s);
    *out = NULL;
}

int store_sample_rows(
    struct store *s, int64_t job, uint32_t n, store_number_visitor *visit, void *arg, struct err *e)
{
    int rc;
    sqlite3_stmt *q = store_prepare(s,
        "select row from (select row from result where job = ? and error_code is null "
        "order by random() limit ?) order by row",
        "ii", job, (int64_t)n);
    while ((rc = store_step(s, q, e)) == 1)
        visit(arg, sqlite3_column_int64(q, 0));
    return rc;
}

int store_last_time(const char *data_dir, int64_t *ms)
{
    struct store *s = NULL;
    struct err e = {0};
    int rc = store_open_reader(&s, data_dir, &e);
    if (rc == 0)
        rc = store_integer(s, 0, ms, &e,
            "select max(ifnull((select max(finished_ms) from job where finished_ms is not null), "
            "0), "
            "ifnull((select created_ms from job order by job desc limit 1), 0))",
            "");
    store_close_reader(&s);
    return rc;
}
