/* minutes.c - how many rows finished in each minute, which the page and the view throughput show.
 *
 * What is older than MINUTES_KEPT is summed by hours, so a year takes some 9,000 records and not half
 * a million: an hour's sum is the record of its first minute. A day of minutes at a time becomes
 * hours, so that no tick is long, however many there are of a version before. */
#include "broker/store/private.h"
#include "schema/clock.h"

#define MINUTES_KEPT (8 * 1440) /* the message throughput has at most seven days */
#define AT_ONCE 1440
#define AGAIN_MS 1000        /* there are more */
#define NEXT_MS (600 * 1000) /* there were none */

/* Sums the minutes below `end`, which is the beginning of an hour. */
static int sum_hours(struct store *s, int64_t end, struct err *e)
{
    int rc = store_run(s, e,
        "insert into minute select minute / 60 * 60, sum(n_rows), sum(n_tokens) from minute "
        "where minute < ? and minute % 60 <> 0 group by 1 on conflict (minute) do update set "
        "n_rows = n_rows + excluded.n_rows, n_tokens = n_tokens + excluded.n_tokens",
        "i", end);
    return rc != 0 ? rc
                   : store_run(s, e, "delete from minute where minute < ? and minute % 60 <> 0",
                         "i", end);
}

static int sum_old(struct store *s, int64_t now_ms, struct err *e)
{
    int64_t end = (now_ms / 60000 - MINUTES_KEPT) / 60 * 60, first = 0;
    int rc = store_integer(s, 0, &first, e,
        "select minute from minute where minute < ? and minute % 60 <> 0 order by minute limit 1",
        "i", end);
    s->minutes_due_ms = now_mono_ms() + (first > 0 ? AGAIN_MS : NEXT_MS);
    if (rc != 0 || first == 0)
        return rc;
    first = first / 60 * 60 + AT_ONCE;
    return sum_hours(s, first < end ? first : end, e);
}

int store_note_minute(
    struct store *s, int64_t now_ms, int64_t n_rows, int64_t n_tokens, struct err *e)
{
    int rc = store_run(s, e,
        "insert into minute values (?, ?, ?) on conflict (minute) do update set "
        "n_rows = n_rows + excluded.n_rows, n_tokens = n_tokens + excluded.n_tokens",
        "iii", now_ms / 60000, n_rows, n_tokens);
    return rc != 0 || now_mono_ms() < s->minutes_due_ms ? rc : sum_old(s, now_ms, e);
}

int store_each_minute(
    struct store *s, int64_t from, store_minute_visitor *visit, void *arg, struct err *e)
{
    int rc;
    sqlite3_stmt *q = store_prepare(s,
        "select minute, n_rows, n_tokens from minute where minute >= ? order by minute", "i", from);
    while ((rc = store_step(s, q, e)) == 1)
        visit(arg, sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 1),
            sqlite3_column_int64(q, 2));
    return rc;
}
