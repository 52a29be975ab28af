/* test_round_rows.c - inputs of a product that are rounded to 8 bits, bit for bit:
 * - to int8 by their row's largest magnitude, as compressed-tensors 0.20.1 does it
 *   (calculate_qparams and fake_quantize of symmetric, dynamic int8 by token): the largest of a row
 *   lies at 127.5, where its last bits decide whether it is -127 or -128;
 * - to FP8 in groups, as transformers' FP8 does it: the numbers are PyTorch's, in float32;
 * - parts of rows on several ranks, as the whole rows are rounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/stage.h"
#include "worker/cpu/device.h"

enum { ROWS = 8, COLS = 4 };

static const struct {
    float x[COLS], rounded[COLS];
} rows[ROWS] = {
    /* -127.5, and a last place less and more: -128, -127, -128 */
    {{-0x1.814d42p+0f, -0x1.5e463cp+0f, 0x1.59985p-2f, 0x1.02d87ep+0f},
        {-0x1.82d012p+0f, -0x1.5e8c9p+0f, 0x1.5e8c9p-2f, 0x1.03e3ccp+0f}},
    {{-0x1.2c5798p+1f, 0x1.d9caf4p-1f, 0x1.16844p-2f, -0x1.5ddee8p+0f},
        {-0x1.2b2a14p+1f, 0x1.d71ffep-1f, 0x1.1aacccp-2f, -0x1.5ca1eap+0f}},
    {{-0x1.0abd0ap+2f, 0x1.7676e6p+0f, 0x1.e4fa9cp+1f, 0x1.129e0ap-2f},
        {-0x1.0bc8d2p+2f, 0x1.789268p+0f, 0x1.e55bfcp+1f, 0x1.0bc8d2p-2f}},
    /* the same of positive ones: 127 */
    {{0x1.c467b4p-1f, 0x1.660f0cp-3f, 0x1.6c744cp-4f, -0x1.3a394p-1f},
        {0x1.c2a186p-1f, 0x1.62d3d8p-3f, 0x1.710548p-4f, -0x1.3bcbe8p-1f}},
    {{0x1.34b532p+1f, 0x1.045bp+0f, -0x1.18a4b8p+1f, 0x1.b2da6cp-3f},
        {0x1.337f48p+1f, 0x1.057e62p+0f, -0x1.18dd14p+1f, 0x1.aa234ap-3f}},
    {{0x1.322574p+0f, -0x1.165098p+0f, 0x1.919048p-4f, 0x1.46070ep-1f},
        {0x1.30f21ap+0f, -0x1.168878p+0f, 0x1.802fp-4f, 0x1.468e58p-1f}},
    {{1, -0.25f, 0.5f, -1}, {0x1.fdfep-1f, -0x1.010102p-2f, 0x1.010102p-1f, -0x1.fdfep-1f}},
    {{0, 0, 0, 0}, {0, 0, 0, 0}},
};

static void test_by_magnitude(void **unused)
{
    static const struct rounding by_magnitude = {
        .how = ROUND_BY_MAGNITUDE, .numbers = PACKED_SIGNED};
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 2, .isa = "auto", .arena_bytes = 64};
    float x[ROWS][COLS];
    (void)unused;
    for (int i = 0; i < ROWS; i++)
        memcpy(x[i], rows[i].x, sizeof x[i]);
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    struct tensor found =
        cpu_round_rows(d, tensor_of(x, DTYPE_F32, ROWS, COLS, COLS), &by_magnitude);
    for (int i = 0; i < ROWS; i++)
        assert_memory_equal(row_of(found, i), rows[i].rounded, sizeof rows[i].rounded);
    cpu_ops.device->close(&d);
}

/* ---- FP8 in groups ---- */

enum { GROUP_ROWS = 4, GROUP_COLS = 10, GROUP = 4 };

/* The last group of a row has two columns. */
static const struct {
    float x[GROUP_COLS], rounded[GROUP_COLS];
} groups[GROUP_ROWS] = {
    {{-0x1.c2f45cp-2f, 0x1.2de0d4p+1f, 0x1.6b945ap+1f, -0x1.abe878p+1f, 0x1.44a1b8p+2f,
         -0x1.579d2ap+1f, -0x1.111ebap+0f, 0x1.d93c74p+1f, 0x1.a87766p-2f, -0x1.42fb6cp+2f},
        {-0x1.ca7914p-2f, 0x1.31a60cp+1f, 0x1.6ec742p+1f, -0x1.abe878p+1f, 0x1.44a1b8p+2f,
            -0x1.5bd1d6p+1f, -0x1.164178p+0f, 0x1.cfc274p+1f, 0x1.9f434p-2f, -0x1.42fb6cp+2f}},
    /* a group of zeros */
    {{0x1.454d76p-2f, 0x1.0ffd1ap-3f, 0x1.193d6p-3f, 0x1.eca372p-3f, 0, 0, 0, 0, 0x1.39ab56p+1f,
         0x1.0346ecp+1f},
        {0x1.454d76p-2f, 0x1.16d4aep-3f, 0x1.16d4aep-3f, 0x1.ff3096p-3f, 0, 0, 0, 0, 0x1.39ab56p+1f,
            0x1.0cdcp+1f}},
    /* scales below 1e-12, which the numbers are divided by instead */
    {{0x1.49da7ep-32f, -0x1.5fd7fep-37f, 0x1.b7cdfep-33f, 0, 0x1.6840fp-40f, -0x1.17ce06p-40f,
         0x1.fede92p-40f, -0x1.535f98p-41f, 0x1.c687aap-40f, 0x1.0fa6b8p-39f},
        {0x1.a818eap-33f, -0x1.d7382p-38f, 0x1.1abb48p-33f, 0, 0x1.6ce82p-48f, -0x1.23ece6p-48f,
            0x1.11ae18p-47f, -0x1.6ce82p-49f, 0x1.f87ec2p-48f, 0x1.230e0ep-47f}},
    /* ties, and what becomes 0 */
    {{448, 17, -19, 0x1p-10f, -672, 25.5f, 1, 0x1.0624dep-10f, 0x1.1p+0f, -1},
        {448, 16, -20, 0, -672, 24, 0x1.08p+0f, 0, 0x1.1p+0f, -0x1.f92492p-1f}},
};

