/* reply_results.c - replies with results: a page of them, or all of a small job. PROTOCOL.md has
 * the fields of a row. */
#include "broker/api/replies.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "broker/api/statistics.h"
#include "broker/retain.h"
#include "schema/alloc.h"
#include "schema/clock.h"

#define PAGE_BYTES (8u << 20) /* approximate size of a page */
#define PART_US 3000
#define LOOK_EVERY 16 /* rows: at the clock */

static int per_position(int pool_type)
{
    return pool_type == POOL_ALL || pool_type == POOL_STEP || pool_type == POOL_POSITIONS;
}

static void write_floats(struct msg_writer *w, const float *values, uint32_t n)
{
    msg_array(w, n);
    for (uint32_t i = 0; i < n; i++)
        msg_float(w, values[i]);
}

/* A statistic may be beyond float32's range, though the values are not: nil then. */
static void write_statistic(struct msg_writer *w, const char *key, double v)
{
    if (isfinite((float)v)) {
        msg_key_float(w, key, (float)v);
        return;
    }
    msg_str(w, key);
    msg_nil(w);
}

/* Are the values one number for each step of a solution? */
static int has_steps(const struct store_result_row *r, uint32_t each)
{
    return (r->pool.type == POOL_STEP || r->pool.type == POOL_POSITIONS) && each == 1 &&
           r->n_values > 0;
}

static void write_steps(struct msg_writer *w, const struct store_result_row *r, uint32_t each)
{
    uint32_t n = each > 0 ? r->n_values / each : 0;
    msg_str(w, "steps");
    msg_array(w, n);
    for (uint32_t i = 0; i < n; i++)
        if (each == 1)
            msg_float(w, r->values[i]);
        else
            write_floats(w, r->values + i * each, each);
    if (!has_steps(r, each))
        return;
    struct step_statistics s = step_statistics(r->values, n);
    write_statistic(w, "min", s.min);
    write_statistic(w, "product", s.product);
    write_statistic(w, "last", s.last);
    write_statistic(w, "mean", s.mean);
}

static void write_responses(struct msg_writer *w, const struct store_result_row *r)
{
    struct response_statistics s;
    response_statistics_init(&s, r->values, r->n_values);
    msg_str(w, "scores");
    write_floats(w, r->values, r->n_values);
    msg_key_int(w, "best", s.best);
    msg_str(w, "ranks");
    msg_array(w, r->n_values);
    for (uint32_t i = 0; i < r->n_values; i++)
        msg_uint(w, s.ranks[i]);
    write_statistic(w, "margin", s.margin);
    write_statistic(w, "mean", s.mean);
    write_statistic(w, "std", s.std);
    msg_str(w, "advantages");
    write_floats(w, s.advantages, r->n_values);
    response_statistics_release(&s);
}

static void write_pair(struct msg_writer *w, const struct store_result_row *r)
{
    msg_key_float(w, "chosen", r->values[0]);
    msg_key_float(w, "rejected", r->values[1]);
    write_statistic(w, "margin", r->values[0] - r->values[1]);
}

/* Writes the values, by the row's shape and pooling. */
static void write_values(struct msg_writer *w, const struct store_result_row *r, uint32_t each)
{
    if (r->error_code) {
        msg_str(w, "score");
        msg_nil(w);
    } else if (row_shape_is_choice(r->shape)) {
        write_responses(w, r);
    } else if (r->shape == ROW_PAIR && r->n_values == 2) {
        write_pair(w, r);
    } else if (per_position(r->pool.type)) {
        write_steps(w, r, each);
    } else if (each == 1) {
        msg_key_float(w, "score", r->values[0]);
    } else {
        msg_str(w, "scores");
        write_floats(w, r->values, r->n_values);
    }
}

/* The number of fields that write_values writes. */
static uint32_t value_fields(const struct store_result_row *r, uint32_t each)
{
    if (r->error_code)
        return 1;
    if (row_shape_is_choice(r->shape))
        return 7;
    if (r->shape == ROW_PAIR && r->n_values == 2)
        return 3;
    return has_steps(r, each) ? 5 : 1;
}

static void write_pooled(struct msg_writer *w, const struct store_result_row *r)
{
    msg_str(w, "pooled_at");
    msg_array(w, r->n_pooled);
    for (uint32_t i = 0; i < r->n_pooled; i++) {
        msg_map(w, 2);
        msg_key_int(w, "i", r->pooled_at[2 * i]);
        msg_key_int(w, "id", r->pooled_at[2 * i + 1]);
    }
}

