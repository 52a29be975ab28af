/* renames.h - columns that are read under another name: --field prompt=instruction,response=output.
 *
 * A column that is renamed counts under its new name alone. Several are renamed at once, so two may
 * change places. Without any, every column has its own name. */
#ifndef ASSAY_RENAMES_H
#define ASSAY_RENAMES_H

#include <jansson.h>
#include <stddef.h>

#include "schema/err.h"

#define RENAMES_MOST 32
#define RENAMES_BYTES 128 /* of a name */

struct renames {
    int n;
    char keys[RENAMES_MOST][RENAMES_BYTES];    /* what is read, */
    char columns[RENAMES_MOST][RENAMES_BYTES]; /* and where it stands */
};

/* Reads KEY=COLUMN,.. Returns 0; ASSAY_EBADREQ for a key that no row has, and for a name that comes
 * twice, is empty or too long. */
int renames_parse(struct renames *r, const char *text, struct err *e);

/* Returns the line with the columns under their keys: a new object, or the line itself where nothing
 * is renamed, with a reference of its own. NULL with ASSAY_EBADREQ, which names the key, where it has
 * both names. A null column counts as absent. */
json_t *renames_apply(const struct renames *r, json_t *line, struct err *e);

/* columns_is_read and columns_is_id, of a column as the file has it. */
int renames_is_read(const struct renames *r, const char *column, size_t len);
int renames_is_id(const struct renames *r, const char *column, size_t len);

/* The column that a field of an error stands in (as `messages[2].role`); NULL: it has its own name. */
const char *renames_column(const struct renames *r, const char *field);

#endif
