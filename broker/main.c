/* main.c - assayd: builds the broker, runs it, tears it down. The order is: options, data
 * directory, its lock, devices, model, store, sockets, groups. All files are written and sockets
 * bound after the lock is taken, so a second broker never takes the first one's files or
 * endpoints. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "broker/adapters.h"
#include "broker/api/connections.h"
#include "broker/api/listen.h"
#include "broker/api/preparers.h"
#include "broker/api/progress.h"
#include "broker/api/sessions.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "broker/data_dir.h"
#include "broker/loop.h"
#include "broker/outcomes.h"
#include "broker/sched/dedupe_index.h"
#include "broker/text/adapter_text.h"
#include "broker/text/text_digest.h"
#include "schema/clock.h"
#include "schema/endpoint.h"
#include "schema/identity.h"
#include "schema/cores.h"
#include "schema/log.h"
#include "schema/resources.h"
#include "schema/start.h"
#include "schema/stdout.h"
#include "schema/version.h"

#define SLOTS 3
#define MAX_ROWS 1024
#define RESERVE_BYTES (8u << 20)
#define HIGH_WATER_MARK 1000
#define HEARTBEAT_MS 10000
#define ENVELOPE_ROOM (1 << 17) /* of a message, beside its body */
#define LARGE_BLOCK (4 << 20)
#define KEPT_MEMORY (64 << 20)
#define API_FILES 16                        /* descriptors before any client: libzmq's, and one */
#define API_THREADS (2 + PREPARERS_THREADS) /* libzmq starts two */
/* What the loop opens, and for each group, further pipeline stage, and rank that runs. */
enum { LOOP_FILES = 2, GROUP_FILES = 4, STAGE_FILES = 2, RANK_FILES = 2 };

/* Finds or makes the data directory, checks it, and locks it. */
static int open_data(
    struct broker *b, char *path, size_t size, struct data_dir_start *start, struct err *e)
{
    int rc = data_dir_find(path, size, b->options->data, e);
    if (rc == 0)
        rc = data_dir_open(path, start, e);
    if (rc != 0)
        return rc;
    b->data = path;
    b->lock_fd = store_lock(path, e);
    return b->lock_fd < 0 ? b->lock_fd : 0;
}

static void log_text(const struct broker *b)
{
    const struct text_model *t = &b->text;
    if (!t->tokenizer)
        log_warn("event=no_text reason=\"%s\"", t->reason);
    else if (t->chat.template == CHAT_NONE)
        log_warn("event=no_chat_template reason=\"%s\"", t->chat.reason);
    if (t->tokenizer && tokenizer_n_ids(t->tokenizer) > b->model.vocab_size)
        log_warn("event=tokenizer_too_large ids=%u embedding_rows=%u",
            tokenizer_n_ids(t->tokenizer), b->model.vocab_size);
}

/* Takes the step token from the tokenizer, which knows more tokens than tokenizer.json; the worker
 * reads only that file. */
static int take_step_token(struct broker *b, struct err *e)
{
    const struct recipe *r = b->text.recipe;
    if (r && r->form.steps == STEPS_IN_TURNS)
        b->model.pool.type = POOL_POSITIONS;
    if (r && r->form.step_word)
        b->model.pool.type = POOL_STEP;
    int32_t id;
    int rc = text_model_step_token(&b->text, &id, e);
    if (rc != 0)
        return rc;
    if (id >= 0 && (uint32_t)id < b->model.vocab_size)
        b->model.pool.step_token = id;
    else if (id >= 0)
        log_warn(
            "event=step_token_too_large token=%d embedding_rows=%u", (int)id, b->model.vocab_size);
    return 0;
}

/* Warns how LAST treats a pad token that ends texts: both ways have their users, and must not be
 * confused. */
static void log_pad_rule(const struct broker *b)
{
    const struct model_info *m = &b->model;
    const char *what = m->pad_token >= 0 ? text_model_ends_in(&b->text, m->pad_token) : NULL;
    if (!what)
        return;
    if (m->pad_rule)
        log_warn(
            "event=pad_token_ends_texts token=%d what=\"%s\" reason=\"LAST scores the token "
            "before it, as transformers' %s does; hf_pad_rule false (--hf-pad-rule off) scores "
            "the last token\"",
            (int)m->pad_token, what, m->architecture);
    else
        log_warn("event=pad_token_ends_texts token=%d what=\"%s\" reason=\"LAST scores it; "
                 "hf_pad_rule true (--hf-pad-rule on) scores the last token that is not "
                 "pad_token_id\"",
            (int)m->pad_token, what);
}