static void write_error(struct msg_writer *w, const struct store_result_row *r)
{
    msg_str(w, "error");
    if (!r->error_code) {
        msg_nil(w);
        return;
    }
    msg_map(w, 2);
    msg_key_str(w, "code", r->error_code);
    msg_key_str(w, "message", r->error_message ? r->error_message : "");
}

/* What is known of a mode. */
struct checkpoint {
    int64_t mode; /* 0: none yet */
    struct store_mode is;
};

struct reply_part {
    const struct broker *broker;
    int64_t job;
    struct checkpoint of_job, of_row;
    struct msg_writer rows; /* those that are written */
    uint32_t n, limit;      /* their number, and the most */
    uint64_t next;          /* the last one's cursor */
    uint32_t next_i;        /* the index after the last one's */
    size_t max_bytes;
    long long until_us;
    int is_late;
};

static void find_checkpoint(const struct broker *b, int64_t mode, struct checkpoint *c)
{
    struct err ignored;
    if (c->mode != mode)
        (void)store_read_mode(b->store, mode, &c->is, &ignored);
    c->mode = mode;
}

/* Whether the row is of another checkpoint than its job's, which p->of_row is then: it names another
 * model, or the job has moved. */
static int has_own_checkpoint(struct reply_part *p, const struct store_result_row *r)
{
    if (r->mode == p->of_job.mode)
        return 0;
    find_checkpoint(p->broker, r->mode, &p->of_row);
    return strcmp(p->of_row.is.digest, p->of_job.is.digest) != 0;
}

/* Goes on with *part, or begins it. */
static struct reply_part *begin_part(
    struct broker *b, struct reply_part **part, const struct store_job *j, size_t max_bytes)
{
    if (!*part) {
        *part = xcalloc(1, sizeof **part);
        **part = (struct reply_part){
            .broker = b, .job = j->job, .max_bytes = max_bytes, .limit = UINT32_MAX};
        msg_writer_init(&(*part)->rows);
        find_checkpoint(b, j->mode, &(*part)->of_job);
    }
    (*part)->is_late = 0;
    (*part)->until_us = now_mono_us() + PART_US;
    return *part;
}

void reply_part_free(struct reply_part **part)
{
    if (!*part)
        return;
    msg_writer_release(&(*part)->rows);
    free(*part);
    *part = NULL;
}

const struct model_info *reply_model_of(const struct broker *b, int64_t mode)
{
    int place = store_place_of(b->store, mode);
    return place < 0 ? NULL : &b->models[place]->info;
}

/* How many numbers the row has for each pooled token. m NULL: its model is not served. */
static uint32_t values_each(const struct store_result_row *r, const struct model_info *m)
{
    uint32_t pooled = r->n_pooled > 0 ? r->n_pooled : r->pool.type == POOL_ALL ? r->n_tokens : 1;
    if (m)
        return activation_values(r->pool.activation, m->n_labels);
    return r->n_values % (pooled ? pooled : 1) == 0 ? r->n_values / (pooled ? pooled : 1) : 1;
}

/* An ensemble's: the models, in the order of the row, and what each has given. */
static uint32_t count_members(const struct store_result_row *r)
{
    uint32_t n = r->route.at && memchr(r->route.at, ',', r->route.len) ? 1 : 0;
    for (size_t i = 0; n > 0 && i < r->route.len; i++)
        n += r->route.at[i] == ',';
    return n;
}

static void write_members(struct msg_writer *w, const struct store_result_row *r)
{
    struct slice rest = r->route;
    msg_str(w, "models");
    msg_array(w, count_members(r));
    while (rest.len > 0) {
        const uint8_t *comma = memchr(rest.at, ',', rest.len);
        size_t n = comma ? (size_t)(comma - rest.at) : rest.len, used = n + (comma != NULL);
        msg_str_len(w, rest.at, n > 0 && rest.at[n - 1] == '/' ? n - 1 : n);
        rest = (struct slice){rest.at + used, rest.len - used};
    }
}

/* Statistics of each model's own scores: they may be on other scales. */
static void write_by_model(
    struct msg_writer *w, const struct store_result_row *r, uint32_t members, uint32_t n)
{
    struct store_result_row one = *r;
    one.n_values = n;
    msg_str(w, "by_model");
    msg_array(w, members);
    for (uint32_t k = 0; k < members; k++, one.values += n) {
        msg_map(w, value_fields(&one, 1));
        write_values(w, &one, 1);
    }
}

