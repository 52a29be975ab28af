/* exchange.c - see exchange.h.
 *
 * libmicrohttpd calls exchange_step when the head is there, for each piece of the body, when the
 * body is whole, and once more when the scores are there: between these two the connection is
 * suspended, and belongs to the link's thread until `done`. */
#include "broker/http/exchange.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/ask/body.h"
#include "broker/ask/faults.h"
#include "broker/http/assets.h"
#include "broker/http/headers.h"
#include "broker/http/host.h"
#include "broker/http/pages.h"
#include "broker/http/routes.h"
#include "broker/http/stored.h"
#include "broker/http/upload.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define ONE_ASK 4 /* times the largest body: most bytes of one request's rows */
#define FIRST_ROOM 4096
#define FORM_BYTES 65536 /* of an upload, beside the file */

struct exchange {
    struct server *server;
    struct MHD_Connection *connection;
    struct peer *peer;
    const struct route *route;
    char path_id[FOLDER_ID_BYTES]; /* what stands for {id} in the route's path */
    unsigned method;               /* routes.h */
    struct upload *upload;         /* NULL: the body is none */
    long long began_us;
    unsigned status;
    /* The body, as it comes. */
    char *body;
    size_t n_body, room, n_dropped;
    struct err refusal; /* known before the body is whole */
    /* Set once the body is decoded. */
    struct card *card;
    struct ask ask;
    struct ticket ticket;
    int is_asked;
    int has_newer;  /* the card was asked for since the body was there */
    int may_change; /* jobs, by its key */
    struct asker asker;
    struct desk_request look;
    long long asked_us;
};

/* Is the body a request in JSON? */
static int takes_json(const struct exchange *x)
{
    return x->route->kind == ROUTE_SCORES ||
           (x->route->kind == ROUTE_BATCHES && x->method == ROUTE_POST);
}

static int is_upload(const struct exchange *x)
{
    return x->route->kind == ROUTE_FILES && x->method == ROUTE_POST;
}

static struct peer *peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* ---- replies ---- */