static void test_by_group(void **unused)
{
    static const struct rounding by_group = {
        .how = ROUND_BY_MAGNITUDE, .numbers = PACKED_E4M3, .group = GROUP, .least = 1e-12f};
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 2, .isa = "auto", .arena_bytes = 64};
    float x[GROUP_ROWS][GROUP_COLS];
    (void)unused;
    for (int i = 0; i < GROUP_ROWS; i++)
        memcpy(x[i], groups[i].x, sizeof x[i]);
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    struct tensor found =
        cpu_round_rows(d, tensor_of(x, DTYPE_F32, GROUP_ROWS, GROUP_COLS, GROUP_COLS), &by_group);
    for (int i = 0; i < GROUP_ROWS; i++)
        assert_memory_equal(row_of(found, i), groups[i].rounded, sizeof groups[i].rounded);
    cpu_ops.device->close(&d);
}

/* ---- parts of rows ---- */

enum { N_RANKS = 3, SPLIT_ROWS = 5, SPLIT_COLS = 24, PART = SPLIT_COLS / N_RANKS };

/* Each row's largest number is of another rank. */
static void fill_rows(float x[SPLIT_ROWS][SPLIT_COLS])
{
    uint32_t random = 1;
    for (int i = 0; i < SPLIT_ROWS; i++)
        for (int k = 0; k < SPLIT_COLS; k++) {
            random = random * 1664525 + 1013904223;
            x[i][k] = (float)(int32_t)random * 0x1p-31f * (k / PART == i % N_RANKS ? 3.7f : 1.0f);
        }
    memset(x[SPLIT_ROWS - 1], 0, sizeof x[0]);
}

/* Rounds this rank's columns, or all, to the same columns of `to`. */
static int round_part(
    struct comm *comm, struct rounding r, int64_t at, int64_t n, float to[SPLIT_ROWS][SPLIT_COLS])
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 1, .isa = "auto", .arena_bytes = 64, .comm = comm};
    float x[SPLIT_ROWS][SPLIT_COLS];
    fill_rows(x);
    if (cpu_ops.device->open(&d, &o, &e) != 0)
        return 1;
    struct tensor found =
        cpu_round_rows(d, tensor_of(&x[0][at], DTYPE_F32, SPLIT_ROWS, n, SPLIT_COLS), &r);
    for (int i = 0; i < SPLIT_ROWS; i++)
        memcpy(&to[i][at], row_of(found, i), (size_t)n * sizeof(float));
    cpu_ops.device->close(&d);
    return 0;
}

static int run_rank(int fd, uint32_t rank, struct rounding r, void *to)
{
    struct comm *comm = NULL;
    struct err e = {0};
    int rc = comm_new(&comm, fd, rank, N_RANKS, 10000, &e);
    if (rc == 0)
        rc = round_part(comm, r, rank * PART, PART, to);
    comm_free(&comm);
    return rc != 0;
}

static void check_parts(struct rounding r)
{
    float whole[SPLIT_ROWS][SPLIT_COLS];
    struct err e = {0};
    int fd = stage_segment_new(stage_comm_bytes(N_RANKS), &e), status;
    void *parts =
        mmap(NULL, sizeof whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(fd >= 0 && parts != MAP_FAILED);
    assert_int_equal(round_part(NULL, r, 0, SPLIT_COLS, whole), 0);
    r.is_split = 1;
    for (uint32_t rank = 0; rank < N_RANKS; rank++)
        if (fork() == 0)
            _exit(run_rank(fd, rank, r, parts));
    for (uint32_t rank = 0; rank < N_RANKS; rank++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    assert_memory_equal(parts, whole, sizeof whole);
    munmap(parts, sizeof whole);
    close(fd);
}

static void test_parts_are_rounded_as_the_whole(void **unused)
{
    (void)unused;
    check_parts((struct rounding){.how = ROUND_BY_MAGNITUDE, .numbers = PACKED_E4M3});
    check_parts(
        (struct rounding){.how = ROUND_BY_MAGNITUDE, .numbers = PACKED_E4M3, .least = 1e-12f});
    check_parts((struct rounding){.how = ROUND_BY_MAGNITUDE, .numbers = PACKED_SIGNED});
    check_parts((struct rounding){.how = ROUND_BY_ROW, .numbers = PACKED_SIGNED});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_magnitude),
        cmocka_unit_test(test_by_group), cmocka_unit_test(test_parts_are_rounded_as_the_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
