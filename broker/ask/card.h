/* card.h - what assay-http knows of the broker and its models, from the last reply to `info`. A card
 * never changes: a new one takes its place, and whoever holds a reference keeps the old one. */
#ifndef ASSAY_ASK_CARD_H
#define ASSAY_ASK_CARD_H

#include <jansson.h>
#include <stdatomic.h>

#include "schema/err.h"

#define CARD_MAX_NAMES 16
#define CARD_MAX_MODELS 64

/* One of the models that are served. All lies in the card. */
struct card_model {
    const json_t *json;                                          /* the broker's map of it */
    const char *name;                                            /* the broker's, for messages */
    const char *mode, *digest, *pool_type, *activation, *recipe; /* recipe: NULL for none */
    int64_t max_len, n_labels;
    int n_groups; /* worker groups, at least 1 */
    int is_ready; /* one of them is */
};

struct card {
    atomic_int references;
    json_t *info;                      /* the whole reply; the models lie in it */
    const char *names[CARD_MAX_NAMES]; /* of the first model, for clients; borrowed from the
                                          options, or the broker's own */
    int n_names;
    struct card_model *models; /* [n_models], at least one; the first is for those who name none */
    int n_models;
    const char *state;
    int64_t max_rows, max_message_bytes;
    int64_t started_ms; /* of the broker's clock: tells one start from another */
};

/* Takes the reply over, also on failure. names: those that --served-model-name gave; n_names 0: the
 * broker's. Returns 0 with one reference, or ASSAY_EBADMSG when the reply lacks something. */
int card_new(
    struct card **card, json_t *info, const char *const *names, int n_names, struct err *e);
struct card *card_hold(struct card *card);
void card_release(struct card **card); /* *card may be NULL */

/* The model that the broker has under this name; NULL: none. */
const struct card_model *card_model_named(const struct card *card, const char *name);
/* Do both stand for the same scores: the same checkpoint in the same mode? */
int card_is_alike(const struct card_model *a, const struct card_model *b);
int card_is_ready(const struct card *card); /* every model has a worker group that is ready */
/* The label of a class, NULL where the checkpoint names none. */
const char *card_label(const struct card_model *model, uint32_t k);
/* The name of the k-th adapter of a model, NULL: it has fewer. */
const char *card_adapter(const struct card_model *model, size_t k);
/* How clients call an adapter: by its name, or as MODEL/NAME where that stands for something else
 * too. The caller frees it. */
char *card_adapter_name(const struct card *card, const struct card_model *model, const char *name);

/* What a request asks for. */
struct card_choice {
    const struct card_model *model;
    const char *adapter; /* NULL: the model alone */
};

/* Does the choice, made under an earlier card, stand for the same scores under this one: the same
 * checkpoint in the same mode, and the same adapter? */
int card_choice_stands(const struct card_choice *then, const struct card *now);

/* Has this card the model and the adapter by name, whichever they are? */
int card_choice_is_named(const struct card_choice *then, const struct card *now);

#define CARD_MOST_CHOSEN 8 /* models of an ensemble */

/* Are both the same model, through the same adapter? */
int card_choice_is(const struct card_choice *a, const struct card_choice *b);
/* How the broker names it: NAME, or NAME/ADAPTER. The caller frees it. */
char *card_choice_name(const struct card_choice *choice);

/* Finds what a request's `model` names (NULL or empty: the first model): a model, or an adapter as
 * NAME or MODEL/NAME. Returns 0; ASSAY_EADAPTER with the names that there are; ASSAY_EBADREQ for a
 * name of several. */
int card_find(
    const struct card *card, const char *model, struct card_choice *choice, struct err *e);

#endif
