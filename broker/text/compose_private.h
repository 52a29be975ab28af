/* compose_private.h - what compose.c, compose_chat.c and compose_recipe.c share. */
#ifndef ASSAY_COMPOSE_PRIVATE_H
#define ASSAY_COMPOSE_PRIVATE_H

#include "broker/text/compose.h"
#include "broker/text/turns.h"

#define COMPOSE_ALL_FRAMED (~0u)

struct composer {
    const struct text_model *model;
    struct encoder *encoder;
    struct jinja_run *run;
    struct turns turns;
    struct chat_text chat, prompt; /* of a recipe that writes the prompt by itself, too */
    struct buffer steps;           /* the steps as one assistant message; or a text of a recipe */
    struct span *marks;            /* where the step tokens stand in it */
    size_t n_marks, marks_room;
    struct span *closed;
    size_t n_closed, closed_room;
    uint32_t *ends;
    uint32_t n;
    unsigned framed;         /* as of struct composed */
    uint32_t before, behind; /* the same, of a recipe's text */
    size_t ends_room;
    /* of a recipe's steps: their texts in `steps`, the ids of the turns before, the positions */
    struct span *texts;
    size_t n_texts, texts_room;
    struct buffer earlier;
    int32_t *positions;
    size_t positions_room;
    uint32_t n_positions;
};

/* Ends a sequence after the ids so far. */
void compose_end_sequence(struct composer *c);
/* Closes a stretch of a text: with safe_text no control token is found in it. */
void compose_close(struct composer *c, size_t begin, size_t end);
/* Returns e->code, with the field named where *e has none. */
int compose_bad_text(const char *field, struct err *e);

/* Writes the turns so far with the chat template, ends them as `tail` says (0: as they are), and
 * tokenizes the text. */
int compose_chat(struct composer *c, const struct row_request *q, unsigned tail, const char *field,
    struct err *e);
/* Returns a field of the row that only a chat template writes, NULL: none. */
const char *compose_template_field(const struct row_request *q);
/* Notes that the sequence's token `at` is scored. */
void compose_note_position(struct composer *c, size_t at);
/* Ends a step with its token, which is scored. */
void compose_end_step(struct composer *c, int32_t step_token);
/* ASSAY_EBADTEXT unless the step token is there n times, or n positions are noted. Notes none where
 * the step token tells them. */
int compose_count_steps(struct composer *c, int32_t step_token, uint32_t n, struct err *e);

/* Composes a value of the row, msgpack, as a sequence. */
typedef int compose_answer_fn(struct composer *c, const struct row_request *q, struct slice raw,
    const char *field, struct err *e);
/* Composes each value of the row's list, which has that name. */
int compose_each(struct composer *c, const struct row_request *q, const char *name,
    compose_answer_fn *compose, struct err *e);
/* An answer to the prompt, and a row of steps, as the form of the model's recipe has them. */
int compose_written(struct composer *c, const struct row_request *q, struct slice raw,
    const char *field, struct err *e);
int compose_written_steps(
    struct composer *c, const struct row_request *q, int32_t step_token, struct err *e);
/* A query and its document or documents, as the model's recipe writes them. */
int compose_query(struct composer *c, const struct row_request *q, struct err *e);

#endif