/* Takes the text over. closes: the connection ends with the reply. */
static enum MHD_Result reply(struct exchange *x, unsigned status, char *text, const char *type,
    const char *const (*headers)[2], int closes)
{
    if (!text)
        return MHD_NO;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, "Content-Type", type);
    for (; headers && (*headers)[0]; headers++)
        MHD_add_response_header(response, (*headers)[0], (*headers)[1]);
    if (closes)
        MHD_add_response_header(response, "Connection", "close");
    x->status = status;
    if (x->peer)
        peer_is_idle(x->server->peers, x->peer);
    enum MHD_Result rc = MHD_queue_response(x->connection, status, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result reply_fault(struct exchange *x, int status, const struct err *e, int closes)
{
    char retry[16];
    const char *const headers[][2] = {
        {status == 401      ? "WWW-Authenticate"
            : status == 405 ? "Allow"
                            : "Retry-After",
            status == 401   ? "Bearer"
            : status == 405 ? (x->route ? route_allowed(x->route) : "")
                            : retry},
        {NULL, NULL}};
    int has_header = status == 401 || status == 405 || status == 503;
    snprintf(retry, sizeof retry, "%d", fault_retry_s(e) > 0 ? fault_retry_s(e) : 1);
    return reply(x, (unsigned)status, fault_body(e, status), "application/json",
        has_header ? headers : NULL, closes);
}

/* The mode of the model, or those of an ensemble's, with commas between. The caller frees it. */
static char *modes_of(const struct ask *ask)
{
    size_t size = strlen(ask->asks.model->mode) + 1, at = 0;
    for (int k = 1; k < ask->n_all; k++)
        size += strlen(ask->all[k].model->mode) + 2;
    char *text = xcalloc(size, 1);
    at = (size_t)snprintf(text, size, "%s", ask->asks.model->mode);
    for (int k = 1; k < ask->n_all; k++)
        at += (size_t)snprintf(text + at, size - at, ", %s", ask->all[k].model->mode);
    return text;
}

static enum MHD_Result reply_scores(struct exchange *x)
{
    struct err e = {0};
    json_t *body = NULL;
    int rc = fault_of_rows(x->ticket.results, x->ask.rows.n, &e);
    if (rc == 0)
        rc = x->route->family->reply(&body, &x->ask, x->ticket.results, &e);
    char *text = answer_text(body);
    json_decref(body);
    if (rc != 0)
        return reply_fault(x, fault_status(e.code), &e, 0);
    char *modes = modes_of(&x->ask);
    const char *const headers[][2] = {
        {"x-assay-score-mode", modes}, {"x-assay-job", x->ticket.job}, {NULL, NULL}};
    enum MHD_Result done = reply(x, 200, text, "application/json", headers, 0);
    free(modes);
    return done;
}

/* ---- the head ---- */

static int check_key(const struct exchange *x, const struct head *head, struct err *e)
{
    int is_open = x->route && (x->route->kind == ROUTE_HEALTH || x->route->kind == ROUTE_READY ||
                                  x->route->kind == ROUTE_ASSET);
    if (!x->server->keys || is_open || keys_find(x->server->keys, head->authorization))
        return 0;
    err_set(e, ASSAY_EUNAUTHORIZED, "expected an Authorization header with a known bearer token");
    return 401;
}

/* Without keys, which are for other addresses than loopback too, whoever connects is let in. */
static int check_host(const struct exchange *x, const struct head *head, struct err *e)
{
    if (x->server->keys || host_check(head->host, x->server->options->listen, e) == 0)
        return 0;
    return 403;
}

static int check_right(const struct exchange *x, struct err *e)
{
    if (x->route->kind != ROUTE_CHANGE || x->may_change)
        return 0;
    err_set(e, ASSAY_EUNAUTHORIZED,
        "expected a key with the word admin behind it in the file of --api-keys");
    return 403;
}

/* What the head says of the body. */
static int check_body(const struct exchange *x, const struct head *head, struct err *e)
{
    const struct http_options *o = x->server->options;
    if (takes_json(x))
        return head_check_body(head, (size_t)o->max_body_bytes, e);
    if (is_upload(x))
        return head_check_upload(head, (size_t)o->max_file_bytes + FORM_BYTES, e);
    return x->route->kind == ROUTE_CANCEL || x->route->kind == ROUTE_CHANGE
               ? head_check_empty(head, e)
               : 0;
}

static int check_stored(const struct exchange *x, struct err *e)
{
    if (!route_is_stored(x->route) || x->server->stored)
        return 0;
    err_set(e, ASSAY_EUNSUPPORTED,
        "%s: files and batches are kept where assay-http was started with --files DIR",
        x->route->path);
    return 501;
}

static int check_head(
    const struct exchange *x, const struct head *head, const char *method, struct err *e)
{
    int status = head_check(head, e);
    if (status == 0)
        status = check_host(x, head, e);
    if (status == 0)
        status = check_key(x, head, e);
    if (status == 0 && !x->route) {
        err_set(e, ASSAY_EGONE, "Not Found");
        status = 404;
    }
    if (status == 0 && !(x->route->methods & x->method)) {
        err_set(e, ASSAY_EBADREQ, "%s: expected another method than %.20s", x->route->path, method);
        status = 405;
    }
    if (status == 0)
        status = check_right(x, e);
    if (status == 0)
        status = check_stored(x, e);
    if (status == 0)
        status = check_body(x, head, e);
    if (status == 0 && (x->route->kind == ROUTE_SCORES || route_is_stored(x->route)))
        status = head_check_query(x->connection, x->route->arguments, e);
    return status;
}

/* "classify-" and the client's X-Request-Id, or random digits. */
static void make_id(struct exchange *x, const char *given)
{
    unsigned char random[16];
    char hex[2 * sizeof random + 1];
    int n = given ? (int)strspn(given, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                       "0123456789-_.:")
                  : 0;
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(hex, sizeof hex, random, sizeof random);
    if (n > 0 && given[n] == '\0' && n <= 40)
        snprintf(x->ask.id, sizeof x->ask.id, "%s-%s", x->route->family->id, given);
    else
        snprintf(x->ask.id, sizeof x->ask.id, "%s-%s", x->route->family->id, hex);
}

static int begin_upload(struct exchange *x, const struct head *head, struct err *e)
{
    struct stored *s = x->server->stored;
    uint64_t bytes = head->length ? strtoull(head->length, NULL, 10) : 0;
    x->upload = upload_new(head->type, s->files, s->folder, x->asker.name, bytes, e);
    return x->upload ? 0 : fault_status(e->code);
}

static enum MHD_Result begin(struct exchange *x, const char *url, const char *method)
{
    struct head head;
    struct err e = {0};
    head_read(&head, x->connection);
    x->route = route_find(url, x->path_id);
    x->method = route_method(method);
    x->may_change = keys_may_change(x->server->keys, head.authorization);
    x->asker = keys_asker(x->server->keys, head.authorization);
    int status = check_head(x, &head, method, &e);
    if (status == 0 && is_upload(x))
        status = begin_upload(x, &head, &e);
    if (status != 0)
        return reply_fault(x, status, &e, 1);
    if (!takes_json(x) && !x->upload)
        return MHD_YES;
    if (x->route->kind == ROUTE_SCORES)
        make_id(x, head.request_id);
    if (x->peer)
        peer_sends_body(x->server->peers, x->peer);
    return MHD_YES;
}

/* ---- the body ---- */

static int make_room(struct exchange *x, size_t n)
{
    if (x->n_body + n <= x->room)
        return 0;
    size_t room = x->room ? x->room : FIRST_ROOM;
    while (room < x->n_body + n)
        room *= 2;
    char *body = realloc(x->body, room);
    if (!body)
        return -1;
    x->body = body;
    x->room = room;
    return 0;
}

static void keep(struct exchange *x, const char *bytes, size_t n)
{
    size_t most = (size_t)x->server->options->max_body_bytes;
    int code = x->refusal.code;
    if (code == 0 && x->n_body + n > most)
        code = err_set(
            &x->refusal, ASSAY_ETOOLARGE, "body: expected at most %zu bytes, found more", most);
    if (code == 0 && budget_take(&x->server->bytes, n) != 0)
        code = err_set(&x->refusal, ASSAY_EQUEUEFULL, "the requests under way have too many bytes");
    if (code == 0 && make_room(x, n) != 0) {
        budget_give(&x->server->bytes, n);
        code = err_set(&x->refusal, ASSAY_EQUEUEFULL, "no memory for the body");
    }
    if (code != 0) {
        x->n_dropped += n;
        return;
    }
    memcpy(x->body + x->n_body, bytes, n);
    x->n_body += n;
}

static enum MHD_Result take_body(struct exchange *x, const char *upload, size_t *n_upload)
{
    if (!x->upload)
        keep(x, upload, *n_upload);
    else if (upload_take(x->upload, upload, *n_upload) != 0)
        x->n_dropped += *n_upload;
    if (x->peer)
        peer_has_sent(x->server->peers, x->peer, *n_upload);
    *n_upload = 0;
    /* One that goes on and on is not read to its end to be told so. */
    return x->n_dropped > (size_t)x->server->options->max_body_bytes ? MHD_NO : MHD_YES;
}

static void drop_body(struct exchange *x)
{
    budget_give(&x->server->bytes, x->n_body);
    free(x->body);
    x->body = NULL;
    x->n_body = x->room = 0;
}

/* ---- asking ---- */

/* In the link's thread. */
static void on_done(struct ticket *t)
{
    struct exchange *x = t->owner;
    MHD_resume_connection(x->connection);
}

static int decode(struct exchange *x, struct err *e)
{
    char id[sizeof x->ask.id];
    json_t *body = NULL;
    int rc = body_parse(x->body, x->n_body, &body, e);
    if (rc != 0)
        return rc;
    memcpy(id, x->ask.id, sizeof id);
    ask_release(&x->ask); /* under an earlier card */
    ask_init(&x->ask, x->card);
    x->ask.rows.budget = &x->server->bytes;
    if (x->ask.rows.max_bytes > ONE_ASK * (size_t)x->server->options->max_body_bytes)
        x->ask.rows.max_bytes = ONE_ASK * (size_t)x->server->options->max_body_bytes;
    memcpy(x->ask.id, id, sizeof id);
    x->ask.prompt_is = MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, "prompt");
    rc = ask_decode(&x->ask, x->route->family->decode, body, e);
    json_decref(body);
    return rc;
}

