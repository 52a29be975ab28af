/* test_stage.c - the staging segments: hand-over between two processes, stale tokens, and whatever
 * a peer may have written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schema/msg.h"
#include "shm/stage.h"

static const struct stage_config config = {2, 4, 100, 10, 50};

static const int32_t ids_a[] = {1, 2, 3}, ids_b[] = {4, 5}, positions_b[] = {1, 0};
static const int32_t *const ids[] = {ids_a, ids_b}, *const positions[] = {NULL, positions_b};
static const struct stage_row rows[] = {{3, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0},
    {2, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 2, 2, 0}};
static const struct stage_fill fill = {2, rows, ids, positions};

struct pair {
    struct stage *stage;
    struct stage_view *view;
};

static void open_pair(struct pair *p)
{
    struct err e = {0};
    assert_int_equal(stage_new(&p->stage, &config, &e), 0);
    assert_int_equal(
        stage_attach(&p->view, stage_input_fd(p->stage), stage_output_fd(p->stage), 0, &e), 0);
}

static void close_pair(struct pair *p)
{
    stage_detach(&p->view);
    stage_free(&p->stage);
    assert_null(p->stage);
}

static void test_round_trip(void **unused)
{
    struct pair p;
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    const float out[] = {0.5f, 1.5f, 2.5f};
    float *found;
    uint32_t n;
    (void)unused;
    open_pair(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_free_slots(p.stage), 1);
    assert_int_equal(stage_read(p.view, &token, &b, &e), 0);
    assert_true(b.n_rows == 2 && b.n_tokens == 5 && b.n_positions == 2 && b.n_values == 3);
    assert_true(b.ids[0] == 1 && b.ids[4] == 5 && b.positions[0] == 1 && b.cu_seqlens[1] == 3 &&
                b.cu_seqlens[2] == 5);
    assert_true(stage_collect(p.stage, &token, &found, &n, &e) < 0); /* not written yet */
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), 0);
    assert_int_equal(stage_collect(p.stage, &token, &found, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(found, out, sizeof out);
    free(found);
    stage_release(p.stage, &token);
    assert_int_equal(stage_free_slots(p.stage), 2);
    assert_true(stage_collect(p.stage, &token, &found, &n, &e) < 0); /* not handed over any more */
    struct stage_token first = token;
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    assert_true(token.slot == first.slot && token.generation == first.generation + 1 &&
                token.sequence == first.sequence + 1);
    close_pair(&p);
}

static void test_stale_tokens(void **unused)
{
    struct pair p;
    struct stage_token first, second, other;
    struct stage_batch b;
    struct err e = {0};
    float *found;
    uint32_t n;
    (void)unused;
    open_pair(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &first, &e), 1);
    stage_revoke_all(p.stage);
    assert_int_equal(stage_publish(p.stage, 7, 2, &fill, &second, &e), 1);
    assert_int_equal(first.slot, second.slot);
    assert_true(second.generation > first.generation);
    assert_true(stage_read(p.view, &first, &b, &e) < 0);
    assert_int_equal(stage_write(p.view, &first, (float[]){1, 2, 3}, 3, &e), 0);
    assert_true(stage_collect(p.stage, &second, &found, &n, &e) < 0);
    assert_true(stage_collect(p.stage, &first, &found, &n, &e) < 0);
    for (int field = 0; field < 5; field++) {
        other = second;
        other.epoch += field == 0;
        other.incarnation += field == 1;
        other.sequence += field == 2;
        other.slot += (uint32_t)(field == 3) * 1000;
        other.generation += field == 4;
        assert_true(stage_read(p.view, &other, &b, &e) < 0);
        stage_release(p.stage, &other);
        assert_int_equal(stage_free_slots(p.stage), 1);
    }
    close_pair(&p);
}

