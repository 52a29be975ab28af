/* body.c - see body.h. */
#include "broker/ask/body.h"

#include <limits.h>
#include <string.h>

#include "schema/json.h"
#include "schema/utf8.h"

/* Counts brackets and commas outside of strings. The text need not be JSON: the parser judges that
 * afterwards. */
static int check_size(const char *at, const char *end, struct err *e)
{
    int depth = 0;
    size_t n_values = 1;
    while (at && at < end) {
        char c = *at;
        if (c == '"') {
            at = json_string_end(at, end);
            continue;
        }
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        n_values += c == ',' || c == ':' || c == '[' || c == '{';
        if (depth > BODY_MAX_DEPTH)
            return err_set(e, ASSAY_EBADREQ,
                "body: expected at most %d levels of nesting, found "
                "more",
                BODY_MAX_DEPTH);
        if (n_values > BODY_MAX_VALUES)
            return err_set(e, ASSAY_ETOOLARGE, "body: expected at most %u values, found more",
                BODY_MAX_VALUES);
        at++;
    }
    return 0;
}

static int check_utf8(const char *text, size_t len, struct err *e)
{
    size_t valid = utf8_valid((const uint8_t *)text, len);
    if (valid == len)
        return 0;
    return err_set(e, ASSAY_EBADREQ, "body: expected UTF-8, found byte 0x%02x at offset %zu",
        (unsigned char)text[valid], valid);
}

int body_parse(const char *text, size_t len, json_t **body, struct err *e)
{
    json_error_t why;
    *body = NULL;
    int rc = check_utf8(text, len, e);
    if (rc == 0)
        rc = check_size(text, text + len, e);
    if (rc != 0)
        return rc;
    *body = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!*body)
        return err_set(e, ASSAY_EBADREQ, "body: %s: %s, at byte %d", json_fault_kind(&why),
            why.text, why.position);
    if (json_is_object(*body))
        return 0;
    json_decref(*body);
    *body = NULL;
    return err_set(e, ASSAY_EBADREQ, "body: expected a JSON object, found another value");
}
