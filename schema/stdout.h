/* stdout.h - what a program has printed is written before it says that all went well. */
#ifndef ASSAY_STDOUT_H
#define ASSAY_STDOUT_H

/* Whatever is left in stdout's buffer goes out. 0, or EX_IOERR when any of what was printed could not be written, told on
 * stderr in the program's name. */
int stdout_end(const char *program);

#endif
