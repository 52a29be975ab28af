/* signals.h - handles SIGINT, SIGTERM, SIGHUP and SIGXCPU at any moment.
 *
 * The first signal asks for an orderly end: loops check cli_interrupted, and blocking system calls
 * are woken (EINTR), again every second so that none is missed. The second signal ends the process
 * at once. Either way the exit code is 128 + the signal's number (main.c). */
#ifndef ASSAY_SIGNALS_H
#define ASSAY_SIGNALS_H

void cli_catch_signals(void);
/* Also catches SIGPIPE and SIGXFSZ, for verbs that must clean up and report: the write fails, and
 * any number of these signals counts as one. */
void cli_catch_failed_writes(void);
/* Returns the signal's number, 0 if none came. */
int cli_interrupted(void);
/* Sleeps until ms have passed or a signal comes. Returns 0 or the signal's number. */
int cli_nap(long ms);
/* Writes text to stderr. A terminal that is stopped (Ctrl-S) or a pipe that is full is waited for,
 * but not after a signal: then what it does not take is lost. */
void cli_tell(const char *text);

#endif
