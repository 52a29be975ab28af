/* test_comm.c - the sum and the maximum over ranks, with real processes: the bits of a sum in rank
 * order, and peers that die, stop or never come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schema/clock.h"
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
        for (uint64_t k = 0; k < n; k++)
            x[k] = part(rank, k, t);
        comm_all_reduce_max(c, x, n);
        for (uint64_t k = 0; k < n; k++) {
            float largest = part(0, k, t);
            for (uint32_t r = 1; r < n_ranks; r++)
                largest = part(r, k, t) > largest ? part(r, k, t) : largest;
            if (memcmp(&largest, &x[k], sizeof largest) != 0)
                return 4;
        }
    }
    comm_free(&c);
    return c == NULL ? 0 : 3;
}

static void check(uint32_t n_ranks, uint64_t n)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(n_ranks), &e), status, failed = 0;
    pid_t pids[STAGE_MAX_RANKS];
    assert_true(fd >= 0);
    for (uint32_t r = 0; r < n_ranks; r++)
        if ((pids[r] = fork()) == 0)
            _exit(run_rank(fd, r, n_ranks, n, malloc((n + 1) * sizeof(float))));
    for (uint32_t r = 0; r < n_ranks; r++) {
        waitpid(pids[r], &status, 0);
        failed += status != 0;
    }
    close(fd);
    assert_int_equal(failed, 0);
}

static void test_sums_in_rank_order_and_maxima(void **unused)
{
    static const uint32_t ranks[] = {2, 3, 4, 8};
    static const uint64_t sizes[] = {0, 1, 3, 1000, STAGE_COMM_FLOATS - 1, STAGE_COMM_FLOATS,
        STAGE_COMM_FLOATS + 1, 3 * STAGE_COMM_FLOATS + 5};
    (void)unused;
    for (size_t k = 0; k < sizeof ranks / sizeof ranks[0]; k++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            check(ranks[k], sizes[i]);
    check(STAGE_MAX_RANKS, 1000);
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

/* Shares and gathers, with sums between them; odd sizes, more than one piece. */
static int exchange_rank(int fd, uint32_t rank, uint32_t n_ranks, size_t n)
{
    struct comm *c = NULL;
    struct err e = {0};
    if (comm_new(&c, fd, rank, n_ranks, 10000, &e) != 0)
        return 1;
    uint8_t *bytes = malloc(n + 1), all[STAGE_MAX_RANKS][5];
    float x = (float)rank;
    for (uint8_t t = 0; t < 5; t++) {
        uint8_t mine[5] = {(uint8_t)rank, t, 7, (uint8_t)(rank * t), 9};
        memset(bytes, rank == 0 ? t + 1 : 0xee, n + 1);
        bytes[n / 2] = rank == 0 ? 200 : 0;
        comm_share(c, bytes, n);
        for (size_t i = 0; i < n; i++)
            if (bytes[i] != (i == n / 2 ? 200 : t + 1))
                return 2;
        if (bytes[n] != (rank == 0 ? t + 1 : 0xee) && n > 0)
            return 3;
        comm_all_reduce(c, &x, 1);
        comm_gather(c, mine, all, sizeof mine);
        for (uint32_t r = 0; r < n_ranks; r++)
            if (all[r][0] != r || all[r][1] != t || all[r][2] != 7 || all[r][3] != r * t ||
                all[r][4] != 9)
                return 4;
    }
    free(bytes);
    comm_free(&c);
    return 0;
}

static void check_exchange(uint32_t n_ranks, size_t n)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(n_ranks), &e), status, failed = 0;
    pid_t pids[STAGE_MAX_RANKS];
    assert_true(fd >= 0);
    for (uint32_t r = 0; r < n_ranks; r++)
        if ((pids[r] = fork()) == 0)
            _exit(exchange_rank(fd, r, n_ranks, n));
    for (uint32_t r = 0; r < n_ranks; r++) {
        waitpid(pids[r], &status, 0);
        failed += status != 0;
    }
    close(fd);
    assert_int_equal(failed, 0);
}