/* Suspends the connection until the ticket is done. */
static enum MHD_Result wait_for(
    struct exchange *x, void (*submit)(struct link *link, struct ticket *t))
{
    x->ticket.done = on_done;
    x->ticket.owner = x;
    x->ticket.deadline_us = now_mono_us() + x->server->options->timeout_s * 1000000;
    if (x->peer)
        peer_waits(x->server->peers, x->peer, &x->ticket);
    MHD_suspend_connection(x->connection);
    submit(x->server->link, &x->ticket);
    return MHD_YES;
}

static enum MHD_Result ask(struct exchange *x)
{
    struct err e = x->refusal;
    if (x->peer)
        peer_waits(x->server->peers, x->peer, NULL); /* it has sent all: what is slow is not it */
    card_release(&x->card);
    if (e.code == 0 && !(x->card = link_card(x->server->link)))
        err_set(&e, ASSAY_ENOTREADY, "the broker does not answer");
    if (e.code == 0)
        decode(x, &e);
    if (e.code == ASSAY_EADAPTER && !x->has_newer) {
        x->has_newer = 1; /* the broker may have been given the name since the card */
        return wait_for(x, link_await_card);
    }
    if (!x->ask.documents)
        drop_body(x);
    free(x->body); /* its bytes count until the reply where documents are given back */
    x->body = NULL;
    x->room = 0;
    if (e.code != 0)
        return reply_fault(x, fault_status(e.code), &e, x->refusal.code != 0);
    x->is_asked = 1;
    x->asked_us = now_mono_us();
    x->ticket.rows = &x->ask.rows;
    x->ticket.model = x->ask.asks.model;
    x->ticket.adapter = x->ask.asks.adapter;
    x->ticket.all = x->ask.all;
    x->ticket.n_all = x->ask.n_all;
    x->ticket.card = x->card;
    return wait_for(x, link_submit);
}

