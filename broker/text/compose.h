/* compose.h - a row of text to the token ids of its sequences.
 *
 *     text            the text, with what the tokenizer puts around one (Llama 3's first token)
 *     messages        the chat template
 *     prompt+response the chat template: the prompt as a user message (or as the messages that it is),
 *                     the response as the assistant's; responses: one sequence each
 *     chosen+rejected two sequences: messages, or responses to the prompt; texts when there is none
 *     steps           where the step token goes depends on the checkpoint:
 *                       process reward models: the chat template, the assistant's message being each
 *                       step with the step token behind it
 *                       all others (TRL's way): prompt, then each step and the step token, every
 *                       piece tokenized on its own, no template unless the prompt is messages
 *
 * With safe_text no control token is found in what the client wrote: only the template's own are.
 * Functions are pure: the same row gives the same ids. */
#ifndef ASSAY_COMPOSE_H
#define ASSAY_COMPOSE_H

#include "broker/text/chat.h"
#include "broker/text/tokenizer.h"
#include "schema/request.h"

#define COMPOSE_MAX_SEQUENCES 4096 /* responses of one row */

/* A checkpoint's way with text, read once. */
struct text_model {
    struct tokenizer *tokenizer; /* NULL: the checkpoint has none; `reason` says so */
    struct chat chat;
    int steps_in_chat; /* the architecture is a process reward model */
    char reason[ERR_MESSAGE_BYTES];
};

/* template_name: --chat-template, NULL for the checkpoint's own; ASSAY_EFORMAT when there is none of
 * that name. A checkpoint without a tokenizer or a template that can be used is no failure: ids can be
 * scored all the same, and each text row hears the reason. */
int text_model_load(struct text_model *m, const char *dir, const char *template_name,
    int steps_in_chat, struct err *e);
void text_model_release(struct text_model *m);
/* What ends with this token whoever wrote it: "conversations" (the template's last token), "texts"
 * (what the tokenizer puts behind one), both; NULL: neither. Static storage. */
const char *text_model_ends_in(const struct text_model *m, int32_t id);

/* The ids of one row: those of sequence k are ids[ends[k-1] .. ends[k]), ends[-1] being 0. */
struct composer;

struct composer *composer_new(const struct text_model *m); /* m outlives it */
void composer_free(struct composer **c);
/* q is a text shape. step_token: what ends a step, POOL_NO_STEP_TOKEN when there is none. 0 with
 * *n sequences, n >= 1, ids and ends borrowed until the next call; or a row's error code (ASSAY_EBADTEXT,
 * ASSAY_ENOSTEP, ASSAY_ETOOLONG for too many responses) with field and message in *e. */
int compose_row(struct composer *c, const struct row_request *q, int32_t step_token,
    const int32_t **ids, const uint32_t **ends, uint32_t *n, struct err *e);

#endif
