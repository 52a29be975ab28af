/* results.c - see results.h. */
#include "broker/ask/results.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/msg_json.h"

void row_result_release(struct row_result *r)
{
    free(r->values);
    free(r->each);
    free(r->message);
    *r = (struct row_result){0};
}

static int read_float(struct msg_reader *r, float *out, struct err *e)
{
    double v = 0;
    int rc = msg_read_float(r, "", &v, e);
    *out = (float)v;
    if (rc == 0 && !isfinite(v))
        rc = err_set(e, ASSAY_EBADMSG, "reply: a value is not finite");
    return rc;
}

static int read_inner(struct msg_reader *r, struct row_result *row, uint32_t i, struct err *e)
{
    uint32_t width = 1;
    int is_array = msg_peek(r) == MSG_ARRAY;
    int rc = is_array ? msg_read_array(r, "", &width, e) : 0;
    if (rc == 0 && i == 0) {
        row->width = width;
        row->values = xcalloc((size_t)row->n * width, sizeof *row->values);
    }
    if (rc == 0 && width != row->width)
        rc = err_set(e, ASSAY_EBADMSG, "reply: rows of %u and of %u values", row->width, width);
    for (uint32_t k = 0; rc == 0 && k < width; k++)
        rc = read_float(r, &row->values[(size_t)i * width + k], e);
    return rc;
}

/* `steps`: numbers, or arrays of them. */
static int read_steps(struct msg_reader *r, struct row_result *row, struct err *e)
{
    row->is_steps = row->is_read = 1;
    int rc = msg_read_array(r, "", &row->n, e);
    for (uint32_t i = 0; rc == 0 && i < row->n; i++)
        rc = read_inner(r, row, i, e);
    return rc;
}

/* `score` or `scores`: one position. A failed row's score is nil. */
static int read_score(struct msg_reader *r, struct row_result *row, struct err *e)
{
    struct slice none;
    row->n = row->is_read = 1;
    if (msg_peek(r) == MSG_NIL)
        return msg_read_raw(r, "", 1, &none, e);
    return read_inner(r, row, 0, e);
}

static int read_error(struct msg_reader *r, struct row_result *row, struct err *e)
{
    struct slice key, value = {0};
    uint32_t n;
    if (msg_peek(r) == MSG_NIL)
        return msg_read_raw(r, "", 1, &value, e);
    int rc = msg_read_map(r, "", &n, e);
    row->code = ASSAY_EINTERNAL;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = msg_read_str(r, "", &key, e);
        if (rc == 0)
            rc = msg_read_str(r, "", &value, e);
        if (rc == 0 && slice_is(key, "code"))
            row->code = err_code((const char *)value.at, value.len);
        if (rc == 0 && slice_is(key, "message") && !row->message)
            row->message = strndup((const char *)value.at, value.len);
    }
    return rc;
}

/* `models`: how many scored the row. */
static int read_models(struct msg_reader *r, struct row_result *row, struct err *e)
{
    struct slice name;
    int rc = msg_read_array(r, "", &row->n_each, e);
    for (uint32_t k = 0; rc == 0 && k < row->n_each; k++)
        rc = msg_read_str(r, "", &name, e);
    return rc;
}

/* Statistics are nil where float32 cannot hold them. */
static int read_statistic(struct msg_reader *r, float *out, int *has, struct err *e)
{
    struct slice none;
    *has = msg_peek(r) != MSG_NIL;
    return *has ? read_float(r, out, e) : msg_read_raw(r, "", 1, &none, e);
}

/* An ensemble's row: its score is the mean, beside what each model gave. */
static int take_ensemble(struct row_result *row, struct err *e)
{
    if (row->is_steps || row->n != 1 || row->width != row->n_each || !row->has_mean)
        return err_set(e, ASSAY_EBADMSG,
            "reply: expected %u scores and their mean, found %u values", row->n_each,
            row->n * row->width);
    row->each = row->values;
    row->values = xcalloc(1, sizeof *row->values);
    row->values[0] = row->mean;
    row->width = 1;
    return 0;
}

