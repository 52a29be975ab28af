/* json_print.h - prints JSON so that a terminal can show it. */
#ifndef ASSAY_JSON_PRINT_H
#define ASSAY_JSON_PRINT_H

#include <jansson.h>
#include <stdio.h>

#include "schema/err.h"

/* Prints JSON with every terminal control character (utf8_is_control) as \u.... . `flags` are
 * jansson's, beside those for scores, which get at most 9 digits. Returns 0 or -1. */
int json_print(FILE *f, const json_t *value, size_t flags);
/* Prints it as one line. Returns 0 or ASSAY_EIO. */
int json_print_line(FILE *f, const json_t *value, struct err *e);
/* Prints a non-empty object as one line, with `input` as its last member; the numbers of `input`,
 * which are the user's, keep all their digits. */
int json_print_with_input(FILE *f, const json_t *value, const json_t *input, struct err *e);

#endif
