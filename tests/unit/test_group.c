/* test_group.c - a worker group with real processes: the real worker, one with bad habits
 * (tests/chaos/faulty_worker.c), and this program itself as a rank that keeps to no agreement.
 *
 * Every test ends with the same questions: is a child left, a descriptor, a file? */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/workers/group.h"
#include "schema/control.h"
#include "schema/msg.h"
#include "schema/log.h"

#define PATIENCE_MS 20000
#define DEMO "tests/models/demo"
#define HANGS 8 /* token ids that the faulty worker acts on */
#define SLOW 11

static int count_descriptors(void)
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

static const char *argument(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    _exit(64);
}

static void say(struct fake *f, struct control c)
{
    control_encode(&c, &f->writer);
    zmq_send(f->socket, f->writer.buffer.data, f->writer.buffer.size, 0);
}

static void say_done(struct fake *f, struct stage_token token, uint64_t digest)
{
    say(f, (struct control){.type = CONTROL_DONE,
               .rank = (int32_t)f->rank,
               .incarnation = f->incarnation,
               .token = token,
               .digest = digest});
}

/* Things that are not an answer to this RUN. */
static void say_nonsense(struct fake *f, struct stage_token t)
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

static void answer(struct fake *f, const struct stage_token *token)
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

static void serve(struct fake *f)
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

static void fake_worker(int argc, char **argv)
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
    if (count_descriptors() != 3 + 4) /* what spawn.h promises: nothing else was inherited */
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
    serve(&f);
}

/* ---- the owner ---- */

struct scene {
    void *zmq;
    int n_descriptors;
    char dir[64], here[PATH_MAX], path[PATH_MAX + 32], habit[64]; /* the options point to them */
    struct group *group;
};

static int setup(void **state)
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
static int teardown(void **state)
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
static const char *program(struct scene *s, const char *path)
{
    char here[PATH_MAX];
    snprintf(here, sizeof here, "%s", s->here);
    *strrchr(here, '/') = '\0';
    *strrchr(here, '/') = '\0';
    snprintf(s->path, sizeof s->path, "%s/%s", here, path);
    return s->path;
}

static struct group_options options_for(
    struct scene *s, const char *worker, const char *model, uint32_t tp)
{
    return (struct group_options){.worker_path = worker,
        .model_dir = model,
        .run_dir = s->dir,
        .zmq_context = s->zmq,
        .tp = tp,
        .threads = 1,
        .isa = "auto",
        .quant = "none",
        .dtype = "auto",
        .weights = "auto",
        .max_len = 256,
        .stage =
            {.n_slots = 2, .max_rows = 8, .max_tokens = 512, .max_positions = 8, .max_values = 64},
        .epoch = 7,
        .hang_ms = 2000,
        .start_ms = PATIENCE_MS};
}

static void make_group(struct scene *s, const struct group_options *options)
{
    struct err e = {0};
    assert_int_equal(group_new(&s->group, options, &e), 0);
    assert_int_equal(group_state(s->group), GROUP_DEAD);
}

static void make_fakes(struct scene *s, const char *habit, uint32_t tp)
{
    snprintf(s->habit, sizeof s->habit, "fake/%s", habit);
    struct group_options options = options_for(s, s->here, s->habit, tp);
    options.hang_ms = 400;
    make_group(s, &options);
}

/* As the broker's loop does: what is due, then sleep until the time that the group says or a
 * descriptor is readable; a deadline that it forgets to tell is missed here too. */
static void sleep_until(struct scene *s, long long next_ms, long long until_ms)
{
    zmq_pollitem_t items[GROUP_MAX_RANKS + 1];
    long long now_ms = now_mono_ms();
    int n = group_poll_items(s->group, items, GROUP_MAX_RANKS + 1);
    next_ms = next_ms < until_ms ? next_ms : until_ms;
    zmq_poll(items, n, next_ms > now_ms ? next_ms - now_ms : 0);
}

