/* schema.c - creates the tables, or upgrades those of an older version, which are copied first. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "schema/log.h"

/* The bits of a block's rows in this state. */
#define ROWS_IN_STATE(state)                                                                       \
    "(select coalesce(sum(1 << (row & 63)), 0) from row "                                          \
    "where row between block << 6 and (block << 6) + 63 and state = " state ")"

static const char schema_sql[] =
#include "jobs_sql.h"
    ;

/* The steps from each version to the next. They run on databases of any size: no step rewrites a
 * table. What is no longer used stays: row.state, from version 5 on. */
static const char *const upgrades[STORE_SCHEMA_VERSION] = {
    [1] = "alter table row add column shape integer not null default 0;"
          "alter table row_input add column ends blob;"
          "create table purge (job integer primary key);",
    /* Also, ids may be packed from here on (ids.h), which an older broker would not know. */
    [2] = "create index job_unfinished on job (job) where finished_ms is null;"
          "create index row_failed on row (row) where state = 2;"
          "create index batch_running on batch (batch) where ms is null;",
    /* Also, new chunks have another digest, which an older broker would not know
     * (store/chunks.c). */
    [3] = "alter table job add column copied integer not null default 0;"
          "alter table job add column cached integer not null default 0;"
          "alter table job add column fresh integer not null default 0;"
          "alter table worker add column busy_us integer not null default 0;"
          "alter table worker add column up_us integer not null default 0;",
    /* Row states move into blocks (store/blocks.c), in the order of row numbers. */
    [4] = "alter table row_input add column rows blob;"
          "create table block (block integer primary key, queued integer not null, "
          "running integer not null, failed integer not null);"
          "with recursive n(block) as (select min(row) >> 6 from row union all "
          "select (select min(row) from row where row >= (block + 1) << 6) >> 6 from n "
          "where block is not null) "
          "insert into block select block, " ROWS_IN_STATE("0") ", 0, " ROWS_IN_STATE(
              "2") " from n where block is not null;"
                   "create index block_queued on block (block) where queued <> 0;"
                   "create index block_running on block (block) where running <> 0;"
                   "create index block_failed on block (block) where failed <> 0;"
                   "drop index if exists row_queued; drop index if exists row_failed; drop table "
                   "lease;",
    /* New records have checksums from here on (store/sums.c). Table gone tells cursors that a retry
     * left without a result from those that damage did. */
    [5] = "alter table job add column sum integer;"
          "alter table row add column sum integer;"
          "alter table row_input add column sums blob;"
          "alter table block add column sum integer;"
          "alter table result add column sum integer;"
          "create table gone (job integer not null, seq integer not null, primary key (job, seq)) "
          "without rowid;"
          "with recursive n(job, seq, next) as (select job, 1, next_seq from job "
          "where next_seq > done + 1 and next_seq <= done + 10000000 union all select job, seq + "
          "1, next from n "
          "where seq + 1 < next) insert into gone select job, seq from n where not exists "
          "(select 1 from result where result.job = n.job and result.seq = n.seq);"
          "insert or replace into meta select 'sums_from', 1 + max("
          "ifnull((select max(job) from job), 0), "
          "ifnull((select value from meta where name = 'last_job'), 0));",
    /* Finds the jobs in a state without looking at all others (store/jobs.c). */
    [6] = "create index job_done on job (job) "
          "where finished_ms is not null and cancelled = 0 and paused = 0;"
          "create index job_paused on job (job) where paused <> 0;"
          "create index job_cancelled on job (job) where cancelled <> 0;",
    /* A job remembers how its rows were truncated (store/jobs.c). */
    [7] = "alter table job add column truncation integer not null default 0;",
    /* So do records of chunks have checksums. */
    [8] = "alter table chunk add column sum integer;",
    /* The bytes of kept chunks move into pieces (store/pending.c). */
    [9] = "alter table chunk add column n_placed integer not null default 0;"
          "create table piece (job integer not null, chunk integer not null, "
          "piece integer not null, bytes blob not null, primary key (job, chunk, piece));"
          "insert into piece select job, chunk, 0, pending from chunk where length(pending) > 0;"
          "update chunk set pending = length(pending) where pending is not null;",
    /* New views: responses, response_stats, step_stats. */
    [10] = "",
    /* A row may name an adapter. */
    [11] = "alter table row add column adapter text;",
    /* A job knows the adapters that its rows name (store/adapters.c). Those of version 12 have them
     * all in the text of their mode. */
    [12] = "alter table job add column adapters text;",
    /* A job knows the name of its model. Column row.adapter may be a longer route, and a mode that
     * of an ensemble (store/models.c), which an older broker would not know. */
    [13] = "alter table job add column model text;"
           "alter table worker add column model text not null default '';",
    /* Jobs may be ephemeral, and are found by when they were over (store/purge.c). */
    [14] = "create table ephemeral (job integer primary key, since_ms integer not null);"
           "create index ephemeral_since on ephemeral (since_ms);"
           "create index job_over on job (finished_ms) where finished_ms is not null;",
    /* Several models may score responses or a pair, which an older broker would give to one. New
     * view: pairs; others have a column more. */
    [15] = "",
    /* step_stats had rows of several models, and took the models for steps. */
    [16] = "",
};

