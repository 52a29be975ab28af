/* compose.h - turns a text row into the token ids of its sequences.
 *
 *     query+document  as the recipe writes it (recipe.h); documents: one sequence each
 *     text            the text, with the tokens that the tokenizer puts around it (Llama 3's
 *                     first), unless add_special_tokens is false
 *     messages        the chat template
 *     prompt+response the chat template: the prompt as a user message (or as its own messages), the
 *                     response as the assistant's; responses: one sequence each
 *     chosen+rejected two sequences: messages, or responses to the prompt; texts without a prompt
 *     steps           the place of the step token depends on the checkpoint:
 *                       process reward models: the chat template, with an assistant message of all
 *                       steps, the step token after each
 *                       all others (as in TRL): the bos_token, if the tokenizer has one, the
 *                       prompt, then each step and the step token, every piece tokenized
 *                       separately; where the prompt is messages, the template writes it
 *
 * With safe_text, control tokens in the client's text are not recognised: only the template's own
 * are. Functions are pure: the same row gives the same ids. */
#ifndef ASSAY_COMPOSE_H
#define ASSAY_COMPOSE_H

#include "broker/text/chat.h"
#include "broker/text/recipe.h"
#include "broker/text/tokenizer.h"
#include "schema/request.h"

#define COMPOSE_MAX_SEQUENCES 4096 /* responses in one row */

/* A checkpoint's text handling, read once. */
struct text_model {
    struct tokenizer *tokenizer; /* NULL: the checkpoint has none, as `reason` says */
    struct chat chat;
    int steps_in_chat;           /* the architecture is a process reward model */
    const struct recipe *recipe; /* that was chosen, or that the architecture has; NULL: none */
    int is_own;                  /* the architecture has it */
    unsigned tail;               /* of conversations with an answer (tail.h) */
    char reason[ERR_MESSAGE_BYTES];
};

struct text_options {
    const char *chat_template; /* --chat-template: a writer's name or a file; NULL: the checkpoint's
                                */
    const char *template_date; /* --template-date; NULL: none */
    const char *architecture;  /* "": not known */
    const struct recipe *recipe; /* --recipe; NULL: none */
    unsigned tail;               /* --tail, where there is no recipe */
};

/* ASSAY_EFORMAT for an option that the architecture's own recipe leaves nothing to say, an unknown
 * name, a template's file or a date that cannot be used, or for a file beside tokenizer.json that
 * is not JSON. A checkpoint without a tokenizer or a usable template is no failure: ids can still
 * be scored, and each text row fails with the reason. */
int text_model_load(
    struct text_model *m, const char *dir, const struct text_options *o, struct err *e);
void text_model_release(struct text_model *m);
/* Finds the token that ends a step in rows that do not name one: the recipe's, else the one that
 * the tokenizer's files name; POOL_NO_STEP_TOKEN: neither. ASSAY_EFORMAT: the one of a recipe that
 * was chosen is not there. */
int text_model_step_token(const struct text_model *m, int32_t *id, struct err *e);
/* Returns what always ends in this token: "conversations" (the template's last token), "texts"
 * (what the tokenizer puts after a text), or both; NULL: neither. Static storage. */
const char *text_model_ends_in(const struct text_model *m, int32_t id);

/* The ids of one row: sequence k is ids[ends[k-1] .. ends[k]), with ends[-1] = 0. */
struct composed {
    const int32_t *ids;
    const uint32_t *ends;
    uint32_t n;               /* sequences */
    const int32_t *positions; /* of a row of steps, where the step token does not tell them; else
                                 n_positions is 0 */
    uint32_t n_positions;
    uint32_t before, behind; /* how many tokens the tokenizer puts around a text, or a recipe, */
    unsigned framed; /* and around which sequences it did: bit k is sequence k; all ones: all */
};

/* Is the row of texts that somebody must write as one? (A text as it is, and ids, are not.) */
int compose_is_written(const struct row_request *q);
/* Returns the recipe that says how the row is scored: `chosen`, or where that is NULL the
 * architecture's own if it writes the row; else NULL. */
const struct recipe *compose_recipe_of(
    const struct recipe *chosen, const char *architecture, const struct row_request *q);
/* Returns the token that ends a step in a row of this recipe (NULL: none) that names none: `token`,
 * text_model_step_token's; but none where that is the architecture's own recipe's. */
int32_t compose_step_token(const struct recipe *r, const char *architecture, int32_t token);
/* Checks that the row is for that recipe (NULL: none). ASSAY_EBADREQ with the field. */
int compose_check_kind(const struct recipe *r, const struct row_request *q, struct err *e);

struct composer;

/* m outlives every use of it, but for composer_free. */
struct composer *composer_new(const struct text_model *m);
void composer_free(struct composer **c);
/* Composes q, which must be a text shape. step_token: the token that ends a step,
 * POOL_NO_STEP_TOKEN if none. Returns 0 with out->n >= 1, its arrays borrowed until the next call;
 * or a row's error code (ASSAY_EBADTEXT, ASSAY_ENOSTEP, ASSAY_ETOOLONG for too many responses) with
 * field and message in *e, and *out untouched. */
int compose_row(struct composer *c, const struct row_request *q, int32_t step_token,
    struct composed *out, struct err *e);
/* Returns how the tokenizer's files have a text cut; NULL: there is no tokenizer, or no
 * composer. */
const struct side_truncation *composer_truncation(const struct composer *c);

#endif
