/* fields.h - the fields of a request's body: which there are, and what those say that endpoints
 * share.
 *
 * No field is passed over that might change a score. A field is taken, or known to change nothing,
 * or refused by name unless it says what holds anyway; one that nobody knows is refused too. */
#ifndef ASSAY_ASK_FIELDS_H
#define ASSAY_ASK_FIELDS_H

#include <jansson.h>

#include "broker/ask/card.h"
#include "broker/ask/rows.h"

enum field_use {
    FIELD_TAKEN,   /* the decoder reads it */
    FIELD_IGNORED, /* changes no score */
    FIELD_OFF,     /* not built: null, false, 0, an empty text, list or object may stand there */
};

struct field {
    const char *name; /* NULL ends a list */
    enum field_use use;
};

extern const struct field fields_common[];     /* of every endpoint */
extern const struct field fields_truncation[]; /* vLLM's */
extern const struct field fields_chat[];       /* beside `messages` */

/* Checks every field of the body against the lists, the last of which is NULL. Returns 0, or
 * ASSAY_EBADREQ with the field's name. */
int fields_check(const json_t *body, const struct field *const *lists, struct err *e);

/* Is the value absent or null? */
int field_is_absent(const json_t *value);
/* Does it say no more than an absent one: null, false, 0, an empty text, list or object? */
int field_is_off(const json_t *value);
/* Each reads a field: 0 with *value untouched when it is absent or null, 1 when it is there, else
 * ASSAY_EBADREQ with its name. */
int field_text(const json_t *body, const char *name, const char **value, struct err *e);
int field_flag(const json_t *body, const char *name, int *value, struct err *e);
int field_int(const json_t *body, const char *name, json_int_t min, json_int_t max,
    json_int_t *value, struct err *e);

/* Each turns fields into what every row says. All return 0 or ASSAY_EBADREQ. */
/* truncate_prompt_tokens and truncation_side. */
int fields_take_truncation(const json_t *body, struct row_options *o, struct err *e);
/* use_activation, softmax and activation; pool_type: NULL for the model's own. */
int fields_take_pool(const json_t *body, const struct card_model *model, const char *pool_type,
    struct row_options *o, struct err *e);
/* add_generation_prompt, chat_template_kwargs, tools, join_content; for rows of messages. */
int fields_take_chat(const json_t *body, struct row_options *o, struct err *e);

#endif
