/* reload.c - loads another checkpoint beside the one of a model, and switches to it (reload.h).
 * retire.c ends the one before. */
#include "broker/reload.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/api/catalog.h"
#include "broker/api/connections.h"
#include "broker/api/send.h"
#include "broker/retire.h"
#include "broker/transaction.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define CHECK_MS 20 /* how often the thread and the groups are looked at */
#define IDLE_MS (1ll << 40)

enum phase { OPENING, STARTING };

struct reload {
    enum phase phase;
    struct outbox_later later;
    struct broker *broker;
    struct served_model *model; /* the new one; once it STARTs the list has it */
    struct served_model *old;   /* the one that it replaces */
    /* the thread's */
    pthread_t thread;
    int rc;
    struct err err;
    atomic_int is_done;
    int stop_fd;      /* an eventfd: readable once opening is to end */
    int is_cancelled; /* as soon as the thread has ended */
};

/* ---- the request ---- */

/* The model that the request names, or the only one. */
static int find_model(
    const struct broker *b, const struct request *q, struct served_model **old, struct err *e)
{
    const struct catalog_model *found = NULL;
    *old = served_first(b);
    if (q->models.n == 0 && b->catalog->n_current > 1)
        return err_field(e, ASSAY_EBADREQ, "model",
            "expected the name of one, as the broker has %u models", b->catalog->n_current);
    if (q->models.n == 0)
        return 0;
    int rc = catalog_find(b->catalog, NULL, "model", q->models.of[0], &found, e);
    for (int k = 0; rc == 0 && k < BROKER_MODELS; k++)
        if (b->models[k] && b->models[k]->id == found->id)
            *old = b->models[k];
    return rc;
}

static int check_alone(const struct broker *b, struct err *e)
{
    if (b->reload)
        return err_set(e, ASSAY_ESTATE,
            "expected one reload at a time: that of '%s' from %.400s is under way",
            b->reload->old->info.name, b->reload->model->given);
    if (!b->draining && !b->change && !store_is_late(b->store))
        return 0;
    err_set(e, ASSAY_ENOTREADY, "%s",
        b->draining ? "the broker is shutting down"
        : b->change ? "an adapter is being added or removed; again when that is over"
                    : "the database could not be written yet since the broker's start");
    e->retry_after_ms = 500;
    return ASSAY_ENOTREADY;
}

static int find_place(const struct broker *b, uint32_t *place, struct err *e)
{
    *place = 0;
    while (*place < BROKER_MODELS && b->models[*place])
        ++*place;
    return *place < BROKER_MODELS
               ? 0
               : err_set(e, ASSAY_ESTATE,
                     "expected at most %d checkpoints at once: earlier ones still have unfinished "
                     "jobs",
                     BROKER_MODELS);
}

static int check(const struct broker *b, const struct request *q, struct served_model **old,
    uint32_t *place, struct err *e)
{
    int rc = check_alone(b, e);
    if (rc == 0)
        rc = find_model(b, q, old, e);
    return rc == 0 ? find_place(b, place, e) : rc;
}

static void *open_in_thread(void *arg)
{
    struct reload *r = arg;
    r->rc = served_open(r->broker, r->model, r->stop_fd, &r->err);
    atomic_store(&r->is_done, 1);
    return NULL;
}

/* It begins with the adapters that the one before has now. */
static void carry_adapters(struct served_model *m, const struct group_adapters *present)
{
    m->n_loras = present->list.n;
    for (uint32_t k = 0; k < m->n_loras; k++)
        m->loras[k] = m->own_loras[k] =
            strcpy(xcalloc(1, strlen(present->loras[k]) + 1), present->loras[k]);
}

static struct served_model *new_model(
    struct broker *b, const struct served_model *old, uint32_t place, struct slice dir)
{
    struct served_model *m = xcalloc(1, sizeof *m);
    m->state = SERVED_LOADING;
    m->number = place;
    m->id = b->next_id++;
    m->rank = old->rank;
    m->own_given = xcalloc(1, dir.len + 1);
    memcpy(m->own_given, dir.at, dir.len);
    m->given = m->own_given;
    m->given_name = old->given_name;
    carry_adapters(m, &old->rank_adapters);
    return m;
}

static void free_model(struct served_model **m)
{
    served_release(*m);
    free(*m);
    *m = NULL;
}

/* Ends what is left of the reload; its model, too, if that has not become a served one. */
static void forget(struct broker *b)
{
    struct reload *r = b->reload;
    if (r->stop_fd >= 0)
        close(r->stop_fd);
    if (r->model && r->phase == STARTING)
        served_drop(b, r->model); /* no batch has gone to its groups */
    else if (r->model)
        free_model(&r->model);
    free(r);
    b->reload = NULL;
}

