/* bench_depth.c - does the queue stay as fast when it is long?
 *
 *     bench_depth DIRECTORY LARGEST [SECONDS [no-dedupe]]
 *
 * There is one database for each depth: 10^3, ten times that, and so on up to LARGEST. It has one
 * job with as many rows done as queued; a row has 16 tokens. The same is measured at each depth,
 * through the functions that the broker calls, in turns of a quarter of a second, so that all
 * depths see the same machine:
 *
 *     work      a batch of 64 rows planned, recorded as begun, its results and its end written and
 *               synced. After it come 64 new rows, not timed, so that the depth stays
 *     cpu       processor time of the same: what is left when the disk is not asked
 *     status    a job found by its key and read
 *     page      1,000 results from the end of the job; the first 1,000 beside them
 *     restart   the process was killed: from opening the database to the first batch in hand
 *
 * Rows are compared, as the broker does it, but no two are the same; with no-dedupe they are not
 * compared. The file system's cache is warm. Output: one JSON line a depth. The directory is left
 * as it was. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "broker/sched/planner.h"
#include "broker/store/private.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

enum { TOKENS = 16, BATCH = 64, FILL = 1000, PAGE = 1000, MAX_DEPTHS = 8, SLICE_MS = 250 };

struct queue {
    char dir[300];
    struct store *s;
    struct planner *p;
    struct dedupe *dedupe;
    int with_dedupe;
    int64_t job, depth;
    uint32_t chunk;
    int64_t given, rows; /* submitted; worked on */
    double work_s, cpu_s, status_us, first_page_ms, last_page_ms, restart_ms;
};

