/* columns.h - which columns of an input line make the row, and which make it an error.
 *
 * A line is one row of a data set, so it may hold more than a row needs. A null column counts as
 * absent. The others are of four kinds:
 *     scored          the first of input_ids (ids) | chosen, rejected | steps | responses |
 *                     response | completion | messages | text, or else completions with labels of
 *                     true and false, which are steps; with prompt (question, problem),
 *                     system (system_prompt) and tools
 *     changes text    another prompt, instruction, input, context, thinking, documents, images ..,
 *                     query where there is no prompt, messages beside another key of what is
 *                     scored, text beside chosen and rejected: accepted if it stands in what is
 *                     scored already (held.h), else an error that names it. Token ids
 *                     under the name ids beside another key of what is scored
 *     how to score    pool, truncate, max_length, truncation_side, keep_last_token, hf_pad_rule,
 *                     safe_text, join_content, add_special_tokens, adapter: as in a row of a submit
 *                     message. step_token, positions and activation belong in pool
 *                     and are an error elsewhere
 *     ignored         all others: labels, scores, sources ..
 * With input_ids, only the last two kinds are looked at. */
#ifndef ASSAY_COLUMNS_H
#define ASSAY_COLUMNS_H

#include <jansson.h>

#include "schema/err.h"

/* Returns the fields of a submit message's row that the columns make, without its id, as a new
 * object (`input_ids` for ids); NULL with ASSAY_EBADREQ naming the column. */
json_t *columns_take(const json_t *line, struct err *e);

/* Does columns_take depend on this column? */
int columns_is_read(const char *key, size_t len);
/* Does this column hold the row's id? Returns 0, or which of the two; the first one that is present
 * and not null counts. */
enum { COLUMNS_ID = 1, COLUMNS_CUSTOM_ID = 2 };
int columns_is_id(const char *key, size_t len);

#endif
