/* config_file.h - reads a file of options: a line is `key = value`, `key value`, or `key` alone; blank
 * lines and those that begin with # are none. A value is the rest of its line, without the blanks
 * around it: nothing is quoted, and a # in it is part of it. */
#ifndef ASSAY_CONFIG_FILE_H
#define ASSAY_CONFIG_FILE_H

#include "schema/err.h"

#define CONFIG_FILE_BYTES (1 << 20) /* the most that is read */

/* value: NULL when the key stands alone. Both are the caller's as long as the text is. Non-zero ends
 * the reading. */
typedef int config_file_visitor(void *arg, int line, char *key, char *value);

/* Reads the file and visits its lines. *text: what keys and values point into; the caller frees it,
 * also after an error. Returns 0, what `visit` returned, or negative with a message that names the
 * file and the line: ASSAY_EIO, ASSAY_EFORMAT. */
int config_file_read(
    const char *path, char **text, config_file_visitor *visit, void *arg, struct err *e);

#endif
