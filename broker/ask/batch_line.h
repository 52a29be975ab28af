/* batch_line.h - a line of a batch, as OpenAI has them: a request with its custom_id; and the line
 * that answers it. */
#ifndef ASSAY_ASK_BATCH_LINE_H
#define ASSAY_ASK_BATCH_LINE_H

#include "broker/ask/family.h"

struct batch_line {
    json_t *whole; /* owned; all else lies in it */
    const char *custom_id;
    const struct family *family;
    const json_t *body;
};

/* Reads what line->whole says, an object. endpoint: the path that it must be for; NULL: any that
 * scores. Returns 0; else ASSAY_EBADREQ with e->field the parameter and *code as OpenAI has them,
 * and the custom_id where it could be read. The caller releases the line either way. */
int batch_line_read(
    struct batch_line *line, const char *endpoint, const char **code, struct err *e);
void batch_line_release(struct batch_line *line);

/* Each returns an object that the caller releases, and takes over what is JSON in it; NULL there
 * is null. */
json_t *batch_line_response(int status, const char *request_id, json_t *body);
json_t *batch_line_answer(const char *id, const char *custom_id, json_t *response, json_t *error);

#endif
