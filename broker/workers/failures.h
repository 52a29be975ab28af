/* failures.h - how a group's incarnations ended (group.h): the reason of the last one, and how many
 * starts failed in a row. */
#ifndef ASSAY_FAILURES_H
#define ASSAY_FAILURES_H

#include <stdint.h>

struct failures {
    char why[512];     /* the last one's reason; "": none has ended */
    int exit_code;     /* of the rank that ended it; -1: none had one */
    int said_exit;     /* exit code that a rank of this incarnation announced; 0: none */
    int failed_starts; /* starts in a row that ended before all ranks were ready */
    int bad_starts;    /* the latest of these in a row whose error does not pass */
    int64_t restarts;
    long long back_off_ms; /* to wait after the next failure */
};

/* Notes why an incarnation ended. exit_code: of a rank, or -1; signal: 0 for none. An exit code
 * that no rank announced is explained. */
void failures_note(struct failures *f, const char *reason, int exit_code, int signal);
/* Counts the failure just noted: as a start's, or, when all ranks had been ready, as none. */
void failures_count(struct failures *f, int was_starting);
/* 1: starts are likely to go on failing (group_is_hopeless). */
int failures_are_hopeless(const struct failures *f);
/* Returns how long to wait before the next start, and doubles that for the one after it. */
long long failures_back_off(struct failures *f);

#endif
