/* pages.c - see pages.h. */
#include "broker/http/pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "schema/clock.h"
#include "schema/version.h"

#define LEAST_FREE_BYTES (64ull << 20) /* below it a broker takes no new work, by default */

static json_t *model_card(const char *name, const char *root, const char *parent,
    const struct card_model *model, const struct server *server)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o, s:I, s:[]}", "id", name, "object", "model",
        "created", (json_int_t)(server->started_ms / 1000), "owned_by", "assay", "root", root,
        "parent", parent ? json_string(parent) : json_null(), "max_model_len",
        (json_int_t)model->max_len, "permission");
}

/* The name of the k-th model for clients. */
static const char *name_of(const struct card *card, int k)
{
    return k == 0 ? card->names[0] : card->models[k].name;
}

static void add_adapters(json_t *data, const struct server *server, const struct card *card, int k)
{
    const struct card_model *m = &card->models[k];
    const char *adapter;
    for (size_t i = 0; (adapter = card_adapter(m, i)); i++) {
        char *name = card_adapter_name(card, m, adapter);
        json_array_append_new(
            data, model_card(name, name_of(card, k), name_of(card, k), m, server));
        free(name);
    }
}

static void write_models(struct page *page, const struct server *server, const struct card *card)
{
    json_t *data = json_array();
    for (int i = 0; i < card->n_names; i++)
        json_array_append_new(
            data, model_card(card->names[i], card->names[0], NULL, &card->models[0], server));
    for (int k = 1; k < card->n_models; k++)
        json_array_append_new(
            data, model_card(name_of(card, k), name_of(card, k), NULL, &card->models[k], server));
    for (int k = 0; k < card->n_models; k++)
        add_adapters(data, server, card, k);
    json_t *body = json_pack("{s:s, s:o}", "object", "list", "data", data);
    page->text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
}

/* Has the disk room? Known where the data directory was named, and of what the broker said. */
static int is_full(const struct server *server)
{
    struct link_counts counts;
    struct statvfs fs;
    link_count(server->link, &counts);
    if (counts.full_until_ms > now_mono_ms())
        return 1;
    return server->options->data && statvfs(server->options->data, &fs) == 0 &&
           (unsigned long long)fs.f_bavail * fs.f_frsize < LEAST_FREE_BYTES;
}

static void write_ready(struct page *page, const struct server *server, const struct card *card)
{
    const char *failure = json_string_value(json_object_get(card->info, "failure"));
    const char *unwritten = json_string_value(json_object_get(card->info, "unwritten"));
    if (!card_is_ready(card))
        err_set(&page->error, ASSAY_ENOTREADY,
            "a model has no worker group that is ready: the broker is %s%s%s", card->state,
            failure ? ": " : "", failure ? failure : "");
    else if (unwritten)
        err_set(&page->error, ASSAY_EQUEUEFULL, "results cannot be written: %s", unwritten);
    else if (is_full(server))
        err_set(&page->error, ASSAY_EQUEUEFULL, "the queue or the disk has no room");
    else
        page->text = strdup("{\"status\":\"ready\"}");
}

void page_write(struct page *page, struct server *server, const struct route *route)
{
    struct card *card = link_card(server->link);
    *page = (struct page){.type = "application/json", .fd = -1};
    if (route->kind == ROUTE_VERSION) {
        page->text = strdup("{\"version\":\"" ASSAY_VERSION "\"}");
    } else if (route->kind == ROUTE_METRICS) {
        page->type = "text/plain; version=0.0.4; charset=utf-8";
        page->text = metrics_page(server->metrics, server->link, card);
    } else if (!card) {
        err_set(&page->error, ASSAY_ENOTREADY, "the broker does not answer");
    } else if (route->kind == ROUTE_HEALTH) {
        page->text = strdup("{\"status\":\"ok\"}");
    } else if (route->kind == ROUTE_READY) {
        write_ready(page, server, card);
    } else {
        write_models(page, server, card);
    }
    if (page->error.code == 0 && !page->text)
        err_set(&page->error, ASSAY_EINTERNAL, "no memory for the page");
    card_release(&card);
}

void overview_write(struct page *page, struct server *server, int may_change)
{
    struct card *card = link_card(server->link);
    struct link_counts counts;
    link_count(server->link, &counts);
    *page = (struct page){.type = "application/json", .fd = -1};
    if (!card) {
        err_set(&page->error, ASSAY_ENOTREADY, "the broker does not answer");
        return;
    }
    json_t *all = json_pack("{s:O, s:b, s:{s:i, s:i, s:I}}", "info", card->info, "may_change",
        may_change, "http", "running", (int)counts.n_running, "waiting", (int)counts.n_waiting,
        "memory_bytes", (json_int_t)metrics_own_memory());
    page->text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    card_release(&card);
    if (!page->text)
        err_set(&page->error, ASSAY_EINTERNAL, "no memory for the page");
}
