/* signals.h - SIGINT, SIGTERM, SIGHUP and SIGXCPU, which work at any moment.
 *
 * The first asks for an orderly end: whoever waits looks at cli_interrupted, and what blocks in a system
 * call is woken (EINTR), again every second, so that none is missed. The second ends the process
 * at once. The exit code is 128 + the signal's number either way (main.c). */
#ifndef ASSAY_SIGNALS_H
#define ASSAY_SIGNALS_H

void cli_catch_signals(void);
/* SIGPIPE and SIGXFSZ too, for who has something to put in order and to say: the write fails, and any number of
 * them is one. */
void cli_catch_failed_writes(void);
/* The signal's number, 0: none came. */
int cli_interrupted(void);
/* Sleep, but not through a signal: 0, or the signal's number. */
int cli_nap(long ms);

#endif
