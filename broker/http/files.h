/* files.h - the files that clients upload and batches write: OpenAI's `file` objects, each with its
 * contents in the folder. All may be called from any thread. */
#ifndef ASSAY_HTTP_FILES_H
#define ASSAY_HTTP_FILES_H

#include <jansson.h>

#include "broker/http/asker.h"
#include "broker/http/folder.h"

#define FILES_MOST 10000 /* at a time */
#define FILES_NAME_BYTES 256

struct files;

/* Reads what is there. folder: borrowed. */
int files_new(struct files **files, struct folder *folder, int64_t max_bytes, struct err *e);
void files_free(struct files **files);
int64_t files_max_bytes(const struct files *files); /* of one */

/* Is it a name that a file may have: UTF-8 without control characters and slashes, not empty, not
 * too long? It is shown and never used. Returns 0 or ASSAY_EBADREQ. */
int files_check_name(const char *name, struct err *e);
/* Is there room for one more? Returns 0, or ASSAY_ETOOLARGE. */
int files_check_room(struct files *files, struct err *e);

struct file_new {
    const char *id; /* "": a new one */
    const char *name, *purpose;
    const char *owner;              /* the name of a key; NULL: none */
    int64_t bytes, expires_after_s; /* 0: it stays */
};
/* Gives a temporary file (folder.h) its place; the descriptor stays the caller's. Returns 0 and
 * *object, which the caller releases. A file with this id is replaced. */
int files_add(struct files *files, const struct file_new *file, int fd, const char *temporary,
    json_t **object, struct err *e);

/* Each of these finds the files that the asker sees, and no others: ASSAY_EGONE. */
/* A file's object, which the caller releases. NULL with ASSAY_EGONE. */
json_t *files_get(struct files *files, const struct asker *asker, const char *id, struct err *e);
/* Its contents: a descriptor and their size, or a code. */
int files_open(
    struct files *files, const struct asker *asker, const char *id, int64_t *bytes, struct err *e);
/* Returns 0 and the reply; ASSAY_EGONE; ASSAY_ESTATE while a batch reads it. */
int files_delete(
    struct files *files, const struct asker *asker, const char *id, json_t **reply, struct err *e);
/* A batch reads it, or does no more. */
void files_hold(struct files *files, const char *id);
void files_release(struct files *files, const char *id);
/* Removes those whose time is over. */
void files_expire(struct files *files);

/* A page of a list. */
struct page_of {
    const char *purpose, *after; /* NULL: any; from the beginning */
    const struct asker *asker;   /* NULL: one who sees all */
    json_int_t limit;
    int is_ascending; /* the oldest first */
};
/* The page of a map from ids to objects, in which the oldest come first. Returns a new object, or
 * NULL with ASSAY_EBADREQ when there is nothing with the id `after`. */
json_t *page_of_objects(const json_t *all, const struct page_of *page, struct err *e);
json_t *files_list(struct files *files, const struct page_of *page, struct err *e);

#define OBJECT_OWNER "assay_owner" /* the field of a record */
#define OBJECT_OWNER_BYTES 80
/* The name of the key that made it; NULL: none. It is in the record, and shown to nobody. */
const char *object_owner(const json_t *object);
void object_set_owner(json_t *object, const char *owner);
/* A copy to show. */
json_t *object_shown(const json_t *object);
/* Puts objects in the order of their created_at. */
json_t *objects_by_age(json_t *all);

#endif
