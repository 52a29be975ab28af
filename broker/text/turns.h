/* turns.h - the messages of a row's conversation, in the order in which a chat template writes
 * them.
 *
 * A data set may give a prompt and, as chosen, rejected, response, completion or messages, either
 * what follows it or the whole conversation with the prompt. Messages that contain the prompt are
 * the whole conversation, and the prompt is not repeated; messages that begin with an answer follow
 * the prompt. If neither is clear, the row is an error. The row's own system text comes first,
 * once. */
#ifndef ASSAY_TURNS_H
#define ASSAY_TURNS_H

#include "broker/text/buffer.h"
#include "broker/text/chat.h"
#include "schema/request.h"

/* Zero-initialize and release. The messages are slices of the row's, and of texts that were
 * joined. */
struct turns {
    struct chat_message *at;
    uint32_t n;
    uint32_t n_answer; /* how many of them, the last ones, follow the prompt; 0: not known */
    size_t room;
    int joins_parts;       /* the texts of a message's parts become one, joined with newlines */
    struct buffer *joined; /* those texts, one a message */
    size_t n_joined, joined_room;
};

void turns_clear(struct turns *t);
void turns_release(struct turns *t);

/* Returns the text of a checked value that is a text. */
struct slice turns_text(struct slice raw);

/* Adds messages as they are, or a text as one message with this role. */
void turns_add(struct turns *t, struct slice raw, const char *role);
void turns_add_text(struct turns *t, const char *role, struct slice text);

/* Puts the row's system message, if any, in front. ASSAY_EBADTEXT if there is another. */
int turns_put_system(struct turns *t, const struct row_request *q, struct err *e);

/* Makes the whole conversation that ends in `answer`, one of the row's bodies: messages, or the
 * assistant's text. ASSAY_EBADTEXT naming `field` if it is unclear what the answer repeats of the
 * prompt. */
int turns_of_answer(struct turns *t, const struct row_request *q, struct slice answer,
    const char *field, struct err *e);

#endif
