/* adapters.c - what the scores of a job's rows belong to, where that is not the job's model alone.
 *
 * A row that names an adapter, another model or several models has this as a route (store.h). Its
 * job has, in column `adapters`, the mode of each route that its rows have: that of the first of
 * them, so that no job has rows of two checkpoints or adapters under one name. A job waits (it is
 * held) while one of these modes is not served: what no row of it names is of no concern. Null
 * instead of a mode: there was none when somebody last accepted that, and the rows fail. A job of
 * version 12 of the schema has no such column: the mode of all its rows says " lora=" and a hash of
 * all adapters that were there. */
#include <stdio.h>
#include <string.h>

#include "broker/store/private.h"
#include "schema/alloc.h"

#define DIGEST_DIGITS 64
#define SHOWN_DIGITS 12
/* The value of this name in a JSON object. */
#define VALUE(object, name) "json_extract(" object ", '$.\"' || " name " || '\"')"

/* ---- what a job wants ---- */

void store_find_missing(struct store *s, struct slice adapters, struct missing_route *m)
{
    *m = (struct missing_route){0};
    sqlite3_stmt *q = store_prepare(s,
        "select key, value, " VALUE("?3", "key") " from json_each(" STORE_JSON(
            "?1") ") where " STORE_IS_MISSING("?2") " order by key limit 1",
        "tss", adapters, s->present_json, s->names);
    if (store_step(s, q, NULL) != 1)
        return;
    snprintf(m->route, sizeof m->route, "%s", (const char *)sqlite3_column_text(q, 0));
    m->mode = sqlite3_column_int64(q, 1);
    m->present = sqlite3_column_int64(q, 2);
    sqlite3_reset(q);
}

/* The first digits of the digest: of the adapter, which is in the text of the mode, or of the
 * checkpoint. */
static void read_digest(
    struct store *s, int64_t mode, int of_adapter, char digits[SHOWN_DIGITS + 1])
{
    sqlite3_stmt *q =
        store_prepare(s, "select iif(?2, substr(text, -64), digest) from mode where mode = ?1",
            "ii", mode, (int64_t)of_adapter);
    digits[0] = '\0';
    if (store_step(s, q, NULL) != 1)
        return;
    snprintf(digits, SHOWN_DIGITS + 1, "%s", (const char *)sqlite3_column_text(q, 0));
    sqlite3_reset(q);
}

void store_name_missing(struct store *s, const struct missing_route *m, char *text, size_t size)
{
    char made[SHOWN_DIGITS + 1], now[SHOWN_DIGITS + 1], other[STORE_ROUTE_BYTES + 20];
    size_t n = strlen(m->route);
    int is_model = n > 0 && m->route[n - 1] == '/';
    if (strchr(m->route, ',')) {
        snprintf(text, size, "made with other checkpoints of the models %s", m->route);
        return;
    }
    read_digest(s, m->mode, !is_model, made);
    read_digest(s, m->present, !is_model, now);
    snprintf(other, sizeof other, "%.*s (%s)", (int)n - is_model, m->route, now);
    snprintf(text, size, "made with %s %.*s (%s), the broker has %s",
        is_model ? "model" : "adapter", (int)n - is_model, m->route, made,
        m->present ? other : "none of that name");
}

int store_wanted_mode(struct store *s, int64_t job, struct slice name, int64_t *mode, struct err *e)
{
    return store_integer(s, 0, mode, e,
        "select " VALUE(STORE_JSON("adapters"), "?2") " from job where job = ?1", "it", job, name);
}

int store_note_route(struct store *s, int64_t job, const struct store_route *r, struct err *e)
{
    int64_t wanted, mode;
    int rc = store_wanted_mode(s, job, r->text, &wanted, e);
    if (rc != 0 || wanted > 0)
        return rc;
    rc = store_mode_of_route(s, r, &mode, e);
    return rc != 0 ? rc
                   : store_run_job(s, job, JOB_SAID, e,
                         "update job set adapters = json_set(" STORE_JSON(
                             "adapters") ", "
                                         "'$.\"' || ?2 || '\"', nullif(?3, 0)) where job = ?1",
                         "iti", job, r->text, mode);
}

/* ---- what it is to go on with ---- */

/* Makes the column of a job from before there was one. */
static int list_names(struct store *s, int64_t job, struct err *e)
{
    int64_t is_old;
    int rc = store_integer(s, 0, &is_old, e,
        "select 1 from job join mode using (mode) where job = ? and instr(mode.text, ' lora=') > 0 "
        "and adapters is null",
        "i", job);
    if (rc != 0 || !is_old)
        return rc;
    return store_run(s, e,
        "update job set adapters = (select json_group_object(adapter, null) from (select distinct "
        "adapter from row where row between ?1 and ?2 and adapter is not null)) where job = ?3",
        "iii", row_id_of(job, 0), row_last(job), job);
}

/* The next ensemble behind this name that the job's rows name: 1 and its route, or 0. all = 0: of
 * those without a mode. */
static int next_ensemble(
    struct store *s, int64_t job, int all, char route[STORE_ROUTE_BYTES], struct err *e)
{
    sqlite3_stmt *q = store_prepare(s,
        "select each.key from job, json_each(" STORE_JSON(
            "adapters") ") each where job = ?1 and instr(each.key, ',') > 0 and each.key > ?2 and "
                        "(?3 or each.value is null) order by each.key limit 1",
        "isi", job, route, (int64_t)all);
    int rc = store_step(s, q, e);
    if (rc == 1)
        snprintf(route, STORE_ROUTE_BYTES, "%s", (const char *)sqlite3_column_text(q, 0));
    sqlite3_reset(q);
    return rc;
}

/* Gives the ensembles the modes of what has their names now. */
static int accept_ensembles(struct store *s, int64_t job, int all, struct err *e)
{
    char route[STORE_ROUTE_BYTES] = "";
    int64_t mode;
    int rc;
    while ((rc = next_ensemble(s, job, all, route, e)) == 1) {
        struct store_route r = {.text = store_text(route), .is_by_name = 1};
        rc = store_mode_of_route(s, &r, &mode, e);
        if (rc == 0)
            rc = store_run_job(s, job, JOB_SAID, e,
                "update job set adapters = json_set(adapters, '$.\"' || ?2 || '\"', nullif(?3, 0)) "
                "where job = ?1",
                "isi", job, route, mode);
        if (rc != 0)
            return rc;
    }
    return rc;
}

int store_accept_adapters(struct store *s, int64_t job, int all, struct err *e)
{
    int rc = all ? list_names(s, job, e) : 0;
    if (rc == 0)
        rc = accept_ensembles(s, job, all, e);
    return rc != 0 ? rc
                   : store_run_job(s, job, JOB_SAID, e,
                         "update job set adapters = (select json_group_object(key, "
                         "iif(instr(key, ',') = 0 and (?2 or value is null), " VALUE("?3",
                             "key") ", value)) "
                                    "from json_each(" STORE_JSON(
                                        "adapters") ")) where job = ?1 and adapters is not null",
                         "iis", job, (int64_t)all, s->names);
}
