/* doctor.h - what `assay doctor` looks at, one line each. */
#ifndef ASSAY_DOCTOR_H
#define ASSAY_DOCTOR_H

#include "broker/cli/cli.h"

enum doctor_verdict {
    DOCTOR_OK,
    DOCTOR_WARNING, /* works, but worse than it could */
    DOCTOR_WRONG,   /* a broker does not start, or loses what it should not */
};

struct doctor;
/* One line: what was found, and what to do about it (not shown with DOCTOR_OK). */
void doctor_say(struct doctor *d, enum doctor_verdict verdict, const char *name, const char *advice,
    const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Of what there can be too little of: wrong below `least`, a warning below `enough`. */
enum doctor_verdict doctor_grade(double found, double least, double enough);

/* Versions, CPU, GPUs, shared memory, limits. */
void doctor_look_at_machine(struct doctor *d, const struct cli *c);
/* The data directory, its file system, and the clock against its database. */
void doctor_look_at_data(struct doctor *d, const char *dir);

#endif