static void test_shares_and_gathers(void **unused)
{
    static const size_t sizes[] = {
        1, 128, 4 * STAGE_COMM_FLOATS, 4 * STAGE_COMM_FLOATS + 1, 9 * STAGE_COMM_FLOATS + 3};
    (void)unused;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_exchange(2, sizes[i]);
        check_exchange(5, sizes[i]);
    }
    assert_int_equal(exchange_rank(-1, 0, 1, 100), 0);
}

/* A rank that meets its peers for ever; its last words go to `words`. */
static _Noreturn void meet_for_ever(
    int fd, uint32_t rank, uint32_t n_ranks, uint32_t deadline_ms, int words)
{
    struct comm *c = NULL;
    struct err e = {0};
    float x[4] = {0};
    dup2(words, 2);
    if (comm_new(&c, fd, rank, n_ranks, 600000, &e) != 0)
        _exit(1);
    comm_set_deadline(c, deadline_ms);
    for (;;)
        comm_all_reduce(c, x, 4);
}

/* Of three ranks the last gets `number` (0: it never starts) while they meet. The others must end
 * by the deadline, with that rank's name as their last words. */
static void check_missing(int number)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(3), &e), status[3], words[2];
    pid_t pids[3];
    char text[2048] = "";
    assert_int_equal(pipe(words), 0);
    for (uint32_t r = 0; r < 3; r++)
        if ((pids[r] = fork()) == 0) {
            if (r == 2 && number == 0)
                _exit(0);
            meet_for_ever(fd, r, 3, 300, words[1]);
        }
    usleep(50000);
    long long began_ms = now_mono_ms();
    if (number != 0)
        kill(pids[2], number);
    for (int r = 0; r < 2; r++)
        waitpid(pids[r], &status[r], 0);
    long long took_ms = now_mono_ms() - began_ms;
    kill(pids[2], SIGKILL);
    waitpid(pids[2], &status[2], 0);
    close(words[1]);
    ssize_t n = 0, got;
    while ((got = read(words[0], text + n, sizeof text - 1 - (size_t)n)) > 0)
        n += got;
    close(words[0]);
    close(fd);
    for (int r = 0; r < 2; r++) {
        assert_true(WIFEXITED(status[r]));
        assert_int_equal(WEXITSTATUS(status[r]), COMM_EXIT_DEADLINE);
    }
    assert_non_null(strstr(text, "missing=2 of=3"));
    assert_in_range(took_ms, 200, 5000);
}

static void test_missing_peers(void **unused)
{
    (void)unused;
    check_missing(0);
    check_missing(SIGKILL);
    check_missing(SIGSTOP);
}

/* Waiting costs no CPU: a rank that waits half a second uses little of it. */
static void test_waiting_is_asleep(void **unused)
{
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(2), &e), status, words[2];
    struct rusage used;
    (void)unused;
    assert_int_equal(pipe(words), 0);
    pid_t pid = fork();
    if (pid == 0)
        meet_for_ever(fd, 0, 2, 500, words[1]); /* rank 1 never comes */
    assert_int_equal(wait4(pid, &status, 0, &used), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == COMM_EXIT_DEADLINE);
    assert_true(used.ru_utime.tv_sec + used.ru_stime.tv_sec == 0 &&
                used.ru_utime.tv_usec + used.ru_stime.tv_usec < 200000);
    close(words[0]);
    close(words[1]);
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
    assert_true(comm_new(&c, fd, 0, STAGE_MAX_RANKS + 1, 100, &e) < 0);
    assert_true(comm_new(&c, -1, 0, 2, 100, &e) < 0);
    assert_null(c);
    comm_free(&c); /* nothing to free */
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums_in_rank_order_and_maxima),
        cmocka_unit_test(test_alone), cmocka_unit_test(test_shares_and_gathers),
        cmocka_unit_test(test_missing_peers), cmocka_unit_test(test_waiting_is_asleep),
        cmocka_unit_test(test_bad_arguments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
