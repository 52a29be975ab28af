/* serve.c - one rank (serve.h): model, canary, READY, then batches until stop.
 *
 * A batch: RUN names a slot -> stage_read copies and checks it -> the pooling says which tokens are
 * wanted -> forward -> pooler -> rank 0 writes the values into the output segment -> DONE with a
 * digest of the values' bits (schema/fnv.h), by which the broker checks that all ranks agree. A
 * pipeline stage takes what the stage before computed, and a stage that is not the last hands on
 * what it computed in place of values (pipeline.h): the broker sends RUN once that is there. On
 * the CPU a batch is done when it is submitted, and the next RUN waits in the socket. A GPU is
 * asynchronous: the next batch is submitted while one runs (device_ops.in_flight), so that it is
 * never idle between two; a descriptor signals completion, and replies go out in order.
 *
 * SIGINT and SIGTERM are ignored: the broker decides when a rank ends, and a rank exits when the
 * broker does (the pipe parent-fd, or the process). Exit codes: 0 after stop, 64 usage, 69 the
 * broker is gone, 70 a bug, 71 no memory or thread, 73 a peer is missing (comm.h), 74 the GPU or
 * its libraries failed, 78 the checkpoint (also if it is no longer the broker's, or its canary row
 * has no finite score), or a device that cannot hold or run it. A rank that cannot start, or
 * continue, says why before it exits (FAILED).
 *
 * A rank loads exactly the checkpoint that the broker's digest names: before and after reading, the
 * files have the same identity (--identity, schema/identity.h) or at least the same digest
 * (--digest). If the device keeps reading from the mapped files, they are checked again after each
 * batch. */
#include "worker/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "schema/clock.h"
#include "schema/control.h"
#include "schema/fnv.h"
#include "schema/msg.h"
#include "schema/start.h"
#include "schema/log.h"
#include "schema/stdout.h"
#include "schema/utf8.h"
#include "shm/stage.h"
#include "worker/comm.h"
#include "worker/describe.h"
#include "worker/lora.h"
#include "worker/options.h"
#include "worker/pipeline.h"
#include "worker/qwen2.h"
#include "worker/score.h"

#define MAX_IN_FLIGHT 2
#define PROGRESS_MS 200    /* how often a working device's progress is polled */
#define LAST_WORDS_MS 2000 /* how long a failed rank waits for the broker to end it */

/* A batch in flight on the device. */
struct inflight_batch {
    struct stage_token token;
    uint32_t n_values;
    float *values; /* [max_values] */
};

struct worker {
    struct worker_options options;
    const struct ops *ops;
    struct stage_view *stage;
    struct comm *comm;
    struct pipeline *pipeline; /* NULL: there is one stage */
    struct device *device;
    struct weights *weights;
    struct identity identity; /* of the loaded files */
    struct lora_config adapters;
    struct qwen2_reward_model model;
    void *context, *socket;
    struct msg_writer writer;
    int32_t *positions; /* [max_tokens] of the batch */
    struct inflight_batch batches[MAX_IN_FLIGHT];
    uint32_t first_batch, n_batches; /* in flight: batches[(first_batch + i) % MAX_IN_FLIGHT] */
    long long busy_since_us;         /* when the oldest of them started, or could have */
    long long busy_us, ready_us;     /* time spent computing; when this rank was ready */
    uint32_t progress;               /* as last seen */
    int pinned;                      /* the device reads the input segment directly */
};

/* ---- batches ---- */

static void bump(void *stage)
{
    stage_bump(stage);
}

static void send_control(struct worker *w, struct control *c)
{
    c->rank = (int32_t)w->options.rank;
    c->incarnation = (uint64_t)w->options.incarnation;
    control_encode(c, &w->writer);
    if (zmq_send(w->socket, w->writer.buffer.data, w->writer.buffer.size, 0) < 0)
        die(EX_UNAVAILABLE, "event=control_send_failed error=%s", zmq_strerror(errno));
}

static void reply_failed(
    struct worker *w, const struct stage_token *token, int code, const struct err *e)
{
    struct control reply = {.type = CONTROL_FAILED, .token = *token, .code = (uint32_t)code};
    snprintf(reply.message, sizeof reply.message, "%.440s", e->msg);
    utf8_make_printable(reply.message); /* the cut may have split a character */
    send_control(w, &reply);
}