static void test_slots_and_capacities(void **unused)
{
    struct pair p;
    struct stage_token token;
    struct err e = {0};
    struct stage_row many[5], big = {101, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0};
    static int32_t zeros[101];
    const int32_t *lists[] = {zeros, zeros, zeros, zeros, zeros}, *none[5] = {NULL};
    (void)unused;
    open_pair(&p);
    for (int i = 0; i < 5; i++)
        many[i] = (struct stage_row){1, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){5, many, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    big = (struct stage_row){1, {POOL_ALL, ACTIVATION_NONE, -1}, 0, 51, 0};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    big = (struct stage_row){1, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 11, 1, 0};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, lists}, &token, &e),
        ASSAY_ETOOLARGE);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 0); /* all taken */
    close_pair(&p);
}

/* Offsets of the format (stage.c). */
enum {
    INPUT_SLOT_0 = 4096,
    OUTPUT_SLOT_0 = 8192,
    IN_ROWS = 32,
    IN_TOKENS = 36,
    IN_POSITIONS = 40,
    IN_VALUES = 44,
    IN_SEQUENCE = 48,
    ROW_0 = 64,
    ROW_1 = 64 + 28,
    ROW_TOKENS = 0,
    ROW_POOL = 4,
    ROW_ACTIVATION = 8,
    ROW_POSITIONS = 16,
    ROW_VALUES = 20,
    ROW_SHARED = 24,
    POSITIONS_AT = 64 + 128 + 448, /* rows [4] and ids [100], rounded up to 64 */
    OUT_VALUES = 32,
    OUT_SEQUENCE = 40,
};

/* The input segment as the broker sees it: its own mapping, the only one that can be written
 * through. */
static uint8_t *find_writable(struct pair *p)
{
    struct stat st;
    char line[512], mode[8];
    unsigned long from, inode;
    uint8_t *at = NULL;
    FILE *f = fopen("/proc/self/maps", "re");
    assert_int_equal(fstat(stage_input_fd(p->stage), &st), 0);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%lx-%*x %7s %*x %*s %lu", &from, mode, &inode) == 3 &&
            inode == st.st_ino && mode[1] == 'w')
            at = (uint8_t *)from;
    fclose(f);
    assert_non_null(at);
    return at;
}

/* Leave ten valid positions in the rank's private copy, so that only a check of the count keeps it
 * from reading on behind them. */
static void read_many_positions(struct pair *p)
{
    static const int32_t zeros[10];
    static const int32_t *const at[] = {zeros};
    static const struct stage_row row[] = {{3, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 10, 10, 0}};
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    struct stage_fill many = {1, row, ids, at};
    assert_int_equal(stage_publish(p->stage, 7, 1, &many, &token, &e), 1);
    assert_int_equal(stage_read(p->view, &token, &b, &e), 0);
    stage_release(p->stage, &token);
}