int reload_begin(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct served_model *old;
    uint32_t place;
    int rc = check(b, q, &old, &place, e);
    if (rc != 0)
        return rc;
    struct reload *r = b->reload = xcalloc(1, sizeof *r);
    r->broker = b;
    r->old = old;
    r->model = new_model(b, old, place, q->dir);
    outbox_keep_later(&r->later, env, q->id);
    r->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (r->stop_fd < 0)
        rc = err_errno(e, ASSAY_EINTERNAL, "eventfd");
    else if (pthread_create(&r->thread, NULL, open_in_thread, r) != 0)
        rc = err_set(e, ASSAY_EINTERNAL, "cannot start a thread to open the checkpoint");
    if (rc != 0) {
        forget(b);
        return rc;
    }
    log_info("event=reload_begins model=%s dir=%s", old->info.name, r->model->given);
    return 0;
}

/* ---- the answer ---- */

static void refuse(struct broker *b, const struct err *e)
{
    struct reload *r = b->reload;
    log_warn("event=reload_refused model=%s dir=%s error=\"%s\"", r->old->info.name,
        r->model->given, e->msg);
    outbox_error(b->outbox, &r->later.envelope, r->later.request_id, e);
    forget(b);
    send_replies(b);
}

/* m: what the name means now. changed: it was another before. */
static void answer(struct broker *b, const struct served_model *m, int changed)
{
    struct reload *r = b->reload;
    const char *in_options = b->options->models[m->rank].dir;
    char *at_start = realpath(in_options, NULL);
    log_info("event=reloaded model=%s changed=%d digest=%.12s dir=%s", m->info.name, changed,
        m->info.digest, m->question.model_dir);
    struct msg_writer *w = outbox_ok(b->outbox, &r->later.envelope, r->later.request_id, 6);
    msg_key_str(w, "model", m->info.name);
    msg_key_str(w, "digest", m->info.digest);
    msg_key_str(w, "dir", m->question.model_dir);
    msg_str(w, "adapters");
    msg_array(w, m->info.adapters.n);
    for (uint32_t k = 0; k < m->info.adapters.n; k++)
        msg_str(w, m->info.adapters.at[k].name);
    msg_key_bool(w, "changed", changed);
    msg_key_str(w, "at_start", at_start ? at_start : in_options);
    free(at_start);
    forget(b);
    send_replies(b);
}

/* ---- the switch ---- */

void reload_publish(struct broker *b)
{
    struct catalog *c = catalog_new(b->catalog ? b->catalog->version + 1 : 1);
    const struct served_model *m;
    for (uint32_t rank = 0; (m = served_of_rank(b, rank)); rank++)
        catalog_add(c, &(struct catalog_model){m->id, 1, &m->info, &m->text});
    for (int k = 0; k < BROKER_MODELS; k++)
        if ((m = b->models[k]) && m->state == SERVED_OLD)
            catalog_add(c, &(struct catalog_model){m->id, 0, &m->info, &m->text});
    if (b->catalog) {
        b->catalog->next = b->earlier;
        b->earlier = b->catalog;
    }
    b->catalog = c;
}

/* Makes m the current model of the name: in the database, then in memory. */
static int make_current(struct broker *b, struct served_model *m, struct err *e)
{
    struct served_model *old = b->reload->old;
    struct store_model now = served_for_store(m);
    now.is_current = 1;
    if (transaction_commit(b, e) != 0)
        transaction_forgo(b, e); /* that was for show */
    int rc = store_exchange(b->store, (int)m->number, &now, (int)old->number, e);
    if (rc != 0 && !store_may_pass(rc))
        transaction_die(b, e);
    if (rc != 0) {
        transaction_refuse(e);
        return rc;
    }
    old->state = SERVED_OLD;
    m->state = SERVED_CURRENT;
    b->look_ms = 0;
    reload_publish(b);
    served_jobs_changed(b);
    return 0;
}

static void switch_to(struct broker *b, struct served_model *m)
{
    struct reload *r = b->reload;
    int rc = make_current(b, m, &r->err);
    if (rc != 0) {
        refuse(b, &r->err);
        return;
    }
    if (m == r->model)
        r->model = NULL;
    answer(b, m, 1);
}

/* ---- a directory is opened ---- */

