/* admit.c - see admit.h. */
#include "broker/admit.h"

#include <stdio.h>
#include <stdlib.h>

#include "schema/log.h"
#include "schema/utf8.h"

void admit_release(struct admit *a)
{
    free(a->ids);
    free(a->positions);
    *a = (struct admit){0};
}

int admit_check(
    const struct model_info *m, const struct row_request *q, uint32_t index, struct err *e)
{
    char field[48];
    int activation = q->pool.activation;
    if (m->n_labels >= 2 || (activation != ACTIVATION_SOFTMAX && activation != ACTIVATION_CLASS1))
        return 0;
    snprintf(field, sizeof field, "rows[%u].pool.activation", index);
    return err_field(e, ASSAY_EBADREQ, field, "%s needs a head of 2 labels or more, %s has %u",
        activation_name(activation), m->architecture, m->n_labels);
}

static void *make_room(int32_t **buffer, uint32_t *room, uint32_t n)
{
    if (n > *room) {
        free(*buffer);
        *buffer = xcalloc(n, sizeof **buffer);
        *room = n;
    }
    return *buffer;
}

static void refuse(struct admit *a, struct store_row *out, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void refuse(struct admit *a, struct store_row *out, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(a->message, sizeof a->message, fmt, args);
    va_end(args);
    utf8_make_printable(a->message);
    out->error_code = code;
    out->error_message = a->message;
}

static void check_ids(struct admit *a, const struct row_request *q, struct store_row *out)
{
    uint32_t max_len = a->model->max_len;
    if (q->n_ids == 0) {
        refuse(a, out, ASSAY_ENOTOKENS, "expected at least one token, found none");
        return;
    }
    if (q->n_ids > max_len && !q->truncate) {
        refuse(a, out, ASSAY_ETOOLONG,
            "expected at most %u tokens, found %u; truncate keeps the first", max_len, q->n_ids);
        return;
    }
    for (uint32_t i = 0; i < out->n_tokens; i++)
        if (out->ids[i] < 0 || (uint32_t)out->ids[i] >= a->model->vocab_size) {
            refuse(a, out, ASSAY_EBADTOKEN, "token %u: expected an id from 0 to %u, found %d", i,
                a->model->vocab_size - 1, out->ids[i]);
            return;
        }
}

/* Hugging Face's rule for LAST: the last token that is not the pad token (the first token when all
 * are). */
static void apply_pad_rule(struct admit *a, struct store_row *out)
{
    uint32_t last = out->n_tokens - 1;
    while (last > 0 && out->ids[last] == a->model->pad_token)
        last--;
    a->positions = make_room(&a->positions, &a->positions_room, 1);
    a->positions[0] = (int32_t)last;
    out->positions = a->positions;
    out->n_positions = 1;
}

static void check_positions(struct admit *a, const struct row_request *q, struct store_row *out)
{
    out->n_positions = q->pool.n_positions;
    if (out->n_positions > out->n_tokens) {
        refuse(a, out, ASSAY_EPOSITION,
            "expected at most as many positions as tokens, %u, found %u", out->n_tokens,
            out->n_positions);
        return;
    }
    out->positions = make_room(&a->positions, &a->positions_room, out->n_positions);
    row_request_positions(q, a->positions);
    for (uint32_t i = 0; i < out->n_positions; i++)
        if (out->positions[i] < 0 || (uint32_t)out->positions[i] >= out->n_tokens) {
            refuse(a, out, ASSAY_EPOSITION, "positions[%u]: expected 0 to %u, found %d", i,
                out->n_tokens - 1, out->positions[i]);
            return;
        }
}

static uint32_t count_steps(const struct store_row *row)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < row->n_tokens; i++)
        n += row->ids[i] == row->step_token;
    return n;
}

/* How many positions are pooled; an error where there is none. */
static uint32_t resolve_pool(struct admit *a, const struct row_request *q, struct store_row *out)
{
    uint32_t n;
    switch (out->pool_type) {
    case POOL_ALL:
        return out->n_tokens;
    case POOL_POSITIONS:
        check_positions(a, q, out);
        return out->n_positions;
    case POOL_STEP:
        if (out->step_token < 0) {
            refuse(a, out, ASSAY_ENOSTEP,
                "the checkpoint's tokenizer names no step token; expected pool.step_token");
            return 0;
        }
        n = count_steps(out);
        if (n == 0)
            refuse(a, out, ASSAY_ENOSTEP, "expected the step token %d in the row, found none",
                out->step_token);
        return n;
    case POOL_LAST:
        if (q->hf_pad_rule && a->model->pad_token >= 0)
            apply_pad_rule(a, out);
        return 1;
    default:
        return 1;
    }
}

void admit_row(struct admit *a, const struct row_request *q, struct store_row *out)
{
    const struct model_info *m = a->model;
    a->ids = make_room(&a->ids, &a->ids_room, q->n_ids);
    row_request_ids(q, a->ids);
    *out = (struct store_row){.client_id = q->id,
        .ids = a->ids,
        .n_tokens = q->truncate && q->n_ids > m->max_len ? m->max_len : q->n_ids,
        .pool_type = q->pool.type == POOL_DEFAULT ? m->default_pool : q->pool.type,
        .activation = q->pool.activation,
        .step_token = q->pool.step_token >= 0 ? q->pool.step_token : m->step_token};
    if (out->activation == ACTIVATION_DEFAULT)
        out->activation = m->default_activation;
    check_ids(a, q, out);
    if (!out->error_code && q->adapter.at)
        refuse(a, out, ASSAY_EADAPTER, "no adapter is loaded, found '%.*s'",
            (int)(q->adapter.len < 80 ? q->adapter.len : 80), (const char *)q->adapter.at);
    uint64_t values = out->error_code ? 0 : resolve_pool(a, q, out);
    values *= activation_values(out->activation, m->n_labels);
    if (!out->error_code && values > ADMIT_MAX_VALUES)
        refuse(a, out, ASSAY_ETOOLONG, "expected a row of at most %u values, found %llu",
            ADMIT_MAX_VALUES, (unsigned long long)values);
    out->n_values = out->error_code ? 0 : (uint32_t)values;
    if (out->error_code)
        out->n_positions = 0;
}
