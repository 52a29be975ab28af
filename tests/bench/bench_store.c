/* bench_store.c - durable rows per second of the store, beside what the disk gives.
 *
 *     build/cpu/tests/bench/bench_store [DIRECTORY] [SECONDS]
 *
 * submit: 64 rows of 512 tokens a commit, as a busy broker groups them; finish: 64 results a
 * commit. The ceiling is the same bytes appended to a file and synced, nothing else. The directory
 * must be on the disk that is meant; the default is the present one. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/store.h"
#include "schema/clock.h"
#include "schema/log.h"

#define ROWS 64
#define TOKENS 512

struct bench {
    struct store *s;
    int64_t job;
    long long run_ms;
    int32_t ids[TOKENS];
};

static void must(int rc, const struct err *e)
{
    if (rc < 0)
        die(74, "event=bench_failed error=%s", e->msg);
}

static void submit_chunk(struct bench *b, uint32_t chunk)
{
    static const uint8_t bytes[ROWS * TOKENS * sizeof(int32_t)]; /* what a digest is made of */
    struct store_chunk c = {
        .job = b->job, .chunk = chunk, .n_rows = ROWS, .rows = {bytes, sizeof bytes}};
    struct store_row row = {.ids = b->ids,
        .n_tokens = TOKENS,
        .pool.type = POOL_LAST,
        .pool.activation = ACTIVATION_NONE,
        .n_values = 1};
    struct err e;
    must(store_begin(b->s, &e), &e);
    must(store_add_chunk(b->s, &c, &e), &e);
    static struct packed_writer scratch;
    struct store_rows *rows = store_rows_new(&scratch);
    for (int i = 0; i < ROWS; i++)
        store_rows_add(rows, &row);
    store_rows_end(rows);
    must(store_add_rows(b->s, b->job, rows, &e), &e);
    store_rows_free(&rows);
    must(store_commit(b->s, &e), &e);
}

static double submit(struct bench *b)
{
    long long begin_ms = now_mono_ms(), idle_ms = begin_ms, now_ms;
    uint32_t chunk = 0;
    for (; (now_ms = now_mono_ms()) - begin_ms < b->run_ms; chunk++) {
        submit_chunk(b, chunk);
        store_tend(b->s);
        if (now_ms - idle_ms >= 1000) {
            store_idle(b->s);
            idle_ms = now_ms;
        }
    }
    return chunk * (double)ROWS * 1000 / (double)(now_mono_ms() - begin_ms);
}

static void add_to_batch(void *arg, struct sequence *r)
{
    batch_add(arg, &r);
}

/* Reading the rows and the batch's record count too: that is what a row costs. */
static int finish_batch(struct bench *b, int64_t *after)
{
    const float value = 0.25f;
    struct store_result result = {.values = &value, .n_values = 1};
    struct batch *batch = batch_new(ROWS, 0);
    struct err e;
    must(store_queued_rows(
             b->s, &(struct store_page){b->job, (uint64_t)*after, ROWS}, add_to_batch, batch, &e),
        &e);
    int n = (int)batch->n_rows;
    if (n > 0)
        *after = batch->rows[n - 1]->row_id;
    must(store_begin(b->s, &e), &e);
    must(store_batch_started(b->s, batch, 0, 1, &e), &e);
    for (int i = 0; i < n; i++)
        must(store_finish_row(b->s, batch->rows[i], &result, &e), &e);
    must(store_batch_ended(b->s, batch, 1, &e), &e);
    must(store_commit(b->s, &e), &e);
    batch_free(&batch);
    return n;
}

static double finish(struct bench *b)
{
    long long begin_ms = now_mono_ms();
    int64_t after = 0, total = 0;
    for (int n = 1; n > 0 && now_mono_ms() - begin_ms < b->run_ms; total += n)
        n = finish_batch(b, &after);
    return (double)total * 1000 / (double)(now_mono_ms() - begin_ms);
}

static double ceiling(const struct bench *b, const char *dir)
{
    static const char bytes[ROWS * TOKENS * sizeof(int32_t)];
    char path[512];
    snprintf(path, sizeof path, "%s/ceiling", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    long long begin_ms = now_mono_ms(), n = 0;
    for (; fd >= 0 && now_mono_ms() - begin_ms < b->run_ms; n++)
        if (write(fd, bytes, sizeof bytes) != (ssize_t)sizeof bytes || fdatasync(fd) != 0)
            die(74, "event=bench_failed error=cannot write %s", path);
    close(fd);
    unlink(path);
    return (double)n * ROWS * 1000 / (double)(now_mono_ms() - begin_ms);
}

int main(int argc, char **argv)
{
    char dir[256], command[300];
    struct err e;
    struct store_options options = {.mode = "bench", .digest = "bench"};
    struct bench b = {.run_ms = 1000 * (argc > 2 ? atoi(argv[2]) : 5)};
    log_init("bench", -1, LOG_LEVEL_WARN);
    snprintf(dir, sizeof dir, "%s/bench_store_XXXXXX", argc > 1 ? argv[1] : ".");
    if (!mkdtemp(dir))
        die(73, "event=bench_failed error=cannot make %s", dir);
    for (int i = 0; i < TOKENS; i++)
        b.ids[i] = i * 31;
    must(store_open(&b.s, dir, &options, &e), &e);
    struct slice key = {(const uint8_t *)"bench", 5};
    must(store_begin(b.s, &e), &e);
    must(store_new_job(b.s, key, 0, (struct slice){0}, &b.job, &e), &e);
    must(store_commit(b.s, &e), &e);

    double top = ceiling(&b, dir), in = submit(&b), out = finish(&b);
    printf("disk alone    %9.0f rows/s  (%d rows of %d tokens a sync)\n", top, ROWS, TOKENS);
    printf("submit        %9.0f rows/s  %.2f of the disk alone\n", in, in / top);
    printf("finish        %9.0f rows/s\n", out);
    store_close(&b.s);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command) == 0 ? 0 : 1;
}