static void wait_for(struct scene *s, enum group_state state)
{
    long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
    while (next_ms = group_tick(s->group, now_mono_ms()),
        group_state(s->group) != state && now_mono_ms() < until_ms)
        sleep_until(s, next_ms, until_ms);
    assert_int_equal(group_state(s->group), state);
}

/* Until the group has ended this incarnation. */
static const char *wait_for_failure(struct scene *s, int *exit_code)
{
    int64_t before = group_restarts(s->group);
    long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
    while (next_ms = group_tick(s->group, now_mono_ms()),
        group_restarts(s->group) == before && now_mono_ms() < until_ms)
        sleep_until(s, next_ms, until_ms);
    assert_int_equal(group_restarts(s->group), before + 1);
    return group_last_failure(s->group, exit_code);
}

static struct batch *take(struct scene *s, enum batch_outcome expected)
{
    struct batch *b = NULL;
    enum batch_outcome outcome;
    long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
    while (next_ms = group_tick(s->group, now_mono_ms()),
        !group_take(s->group, &b, &outcome) && now_mono_ms() < until_ms)
        sleep_until(s, next_ms, until_ms);
    assert_non_null(b);
    assert_int_equal(outcome, expected);
    return b;
}

/* Rows of n_tokens tokens, the first of them `first`, the others harmless. */
static struct batch *make_batch(uint32_t n_rows, uint32_t n_tokens, int32_t first)
{
    struct batch *b = batch_new(n_rows, 0);
    for (uint32_t i = 0; i < n_rows; i++) {
        struct sequence *r = sequence_new(n_tokens, 0);
        r->pool_type = POOL_LAST;
        r->activation = ACTIVATION_NONE;
        r->n_values = 1;
        for (uint32_t k = 0; k < n_tokens; k++)
            r->ids[k] = k == 0 ? first : (int32_t)(20 + 7 * i + k);
        batch_add(b, &r);
    }
    return b;
}

static void run(struct scene *s, struct batch *b)
{
    struct err e = {0};
    assert_int_equal(group_run(s->group, &b, &e), 1);
    assert_null(b);
}

static int pid_of(struct scene *s, uint32_t rank)
{
    uint32_t n;
    const struct group_rank_info *ranks = group_ranks(s->group, &n);
    assert_true(rank < n && ranks[rank].ready && ranks[rank].pid > 0);
    return ranks[rank].pid;
}

static void assert_text_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("expected '%s' in '%s'", part, text);
}

/* ---- ranks that do as agreed ---- */

static void score(struct scene *s, uint32_t tp, float *values, uint32_t n)
{
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, tp);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    assert_int_equal(group_incarnation(s->group), 1);
    run(s, make_batch(n, 9, 20));
    struct batch *b = take(s, BATCH_DONE);
    assert_int_equal(b->n_values, n);
    memcpy(values, b->values, n * sizeof *values);
    batch_free(&b);
    group_stop(s->group);
    wait_for(s, GROUP_STOPPED);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(group_restarts(s->group), 0);
    group_free(&s->group);
    assert_null(s->group);
}

static void test_any_number_of_ranks(void **state)
{
    float one[5], many[5];
    score(*state, 1, one, 5);
    for (uint32_t tp = 2; tp <= 4; tp *= 2) {
        score(*state, tp, many, 5);
        for (int i = 0; i < 5; i++)
            assert_true(fabsf(one[i] - many[i]) <= 1e-5f * fmaxf(1, fabsf(one[i])));
    }
    assert_true(one[0] != one[1]);
}

