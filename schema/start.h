/* start.h - what each program does first. */
#ifndef ASSAY_START_H
#define ASSAY_START_H

/* Makes the process independent of what it cannot control:
 *
 * - A parent's signals. A SIGCHLD that is ignored is inherited, and then no exit of a child can be
 *   waited for; SIGINT, SIGTERM and SIGHUP that are blocked would not end the process. Handlers
 *   and signals that are ignored otherwise stay as they are.
 * - Standard descriptors that the caller closed: no file that is opened later gets their numbers,
 *   and with them what is logged. Reads and writes on them still fail.
 * - The buffer of a stdout that is no terminal: a help text fits, so that what fails is its last
 *   write, whose reason is known (stdout_end).
 * - Memory. jansson 2.14 overruns a buffer when its lexer gets none; the process ends instead, as
 *   xcalloc ends it. */
void start_process(void);

#endif
