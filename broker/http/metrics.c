/* metrics.c - see metrics.h. metrics_broker.c has the broker's numbers. */
#include "broker/http/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/http/metrics_text.h"
#include "broker/http/routes.h"
#include "schema/alloc.h"

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
    uint64_t n_requests, by_time[N_BOUNDS + 1];
    double seconds;
};

struct metrics {
    pthread_mutex_t lock;
    struct endpoint_counts endpoints[ROUTES_MOST + 1];
    uint64_t by_queue[N_BOUNDS + 1];
    double queue_seconds;
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

static int bound_of(double seconds)
{
    int k = 0;
    while (k < N_BOUNDS && seconds > bounds[k])
        k++;
    return k;
}

void metrics_note(struct metrics *m, int endpoint, unsigned status, long long us)
{
    int by_status = 0;
    double seconds = (double)us / 1e6;
    struct endpoint_counts *of = &m->endpoints[endpoint];
    while (by_status < N_STATUSES && statuses[by_status] != status)
        by_status++;
    pthread_mutex_lock(&m->lock);
    of->n_requests++;
    of->by_status[by_status]++;
    of->by_time[bound_of(seconds)]++;
    of->seconds += seconds;
    pthread_mutex_unlock(&m->lock);
}

void metrics_note_queue(struct metrics *m, long long us)
{
    double seconds = (double)us / 1e6;
    pthread_mutex_lock(&m->lock);
    m->by_queue[bound_of(seconds)]++;
    m->queue_seconds += seconds;
    pthread_mutex_unlock(&m->lock);
}

static const char *name_of(int k)
{
    const struct route *route = route_at(k);
    return route ? route->path : "other";
}

static void put_requests(FILE *f, const struct metrics *m)
{
    metrics_put_head(f, "assay_http_requests_total", "counter", "Requests that are over.");
    for (int k = 0; k <= ROUTES_MOST; k++)
        for (int s = 0; s <= N_STATUSES; s++)
            if (m->endpoints[k].by_status[s] > 0)
                fprintf(f, "assay_http_requests_total{endpoint=\"%s\",code=\"%u\"} %" PRIu64 "\n",
                    name_of(k), s < N_STATUSES ? statuses[s] : 0, m->endpoints[k].by_status[s]);
}

static void put_times(FILE *f, const struct metrics *m)
{
    const char *name = "assay_http_request_seconds";
    char labels[128];
    metrics_put_head(f, name, "histogram", "From a request's head to the end of its reply.");
    for (int k = 0; k <= ROUTES_MOST; k++) {
        const struct endpoint_counts *of = &m->endpoints[k];
        snprintf(labels, sizeof labels, "endpoint=\"%s\",", name_of(k));
        if (of->n_requests > 0)
            metrics_put_histogram(f, name, labels,
                &(struct metrics_histogram){bounds, of->by_time, N_BOUNDS, of->seconds});
    }
    name = "assay_http_queue_seconds";
    metrics_put_head(
        f, name, "histogram", "From a request's whole body until its rows go to the broker.");
    metrics_put_histogram(
        f, name, "", &(struct metrics_histogram){bounds, m->by_queue, N_BOUNDS, m->queue_seconds});
}

static void put_of_model(FILE *f, const char *name, const char *model, uint32_t v)
{
    fprintf(f, "%s{", name);
    metrics_put_label(f, "model_name", model);
    fprintf(f, "} %" PRIu32 "\n", v);
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
    metrics_put_one(f, "assay_http_jobs_total", "counter", "Jobs that requests were put into.",
        (int64_t)c->n_jobs);
    metrics_put_one(
        f, "assay_http_job_rows_total", "counter", "Rows of these jobs.", (int64_t)c->n_rows);
    metrics_put_head(
        f, "vllm:num_requests_running", "gauge", "Requests whose rows the broker has.");
    put_models(f, "vllm:num_requests_running", link, card, 0);
    metrics_put_head(
        f, "vllm:num_requests_waiting", "gauge", "Requests that are not with the broker yet.");
    put_models(f, "vllm:num_requests_waiting", link, card, 1);
}

long long metrics_own_memory(void)
{
    long long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm && fscanf(statm, "%*d %lld", &pages) != 1)
        pages = 0;
    if (statm)
        fclose(statm);
    return pages * sysconf(_SC_PAGESIZE);
}

static void put_own(FILE *f)
{
    metrics_put_one(f, "assay_http_memory_bytes", "gauge", "Resident memory of assay-http.",
        metrics_own_memory());
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
    put_own(f);
    metrics_put_broker(f, card);
    return fclose(f) == 0 ? text : NULL;
}