/* The mean over the models is a response's score. */
static void write_ensemble_responses(
    struct msg_writer *w, const struct store_result_row *r, uint32_t members)
{
    struct store_result_row mean = *r;
    uint32_t n = r->n_values / members;
    float *means = xcalloc(2 * (size_t)n + 1, sizeof *means), *spreads = means + n;
    ensemble_means(r->values, members, n, means, spreads);
    mean.values = means;
    mean.n_values = n;
    write_responses(w, &mean);
    msg_str(w, "spreads");
    write_floats(w, spreads, n);
    free(means);
    write_by_model(w, r, members, n);
}

static void write_ensemble_pair(
    struct msg_writer *w, const struct store_result_row *r, uint32_t members)
{
    float means[2], spreads[2], margins[STORE_MEMBERS];
    for (uint32_t k = 0; k < members; k++)
        margins[k] = r->values[2 * k] - r->values[2 * k + 1];
    ensemble_means(r->values, members, 2, means, spreads);
    struct ensemble_statistics s = ensemble_statistics(margins, members);
    msg_key_float(w, "chosen", means[0]);
    msg_key_float(w, "rejected", means[1]);
    write_statistic(w, "margin", s.mean);
    write_statistic(w, "spread", s.std);
    write_by_model(w, r, members, 2);
}

static int is_ensemble_pair(const struct store_result_row *r, uint32_t members)
{
    return r->shape == ROW_PAIR && members <= STORE_MEMBERS && r->n_values == 2 * members;
}

static void write_ensemble(struct msg_writer *w, const struct store_result_row *r, uint32_t members)
{
    if (row_shape_is_choice(r->shape)) {
        write_ensemble_responses(w, r, members);
        return;
    }
    if (is_ensemble_pair(r, members)) {
        write_ensemble_pair(w, r, members);
        return;
    }
    struct ensemble_statistics s = ensemble_statistics(r->values, r->n_values);
    msg_str(w, "scores");
    write_floats(w, r->values, r->n_values);
    write_statistic(w, "mean", s.mean);
    write_statistic(w, "std", s.std);
}

/* The number of fields that write_ensemble writes. */
static uint32_t ensemble_fields(const struct store_result_row *r, uint32_t members)
{
    return row_shape_is_choice(r->shape) ? 9 : is_ensemble_pair(r, members) ? 5 : 3;
}

static void write_id(struct msg_writer *w, const struct store_result_row *r)
{
    msg_key_int(w, "i", r->i);
    msg_str(w, "id");
    if (r->client_id.at)
        msg_raw(w, r->client_id);
    else
        msg_nil(w);
}

static void write_result(
    struct msg_writer *w, const struct store_result_row *r, struct reply_part *p)
{
    uint32_t members = count_members(r), failed = r->error_code != NULL;
    const struct model_info *m = reply_model_of(p->broker, r->mode);
    uint32_t each = members ? 1 : values_each(r, m);
    int has_labels = !failed && each > 1 && m && m->labels;
    int has_own = !failed && !members && has_own_checkpoint(p, r);
    int is_another = !failed && !(m && r->pool.activation == m->pool.activation);
    uint32_t n = members && !failed ? ensemble_fields(r, members) : value_fields(r, each);
    msg_map(w, 4 + n + (uint32_t)(members > 0) + (uint32_t)has_labels +
                   (uint32_t)(r->n_pooled > 0) + (uint32_t)is_another + (uint32_t)has_own);
    write_id(w, r);
    if (members)
        write_members(w, r);
    if (members && !failed)
        write_ensemble(w, r, members);
    else
        write_values(w, r, each);
    if (has_labels) {
        msg_str(w, "labels");
        reply_write_labels(w, m);
    }
    if (is_another)
        msg_key_str(w, "activation", activation_name(r->pool.activation));
    if (has_own)
        msg_key_str(w, "checkpoint", p->of_row.is.digest);
    msg_key_int(w, "n_tokens", r->n_tokens);
    if (r->n_pooled > 0)
        write_pooled(w, r);
    write_error(w, r);
}

static int is_full(const struct reply_part *p)
{
    return p->n >= p->limit || p->rows.buffer.size > p->max_bytes;
}

static int add_result(void *arg, const struct store_result_row *r)
{
    struct reply_part *p = arg;
    write_result(&p->rows, r, p);
    p->n++;
    p->next = r->cursor;
    p->next_i = r->i + 1;
    p->is_late = !is_full(p) && p->n % LOOK_EVERY == 0 && now_mono_us() >= p->until_us;
    return p->is_late || is_full(p);
}

