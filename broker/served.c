/* served.c - opens a model: describes and digests its checkpoint, reads its text files, makes its
 * groups (served.h). */
#include "broker/served.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/adapters.h"
#include "broker/api/kept.h"
#include "broker/api/progress.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "broker/text/adapter_text.h"
#include "broker/text/text_digest.h"
#include "broker/transaction.h"
#include "schema/cores.h"
#include "schema/identity.h"
#include "schema/log.h"

#define SLOTS 3
#define MAX_ROWS 1024
#define START_MS_PER_MIB 10 /* beside --start-ms */

static void log_text(const struct served_model *m)
{
    const struct text_model *t = &m->text;
    if (!t->tokenizer)
        log_warn("event=no_text reason=\"%s\"", t->reason);
    else if (t->chat.template == CHAT_NONE)
        log_warn("event=no_chat_template reason=\"%s\"", t->chat.reason);
    if (t->tokenizer && tokenizer_n_ids(t->tokenizer) > m->info.vocab_size)
        log_warn("event=tokenizer_too_large ids=%u embedding_rows=%u",
            tokenizer_n_ids(t->tokenizer), m->info.vocab_size);
}

/* Takes the step token from the tokenizer, which knows more tokens than tokenizer.json; the worker
 * reads only that file. */
static int take_step_token(struct served_model *m, struct err *e)
{
    const struct recipe *r = m->text.recipe;
    if (r && r->form.steps == STEPS_IN_TURNS)
        m->info.pool.type = POOL_POSITIONS;
    if (r && r->form.step_word)
        m->info.pool.type = POOL_STEP;
    int32_t id;
    int rc = text_model_step_token(&m->text, &id, e);
    if (rc != 0)
        return rc;
    if (id >= 0 && (uint32_t)id < m->info.vocab_size)
        m->info.pool.step_token = id;
    else if (id >= 0)
        log_warn(
            "event=step_token_too_large token=%d embedding_rows=%u", (int)id, m->info.vocab_size);
    return 0;
}

/* Warns how LAST treats a pad token that ends texts: both ways have their users, and must not be
 * confused. */
static void log_pad_rule(const struct served_model *m)
{
    const struct model_info *info = &m->info;
    const char *what = info->pad_token >= 0 ? text_model_ends_in(&m->text, info->pad_token) : NULL;
    if (!what)
        return;
    if (info->pad_rule)
        log_warn(
            "event=pad_token_ends_texts token=%d what=\"%s\" reason=\"LAST scores the token "
            "before it, as transformers' %s does; hf_pad_rule false (--hf-pad-rule off) scores "
            "the last token\"",
            (int)info->pad_token, what, info->architecture);
    else
        log_warn("event=pad_token_ends_texts token=%d what=\"%s\" reason=\"LAST scores it; "
                 "hf_pad_rule true (--hf-pad-rule on) scores the last token that is not "
                 "pad_token_id\"",
            (int)info->pad_token, what);
}

/* Chooses the head: --head, or that of the recipe. */
static int choose_head(struct served_model *m, const struct options *o, const struct recipe *recipe,
    const char *dir, struct err *e)
{
    m->head = o->head;
    if (!recipe || recipe_check_dir(recipe, dir, e) != 0)
        return e->code;
    m->head = m->recipe_head;
    return recipe_head_of_dir(recipe, dir, m->recipe_head, e);
}

/* The tokenizer may have been another when it was asked for the head. */
static int check_head(const struct served_model *m, struct err *e)
{
    char head[RECIPE_HEAD_BYTES];
    const struct recipe *r = m->text.recipe;
    if (!r || !recipe_has_head(r))
        return 0;
    int rc = recipe_head(r, m->text.tokenizer, head, e);
    if (rc == 0 && strcmp(head, m->head) != 0)
        rc = err_set(e, ASSAY_EFORMAT,
            "the tokenizer's files changed while the broker started; restart when they are "
            "complete");
    return rc;
}

