/* faults.c - see faults.h. */
#include "broker/ask/faults.h"

#include <stdlib.h>

int fault_status(int code)
{
    switch (code) {
    case ASSAY_EADAPTER:
    case ASSAY_EMODEL: /* the broker was started anew without it */
    case ASSAY_EGONE:
        return 404;
    case ASSAY_EUNAUTHORIZED:
        return 401;
    case ASSAY_ETOOLARGE:
        return 413;
    case ASSAY_EUNSUPPORTED:
        return 501;
    case ASSAY_EFULL:
        return 507;
    case ASSAY_EQUEUEFULL:
    case ASSAY_ENOTREADY:
    case ASSAY_ESTATE: /* held: its checkpoint or adapter is another now */
    case ASSAY_EBUSY:
        return 503;
    case ASSAY_ETIMEOUT:
        return 504;
    case ASSAY_EBADREQ:
    case ASSAY_ETOOLONG:
    case ASSAY_EBADTOKEN:
    case ASSAY_ENOTOKENS:
    case ASSAY_ENOSTEP:
    case ASSAY_EBADTEXT:
    case ASSAY_EPOSITION:
    case ASSAY_EMANY:
        return 400;
    default:
        return 500;
    }
}

static const char *type_of(int status)
{
    switch (status) {
    case 400:
        return "BadRequestError";
    case 401:
        return "AuthenticationError";
    case 404:
        return "NotFoundError";
    case 405:
        return "MethodNotAllowedError";
    case 409:
        return "ConflictError";
    case 413:
        return "PayloadTooLargeError";
    case 415:
        return "UnsupportedMediaTypeError";
    case 501:
        return "NotImplementedError";
    case 503:
        return "ServiceUnavailableError";
    case 504:
        return "GatewayTimeoutError";
    case 507:
        return "InsufficientStorageError";
    default:
        return status < 500 ? "BadRequestError" : "InternalServerError";
    }
}

int fault_retry_s(const struct err *e)
{
    if (fault_status(e->code) != 503)
        return 0;
    return e->retry_after_ms > 1000 ? (int)((e->retry_after_ms + 999) / 1000) : 1;
}

json_t *fault_object(const struct err *e, int status)
{
    return json_pack("{s:{s:s, s:s, s:o, s:i}}", "error", "message", e->msg, "type",
        type_of(status), "param", e->field[0] ? json_string(e->field) : json_null(), "code",
        status);
}

char *fault_body(const struct err *e, int status)
{
    json_t *body = fault_object(e, status);
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return text;
}

int fault_of_rows(const struct row_result *rows, uint32_t n, struct err *e)
{
    for (uint32_t i = 0; i < n; i++) {
        const char *why = rows[i].message ? rows[i].message : "no reason is given";
        if (rows[i].code != 0 && n == 1)
            return err_set(e, rows[i].code, "%s: %s", err_name(rows[i].code), why);
        if (rows[i].code != 0)
            return err_set(
                e, rows[i].code, "row %u of %u: %s: %s", i, n, err_name(rows[i].code), why);
    }
    return 0;
}
