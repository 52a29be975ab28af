/* batch_new.c - what a new batch is to be (batches_private.h). */
#include "broker/http/batches_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/ask/fields.h"

#define WINDOW_MOST_S (30 * 86400)
#define METADATA_MOST 16
#define METADATA_KEY_BYTES 64
#define METADATA_BYTES 512
#define EXPIRES_LEAST_S 3600
#define EXPIRES_MOST_S 2592000

static const struct field batch_fields[] = {
    {"input_file_id", FIELD_TAKEN},
    {"endpoint", FIELD_TAKEN},
    {"completion_window", FIELD_TAKEN},
    {"metadata", FIELD_TAKEN},
    {"output_expires_after", FIELD_TAKEN},
    {NULL, FIELD_OFF},
};

const struct route *batch_route(const char *url)
{
    static const char *const all[] = {
        "/v1/classify", "/v1/embeddings", "/v1/pooling", "/v1/score", "/v1/rerank"};
    char id[FOLDER_ID_BYTES];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(url, all[i]) == 0)
            return route_find(url, id);
    return NULL;
}

/* "24h", as OpenAI's is; also seconds, minutes and days. */
static int read_window(const char *text, json_int_t *seconds, struct err *e)
{
    char *end;
    long n = strtol(text, &end, 10);
    long unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : *end == 'd' ? 86400 : 0;
    if (*text >= '1' && *text <= '9' && unit > 0 && end[1] == '\0' && n > 0 &&
        n <= WINDOW_MOST_S / unit) {
        *seconds = n * unit;
        return 0;
    }
    return err_field(e, ASSAY_EBADREQ, "completion_window",
        "`completion_window`: expected a number with s, m, h or d, as 24h, up to 30d, found "
        "'%.40s'",
        text);
}

static int check_metadata(const json_t *metadata, struct err *e)
{
    const char *key;
    json_t *value;
    int is_fit = field_is_absent(metadata) ||
                 (json_is_object(metadata) && json_object_size(metadata) <= METADATA_MOST);
    json_object_foreach((json_t *)metadata, key, value)
    {
        is_fit &= strlen(key) <= METADATA_KEY_BYTES && json_is_string(value) &&
                  json_string_length(value) <= METADATA_BYTES &&
                  strlen(json_string_value(value)) == json_string_length(value);
    }
    if (is_fit)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "metadata",
        "`metadata`: expected an object of at most %d texts, with keys of at most %d bytes and "
        "values of at most %d, without NUL",
        METADATA_MOST, METADATA_KEY_BYTES, METADATA_BYTES);
}

static int read_expiry(const json_t *after, json_int_t *seconds, struct err *e)
{
    const char *anchor = json_string_value(json_object_get(after, "anchor"));
    *seconds = json_integer_value(json_object_get(after, "seconds"));
    if (field_is_absent(after) ||
        (anchor && strcmp(anchor, "created_at") == 0 && json_object_size(after) == 2 &&
            *seconds >= EXPIRES_LEAST_S && *seconds <= EXPIRES_MOST_S))
        return 0;
    return err_field(e, ASSAY_EBADREQ, "output_expires_after",
        "`output_expires_after`: expected the anchor created_at and %d to %d seconds",
        EXPIRES_LEAST_S, EXPIRES_MOST_S);
}

/* A text that must be there. */
static int need(const json_t *body, const char *name, const char **text, struct err *e)
{
    int rc = field_text(body, name, text, e);
    if (rc == 0)
        return err_field(e, ASSAY_EBADREQ, name, "`%s`: expected a text, found none", name);
    return rc < 0 ? rc : 0;
}

static json_t *object_of(const char *id, const char *input, const char *endpoint,
    const char *window, json_int_t seconds, const json_t *metadata)
{
    static const char *const times[] = {"in_progress_at", "finalizing_at", "completed_at",
        "failed_at", "expired_at", "cancelling_at", "cancelled_at"};
    json_int_t now = (json_int_t)time(NULL);
    json_t *object = json_pack("{s:s, s:s, s:s, s:n, s:s, s:s, s:s, s:n, s:n, s:I, s:I}", "id", id,
        "object", "batch", "endpoint", endpoint, "errors", "input_file_id", input,
        "completion_window", window, "status", "validating", "output_file_id", "error_file_id",
        "created_at", now, "expires_at", now + seconds);
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        json_object_set_new(object, times[i], json_null());
    json_object_set_new(object, "request_counts",
        json_pack("{s:i, s:i, s:i}", "total", 0, "completed", 0, "failed", 0));
    json_object_set_new(
        object, "metadata", field_is_absent(metadata) ? json_null() : json_deep_copy(metadata));
    return object;
}

int batch_from_body(
    const json_t *body, const char *id, json_t **object, json_t **own, struct err *e)
{
    static const struct field *const lists[] = {batch_fields, NULL};
    const json_t *metadata = json_object_get(body, "metadata");
    const char *input = NULL, *endpoint = NULL, *window = NULL;
    json_int_t seconds = 0, expires_s = 0;
    int rc = fields_check(body, lists, e);
    if (rc == 0)
        rc = need(body, "input_file_id", &input, e);
    if (rc == 0)
        rc = need(body, "endpoint", &endpoint, e);
    if (rc == 0 && !batch_route(endpoint))
        rc = err_field(e, ASSAY_EBADREQ, "endpoint",
            "`endpoint`: expected /v1/classify, /v1/embeddings, /v1/pooling, /v1/score or "
            "/v1/rerank, found '%.80s'",
            endpoint);
    if (rc == 0)
        rc = need(body, "completion_window", &window, e);
    if (rc == 0)
        rc = read_window(window, &seconds, e);
    if (rc == 0)
        rc = check_metadata(metadata, e);
    if (rc == 0)
        rc = read_expiry(json_object_get(body, "output_expires_after"), &expires_s, e);
    if (rc != 0)
        return rc;
    *object = object_of(id, input, endpoint, window, seconds, metadata);
    *own = json_pack("{s:I}", "output_expires_s", expires_s);
    return 0;
}