/* Are the adapters' rows written as the base's? */
static int check_adapters(struct served_model *m, struct err *e)
{
    struct adapters *loaded = &m->info.adapters;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < m->question.n_loras; i++) {
        char name[128];
        const char *lora = m->question.loras[i], *dir = strchr(lora, '=') + 1;
        snprintf(name, sizeof name, "%.*s", (int)(dir - 1 - lora), lora);
        uint32_t number = adapters_find(loaded, name, strlen(name)), max_length;
        rc = adapter_text_check(&m->text, &m->text_options, name, dir, &max_length, e);
        if (number != ADAPTERS_UNKNOWN)
            loaded->at[number - 1].max_length = max_length;
    }
    return rc;
}

/* Takes those of --lora that are its own, by name. */
static void take_loras(struct served_model *m, const struct options *o)
{
    for (uint32_t i = 0; i < o->n_loras; i++) {
        const char *lora = options_lora_of(o, i, m->given_name);
        uint32_t at = m->n_loras;
        if (!lora)
            continue;
        for (; at > 0 && strcmp(m->loras[at - 1], lora) > 0; at--)
            m->loras[at] = m->loras[at - 1];
        m->loras[at] = lora;
        m->n_loras++;
    }
}

static struct model_question question_of(
    const struct broker *b, const struct served_model *m, const char *dir)
{
    const struct options *o = b->options;
    return (struct model_question){.worker_path = b->devices.worker,
        .model_dir = dir,
        .name_of = m->given,
        .quant = o->quant,
        .dtype = o->dtype,
        .weights = o->weights,
        .activations = o->activations,
        .head = m->head,
        .loras = m->loras,
        .kv_cache_bytes = (uint64_t)o->kv_cache,
        .n_loras = m->n_loras,
        .tp = (uint32_t)o->tp,
        .pp = (uint32_t)o->pp,
        .max_len = (uint32_t)o->max_len,
        .gpu = b->devices.gpus[0],
        .limit_ms = o->start_ms,
        .stop_fd = -1,
        .cache_dir = b->data};
}

/* Asks the worker, and adds what the options say. */
static int describe(
    struct served_model *m, const struct options *o, const struct recipe *recipe, struct err *e)
{
    int rc = model_info_load(&m->info, &m->question, e);
    if (rc == 0 && recipe)
        rc = recipe_check_architecture(recipe, m->info.architecture, e);
    if (rc != 0)
        return rc;
    if (o->served_name)
        snprintf(m->info.name, sizeof m->info.name, "%s", o->served_name);
    if (m->given_name[0])
        snprintf(m->info.name, sizeof m->info.name, "%s", m->given_name);
    text_digest(m->info.text, m->question.model_dir, o->chat_template, o->template_date);
    m->info.recipe = recipe;
    m->info.tail = o->tail;
    model_info_set_pad_rule(&m->info, o->pad_rule);
    return 0;
}

/* The tokenizer comes from the files that were digested. */
static int read_text(
    struct served_model *m, const struct options *o, const struct recipe *recipe, struct err *e)
{
    const char *dir = m->question.model_dir;
    m->text_options = (struct text_options){o->chat_template, o->template_date,
        m->info.architecture, recipe, (unsigned)tail_from_name(o->tail)};
    int rc = text_model_load(&m->text, dir, &m->text_options, e);
    if (rc == 0)
        rc = check_adapters(m, e);
    if (rc == 0)
        rc = check_head(m, e);
    if (rc == 0)
        rc = checkpoint_check_identity(dir, m->info.identity, "the broker started", e);
    if (rc == 0)
        rc = text_digest_check(m->info.text, dir, o->chat_template, o->template_date, e);
    return rc == 0 ? take_step_token(m, e) : rc;
}

int served_open(struct broker *b, struct served_model *m, int stop_fd, struct err *e)
{
    const struct options *o = b->options;
    const struct recipe *recipe = o->recipe ? recipe_find(o->recipe) : NULL;
    m->dir = realpath(m->given, NULL);
    const char *dir = m->dir ? m->dir : m->given;
    if (m->state != SERVED_LOADING)
        take_loras(m, o);
    int rc = choose_head(m, o, recipe, dir, e);
    if (rc != 0)
        return rc;
    m->question = question_of(b, m, dir);
    m->question.stop_fd = stop_fd;
    rc = describe(m, o, recipe, e);
    if (rc != 0)
        return rc;
    m->info.lock = &b->adapters_lock;
    adapters_open(m);
    rc = read_text(m, o, recipe, e);
    if (rc != 0)
        return rc;
    m->question.stop_fd = -1;
    log_text(m);
    log_pad_rule(m);
    return 0;
}

