/* err.c - filling and naming errors. See err.h. */
#include "schema/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "schema/utf8.h"

static int fill(struct err *e, int code, const char *field, const char *fmt, va_list args)
{
    if (!e)
        return code;
    e->code = code;
    e->retry_after_ms = 0;
    snprintf(e->field, sizeof e->field, "%s", field);
    vsnprintf(e->msg, sizeof e->msg, fmt, args);
    utf8_make_printable(e->field);
    utf8_make_printable(e->msg);
    return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(e, code, "", fmt, args);
    va_end(args);
    return code;
}

int err_field(struct err *e, int code, const char *field, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(e, code, field, fmt, args);
    va_end(args);
    return code;
}

int err_within(struct err *e, int code, const char *where)
{
    char field[2 * ERR_FIELD_BYTES];
    if (!e)
        return code;
    snprintf(field, sizeof field, "%s%s%s", where, where[0] && e->field[0] ? "." : "", e->field);
    snprintf(e->field, sizeof e->field, "%.*s", (int)sizeof e->field - 1, field);
    utf8_make_printable(e->field);
    return code;
}

int err_errno(struct err *e, int code, const char *fmt, ...)
{
    int saved = errno;
    if (saved == ENOSPC || saved == EDQUOT)
        code = ASSAY_EFULL;
    va_list args;
    va_start(args, fmt);
    fill(e, code, "", fmt, args);
    va_end(args);
    if (e) {
        size_t n = strlen(e->msg);
        snprintf(e->msg + n, sizeof e->msg - n, ": %s%s", strerror(saved),
            saved == EFBIG ? " (`ulimit -f`)" : "");
    }
    return code;
}

const char *err_name(int code)
{
    switch (code) {
    case ASSAY_OK:
        return "ok";
    case ASSAY_EBADMSG:
        return "bad_message";
    case ASSAY_EBADREQ:
        return "bad_request";
    case ASSAY_EUNSUPPORTED:
        return "unsupported";
    case ASSAY_EUNKNOWNJOB:
        return "unknown_job";
    case ASSAY_EKEYREUSED:
        return "key_reused";
    case ASSAY_ETOOLONG:
        return "too_long";
    case ASSAY_ETOOLARGE:
        return "too_large";
    case ASSAY_EQUEUEFULL:
    case ASSAY_EFULL:
    case ASSAY_ELOCKED:
        return "queue_full";
    case ASSAY_ENOTREADY:
        return "not_ready";
    case ASSAY_EUNAUTHORIZED:
        return "unauthorized";
    case ASSAY_ETIMEOUT:
        return "timeout";
    case ASSAY_ESTATE:
        return "wrong_state";
    case ASSAY_ENOSESSION:
        return "unknown_session";
    case ASSAY_EBADTOKEN:
        return "bad_token";
    case ASSAY_ENOTOKENS:
        return "no_tokens";
    case ASSAY_ENOSTEP:
        return "no_step_token";
    case ASSAY_EADAPTER:
        return "unknown_adapter";
    case ASSAY_EMODEL:
        return "unknown_model";
    case ASSAY_EBADTEXT:
        return "bad_text";
    case ASSAY_ENONFINITE:
        return "non_finite";
    case ASSAY_EKILLED:
        return "worker_killed";
    case ASSAY_EPOSITION:
        return "bad_position";
    case ASSAY_EMANY:
        return "many_values";
    case ASSAY_EDAMAGED:
        return "damaged";
    default:
        return "internal";
    }
}

int err_code(const char *name, size_t len)
{
    for (int code = -1; code > ASSAY_ELOCAL; code--)
        if (strlen(err_name(code)) == len && memcmp(err_name(code), name, len) == 0)
            return code;
    return ASSAY_EINTERNAL;
}