static void test_slots_and_capacities(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 1);
    struct batch *b = make_batch(1, 4, 20), *large = make_batch(3, 200, 20);
    struct err e = {0};
    make_group(s, &options);
    assert_int_equal(group_run(s->group, &b, &e), 0); /* not READY */
    wait_for(s, GROUP_READY);
    assert_int_equal(group_free_slots(s->group), 2);
    assert_int_equal(group_run(s->group, &large, &e), ASSAY_ETOOLARGE);
    assert_non_null(large);
    assert_int_equal(group_free_slots(s->group), 2);
    run(s, make_batch(2, 4, 20));
    run(s, make_batch(1, 4, 21));
    assert_int_equal(group_in_flight(s->group), 2);
    assert_int_equal(group_run(s->group, &b, &e), 0);
    assert_non_null(b);
    batch_free(&b);
    batch_free(&large);
    for (uint32_t n = 2; n > 0; n--) {
        b = take(s, BATCH_DONE); /* in the order of hand-over */
        assert_int_equal(b->n_rows, n);
        batch_free(&b);
    }
    assert_int_equal(group_free_slots(s->group), 2);
    assert_int_equal(group_in_flight(s->group), 0);
}

static void test_stop_waits_for_batches(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 2);
    struct batch *b = make_batch(8, 4, SLOW);
    struct err e = {0};
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    group_stop(s->group);
    assert_int_equal(group_state(s->group), GROUP_DRAINING);
    assert_int_equal(group_run(s->group, &b, &e), 0);
    batch_free(&b);
    b = take(s, BATCH_DONE);
    batch_free(&b);
    wait_for(s, GROUP_STOPPED);
    assert_int_equal(group_restarts(s->group), 0);
}

static void test_freed_with_work_in_flight(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 2);
    make_group(s, &options);
    wait_for(s, GROUP_STARTING);
    group_free(&s->group);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    run(s, make_batch(8, 4, SLOW));
    group_stop(s->group); /* teardown frees it */
}

/* ---- ranks that die or stand still ---- */

static void test_a_killed_rank_ends_the_incarnation(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 2);
    int exit_code, old;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    run(s, make_batch(1, 4, SLOW));
    old = pid_of(s, 0);
    assert_int_equal(kill(pid_of(s, 1), SIGKILL), 0);
    assert_text_has(wait_for_failure(s, &exit_code), "rank 1 ended (signal 9)");
    assert_int_equal(exit_code, -1);
    assert_true(kill(old, 0) == -1 && errno == ESRCH); /* its peer is gone and reaped */
    assert_int_equal(group_free_slots(s->group), 0);
    struct batch *first = take(s, BATCH_LOST_RUNNING), *second = take(s, BATCH_LOST_WAITING);
    assert_true(first->n_rows == 8 && second->n_rows == 1 && !first->values);
    assert_int_equal(first->lost_signal, SIGKILL);
    batch_free(&first);
    wait_for(s, GROUP_READY);
    assert_int_equal(group_incarnation(s->group), 2);
    assert_int_equal(group_free_slots(s->group), 2);
    run(s, second);
    second = take(s, BATCH_DONE);
    batch_free(&second);
}

static void test_a_rank_killed_while_idle(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 4);
    int exit_code;
    make_group(s, &options);
    for (uint32_t rank = 0; rank < 4; rank += 3) {
        wait_for(s, GROUP_READY);
        kill(pid_of(s, rank), SIGABRT);
        assert_text_has(wait_for_failure(s, &exit_code), "ended (");
    }
    assert_int_equal(group_restarts(s->group), 2);
}

/* The clock begins when work is handed over, however long the rank stood still before. */
static void test_a_stopped_rank_is_a_hang(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 4);
    int exit_code;
    options.hang_ms = 500;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    kill(pid_of(s, 2), SIGSTOP);
    long long started_ms = now_mono_ms();
    run(s, make_batch(1, 4, 20));
    const char *why = wait_for_failure(s, &exit_code); /* both are true: what is looked at first */
    int is_hung = strstr(why, "hung") != NULL;
    assert_true(is_hung || strstr(why, "rank 2 is stopped by a signal"));
    assert_in_range(now_mono_ms() - started_ms, is_hung ? 500 : 0, 20000);
    struct batch *b = take(s, BATCH_LOST_RUNNING);
    batch_free(&b);
    wait_for(s, GROUP_READY);
}

