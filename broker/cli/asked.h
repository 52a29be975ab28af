/* asked.h - a line of `--format openai-batch` on its way: a request (broker/ask/batch_line.h), its
 * rows, their results, and the line that answers it.
 *
 * The answer is as vLLM's run-batch writes it: {id, custom_id, response: {status_code, request_id,
 * body}, error}. A request that failed has the status and error that it would get over HTTP, the
 * error under `error`, and no body. */
#ifndef ASSAY_ASKED_H
#define ASSAY_ASKED_H

#include <jansson.h>

#include "broker/ask/card.h"
#include "schema/msg.h"

struct asked;

/* Reads the line's object, from which it keeps what it needs. Always sets *asked, which can be refused
 * at least. number: of the line, which the rows have for their id. whole: NULL where the line is no
 * object; then the caller has the error. Returns 0, or a code with *e. */
int asked_new(
    struct asked **asked, struct card *card, const json_t *whole, int64_t number, struct err *e);
void asked_free(struct asked **asked);

const char *asked_custom_id(const struct asked *asked); /* NULL: not known */
uint32_t asked_n_rows(const struct asked *asked);
/* The rows, one behind the other, until asked_is_sent. */
struct slice asked_rows(const struct asked *asked);
/* Drops them. line_bytes: the line's length in the file. */
void asked_is_sent(struct asked *asked, size_t line_bytes);
/* About how many bytes, as text, it keeps until it is freed: rows, values, and the documents that are
 * given back. Known once it is sent; grows as results come. */
size_t asked_bytes(const struct asked *asked);

/* Takes the broker's result of the k-th row (borrowed). Returns 1 once all are there, 0 before, or a
 * code. */
int asked_take(struct asked *asked, uint32_t k, const json_t *row, struct err *e);
/* Each returns the line that answers the request, which the caller releases: with its results, and
 * refused. */
json_t *asked_answer(const struct asked *asked);
json_t *asked_refusal(const struct asked *asked, const struct err *why);

#endif
