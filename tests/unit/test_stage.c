/* test_stage.c - the staging segments: hand-over between two processes, stale tokens, shared
 * tokens, and what a rank may not write. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "tests/unit/stage_fixture.h"

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
    struct stage_row many[5], big = {101, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0, 0};
    static int32_t zeros[101];
    const int32_t *lists[] = {zeros, zeros, zeros, zeros, zeros}, *none[5] = {NULL};
    (void)unused;
    open_pair(&p);
    for (int i = 0; i < 5; i++)
        many[i] = (struct stage_row){1, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0, 0};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){5, many, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    big = (struct stage_row){1, {POOL_ALL, ACTIVATION_NONE, -1}, 0, 51, 0, 0};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    big = (struct stage_row){1, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 11, 1, 0, 0};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, lists}, &token, &e),
        ASSAY_ETOOLARGE);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 0); /* all taken */
    close_pair(&p);
}

/* "Last" may be a position of its own, for rows that end in padding. */
static void test_last_with_a_position(void **unused)
{
    static const struct stage_row padded[] = {{3, {POOL_LAST, ACTIVATION_NONE, -1}, 1, 1, 0, 0}};
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
    static const struct stage_row shared[] = {{5, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 0, 0},
        {6, {POOL_ALL, ACTIVATION_NONE, -1}, 0, 6, 3, 0},
        {4, {POOL_LAST, ACTIVATION_NONE, -1}, 0, 1, 3, 0},
        {2, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 2, 2, 0, 0}};
    static const int32_t a[] = {1, 2, 3, 4, 5}, b[] = {1, 2, 3, 6, 7, 8}, c[] = {1, 2, 3, 9},
                         d[] = {10, 11}, at[] = {1, 1},
                         packed[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    static const int32_t *const lists[] = {a, b, c, d}, *const places[] = {NULL, NULL, NULL, at};
    static const uint32_t cu[] = {0, 5, 8, 9, 11};
    enum { ROW = 32 };
    static const struct {
        uint32_t row, field, value, tokens; /* tokens: the descriptor's too, where not 0 */
    } bad[] = {{0, ROW_SHARED, 1, 10}, {0, ROW_SHARED, UINT32_MAX, 0}, {1, ROW_SHARED, 6, 0},
        {1, ROW_SHARED, 5, 9}, {1, ROW_SHARED, 2, 12}, {1, ROW_SHARED, UINT32_MAX, 0},
        {2, ROW_SHARED, 2, 12}, {2, ROW_SHARED, 4, 0}, {2, ROW_TOKENS, 3, 10},
        {0, ROW_TOKENS, 2, 8}, {3, ROW_SHARED, 2, 9}, {3, ROW_SHARED, 1, 10},
        {0, ROW_ADAPTER, 1, 0}, {1, ROW_ADAPTER, 1, 0}, {2, ROW_ADAPTER, 2, 0}};
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_stale_tokens),
        cmocka_unit_test(test_slots_and_capacities),
        cmocka_unit_test(test_last_with_a_position),
        cmocka_unit_test(test_shared_tokens),
        cmocka_unit_test(test_ranks_cannot_write_the_input),
        cmocka_unit_test(test_two_processes),
        cmocka_unit_test(test_segments_have_no_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