static void test_a_rank_stopped_while_idle_or_starting(void **state)
{
    static const char *const habits[] = {"idle", "half-ready"}; /* the second never gets ready */
    struct scene *s = *state;
    for (int i = 0; i < 2; i++) {
        int exit_code;
        make_fakes(s, habits[i], 2);
        long long until_ms = now_mono_ms() + PATIENCE_MS, next_ms;
        uint32_t n;
        while (next_ms = group_tick(s->group, now_mono_ms()),
            !group_ranks(s->group, &n)[0].ready && now_mono_ms() < until_ms)
            sleep_until(s, next_ms, until_ms);
        if (i == 0)
            wait_for(s, GROUP_READY);
        assert_int_equal(kill(pid_of(s, 0), SIGSTOP), 0);
        assert_text_has(wait_for_failure(s, &exit_code), "rank 0 is stopped by a signal");
        group_free(&s->group);
    }
}

static void wait_until_stopped(int pid)
{
    char path[64], line[512] = "";
    long long until_ms = now_mono_ms() + PATIENCE_MS;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    while (!strstr(line, ") T ") && now_mono_ms() < until_ms) {
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof line, f));
        fclose(f);
    }
}

/* Stopped and let go again and again, as a tool does that keeps a process slow: it is alive. */
static void test_a_rank_that_is_stopped_at_times(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "idle", 1);
    wait_for(s, GROUP_READY);
    long long now_ms = now_mono_ms(); /* then a clock of our own */
    for (int i = 0; i < 12; i++) {    /* six times hang_ms */
        kill(pid_of(s, 0), SIGSTOP);
        wait_until_stopped(pid_of(s, 0));
        group_tick(s->group, now_ms += 200);
        kill(pid_of(s, 0), SIGCONT);
    }
    assert_int_equal(group_restarts(s->group), 0);
    assert_int_equal(group_state(s->group), GROUP_READY);
    kill(pid_of(s, 0), SIGSTOP);
    wait_until_stopped(pid_of(s, 0));
    long long until_ms = now_mono_ms() + PATIENCE_MS; /* its last thread may stop a little later */
    while (group_restarts(s->group) == 0 && now_mono_ms() < until_ms)
        group_tick(s->group, now_ms += 200);
    assert_int_equal(group_restarts(s->group), 1);
}

/* As after a suspend of all of them: the clock begins when it is seen again. */
static void test_an_owner_that_stood_still_with_its_rank(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "idle", 1);
    wait_for(s, GROUP_READY);
    kill(pid_of(s, 0), SIGSTOP);
    long long now_ms = now_mono_ms();
    for (int i = 0; i < 10; i++)
        now_ms = group_tick(s->group, now_ms + 100 * i) + 100000; /* a clock of our own */
    assert_int_equal(group_state(s->group), GROUP_READY);
    kill(pid_of(s, 0), SIGCONT);
}

static void test_an_owner_that_stood_still_blames_nobody(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1);
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(8, 4, SLOW));
    group_tick(s->group, now_mono_ms());
    group_tick(s->group, now_mono_ms() + 100000);
    assert_int_equal(group_state(s->group), GROUP_READY);
    struct batch *b = take(s, BATCH_DONE);
    batch_free(&b);
}

static void test_a_hang_while_draining(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "tests/chaos/faulty_worker"), DEMO, 1);
    options.hang_ms = 500;
    make_group(s, &options);
    wait_for(s, GROUP_READY);
    run(s, make_batch(1, 4, HANGS));
    group_stop(s->group);
    long long started_ms = now_mono_ms();
    wait_for(s, GROUP_STOPPED);
    assert_in_range(now_mono_ms() - started_ms, 400, 20000);
    struct batch *b = take(s, BATCH_LOST_RUNNING);
    batch_free(&b);
}

static void test_a_rank_that_does_not_stop(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "never-stops", 2);
    wait_for(s, GROUP_READY);
    long long started_ms = now_mono_ms();
    group_stop(s->group);
    wait_for(s, GROUP_STOPPED);
    assert_in_range(now_mono_ms() - started_ms, 400, 20000);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

