/* failures.c - says why a group's incarnation ended, counts the starts that fail in a row, and how
 * long to wait for the next one. */
#include "broker/workers/failures.h"

#include <stdio.h>
#include <sysexits.h>

#include "schema/utf8.h"

#define BACK_OFF_FIRST_MS 500
#define BACK_OFF_MAX_MS 30000
#define MAX_BAD_STARTS 3
#define MAX_FAILED_STARTS 6
#define EX_CANNOT_RUN 127 /* no such program, or a library of it is missing */

/* Explains a rank's exit code, for ranks that could not report a reason. */
static const char *meaning(int exit_code)
{
    switch (exit_code) {
    case EX_USAGE:
        return ": is it of this version?";
    case EX_OSERR:
        return ": no memory or thread";
    case EX_CANTCREAT: /* as in comm.h */
        return ": a rank beside it is missing";
    case EX_IOERR:
        return ": the GPU or its libraries failed";
    case EX_CANNOT_RUN:
        return ": it cannot be run; is a library missing?";
    default:
        return "";
    }
}

void failures_note(struct failures *f, const char *reason, int exit_code, int signal)
{
    if (signal)
        snprintf(f->why, sizeof f->why, "%.420s (signal %d)", reason, signal);
    else if (exit_code >= 0)
        snprintf(f->why, sizeof f->why, "%.420s (exit code %d%s)", reason, exit_code,
            f->said_exit ? "" : meaning(exit_code));
    else
        snprintf(f->why, sizeof f->why, "%.420s", reason);
    utf8_make_printable(f->why);
    f->exit_code = exit_code;
}

static int stays(int exit_code)
{
    return exit_code == EX_CONFIG || exit_code == EX_USAGE || exit_code == EX_CANNOT_RUN;
}

void failures_count(struct failures *f, int was_starting)
{
    f->failed_starts = was_starting ? f->failed_starts + 1 : 0;
    f->bad_starts = was_starting && stays(f->exit_code) ? f->bad_starts + 1 : 0;
}

int failures_are_hopeless(const struct failures *f)
{
    return f->bad_starts >= MAX_BAD_STARTS || f->failed_starts >= MAX_FAILED_STARTS;
}

long long failures_back_off(struct failures *f)
{
    long long wait_ms = f->back_off_ms;
    f->back_off_ms = wait_ms == 0 ? BACK_OFF_FIRST_MS : 2 * wait_ms;
    if (f->back_off_ms > BACK_OFF_MAX_MS)
        f->back_off_ms = BACK_OFF_MAX_MS;
    f->restarts++;
    return wait_ms;
}