/* Each field of descriptor and rows, set to what it must not be: refused, every one. */
static void test_corrupted_fields_of_a_batch(void **unused)
{
    static const struct {
        uint32_t at, value;
    } bad[] = {{0, 8}, {4, 1}, {8, 2}, {12, 1}, {16, 3}, {24, 1}, {28, 7}, {IN_ROWS, 0},
        {IN_ROWS, 1}, {IN_ROWS, 3}, {IN_ROWS, 5}, {IN_ROWS, UINT32_MAX}, {IN_TOKENS, 0},
        {IN_TOKENS, 4}, {IN_TOKENS, 6}, {IN_TOKENS, 101}, {IN_TOKENS, UINT32_MAX},
        {IN_POSITIONS, 1}, {IN_POSITIONS, 3}, {IN_POSITIONS, 11}, {IN_VALUES, 2}, {IN_VALUES, 4},
        {IN_VALUES, 51}, {IN_SEQUENCE, 0}, {IN_SEQUENCE, 1}, {IN_SEQUENCE, 3}, {IN_SEQUENCE + 4, 1},
        {ROW_0 + ROW_TOKENS, 0}, {ROW_0 + ROW_TOKENS, 2}, {ROW_0 + ROW_TOKENS, 4},
        {ROW_0 + ROW_TOKENS, UINT32_MAX}, {ROW_1 + ROW_TOKENS, UINT32_MAX - 2},
        {ROW_0 + ROW_POOL, POOL_DEFAULT}, {ROW_0 + ROW_POOL, 7}, {ROW_0 + ROW_POOL, UINT32_MAX},
        {ROW_0 + ROW_POOL, POOL_POSITIONS}, {ROW_1 + ROW_POOL, POOL_LAST},
        {ROW_1 + ROW_POOL, POOL_ALL}, {ROW_0 + ROW_ACTIVATION, ACTIVATION_DEFAULT},
        {ROW_0 + ROW_ACTIVATION, 5}, {ROW_1 + ROW_ACTIVATION, UINT32_MAX},
        {ROW_0 + ROW_POSITIONS, 1}, {ROW_0 + ROW_POSITIONS, 2}, {ROW_1 + ROW_POSITIONS, 0},
        {ROW_1 + ROW_POSITIONS, 1}, {ROW_1 + ROW_POSITIONS, 3}, {ROW_1 + ROW_POSITIONS, UINT32_MAX},
        {ROW_0 + ROW_VALUES, 0}, {ROW_0 + ROW_VALUES, UINT32_MAX}, {ROW_1 + ROW_VALUES, 3},
        {POSITIONS_AT, 2}, {POSITIONS_AT, UINT32_MAX}, {POSITIONS_AT + 4, 1u << 31}};
    struct pair p;
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    (void)unused;
    open_pair(&p);
    read_many_positions(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    uint8_t *slot = find_writable(&p) + INPUT_SLOT_0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint32_t *word = (uint32_t *)(slot + bad[i].at), good = *word;
        assert_int_not_equal(good, bad[i].value);
        *word = bad[i].value;
        e = (struct err){0};
        if (stage_read(p.view, &token, &b, &e) != ASSAY_EFORMAT || e.msg[0] == '\0')
            fail_msg("offset %u, value %u: expected to be refused", bad[i].at, bad[i].value);
        *word = good;
        assert_int_equal(stage_read(p.view, &token, &b, &e), 0);
    }
    close_pair(&p);
}

/* The broker reads what rank 0 wrote: another token, another count, or a write that did not come to
 * its end. */
static void test_corrupted_fields_of_a_result(void **unused)
{
    static const struct {
        uint32_t at, value;
    } bad[] = {{0, 8}, {4, 1}, {8, 2}, {12, 1}, {16, 2}, {20, 1}, {24, 1}, {28, 9}, {OUT_VALUES, 0},
        {OUT_VALUES, 2}, {OUT_VALUES, 4}, {OUT_VALUES, 51}, {OUT_VALUES, UINT32_MAX},
        {OUT_SEQUENCE, 0}, {OUT_SEQUENCE, 2}, {OUT_SEQUENCE + 4, 1}};
    struct pair p;
    struct stage_token token;
    struct err e = {0};
    const float out[] = {1, 2, 3};
    float *found;
    uint32_t n;
    (void)unused;
    open_pair(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), 0);
    uint8_t *segment =
        mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, stage_output_fd(p.stage), 0);
    assert_true(segment != MAP_FAILED);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint32_t *word = (uint32_t *)(segment + OUTPUT_SLOT_0 + bad[i].at), good = *word;
        assert_int_not_equal(good, bad[i].value);
        *word = bad[i].value;
        if (stage_collect(p.stage, &token, &found, &n, &e) != ASSAY_EFORMAT)
            fail_msg("offset %u, value %u: expected to be refused", bad[i].at, bad[i].value);
        *word = good;
        assert_int_equal(stage_collect(p.stage, &token, &found, &n, &e), 0);
        free(found);
    }
    /* What is collected is a copy. */
    assert_int_equal(stage_collect(p.stage, &token, &found, &n, &e), 0);
    memset(segment + OUTPUT_SLOT_0 + 64, 0xff, sizeof out);
    assert_memory_equal(found, out, sizeof out);
    free(found);
    munmap(segment, 12288);
    /* A rank that would write too much, or elsewhere. */
    static const float many[51];
    assert_int_equal(stage_write(p.view, &token, many, 51, &e), ASSAY_EFORMAT);
    token.slot = 2;
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), ASSAY_EFORMAT);
    token.slot = UINT32_MAX;
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), ASSAY_EFORMAT);
    close_pair(&p);
}

