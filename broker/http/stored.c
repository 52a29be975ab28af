/* stored.c - see stored.h. */
#include "broker/http/stored.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

#define FILES_PAGE 10000 /* OpenAI's */
#define BATCHES_PAGE 20
#define BATCHES_PAGE_MOST 100

int stored_open(struct stored *s, const struct batches_options *options, const char *path,
    int64_t max_file_bytes, struct err *e)
{
    struct batches_options all = *options;
    int rc = folder_open(&s->folder, path, e);
    if (rc == 0)
        rc = files_new(&s->files, s->folder, max_file_bytes, e);
    all.folder = s->folder;
    all.files = s->files;
    if (rc == 0)
        rc = batches_new(&s->batches, &all, e);
    return rc;
}

void stored_stop(struct stored *s)
{
    if (s->batches)
        batches_stop(s->batches);
}

void stored_close(struct stored *s)
{
    batches_free(&s->batches);
    files_free(&s->files);
    folder_close(&s->folder);
}

void stored_answer_object(struct page *page, json_t *object)
{
    page->type = "application/json";
    page->text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
}

static const char *argument(const struct stored_request *q, const char *name)
{
    return MHD_lookup_connection_value(q->connection, MHD_GET_ARGUMENT_KIND, name);
}

static int read_page(
    const struct stored_request *q, struct page_of *page, json_int_t most, struct err *e)
{
    const char *limit = argument(q, "limit"), *order = argument(q, "order");
    char *end;
    page->after = argument(q, "after");
    page->purpose = argument(q, "purpose");
    errno = 0;
    if (limit) {
        page->limit = strtoll(limit, &end, 10);
        if (errno != 0 || end == limit || *end || page->limit < 1 || page->limit > most)
            return err_field(e, ASSAY_EBADREQ, "limit",
                "`limit`: expected a number from 1 to %" JSON_INTEGER_FORMAT ", found '%.40s'",
                most, limit);
    }
    page->is_ascending = order && strcmp(order, "asc") == 0;
    if (!order || page->is_ascending || strcmp(order, "desc") == 0)
        return 0;
    return err_field(
        e, ASSAY_EBADREQ, "order", "`order`: expected asc or desc, found '%.40s'", order);
}

static json_t *list(struct stored *s, const struct stored_request *q, struct err *e)
{
    int is_files = q->route->kind == ROUTE_FILES;
    struct page_of page = {.asker = q->asker, .limit = is_files ? FILES_PAGE : BATCHES_PAGE};
    if (read_page(q, &page, is_files ? FILES_PAGE : BATCHES_PAGE_MOST, e) != 0)
        return NULL;
    return is_files ? files_list(s->files, &page, e) : batches_list(s->batches, &page, e);
}

static json_t *delete_file(struct stored *s, const struct stored_request *q, struct err *e)
{
    json_t *reply = NULL;
    return files_delete(s->files, q->asker, q->id, &reply, e) == 0 ? reply : NULL;
}

static json_t *object_of(struct stored *s, const struct stored_request *q, struct err *e)
{
    switch (q->route->kind) {
    case ROUTE_FILE:
        return q->method == ROUTE_DELETE ? delete_file(s, q, e)
                                         : files_get(s->files, q->asker, q->id, e);
    case ROUTE_BATCH:
        return batches_get(s->batches, q->asker, q->id, e);
    case ROUTE_CANCEL:
        return batches_cancel(s->batches, q->asker, q->id, e);
    default:
        return q->method == ROUTE_POST ? batches_create(s->batches, q->asker, q->body, e)
                                       : list(s, q, e);
    }
}

void stored_answer(struct page *page, struct stored *s, const struct stored_request *q)
{
    *page = (struct page){.type = "application/json", .fd = -1};
    if (q->route->kind == ROUTE_CONTENT) {
        page->type = "application/octet-stream";
        page->fd = files_open(s->files, q->asker, q->id, &page->size, &page->error);
        return;
    }
    stored_answer_object(page, object_of(s, q, &page->error));
    if (page->error.code == ASSAY_ESTATE)
        page->status = 409; /* nothing that passes by waiting alone */
}
