/* truncation.c - decides where a sequence is cut (truncation.h). */
#include "broker/api/truncation.h"

/* Refuses what the files of the checkpoint would have cut otherwise. */
static int check_own(
    const struct row_request *q, const struct long_sequence *s, uint32_t limit, struct err *e)
{
    if (!s->own || !q->truncation.truncate)
        return 0;
    if (q->truncation.max_length == 0 && s->own->max_length < limit && s->n > s->own->max_length)
        return err_field(e, ASSAY_EBADREQ, "max_length",
            "expected a number, since the tokenizer's model_max_length is %u and the broker takes "
            "%u tokens; found none, and %u tokens",
            s->own->max_length, limit, s->n);
    if (q->truncation.side == SIDE_UNSAID && s->own->is_left && s->n > limit)
        return err_field(e, ASSAY_EBADREQ, "truncation_side",
            "expected left, as the tokenizer's files have it, or right, found none, and %u tokens "
            "of at most %u",
            s->n, limit);
    return 0;
}

static int check_limit(
    const struct row_request *q, const struct long_sequence *s, uint32_t limit, struct err *e)
{
    if (limit > s->max_len)
        return err_field(e, ASSAY_ETOOLONG, "max_length",
            "expected at most %u, max_tokens_per_row, found %u", s->max_len, limit);
    if (s->n > limit && !q->truncation.truncate)
        return err_field(e, ASSAY_ETOOLONG, "",
            "expected at most %u tokens, found %u; truncate keeps the first", limit, s->n);
    if (s->n > limit && s->before + s->behind > limit)
        return err_field(e, ASSAY_ETOOLONG, "max_length",
            "expected room for the %u tokens that the tokenizer puts around a text, or a recipe, "
            "found %u",
            s->before + s->behind, limit);
    return 0;
}

int truncation_keep(
    const struct row_request *q, const struct long_sequence *s, struct kept *kept, struct err *e)
{
    uint32_t limit = q->truncation.max_length > 0 ? q->truncation.max_length : s->max_len;
    int rc = check_limit(q, s, limit, e);
    if (rc == 0)
        rc = check_own(q, s, limit, e);
    *kept = (struct kept){s->n, 0};
    if (rc != 0 || s->n <= limit)
        return rc;
    if (q->truncation.side == SIDE_LEFT)
        kept->tail = limit - s->before;
    else
        kept->tail = q->truncation.keep_last_token && s->behind == 0 ? 1 : s->behind;
    kept->head = limit - kept->tail;
    return 0;
}
