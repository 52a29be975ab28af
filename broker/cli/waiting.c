/* waiting.c - decides which refusals are worth waiting for, pauses, and says so now and then
 * (waiting.h). */
#include "broker/cli/waiting.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/cli.h"
#include "broker/cli/reply.h"
#include "broker/cli/signals.h"
#include "schema/clock.h"

#define AGAIN_MS 60000
#define PAUSE_MS 500
#define MAX_PAUSE_MS 5000
#define OPEN_MS 5000 /* of an open job without progress; then that is reported */

void waiting_tell(struct waiting *w, const char *fmt, ...)
{
    char text[ERR_MESSAGE_BYTES + 64];
    long long now = now_mono_ms();
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (w->progress && w->progress->on) {
        progress_note(w->progress, text);
        return;
    }
    if (now < w->again_ms)
        return;
    cli_say("%s", text);
    w->again_ms = now + AGAIN_MS;
}

void waiting_over(struct waiting *w)
{
    if (w->progress)
        progress_note(w->progress, NULL);
}

void waiting_tell_what_blocks(struct waiting *w, const json_t *status, long long idle_ms)
{
    const char *reason = reply_text(status, "reason"), *key = reply_text(status, "key");
    const char *state = reply_text(status, "state"), *failure = reply_text(status, "failure");
    const char *unwritten = reply_text(status, "unwritten");
    if (reason[0])
        waiting_tell(w,
            "waiting: job '%s' is held: %s; `assay resume JOB --accept-mode` goes on all the same",
            key, reason);
    else if (strcmp(state, "paused") == 0)
        waiting_tell(w, "waiting: job '%s' is paused; `assay resume JOB` lets it go on", key);
    else if (failure[0])
        waiting_tell(w, "waiting: the workers do not start, they are tried again: %s", failure);
    else if (unwritten[0])
        waiting_tell(w, "waiting: results cannot be written, that is tried again: %s", unwritten);
    else if (strcmp(state, "open") == 0 && idle_ms > OPEN_MS)
        waiting_tell(w, "waiting: job '%s' is open: its last rows are not submitted yet", key);
    else
        waiting_over(w);
}

int waiting_is_worth(const struct err *e)
{
    /* without advice from the broker, no broker answered */
    return e->code == ASSAY_EQUEUEFULL || (e->code == ASSAY_ENOTREADY && e->retry_after_ms > 0);
}

int waiting_pause(struct waiting *w, struct err *e)
{
    long ms = e->retry_after_ms == 0             ? PAUSE_MS
              : e->retry_after_ms > MAX_PAUSE_MS ? MAX_PAUSE_MS
                                                 : (long)e->retry_after_ms;
    if (w->refuse || !waiting_is_worth(e))
        return e->code;
    waiting_tell(w, "waiting: %s", e->msg);
    return cli_nap(ms) ? err_set(e, ASSAY_EIO, "stopped") : 0;
}
