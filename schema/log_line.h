/* log_line.h - the text of one log line, in either form (log.h). What is a key and what is a value
 * is read from the format, never from the values: no value can look like another key. */
#ifndef ASSAY_LOG_LINE_H
#define ASSAY_LOG_LINE_H

#include <stdarg.h>
#include <stddef.h>

struct log_head {
    const char *time, *level, *role;
    int rank; /* -1: none */
};

#define LOG_LINE_LEAST 512

/* Writes a line with its newline, at most size (at least LOG_LINE_LEAST) bytes, without a NUL;
 * returns its length. Values that have no room are cut between characters, and what is behind them
 * is left out: the line is whole all the same. Values may be any bytes. */
size_t log_line_write(char *out, size_t size, const struct log_head *head, int is_json,
    const char *format, va_list arguments) __attribute__((format(printf, 5, 0)));

#endif