/* ---- ranks that keep to no agreement ---- */

static void test_broken_agreements(void **state)
{
    static const struct {
        const char *habit, *words;
        int exit_code;
    } cases[] = {{"disagrees", "disagrees with the others", -1}, {"fails", "no such luck", -1},
        {"writes-nothing", "another hand-over", -1}, {"writes-less", "expected 3 values", -1},
        {"one-for-all", "hung", -1}, {"exits", "exit code 5", 5}};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int exit_code;
        make_fakes(s, cases[i].habit, 2);
        wait_for(s, GROUP_READY);
        run(s, make_batch(3, 4, 20));
        assert_text_has(wait_for_failure(s, &exit_code), cases[i].words);
        assert_int_equal(exit_code, cases[i].exit_code);
        struct batch *b = take(s, BATCH_LOST_RUNNING);
        assert_int_equal(b->lost_exit, exit_code);
        batch_free(&b);
        group_free(&s->group);
    }
}

static void test_messages_that_do_not_count(void **state)
{
    struct scene *s = *state;
    make_fakes(s, "nonsense", 1);
    wait_for(s, GROUP_READY);
    for (int i = 0; i < 3; i++) {
        run(s, make_batch(2, 4, 20));
        struct batch *b = take(s, BATCH_DONE);
        assert_true(b->values[0] == 0.5f && b->values[1] == 0.5f);
        batch_free(&b);
    }
    assert_int_equal(group_restarts(s->group), 0);
}

static void test_ready_is_every_rank(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, s->here, "fake/half-ready", 2);
    int exit_code;
    options.start_ms = 300;
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code), "not ready in time");
}

/* ---- starts that fail ---- */

static void test_back_off(void **state)
{
    static const long long expected[] = {
        0, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000}; /* ms */
    struct scene *s = *state;
    struct group_options options = options_for(s, "/nonexistent/assay-worker", DEMO, 2);
    zmq_pollitem_t items[GROUP_MAX_RANKS + 1];
    long long now_ms = 1000; /* a clock of our own: nobody waits 90 s */
    int exit_code;
    make_group(s, &options);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        long long next_ms = group_tick(s->group, now_ms);
        while (group_state(s->group) == GROUP_STARTING) {
            int n = group_poll_items(s->group, items, GROUP_MAX_RANKS + 1);
            assert_int_equal(n, 3);
            assert_true(zmq_poll(items, n, PATIENCE_MS) > 0);
            next_ms = group_tick(s->group, now_ms);
        }
        assert_int_equal(group_restarts(s->group), i + 1);
        assert_int_equal(next_ms - now_ms, expected[i]);
        if (expected[i] > 0)
            assert_int_equal(group_tick(s->group, next_ms - 1), next_ms);
        assert_int_equal(group_restarts(s->group), i + 1);
        now_ms = next_ms;
    }
    assert_text_has(group_last_failure(s->group, &exit_code), "exit code 127");
    assert_int_equal(exit_code, 127);
    group_stop(s->group);
    assert_int_equal(group_state(s->group), GROUP_STOPPED);
}

/* What does not pass is given up after three starts, all else after six. */
static void test_starts_that_are_hopeless(void **state)
{
    static const struct {
        const char *worker, *words;
        int starts, stays;
    } cases[] = {{"/nonexistent/assay-worker", "is a library missing?", 3, 1},
        {"/bin/false", "ended (exit code 1)", 6, 0}};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct group_options options = options_for(s, cases[i].worker, DEMO, 1);
        zmq_pollitem_t items[GROUP_MAX_RANKS + 1];
        long long now_ms = 1000; /* a clock of our own */
        int exit_code, n;
        make_group(s, &options);
        while (!group_is_hopeless(s->group)) {
            now_ms = group_tick(s->group, now_ms);
            while (group_state(s->group) == GROUP_STARTING) {
                n = group_poll_items(s->group, items, GROUP_MAX_RANKS + 1);
                assert_true(zmq_poll(items, n, PATIENCE_MS) > 0);
                now_ms = group_tick(s->group, now_ms);
            }
            assert_true(group_failed_starts(s->group) <= cases[i].starts);
        }
        assert_int_equal(group_failed_starts(s->group), cases[i].starts);
        assert_int_equal(group_failure_stays(s->group), cases[i].stays);
        assert_text_has(group_last_failure(s->group, &exit_code), cases[i].words);
        group_free(&s->group);
    }
}