static enum MHD_Result answer(struct exchange *x)
{
    const struct err *e = &x->ticket.error;
    if (x->peer)
        peer_is_idle(x->server->peers, x->peer);
    if (e->code == ASSAY_EGONE) {
        x->status = 499;
        return MHD_NO;
    }
    return e->code == 0 ? reply_scores(x) : reply_fault(x, fault_status(e->code), e, 0);
}

/* ---- pages ---- */

static enum MHD_Result show(struct exchange *x)
{
    struct page page;
    if (x->route->kind == ROUTE_ASSET) {
        const char *text = asset_find(x->route->path, &page.type);
        return reply(x, 200, strdup(text), page.type, asset_headers, 0);
    }
    page_write(&page, x->server, x->route);
    if (page.error.code != 0)
        return reply_fault(x, fault_status(page.error.code), &page.error, 0);
    return reply(x, 200, page.text, page.type, NULL, 0);
}

/* ---- the page's data ---- */

static enum MHD_Result show_overview(struct exchange *x)
{
    struct page page;
    overview_write(&page, x->server, x->may_change);
    if (page.error.code != 0)
        return reply_fault(x, fault_status(page.error.code), &page.error, 0);
    return reply(x, 200, page.text, page.type, asset_headers, 0);
}

/* In the desk's thread. */
static void on_looked(struct desk_request *q)
{
    struct exchange *x = q->owner;
    MHD_resume_connection(x->connection);
}

static int read_job(const char *id, int64_t *job)
{
    size_t n = strspn(id, "0123456789");
    *job = n > 0 && n < 10 && id[n] == '\0' ? atoll(id) : 0;
    return *job > 0 ? 0 : -1;
}

static enum MHD_Result look(struct exchange *x)
{
    struct err e = {0};
    if (x->path_id[0] && read_job(x->path_id, &x->look.job) != 0) {
        err_set(&e, ASSAY_EGONE, "expected the number of a job, found '%.40s'", x->path_id);
        return reply_fault(x, 404, &e, 0);
    }
    x->is_asked = 1;
    x->look.what = x->route->what;
    x->look.done = on_looked;
    x->look.owner = x;
    if (x->peer)
        peer_waits(x->server->peers, x->peer, NULL);
    MHD_suspend_connection(x->connection);
    desk_ask(x->server->desk, &x->look);
    return MHD_YES;
}

static enum MHD_Result show_look(struct exchange *x)
{
    const struct err *e = &x->look.error;
    char *text = x->look.text;
    x->look.text = NULL;
    int status = e->code == ASSAY_EUNKNOWNJOB ? 404
                 : e->code == ASSAY_ESTATE    ? 409
                                              : fault_status(e->code);
    return e->code == 0 ? reply(x, 200, text, "application/json", asset_headers, 0)
                        : reply_fault(x, status, e, 0);
}

