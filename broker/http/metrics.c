/* metrics.c - see metrics.h. The page is Prometheus' text format, version 0.0.4. */
#include "broker/http/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/http/routes.h"
#include "schema/alloc.h"
#include "schema/clock.h"

static const unsigned statuses[] = {
    200, 400, 401, 404, 405, 409, 411, 413, 415, 431, 499, 500, 501, 503, 504, 507};
static const double bounds[] = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
enum {
    N_STATUSES = sizeof statuses / sizeof statuses[0],
    N_BOUNDS = sizeof bounds / sizeof bounds[0],
};

struct endpoint_counts {
    uint64_t by_status[N_STATUSES + 1]; /* the last: any other */
    uint64_t by_time[N_BOUNDS + 1];
    double seconds;
};

struct metrics {
    pthread_mutex_t lock;
    struct endpoint_counts endpoints[ROUTES_MOST + 1];
};

struct metrics *metrics_new(void)
{
    struct metrics *m = xcalloc(1, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void metrics_free(struct metrics **m)
{
    if (!*m)
        return;
    pthread_mutex_destroy(&(*m)->lock);
    free(*m);
    *m = NULL;
}

void metrics_note(struct metrics *m, int endpoint, unsigned status, long long us)
{
    int by_status = 0, by_time = 0;
    double seconds = (double)us / 1e6;
    while (by_status < N_STATUSES && statuses[by_status] != status)
        by_status++;
    while (by_time < N_BOUNDS && seconds > bounds[by_time])
        by_time++;
    pthread_mutex_lock(&m->lock);
    m->endpoints[endpoint].by_status[by_status]++;
    m->endpoints[endpoint].by_time[by_time]++;
    m->endpoints[endpoint].seconds += seconds;
    pthread_mutex_unlock(&m->lock);
}

static const char *name_of(int k)
{
    const struct route *route = route_at(k);
    return route ? route->path : "other";
}

static void put_head(FILE *f, const char *name, const char *type, const char *help)
{
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_requests(FILE *f, const struct metrics *m)
{
    put_head(f, "assay_http_requests_total", "counter", "Requests that are over.");
    for (int k = 0; k <= ROUTES_MOST; k++)
        for (int s = 0; s <= N_STATUSES; s++)
            if (m->endpoints[k].by_status[s] > 0)
                fprintf(f, "assay_http_requests_total{endpoint=\"%s\",code=\"%u\"} %" PRIu64 "\n",
                    name_of(k), s < N_STATUSES ? statuses[s] : 0, m->endpoints[k].by_status[s]);
}

static void put_times(FILE *f, const struct metrics *m)
{
    const char *name = "assay_http_request_seconds";
    put_head(f, name, "histogram", "From a request's head to the end of its reply.");
    for (int k = 0; k <= ROUTES_MOST; k++) {
        uint64_t n = 0;
        for (int b = 0; b <= N_BOUNDS; b++)
            n += m->endpoints[k].by_time[b];
        if (n == 0)
            continue;
        uint64_t sum = 0;
        for (int b = 0; b < N_BOUNDS; b++)
            fprintf(f, "%s_bucket{endpoint=\"%s\",le=\"%g\"} %" PRIu64 "\n", name, name_of(k),
                bounds[b], sum += m->endpoints[k].by_time[b]);
        fprintf(f, "%s_bucket{endpoint=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, name_of(k), n);
        fprintf(f, "%s_sum{endpoint=\"%s\"} %.6f\n", name, name_of(k), m->endpoints[k].seconds);
        fprintf(f, "%s_count{endpoint=\"%s\"} %" PRIu64 "\n", name, name_of(k), n);
    }
}

static void put_one(FILE *f, const char *name, const char *type, const char *help, int64_t v)
{
    put_head(f, name, type, help);
    fprintf(f, "%s %" PRId64 "\n", name, v);
}

static void put_of_model(FILE *f, const char *name, const char *model, uint32_t v)
{
    fprintf(f, "%s{model_name=\"", name);
    for (const char *at = model; *at; at++)
        fprintf(f, strchr("\"\\\n", *at) ? "\\%c" : "%c", *at == '\n' ? 'n' : *at);
    fprintf(f, "\"} %" PRIu32 "\n", v);
}

/* What waits (or what the broker has), of each model; of all while the broker does not answer. */
static void put_models(
    FILE *f, const char *name, struct link *link, const struct card *card, int waiting)
{
    struct link_counts all;
    uint32_t n_waiting, n_running;
    link_count(link, &all);
    if (!card)
        put_of_model(f, name, "", waiting ? all.n_waiting : all.n_running);
    for (int k = 0; card && k < card->n_models; k++) {
        const char *own = card->models[k].name;
        link_count_model(link, own, &n_waiting, &n_running);
        put_of_model(f, name, k == 0 ? card->names[0] : own, waiting ? n_waiting : n_running);
    }
}

static void put_link(FILE *f, struct link *link, const struct card *card)
{
    struct link_counts counts, *c = &counts;
    link_count(link, c);
    put_one(f, "assay_http_jobs_total", "counter", "Jobs that requests were put into.",
        (int64_t)c->n_jobs);
    put_one(f, "assay_http_job_rows_total", "counter", "Rows of these jobs.", (int64_t)c->n_rows);
    put_head(f, "vllm:num_requests_running", "gauge", "Requests whose rows the broker has.");
    put_models(f, "vllm:num_requests_running", link, card, 0);
    put_head(f, "vllm:num_requests_waiting", "gauge", "Requests that are not with the broker yet.");
    put_models(f, "vllm:num_requests_waiting", link, card, 1);
}

/* The broker's numbers of one map, under its own names. */
static void put_numbers(FILE *f, const json_t *map, const char *type, const char *help)
{
    const char *key;
    json_t *v;
    char name[160];
    json_object_foreach((json_t *)map, key, v)
    {
        if (!json_is_integer(v) || strlen(key) > 100)
            continue;
        snprintf(name, sizeof name, "assay_%s%s", key, *type == 'c' ? "_total" : "");
        put_one(f, name, type, help, json_integer_value(v));
    }
}

static void put_broker(FILE *f, const struct card *card)
{
    put_one(f, "assay_up", "gauge", "Does the broker answer?", card != NULL);
    put_one(f, "assay_ready", "gauge", "Has each model a worker group that is ready?",
        card && card_is_ready(card));
    if (!card)
        return;
    const json_t *counters = json_object_get(card->info, "counters");
    int64_t queued = json_integer_value(json_object_get(counters, "rows_accepted")) -
                     json_integer_value(json_object_get(counters, "rows_done"));
    put_one(f, "assay_rows_unfinished", "gauge",
        "Rows accepted since the broker's start and not finished.", queued > 0 ? queued : 0);
    put_numbers(f, card->info, "gauge", "The field of the broker's info.");
    put_numbers(f, counters, "counter", "The counter of the broker's info.");
}

char *metrics_page(struct metrics *m, struct link *link, const struct card *card)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    pthread_mutex_lock(&m->lock);
    put_requests(f, m);
    put_times(f, m);
    pthread_mutex_unlock(&m->lock);
    put_link(f, link, card);
    put_broker(f, card);
    return fclose(f) == 0 ? text : NULL;
}