static void must(int rc, const struct err *e)
{
    if (rc < 0)
        die(EX_IOERR, "event=bench_failed error=\"%s\"", e->msg);
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void open_queue(struct queue *q, uint32_t batch_rows)
{
    struct store_options options = {.mode = "bench", .digest = "bench"};
    struct planner_limits limits = {
        batch_rows * TOKENS, batch_rows, batch_rows, batch_rows, batch_rows * TOKENS, 0, 0};
    struct err e;
    must(store_open(&q->s, q->dir, &options, &e), &e);
    must(planner_new(&q->p, q->s, &limits, &e), &e);
    if (q->with_dedupe)
        q->dedupe = dedupe_new(&(struct dedupe_options){.digest = "bench",
            .mode = "bench",
            .store = q->s,
            .data_dir = q->dir,
            .wait_ms = DEDUPE_WAIT_MS});
    planner_use_dedupe(q->p, q->dedupe);
}

static void close_queue(struct queue *q)
{
    planner_free(&q->p);
    dedupe_free(&q->dedupe);
    store_close(&q->s);
}

/* ---- rows in ---- */

struct source {
    struct queue *queue;
    int32_t ids[TOKENS];
    int left;
};

static int next_row(struct source *source, struct store_row *row)
{
    int64_t number = source->queue->given;
    /* No two rows are the same: those would be copied. */
    source->ids[0] = (int32_t)(number & 0xffff);
    source->ids[1] = (int32_t)(number >> 16);
    source->queue->given += source->left > 0;
    *row = (struct store_row){.ids = source->ids,
        .n_tokens = TOKENS,
        .n_parts = 1,
        .pool.type = POOL_LAST,
        .pool.activation = ACTIVATION_NONE,
        .n_values = 1};
    return source->left-- > 0;
}

static void submit(struct queue *q, int n)
{
    static const uint8_t bytes[FILL * TOKENS]; /* what a digest is made of */
    struct store_chunk c = {.job = q->job, .chunk = q->chunk++, .n_rows = (uint32_t)n};
    struct source source = {.queue = q, .left = n};
    struct err e;
    c.rows = (struct slice){bytes, (size_t)n * TOKENS};
    must(store_begin(q->s, &e), &e);
    must(store_add_chunk(q->s, &c, &e), &e);
    static struct packed_writer scratch;
    struct store_rows *rows = store_rows_new(&scratch);
    struct store_row row;
    while (next_row(&source, &row) == 1)
        store_rows_add(rows, &row);
    store_rows_end(rows);
    must(store_add_rows(q->s, q->job, rows, &e), &e);
    store_rows_free(&rows);
    must(store_commit(q->s, &e), &e);
    must(planner_job_changed(q->p, q->job, &e), &e);
}

/* ---- rows out ---- */

static int64_t work_on_batch(struct queue *q)
{
    const float value = 0.25f;
    struct store_result result = {.values = &value, .n_values = 1};
    struct batch *b = NULL;
    struct err e;
    must(planner_next(q->p, planner_all(0), 1, &b, &e), &e);
    if (!b)
        return 0;
    int64_t n = b->n_rows;
    b->values = xcalloc(b->n_values, sizeof *b->values);
    must(store_begin(q->s, &e), &e);
    must(store_batch_started(q->s, b, 0, 1, &e), &e);
    for (uint32_t i = 0; i < b->n_rows; i++) {
        b->rows[i]->answer = ROW_VALUES;
        must(store_finish_row(q->s, b->rows[i], &result, &e), &e);
    }
    must(store_batch_ended(q->s, b, 1, &e), &e);
    must(store_commit(q->s, &e), &e);
    planner_finished(q->p, &b);
    return n;
}

/* depth rows done and depth rows queued. */
static void fill(struct queue *q, const char *dir, int64_t depth)
{
    struct slice key = {(const uint8_t *)"bench", 5};
    struct err e;
    q->depth = depth;
    snprintf(q->dir, sizeof q->dir, "%s/%lld", dir, (long long)depth);
    if (mkdir(q->dir, 0700) != 0)
        die(EX_CANTCREAT, "event=bench_failed error=\"cannot make %s\"", q->dir);
    open_queue(q, FILL);
    must(store_begin(q->s, &e), &e);
    must(store_new_job(q->s, key, 0, (struct slice){0}, &q->job, &e), &e);
    must(store_commit(q->s, &e), &e);
    for (int64_t i = 0; i < 2 * depth; i += FILL) {
        submit(q, FILL);
        if (i % (50 * FILL) == 0)
            store_idle(q->s);
    }
    for (int64_t i = 0; i < depth; i += FILL) {
        work_on_batch(q);
        if (i % (50 * FILL) == 0)
            store_idle(q->s);
    }
    close_queue(q);
}

/* ---- what is measured ---- */

static void work(struct queue *q)
{
    double end = seconds(CLOCK_MONOTONIC) + SLICE_MS / 1000.0;
    while (seconds(CLOCK_MONOTONIC) < end) {
        double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        q->rows += work_on_batch(q);
        q->work_s += seconds(CLOCK_MONOTONIC) - wall;
        q->cpu_s += seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        submit(q, BATCH);
    }
    store_idle(q->s);
    store_copier_wait(q->s);
}

static void read_status(struct queue *q)
{
    enum { TIMES = 1000 };
    struct slice key = {(const uint8_t *)"bench", 5};
    struct store_job j;
    struct err e;
    int64_t job;
    double begin = seconds(CLOCK_MONOTONIC);
    for (int i = 0; i < TIMES; i++) {
        must(store_find_job(q->s, key, &job, &e), &e);
        must(store_get_job(q->s, job, &j, &e), &e);
    }
    q->status_us = (seconds(CLOCK_MONOTONIC) - begin) * 1e6 / TIMES;
}

static int count(void *arg, const struct store_result_row *row)
{
    *(uint64_t *)arg += row->cursor > 0;
    return 0;
}

/* The middle of a few times. */
static double read_page(struct queue *q, uint64_t after)
{
    double ms[5];
    struct err e;
    for (int k = 0; k < 5; k++) {
        uint64_t n = 0;
        double begin = seconds(CLOCK_MONOTONIC);
        must(store_each_result(q->s, &(struct store_page){q->job, after, PAGE}, count, &n, &e), &e);
        ms[k] = (seconds(CLOCK_MONOTONIC) - begin) * 1e3;
        if (n != PAGE)
            die(EX_SOFTWARE, "event=bench_failed error=\"a page of %d rows\"", (int)n);
        for (int i = k; i > 0 && ms[i - 1] > ms[i]; i--) {
            double swap = ms[i];
            ms[i] = ms[i - 1];
            ms[i - 1] = swap;
        }
    }
    return ms[2];
}

static void read_pages(struct queue *q)
{
    struct store_job j;
    struct err e;
    must(store_get_job(q->s, q->job, &j, &e), &e);
    q->first_page_ms = read_page(q, 0);
    q->last_page_ms = read_page(q, (uint64_t)j.done - PAGE);
}

/* A process that works on some batches and is gone without a word. */
static void leave_killed(struct queue *q)
{
    pid_t child = fork();
    if (child == 0) {
        open_queue(q, BATCH);
        for (int i = 0; i < 50; i++) {
            work_on_batch(q);
            submit(q, BATCH);
        }
        _exit(0);
    }
    q->chunk += 50;
    q->given += 50 * BATCH;
    waitpid(child, NULL, 0);
}

static void restart(struct queue *q)
{
    struct batch *b = NULL;
    struct err e;
    leave_killed(q);
    double begin = seconds(CLOCK_MONOTONIC);
    open_queue(q, BATCH);
    do /* the index of finished rows is filled in pieces, and its job waits for that a while */
        must(planner_next(q->p, planner_all(0), 1, &b, &e), &e);
    while (!b && q->dedupe && dedupe_is_behind(q->dedupe));
    q->restart_ms = (seconds(CLOCK_MONOTONIC) - begin) * 1e3;
    if (!b)
        die(EX_SOFTWARE, "event=bench_failed error=\"nothing to dispatch\"");
    planner_finished(
        q->p, &b); /* not worked on: it stays queued, and comes again after the next scan */
}

/* Untimed, so that `work` is measured with the whole index. */
static void fill_index(struct queue *q)
{
    while (q->dedupe && dedupe_is_behind(q->dedupe)) {
        work_on_batch(q);
        submit(q, BATCH);
    }
}

static long long bytes_of(const struct queue *q)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/assay.db", q->dir);
    return stat(path, &st) == 0 ? (long long)st.st_size : 0;
}

