/* ranks.c - starts a group's processes, sends and receives over their ROUTER socket, and watches
 * their pidfds (ranks.h). */
#include "broker/workers/ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/clock.h"
#include "schema/log.h"

#define MAX_ARGUMENTS (60 + 4 * ADAPTERS_MOST)

void ranks_init(struct ranks *r, const struct group_options *options)
{
    *r = (struct ranks){.options = options, .dir_fd = -1, .pipeline_fd = -1, .pipe_fd = -1};
    for (int k = 0; k < GROUP_MAX_RANKS; k++)
        r->children[k].pidfd = r->comm_fds[k] = -1;
    msg_writer_init(&r->writer);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void ranks_release(struct ranks *r)
{
    close_fd(&r->dir_fd);
    msg_writer_release(&r->writer);
}

/* ---- start and end ---- */

/* Binds the control socket. The endpoint is the same text here and in the ranks, which inherit
 * dir_fd. */
static int bind_socket(struct ranks *r, char endpoint[ENDPOINT_BYTES], struct err *e)
{
    int zero = 0, mandatory = 1;
    char name[64];
    snprintf(name, sizeof name, "group-%d-%llu.sock", r->options->number,
        (unsigned long long)r->incarnation);
    int rc = endpoint_in_dir(endpoint, r->options->run_dir, name, &r->dir_fd, e);
    if (rc != 0)
        return rc;
    snprintf(r->socket_path, sizeof r->socket_path, "%s", endpoint + strlen("ipc://"));
    r->socket = zmq_socket(r->options->zmq_context, ZMQ_ROUTER);
    if (!r->socket || zmq_setsockopt(r->socket, ZMQ_LINGER, &zero, sizeof zero) != 0 ||
        zmq_setsockopt(r->socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory) != 0 ||
        zmq_bind(r->socket, endpoint) != 0)
        return err_set(e, ASSAY_EIO, "cannot bind '%s': %s", endpoint, zmq_strerror(errno));
    return 0;
}

static int start_rank(struct ranks *r, uint32_t rank, const struct stage *stage,
    const char *endpoint, int parent_fd, struct err *e)
{
    const struct group_options *o = r->options;
    uint32_t threads = o->threads / group_size(o);
    int comm_fd = r->comm_fds[rank / o->tp];
    struct {
        const char *name;
        unsigned long long value;
    } numbers[] = {{"--rank", rank}, {"--tp", o->tp}, {"--pp", o->pp},
        {"--incarnation", r->incarnation}, {"--input-fd", (unsigned)stage_input_fd(stage)},
        {"--output-fd", (unsigned)stage_output_fd(stage)}, {"--comm-fd", (unsigned)comm_fd},
        {"--parent-fd", (unsigned)parent_fd}, {"--threads", threads > 0 ? threads : 1},
        {"--max-batch-tokens", o->max_batch_tokens}, {"--max-len", o->max_len},
        {"--max-rows", o->stage.max_rows}, {"--deadline-ms", 10ull * o->hang_ms},
        {"--start-ms", o->start_ms}, {"--kv-cache", o->kv_cache_bytes},
        {"--gpu", o->gpus ? (unsigned)o->gpus[rank] : 0}};
    enum { N = sizeof numbers / sizeof numbers[0] };
    char text[N][24];
    const char *argv[MAX_ARGUMENTS] = {o->worker_path, "--model", o->model_dir, "--control",
        endpoint, "--isa", o->isa, "--cache-dir", o->run_dir, "--quant", o->quant, "--dtype",
        o->dtype, "--weights", o->weights, "--activations", o->activations, "--head", o->head};
    char pipeline_text[16];
    int n = 19, n_keep = 4,
        keep[6] = {stage_input_fd(stage), stage_output_fd(stage), comm_fd, parent_fd};
    if (r->dir_fd >= 0)
        keep[n_keep++] = r->dir_fd;
    if (r->pipeline_fd >= 0) {
        keep[n_keep++] = r->pipeline_fd;
        snprintf(pipeline_text, sizeof pipeline_text, "%d", r->pipeline_fd);
        argv[n++] = "--pipeline-fd";
        argv[n++] = pipeline_text;
    }
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "%llu", numbers[i].value);
        argv[n++] = numbers[i].name;
        argv[n++] = text[i];
    }
    if (o->digest && o->identity) {
        argv[n++] = "--digest";
        argv[n++] = o->digest;
        argv[n++] = "--identity";
        argv[n++] = o->identity;
    }
    argv[n++] = "--log-level";
    argv[n++] = log_level_name();
    if (log_is_json()) {
        argv[n++] = "--log-format";
        argv[n++] = "json";
    }
    for (uint32_t i = 0; o->adapters && i < o->adapters->list.n; i++) {
        argv[n++] = "--lora";
        argv[n++] = o->adapters->loras[i];
        argv[n++] = "--lora-digest";
        argv[n++] = o->adapters->list.at[i].digest;
    }
    struct child_options child = {(char *const *)argv, keep, n_keep, -1, -1};
    return child_start(&r->children[rank], &child, e);
}

/* Makes the segments of this incarnation's ranks. */
static int make_segments(struct ranks *r, struct err *e)
{
    const struct group_options *o = r->options;
    for (uint32_t k = 0; k < o->pp; k++)
        if ((r->comm_fds[k] = stage_segment_new(stage_comm_bytes(o->tp), e)) < 0)
            return r->comm_fds[k];
    if (o->pp == 1)
        return 0;
    r->pipeline_fd =
        stage_segment_new(stage_pipeline_bytes(o->pp, o->stage.max_tokens, o->hidden_size), e);
    return r->pipeline_fd < 0 ? r->pipeline_fd : 0;
}

