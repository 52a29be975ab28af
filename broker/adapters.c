/* adapters.c - adds and removes adapters while the broker runs (adapters.h). */
#include "broker/adapters.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/api/catalog.h"
#include "broker/api/send.h"
#include "broker/text/adapter_text.h"
#include "broker/transaction.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define CHECK_MS 20 /* how often the thread and the groups are looked at */
#define IDLE_MS (1ll << 40)

enum phase { CHECKING, LOADING, REMOVING };

struct adapter_change {
    enum phase phase;
    struct outbox_later later;
    char name[ADAPTERS_NAME_BYTES];
    char *lora;                             /* NAME=DIR */
    int64_t restarts[OPTIONS_MAX_REPLICAS]; /* of each group, when it was to load the adapter */
    /* the thread's */
    pthread_t thread;
    struct served_model *model;
    char digest[65];
    uint32_t max_length;
    int rc;
    struct err err;
    atomic_int is_done;
    int stop_fd; /* an eventfd: readable once the check is to end */
};

/* ---- lists ---- */

static uint32_t find(const struct adapters *a, const char *name)
{
    return adapters_find(a, name, strlen(name));
}

/* Adds the adapter in its place, and returns that. */
static uint32_t insert(struct adapters *a, const struct adapter_change *c)
{
    uint32_t k = 0;
    while (k < a->n && strcmp(a->at[k].name, c->name) < 0)
        k++;
    memmove(&a->at[k + 1], &a->at[k], (a->n++ - k) * sizeof a->at[0]);
    snprintf(a->at[k].name, sizeof a->at[k].name, "%s", c->name);
    snprintf(a->at[k].digest, sizeof a->at[k].digest, "%s", c->digest);
    a->at[k].max_length = c->max_length;
    return k;
}

static void erase(struct adapters *a, uint32_t k)
{
    memmove(&a->at[k], &a->at[k + 1], (--a->n - k) * sizeof a->at[0]);
}

static void insert_for_ranks(struct group_adapters *r, struct adapter_change *c)
{
    uint32_t n = r->list.n, k = insert(&r->list, c);
    memmove(&r->loras[k + 1], &r->loras[k], (n - k) * sizeof r->loras[0]);
    r->loras[k] = c->lora;
    c->lora = NULL;
}

/* The same contents are in another directory: the ranks read that one at their next start. */
static void take_directory(struct group_adapters *r, struct adapter_change *c)
{
    char **lora = &r->loras[find(&r->list, c->name) - 1];
    free(*lora);
    *lora = c->lora;
    c->lora = NULL;
}

static void erase_for_ranks(struct group_adapters *r, uint32_t k)
{
    free(r->loras[k]);
    memmove(&r->loras[k], &r->loras[k + 1], (r->list.n - 1 - k) * sizeof r->loras[0]);
    erase(&r->list, k);
}

void adapters_open(struct served_model *m)
{
    m->rank_adapters.list = m->info.adapters;
    for (uint32_t k = 0; k < m->info.adapters.n; k++)
        m->rank_adapters.loras[k] =
            strcpy(xcalloc(1, strlen(m->question.loras[k]) + 1), m->question.loras[k]);
}

/* ---- the check, in a thread ---- */

/* Is all else as the ranks have it? They would end if it was not. */
static int check_rest(struct adapter_change *c, const struct model_info *found)
{
    const struct served_model *m = c->model;
    const struct adapters *there = &m->rank_adapters.list;
    if (strcmp(found->digest, m->info.digest) != 0)
        return err_set(&c->err, ASSAY_EFORMAT,
            "the checkpoint in %.200s was changed under the running broker: expected digest "
            "%.12s.., found %.12s..",
            m->question.model_dir, m->info.digest, found->digest);
    for (uint32_t k = 0; k < there->n; k++)
        if (strcmp(found->adapters.at[1 + k].digest, there->at[k].digest) != 0)
            return err_set(&c->err, ASSAY_EFORMAT,
                "the adapter '%s' was changed under the running broker: expected digest %.12s.., "
                "found %.12s..; put the old files back, or remove it first",
                there->at[k].name, there->at[k].digest, found->adapters.at[1 + k].digest);
    return 0;
}