static int read_field(struct msg_reader *r, struct slice key, struct row_result *row, struct err *e)
{
    struct slice skipped;
    if ((slice_is(key, "score") || slice_is(key, "scores")) && !row->values)
        return read_score(r, row, e);
    if (slice_is(key, "steps") && !row->values)
        return read_steps(r, row, e);
    if (slice_is(key, "models"))
        return read_models(r, row, e);
    if (slice_is(key, "mean"))
        return read_statistic(r, &row->mean, &row->has_mean, e);
    if (slice_is(key, "std"))
        return read_statistic(r, &row->std, &row->has_std, e);
    if (slice_is(key, "error") && row->code == 0)
        return read_error(r, row, e);
    if (slice_is(key, "i"))
        return msg_read_int(r, "", 0, INT64_MAX, &row->i, e);
    if (slice_is(key, "id") && msg_peek(r) == MSG_INT)
        return msg_read_int(r, "", INT64_MIN, INT64_MAX, &row->id, e);
    if (slice_is(key, "n_tokens"))
        return msg_read_int(r, "", 0, INT64_MAX, &row->n_tokens, e);
    return msg_read_raw(r, "", MSG_MAX_DEPTH, &skipped, e);
}

static int read_row(struct msg_reader *r, struct row_result *row, struct err *e)
{
    uint32_t n;
    struct slice key;
    int rc = msg_read_map(r, "", &n, e);
    row->i = row->id = -1;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = msg_read_str(r, "", &key, e);
        if (rc == 0)
            rc = read_field(r, key, row, e);
    }
    if (rc == 0 && row->code == 0 && (!row->is_read || (!row->values && row->n > 0)))
        rc = err_set(e, ASSAY_EBADMSG, "reply: a row has neither values nor an error");
    return rc == 0 && row->code == 0 && row->n_each > 0 ? take_ensemble(row, e) : rc;
}

uint32_t results_count(struct slice rows)
{
    struct msg_reader r;
    struct err e;
    uint32_t n = 0;
    msg_reader_init(&r, rows.at, rows.len);
    return msg_read_array(&r, "rows", &n, &e) == 0 ? n : 0;
}

int results_refusal(struct slice reply, struct err *e)
{
    struct msg_reader r;
    struct err other;
    json_t *whole = NULL;
    msg_reader_init(&r, reply.at, reply.len);
    msg_read_json(&r, &whole, &other);
    const json_t *err = json_object_get(whole, "err");
    const char *code = json_string_value(json_object_get(err, "code"));
    const char *message = json_string_value(json_object_get(err, "message"));
    const char *field = json_string_value(json_object_get(err, "field"));
    err_field(e, err_code(code ? code : "", code ? strlen(code) : 0), field ? field : "", "%s",
        message ? message : "the broker gave no reason");
    e->retry_after_ms = (uint32_t)json_integer_value(json_object_get(err, "retry_after_ms"));
    json_decref(whole);
    return e->code;
}

int results_read(struct row_result *out, uint32_t n, struct slice rows, struct err *e)
{
    struct msg_reader r;
    uint32_t found = 0;
    msg_reader_init(&r, rows.at, rows.len);
    memset(out, 0, n * sizeof *out);
    int rc = msg_read_array(&r, "rows", &found, e);
    if (rc == 0 && found != n)
        rc = err_set(e, ASSAY_EBADMSG, "reply: expected %u rows, found %u", n, found);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = read_row(&r, &out[i], e);
    for (uint32_t i = 0; rc != 0 && i < n; i++)
        row_result_release(&out[i]);
    return rc == 0 ? 0 : ASSAY_EBADMSG;
}

int results_of_json(struct row_result *out, const json_t *row, struct err *e)
{
    struct msg_writer w;
    msg_writer_init(&w);
    msg_array(&w, 1);
    msg_json(&w, row);
    int rc = results_read(out, 1, (struct slice){(const uint8_t *)w.buffer.data, w.buffer.size}, e);
    msg_writer_release(&w);
    return rc;
}