/* Chooses the head: --head, or that of the recipe. */
static int choose_head(
    struct broker *b, const struct recipe *recipe, const char *dir, struct err *e)
{
    b->head = b->options->head;
    if (!recipe || recipe_check_dir(recipe, dir, e) != 0)
        return e->code;
    b->head = b->recipe_head;
    return recipe_head_of_dir(recipe, dir, b->recipe_head, e);
}

/* The tokenizer may have been another when it was asked for the head. */
static int check_head(const struct broker *b, struct err *e)
{
    char head[RECIPE_HEAD_BYTES];
    const struct recipe *r = b->text.recipe;
    if (!r || !recipe_has_head(r))
        return 0;
    int rc = recipe_head(r, b->text.tokenizer, head, e);
    if (rc == 0 && strcmp(head, b->head) != 0)
        rc = err_set(e, ASSAY_EFORMAT,
            "the tokenizer's files changed while the broker started; restart when they are "
            "complete");
    return rc;
}

/* Are the adapters' rows written as the base's? */
static int check_adapters(const struct broker *b, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < b->options->n_loras; i++) {
        char name[128];
        const char *lora = b->options->loras[i], *dir = strchr(lora, '=') + 1;
        snprintf(name, sizeof name, "%.*s", (int)(dir - 1 - lora), lora);
        rc = adapter_text_check(&b->text, &b->text_options, name, dir, e);
    }
    return rc;
}

static int open_model(struct broker *b, struct err *e)
{
    const struct options *o = b->options;
    const struct recipe *recipe = o->recipe ? recipe_find(o->recipe) : NULL;
    b->model_dir = realpath(o->model, NULL);
    const char *dir = b->model_dir ? b->model_dir : o->model;
    int rc = choose_head(b, recipe, dir, e);
    if (rc != 0)
        return rc;
    b->question = (struct model_question){.worker_path = b->devices.worker,
        .model_dir = dir,
        .name_of = o->model,
        .quant = o->quant,
        .dtype = o->dtype,
        .weights = o->weights,
        .activations = o->activations,
        .head = b->head,
        .loras = o->loras,
        .kv_cache_bytes = (uint64_t)o->kv_cache,
        .n_loras = o->n_loras,
        .tp = (uint32_t)o->tp,
        .pp = (uint32_t)o->pp,
        .max_len = (uint32_t)o->max_len,
        .gpu = b->devices.gpus[0],
        .limit_ms = o->start_ms,
        .stop_fd = -1,
        .cache_dir = b->data};
    rc = model_info_load(&b->model, &b->question, e);
    if (rc == 0 && recipe)
        rc = recipe_check_architecture(recipe, b->model.architecture, e);
    if (rc != 0)
        return rc;
    if (o->served_name)
        snprintf(b->model.name, sizeof b->model.name, "%s", o->served_name);
    text_digest(b->model.text, dir, o->chat_template, o->template_date);
    b->model.recipe = recipe;
    b->model.tail = o->tail;
    model_info_set_pad_rule(&b->model, o->pad_rule);
    b->admit.model = &b->model;
    b->model.lock = &b->adapters_lock;
    adapters_open(b);
    b->text_options = (struct text_options){o->chat_template, o->template_date,
        b->model.architecture, recipe, (unsigned)tail_from_name(o->tail)};
    rc = text_model_load(&b->text, dir, &b->text_options, e);
    if (rc == 0)
        rc = check_adapters(b, e);
    if (rc == 0)
        rc = check_head(b, e);
    if (rc == 0) /* the tokenizer comes from the files that were digested */
        rc = checkpoint_check_identity(dir, b->model.identity, "the broker started", e);
    if (rc == 0)
        rc = text_digest_check(b->model.text, dir, o->chat_template, o->template_date, e);
    if (rc != 0)
        return rc;
    b->admit.composer = composer_new(&b->text);
    rc = take_step_token(b, e);
    if (rc != 0)
        return rc;
    log_text(b);
    log_pad_rule(b);
    b->limits = (struct request_limits){
        (uint64_t)o->max_message_bytes, (uint32_t)o->max_rows_per_message, b->model.max_len};
    return 0;
}

