/* group_fixture.h - a worker group with real processes: the real worker, one with bad habits
 * (tests/chaos/faulty_worker.c), and the test program itself as a rank that keeps to no agreement.
 *
 * Every test ends with the same questions: is a child left, a descriptor, a file? */
#ifndef ASSAY_TEST_GROUP_FIXTURE_H
#define ASSAY_TEST_GROUP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/workers/group.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/control.h"
#include "schema/msg.h"

#define UNUSED __attribute__((unused)) /* by some of those that include this */
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
#define PATIENCE_MS 20000
#define DEMO "tests/models/demo"
#define HANGS 8 /* token ids that the faulty worker acts on */
#define SLOW 11

static UNUSED int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 3; /* ".", "..", d itself */
}

/* ---- a rank that keeps to no agreement: what it does is the last part of --model ---- */

struct fake {
    const char *habit;
    uint32_t rank, tp;
    uint64_t incarnation;
    int input_fd, output_fd;
    void *socket;
    struct stage_view *stage;
    struct msg_writer writer;
};

static UNUSED const char *argument(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    _exit(64);
}

static UNUSED void say(struct fake *f, struct control c)
{
    control_encode(&c, &f->writer);
    zmq_send(f->socket, f->writer.buffer.data, f->writer.buffer.size, 0);
}

static UNUSED void say_done(struct fake *f, struct stage_token token, uint64_t digest)
{
    say(f, (struct control){.type = CONTROL_DONE,
               .rank = (int32_t)f->rank,
               .incarnation = f->incarnation,
               .token = token,
               .digest = digest});
}

/* Things that are not an answer to this RUN. */
static UNUSED void say_nonsense(struct fake *f, struct stage_token t)
{
    struct control ready = {.type = CONTROL_READY, .rank = 1, .incarnation = f->incarnation};
    say_done(
        f, (struct stage_token){t.epoch + 1, t.incarnation, t.sequence, t.slot, t.generation}, 1);
    say_done(
        f, (struct stage_token){t.epoch, t.incarnation + 1, t.sequence, t.slot, t.generation}, 1);
    say_done(
        f, (struct stage_token){t.epoch, t.incarnation, t.sequence + 1, t.slot, t.generation}, 1);
    say_done(
        f, (struct stage_token){t.epoch, t.incarnation, t.sequence, t.slot, t.generation - 1}, 1);
    say_done(
        f, (struct stage_token){t.epoch, t.incarnation, t.sequence, UINT32_MAX, t.generation}, 1);
    say(f, ready); /* of another rank */
    ready.rank = -1;
    say(f, ready);
    ready.rank = 0;
    ready.incarnation--;
    say(f, ready); /* of an earlier incarnation */
    say(f, (struct control){.type = CONTROL_RUN, .incarnation = f->incarnation, .token = t});
    zmq_send(f->socket, "\xc1", 1, 0);
    zmq_send(f->socket, "", 0, 0);
    zmq_send(f->socket, "two", 3, ZMQ_SNDMORE);
    zmq_send(f->socket, "frames", 6, 0);
}

static UNUSED void answer(struct fake *f, const struct stage_token *token)
{
    const char *h = f->habit;
    struct stage_batch b;
    float values[64] = {0};
    if (strcmp(h, "exits") == 0)
        _exit(5);
    if (strcmp(h, "fails") == 0)
        say(f, (struct control){.type = CONTROL_FAILED,
                   .rank = (int32_t)f->rank,
                   .incarnation = f->incarnation,
                   .token = *token,
                   .message = "no such luck"});
    if (stage_read(f->stage, token, &b, NULL) != 0 || b.n_values > 64)
        _exit(65);
    for (uint32_t i = 0; i < b.n_values; i++)
        values[i] = 0.5f;
    if (strcmp(h, "writes-less") == 0)
        b.n_values--;
    if (f->rank == 0 && strcmp(h, "writes-nothing") != 0)
        stage_write(f->stage, token, values, b.n_values, NULL);
    if (strcmp(h, "nonsense") == 0)
        say_nonsense(f, *token);
    if (strcmp(h, "one-for-all") == 0 && f->rank == 0) { /* rank 1 never says that it is done */
        say_done(f, *token, 1);
        f->rank = 1;
        say_done(f, *token, 1);
        f->rank = 0;
    }
    if (strcmp(h, "one-for-all") != 0 || f->rank == 0)
        say_done(f, *token, strcmp(h, "disagrees") == 0 ? f->rank : 1);
    if (strcmp(h, "nonsense") == 0)
        say_done(f, *token, 1); /* once more: it is over */
}

