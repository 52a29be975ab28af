/* batch.c - see batch.h. Decides which rows share their first tokens (shm/stage.h).
 *
 * Responses to one prompt come next to each other, so a new row is compared only with the last
 * sharers of the batch: the rows that share n first tokens with their prefix owner, the first of
 * them. A new row has three choices, and takes the one with the fewest tokens to compute:
 *     join        it shares with the owner; if it has fewer than n tokens in common with the owner,
 *                 all rows of this owner share that many
 *     detach      the batch's last row leaves its owner and becomes the owner of the new row. A
 *                 prompt's first response shares only a system prompt, say, with the prompt before;
 *                 the second response shows that the two have more in common
 *     begin       it shares nothing, and is the owner of rows that come after it
 * There is one level only: tokens that two owners have in common are computed for both. */
#include "broker/batch.h"

#include <stdlib.h>

#include "schema/alloc.h"

/* Counts the first tokens that two rows have in common, up to `most`. */
static uint32_t common(const struct sequence *a, const struct sequence *b, uint32_t most)
{
    uint32_t n = 0;
    while (n < most && a->ids[n] == b->ids[n])
        n++;
    return n;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* What r could share with this owner: all of it, but at least one token must be r's own.
 * What an adapter does to the first tokens is its own. */
static uint32_t shareable(
    const struct batch *b, const struct sequence *owner, const struct sequence *r, uint32_t most)
{
    if (owner->mode != r->mode)
        return 0;
    most = least(most, least(owner->n_tokens, r->n_tokens - 1));
    uint32_t n = most < b->min_shared ? 0 : common(owner, r, most);
    return n < b->min_shared ? 0 : n;
}

struct joining batch_try(const struct batch *b, const struct sequence *r)
{
    uint64_t least_tokens = (uint64_t)b->n_tokens + r->n_tokens, tokens;
    struct joining best = {0, 0, (uint32_t)least_tokens};
    if (b->min_shared == 0 || b->n_rows == 0)
        return best;
    const struct sequence *owner = b->rows[b->prefix_owner], *last = b->rows[b->n_rows - 1];
    uint32_t followers = b->n_rows - 1 - b->prefix_owner,
             now = followers ? last->n_shared : UINT32_MAX;
    uint32_t n = shareable(b, owner, r, now);
    tokens = (uint64_t)b->n_tokens + r->n_tokens - n + (uint64_t)followers * (now - n);
    if (n > 0 && tokens < least_tokens)
        best = (struct joining){n, 0, (uint32_t)(least_tokens = tokens)};
    if (followers == 0)
        return best;
    n = shareable(b, last, r, UINT32_MAX);
    tokens = (uint64_t)b->n_tokens + last->n_shared + r->n_tokens - n;
    if (n > 0 && tokens < least_tokens)
        best = (struct joining){n, 1, (uint32_t)tokens};
    return best;
}

struct batch *batch_new(uint32_t max_rows, uint32_t min_shared)
{
    struct batch *b = xcalloc(1, sizeof *b);
    b->min_shared = min_shared;
    b->rows = xcalloc(max_rows, sizeof(struct sequence *));
    return b;
}

void batch_move(struct batch *b, struct sequence **r)
{
    if (b->n_rows == 0)
        (*r)->n_shared = 0;
    if ((*r)->n_shared == 0)
        b->prefix_owner = b->n_rows;
    b->n_tokens += (*r)->n_tokens - (*r)->n_shared;
    b->n_pooled += sequence_pooled(*r);
    b->n_positions += (*r)->n_positions;
    b->n_values += (*r)->n_values;
    b->rows[b->n_rows++] = *r;
    *r = NULL;
}

void batch_add(struct batch *b, struct sequence **r)
{
    struct joining j = batch_try(b, *r);
    if (j.detaches) {
        b->prefix_owner = b->n_rows - 1;
        b->rows[b->prefix_owner]->n_shared = 0;
    }
    for (uint32_t i = b->prefix_owner + 1; j.n_shared > 0 && i < b->n_rows; i++)
        b->rows[i]->n_shared = j.n_shared;
    (*r)->n_shared = j.n_shared;
    batch_move(b, r);
    b->n_tokens = j.n_tokens;
}

void batch_free(struct batch **out)
{
    struct batch *b = *out;
    if (!b)
        return;
    for (uint32_t i = 0; i < b->n_rows; i++)
        sequence_free(&b->rows[i]);
    free(b->rows);
    free(b->values);
    free(b);
    *out = NULL;
}

/* ---- lists ---- */

void batch_push(struct batch **list, struct batch *b)
{
    b->next = *list;
    *list = b;
}

void batch_append(struct batch **list, struct batch *b)
{
    while (*list)
        list = &(*list)->next;
    batch_push(list, b);
}

struct batch *batch_pop(struct batch **list)
{
    struct batch *b = *list;
    if (!b)
        return NULL;
    *list = b->next;
    b->next = NULL;
    return b;
}

void batch_free_all(struct batch **list)
{
    struct batch *b;
    while ((b = batch_pop(list)))
        batch_free(&b);
}
