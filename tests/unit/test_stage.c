/* test_stage.c - the staging segments: hand-over between two processes, stale tokens, and whatever a peer may have written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/stage.h"

static const struct stage_config config = {2, 4, 100, 10, 50};

static const int32_t ids_a[] = {1, 2, 3}, ids_b[] = {4, 5}, positions_b[] = {1, 0};
static const int32_t *const ids[] = {ids_a, ids_b}, *const positions[] = {NULL, positions_b};
static const struct stage_row rows[] = {
    {3, POOL_LAST, ACTIVATION_NONE, -1, 0, 1}, {2, POOL_POSITIONS, ACTIVATION_NONE, -1, 2, 2}};
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
    const float out[] = {0.5f, 1.5f, 2.5f}, *found;
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
    stage_release(p.stage, &token);
    assert_int_equal(stage_free_slots(p.stage), 2);
    assert_true(stage_collect(p.stage, &token, &found, &n, &e) < 0); /* not handed over any more */
    close_pair(&p);
}

static void test_stale_tokens(void **unused)
{
    struct pair p;
    struct stage_token first, second, other;
    struct stage_batch b;
    struct err e = {0};
    const float *found;
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
    struct stage_row many[5], big = {101, POOL_LAST, ACTIVATION_NONE, -1, 0, 1};
    static int32_t zeros[101];
    const int32_t *lists[] = {zeros, zeros, zeros, zeros, zeros}, *none[5] = {NULL};
    (void)unused;
    open_pair(&p);
    for (int i = 0; i < 5; i++)
        many[i] = (struct stage_row){1, POOL_LAST, ACTIVATION_NONE, -1, 0, 1};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){5, many, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    big = (struct stage_row){1, POOL_ALL, ACTIVATION_NONE, -1, 0, 51};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, none}, &token, &e),
        ASSAY_ETOOLARGE);
    big = (struct stage_row){1, POOL_POSITIONS, ACTIVATION_NONE, -1, 11, 1};
    assert_int_equal(
        stage_publish(p.stage, 1, 1, &(struct stage_fill){1, &big, lists, lists}, &token, &e),
        ASSAY_ETOOLARGE);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 0); /* all taken */
    close_pair(&p);
}

/* A broker's slot with any one 32-bit word of descriptor or rows changed: read whole and right, or refused. */
static void test_corrupted_input(void **unused)
{
    struct pair p;
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    int refused = 0;
    (void)unused;
    open_pair(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", stage_input_fd(p.stage));
    int fd = open(path, O_RDWR); /* as root the segment's own mode does not stop this */
    if (fd < 0)
        skip();
    uint32_t *slot = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(slot != MAP_FAILED);
    for (size_t at = 4096 / 4; at < 4096 / 4 + 64; at++)
        for (int bit = 0; bit < 32; bit += 7) {
            slot[at] ^= 1u << bit;
            int rc = stage_read(p.view, &token, &b, &e);
            refused += rc < 0;
            if (rc == 0) {
                assert_true(
                    b.n_tokens == 5 && b.n_rows == 2 && b.n_values == 3 && b.cu_seqlens[2] == 5);
                for (uint32_t i = 0, k = 0; i < 2; i++)
                    for (uint32_t j = 0; j < b.rows[i].n_positions; j++, k++)
                        assert_true((uint32_t)b.positions[k] < b.rows[i].n_tokens);
            }
            slot[at] ^= 1u << bit;
        }
    assert_true(refused > 60);
    assert_int_equal(stage_read(p.view, &token, &b, &e), 0);
    munmap(slot, 8192);
    close(fd);
    close_pair(&p);
}

static void test_ranks_cannot_write_the_input(void **unused)
{
    struct pair p;
    (void)unused;
    open_pair(&p);
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, stage_input_fd(p.stage), 0) ==
                MAP_FAILED);
    struct stat st;
    assert_int_equal(fstat(stage_input_fd(p.stage), &st), 0);
    assert_int_equal(st.st_nlink, 0); /* no name */
    assert_true(fcntl(stage_input_fd(p.stage), F_GETFD) & FD_CLOEXEC);
    close_pair(&p);
}

/* A rank in a process of its own, through the inherited descriptors. */
static void test_two_processes(void **unused)
{
    struct pair p;
    struct stage_token token;
    struct err e = {0};
    int status, told[2];
    (void)unused;
    assert_int_equal(stage_new(&p.stage, &config, &e), 0);
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct stage_batch b;
        int rc = stage_attach(&p.view, stage_input_fd(p.stage), stage_output_fd(p.stage), 3, &e);
        for (int turn = 0; rc == 0 && turn < 1000; turn++) {
            if (read(told[0], &token, sizeof token) != sizeof token)
                _exit(2);
            rc = stage_read(p.view, &token, &b, &e);
            float values[3] = {(float)b.ids[0], (float)b.ids[4], (float)turn};
            if (rc == 0)
                rc = stage_write(p.view, &token, values, 3, &e);
            stage_bump(p.view);
        }
        _exit(rc == 0 ? 0 : 1);
    }
    for (int turn = 0; turn < 1000; turn++) {
        const float *values;
        uint32_t n;
        assert_int_equal(stage_publish(p.stage, 1, 1, &fill, &token, &e), 1);
        assert_int_equal(write(told[1], &token, sizeof token), sizeof token);
        while (stage_collect(p.stage, &token, &values, &n, &e) != 0)
            ;
        assert_true(values[0] == 1 && values[1] == 5 && values[2] == (float)turn);
        stage_release(p.stage, &token);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(stage_progress(p.stage, 3), 1000);
    assert_int_equal(stage_progress(p.stage, 0), 0);
    close(told[0]);
    close(told[1]);
    stage_free(&p.stage);
}

static void test_bad_segments(void **unused)
{
    struct stage_view *v = NULL;
    struct stage *s = NULL;
    struct err e = {0};
    int fd = stage_segment_new(65536, &e); /* zeros: no head */
    (void)unused;
    assert_true(fd >= 0);
    assert_true(stage_attach(&v, fd, fd, 0, &e) < 0);
    assert_null(v);
    close(fd);
    fd = stage_segment_new(100, &e);
    assert_true(stage_attach(&v, fd, fd, 0, &e) < 0);
    close(fd);
    struct stage_config huge = {2, 1, 1u << 29, 1, 1};
    assert_true(stage_new(&s, &huge, &e) < 0);
    assert_true(stage_segment_new(1ull << 45, &e) < 0);
    assert_non_null(strstr(e.msg, "35184372088832"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_stale_tokens), cmocka_unit_test(test_slots_and_capacities),
        cmocka_unit_test(test_corrupted_input), cmocka_unit_test(test_ranks_cannot_write_the_input),
        cmocka_unit_test(test_two_processes), cmocka_unit_test(test_bad_segments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
