/* jobs.c - see jobs.h. */
#include "broker/http/jobs.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/ask/card.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/request.h"

#define KEY_BEGINS "assay-http/"

void job_key_write(char key[JOB_KEY_BYTES], const char run[JOB_RUN_BYTES], int64_t number)
{
    snprintf(key, JOB_KEY_BYTES, KEY_BEGINS "%s-%lld", run, (long long)number);
}

int job_key_is(const char *key)
{
    size_t n = strlen(KEY_BEGINS), n_run = JOB_RUN_BYTES - 1;
    if (strncmp(key, KEY_BEGINS, n) != 0 || strspn(key + n, "0123456789abcdef") != n_run ||
        key[n + n_run] != '-')
        return 0;
    key += n + n_run + 1;
    n = strspn(key, "0123456789");
    return n > 0 && n < 20 && key[n] == '\0';
}

static void take_rows(struct job *job, struct ticket *list)
{
    uint32_t n = 0;
    for (struct ticket *t = list; t; t = t->next)
        n += t->rows->n;
    job->rows = xcalloc(n, sizeof *job->rows);
    for (struct ticket *t = list; t; t = t->next) {
        assert(strcmp(t->model->name, list->model->name) == 0);
        t->in = job;
        t->sent_us = t->sent_us ? t->sent_us : now_mono_us();
        job->n_tickets++;
        for (uint32_t i = 0; i < t->rows->n; i++)
            job->rows[job->n_rows++] = (struct job_row){t, i};
    }
}

/* All tickets are for one model. The broker may have been started anew since they came, with others
 * before it, or without it: then it is not to score them by another under its name. */
static void write_message(struct job *job)
{
    struct msg_writer *w = &job->message;
    msg_map(w, 7);
    msg_key_int(w, "v", REQUEST_VERSION);
    msg_key_str(w, "op", "score");
    msg_key_int(w, "id", job->id);
    msg_key_str(w, "key", job->key);
    msg_key_str(w, "model", job->rows[0].ticket->model->name);
    msg_key_int(w, "timeout_ms", JOB_SCORE_TIMEOUT_MS);
    msg_str(w, "rows");
    msg_array(w, job->n_rows);
    for (uint32_t k = 0; k < job->n_rows; k++) {
        const struct rows *rows = job->rows[k].ticket->rows;
        const struct row_place *place = &rows->all[job->rows[k].i];
        const uint8_t *bytes = (const uint8_t *)rows->bytes.buffer.data + place->at;
        msg_raw(w, (struct slice){bytes, place->len});
    }
}

struct job *job_new(struct ticket *list, int64_t id, const char *key)
{
    struct job *job = xcalloc(1, sizeof *job);
    job->id = id;
    snprintf(job->key, sizeof job->key, "%s", key);
    msg_writer_init(&job->message);
    take_rows(job, list);
    job->takes_place = job->n_tickets > 1 || job->n_rows < COALESCE_LARGE_ROWS;
    job->is_shared = job->n_tickets > 1;
    if (job->is_shared)
        coalesce_order(job->rows, job->n_rows);
    write_message(job);
    return job;
}

void job_free(struct job **out)
{
    struct job *job = *out;
    *out = NULL;
    if (!job)
        return;
    msg_writer_release(&job->message);
    free(job->rows);
    free(job);
}

int job_give(struct job *job, struct slice rows, struct err *e)
{
    struct row_result *all = xcalloc(job->n_rows, sizeof *all);
    int rc = results_read(all, job->n_rows, rows, e);
    for (uint32_t k = 0; rc == 0 && k < job->n_rows; k++) {
        struct ticket *t = job->rows[k].ticket;
        if (!t) {
            row_result_release(&all[k]);
            continue;
        }
        if (!t->results)
            t->results = xcalloc(t->rows->n, sizeof *t->results);
        t->results[job->rows[k].i] = all[k];
    }
    free(all);
    return rc;
}

void job_leave(struct job *job, struct ticket *t)
{
    for (uint32_t k = 0; k < job->n_rows; k++)
        if (job->rows[k].ticket == t)
            job->rows[k].ticket = NULL;
    job->n_tickets--;
    t->in = NULL;
}

void job_swap(struct job *job, struct ticket *from, struct ticket *to)
{
    for (uint32_t k = 0; k < job->n_rows; k++)
        if (job->rows[k].ticket == from)
            job->rows[k].ticket = to;
    to->in = job;
    from->in = NULL;
}

struct ticket *job_pop(struct job *job)
{
    for (uint32_t k = 0; k < job->n_rows; k++) {
        struct ticket *t = job->rows[k].ticket;
        if (t) {
            job_leave(job, t);
            return t;
        }
    }
    return NULL;
}