static int is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* Clients of a name get what they got: as many values, of the same meaning. */
static int check_form(const struct served_model *m, const struct served_model *old, struct err *e)
{
    const struct model_info *a = &old->info, *b = &m->info;
    if (a->n_labels != b->n_labels)
        return err_field(e, ASSAY_EBADREQ, "dir",
            "the head: expected %u labels, as '%s' has, found %u", a->n_labels, a->name,
            b->n_labels);
    for (uint32_t k = 0; a->n_labels > 1 && k < a->n_labels; k++)
        if (!is_same(a->labels ? a->labels[k] : "", b->labels ? b->labels[k] : ""))
            return err_field(e, ASSAY_EBADREQ, "dir",
                "label %u: expected '%s', as '%s' has, found '%s'", k,
                a->labels ? a->labels[k] : "", a->name, b->labels ? b->labels[k] : "");
    if (a->pool.type != b->pool.type || a->pool.activation != b->pool.activation)
        return err_field(e, ASSAY_EBADREQ, "dir",
            "pooling: expected %s %s, as '%s' has, found %s %s", pool_type_name(a->pool.type),
            activation_name(a->pool.activation), a->name, pool_type_name(b->pool.type),
            activation_name(b->pool.activation));
    return 0;
}

/* Rows that name an adapter go through what they went through before: its files are read anew, and
 * must be what they were. */
static int check_adapters(
    const struct served_model *m, const struct served_model *old, struct err *e)
{
    const struct adapters *before = &old->rank_adapters.list, *now = &m->info.adapters;
    for (uint32_t k = 0; k < before->n; k++) {
        uint32_t at = adapters_find(now, before->at[k].name, strlen(before->at[k].name));
        const char *found = at == ADAPTERS_UNKNOWN ? "none" : now->at[at - 1].digest;
        if (!is_same(found, before->at[k].digest))
            return err_field(e, ASSAY_EBADREQ, "dir",
                "the adapter '%s', which goes over to the new checkpoint, was changed in %.400s: "
                "expected digest %.12s.., found %.12s..; put the old files back, or remove it "
                "first",
                before->at[k].name, strchr(old->rank_adapters.loras[k], '=') + 1,
                before->at[k].digest, found);
    }
    return 0;
}

/* Have both the same adapters? */
static int has_same_adapters(const struct served_model *a, const struct served_model *b)
{
    struct err ignored;
    return a->rank_adapters.list.n == b->rank_adapters.list.n &&
           check_adapters(a, b, &ignored) == 0;
}

/* A served model of the name that has this checkpoint already; NULL: none has. */
static struct served_model *find_same(const struct broker *b, const struct served_model *m)
{
    for (int k = 0; k < BROKER_MODELS; k++) {
        struct served_model *s = b->models[k];
        if (s && s->rank == m->rank && is_same(s->info.digest, m->info.digest) &&
            is_same(s->info.mode, m->info.mode))
            return s;
    }
    return NULL;
}

/* Goes back to an old one. */
static void go_back_to(struct broker *b, struct served_model *m)
{
    struct reload *r = b->reload;
    if (!has_same_adapters(m, r->old)) {
        err_field(&r->err, ASSAY_ESTATE, "dir",
            "workers that have this checkpoint are still there for jobs that began with it, with "
            "other adapters than '%s' has now: again when these jobs are done, or with the "
            "adapters that they have",
            r->old->info.name);
        refuse(b, &r->err);
        return;
    }
    int is_ready = m->state == SERVED_OLD;
    for (int i = 0, g = served_group(b, m, 0); i < b->options->replicas; i++)
        is_ready &= group_state(b->groups[g + i]) == GROUP_READY;
    if (is_ready) {
        served_take_directory(b, m, r->model); /* its own may have gone since */
        switch_to(b, m);
        return;
    }
    err_set(&r->err, ASSAY_ENOTREADY,
        "workers that had this checkpoint before are still ending; again when they are gone");
    r->err.retry_after_ms = 500;
    refuse(b, &r->err);
}

/* Its workers need descriptors that clients may have taken. */
static int check_descriptors(struct err *e)
{
    if (!connections_are_full())
        return 0;
    return err_set(e, ASSAY_ENOTREADY,
        "expected room for the workers beside all open files, found %d; raise `ulimit -n`",
        connections_end());
}

static void start_groups(struct broker *b)
{
    struct reload *r = b->reload;
    struct planner_limits limits = served_limits(b, r->model);
    int rc = check_descriptors(&r->err);
    if (rc == 0) {
        r->phase = STARTING;
        b->models[r->model->number] = r->model;
        planner_set_limits(b->planner, r->model->number, &limits);
        rc = served_open_groups(b, r->model, &r->err);
    }
    if (rc != 0)
        refuse(b, &r->err);
    b->wake = 1;
}

static void end_cancelled(struct broker *b)
{
    err_set(
        &b->reload->err, ASSAY_ESTATE, "cancelled: '%s' is what it was", b->reload->old->info.name);
    refuse(b, &b->reload->err);
}

