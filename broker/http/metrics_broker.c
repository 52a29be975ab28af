/* metrics_broker.c - the broker's own numbers, from the last reply to `info`. A number that a broker
 * of another version does not say is left out. */
#include "broker/http/metrics_text.h"

#include <inttypes.h>
#include <string.h>

#define MOST_BOUNDS 32

struct figure {
    const char *key, *name, *help;
    double unit; /* of the broker's number, in the metric's; 0: as it is */
};

static const struct figure gauges[] = {
    {"unfinished_jobs", "assay_unfinished_jobs",
        "Jobs with rows to score, or not sealed; paused and held ones too.", 0},
    {"unfinished_rows", "assay_unfinished_rows", "Their rows without a result: the queue's depth.",
        0},
    {"queued_bytes", "assay_queued_bytes", "Bytes of token ids of unfinished rows.", 0},
    {"longest_wait_ms", "assay_queue_age_seconds",
        "How long the job has waited that has waited longest for its next row to be given out.",
        1e-3},
    {"received_bytes", "assay_received_bytes",
        "Bytes of messages that have come and are not handled yet.", 0},
    {"waiting", "assay_waiting_requests", "Requests at the broker that wait for rows.", 0},
    {"sessions", "assay_sessions", "Sessions that are open.", 0},
    {"session_bytes", "assay_session_bytes", "Bytes of their rows.", 0},
    {"longest_tick_ms", "assay_tick_longest_seconds",
        "The longest time since its start that the broker did not look at its messages.", 1e-3},
    {"recent_tick_ms", "assay_tick_recent_seconds", "The same of the last 10 to 20 s.", 1e-3},
    {"db_bytes", "assay_db_bytes", "Size of the database's file.", 0},
    {"wal_bytes", "assay_wal_bytes", "Size of the database's write-ahead log.", 0},
    {"disk_free_bytes", "assay_disk_free_bytes", "Free room on the disk of the data directory.", 0},
    {"memory_bytes", "assay_memory_bytes", "Resident memory of the broker's process.", 0},
    {"started_ms", "assay_start_time_seconds", "When the broker started, since 1970.", 1e-3},
};

static const struct figure counters[] = {
    {"requests", "assay_requests_total", "Requests that the broker has handled.", 0},
    {"refused", "assay_refused_total", "Those of them that it refused.", 0},
    {"rows_accepted", "assay_rows_accepted_total", "Rows that were taken.", 0},
    {"rows_done", "assay_rows_done_total", "Rows that are finished, failed ones too.", 0},
    {"rows_failed", "assay_rows_failed_total", "Rows that ended in an error as they were scored.",
        0},
    {"rows_copied", "assay_rows_copied_total", "Rows that took the result of an equal row.", 0},
    {"rows_cached", "assay_rows_cached_total", "Rows that took a result of the score cache.", 0},
    {"tokens", "assay_tokens_total", "Tokens of the sequences that went through a model.", 0},
    {"tokens_shared", "assay_tokens_shared_total",
        "Those of them that were not computed, as another sequence of the batch begins alike.", 0},
    {"batches", "assay_batches_total", "Batches that were computed.", 0},
    {"batches_lost", "assay_batches_lost_total", "Batches whose worker group ended first.", 0},
};

static const struct figure of_ranks[] = {
    {"busy_us", "assay_rank_busy_seconds_total", "Time that the rank computed since it was ready.",
        1e-6},
    {"up_us", "assay_rank_up_seconds_total",
        "Time since the rank was ready, as of the end of its last batch.", 1e-6},
    {"tokens", "assay_rank_tokens_total", "Tokens of the rank's batches, shared ones once.", 0},
    {"reused", "assay_rank_reused_tokens_total",
        "Those of them that were in its KV cache and were not computed.", 0},
    {"restarts", "assay_rank_restarts_total", "How often its group was started again.", 0},
    {"kv_bytes", "assay_rank_kv_bytes", "Bytes of its KV cache in use.", 0},
    {"memory_bytes", "assay_rank_memory_bytes", "Resident memory of its process.", 0},
};

#define N(list) (sizeof(list) / sizeof(list)[0])

static void put_number(FILE *f, const json_t *v, double unit)
{
    if (unit > 0)
        fprintf(f, " %.15g\n", (double)json_integer_value(v) * unit);
    else
        fprintf(f, " %" JSON_INTEGER_FORMAT "\n", json_integer_value(v));
}

