/* start.h - what each program does first. */
#ifndef ASSAY_START_H
#define ASSAY_START_H

/* Makes the process independent of two things that it cannot control:
 *
 * - A parent that ignores SIGCHLD passes that on, and then no exit of a child can be waited for.
 *   The signal's default action is restored.
 * - jansson 2.14 overruns a buffer when its lexer gets no memory. The process ends instead, as
 *   xcalloc ends it. */
void start_process(void);

#endif