/* "Last" may be a position of its own, for rows that end in padding. */
static void test_last_with_a_position(void **unused)
{
    static const struct stage_row padded[] = {{3, {POOL_LAST, ACTIVATION_NONE, -1}, 1, 1, 0}};
    static const int32_t *const at[] = {positions_b};
    struct pair p;
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    (void)unused;
    open_pair(&p);
    struct stage_fill one = {1, padded, ids, at};
    assert_int_equal(stage_publish(p.stage, 7, 1, &one, &token, &e), 1);
    assert_int_equal(stage_read(p.view, &token, &b, &e), 0);
    assert_true(b.n_positions == 1 && b.positions[0] == 1);
    close_pair(&p);
}

/* Rows that leave out what their owner has: their own ids alone are in the slot, the tokens that
 * are there are counted, and what is said of the shared ones is checked. */
static void test_shared_tokens(void **unused)
{
    static const struct stage_row shared[] = {{5, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0},
        {6, {POOL_ALL, ACTIVATION_NONE, -1}, 0, 6, 3},
        {4, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 3},
        {2, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 2, 2, 0}};
    static const int32_t a[] = {1, 2, 3, 4, 5}, b[] = {1, 2, 3, 6, 7, 8}, c[] = {1, 2, 3, 9},
                         d[] = {10, 11}, at[] = {1, 1},
                         packed[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    static const int32_t *const lists[] = {a, b, c, d}, *const places[] = {NULL, NULL, NULL, at};
    static const uint32_t cu[] = {0, 5, 8, 9, 11};
    enum { ROW = 28 };
    static const struct {
        uint32_t row, field, value, tokens; /* tokens: the descriptor's too, where not 0 */
    } bad[] = {{0, ROW_SHARED, 1, 10}, {0, ROW_SHARED, UINT32_MAX, 0}, {1, ROW_SHARED, 6, 0},
        {1, ROW_SHARED, 5, 9}, {1, ROW_SHARED, 2, 12}, {1, ROW_SHARED, UINT32_MAX, 0},
        {2, ROW_SHARED, 2, 12}, {2, ROW_SHARED, 4, 0}, {2, ROW_TOKENS, 3, 10},
        {0, ROW_TOKENS, 2, 8}, {3, ROW_SHARED, 2, 9}, {3, ROW_SHARED, 1, 10}};
    struct pair p;
    struct stage_token token;
    struct stage_batch read;
    struct err e = {0};
    (void)unused;
    open_pair(&p);
    struct stage_fill four = {4, shared, lists, places};
    assert_int_equal(stage_publish(p.stage, 7, 1, &four, &token, &e), 1);
    assert_int_equal(stage_read(p.view, &token, &read, &e), 0);
    assert_int_equal(read.n_tokens, 11);
    assert_memory_equal(read.ids, packed, sizeof packed);
    assert_memory_equal(read.cu_seqlens, cu, sizeof cu);
    uint8_t *slot = find_writable(&p) + INPUT_SLOT_0;
    uint32_t *tokens = (uint32_t *)(slot + IN_TOKENS);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t *word = (uint32_t *)(slot + ROW_0 + ROW * bad[i].row + bad[i].field), good = *word;
        assert_int_not_equal(good, bad[i].value);
        *word = bad[i].value;
        *tokens = bad[i].tokens ? bad[i].tokens : 11;
        if (stage_read(p.view, &token, &read, &e) != ASSAY_EFORMAT)
            fail_msg("row %u: shared tokens of case %zu: expected to be refused", bad[i].row, i);
        *word = good;
    }
    *tokens = 11;
    assert_int_equal(stage_read(p.view, &token, &read, &e), 0);
    stage_release(p.stage, &token);
    struct stage_fill one = {1, shared, lists, places}; /* nobody before it to share with */
    assert_int_equal(stage_publish(p.stage, 7, 1, &one, &token, &e), 1);
    *(uint32_t *)(slot + ROW_0 + ROW_SHARED) = 1;
    *tokens = 4;
    assert_int_equal(stage_read(p.view, &token, &read, &e), ASSAY_EFORMAT);
    close_pair(&p);
}

