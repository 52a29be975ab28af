/* reply_looks.c - replies for those who look on: throughput, failed rows, a sample of a job's
 * scores. Each takes some milliseconds at most, whatever is in the database: a page that would take
 * longer is shorter. */
#include "broker/api/replies.h"

#include <string.h>

#include "schema/clock.h"

#define LOOK_US 4000
#define MINUTES 1440
#define MOST_MINUTES 10080
#define SAMPLE_ROWS 1024
#define VALUES_OF_ROW 16

/* The list of a reply as it grows; its length is known at the end. */
struct looking {
    struct msg_writer list;
    uint32_t n;
    uint64_t others;
    long long until_us;
};

static void begin(struct looking *l)
{
    *l = (struct looking){.until_us = now_mono_us() + LOOK_US};
    msg_writer_init(&l->list);
}

static void put_list(struct looking *l, struct msg_writer *w, const char *name)
{
    msg_str(w, name);
    msg_array(w, l->n);
    msg_raw(w, (struct slice){(const uint8_t *)l->list.buffer.data, l->list.buffer.size});
}

static int is_late(const struct looking *l)
{
    return now_mono_us() >= l->until_us;
}

/* ---- throughput ---- */

static void add_minute(void *arg, int64_t minute, int64_t rows, int64_t tokens)
{
    struct looking *l = arg;
    msg_array(&l->list, 3);
    msg_int(&l->list, minute * 60000);
    msg_int(&l->list, rows);
    msg_int(&l->list, tokens);
    l->n++;
}

int reply_throughput(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct looking l;
    int64_t now_ms = now_wall_ms(), n = q->limit ? q->limit : MINUTES;
    begin(&l);
    n = n < MOST_MINUTES ? n : MOST_MINUTES;
    int rc = store_each_minute(b->store, now_ms / 60000 - n + 1, add_minute, &l, e);
    if (rc == 0) {
        struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 2);
        msg_key_int(w, "now_ms", now_ms);
        put_list(&l, w, "minutes");
    }
    msg_writer_release(&l.list);
    return rc;
}

/* ---- failed ---- */

static int add_failed(void *arg, const struct store_result_row *row)
{
    struct looking *l = arg;
    if (!row->error_code)
        return 1;
    msg_map(&l->list, 4);
    msg_key_int(&l->list, "i", row->i);
    msg_str(&l->list, "id");
    if (row->client_id.at)
        msg_raw(&l->list, row->client_id);
    else
        msg_nil(&l->list);
    msg_key_str(&l->list, "code", row->error_code);
    msg_key_str(&l->list, "message", row->error_message ? row->error_message : "");
    l->n++;
    return 1;
}

int reply_failed(struct broker *b, const struct envelope *env, const struct request *q, int64_t job,
    struct err *e)
{
    struct looking l;
    uint32_t limit = q->limit ? q->limit : REPLY_DEFAULT_LIMIT;
    uint32_t i = q->after < UINT32_MAX ? (uint32_t)q->after : UINT32_MAX;
    int rc = 1;
    begin(&l);
    for (uint32_t n = 0; n < limit && !(n > 0 && is_late(&l)); n++, i++) {
        if ((rc = store_next_failed(b->store, job, &i, e)) != 1)
            break;
        rc = store_each_result_by_index(b->store, job, i, add_failed, &l, e);
        if (rc < 0)
            break;
        rc = 1;
    }
    if (rc >= 0) {
        struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 3);
        put_list(&l, w, "rows");
        msg_key_int(w, "next", i);
        msg_key_bool(w, "done", rc == 0);
    }
    msg_writer_release(&l.list);
    return rc < 0 ? rc : 0;
}

/* ---- sample ---- */

static uint32_t reversed(uint32_t k, int n_bits)
{
    uint32_t r = 0;
    for (int bit = 0; bit < n_bits; bit++)
        r |= (k >> bit & 1u) << (n_bits - 1 - bit);
    return r;
}

/* A sample of n results: each part of the job has its share, however few of them are taken. A small
 * job's are all of it, in an order of as many steps as the next power of two; some give none. */
struct sample {
    uint64_t n;
    uint32_t n_steps;
    int n_bits;
};

static struct sample sample_of(uint64_t n)
{
    struct sample s = {.n = n};
    while (n > 0 && (1ull << s.n_bits) < n && (1u << s.n_bits) < SAMPLE_ROWS)
        s.n_bits++;
    s.n_steps = n > 0 ? 1u << s.n_bits : 0;
    return s;
}

/* The k-th step's cursor; 0: it gives none. */
static uint64_t cursor_of(const struct sample *s, uint32_t k)
{
    uint64_t at = reversed(k, s->n_bits);
    if (s->n > SAMPLE_ROWS)
        return (at * s->n >> s->n_bits) + 1;
    return at < s->n ? at + 1 : 0;
}

static int add_scores(void *arg, const struct store_result_row *row)
{
    struct looking *l = arg;
    int is_score = !row->error_code && (row->n_values == 1 || row_shape_is_choice(row->shape));
    l->others += !is_score;
    for (uint32_t k = 0; is_score && k < row->n_values && k < VALUES_OF_ROW; k++) {
        msg_array(&l->list, 3);
        msg_int(&l->list, (int64_t)row->cursor);
        msg_int(&l->list, row->finished_ms);
        msg_float(&l->list, row->values[k]);
        l->n++;
    }
    return 1;
}

int reply_sample(struct broker *b, const struct envelope *env, const struct request *q,
    const struct store_job *j, struct err *e)
{
    struct looking l;
    struct sample sample = sample_of((uint64_t)j->done);
    uint64_t k = q->after, limit = q->limit ? q->limit : REPLY_DEFAULT_LIMIT, taken = 0;
    int rc = 0;
    begin(&l);
    for (; k < sample.n_steps && taken < limit && !(taken > 0 && is_late(&l)); k++) {
        uint64_t cursor = cursor_of(&sample, (uint32_t)k);
        struct store_page page = {j->job, cursor - 1, 1};
        if (cursor == 0)
            continue;
        taken++;
        if ((rc = store_each_result(b->store, &page, add_scores, &l, e)) < 0)
            break;
    }
    if (rc >= 0) {
        struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 5);
        msg_key_int(w, "done", j->done);
        msg_key_int(w, "next", (int64_t)k);
        msg_key_bool(w, "end", k >= sample.n_steps);
        msg_key_int(w, "others", (int64_t)l.others);
        put_list(&l, w, "scores");
    }
    msg_writer_release(&l.list);
    return rc < 0 ? rc : 0;
}
