/* parts.h - a message's content as a list of parts: [{"type": "text", "text": ..}, ..].
 *
 * A chat template gets the list as it is, as from transformers. Those that read lists write the
 * parts' texts. Those that take texts fail, drop them, or write the list itself: for these the row
 * is an error that names join_content, with which the texts become one, joined with newlines (so
 * vLLM does it for such templates). Parts of another type are refused: these models read text
 * alone. */
#ifndef ASSAY_PARTS_H
#define ASSAY_PARTS_H

#include "broker/text/buffer.h"
#include "broker/text/chat.h"

/* Checks a msgpack array: maps with the type text and a text. ASSAY_EBADTEXT with the field
 * "content[2]". */
int parts_check(struct slice parts, struct err *e);
/* Appends the texts of checked parts. The buffer has an address even where they are empty. */
void parts_join(struct slice parts, struct buffer *out);

/* Does the template read lists, where this conversation has them? It is tried with a text of our
 * own in each. Returns 0, or ASSAY_EBADTEXT that names the first message for which it does not. */
int parts_are_read(
    const struct chat *c, struct jinja_run *run, const struct chat_talk *talk, struct err *e);

#endif