static UNUSED void serve(struct fake *f)
{
    for (;;) {
        struct control c;
        uint8_t bytes[1024];
        int n = zmq_recv(f->socket, bytes, sizeof bytes, 0);
        if (n < 0 || control_decode(&c, bytes, (size_t)n, NULL) != 0)
            _exit(66);
        if (c.type == CONTROL_RUN)
            answer(f, &c.token);
        else if (c.type == CONTROL_STOP && strcmp(f->habit, "never-stops") != 0)
            _exit(0);
    }
}

/* A rank that says again and again that it is done with the group's first batch, and an idle
 * one. */
static UNUSED void say_early(struct fake *f)
{
    for (;; poll(NULL, 0, 20))
        if (f->rank == 1)
            say_done(f, (struct stage_token){7, f->incarnation, 1, 0, 1}, 1);
}

static UNUSED void fake_worker(int argc, char **argv)
{
    const char *habit = strrchr(argument(argc, argv, "--model"), '/');
    char name[8];
    struct fake f = {.habit = habit ? habit + 1 : "",
        .rank = (uint32_t)atoi(argument(argc, argv, "--rank")),
        .tp = (uint32_t)atoi(argument(argc, argv, "--tp")),
        .incarnation = strtoull(argument(argc, argv, "--incarnation"), NULL, 10),
        .input_fd = atoi(argument(argc, argv, "--input-fd")),
        .output_fd = atoi(argument(argc, argv, "--output-fd"))};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int n_given = atoi(argument(argc, argv, "--pp")) > 1 ? 5 : 4;
    if (count_descriptors() != 3 + n_given) /* what spawn.h promises: nothing else was inherited */
        _exit(67);
    if (stage_attach(&f.stage, f.input_fd, f.output_fd, f.rank, NULL) != 0)
        _exit(68);
    snprintf(name, sizeof name, "r%u", f.rank);
    f.socket = zmq_socket(zmq_ctx_new(), ZMQ_DEALER);
    zmq_setsockopt(f.socket, ZMQ_ROUTING_ID, name, strlen(name));
    zmq_connect(f.socket, argument(argc, argv, "--control"));
    msg_writer_init(&f.writer);
    if (strcmp(f.habit, "half-ready") != 0 || f.rank == 0)
        say(&f, (struct control){.type = CONTROL_READY,
                    .rank = (int32_t)f.rank,
                    .incarnation = f.incarnation,
                    .pid = (int32_t)getpid()});
    if (strcmp(f.habit, "early") == 0)
        say_early(&f);
    serve(&f);
}

/* ---- the owner ---- */

struct scene {
    void *zmq;
    int n_descriptors;
    char dir[64], here[PATH_MAX], path[PATH_MAX + 32], habit[64]; /* the options point to them */
    struct group *group;
};