/* This rank has scores: its stage is the last. */
static int has_scores(const struct worker *w)
{
    return qwen2_is_last_stage(&w->model);
}

/* Checks that the checkpoint did not change while it was in use. A GPU has its own copy. */
static int check_mapping(const struct worker *w, struct err *e)
{
    return w->ops->typed ? 0 : weights_check(w->weights, e);
}

static void reply_done(struct worker *w, const struct inflight_batch *batch)
{
    struct control reply = {.type = CONTROL_DONE, .token = batch->token};
    struct err e = {0};
    if (!has_scores(w))
        pipeline_sent(w->pipeline);
    if (check_mapping(w, &e) != 0) {
        reply_failed(w, &batch->token, EX_CONFIG, &e);
        return;
    }
    if (has_scores(w) && w->model.rank == 0 &&
        stage_write(w->stage, &batch->token, batch->values, batch->n_values, &e) != 0) {
        reply_failed(w, &batch->token, 0, &e);
        return;
    }
    long long now = now_mono_us();
    if (has_scores(w))
        reply.digest = fnv_add(FNV_NOTHING, batch->values, batch->n_values * sizeof *batch->values);
    reply.ms = (uint32_t)((now - w->busy_since_us) / 1000);
    w->busy_us += now - w->busy_since_us;
    w->busy_since_us = now;
    reply.busy_us = (uint64_t)w->busy_us;
    reply.up_us = (uint64_t)(now - w->ready_us);
    reply.tokens = w->model.tokens_given;
    reply.reused = w->model.tokens_reused;
    reply.kv_bytes = qwen2_reward_model_kv_bytes(&w->model);
    send_control(w, &reply);
}

/* Replies for every finished batch, oldest first; with `wait`, until none is in flight. */
static void finish_batches(struct worker *w, int wait)
{
    while (w->n_batches > 0 && w->ops->device->poll(w->device, wait)) {
        reply_done(w, &w->batches[w->first_batch]);
        w->first_batch = (w->first_batch + 1) % MAX_IN_FLIGHT;
        w->n_batches--;
    }
    uint32_t progress = w->ops->device->progress(w->device);
    if (progress != w->progress)
        stage_bump(w->stage);
    w->progress = progress;
}

static void run_batch(struct worker *w, const struct stage_token *token)
{
    struct inflight_batch *batch = &w->batches[(w->first_batch + w->n_batches) % MAX_IN_FLIGHT];
    struct stage_batch b;
    struct err e = {0};
    if (w->n_batches == 0)
        w->busy_since_us = now_mono_us();
    int rc = stage_read(w->stage, token, &b, &e);
    if (rc == 0)
        rc = score_batch(&w->model, w->pipeline, &b,
            w->pinned && b.shared_ids ? b.shared_ids : b.ids, w->positions, batch->values, &e);
    if (rc != 0) {
        reply_failed(w, token, 0, &e);
        return;
    }
    batch->token = *token;
    batch->n_values = b.n_values;
    w->n_batches++;
    finish_batches(w, 0);
}

/* Scores one short row before READY. Every rank does, so the communicator is tested too. */
static int try_canary(struct worker *w, struct err *e)
{
    const struct stage_config *c = stage_view_config(w->stage);
    uint32_t n_labels = w->model.config.n_labels;
    float *values = w->batches[0].values;
    if (n_labels > c->max_values)
        return err_set(e, ASSAY_ETOOLARGE, "canary row: expected a slot of %u values, found %u",
            n_labels, c->max_values);
    int rc = score_canary(&w->model, w->pipeline, c->max_tokens, values, e);
    for (uint32_t i = 0; rc == 0 && has_scores(w) && i < n_labels; i++)
        if (!(values[i] - values[i] == 0))
            rc = err_set(e, ASSAY_ENONFINITE,
                "a row of %s, tried before any is served: expected a finite score, found %g; are "
                "there NaN or infinite numbers among its weights?",
                w->options.model, (double)values[i]);
    return rc;
}

/* ---- start ---- */

/* Checks that the files are those of the broker's digest, or, if copied or touched since, that they
 * have the same contents. */
