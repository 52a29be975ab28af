/* card.h - what assay-http knows of the broker and its model, from the last reply to `info`. A card
 * never changes: a new one takes its place, and whoever holds a reference keeps the old one. */
#ifndef ASSAY_HTTP_CARD_H
#define ASSAY_HTTP_CARD_H

#include <jansson.h>
#include <stdatomic.h>

#include "schema/err.h"

#define CARD_MAX_NAMES 16

struct card {
    atomic_int references;
    json_t *info;                      /* the whole reply; the pointers below lie in it */
    const char *names[CARD_MAX_NAMES]; /* of the model, for clients; borrowed from the options, or
                                          the broker's own */
    int n_names;
    const char *model; /* the broker's own name of it, for messages */
    const char *mode, *digest, *state, *pool_type, *activation, *recipe; /* recipe: NULL for none */
    int64_t max_len, n_labels, max_rows, max_message_bytes;
    int64_t started_ms; /* of the broker's clock: tells one start from another */
    int n_groups;       /* worker groups */
};

/* Takes the reply over, also on failure. names: those that --served-model-name gave; n_names 0: the
 * broker's. Returns 0 with one reference, or ASSAY_EBADMSG when the reply lacks something. */
int card_new(
    struct card **card, json_t *info, const char *const *names, int n_names, struct err *e);
struct card *card_hold(struct card *card);
void card_release(struct card **card); /* *card may be NULL */

/* Do both stand for the same scores: the same checkpoint in the same mode? */
int card_is_alike(const struct card *a, const struct card *b);
int card_is_ready(const struct card *card); /* a worker group is ready */
/* The label of a class, NULL where the checkpoint names none. */
const char *card_label(const struct card *card, uint32_t k);

/* What a request's `model` (NULL: none was given) names. Returns 0 with *adapter NULL for the base
 * model or the adapter's name, and *name the name to give back; ASSAY_EADAPTER for any other. */
int card_find(const struct card *card, const char *model, const char **adapter, const char **name,
    struct err *e);

#endif
