/* column_options.h - the columns of a line beside its texts: a chat template's arguments, how the
 * row is scored, and media, which no model here reads (columns.h). */
#ifndef ASSAY_COLUMN_OPTIONS_H
#define ASSAY_COLUMN_OPTIONS_H

#include <jansson.h>

#include "schema/err.h"

/* Returns the column if it is present. Data sets write null into columns that a row does not
 * use. */
json_t *column_find(const json_t *line, const char *key);
/* Is it nothing: absent, null, false, or empty? */
int column_is_empty(const json_t *v);
/* Is the key one of these, which end with NULL? */
int column_is_one_of(const char *const *keys, const char *key, size_t len);

/* Is it one of the columns that the functions below look at? */
int column_options_has(const char *key, size_t len);
/* Each returns 0 or ASSAY_EBADREQ naming the column. These put into the row what a submit message
 * has; a field of the row is taken out of chat_template_kwargs. */
int column_options_take_arguments(json_t *row, const json_t *line, struct err *e);
int column_options_take_settings(json_t *row, const json_t *line, struct err *e);
/* Refuses the arguments, where no chat template writes the row. */
int column_options_refuse_arguments(const json_t *line, struct err *e);
/* Looks for media beside the texts, and in the row's messages. */
int column_options_check_media(const json_t *row, const json_t *line, struct err *e);

#endif
