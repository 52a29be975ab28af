/* stdout.h - makes sure that output is written before a program reports success. */
#ifndef ASSAY_STDOUT_H
#define ASSAY_STDOUT_H

/* Flushes stdout. Returns 0, or EX_IOERR when any output could not be written, reported on stderr
 * in the program's name. */
int stdout_end(const char *program);

#endif
