/* turns.h - the messages of one conversation of a row, in the order in which a chat template writes them.
 *
 * A data set may give a prompt and, as chosen, rejected, response, completion or messages, either what
 * follows it or the whole conversation, prompt and all. Messages that hold the prompt are the whole, and
 * the prompt is not written twice; messages that begin with an answer follow it; where neither is plain
 * the row hears so. A system text of the row's own comes first, once. */
#ifndef ASSAY_TURNS_H
#define ASSAY_TURNS_H

#include "broker/text/chat.h"
#include "schema/request.h"

/* Zero-initialize; release at the end. The messages are slices of the row's. */
struct turns {
    struct chat_message *at;
    uint32_t n;
    size_t room;
};

void turns_clear(struct turns *t);
void turns_release(struct turns *t);

/* The text of a checked value that is one. */
struct slice turns_text(struct slice raw);

/* Messages as they are; a text as a message of this role. */
void turns_add(struct turns *t, struct slice raw, const char *role);
void turns_add_text(struct turns *t, const char *role, struct slice text);

/* The row's system message, if it has one, in front. ASSAY_EBADTEXT when there is another. */
int turns_put_system(struct turns *t, const struct row_request *q, struct err *e);

/* The whole conversation that ends in `answer`, one of the row's bodies: messages, or the assistant's
 * text. ASSAY_EBADTEXT naming `field` where it cannot be told what the answer repeats of the prompt. */
int turns_of_answer(struct turns *t, const struct row_request *q, struct slice answer,
    const char *field, struct err *e);

#endif