/* ---- from one version to the next ---- */

/* Does the copy have these jobs, and each as far as here? */
static int has_the_same_jobs(struct store *s, const char *copy)
{
    int64_t n = 1;
    char *sql = sqlite3_mprintf("attach %Q as copy", copy);
    int rc = sql ? store_execute(s, sql, NULL) : ASSAY_ENOMEM;
    sqlite3_free(sql);
    if (rc != 0)
        return 0;
    rc = store_integer(s, 1, &n, NULL,
        "select count(*) from (select * from (select * from main.job except select * from "
        "copy.job) "
        "union all select * from (select * from copy.job except select * from main.job))",
        "");
    store_execute(s, "detach copy", NULL);
    return rc == 0 && n == 0;
}

/* Finds a name for the copy: assay.db.v1, or assay.db.v1.2 and so on where older ones are there.
 * Returns 1 if such a copy has been made already, by an upgrade that was interrupted. */
static int name_copy(struct store *s, int64_t version, char *path, size_t size)
{
    snprintf(path, size, "%s/assay.db.v%lld", s->dir, (long long)version);
    for (int n = 2; access(path, F_OK) == 0; n++) {
        if (has_the_same_jobs(s, path))
            return 1;
        snprintf(path, size, "%s/assay.db.v%lld.%d", s->dir, (long long)version, n);
    }
    return 0;
}

/* Copies the database beside itself as it was. The copy gets its name only once it is whole. */
static int back_up(struct store *s, int64_t version, struct err *e)
{
    char path[4200], new[4200];
    snprintf(new, sizeof new, "%s/assay.db.new", s->dir);
    if (name_copy(s, version, path, sizeof path))
        return 0;
    unlink(new);
    char *sql = sqlite3_mprintf("vacuum into %Q", new);
    int rc = sql ? store_execute(s, sql, e) : err_set(e, ASSAY_ENOMEM, "out of memory");
    sqlite3_free(sql);
    if (rc == 0 && rename(new, path) != 0)
        rc = err_errno(e, ASSAY_EIO, "%s: cannot make it", path);
    if (rc != 0)
        unlink(new);
    else
        log_info("event=schema_upgrade from=%lld to=%d copy=%s", (long long)version,
            STORE_SCHEMA_VERSION, path);
    return rc;
}

/* Views hold no data: an upgrade makes all of them again from the end of schema_sql. */
static int make_views(struct store *s, struct err *e)
{
    char drop[128];
    sqlite3_stmt *q = NULL;
    int rc = 0;
    while (rc == 0 &&
           sqlite3_prepare_v2(s->db, "select name from sqlite_master where type = 'view' limit 1",
               -1, &q, NULL) == SQLITE_OK &&
           sqlite3_step(q) == SQLITE_ROW) {
        snprintf(drop, sizeof drop, "drop view \"%s\"", (const char *)sqlite3_column_text(q, 0));
        sqlite3_finalize(q);
        q = NULL;
        rc = store_execute(s, drop, e);
    }
    sqlite3_finalize(q);
    return rc == 0 ? store_execute(s, strstr(schema_sql, "create view"), e) : rc;
}

/* Writes the present schema, new or from an older one, in one transaction. */
static int write_schema(struct store *s, int64_t version, struct err *e)
{
    char set_version[64];
    snprintf(set_version, sizeof set_version, "pragma user_version=%d", STORE_SCHEMA_VERSION);
    int rc = store_execute(s, "begin immediate", e);
    if (rc == 0 && version == 0)
        rc = store_execute(s, schema_sql, e);
    for (int64_t v = version; rc == 0 && v > 0 && v < STORE_SCHEMA_VERSION; v++)
        rc = store_execute(s, upgrades[v], e);
    if (rc == 0 && version > 0)
        rc = make_views(s, e);
    if (rc == 0)
        rc = store_execute(s, set_version, e);
    if (rc == 0)
        rc = store_execute(s, "commit", e);
    if (rc != 0)
        store_execute(s, "rollback", NULL);
    return rc;
}

int store_read_version(struct store *s, int64_t *version, struct err *e)
{
    int64_t n_tables = 0;
    int rc = store_integer(s, 0, version, e, "pragma user_version", "");
    if (rc == 0 && *version == 0)
        rc = store_integer(s, 0, &n_tables, e, "select count(*) from sqlite_master", "");
    if (rc != 0)
        return rc;
    if (*version == 0 && n_tables == 0) /* a new file */
        return 0;
    if (*version < 1 || *version > STORE_SCHEMA_VERSION)
        return err_set(e, ASSAY_EFORMAT,
            "%s/assay.db: schema version: expected 1 to %d, found %lld%s", s->dir,
            STORE_SCHEMA_VERSION, (long long)*version,
            *version > STORE_SCHEMA_VERSION ? ", of a later version of assayd" : "");
    return 0;
}

int store_make_schema(struct store *s, struct err *e)
{
    int64_t version;
    int rc = store_read_version(s, &version, e);
    if (rc != 0 || version == STORE_SCHEMA_VERSION)
        return rc;
    if (version > 0)
        rc = back_up(s, version, e);
    return rc == 0 ? write_schema(s, version, e) : rc;
}