static void put_figures(
    FILE *f, const json_t *map, const struct figure *list, size_t n, const char *type)
{
    for (size_t k = 0; k < n; k++) {
        const json_t *v = json_object_get(map, list[k].key);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            continue;
        metrics_put_head(f, list[k].name, type, list[k].help);
        fputs(list[k].name, f);
        put_number(f, v, list[k].unit);
    }
}

/* ---- ranks ---- */

static void put_rank(FILE *f, const json_t *worker)
{
    const char *model = json_string_value(json_object_get(worker, "model"));
    fprintf(f, "{group=\"%" JSON_INTEGER_FORMAT "\",rank=\"%" JSON_INTEGER_FORMAT "\",",
        json_integer_value(json_object_get(worker, "group")),
        json_integer_value(json_object_get(worker, "rank")));
    metrics_put_label(f, "model", model ? model : "");
    fputc('}', f);
}

static int is_up(const json_t *worker)
{
    const char *state = json_string_value(json_object_get(worker, "state"));
    return state && strcmp(state, "ready") == 0;
}

static void put_ranks(FILE *f, const json_t *workers)
{
    const json_t *worker;
    size_t i;
    metrics_put_head(f, "assay_rank_up", "gauge", "Is the rank ready?");
    json_array_foreach(workers, i, worker)
    {
        fputs("assay_rank_up", f);
        put_rank(f, worker);
        fprintf(f, " %d\n", is_up(worker));
    }
    for (size_t k = 0; k < N(of_ranks); k++) {
        const struct figure *one = &of_ranks[k];
        int is_counter = strstr(one->name, "_total") != NULL;
        metrics_put_head(f, one->name, is_counter ? "counter" : "gauge", one->help);
        json_array_foreach(workers, i, worker)
        {
            const json_t *v = json_object_get(worker, one->key);
            if (!json_is_integer(v))
                continue;
            fputs(one->name, f);
            put_rank(f, worker);
            put_number(f, v, one->unit);
        }
    }
}

/* ---- waiting ---- */

static void put_waits(FILE *f, const json_t *waits)
{
    const json_t *list = json_object_get(waits, "up_to_ms"), *pair;
    json_int_t count = json_integer_value(json_object_get(waits, "count"));
    double bounds[MOST_BOUNDS];
    uint64_t n[MOST_BOUNDS + 1] = {0}, below = 0;
    struct metrics_histogram h = {
        bounds, n, 0, (double)json_integer_value(json_object_get(waits, "sum_us")) / 1e6};
    size_t i;
    if (!waits || json_array_size(list) > MOST_BOUNDS)
        return;
    json_array_foreach(list, i, pair)
    {
        bounds[i] = (double)json_integer_value(json_array_get(pair, 0)) / 1e3;
        below += n[i] = (uint64_t)json_integer_value(json_array_get(pair, 1));
        h.n_bounds++;
    }
    n[h.n_bounds] = (uint64_t)count - below;
    metrics_put_head(f, "assay_queue_seconds", "histogram",
        "How long jobs wait at the broker, from having rows to run until the first is given out.");
    metrics_put_histogram(f, "assay_queue_seconds", "", &h);
}

/* ---- all ---- */

static void put_build(FILE *f, const json_t *info)
{
    const char *version = json_string_value(json_object_get(info, "version"));
    metrics_put_head(f, "assay_build_info", "gauge", "The broker's version; always 1.");
    fputs("assay_build_info{", f);
    metrics_put_label(f, "version", version ? version : "");
    fputs("} 1\n", f);
}

void metrics_put_broker(FILE *f, const struct card *card)
{
    metrics_put_one(f, "assay_up", "gauge", "Does the broker answer?", card != NULL);
    metrics_put_one(f, "assay_ready", "gauge", "Has each model a worker group that is ready?",
        card && card_is_ready(card));
    if (!card)
        return;
    put_build(f, card->info);
    put_figures(f, card->info, gauges, N(gauges), "gauge");
    metrics_put_one(f, "assay_queued_limit_bytes", "gauge",
        "The most that assay_queued_bytes may be (assayd --max-queued-bytes).",
        json_integer_value(
            json_object_get(json_object_get(card->info, "limits"), "max_queued_bytes")));
    metrics_put_one(f, "assay_unwritten", "gauge",
        "Can results not be written now, for want of room or of a lock?",
        json_object_get(card->info, "unwritten") != NULL);
    put_figures(f, json_object_get(card->info, "counters"), counters, N(counters), "counter");
    put_waits(f, json_object_get(card->info, "waits"));
    put_ranks(f, json_object_get(card->info, "workers"));
}