static void test_bad_checkpoints(void **state)
{
    static const char *const models[] = {"/nonexistent", "tests/unit", "tests/models/demo.jsonl"};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct group_options options = options_for(s, program(s, "bin/assay-worker"), models[i], 2);
        int exit_code;
        make_group(s, &options);
        assert_text_has(wait_for_failure(s, &exit_code), models[i]); /* the rank's own words */
        assert_int_equal(exit_code, 78);
        group_free(&s->group);
    }
}

static void test_no_directory_for_a_socket(void **state)
{
    struct scene *s = *state;
    char dir[200];
    int exit_code;
    struct group_options options = options_for(s, s->here, "fake/", 1);
    memset(dir, 'd', sizeof dir - 1);
    dir[0] = '/';
    dir[sizeof dir - 1] = '\0';
    options.run_dir = dir;
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code), "directory '/dddd");
}

static void test_another_mode_is_not_ready(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, program(s, "bin/assay-worker"), DEMO, 1);
    int exit_code;
    options.mode = "device=cpu arithmetic=3 dtype=f32 quant=none tp=2 pp=1";
    make_group(s, &options);
    assert_text_has(wait_for_failure(s, &exit_code),
        "rank 0 computes otherwise than expected (device=cpu arithmetic=3 dtype=f32 quant=none "
        "tp=2 pp=1): "
        "device=cpu arithmetic=3 dtype=f32 quant=none tp=1 pp=1");
    group_free(&s->group);
    options.mode = "device=cpu arithmetic=3 dtype=f32 quant=none tp=1 pp=1";
    make_group(s, &options);
    wait_for(s, GROUP_READY);
}

static void test_options_out_of_range(void **state)
{
    struct scene *s = *state;
    struct group_options options = options_for(s, s->here, "fake/", 0);
    struct err e = {0};
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_EBADREQ);
    assert_null(s->group);
    options.tp = GROUP_MAX_RANKS + 1;
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_EBADREQ);
    assert_null(s->group);
    options.tp = 1;
    options.stage.n_slots = 0;
    assert_int_equal(group_new(&s->group, &options, &e), ASSAY_ETOOLARGE);
    assert_null(s->group);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(int argc, char **argv)
{
    if (argc > 1)
        fake_worker(argc, argv);
    const struct CMUnitTest tests[] = {TEST(test_any_number_of_ranks),
        TEST(test_slots_and_capacities), TEST(test_stop_waits_for_batches),
        TEST(test_freed_with_work_in_flight), TEST(test_a_killed_rank_ends_the_incarnation),
        TEST(test_a_rank_killed_while_idle), TEST(test_a_stopped_rank_is_a_hang),
        TEST(test_a_rank_stopped_while_idle_or_starting),
        TEST(test_a_rank_that_is_stopped_at_times),
        TEST(test_an_owner_that_stood_still_with_its_rank),
        TEST(test_an_owner_that_stood_still_blames_nobody), TEST(test_a_hang_while_draining),
        TEST(test_a_rank_that_does_not_stop), TEST(test_broken_agreements),
        TEST(test_messages_that_do_not_count), TEST(test_ready_is_every_rank), TEST(test_back_off),
        TEST(test_starts_that_are_hopeless), TEST(test_bad_checkpoints),
        TEST(test_no_directory_for_a_socket), TEST(test_another_mode_is_not_ready),
        TEST(test_options_out_of_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
