/* held.h - does a column's text stand in what is scored already?
 *
 * Data sets keep the parts of a prompt beside the prompt, and a conversation beside its answer.
 * Such a column changes nothing where its text is in the prompt, and is missing from it otherwise.
 * A row is therefore seen as two sides: what stands in front of the answers, and the answers. A
 * column that an answer happens to repeat is not part of the prompt. */
#ifndef ASSAY_HELD_H
#define ASSAY_HELD_H

#include <jansson.h>

enum held_where {
    HELD_PROMPT,   /* in the prompt: in whole words of it */
    HELD_TALK,     /* the same of a conversation, whose last text may be a whole answer */
    HELD_ANYWHERE, /* in an answer too */
};

/* Does every text of v, without surrounding white space, stand in the row? v may be a text, or any
 * lists and objects of texts, of which the labels (role, from, type) do not count. In texts that
 * are prompt and answer in one (`text`; chosen and rejected without a prompt, as far as they are
 * the same) a part must begin a line or follow `>`, `]`, `:` or `|`, as templates write it. */
int held_in_row(const json_t *row, const json_t *v, enum held_where where);
/* Returns where the k-th item of the list `talk` must stand. */
enum held_where held_where_in(const json_t *talk, size_t k, enum held_where where);

#endif