static void write_rows(struct msg_writer *w, const struct reply_part *p)
{
    msg_str(w, "rows");
    msg_array(w, p->n);
    msg_raw(w, (struct slice){(const uint8_t *)p->rows.buffer.data, p->rows.buffer.size});
}

/* Is the job over? Then a page that was not cut ends with its last row. */
static int is_over(const struct store_job *j)
{
    return j->state == JOB_DONE || j->state == JOB_CANCELLED ||
           (j->paused && j->sealed && j->done == j->placed);
}

static void write_page(struct broker *b, const struct envelope *env, struct slice id,
    const struct reply_part *p, int done)
{
    uint32_t is_read = p->of_job.mode > 0;
    if (is_read)
        retain_note_page(b, p->job, done, now_mono_ms());
    struct msg_writer *w = outbox_ok(b->outbox, env, id, 3 + 2 * is_read);
    if (is_read)
        msg_key_int(w, "job", p->job);
    write_rows(w, p);
    if (is_read)
        msg_key_str(w, "checkpoint", p->of_job.is.digest);
    msg_str(w, "next");
    msg_uint(w, p->next);
    msg_key_bool(w, "done", done);
}

void reply_no_results(struct broker *b, const struct envelope *env, struct slice id, uint64_t after)
{
    struct reply_part p = {.next = after};
    msg_writer_init(&p.rows);
    write_page(b, env, id, &p, 0);
    msg_writer_release(&p.rows);
}

/* Ends a call: the part is kept only for REPLY_MORE. */
static int end_part(struct reply_part **part, int rc)
{
    if (rc != REPLY_MORE)
        reply_part_free(part);
    return rc;
}

static int get_job(struct broker *b, int64_t job, struct store_job *j, struct err *e)
{
    int rc = store_get_job(b->store, job, j, e);
    if (rc == 0)
        rc = err_set(e, ASSAY_EUNKNOWNJOB, "no job %lld", (long long)job);
    return rc < 0 ? rc : 0;
}

int reply_results(struct broker *b, const struct envelope *env, struct slice id,
    struct store_page page, int wait, struct reply_part **part, struct err *e)
{
    struct store_job j;
    size_t max_bytes = b->limits.max_message_bytes / 4;
    int rc = get_job(b, page.job, &j, e);
    if (rc != 0)
        return end_part(part, rc);
    int is_new = !*part;
    struct reply_part *p = begin_part(b, part, &j, max_bytes < PAGE_BYTES ? max_bytes : PAGE_BYTES);
    if (is_new) {
        p->next = page.after;
        p->limit = page.limit ? page.limit : REPLY_DEFAULT_LIMIT;
    }
    page.after = p->next;
    page.limit = p->limit - p->n;
    rc = store_each_result(b->store, &page, add_result, p, e);
    if (rc < 0)
        return end_part(part, rc);
    if (p->is_late)
        return REPLY_MORE;
    int replies = p->n > 0 || is_over(&j) || !wait;
    if (replies)
        write_page(b, env, id, p, is_over(&j) && rc == 0);
    return end_part(part, replies);
}

static void write_score(struct broker *b, const struct envelope *env, struct slice id,
    const struct store_job *j, const struct reply_part *p)
{
    struct msg_writer *w = outbox_ok(b->outbox, env, id, 6 + (uint32_t)(j->made_otherwise != 0));
    msg_key_int(w, "job", j->job);
    msg_key_str(w, "key", j->key);
    msg_key_int(w, "started_ms", b->started_ms);
    msg_key_str(w, "checkpoint", p->of_job.is.digest);
    msg_key_str(w, "mode", p->of_job.is.text);
    if (j->made_otherwise)
        msg_key_str(w, "made_otherwise", j->reason);
    write_rows(w, p);
}

int reply_score(struct broker *b, const struct envelope *env, struct slice id, int64_t job,
    struct reply_part **part, struct err *e)
{
    struct store_job j;
    int rc = get_job(b, job, &j, e);
    if (rc != 0)
        return end_part(part, rc);
    struct reply_part *p = begin_part(b, part, &j, b->limits.max_message_bytes);
    rc = store_each_result_by_index(b->store, job, p->next_i, add_result, p, e);
    if (rc < 0)
        return end_part(part, rc);
    if (p->is_late)
        return REPLY_MORE;
    if (is_full(p))
        rc = err_set(e, ASSAY_ETOOLARGE,
            "the reply: expected at most %zu bytes, found more; `results` gives job '%s' in pages",
            p->max_bytes, j.key);
    else
        write_score(b, env, id, &j, p);
    return end_part(part, rc < 0 ? rc : 1);
}