/* ---- files and batches ---- */

/* The body is freed with the exchange. */
static enum MHD_Result reply_contents(struct exchange *x, const struct page *page)
{
    struct MHD_Response *response =
        MHD_create_response_from_fd64((uint64_t)page->size, page->fd); /* which it closes */
    if (!response)
        return close(page->fd), MHD_NO;
    MHD_add_response_header(response, "Content-Type", page->type);
    x->status = 200;
    if (x->peer)
        peer_waits(x->server->peers, x->peer, NULL); /* for its bytes, as long as it reads them */
    enum MHD_Result rc = MHD_queue_response(x->connection, 200, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result reply_page(struct exchange *x, struct page *page)
{
    int status = page->status ? page->status : fault_status(page->error.code);
    if (page->error.code == 0 && page->fd >= 0)
        return reply_contents(x, page);
    if (page->error.code == 0 && !page->text) {
        err_set(&page->error, ASSAY_EINTERNAL, "no memory for the page");
        status = 500;
    }
    if (page->error.code != 0)
        return reply_fault(x, status, &page->error, x->refusal.code != 0);
    return reply(x, 200, page->text, page->type, NULL, 0);
}

static enum MHD_Result show_stored(struct exchange *x)
{
    struct page page = {.error = x->refusal, .fd = -1};
    struct stored_request q = {.route = x->route,
        .asker = &x->asker,
        .id = x->path_id,
        .method = x->method,
        .connection = x->connection};
    json_t *body = NULL, *object = NULL;
    if (x->upload && upload_end(x->upload, &object, &page.error) == 0)
        stored_answer_object(&page, object);
    if (!x->upload && page.error.code == 0 &&
        (!takes_json(x) || body_parse(x->body, x->n_body, &body, &page.error) == 0)) {
        q.body = body;
        stored_answer(&page, x->server->stored, &q);
    }
    json_decref(body);
    return reply_page(x, &page);
}

/* ---- libmicrohttpd's side ---- */

static struct exchange *exchange_new(struct server *server, struct MHD_Connection *connection)
{
    struct exchange *x = xcalloc(1, sizeof *x);
    x->server = server;
    x->connection = connection;
    x->peer = peer_of(connection);
    x->began_us = now_mono_us();
    atomic_fetch_add(&server->n_open, 1);
    return x;
}

enum MHD_Result exchange_step(void *cls, struct MHD_Connection *connection, const char *url,
    const char *method, const char *version, const char *upload, size_t *n_upload, void **state)
{
    struct exchange *x = *state;
    (void)version;
    if (!x) {
        *state = x = exchange_new(cls, connection);
        return begin(x, url, method);
    }
    if (*n_upload > 0)
        return take_body(x, upload, n_upload);
    if (route_is_stored(x->route))
        return show_stored(x);
    if (x->route->kind == ROUTE_OVERVIEW)
        return show_overview(x);
    if (x->route->kind == ROUTE_LOOK || x->route->kind == ROUTE_CHANGE)
        return x->is_asked ? show_look(x) : look(x);
    if (x->route->kind != ROUTE_SCORES)
        return show(x);
    return x->is_asked || x->ticket.error.code != 0 ? answer(x) : ask(x);
}

void exchange_end(
    void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode why)
{
    struct exchange *x = *state;
    (void)cls;
    (void)connection;
    if (!x)
        return;
    *state = NULL;
    unsigned status = why == MHD_REQUEST_TERMINATED_COMPLETED_OK ? x->status : 499;
    if (x->peer && why == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        peer_is_idle(x->server->peers, x->peer);
    metrics_note(x->server->metrics, route_index(x->route), status, now_mono_us() - x->began_us);
    if (x->ticket.sent_us)
        metrics_note_queue(x->server->metrics, x->ticket.sent_us - x->asked_us);
    drop_body(x);
    upload_free(&x->upload);
    free(x->look.text);
    ticket_release(&x->ticket);
    ask_release(&x->ask);
    card_release(&x->card);
    atomic_fetch_sub(&x->server->n_open, 1);
    free(x);
}
