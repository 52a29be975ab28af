/* renames.c - see renames.h. */
#include "broker/cli/input/renames.h"

#include <string.h>

#include "broker/cli/input/column_options.h"
#include "broker/cli/input/columns.h"

static int find(const char names[][RENAMES_BYTES], int n, const char *name, size_t len)
{
    for (int k = 0; k < n; k++)
        if (strlen(names[k]) == len && memcmp(names[k], name, len) == 0)
            return k;
    return -1;
}

/* One KEY=COLUMN of len bytes. */
static int add(struct renames *r, const char *pair, size_t len, struct err *e)
{
    const char *mark = memchr(pair, '=', len), *column = mark + 1;
    size_t n_key = mark ? (size_t)(mark - pair) : 0;
    size_t n_column = mark ? len - n_key - 1 : 0;
    if (n_key == 0 || n_column == 0 || n_key >= RENAMES_BYTES || n_column >= RENAMES_BYTES)
        return err_field(e, ASSAY_EBADREQ, "--field",
            "expected KEY=COLUMN, names of at most %d bytes, found '%.*s'", RENAMES_BYTES - 1,
            len < 200 ? (int)len : 200, pair);
    if (!columns_is_read(pair, n_key))
        return err_field(e, ASSAY_EBADREQ, "--field",
            "expected a key that rows have in front of '=', found '%.*s'", (int)n_key, pair);
    const struct renames *seen = r;
    if (seen->n == RENAMES_MOST || find(seen->keys, seen->n, pair, n_key) >= 0 ||
        find(seen->columns, seen->n, column, n_column) >= 0)
        return err_field(e, ASSAY_EBADREQ, "--field",
            "expected at most %d names, each once on its side, found '%.*s' beside the others",
            RENAMES_MOST, (int)len, pair);
    memcpy(r->keys[r->n], pair, n_key);
    memcpy(r->columns[r->n++], column, n_column);
    return 0;
}

int renames_parse(struct renames *r, const char *text, struct err *e)
{
    int rc = 0;
    *r = (struct renames){0};
    for (const char *at = text; rc == 0 && at;) {
        const char *end = strchr(at, ',');
        rc = add(r, at, end ? (size_t)(end - at) : strlen(at), e);
        at = end ? end + 1 : NULL;
    }
    return rc;
}

json_t *renames_apply(const struct renames *r, json_t *line, struct err *e)
{
    json_t *out = r->n > 0 ? json_copy(line) : json_incref(line);
    for (int k = 0; k < r->n; k++)
        if (column_find(line, r->columns[k]))
            json_object_del(out, r->columns[k]);
    for (int k = 0; k < r->n; k++) {
        json_t *value = column_find(line, r->columns[k]);
        if (value && column_find(out, r->keys[k])) {
            err_field(e, ASSAY_EBADREQ, r->keys[k],
                "expected one of %s and %s (--field), found both", r->keys[k], r->columns[k]);
            json_decref(out);
            return NULL;
        }
        if (value)
            json_object_set(out, r->keys[k], value);
    }
    return out;
}

int renames_is_read(const struct renames *r, const char *column, size_t len)
{
    return find(r->columns, r->n, column, len) >= 0 || columns_is_read(column, len);
}

int renames_is_id(const struct renames *r, const char *column, size_t len)
{
    int k = find(r->columns, r->n, column, len);
    return k >= 0 ? columns_is_id(r->keys[k], strlen(r->keys[k])) : columns_is_id(column, len);
}

const char *renames_column(const struct renames *r, const char *field)
{
    int k = find(r->keys, r->n, field, strcspn(field, ".["));
    return k >= 0 ? r->columns[k] : NULL;
}