static UNUSED int setup(void **state)
{
    struct scene *s = xcalloc(1, sizeof *s);
    s->n_descriptors = count_descriptors();
    s->zmq = zmq_ctx_new();
    snprintf(s->dir, sizeof s->dir, "/tmp/assay-group-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    ssize_t n = readlink("/proc/self/exe", s->here, sizeof s->here - 1);
    assert_true(n > 0);
    *state = s;
    return 0;
}

/* No process, descriptor or file is left of the group, whatever state it was in. */
static UNUSED int teardown(void **state)
{
    struct scene *s = *state;
    group_free(&s->group);
    int child_left = waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD;
    zmq_ctx_term(s->zmq);
    int dir_left = rmdir(s->dir), n = count_descriptors() - s->n_descriptors;
    if (child_left || dir_left || n != 0)
        print_error("left: child %d, file %d, descriptors %d\n", child_left, dir_left, n);
    free(s);
    return child_left || dir_left || n != 0;
}

/* A program of this build tree, by its path from build/X. */
static UNUSED const char *program(struct scene *s, const char *path)
{
    char here[PATH_MAX];
    snprintf(here, sizeof here, "%s", s->here);
    *strrchr(here, '/') = '\0';
    *strrchr(here, '/') = '\0';
    snprintf(s->path, sizeof s->path, "%s/%s", here, path);
    return s->path;
}

static UNUSED struct group_options options_for(
    struct scene *s, const char *worker, const char *model, uint32_t tp)
{
    return (struct group_options){.worker_path = worker,
        .model_dir = model,
        .run_dir = s->dir,
        .zmq_context = s->zmq,
        .tp = tp,
        .pp = 1,
        .threads = 1,
        .isa = "auto",
        .quant = "none",
        .dtype = "auto",
        .weights = "auto",
        .activations = "auto",
        .head = "auto",
        .max_batch_tokens = 512,
        .max_len = 256,
        .stage =
            {.n_slots = 2, .max_rows = 8, .max_tokens = 512, .max_positions = 8, .max_values = 64},
        .epoch = 7,
        .hang_ms = 2000,
        .start_ms = PATIENCE_MS};
}

static UNUSED void make_group(struct scene *s, const struct group_options *options)
{
    struct err e = {0};
    assert_int_equal(group_new(&s->group, options, &e), 0);
    assert_int_equal(group_state(s->group), GROUP_DEAD);
}

static UNUSED void make_fakes(struct scene *s, const char *habit, uint32_t tp)
{
    snprintf(s->habit, sizeof s->habit, "fake/%s", habit);
    struct group_options options = options_for(s, s->here, s->habit, tp);
    options.hang_ms = 400;
    make_group(s, &options);
}

/* As the broker's loop does: what is due, then sleep until the time that the group says or a
 * descriptor is readable; a deadline that it forgets to tell is missed here too. */
static UNUSED void sleep_until(struct scene *s, long long next_ms, long long until_ms)
{
    zmq_pollitem_t items[GROUP_MAX_RANKS + 1];
    long long now_ms = now_mono_ms();
    int n = group_poll_items(s->group, items, GROUP_MAX_RANKS + 1);
    next_ms = next_ms < until_ms ? next_ms : until_ms;
    zmq_poll(items, n, next_ms > now_ms ? next_ms - now_ms : 0);
}

static UNUSED void wait_for(struct scene *s, enum group_state state)
{
    long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
    while (next_ms = group_tick(s->group, now_mono_ms()),
        group_state(s->group) != state && now_mono_ms() < until_ms)
        sleep_until(s, next_ms, until_ms);
    assert_int_equal(group_state(s->group), state);
}

/* Until the group has ended this incarnation. */
static UNUSED const char *wait_for_failure(struct scene *s, int *exit_code)
{
    int64_t before = group_restarts(s->group);
    long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
    while (next_ms = group_tick(s->group, now_mono_ms()),
        group_restarts(s->group) == before && now_mono_ms() < until_ms)
        sleep_until(s, next_ms, until_ms);
    assert_int_equal(group_restarts(s->group), before + 1);
    return group_last_failure(s->group, exit_code);
}

static UNUSED struct batch *take(struct scene *s, enum batch_outcome expected)
{
    struct batch *b = NULL;
    long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
    while (next_ms = group_tick(s->group, now_mono_ms()),
        !(b = group_take(s->group)) && now_mono_ms() < until_ms)
        sleep_until(s, next_ms, until_ms);
    assert_non_null(b);
    assert_int_equal(b->outcome, expected);
    return b;
}

/* Rows of n_tokens tokens, the first of them `first`, the others harmless. */
static UNUSED struct batch *make_batch(uint32_t n_rows, uint32_t n_tokens, int32_t first)
{
    struct batch *b = batch_new(n_rows, 0);
    for (uint32_t i = 0; i < n_rows; i++) {
        struct sequence *r = sequence_new(n_tokens, 0);
        r->pool.type = POOL_LAST;
        r->pool.activation = ACTIVATION_NONE;
        r->n_values = 1;
        for (uint32_t k = 0; k < n_tokens; k++)
            r->ids[k] = k == 0 ? first : (int32_t)(20 + 7 * i + k);
        batch_add(b, &r);
    }
    return b;
}

static UNUSED void run(struct scene *s, struct batch *b)
{
    struct err e = {0};
    assert_int_equal(group_run(s->group, &b, &e), 1);
    assert_null(b);
}

static UNUSED int pid_of(struct scene *s, uint32_t rank)
{
    uint32_t n;
    const struct group_rank_info *ranks = group_ranks(s->group, &n);
    assert_true(rank < n && ranks[rank].ready && ranks[rank].pid > 0);
    return ranks[rank].pid;
}

static UNUSED void assert_text_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("expected '%s' in '%s'", part, text);
}

#endif
