/* columns.h - what the columns of a line mean: which of them make the row, and which are in its way.
 *
 * A line is what a data set has in a row, so it may hold more than a row needs. A column that is null is not
 * there. The others are of four kinds:
 *     what is scored    the first of input_ids (ids) | chosen, rejected | steps | responses | response |
 *                       completion | messages | text; with prompt (question, problem), system
 *                       (system_prompt) and tools
 *     what would change the text    another prompt, instruction, input, context, thinking, documents, images ..:
 *                       taken when it stands in what is scored already, else the line's error by name
 *     how it is scored  pool, truncate, hf_pad_rule, safe_text, adapter: as in the row of a submit message.
 *                       step_token, positions and activation stand in pool, and are the line's error elsewhere
 *     all others        ignored: labels, scores, sources and whatever else
 * Beside input_ids the last two alone are looked at. */
#ifndef ASSAY_COLUMNS_H
#define ASSAY_COLUMNS_H

#include <jansson.h>

#include "schema/err.h"

/* The fields of a row of a submit message that the line's columns make, without its id, as a new object
 * (`input_ids` for ids); NULL with ASSAY_EBADREQ naming the column. */
json_t *columns_take(const json_t *line, struct err *e);

/* Does any of this depend on the column? */
int columns_is_read(const char *key, size_t len);
/* Is it the name of the row? 0, or which: the first of them that is there and not null counts. */
enum { COLUMNS_ID = 1, COLUMNS_CUSTOM_ID = 2 };
int columns_is_id(const char *key, size_t len);

#endif