static int check(struct adapter_change *c)
{
    const struct served_model *m = c->model;
    struct model_info found;
    struct model_question question = m->question;
    const char *loras[1 + ADAPTERS_MOST] = {c->lora};
    question.stop_fd = c->stop_fd;
    question.loras = loras;
    question.n_loras = 1 + m->rank_adapters.list.n;
    memcpy(loras + 1, m->rank_adapters.loras, m->rank_adapters.list.n * sizeof loras[0]);
    int rc = model_info_load(&found, &question, &c->err);
    if (rc != 0)
        return rc;
    rc = check_rest(c, &found);
    if (rc == 0)
        rc = adapter_text_check(
            &m->text, &m->text_options, c->name, strchr(c->lora, '=') + 1, &c->max_length, &c->err);
    memcpy(c->digest, found.adapters.at[0].digest, sizeof c->digest);
    model_info_release(&found);
    return rc;
}

static void *check_in_thread(void *arg)
{
    struct adapter_change *c = arg;
    c->rc = check(c);
    atomic_store(&c->is_done, 1);
    return NULL;
}

/* ---- a change begins ---- */

/* The model that the request names, or the first. */
static int find_model(
    const struct broker *b, const struct request *q, struct served_model **m, struct err *e)
{
    const struct catalog_model *found;
    *m = served_first(b);
    if (q->models.n == 0 || !b->catalog)
        return 0;
    int rc = catalog_find(b->catalog, NULL, "model", q->models.of[0], &found, e);
    for (int k = 0; rc == 0 && k < BROKER_MODELS; k++)
        if (b->models[k] && b->models[k]->id == found->id)
            *m = b->models[k];
    return rc;
}

static int begin(struct broker *b, const struct envelope *env, const struct request *q,
    struct served_model *m, enum phase phase, struct err *e)
{
    if (b->draining || b->change || b->reload) {
        err_set(e, ASSAY_ENOTREADY, "%s",
            b->draining ? "the broker is shutting down"
            : b->change ? "another adapter is being added or removed; again when that is over"
                        : "a model is being loaded anew; again when that is over");
        e->retry_after_ms = 500;
        return ASSAY_ENOTREADY;
    }
    struct adapter_change *c = xcalloc(1, sizeof *c);
    c->phase = phase;
    c->stop_fd = -1;
    c->model = m;
    outbox_keep_later(&c->later, env, q->id);
    snprintf(c->name, sizeof c->name, "%.*s", (int)q->name.len, (const char *)q->name.at);
    b->change = c;
    return 0;
}

static void end(struct broker *b)
{
    if (b->change->stop_fd >= 0)
        close(b->change->stop_fd);
    free(b->change->lora);
    free(b->change);
    b->change = NULL;
}

int adapters_add(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct served_model *m;
    int rc = find_model(b, q, &m, e);
    if (rc == 0)
        rc = begin(b, env, q, m, CHECKING, e);
    if (rc != 0)
        return rc;
    struct adapter_change *c = b->change;
    size_t size = q->name.len + q->dir.len + 2;
    c->lora = xcalloc(1, size);
    snprintf(c->lora, size, "%s=%.*s", c->name, (int)q->dir.len, (const char *)q->dir.at);
    c->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (c->model->info.adapters.n == ADAPTERS_MOST)
        rc = err_field(
            e, ASSAY_ESTATE, "name", "expected at most %d adapters at once", ADAPTERS_MOST);
    else if (c->stop_fd < 0)
        rc = err_errno(e, ASSAY_EINTERNAL, "eventfd");
    else if (pthread_create(&c->thread, NULL, check_in_thread, c) != 0)
        rc = err_set(e, ASSAY_EINTERNAL, "cannot start a thread to check the adapter");
    if (rc != 0)
        end(b);
    return rc;
}

