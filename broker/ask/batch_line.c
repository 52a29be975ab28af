/* batch_line.c - see batch_line.h. */
#include "broker/ask/batch_line.h"

#include <string.h>

#include "broker/ask/fields.h"

#define ID_BYTES 512

static int refuse(
    struct err *e, const char **code, const char *name, const char *field, const char *why)
{
    *code = name;
    return err_field(e, ASSAY_EBADREQ, field, "%s", why);
}

static int check_keys(const json_t *whole, const char **code, struct err *e)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)whole, key, value)
    {
        if (strcmp(key, "custom_id") != 0 && strcmp(key, "method") != 0 &&
            strcmp(key, "url") != 0 && strcmp(key, "body") != 0) {
            *code = "unknown_parameter";
            return err_field(e, ASSAY_EBADREQ, key,
                "`%.80s`: expected custom_id, method, url and body, found another field", key);
        }
    }
    return 0;
}

/* NULL where there is none. */
static const char *id_in(const json_t *whole)
{
    struct err ignored;
    const char *id = NULL;
    int is_text = field_text(whole, "custom_id", &id, &ignored) == 1;
    return is_text && *id && strlen(id) <= ID_BYTES ? id : NULL;
}

/* Of /score and /rerank the last word counts, as with vLLM's run-batch. */
static const struct family *find_family(const char *url)
{
    const struct family *family = family_find(url);
    const char *last = strrchr(url, '/');
    int is_enough = last && (strcmp(last, "/score") == 0 || strcmp(last, "/rerank") == 0);
    return family || !is_enough ? family : family_find(last);
}

static int take_url(struct batch_line *line, const char *endpoint, const char **code, struct err *e)
{
    const char *url = NULL;
    if (field_text(line->whole, "url", &url, e) == 1 && (!endpoint || strcmp(url, endpoint) == 0))
        line->family = find_family(url);
    if (line->family)
        return 0;
    *code = "invalid_url";
    if (endpoint)
        return err_field(e, ASSAY_EBADREQ, "url",
            "`url`: expected the batch's endpoint %s, found '%.80s'", endpoint, url ? url : "none");
    return err_field(e, ASSAY_EBADREQ, "url",
        "`url`: expected /v1/classify, /v1/embeddings, /v1/pooling, /v1/score or /v1/rerank, found "
        "'%.80s'",
        url ? url : "none");
}

int batch_line_read(struct batch_line *line, const char *endpoint, const char **code, struct err *e)
{
    const char *method = NULL;
    line->custom_id = id_in(line->whole);
    int rc = check_keys(line->whole, code, e);
    if (rc == 0 && !line->custom_id)
        rc = refuse(e, code, "missing_required_parameter", "custom_id",
            "`custom_id`: expected a text of 1 to 512 bytes");
    if (rc == 0 &&
        (field_text(line->whole, "method", &method, e) != 1 || strcmp(method, "POST") != 0))
        rc = refuse(e, code, "invalid_method", "method", "`method`: expected POST");
    if (rc == 0)
        rc = take_url(line, endpoint, code, e);
    line->body = json_object_get(line->whole, "body");
    if (rc == 0 && !json_is_object(line->body))
        rc = refuse(
            e, code, "missing_required_parameter", "body", "`body`: expected a request's body");
    return rc;
}

void batch_line_release(struct batch_line *line)
{
    json_decref(line->whole);
    *line = (struct batch_line){0};
}

json_t *batch_line_response(int status, const char *request_id, json_t *body)
{
    return json_pack("{s:i, s:s, s:o}", "status_code", status, "request_id", request_id, "body",
        body ? body : json_null());
}

json_t *batch_line_answer(const char *id, const char *custom_id, json_t *response, json_t *error)
{
    return json_pack("{s:s, s:s?, s:o, s:o}", "id", id, "custom_id", custom_id, "response",
        response ? response : json_null(), "error", error ? error : json_null());
}