static void show(const struct queue *q, const struct queue *least)
{
    double rate = (double)q->rows / q->work_s, first = (double)least->rows / least->work_s;
    double cpu_us = q->cpu_s * 1e6 / (double)q->rows;
    double first_cpu_us = least->cpu_s * 1e6 / (double)least->rows;
    printf("{\"depth\": %lld, \"rows_per_s\": %.0f, \"ratio\": %.3f, \"cpu_us\": %.2f, "
           "\"cpu_ratio\": %.3f, \"status_us\": %.1f, \"first_page_ms\": %.2f, \"last_page_ms\": "
           "%.2f, \"restart_ms\": %.1f, \"bytes\": %lld}\n",
        (long long)q->depth, rate, rate / first, cpu_us, first_cpu_us / cpu_us, q->status_us,
        q->first_page_ms, q->last_page_ms, q->restart_ms, bytes_of(q));
}

int main(int argc, char **argv)
{
    struct queue queues[MAX_DEPTHS] = {0};
    char dir[256], command[300];
    int n = 0;
    log_init("bench", -1, LOG_LEVEL_WARN);
    if (sodium_init() < 0)
        die(EX_SOFTWARE, "event=bench_failed error=\"libsodium cannot start\"");
    if (argc < 3 || atoll(argv[2]) < 1000)
        die(EX_USAGE, "event=usage expected=\"DIRECTORY LARGEST [SECONDS [no-dedupe]]\", LARGEST "
                      "1000 or more");
    snprintf(dir, sizeof dir, "%s/bench_depth_XXXXXX", argv[1]);
    if (!mkdtemp(dir))
        die(EX_CANTCREAT, "event=bench_failed error=\"cannot make %s\"", dir);
    for (int k = 0; k < MAX_DEPTHS; k++)
        queues[k].with_dedupe = argc <= 4 || strcmp(argv[4], "no-dedupe") != 0;
    for (int64_t depth = 1000; depth <= atoll(argv[2]) && n < MAX_DEPTHS; depth *= 10)
        fill(&queues[n++], dir, depth);
    for (int k = 0; k < n; k++) {
        restart(&queues[k]);
        fill_index(&queues[k]);
    }
    long long end_ms = now_mono_ms() + n * 1000LL * (argc > 3 ? atoi(argv[3]) : 4);
    while (now_mono_ms() < end_ms)
        for (int k = 0; k < n; k++)
            work(&queues[k]);
    for (int k = 0; k < n; k++) {
        read_status(&queues[k]);
        read_pages(&queues[k]);
        show(&queues[k], &queues[0]);
        close_queue(&queues[k]);
    }
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command) == 0 ? 0 : 1;
}
