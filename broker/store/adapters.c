/* adapters.c - what the score of a row that names an adapter belongs to.
 *
 * A result belongs to a mode (table mode): the checkpoint's digest and how scores are computed. A
 * row with an adapter has a mode of its own, whose text ends in the digest of the adapter's files.
 * So neither an equal row, nor a later start, takes a result for that of another adapter under the
 * same name.
 *
 * A row holds the name, and its job, in column `adapters`, the mode of each name that its rows use.
 * A job waits (it is held) while one of them is not what the broker has under that name: adapters
 * that no row of it names are of no concern. Null instead of a mode: the broker had none when
 * somebody last accepted that, and the rows fail. A job of version 12 of the schema has no such
 * column: the mode of all its rows says " lora=" and a hash of all adapters that were there. */
#include <stdio.h>
#include <string.h>

#include "broker/store/private.h"

#define DIGEST_DIGITS 64
#define SHOWN_DIGITS 12
/* The value of this name in a JSON object. */
#define VALUE(object, name) "json_extract(" object ", '$.\"' || " name " || '\"')"

/* ---- what is there ---- */

static uint32_t n_adapters(const struct store *s)
{
    return s->options.limits.adapters ? s->options.limits.adapters->n : 0;
}

static void name_mode(const struct store *s, uint32_t k, char *text, size_t size)
{
    snprintf(text, size, "%s lora=%s", s->options.mode, s->options.limits.adapters->at[k].digest);
}

/* Writes what is there as JSON; an adapter whose mode has no number yet is not there. */
static void list_present(struct store *s)
{
    size_t at = 0;
    at += (size_t)snprintf(s->adapters, sizeof s->adapters, "{");
    for (uint32_t k = 0; k < n_adapters(s); k++)
        if (s->modes[k] > 0)
            at += (size_t)snprintf(s->adapters + at, sizeof s->adapters - at, "%s\"%s\":%lld",
                at > 1 ? "," : "", s->options.limits.adapters->at[k].name, (long long)s->modes[k]);
    snprintf(s->adapters + at, sizeof s->adapters - at, "}");
}

/* Reads what is known before anything is written: the modes of adapters that were used before. */
int store_read_adapters(struct store *s, struct err *e)
{
    char text[STORE_REASON_BYTES];
    int rc = 0;
    memset(s->modes, 0, sizeof s->modes);
    for (uint32_t k = 0; rc == 0 && k < n_adapters(s); k++) {
        name_mode(s, k, text, sizeof text);
        rc = store_integer(s, 0, &s->modes[k], e,
            "select mode from mode where digest = ? and text = ?", "ss", s->options.digest, text);
    }
    list_present(s);
    return rc;
}

int store_write_adapters(struct store *s, struct err *e)
{
    char text[STORE_REASON_BYTES];
    int rc = 0;
    for (uint32_t k = 0; rc == 0 && k < n_adapters(s); k++) {
        name_mode(s, k, text, sizeof text);
        rc = store_run(s, e, "insert or ignore into mode(digest, text) values (?, ?)", "ss",
            s->options.digest, text);
    }
    if (rc == 0)
        rc = store_read_adapters(s, e);
    return rc == 0 ? store_run(s, e, "insert or replace into meta values ('adapters', ?)", "s",
                         s->adapters)
                   : rc;
}

uint32_t store_adapter_of(const struct store *s, int64_t mode)
{
    if (mode == s->mode)
        return 0;
    for (uint32_t k = 0; k < ADAPTERS_MOST; k++)
        if (mode > 0 && s->modes[k] == mode)
            return k + 1;
    return ADAPTERS_UNKNOWN;
}

int64_t store_present_mode(struct store *s, struct slice name)
{
    int64_t mode = s->mode;
    if (name.at &&
        store_integer(s, 0, &mode, NULL, "select " VALUE("?1", "?2"), "st", s->adapters, name) != 0)
        mode = 0;
    return mode;
}

/* ---- what a job wants ---- */

void store_find_missing(struct store *s, struct slice adapters, struct missing_adapter *m)
{
    *m = (struct missing_adapter){0};
    sqlite3_stmt *q = store_prepare(s,
        "select key, value, " VALUE("?2", "key") " from json_each(" STORE_JSON(
            "?1") ") where " STORE_IS_MISSING("?2") " order by key limit 1",
        "ts", adapters, s->adapters);
    if (store_step(s, q, NULL) != 1)
        return;
    snprintf(m->name, sizeof m->name, "%s", (const char *)sqlite3_column_text(q, 0));
    m->mode = sqlite3_column_int64(q, 1);
    m->present = sqlite3_column_int64(q, 2);
    sqlite3_reset(q);
}

/* The first digits of the adapter's digest, from the text of the mode. */
static void read_digest(struct store *s, int64_t mode, char digits[SHOWN_DIGITS + 1])
{
    sqlite3_stmt *q = store_prepare(s, "select text from mode where mode = ?", "i", mode);
    digits[0] = '\0';
    if (store_step(s, q, NULL) != 1)
        return;
    int n = sqlite3_column_bytes(q, 0);
    if (n >= DIGEST_DIGITS)
        snprintf(digits, SHOWN_DIGITS + 1, "%s",
            (const char *)sqlite3_column_text(q, 0) + n - DIGEST_DIGITS);
    sqlite3_reset(q);
}

void store_name_missing(struct store *s, const struct missing_adapter *m, char *text, size_t size)
{
    char made[SHOWN_DIGITS + 1], now[SHOWN_DIGITS + 1], other[ADAPTERS_NAME_BYTES + 20];
    read_digest(s, m->mode, made);
    read_digest(s, m->present, now);
    snprintf(other, sizeof other, "%s (%s)", m->name, now);
    snprintf(text, size, "made with adapter %s (%s), the broker has %s", m->name, made,
        m->present ? other : "none of that name");
}

int store_wanted_mode(struct store *s, int64_t job, struct slice name, int64_t *mode, struct err *e)
{
    return store_integer(s, 0, mode, e,
        "select " VALUE(STORE_JSON("adapters"), "?2") " from job where job = ?1", "it", job, name);
}

int store_note_adapter(struct store *s, int64_t job, struct slice name, struct err *e)
{
    int64_t wanted;
    int rc = store_wanted_mode(s, job, name, &wanted, e);
    return rc != 0 || wanted > 0
               ? rc
               : store_run_job(s, job, JOB_SAID, e,
                     "update job set adapters = json_set(" STORE_JSON(
                         "adapters") ", "
                                     "'$.\"' || ?2 || '\"', nullif(?3, 0)) where job = ?1",
                     "iti", job, name, store_present_mode(s, name));
}

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

int store_accept_adapters(struct store *s, int64_t job, int all, struct err *e)
{
    int rc = all ? list_names(s, job, e) : 0;
    return rc != 0 ? rc
                   : store_run_job(s, job, JOB_SAID, e,
                         "update job set adapters = (select json_group_object(key, "
                         "iif(?2 or value is null, " VALUE("?3",
                             "key") ", value)) "
                                    "from json_each(" STORE_JSON(
                                        "adapters") ")) where job = ?1 and adapters is not null",
                         "iis", job, (int64_t)all, s->adapters);
}
