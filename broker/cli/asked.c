/* asked.c - see asked.h. */
#include "broker/cli/asked.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/ask/batch_line.h"
#include "broker/ask/faults.h"
#include "schema/alloc.h"
#include "schema/msg_json.h"

#define ID_BYTES 64
/* What is counted of a row and of each of its values, beside the documents' text: their part of the
 * answer, in JSON, is some times as much. */
#define ROW_BYTES 256
#define VALUE_BYTES 16

struct asked {
    struct card *card;
    char *custom_id;
    char id[ID_BYTES];
    const struct family *family; /* NULL: the line is refused */
    struct ask ask;
    struct row_result *results; /* [ask.rows.n] */
    uint32_t n_left;            /* that are not there */
    size_t bytes;               /* asked_bytes */
};

static void make_id(char id[ID_BYTES], const char *prefix)
{
    unsigned char random[16];
    char hex[2 * sizeof random + 1];
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(hex, sizeof hex, random, sizeof random);
    snprintf(id, ID_BYTES, "%s-%s", prefix, hex);
}

static int decode(struct asked *a, const struct batch_line *line, struct err *e)
{
    make_id(a->ask.id, line->family->id);
    int rc = ask_decode(&a->ask, line->family->decode, line->body, e);
    if (rc != 0)
        return rc;
    a->family = line->family;
    a->n_left = a->ask.rows.n;
    a->results = xcalloc(a->ask.rows.n, sizeof *a->results);
    for (uint32_t k = 0; k < a->ask.rows.n; k++)
        a->results[k].i = -1;
    return 0;
}

int asked_new(
    struct asked **out, struct card *card, const json_t *whole, int64_t number, struct err *e)
{
    struct asked *a = *out = xcalloc(1, sizeof *a);
    struct batch_line line = {.whole = json_incref((json_t *)whole)};
    const char *code;
    a->card = card_hold(card);
    ask_init(&a->ask, card);
    a->ask.row_id = number;
    a->ask.names_model = 1;
    make_id(a->id, "batch_req");
    make_id(a->ask.id, "batch");
    int rc = whole ? batch_line_read(&line, NULL, &code, e) : 0;
    a->custom_id = line.custom_id ? strdup(line.custom_id) : NULL;
    if (rc == 0 && whole)
        rc = decode(a, &line, e);
    batch_line_release(&line);
    return rc;
}

void asked_free(struct asked **out)
{
    struct asked *a = *out;
    *out = NULL;
    if (!a)
        return;
    for (uint32_t k = 0; a->results && k < a->ask.rows.n; k++)
        row_result_release(&a->results[k]);
    free(a->results);
    free(a->custom_id);
    ask_release(&a->ask);
    card_release(&a->card);
    free(a);
}

const char *asked_custom_id(const struct asked *a)
{
    return a->custom_id;
}

uint32_t asked_n_rows(const struct asked *a)
{
    return a->ask.rows.n;
}

struct slice asked_rows(const struct asked *a)
{
    const struct msg_writer *w = &a->ask.rows.bytes;
    return (struct slice){(const uint8_t *)w->buffer.data, w->buffer.size};
}

void asked_is_sent(struct asked *a, size_t line_bytes)
{
    rows_drop_bytes(&a->ask.rows);
    a->bytes = (size_t)a->ask.rows.n * ROW_BYTES + (a->ask.documents ? line_bytes : 0);
}

size_t asked_bytes(const struct asked *a)
{
    return a->bytes;
}

static size_t values_bytes(const struct row_result *result)
{
    return (size_t)result->n * result->width * VALUE_BYTES;
}

int asked_take(struct asked *a, uint32_t k, const json_t *row, struct err *e)
{
    struct row_result *result = &a->results[k], found;
    int rc = results_of_json(&found, row, e);
    if (rc != 0)
        return rc;
    a->n_left -= result->i < 0;
    a->bytes += values_bytes(&found) - values_bytes(result);
    row_result_release(result);
    *result = found;
    return a->n_left == 0;
}

json_t *asked_refusal(const struct asked *a, const struct err *why)
{
    int status = fault_status(why->code);
    return batch_line_answer(a->id, a->custom_id, batch_line_response(status, a->ask.id, NULL),
        fault_object(why, status));
}

json_t *asked_answer(const struct asked *a)
{
    struct err why = {0};
    json_t *body = NULL;
    int rc = fault_of_rows(a->results, a->ask.rows.n, &why);
    if (rc == 0)
        rc = a->family->reply(&body, &a->ask, a->results, &why);
    if (rc != 0)
        return asked_refusal(a, &why);
    return batch_line_answer(a->id, a->custom_id, batch_line_response(200, a->ask.id, body), NULL);
}