static int check_checkpoint(struct worker *w, struct err *e)
{
    const struct worker_options *o = &w->options;
    char cache[4200], digest[65];
    int rc = checkpoint_identity(&w->identity, o->model, e);
    if (rc != 0 || !o->digest || (o->identity && strcmp(w->identity.hex, o->identity) == 0))
        return rc;
    log_info("event=checkpoint_touched action=\"its contents are read again\"");
    snprintf(cache, sizeof cache, "%s/digest.cache", o->cache_dir ? o->cache_dir : "");
    rc = checkpoint_digest(digest, &w->identity, o->model, o->cache_dir ? cache : NULL, e);
    if (rc == 0 && strcmp(digest, o->digest) != 0)
        rc = err_set(e, ASSAY_EFORMAT,
            "the checkpoint in %.200s was changed under the running broker: expected digest "
            "%.12s.., "
            "found %.12s..; put the old files back, or restart the broker, or reload the model, to "
            "serve the new ones",
            o->model, o->digest, digest);
    return rc;
}

static int read_configs(struct worker *w, struct qwen2_configs *c, struct err *e)
{
    const struct worker_options *o = &w->options;
    *c = (struct qwen2_configs){.quant_config = {o->quant},
        .rank = (uint32_t)(o->rank % o->tp),
        .n_ranks = (uint32_t)o->tp,
        .pp_rank = (uint32_t)(o->rank / o->tp),
        .n_pp_ranks = (uint32_t)o->pp};
    int rc = model_config_load(&c->config, o->model, o->head, e);
    if (rc == 0)
        rc = weights_open_chosen(&w->weights, o->model, o->weights, e);
    if (rc == 0)
        rc = quantization_settle(&c->config.quantization, w->weights, e);
    if (rc == 0)
        rc = quantization_choose(&c->config.quantization, o->activations, e);
    if (rc != 0)
        return rc;
    c->config.weights_decided = weights_decided(w->weights);
    c->cache_config = (struct cache_config){(uint32_t)o->max_batch_tokens,
        o->max_len ? (uint32_t)o->max_len : c->config.max_position, (uint32_t)o->max_rows,
        (uint64_t)o->kv_cache};
    rc = lora_open_all(&w->adapters, o->loras.at, o->lora_digests.n ? o->lora_digests.at : NULL,
        o->loras.n, &c->config, e);
    c->lora_config = w->adapters;
    if (rc == 0)
        rc = model_choose_type(&c->config, o->dtype, &c->quant_config, w->weights, w->ops, e);
    if (rc == 0)
        rc = model_config_check_tp(&c->config, c->n_ranks, e);
    return rc == 0 ? model_config_check_pp(&c->config, c->n_pp_ranks, e) : rc;
}

static int open_pipeline(struct worker *w, const struct qwen2_configs *c, struct err *e)
{
    struct pipeline_options options = {.rank = c->rank,
        .n_ranks = c->n_ranks,
        .pp_rank = c->pp_rank,
        .n_pp_ranks = c->n_pp_ranks,
        .max_tokens = stage_view_config(w->stage)->max_tokens,
        .hidden_size = c->config.hidden_size,
        .type = ops_activations(w->ops, c->config.activation_type),
        .deadline_ms = (uint32_t)w->options.start_ms,
        .ops = w->ops->device,
        .device = w->device};
    return pipeline_new(&w->pipeline, (int)w->options.pipeline_fd, &options, e);
}

static int open_model(struct worker *w, struct err *e)
{
    const struct worker_options *o = &w->options;
    struct qwen2_configs configs;
    struct device_options options = {.n_threads = (int)o->threads,
        .isa = o->isa,
        .comm = w->comm,
        .deadline_ms = (uint32_t)o->start_ms,
        .bump = bump,
        .bump_arg = w->stage,
        .gpu = (int)o->gpu,
        .cache_dir = o->cache_dir};
    int rc = check_checkpoint(w, e);
    if (rc == 0)
        rc = read_configs(w, &configs, e);
    if (rc != 0)
        return rc;
    qwen2_device_needs(&options, &configs, w->ops);
    rc = w->ops->device->open(&w->device, &options, e);
    if (rc == 0)
        rc = open_pipeline(w, &configs, e);
    if (rc == 0)
        rc = qwen2_reward_model_init(&w->model, &configs, w->ops, w->device, e);
    if (rc == 0)
        rc = qwen2_reward_model_load_weights(&w->model, w->weights, e);
    if (rc == 0)
        rc = lora_load(&w->model, e);
    if (rc == 0)
        rc = weights_check_names(w->weights, e);
    return rc == 0 ? checkpoint_check_identity(o->model, w->identity.hex, "they were read", e) : rc;
}