int ranks_start(struct ranks *r, uint64_t incarnation, const struct stage *stage, struct err *e)
{
    char endpoint[ENDPOINT_BYTES];
    int ends[2];
    r->incarnation = incarnation;
    memset(r->stopped_ms, 0, sizeof r->stopped_ms);
    int rc = bind_socket(r, endpoint, e);
    if (rc == 0)
        rc = make_segments(r, e);
    if (rc == 0 && pipe2(ends, O_CLOEXEC) != 0)
        rc = err_errno(e, ASSAY_EIO, "pipe");
    if (rc != 0)
        return rc;
    r->pipe_fd = ends[1];
    for (uint32_t k = 0; rc == 0 && k < group_size(r->options); k++)
        rc = start_rank(r, k, stage, endpoint, ends[0], e);
    close(ends[0]);
    return rc;
}

void ranks_end(struct ranks *r, int *exit_code, int *signal)
{
    int known = 0, code, number;
    long long until_ms = now_mono_ms() + CHILD_END_MS;
    for (uint32_t k = 0; k < group_size(r->options); k++)
        if (!known && child_reap(&r->children[k], 0, &code, &number)) {
            known = 1;
            *exit_code = code;
            *signal = number;
        }
    for (uint32_t k = 0; k < group_size(r->options); k++)
        child_kill(&r->children[k]);
    for (uint32_t k = 0; k < group_size(r->options); k++)
        child_end(&r->children[k], until_ms, &code, &number);
    if (r->socket) {
        zmq_close(r->socket);
        unlink(r->socket_path); /* ZeroMQ does not remove it */
    }
    r->socket = NULL;
    for (uint32_t k = 0; k < r->options->pp; k++)
        close_fd(&r->comm_fds[k]);
    close_fd(&r->pipeline_fd);
    close_fd(&r->pipe_fd);
}

/* ---- messages ---- */

void ranks_send(struct ranks *r, uint32_t rank, const struct control *c)
{
    char name[8];
    control_encode(c, &r->writer);
    int n = snprintf(name, sizeof name, "r%u", rank);
    if (zmq_send(r->socket, name, (size_t)n, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(r->socket, r->writer.buffer.data, r->writer.buffer.size, ZMQ_DONTWAIT) < 0)
        log_debug("event=control_not_sent of_rank=%u error=%s", rank, zmq_strerror(errno));
}

void ranks_send_all(struct ranks *r, const struct control *c)
{
    for (uint32_t k = 0; k < group_size(r->options); k++)
        ranks_send(r, k, c);
}

void ranks_send_stage(struct ranks *r, uint32_t stage, const struct control *c)
{
    uint32_t tp = r->options->tp;
    for (uint32_t k = stage * tp; k < (stage + 1) * tp; k++)
        ranks_send(r, k, c);
}

/* Parses a rank's routing id: "r3" is rank 3. */
static int rank_of(const struct ranks *r, const char *name, uint32_t *rank)
{
    char *end;
    unsigned long k = strtoul(name + 1, &end, 10);
    *rank = (uint32_t)k;
    return name[0] == 'r' && end != name + 1 && *end == '\0' && k < group_size(r->options);
}

/* A message has two frames: the rank's routing id and the body. */
int ranks_receive(struct ranks *r, uint32_t *rank, zmq_msg_t *body)
{
    char name[16];
    int n;
    while ((n = zmq_recv(r->socket, name, sizeof name - 1, ZMQ_DONTWAIT)) >= 0) {
        int more = 0, frames = 0;
        size_t size = sizeof more;
        name[n < (int)sizeof name ? n : (int)sizeof name - 1] = '\0';
        zmq_msg_init(body);
        zmq_getsockopt(r->socket, ZMQ_RCVMORE, &more, &size);
        for (; more; frames++) {
            zmq_msg_recv(body, r->socket, ZMQ_DONTWAIT);
            more = zmq_msg_more(body);
        }
        if (frames == 1 && rank_of(r, name, rank))
            return 1;
        zmq_msg_close(body);
    }
    return 0;
}

/* ---- who lives ---- */

static int has_ended(const struct child *c)
{
    zmq_pollitem_t item = {.fd = c->pidfd, .events = ZMQ_POLLIN};
    return item.fd < 0 || zmq_poll(&item, 1, 0) > 0;
}

int ranks_find_dead(const struct ranks *r)
{
    for (uint32_t k = 0; k < group_size(r->options); k++)
        if (r->children[k].pidfd >= 0 && has_ended(&r->children[k]))
            return (int)k;
    return -1;
}

int ranks_find_stopped(struct ranks *r, long long now_ms, long long stopped_for_ms, int anew)
{
    int found = -1;
    for (uint32_t k = 0; k < group_size(r->options); k++) {
        long long *since_ms = &r->stopped_ms[k];
        int event = child_was_stopped(&r->children[k]);
        if (event < 0)
            *since_ms = 0;
        else if (event > 0 || (*since_ms && anew))
            *since_ms = now_ms;
        if (*since_ms && now_ms - *since_ms >= stopped_for_ms)
            found = (int)k;
    }
    return found;
}

int ranks_all_ended(const struct ranks *r)
{
    for (uint32_t k = 0; k < group_size(r->options); k++)
        if (!has_ended(&r->children[k]))
            return 0;
    return 1;
}

int ranks_poll_items(const struct ranks *r, zmq_pollitem_t *items, int max)
{
    int n = 0;
    if (r->socket && n < max)
        items[n++] = (zmq_pollitem_t){.socket = r->socket, .events = ZMQ_POLLIN};
    for (uint32_t k = 0; k < group_size(r->options); k++)
        if (r->children[k].pidfd >= 0 && n < max)
            items[n++] = (zmq_pollitem_t){.fd = r->children[k].pidfd, .events = ZMQ_POLLIN};
    return n;
}