/* A rank that writes into its input dies of it, and cannot allow itself to. */
static void test_ranks_cannot_write_the_input(void **unused)
{
    struct pair p;
    struct stat st;
    int status;
    (void)unused;
    open_pair(&p);
    int fd = stage_input_fd(p.stage);
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(at != MAP_FAILED);
    assert_int_equal(mprotect(at, 4096, PROT_READ | PROT_WRITE), -1);
    assert_true(write(fd, "x", 1) == -1 && ftruncate(fd, 0) == -1);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR); /* nor by way of another descriptor */
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
    close(again);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL); /* not cmocka's or a sanitizer's */
        *(volatile char *)at = 1;
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    munmap(at, 4096);
    for (int i = 0; i < 2; i++, fd = stage_output_fd(p.stage)) {
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_nlink, 0); /* no name */
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_true(st.st_blocks * 512 >= st.st_size); /* all of it is there */
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    close_pair(&p);
}

/* The rank of the next test: reads what each token names, answers through the segment and then the
 * pipe. Exit code 0 when the pipe ends. */
static int run_rank(struct stage *stage, int tokens, int done)
{
    struct stage_view *v;
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    int rc = stage_attach(&v, stage_input_fd(stage), stage_output_fd(stage), 3, &e);
    for (int turn = 0; rc == 0 && read(tokens, &token, sizeof token) == sizeof token; turn++) {
        rc = stage_read(v, &token, &b, &e);
        float values[3] = {(float)b.ids[0], (float)b.ids[4], (float)turn};
        if (rc == 0)
            rc = stage_write(v, &token, values, 3, &e);
        stage_bump(v);
        if (rc != 0 || write(done, &token, sizeof token) != sizeof token)
            return 1;
    }
    stage_detach(&v);
    return rc != 0;
}

/* A rank in a process of its own, through the inherited descriptors, two slots in flight. */
static void test_two_processes(void **unused)
{
    enum { TURNS = 2000 };
    struct stage *stage;
    struct stage_token token, back;
    struct err e = {0};
    float *values;
    uint32_t n;
    int status, told[2], done[2];
    (void)unused;
    assert_int_equal(stage_new(&stage, &config, &e), 0);
    assert_true(pipe(told) == 0 && pipe(done) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(told[1]);
        close(done[0]);
        _exit(run_rank(stage, told[0], done[1]));
    }
    close(told[0]);
    close(done[1]);
    for (int sent = 0, got = 0; got < TURNS; got++) {
        while (sent < TURNS && stage_publish(stage, 1, 1, &fill, &token, &e) == 1) {
            assert_int_equal(write(told[1], &token, sizeof token), sizeof token);
            sent++;
        }
        assert_int_equal(read(done[0], &back, sizeof back), sizeof back);
        assert_int_equal(stage_collect(stage, &back, &values, &n, &e), 0);
        assert_true(values[0] == 1 && values[1] == 5 && values[2] == (float)got);
        free(values);
        stage_release(stage, &back);
    }
    close(told[1]);
    close(done[0]);
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(stage_progress(stage, 3), TURNS);
    assert_int_equal(stage_progress(stage, 0), 0);
    stage_free(&stage);
}

static int attach(struct stage_view **v, int input_fd, int output_fd, uint32_t rank)
{
    struct err e = {0};
    int rc = stage_attach(v, input_fd, output_fd, rank, &e);
    if (rc != 0)
        assert_true(*v == NULL && e.msg[0] != '\0');
    return rc;
}

static void test_segments_that_are_none(void **unused)
{
    struct stage_view *v = NULL;
    struct stage *s = NULL, *other = NULL;
    struct err e = {0};
    struct stage_config wide = config;
    (void)unused;
    wide.max_rows++;
    assert_int_equal(stage_new(&s, &config, &e), 0);
    assert_int_equal(stage_new(&other, &wide, &e), 0);
    int zeros = stage_segment_new(65536, &e), small = stage_segment_new(100, &e);
    int in = stage_input_fd(s), out = stage_output_fd(s);
    assert_true(zeros >= 0 && small >= 0);
    assert_int_equal(attach(&v, zeros, zeros, 0), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, small, out, 0), ASSAY_EFORMAT);
    assert_true(attach(&v, -1, out, 0) < 0);
    assert_true(attach(&v, in, -1, 0) < 0);
    assert_true(attach(&v, in, in, 0) < 0); /* the output must be writable */
    assert_int_equal(attach(&v, in, stage_output_fd(other), 0), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, in, out, STAGE_MAX_RANKS), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, in, out, STAGE_MAX_RANKS - 1), 0);
    stage_detach(&v);
    stage_detach(&v);
    close(zeros);
    close(small);
    stage_free(&s);
    stage_free(&other);
}

