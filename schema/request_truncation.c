/* request_truncation.c - how rows are cut: the fields of a row, those of a message for the rows
 * that do not say it, and the form in which these are kept with the rows (request.h). */
#include <string.h>

#include "schema/request.h"
#include "schema/request_private.h"

static int read_side(struct msg_reader *r, int *side, struct err *e)
{
    struct slice name;
    int rc = msg_read_str(r, "truncation_side", &name, e);
    if (rc != 0)
        return rc;
    *side = slice_is(name, "right") ? SIDE_RIGHT : slice_is(name, "left") ? SIDE_LEFT : SIDE_UNSAID;
    return *side != SIDE_UNSAID ? 0
                                : err_field(e, ASSAY_EBADREQ, "truncation_side",
                                      "expected right or left, found '%.*s'", request_shown(name),
                                      (const char *)name.at);
}

static int read_max_length(struct msg_reader *r, uint32_t *max_length, struct err *e)
{
    int64_t n = 0;
    int rc = msg_read_int(r, "max_length", 1, INT32_MAX, &n, e);
    *max_length = (uint32_t)n;
    return rc;
}

int request_read_truncation_field(
    struct msg_reader *r, enum truncation_field f, struct request_truncation *t, struct err *e)
{
    switch (f) {
    case T_TRUNCATE:
        return msg_read_bool(r, "truncate", &t->truncate, e);
    case T_MAX_LENGTH:
        return read_max_length(r, &t->max_length, e);
    case T_SIDE:
        return read_side(r, &t->side, e);
    default:
        return msg_read_bool(r, "keep_last_token", &t->keep_last_token, e);
    }
}

/* Fields that say how a row is cut are of no use without truncate: the row would be scored
 * whole. */
int request_check_truncation(const struct request_truncation *t, struct err *e)
{
    const char *field = t->max_length > 0        ? "max_length"
                        : t->side != SIDE_UNSAID ? "truncation_side"
                        : t->keep_last_token     ? "keep_last_token"
                                                 : NULL;
    if (!field || t->truncate)
        return 0;
    return err_field(
        e, ASSAY_EBADREQ, field, "expected with truncate: true, found without: rows are not cut");
}