int adapters_remove(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct served_model *m;
    int rc = find_model(b, q, &m, e);
    if (rc != 0)
        return rc;
    if (adapters_find(&m->info.adapters, (const char *)q->name.at, q->name.len) == ADAPTERS_UNKNOWN)
        return err_field(e, ASSAY_EADAPTER, "name",
            "expected an adapter that is loaded, found '%.*s'", (int)q->name.len,
            (const char *)q->name.at);
    return begin(b, env, q, m, REMOVING, e);
}

static void write_adapter(struct msg_writer *w, const struct served_model *m, uint32_t k)
{
    const struct adapters *a = &m->info.adapters;
    uint32_t r = find(&m->rank_adapters.list, a->at[k].name) - 1;
    msg_map(w, 4);
    msg_key_str(w, "name", a->at[k].name);
    msg_key_str(w, "model", m->info.name);
    msg_key_str(w, "digest", a->at[k].digest);
    msg_key_str(w, "dir", strchr(m->rank_adapters.loras[r], '=') + 1);
}

void adapters_list(struct broker *b, const struct envelope *env, const struct request *q)
{
    const struct served_model *m;
    uint32_t n = 0;
    for (uint32_t rank = 0; (m = served_of_rank(b, rank)); rank++)
        n += m->info.adapters.n;
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 1);
    msg_str(w, "adapters");
    msg_array(w, n);
    for (uint32_t rank = 0; (m = served_of_rank(b, rank)); rank++)
        for (uint32_t k = 0; k < m->info.adapters.n; k++)
            write_adapter(w, m, k);
}

/* ---- and goes on ---- */

/* Makes `to` the list of adapters that rows may name: all of it, or nothing. */
static int change_list(struct broker *b, const struct adapters *to, struct err *e)
{
    struct model_info *info = &b->change->model->info;
    struct adapters before = info->adapters;
    pthread_mutex_lock(&b->adapters_lock);
    info->adapters = *to;
    pthread_mutex_unlock(&b->adapters_lock);
    int rc = transaction_begin_synced(b, e);
    if (rc == 0)
        rc = store_write_models(b->store, e);
    if (rc == 0)
        rc = transaction_commit(b, e);
    if (rc != 0 && !store_may_pass(rc))
        transaction_die(b, e);
    struct err why = {0};
    if (rc != 0) {
        transaction_rollback(b);
        transaction_refuse(e);
        pthread_mutex_lock(&b->adapters_lock);
        info->adapters = before;
        pthread_mutex_unlock(&b->adapters_lock);
        if (store_read_models(b->store, &why) < 0)
            transaction_die(b, &why);
        return rc;
    }
    served_jobs_changed(b);
    return 0;
}

static int first_group(const struct broker *b, const struct adapter_change *c)
{
    return (int)c->model->number * b->options->replicas;
}

/* A group that has ended since the adapter was to be loaded; NULL: none. */
static const struct group *ended_group(const struct broker *b, const struct adapter_change *c)
{
    for (int i = 0, g = first_group(b, c); i < b->options->replicas; i++)
        if (group_restarts(b->groups[g + i]) != c->restarts[i])
            return b->groups[g + i];
    return NULL;
}

static void reply(struct broker *b, int rc, const struct err *e)
{
    struct adapter_change *c = b->change;
    if (rc != 0) {
        log_warn("event=adapter_refused name=%s error=\"%s\"", c->name, e->msg);
        outbox_error(b->outbox, &c->later.envelope, c->later.request_id, e);
    } else {
        log_info("event=%s name=%s digest=%.12s",
            c->phase == REMOVING ? "adapter_removed" : "adapter_added", c->name, c->digest);
        struct msg_writer *w = outbox_ok(b->outbox, &c->later.envelope, c->later.request_id, 2);
        msg_key_str(w, "name", c->name);
        msg_key_str(w, "digest", c->digest);
    }
    end(b);
    send_replies(b);
}