/* Ranks may take very different times to load their parts, so until all have scored the canary row
 * they wait for each other as long as the broker waits for them. */
static int open_worker(struct worker *w, struct err *e)
{
    const struct worker_options *o = &w->options;
    int rc = stage_attach(&w->stage, (int)o->input_fd, (int)o->output_fd, (uint32_t)o->rank, e);
    if (rc == 0)
        rc = comm_new(&w->comm, (int)o->comm_fd, (uint32_t)(o->rank % o->tp), (uint32_t)o->tp,
            (uint32_t)o->start_ms, e);
    if (rc != 0)
        return rc;
    const struct stage_config *c = stage_view_config(w->stage);
    w->positions = malloc(c->max_tokens * sizeof *w->positions);
    for (int i = 0; i < MAX_IN_FLIGHT; i++)
        w->batches[i].values = malloc(c->max_values * sizeof(float));
    if (!w->positions || !w->batches[0].values || !w->batches[MAX_IN_FLIGHT - 1].values)
        return err_set(e, ASSAY_ENOMEM, "no memory for batches of %u tokens", c->max_tokens);
    rc = open_model(w, e);
    if (rc != 0)
        return rc;
    uint64_t bytes;
    const void *input = stage_view_input(w->stage, &bytes);
    w->pinned = w->ops->device->pin(w->device, input, bytes);
    lora_close_all(&w->adapters); /* the device has its copy */
    rc = try_canary(w, e);
    comm_set_deadline(w->comm, (uint32_t)o->deadline_ms);
    return rc;
}

static void close_worker(struct worker *w)
{
    if (w->socket)
        zmq_close(w->socket);
    if (w->context)
        zmq_ctx_term(w->context);
    msg_writer_release(&w->writer);
    qwen2_reward_model_release(&w->model);
    if (w->device)
        w->ops->device->close(&w->device);
    weights_close(&w->weights);
    lora_close_all(&w->adapters);
    comm_free(&w->comm);
    pipeline_free(&w->pipeline);
    stage_detach(&w->stage);
    free(w->positions);
    for (int i = 0; i < MAX_IN_FLIGHT; i++)
        free(w->batches[i].values);
}

static void open_socket(struct worker *w)
{
    w->context = zmq_ctx_new();
    w->socket = w->context ? zmq_socket(w->context, ZMQ_DEALER) : NULL;
    int linger_ms = 1000;
    char name[8]; /* the broker addresses ranks by it */
    snprintf(name, sizeof name, "r%ld", w->options.rank);
    if (!w->socket || zmq_setsockopt(w->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms) != 0 ||
        zmq_setsockopt(w->socket, ZMQ_ROUTING_ID, name, strlen(name)) != 0 ||
        zmq_connect(w->socket, w->options.control) != 0)
        die(EX_UNAVAILABLE, "event=connect_failed endpoint=%s error=%s", w->options.control,
            zmq_strerror(errno));
}

static void connect_broker(struct worker *w)
{
    open_socket(w);
    struct control ready = {
        .type = CONTROL_READY, .pid = (int32_t)getpid(), .threads = (uint32_t)w->options.threads};
    w->ops->device->describe(w->device, ready.device, sizeof ready.device);
    qwen2_reward_model_mode(&w->model, ready.mode, sizeof ready.mode);
    snprintf(ready.checkpoint, sizeof ready.checkpoint, "%s",
        w->options.digest ? w->options.digest : "");
    w->ready_us = now_mono_us();
    send_control(w, &ready);
}

/* Handles one message. Returns 1; 0 if there is none; -1 for stop. */
static int take_message(struct worker *w)
{
    zmq_msg_t message;
    struct control c;
    struct err e = {0};
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, w->socket, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&message);
        return 0;
    }
    int rc = control_decode(&c, zmq_msg_data(&message), zmq_msg_size(&message), &e);
    zmq_msg_close(&message);
    if (rc != 0)
        log_warn("event=bad_control error=%s", e.msg);
    else if (c.type == CONTROL_STOP)
        return -1;
    else if (c.type == CONTROL_RUN)
        run_batch(w, &c.token);
    return 1;
}

/* Handles messages while the device can take another batch; -1 after stop. */
static int take_messages(struct worker *w)
{
    int got = 1;
    while (got > 0 && w->n_batches < (uint32_t)w->ops->device->in_flight)
        got = take_message(w);
    return got;
}

