/* batch_output.h - what a batch writes: a file of replies and one of errors, each a line for each
 * request, in the order in which they were answered. */
#ifndef ASSAY_HTTP_BATCH_OUTPUT_H
#define ASSAY_HTTP_BATCH_OUTPUT_H

#include <stdio.h>

#include "broker/http/files.h"

struct output {
    FILE *stream; /* NULL: nothing was written */
    char temporary[FOLDER_NAME_BYTES];
    int64_t bytes;
};

/* A line of it. */
struct output_line {
    const char *batch, *custom_id;
    uint32_t number;
    int status; /* 0: there was no response, but this error: */
    const char *code, *message;
    const char *request_id;
    json_t *body; /* borrowed */
};

/* Writes a line; opens the output where it is the first. Returns 0, ASSAY_EFULL or ASSAY_EIO. */
int output_write(
    struct output *o, struct folder *folder, const struct output_line *line, struct err *e);
struct output_of {
    const char *batch, *owner; /* the batch's; "": none */
    int64_t expires_after_s;
};
/* Makes it a file, under an id that the batch and `what` always give, so that a batch that ends
 * twice has it once. Returns 0 with the id ("" where nothing was written), or a code. */
int output_keep(struct output *o, struct files *files, const struct output_of *of, const char *what,
    char id[FOLDER_ID_BYTES], struct err *e);
/* Forgets what was written and not kept. */
void output_drop(struct output *o, struct folder *folder);

#endif
