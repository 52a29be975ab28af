/* request_conditions.c - what a message says of all its rows: the models that they go through, and
 * how they are cut; and the form in which that is kept with the rows (request.h). */
#include <string.h>

#include "schema/request.h"
#include "schema/request_private.h"

/* ---- models ---- */

static int add_name(
    struct msg_reader *r, const char *field, struct request_models *m, struct err *e)
{
    struct slice name;
    int rc = msg_read_str(r, field, &name, e);
    if (rc == 0 && name.len == 0)
        rc = err_field(e, ASSAY_EBADREQ, field, "expected a model's name, found an empty one");
    for (uint32_t i = 0; rc == 0 && i < m->n; i++)
        if (slice_is_same(m->of[i], name))
            rc = err_field(e, ASSAY_EBADREQ, field, "expected each model once, found '%.*s' twice",
                request_shown(name), (const char *)name.at);
    if (rc == 0)
        m->of[m->n++] = name;
    return rc;
}

static int check_one_way(const struct request_models *m, const char *field, struct err *e)
{
    return m->n == 0 ? 0
                     : err_field(e, ASSAY_EBADREQ, field, "expected model or models, found both");
}

int request_read_model(struct msg_reader *r, struct request_models *m, struct err *e)
{
    struct slice nothing;
    if (msg_peek(r) == MSG_NIL)
        return msg_read_raw(r, "model", 1, &nothing, e);
    int rc = check_one_way(m, "model", e);
    return rc == 0 ? add_name(r, "model", m, e) : rc;
}

int request_read_models(struct msg_reader *r, struct request_models *m, struct err *e)
{
    struct slice nothing;
    uint32_t n = 0;
    if (msg_peek(r) == MSG_NIL)
        return msg_read_raw(r, "models", 1, &nothing, e);
    int rc = check_one_way(m, "models", e);
    if (rc == 0)
        rc = msg_read_array(r, "models", &n, e);
    if (rc == 0 && (n < 2 || n > REQUEST_MODELS_MOST))
        rc = err_field(e, ASSAY_EBADREQ, "models", "expected 2 to %d names, found %u%s",
            REQUEST_MODELS_MOST, n, n == 1 ? "; model is the field for one" : "");
    m->is_list = 1;
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = add_name(r, "models", m, e);
    return rc;
}

/* ---- conditions ---- */

void row_request_complete(struct row_request *row, const struct request_conditions *c)
{
    if (row->shape == ROW_REFUSED)
        return;
    if (!row->says_truncate)
        row->truncation = c->truncation;
    if (row->models.n == 0)
        row->models = c->models;
}

void request_write_conditions(struct msg_writer *w, const struct request_conditions *c)
{
    const struct request_models *m = &c->models;
    if (m->n > 0) {
        msg_map(w, 1);
        msg_str(w, m->is_list ? "models" : "model");
        if (m->is_list)
            msg_array(w, m->n);
        for (uint32_t i = 0; i < m->n; i++)
            msg_str_len(w, m->of[i].at, m->of[i].len);
    }
    if (!c->truncation.truncate)
        return;
    msg_int(w, c->truncation.max_length);
    msg_int(w, c->truncation.side);
    msg_int(w, c->truncation.keep_last_token);
}

static int read_kept_models(struct msg_reader *r, struct request_models *m, struct err *e)
{
    struct slice key;
    uint32_t n = 0;
    int rc = msg_read_map(r, "rows", &n, e);
    if (rc == 0 && n != 1)
        rc = err_field(e, ASSAY_EBADREQ, "rows", "expected model or models, found neither");
    if (rc == 0)
        rc = msg_read_str(r, "rows", &key, e);
    if (rc != 0)
        return rc;
    return slice_is(key, "models") ? request_read_models(r, m, e) : request_read_model(r, m, e);
}

static int read_kept_truncation(struct msg_reader *r, struct request_truncation *t, struct err *e)
{
    int64_t max_length = 0, side = 0, keep = 0;
    int rc = msg_read_int(r, "rows", 0, INT32_MAX, &max_length, e);
    if (rc == 0)
        rc = msg_read_int(r, "rows", SIDE_UNSAID, SIDE_LEFT, &side, e);
    if (rc == 0)
        rc = msg_read_int(r, "rows", 0, 1, &keep, e);
    *t = (struct request_truncation){rc == 0, (uint32_t)max_length, (int)side, (int)keep};
    return rc;
}

int request_read_conditions(struct msg_reader *r, struct request_conditions *c, struct err *e)
{
    int rc = 0;
    *c = (struct request_conditions){0};
    if (msg_peek(r) == MSG_MAP)
        rc = read_kept_models(r, &c->models, e);
    if (rc == 0 && msg_peek(r) == MSG_INT)
        rc = read_kept_truncation(r, &c->truncation, e);
    return rc;
}