/* The directory is checked: the ranks are to load it, unless it is there already. */
static void start_loading(struct broker *b, struct adapter_change *c)
{
    struct adapters *there = &c->model->info.adapters;
    uint32_t k = find(there, c->name);
    pthread_join(c->thread, NULL);
    if (c->rc != 0) {
        if (c->err.code == ASSAY_EFORMAT || c->err.code == ASSAY_EUNSUPPORTED) {
            struct err why = c->err;
            err_field(&c->err, ASSAY_EBADREQ, "dir", "%s", why.msg);
        }
        reply(b, c->rc, &c->err);
    } else if (k != ADAPTERS_UNKNOWN && strcmp(there->at[k - 1].digest, c->digest) == 0) {
        take_directory(&c->model->rank_adapters, c);
        pthread_mutex_lock(&b->adapters_lock);
        there->at[k - 1].max_length = c->max_length;
        pthread_mutex_unlock(&b->adapters_lock);
        reply(b, 0, NULL);
    } else if (k != ADAPTERS_UNKNOWN) {
        err_field(&c->err, ASSAY_ESTATE, "name",
            "'%s' is loaded with other contents: expected another name, or this one removed first",
            c->name);
        reply(b, ASSAY_ESTATE, &c->err);
    } else {
        insert_for_ranks(&c->model->rank_adapters, c);
        c->phase = LOADING;
        for (int i = 0, g = first_group(b, c); i < b->options->replicas; i++)
            c->restarts[i] = group_restarts(b->groups[g + i]);
    }
}

/* Has the groups load it one after the other, so that others serve meanwhile: 1 when all have
 * it. */
static int load(const struct broker *b, const struct adapter_change *c)
{
    int g = first_group(b, c), end = g + b->options->replicas;
    while (g < end && group_has_adapters(b->groups[g]))
        g++;
    if (g < end)
        group_adapters_changed(b->groups[g]);
    return g == end;
}

static void go_on_loading(struct broker *b, struct adapter_change *c)
{
    struct adapters to = c->model->info.adapters;
    int code, rc = 0;
    const struct group *ended = ended_group(b, c);
    if (ended)
        rc = err_set(&c->err, ASSAY_EINTERNAL,
            "a worker ended while it was to load the adapter: %.400s",
            group_last_failure(ended, &code));
    else if (!load(b, c))
        return;
    if (rc == 0) {
        insert(&to, c);
        rc = change_list(b, &to, &c->err);
    }
    if (rc != 0)
        erase_for_ranks(&c->model->rank_adapters, find(&c->model->rank_adapters.list, c->name) - 1);
    reply(b, rc, &c->err);
}

static void go_on_removing(struct broker *b, struct adapter_change *c)
{
    struct adapters to = c->model->info.adapters;
    uint32_t k = find(&to, c->name) - 1;
    memcpy(c->digest, to.at[k].digest, sizeof c->digest);
    erase(&to, k);
    int rc = change_list(b, &to, &c->err);
    if (rc == 0)
        erase_for_ranks(&c->model->rank_adapters, find(&c->model->rank_adapters.list, c->name) - 1);
    reply(b, rc, &c->err);
}

long long adapters_tick(struct broker *b, long long now_ms)
{
    struct adapter_change *c = b->change;
    if (!c)
        return now_ms + IDLE_MS;
    if (c->phase == REMOVING)
        go_on_removing(b, c);
    else if (c->phase == LOADING)
        go_on_loading(b, c);
    else if (atomic_load(&c->is_done))
        start_loading(b, c);
    return now_ms + CHECK_MS;
}

void adapters_end(struct broker *b)
{
    struct err e = {0};
    if (!b->change)
        return;
    if (b->change->phase == CHECKING) {
        eventfd_write(b->change->stop_fd, 1);
        pthread_join(b->change->thread, NULL);
    }
    e.retry_after_ms = 1000;
    reply(b, err_set(&e, ASSAY_ENOTREADY, "the broker is shutting down"), &e);
}

void adapters_release(struct served_model *m)
{
    while (m->rank_adapters.list.n > 0)
        erase_for_ranks(&m->rank_adapters, m->rank_adapters.list.n - 1);
}