static int open_store(struct broker *b, struct err *e)
{
    struct store_options options = {RESERVE_BYTES, (uint64_t)b->options->min_free_bytes,
        b->model.mode, b->model.digest, b->lock_fd,
        {b->model.max_len, b->model.vocab_size, b->model.n_labels, &b->model.adapters}};
    b->lock_fd = -1; /* the store owns it now */
    return store_open(&b->store, b->data, &options, e);
}

static int bind_endpoint(struct broker *b, const char *endpoint, struct err *e)
{
    int rc = listen_bind(&b->listeners, b->clients, endpoint, e);
    if (rc == 0)
        log_info("event=listening endpoint=%s data=%s model=%s", endpoint, b->data, b->model.name);
    return rc;
}

/* Binds the broker's own sockets, in the data directory. */
static int bind_in_data(struct broker *b, struct err *e)
{
    char endpoint[ENDPOINT_BYTES], name[ENDPOINT_SOCKET_BYTES];
    int rc = endpoint_in_dir(endpoint, b->data, "events.sock", &b->data_fd, e);
    if (rc != 0)
        return rc;
    connections_expect_subscribers(endpoint + strlen("ipc://"));
    if (!(b->progress = progress_new(b->zmq, endpoint, e)))
        return e->code;
    rc = listen_watch(&b->listeners, progress_socket(b->progress), endpoint, e);
    if (rc != 0 || b->options->n_listen > 0)
        return rc;
    endpoint_socket(name, b->options->exit_with_parent);
    rc = endpoint_in_dir(endpoint, b->data, name, &b->data_fd, e);
    return rc == 0 ? bind_endpoint(b, endpoint, e) : rc;
}

static void set_option(void *socket, int option, int value)
{
    zmq_setsockopt(socket, option, &value, sizeof value);
}