uint32_t served_count_earlier(const struct broker *b)
{
    uint32_t n = 0;
    for (int k = 0; k < BROKER_MODELS; k++)
        n += b->models[k] && b->models[k]->state >= SERVED_OLD;
    return n;
}

struct served_model *served_of_rank(const struct broker *b, uint32_t rank)
{
    for (int k = 0; k < BROKER_MODELS; k++) {
        struct served_model *m = b->models[k];
        if (m && m->state == SERVED_CURRENT && m->rank == rank)
            return m;
    }
    return NULL;
}

struct served_model *served_first(const struct broker *b)
{
    return served_of_rank(b, 0);
}

struct store_model served_for_store(const struct served_model *m)
{
    const struct model_info *i = &m->info;
    return (struct store_model){.id = m->id,
        .rank = m->rank,
        .is_current = m->state == SERVED_CURRENT,
        .name = i->name,
        .digest = i->digest,
        .mode = i->mode,
        .limits = {i->max_len, i->vocab_size, i->n_labels, &i->adapters}};
}

void served_release(struct served_model *m)
{
    if (!m)
        return;
    text_model_release(&m->text);
    adapters_release(m);
    model_info_release(&m->info);
    for (uint32_t k = 0; k < ADAPTERS_MOST; k++)
        free(m->own_loras[k]);
    memset(m->own_loras, 0, sizeof m->own_loras);
    free(m->dir);
    free(m->own_given);
    m->dir = m->own_given = NULL;
}

/* Slots: so many that each pipeline stage has a batch, and another waits for it. */
static uint32_t slots_for(const struct options *o)
{
    uint32_t n = SLOTS + 2 * (uint32_t)(o->pp - 1);
    return n < STAGE_MAX_SLOTS ? n : STAGE_MAX_SLOTS;
}

/* A slot holds a batch of the token budget, or one row of max_len. Values: one for each label of
 * each token, for ALL. */
static struct stage_config stage_capacity(const struct broker *b, const struct served_model *m)
{
    uint32_t budget = (uint32_t)b->options->max_batch_tokens;
    uint32_t tokens = budget > m->info.max_len ? budget : m->info.max_len;
    uint64_t values = (uint64_t)tokens * m->info.n_labels;
    return (struct stage_config){slots_for(b->options), MAX_ROWS, tokens, tokens,
        values > ADMIT_MAX_VALUES ? ADMIT_MAX_VALUES : (uint32_t)values};
}

struct planner_limits served_limits(const struct broker *b, const struct served_model *m)
{
    struct stage_config capacity = stage_capacity(b, m);
    int shares = m->info.shares_prefixes && !b->options->no_prefix_sharing;
    return (struct planner_limits){.max_tokens = (uint32_t)b->options->max_batch_tokens,
        .max_rows = capacity.max_rows,
        .max_positions = capacity.max_positions,
        .max_values = capacity.max_values,
        .slot_tokens = capacity.max_tokens,
        .min_shared = shares ? PLANNER_MIN_SHARED : 0,
        .first_tokens = PLANNER_FIRST_TOKENS};
}

/* Threads are divided among all groups of all models. */
static uint32_t threads_of_a_group(const struct options *o)
{
    int threads = o->threads ? o->threads : cores_usable("");
    int share = threads / (o->replicas * o->n_models);
    return (uint32_t)(share > 0 ? share : 1);
}

/* A large model takes longer to read, above all from a disk that several ranks share. */
static uint32_t start_limit_ms(const struct options *o, const struct model_info *i)
{
    uint64_t ms = (uint64_t)o->start_ms + (i->weight_bytes >> 20) * START_MS_PER_MIB;
    return ms < INT32_MAX / 16 ? (uint32_t)ms : INT32_MAX / 16;
}

