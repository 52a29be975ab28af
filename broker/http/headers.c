/* headers.c - see headers.h. */
#include "broker/http/headers.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "schema/err.h"

#define LENGTH_DIGITS 18

static enum MHD_Result take(void *arg, enum MHD_ValueKind kind, const char *key, size_t key_size,
    const char *value, size_t value_size)
{
    struct head *h = arg;
    (void)kind;
    if (!value)
        value = "";
    h->has_nul |= strlen(key) != key_size || strlen(value) != value_size;
    if (strcasecmp(key, "Content-Length") == 0)
        h->length = value, h->n_lengths++;
    else if (strcasecmp(key, "Transfer-Encoding") == 0)
        h->coding = value, h->n_codings++;
    else if (strcasecmp(key, "Host") == 0)
        h->host = value, h->n_hosts++;
    else if (strcasecmp(key, "Content-Type") == 0)
        h->type = value, h->n_types++;
    else if (strcasecmp(key, "Content-Encoding") == 0)
        h->content_coding = value;
    else if (strcasecmp(key, "Authorization") == 0)
        h->authorization = value, h->n_authorizations++;
    else if (strcasecmp(key, "X-Request-Id") == 0)
        h->request_id = value;
    return MHD_YES;
}

void head_read(struct head *head, struct MHD_Connection *connection)
{
    *head = (struct head){0};
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, take, head);
}

#define MOST_ARGUMENTS 8

struct query {
    const char *known;
    const char *found[MOST_ARGUMENTS];
    int n_found;
    struct err *error;
};

/* Is the word one of those of the list? */
static int is_listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    while (list && *list) {
        size_t len = strcspn(list, " ");
        if (len == n && memcmp(list, word, n) == 0)
            return 1;
        list += len + (list[len] == ' ');
    }
    return 0;
}

static int is_found(const struct query *q, const char *key)
{
    for (int i = 0; i < q->n_found; i++)
        if (strcmp(q->found[i], key) == 0)
            return 1;
    return q->n_found == MOST_ARGUMENTS;
}

static enum MHD_Result take_argument(void *arg, enum MHD_ValueKind kind, const char *key,
    size_t key_size, const char *value, size_t value_size)
{
    struct query *q = arg;
    (void)kind;
    if (strlen(key) != key_size || !is_listed(q->known, key))
        err_field(q->error, ASSAY_EBADREQ, key,
            "`?%.60s=`: expected %s%s behind the path, found another argument", key,
            q->known ? "nothing but ?" : "nothing", q->known ? q->known : "");
    else if (is_found(q, key))
        err_field(q->error, ASSAY_EBADREQ, key, "`?%s=`: expected once, found twice", key);
    else if (!value || strlen(value) != value_size)
        err_field(q->error, ASSAY_EBADREQ, key, "`?%s=`: expected a value without NUL", key);
    if (q->error->code == 0)
        q->found[q->n_found++] = key;
    return q->error->code == 0 ? MHD_YES : MHD_NO;
}

int head_check_query(struct MHD_Connection *connection, const char *known, struct err *e)
{
    struct query q = {.known = known, .error = e};
    MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, take_argument, &q);
    return e->code == 0 ? 0 : 400;
}

static int refuse(int status, struct err *e, const char *why)
{
    err_set(e, ASSAY_EBADREQ, "%s", why);
    return status;
}

int head_check(const struct head *h, struct err *e)
{
    if (h->has_nul)
        return refuse(400, e, "expected a head without NUL, found one");
    if (h->n_lengths > 1)
        return refuse(400, e, "expected one Content-Length, found several");
    if (h->n_lengths > 0 && h->n_codings > 0)
        return refuse(400, e, "expected Content-Length or Transfer-Encoding, found both");
    if (h->n_hosts > 1)
        return refuse(400, e, "expected one Host, found several");
    if (h->n_types > 1 || h->n_authorizations > 1)
        return refuse(400, e, "expected one Content-Type and one Authorization, found several");
    if (h->n_lengths > 0 && (!*h->length || strspn(h->length, "0123456789") != strlen(h->length) ||
                                strlen(h->length) > LENGTH_DIGITS))
        return refuse(400, e, "Content-Length: expected a number");
    if (h->n_codings > 1 || (h->coding && strcasecmp(h->coding, "chunked") != 0))
        return refuse(501, e, "Transfer-Encoding: expected chunked, found another");
    return 0;
}

static int is_json(const char *type)
{
    size_t len = strlen("application/json");
    return type && strncasecmp(type, "application/json", len) == 0 &&
           (type[len] == '\0' || type[len] == ';' || type[len] == ' ');
}

static int is_form(const char *type)
{
    size_t len = strlen("multipart/form-data");
    return type && strncasecmp(type, "multipart/form-data", len) == 0 &&
           (type[len] == ';' || type[len] == ' ');
}

int head_check_empty(const struct head *h, struct err *e)
{
    if (h->coding || (h->length && strspn(h->length, "0") != strlen(h->length)))
        return refuse(400, e, "expected no body, found one");
    return 0;
}

static int check_content(const struct head *h, size_t max_bytes, struct err *e)
{
    if (h->content_coding && strcasecmp(h->content_coding, "identity") != 0)
        return refuse(415, e, "Content-Encoding: expected none");
    if (h->length && strtoull(h->length, NULL, 10) > max_bytes) {
        err_set(
            e, ASSAY_ETOOLARGE, "body: expected at most %zu bytes, found %s", max_bytes, h->length);
        return 413;
    }
    return 0;
}

static int check_length(const struct head *h, struct err *e)
{
    if (h->length || h->coding)
        return 0;
    return refuse(411, e, "expected a body with Content-Length, or chunked, found neither");
}

int head_check_body(const struct head *h, size_t max_bytes, struct err *e)
{
    int status = check_length(h, e);
    if (status == 0 && !is_json(h->type))
        status = refuse(415, e, "Content-Type: expected application/json");
    return status == 0 ? check_content(h, max_bytes, e) : status;
}

int head_check_upload(const struct head *h, size_t max_bytes, struct err *e)
{
    int status = check_length(h, e);
    if (status == 0 && !is_form(h->type))
        status = refuse(415, e, "Content-Type: expected multipart/form-data");
    return status == 0 ? check_content(h, max_bytes, e) : status;
}