static int serve(struct worker *w)
{
    int done_fd = w->ops->device->poll_fd(w->device);
    for (;;) {
        int room = w->n_batches < (uint32_t)w->ops->device->in_flight;
        zmq_pollitem_t items[] = {{.fd = (int)w->options.parent_fd, .events = ZMQ_POLLIN},
            {.socket = w->socket, .events = room ? ZMQ_POLLIN : 0},
            {.fd = done_fd, .events = ZMQ_POLLIN}};
        if (zmq_poll(items, done_fd < 0 ? 2 : 3, w->n_batches > 0 ? PROGRESS_MS : -1) < 0 &&
            errno != EINTR)
            die(EX_SOFTWARE, "event=poll_failed error=%s", zmq_strerror(errno));
        if (items[0].revents) {
            log_warn("event=broker_gone");
            return EX_UNAVAILABLE;
        }
        finish_batches(w, 0);
        if (take_messages(w) < 0) {
            finish_batches(w, 1);
            return EX_OK;
        }
    }
}

/* Ties this process to the broker: the broker's death kills it, and the pipe shows if the broker
 * died before that was set up. */
static void bind_to_parent(const struct worker_options *o)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    zmq_pollitem_t pipe_end = {.fd = (int)o->parent_fd, .events = ZMQ_POLLIN};
    if (zmq_poll(&pipe_end, 1, 0) > 0)
        die(EX_UNAVAILABLE, "event=broker_gone");
}

static int exit_code_of(const struct err *e)
{
    switch (e->code) {
    case ASSAY_EFORMAT:
    case ASSAY_EUNSUPPORTED:
    case ASSAY_EBADREQ:
    case ASSAY_ENONFINITE:
        return EX_CONFIG;
    case ASSAY_ENOMEM:
        return EX_OSERR;
    default:
        return EX_SOFTWARE;
    }
}

/* Reports why this rank cannot start, to the log and to the broker, which then ends it. */
static int give_up(struct worker *w, const struct err *e)
{
    struct stage_token none = {0};
    int code = exit_code_of(e);
    zmq_pollitem_t pipe_end = {.fd = (int)w->options.parent_fd, .events = ZMQ_POLLIN};
    log_error("event=start_failed error=\"%s\"", e->msg);
    open_socket(w);
    reply_failed(w, &none, code, e);
    zmq_poll(&pipe_end, 1, LAST_WORDS_MS);
    return code;
}

static int describe(const struct worker_options *o, const struct ops *ops)
{
    struct err e = {0};
    struct describe_options options = {.dir = o->model,
        .tp = (uint32_t)o->tp,
        .pp = (uint32_t)o->pp,
        .max_len = (uint32_t)o->max_len,
        .kv_cache_bytes = (uint64_t)o->kv_cache,
        .digest_cache = o->digest_cache,
        .ops = ops,
        .quant = o->quant,
        .dtype = o->dtype,
        .weights = o->weights,
        .activations = o->activations,
        .head = o->head,
        .gpu = (int)o->gpu,
        .cache_dir = o->cache_dir,
        .loras = o->loras.at,
        .n_loras = o->loras.n};
    if (describe_model(&options, stdout, &e) == 0)
        return stdout_end("assay-worker");
    fprintf(stderr, "%s\n", e.msg);
    return exit_code_of(&e);
}

int worker_main(int argc, char **argv, const struct ops *ops)
{
    struct worker w = {.ops = ops};
    struct err e = {0};
    struct worker_options *o = &w.options;
    start_process();
    signal(SIGXFSZ, SIG_IGN); /* a write beyond `ulimit -f` fails instead */
    int rc = worker_options_parse(o, argc, argv);
    if (rc != 0)
        return rc;
    if (o->help) {
        fputs(worker_help, stdout);
        return stdout_end("assay-worker");
    }
    if (strcmp(o->log_format, "json") == 0)
        log_use_json();
    log_init("assay-worker", (int)o->rank, (enum log_level)log_level_from_name(o->log_level));
    if (o->describe)
        return describe(o, ops);
    bind_to_parent(o);
    msg_writer_init(&w.writer);
    if (open_worker(&w, &e) != 0) {
        rc = give_up(&w, &e);
    } else {
        connect_broker(&w);
        rc = serve(&w);
    }
    close_worker(&w);
    return rc;
}
