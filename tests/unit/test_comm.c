/* test_comm.c - the sum over ranks, with real processes: the bits of a sum in rank order, and a peer that does not come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/stage.h"
#include "worker/comm.h"

/* What rank r brings to element k of round t. */
static float part(uint32_t r, uint64_t k, uint32_t t)
{
    uint32_t x = (uint32_t)(k * 2654435761u + r * 40503u + t * 9176u);
    x ^= x >> 13;
    x *= 0x5bd1e995;
    return (float)(int32_t)x * 1e-6f;
}

static int run_rank(int fd, uint32_t rank, uint32_t n_ranks, uint64_t n, float *x)
{
    struct comm *c = NULL;
    struct err e = {0};
    if (comm_new(&c, fd, rank, n_ranks, 10000, &e) != 0)
        return 1;
    for (uint32_t t = 0; t < 5; t++) {
        for (uint64_t k = 0; k < n; k++)
            x[k] = part(rank, k, t);
        comm_all_reduce(c, x, n);
        for (uint64_t k = 0; k < n; k++) {
            float sum = part(0, k, t);
            for (uint32_t r = 1; r < n_ranks; r++)
                sum += part(r, k, t);
            if (memcmp(&sum, &x[k], sizeof sum) != 0)
                return 2;
        }
    }
    comm_free(&c);
    return c == NULL ? 0 : 3;
}

static void check(uint32_t n_ranks, uint64_t n)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(n_ranks), &e), status;
    pid_t pids[8];
    assert_true(fd >= 0);
    for (uint32_t r = 0; r < n_ranks; r++)
        if ((pids[r] = fork()) == 0)
            _exit(run_rank(fd, r, n_ranks, n, malloc((n + 1) * sizeof(float))));
    for (uint32_t r = 0; r < n_ranks; r++) {
        waitpid(pids[r], &status, 0);
        assert_int_equal(status, 0);
    }
    close(fd);
}

static void test_sums_in_rank_order(void **unused)
{
    static const uint64_t sizes[] = {0, 1, 3, 1000, STAGE_COMM_FLOATS - 1, STAGE_COMM_FLOATS,
        STAGE_COMM_FLOATS + 1, 3 * STAGE_COMM_FLOATS + 5};
    (void)unused;
    for (uint32_t ranks = 2; ranks <= 8; ranks += ranks == 4 ? 4 : 1)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            check(ranks, sizes[i]);
}

static void test_alone(void **unused)
{
    struct comm *c = NULL;
    struct err e = {0};
    float x[] = {1, 2};
    (void)unused;
    assert_int_equal(comm_new(&c, -1, 0, 1, 100, &e), 0);
    comm_all_reduce(c, x, 2);
    assert_true(x[0] == 1 && x[1] == 2);
    assert_true(comm_size(c) == 1 && comm_rank(c) == 0);
    comm_free(&c);
}

static void test_missing_peer_ends_the_process(void **unused)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(2), &e), status;
    pid_t pid = fork();
    (void)unused;
    if (pid == 0) {
        struct comm *c = NULL;
        float x[4] = {0};
        if (comm_new(&c, fd, 0, 2, 200, &e) == 0)
            comm_all_reduce(c, x, 4); /* rank 1 never comes */
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), COMM_EXIT_DEADLINE);
    close(fd);
}

static void test_bad_arguments(void **unused)
{
    struct comm *c = NULL;
    struct err e = {0};
    int fd = stage_segment_new(100, &e);
    (void)unused;
    assert_true(comm_new(&c, fd, 0, 2, 100, &e) < 0); /* segment too small */
    assert_null(c);
    assert_true(comm_new(&c, fd, 2, 2, 100, &e) < 0);
    assert_true(comm_new(&c, fd, 0, 0, 100, &e) < 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums_in_rank_order),
        cmocka_unit_test(test_alone), cmocka_unit_test(test_missing_peer_ends_the_process),
        cmocka_unit_test(test_bad_arguments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