static void take_opened(struct broker *b)
{
    struct reload *r = b->reload;
    pthread_join(r->thread, NULL);
    if (r->is_cancelled) {
        end_cancelled(b);
        return;
    }
    if (r->rc == ASSAY_EFORMAT || r->rc == ASSAY_EUNSUPPORTED) {
        struct err why = r->err;
        err_field(&r->err, ASSAY_EBADREQ, "dir", "%s", why.msg);
    }
    if (r->rc == 0) {
        memcpy(r->model->info.name, r->old->info.name, sizeof r->old->info.name);
        r->rc = check_form(r->model, r->old, &r->err);
    }
    if (r->rc == 0)
        r->rc = check_adapters(r->model, r->old, &r->err);
    if (r->rc != 0) {
        refuse(b, &r->err);
        return;
    }
    struct served_model *same = find_same(b, r->model);
    if (same == r->old) {
        served_take_directory(b, same, r->model);
        answer(b, same, 0);
    } else if (same)
        go_back_to(b, same);
    else
        start_groups(b);
}

/* ---- its groups start ---- */

static void watch_groups(struct broker *b)
{
    struct reload *r = b->reload;
    int n_ready = 0, code;
    for (int i = 0, first = served_group(b, r->model, 0); i < b->options->replicas; i++) {
        const struct group *g = b->groups[first + i];
        n_ready += group_state(g) == GROUP_READY;
        if (group_failed_starts(g) == 0 && !group_restarts(g))
            continue;
        err_field(&r->err, group_failure_stays(g) ? ASSAY_EBADREQ : ASSAY_EINTERNAL, "dir",
            "its workers cannot start: %.400s", group_last_failure(g, &code));
        refuse(b, &r->err);
        return;
    }
    if (n_ready == b->options->replicas)
        switch_to(b, r->model);
}

int reload_cancel(
    struct broker *b, const struct envelope *env, const struct request *q, struct err *e)
{
    struct reload *r = b->reload;
    if (!r)
        return err_set(e, ASSAY_ESTATE, "expected a reload that is under way, found none");
    struct msg_writer *w = outbox_ok(b->outbox, env, q->id, 2);
    msg_key_str(w, "model", r->old->info.name);
    msg_key_str(w, "dir", r->model->given);
    r->is_cancelled = 1;
    if (r->phase == OPENING)
        eventfd_write(r->stop_fd, 1);
    b->wake = 1;
    return 0;
}

long long reload_tick(struct broker *b, long long now_ms)
{
    struct reload *r = b->reload;
    if (b->draining)
        reload_end(b);
    else if (r && r->phase == STARTING && r->is_cancelled)
        end_cancelled(b);
    else if (r && r->phase == STARTING)
        watch_groups(b);
    else if (r && atomic_load(&r->is_done))
        take_opened(b);
    long long next_ms = retire_tick(b, now_ms);
    return b->reload && now_ms + CHECK_MS < next_ms ? now_ms + CHECK_MS : next_ms;
}

void reload_end(struct broker *b)
{
    struct err e = {0};
    if (!b->reload)
        return;
    if (b->reload->phase == OPENING) {
        eventfd_write(b->reload->stop_fd, 1);
        pthread_join(b->reload->thread, NULL);
    }
    err_set(&e, ASSAY_ENOTREADY, "the broker is shutting down");
    e.retry_after_ms = 1000;
    refuse(b, &e);
}

void reload_release(struct broker *b)
{
    struct catalog *next;
    for (struct catalog *c = b->earlier; c; c = next) {
        next = c->next;
        catalog_let_go(&c);
    }
    catalog_let_go(&b->catalog);
}

/* ---- info ---- */

void reload_write(const struct broker *b, struct msg_writer *w)
{
    const struct reload *r = b->reload;
    msg_str(w, "reload");
    if (r) {
        msg_map(w, 3);
        msg_key_str(w, "model", r->old->info.name);
        msg_key_str(w, "dir", r->model->given);
        msg_key_str(w, "state", r->phase == OPENING ? "opening" : "starting");
    } else
        msg_nil(w);
    msg_str(w, "earlier");
    msg_array(w, served_count_earlier(b));
    for (int k = 0; k < BROKER_MODELS; k++) {
        const struct served_model *m = b->models[k];
        if (!m || m->state < SERVED_OLD)
            continue;
        msg_map(w, 4);
        msg_key_str(w, "name", m->info.name);
        msg_key_str(w, "digest", m->info.digest);
        msg_key_str(w, "mode", m->info.mode);
        msg_key_str(w, "state", m->state == SERVED_OLD ? "needed" : "ending");
    }
}
