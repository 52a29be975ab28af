/* stored.h - what is asked of files and batches: /v1/files and /v1/batches, of --files. */
#ifndef ASSAY_HTTP_STORED_H
#define ASSAY_HTTP_STORED_H

#include "broker/http/batches.h"
#include "broker/http/files.h"
#include "broker/http/pages.h"
#include "broker/http/routes.h"

struct stored {
    struct folder *folder;
    struct files *files;
    struct batches *batches;
};

/* Opens the folder, and begins to work on what batches there are. */
int stored_open(struct stored *stored, const struct batches_options *options, const char *path,
    int64_t max_file_bytes, struct err *e);
/* No batch is worked on from here on. */
void stored_stop(struct stored *stored);
void stored_close(struct stored *stored);

struct stored_request {
    const struct route *route;
    const struct asker *asker;
    const char *id; /* in the path */
    unsigned method;
    const json_t *body; /* of a new batch */
    struct MHD_Connection *connection;
};

/* Writes the page; of a file's contents fd and size, and no text. */
void stored_answer(struct page *page, struct stored *stored, const struct stored_request *q);
/* The page of an upload that is whole. Takes the object over. */
void stored_answer_object(struct page *page, json_t *object);

#endif
