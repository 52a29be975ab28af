/* upload.h - a file on its way in: multipart/form-data with `purpose`, `file`, and perhaps
 * `expires_after`, written to the folder as it comes. */
#ifndef ASSAY_HTTP_UPLOAD_H
#define ASSAY_HTTP_UPLOAD_H

#include "broker/http/files.h"

struct upload;

/* Begins one of the owner's, of `bytes` (0: not known), once the head is there, with its Content-Type. NULL with *e: the body is of another
 * type, or there is no room. */
struct upload *upload_new(const char *type, struct files *files, struct folder *folder,
    const char *owner, uint64_t bytes, struct err *e);
/* Takes a piece of the body. Returns 0, or -1 when something is wrong, which the end says: nothing
 * more is written. */
int upload_take(struct upload *u, const char *bytes, size_t n);
/* The body is whole: keeps the file. Returns 0 and its object, or a code; then nothing is kept. */
int upload_end(struct upload *u, json_t **object, struct err *e);
/* Whatever was not kept is removed. */
void upload_free(struct upload **u);

#endif