/* A head of which any one bit is off is no head of ours. */
static void test_corrupted_heads(void **unused)
{
    struct pair p;
    struct stage_view *v = NULL;
    (void)unused;
    open_pair(&p);
    int in = stage_input_fd(p.stage), out = stage_output_fd(p.stage);
    uint32_t *head = (uint32_t *)find_writable(&p);
    for (int word = 0; word < 8; word++)
        for (int bit = 0; bit < 32; bit++) {
            head[word] ^= 1u << bit;
            assert_true(attach(&v, in, out, 0) < 0);
            head[word] ^= 1u << bit;
        }
    assert_int_equal(attach(&v, in, out, 0), 0);
    stage_detach(&v);
    struct err e = {0};
    int larger = stage_segment_new(65536, &e);
    assert_int_equal(pwrite(larger, head, 32, 0), 32);
    assert_int_equal(attach(&v, larger, out, 0), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, in, larger, 0), ASSAY_EFORMAT);
    close(larger);
    close_pair(&p);
}

static void test_sizes_out_of_range(void **unused)
{
    static const struct stage_config bad[] = {{0, 4, 100, 10, 50}, {17, 4, 100, 10, 50},
        {2, 0, 100, 10, 50}, {2, 4, 0, 10, 50}, {2, 4, 100, 10, 0}, {2, UINT32_MAX, 100, 10, 50},
        {2, 4, 1u << 29, 10, 50}, {2, 4, 100, UINT32_MAX, 50}, {2, 4, 100, 10, UINT32_MAX}};
    struct stage *s = NULL;
    struct err e = {0};
    (void)unused;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(stage_new(&s, &bad[i], &e), ASSAY_ETOOLARGE);
        assert_null(s);
    }
    stage_free(&s);
}

/* More than the machine has: refused at once, and the error says how much was wanted. */
static void test_memory_that_is_not_there(void **unused)
{
    struct err e = {0};
    (void)unused;
    assert_int_equal(stage_segment_new(1ull << 50, &e), ASSAY_ENOMEM);
    assert_non_null(strstr(e.msg, "wanted 1125899906842624 bytes"));
    assert_non_null(strstr(e.msg, "--max-batch-tokens"));
}

/* Nothing is in /dev/shm, at no time: a broker that is killed leaves nothing. */
static void test_segments_have_no_name(void **unused)
{
    struct err e = {0};
    char path[64], name[64] = "";
    (void)unused;
    int fd = stage_segment_new(4096, &e), seals = fcntl(fd, F_GET_SEALS);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    assert_true(readlink(path, name, sizeof name - 1) > 0);
    assert_int_equal(strncmp(name, "/memfd:assay", 12), 0);
    assert_int_equal(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
        F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    assert_true(ftruncate(fd, 0) == -1 && ftruncate(fd, 8192) == -1);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_stale_tokens), cmocka_unit_test(test_slots_and_capacities),
        cmocka_unit_test(test_corrupted_fields_of_a_batch),
        cmocka_unit_test(test_corrupted_fields_of_a_result),
        cmocka_unit_test(test_last_with_a_position), cmocka_unit_test(test_shared_tokens),
        cmocka_unit_test(test_ranks_cannot_write_the_input), cmocka_unit_test(test_two_processes),
        cmocka_unit_test(test_segments_that_are_none), cmocka_unit_test(test_corrupted_heads),
        cmocka_unit_test(test_sizes_out_of_range), cmocka_unit_test(test_memory_that_is_not_there),
        cmocka_unit_test(test_segments_have_no_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