static int open_sockets(struct broker *b, struct err *e)
{
    int64_t max_bytes =
        b->options->max_message_bytes + 4096; /* a little more gets an error, far more is cut off */
    int rc = resources_check("connections", API_FILES, API_THREADS, e);
    if (rc != 0)
        return rc;
    b->zmq = zmq_ctx_new();
    b->clients = b->zmq ? zmq_socket(b->zmq, ZMQ_ROUTER) : NULL;
    if (!b->clients)
        return err_set(e, ASSAY_EIO, "zeromq: %s", zmq_strerror(errno));
    set_option(b->clients, ZMQ_LINGER, 1000);
    set_option(b->clients, ZMQ_ROUTER_MANDATORY, 1);
    set_option(b->clients, ZMQ_SNDHWM, HIGH_WATER_MARK);
    set_option(b->clients, ZMQ_RCVHWM, HIGH_WATER_MARK);
    set_option(b->clients, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
    set_option(b->clients, ZMQ_HEARTBEAT_TIMEOUT, 6 * HEARTBEAT_MS);
    zmq_setsockopt(b->clients, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
    connections_limit_messages((uint64_t)max_bytes + ENVELOPE_ROOM);
    b->outbox = outbox_new(b->clients);
    rc = bind_in_data(b, e);
    for (int i = 0; rc == 0 && i < b->options->n_listen; i++)
        rc = bind_endpoint(b, b->options->listen[i], e);
    return rc;
}

/* Slots: so many that each pipeline stage has a batch, and another waits for it. */
static uint32_t slots_for(const struct options *o)
{
    uint32_t n = SLOTS + 2 * (uint32_t)(o->pp - 1);
    return n < STAGE_MAX_SLOTS ? n : STAGE_MAX_SLOTS;
}

/* A slot holds a batch of the token budget, or one row of max_len. Values: one for each label of
 * each token, for ALL. */
static struct stage_config stage_capacity(const struct broker *b)
{
    uint32_t budget = (uint32_t)b->options->max_batch_tokens;
    uint32_t tokens = budget > b->model.max_len ? budget : b->model.max_len;
    uint64_t values = (uint64_t)tokens * b->model.n_labels;
    return (struct stage_config){slots_for(b->options), MAX_ROWS, tokens, tokens,
        values > ADMIT_MAX_VALUES ? ADMIT_MAX_VALUES : (uint32_t)values};
}

/* Opens dedupe, which finds equal rows, unless --no-dedupe is given. */
static void open_dedupe(struct broker *b)
{
    const struct options *o = b->options;
    if (o->no_dedupe) {
        dedupe_index_sweep(b->data);
        return;
    }
    if (o->score_cache > 0)
        b->cache = score_cache_open(b->data, (uint64_t)o->score_cache, (uint64_t)o->min_free_bytes);
    struct dedupe_options options = {.digest = b->model.digest,
        .mode = b->model.rank_mode, /* a row holds ids and positions: no text, no pad rule */
        .adapters = &b->model.adapters,
        .store = b->store,
        .cache = &b->cache,
        .data_dir = b->data,
        .min_free_bytes = (uint64_t)o->min_free_bytes,
        .wait_ms = DEDUPE_WAIT_MS};
    b->dedupe = dedupe_new(&options);
}

static int open_groups(struct broker *b, struct err *e)
{
    const struct options *o = b->options;
    int threads = o->threads ? o->threads : cores_usable("");
    struct stage_config capacity = stage_capacity(b);
    int shares = b->model.shares_prefixes && !o->no_prefix_sharing;
    struct planner_limits limits = {.max_tokens = (uint32_t)o->max_batch_tokens,
        .max_rows = capacity.max_rows,
        .max_positions = capacity.max_positions,
        .max_values = capacity.max_values,
        .slot_tokens = capacity.max_tokens,
        .min_shared = shares ? PLANNER_MIN_SHARED : 0,
        .first_tokens = PLANNER_FIRST_TOKENS};
    int rc = planner_new(&b->planner, b->store, &limits, e);
    open_dedupe(b);
    if (rc == 0)
        planner_use_dedupe(b->planner, b->dedupe);
    for (int g = 0; rc == 0 && g < o->replicas; g++) {
        int share = threads / o->replicas;
        struct group_options options = {.worker_path = b->devices.worker,
            .model_dir = b->model_dir ? b->model_dir : o->model,
            .run_dir = b->data,
            .zmq_context = b->zmq,
            .number = g,
            .tp = (uint32_t)o->tp,
            .pp = (uint32_t)o->pp,
            .hidden_size = b->model.hidden_size,
            .threads = (uint32_t)(share > 0 ? share : 1),
            .isa = o->isa,
            .quant = o->quant,
            .dtype = o->dtype,
            .weights = o->weights,
            .activations = o->activations,
            .head = b->head,
            .adapters = &b->rank_adapters,
            .gpus = b->devices.cuda ? &b->devices.gpus[g * o->tp * o->pp] : NULL,
            .mode = b->model.rank_mode,
            .digest = b->model.digest,
            .identity = b->model.identity,
            .max_batch_tokens = (uint32_t)o->max_batch_tokens,
            .max_len = b->model.max_len,
            .kv_cache_bytes = (uint64_t)o->kv_cache,
            .stage = capacity,
            .epoch = store_epoch(b->store),
            .hang_ms = (uint32_t)o->hang_ms,
            .start_ms = (uint32_t)o->start_ms};
        rc = group_new(&b->groups[g], &options, e);
    }
    return rc;
}

/* Descriptors beyond the last ones are refused to clients (api/connections.h), so the first of them
 * must get one below, once the loop and all ranks have theirs. */
static int check_room_for_a_client(const struct broker *b, struct err *e)
{
    const struct options *o = b->options;
    int lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (lowest >= 0)
        close(lowest);
    int group = GROUP_FILES + STAGE_FILES * (o->pp - 1) + RANK_FILES * o->tp * o->pp;
    int first = lowest + LOOP_FILES + o->replicas * group;
    if (lowest >= 0 && first < connections_end())
        return 0;
    return err_set(e, ASSAY_EIO,
        "connections: expected room for a client beside %d open files of the broker, found %d for "
        "all; raise `ulimit -n`",
        first, connections_end());
}

static void close_broker(struct broker *b)
{
    listen_end(&b->listeners);
    for (int g = 0; g < b->options->replicas; g++)
        group_free(&b->groups[g]);
    outcomes_drop(b);
    planner_free(&b->planner);
    dedupe_free(&b->dedupe);
    score_cache_close(&b->cache);
    waiters_free(&b->waiters);
    sessions_free(&b->sessions);
    progress_free(&b->progress);
    outbox_free(&b->outbox);
    if (b->clients)
        zmq_close(b->clients);
    if (b->zmq)
        zmq_ctx_term(b->zmq);
    store_close(&b->store);
    if (b->lock_fd >= 0)
        close(b->lock_fd);
    if (b->data_fd >= 0)
        close(b->data_fd);
    admit_release(&b->admit);
    text_model_release(&b->text);
    adapters_close(b);
    model_info_release(&b->model);
    free(b->model_dir);
}

static int exit_code_of(const struct err *e)
{
    switch (e->code) {
    case ASSAY_EFORMAT:
    case ASSAY_EUNSUPPORTED:
        return EX_CONFIG;
    case ASSAY_EUNAUTHORIZED:
        return EX_NOPERM;
    case ASSAY_ENOTREADY:
        return EX_UNAVAILABLE;
    case ASSAY_EBUSY:
    case ASSAY_ELOCKED:
        return EX_TEMPFAIL;
    case ASSAY_EIO:
    case ASSAY_EFULL:
        return EX_IOERR;
    default:
        return EX_SOFTWARE;
    }
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Keeps freed memory. Requests of a hundred kilobytes come and go, and glibc would return their
 * pages to the system and fetch new ones each time, which costs more than copying the requests. */
static void keep_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
    mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
#endif
}

/* Asks for SIGTERM when the parent ends; 0 when it has ended already. That is certain only if its
 * process id is given: a parent of number 1 may have adopted an orphan, or be a container's first
 * process. */
static int follow_parent(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && (parent < 0 || getppid() == parent);
}

int main(int argc, char **argv)
{
    struct options options;
    struct broker b = {.options = &options,
        .lock_fd = -1,
        .data_fd = -1,
        .adapters_lock = PTHREAD_MUTEX_INITIALIZER,
        .started_ms = now_wall_ms()};
    struct err e = {0};
    char data[4096] = "";
    struct data_dir_start start = {0};
    start_process();
    signal(SIGXFSZ, SIG_IGN); /* a write beyond `ulimit -f` fails instead; workers inherit it */
    int rc = options_parse(&options, argc, argv);
    if (rc != 0)
        return rc;
    if (options.help || options.version) {
        if (options.help)
            options_print_help();
        else
            printf("assayd %s\n", ASSAY_VERSION);
        return stdout_end("assayd");
    }
    log_init("assayd", -1, (enum log_level)options.log_level);
    umask(077); /* database and sockets are the owner's alone, in any directory */
    if (options.exit_with_parent && !follow_parent(options.exit_with_parent))
        return EX_UNAVAILABLE;
    raise_descriptor_limit();
    keep_memory();
    b.waiters = waiters_new();
    b.sessions = sessions_new((uint64_t)options.session_bytes, &b.limits);
    if (sodium_init() < 0)
        rc = err_set(&e, ASSAY_EIO, "libsodium cannot start");
    if (rc == 0)
        rc = open_data(&b, data, sizeof data, &start, &e);
    if (rc == 0)
        rc = devices_choose(&b.devices, &options, &e);
    if (rc == 0)
        rc = open_model(&b, &e);
    if (rc == 0)
        rc = open_store(&b, &e);
    if (rc == 0)
        rc = open_sockets(&b, &e);
    if (rc == 0)
        rc = open_groups(&b, &e);
    if (rc == 0)
        rc = check_room_for_a_client(&b, &e);
    int started = rc == 0;
    if (started && options.exit_with_parent <= 0) /* `assay score` names its process */
        data_dir_keep(data);
    if (started)
        rc = loop_run(&b, &e);
    if (rc != 0)
        log_error("event=failed error=\"%s\"", e.msg);
    close_broker(&b);
    if (!started)
        data_dir_undo(data, &start);
    return rc == 0 ? EX_OK : exit_code_of(&e);
}