static struct group_options group_options_of(
    const struct broker *b, const struct served_model *m, int copy)
{
    const struct options *o = b->options;
    return (struct group_options){.worker_path = b->devices.worker,
        .model_dir = m->question.model_dir,
        .run_dir = b->data,
        .zmq_context = b->zmq,
        .number = served_group(b, m, copy),
        .tp = (uint32_t)o->tp,
        .pp = (uint32_t)o->pp,
        .hidden_size = m->info.hidden_size,
        .threads = threads_of_a_group(o),
        .isa = o->isa,
        .quant = o->quant,
        .dtype = o->dtype,
        .weights = o->weights,
        .activations = o->activations,
        .head = m->head,
        .adapters = &m->rank_adapters,
        .gpus = b->devices.cuda ? &b->devices.gpus[copy * o->tp * o->pp] : NULL,
        .mode = m->info.rank_mode,
        .digest = m->info.digest,
        .identity = m->info.identity,
        .max_batch_tokens = (uint32_t)o->max_batch_tokens,
        .max_len = m->info.max_len,
        .kv_cache_bytes = (uint64_t)o->kv_cache,
        .stage = stage_capacity(b, m),
        .epoch = store_epoch(b->store),
        .hang_ms = (uint32_t)o->hang_ms,
        .start_ms = start_limit_ms(o, &m->info)};
}

int served_group(const struct broker *b, const struct served_model *m, int i)
{
    return (int)m->number * b->options->replicas + i;
}

int served_open_groups(struct broker *b, const struct served_model *m, struct err *e)
{
    int rc = 0;
    for (int copy = 0; rc == 0 && copy < b->options->replicas; copy++) {
        struct group_options options = group_options_of(b, m, copy);
        rc = group_new(&b->groups[options.number], &options, e);
        if (rc == 0 && b->n_groups <= options.number)
            b->n_groups = options.number + 1;
    }
    return rc;
}

void served_take_directory(struct broker *b, struct served_model *m, struct served_model *from)
{
    char *dir = m->dir, *given = m->own_given;
    m->dir = from->dir;
    m->own_given = from->own_given;
    m->given = from->given;
    m->question.model_dir = m->dir ? m->dir : m->given;
    m->question.name_of = m->given;
    memcpy(m->info.identity, from->info.identity, sizeof m->info.identity);
    for (int i = 0; i < b->options->replicas; i++)
        group_set_dir(b->groups[served_group(b, m, i)], m->question.model_dir);
    from->dir = from->own_given = NULL;
    free(dir);
    free(given);
}

static void drop_group(struct broker *b, int g)
{
    struct err e = {0};
    group_free(&b->groups[g]);
    if (transaction_begin(b, &e) != 0 || store_drop_workers(b->store, g, &e) != 0)
        transaction_forgo(b, &e);
}

void served_drop(struct broker *b, struct served_model *m)
{
    for (int i = 0; i < b->options->replicas; i++)
        drop_group(b, served_group(b, m, i));
    b->models[m->number] = NULL;
    b->workers_sum = 0; /* the table is to be written anew */
    served_release(m);
    free(m);
}

int served_next_group(const struct broker *b, int g)
{
    while (g < b->n_groups && !b->groups[g])
        g++;
    return g;
}

struct served_model *served_of_group(const struct broker *b, int g)
{
    return b->models[g / b->options->replicas];
}

static int look_again(void *arg, const struct store_job *j)
{
    struct broker *b = arg;
    struct err e = {0};
    waiters_job_changed(b, j->job);
    progress_job_changed(b, j->job);
    if (planner_job_changed(b->planner, j->job, &e) < 0 ||
        (!j->held && kept_look(b, j->job, &e) < 0))
        transaction_die(b, &e);
    return 0;
}

void served_jobs_changed(struct broker *b)
{
    struct err e = {0};
    struct store_job_page unfinished = {JOBS_UNFINISHED, 0, UINT32_MAX};
    if (store_each_job(b->store, &unfinished, look_again, b, &e) < 0)
        transaction_die(b, &e);
    b->wake = 1;
}
