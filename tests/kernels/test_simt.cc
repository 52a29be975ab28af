/* test_simt.cc - the bench itself: what threads do together gives what CUDA documents, and the
 * faults that it is there to find are found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda/simt.h"

/* ---- the warp ---- */

__global__ void warp_kernel(uint32_t *out)
{
    uint32_t lane = threadIdx.x % 32, at = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = threadIdx.x;
    for (int mask = 16; mask > 0; mask /= 2)
        sum += shfl_xor(sum, mask);
    __syncwarp();
    out[at] = sum * 1000 + shfl(threadIdx.x, 3) + (vote_mask(lane % 3 == 0) == 0x49249249 ? 0 : 1) +
              (any_lane(lane == 7) && !all_lanes(lane == 7) ? 0 : 1);
}

static void test_warp_together(void **)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        uint32_t out[4 * 96];
        simt_set_seed(seed);
        assert_int_equal(SIMT_LAUNCH(nullptr, warp_kernel, 4, 96, 0, out), cudaSuccess);
        for (uint32_t i = 0; i < 4 * 96; i++) {
            uint32_t first = i % 96 / 32 * 32;
            assert_int_equal(out[i], (32 * first + 496) * 1000 + first + 3);
        }
    }
}

/* ---- faults, each in a process of its own ---- */

__global__ void lonely_barrier_kernel(uint32_t first)
{
    if (threadIdx.x < first)
        __syncthreads();
}

__global__ void split_warp_kernel(uint32_t divisor)
{
    if (threadIdx.x % divisor)
        shfl(1.0f, 0);
    else
        __syncwarp();
}

__global__ void unaligned_kernel(char *memory)
{
    store_16(memory + 4, load_16(memory));
}

__global__ void forgotten_copy_kernel(char *memory)
{
    SIMT_SHARED(char, shared);
    cp_async_16(shared, memory, true);
    cp_async_commit();
}

__global__ void outside_kernel(char *memory)
{
    SIMT_SHARED(char, shared);
    cp_async_16(shared + blockDim.x, memory, true);
    cp_async_commit();
    cp_async_wait<0>();
}

enum { LONELY, SPLIT, UNALIGNED, FORGOTTEN, OUTSIDE, N_FAULTS };

static void run_fault(int which)
{
    alignas(16) static char memory[64];
    simt_set_seed(0);
    switch (which) {
    case LONELY:
        SIMT_LAUNCH(nullptr, lonely_barrier_kernel, 1, 64, 0, 40u);
        break;
    case SPLIT:
        SIMT_LAUNCH(nullptr, split_warp_kernel, 1, 32, 0, 2u);
        break;
    case UNALIGNED:
        SIMT_LAUNCH(nullptr, unaligned_kernel, 1, 1, 0, memory);
        break;
    case FORGOTTEN:
        SIMT_LAUNCH(nullptr, forgotten_copy_kernel, 1, 1, 64, memory);
        break;
    default:
        SIMT_LAUNCH(nullptr, outside_kernel, 1, 64, 64, memory);
    }
}

/* What a child that meets the fault says before it aborts. */
static void catch_fault(int which, char *said, size_t size)
{
    int pipe_ends[2], status;
    assert_int_equal(pipe(pipe_ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipe_ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        run_fault(which);
        _exit(0);
    }
    close(pipe_ends[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(pipe_ends[0], said + n, size - 1 - n)) > 0;)
        n += static_cast<size_t>(got);
    said[n] = '\0';
    close(pipe_ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_faults_are_named(void **)
{
    static const char *const expected[N_FAULTS] = {"waits for threads that do not come",
        "meet at different places", "no multiple of 16", "never waited for", "outside the block"};
    for (int i = 0; i < N_FAULTS; i++) {
        char said[4096];
        catch_fault(i, said, sizeof said);
        if (!strstr(said, expected[i]) || !strstr(said, "_kernel, block (0, 0, 0)"))
            fail_msg("expected '%s', found '%s'", expected[i], said);
    }
}

/* ---- races show as other values under some seed ---- */

__global__ void no_barrier_kernel(float *out)
{
    SIMT_SHARED(float, shared);
    shared[threadIdx.x] = static_cast<float>(threadIdx.x);
    out[threadIdx.x] = shared[(threadIdx.x + 33) % blockDim.x];
}

__global__ void early_read_kernel(const float *in, float *out)
{
    SIMT_SHARED(float, shared);
    cp_async_16(shared + 4 * threadIdx.x, in + 4 * threadIdx.x, threadIdx.x != 5);
    cp_async_commit();
    float early = shared[4 * threadIdx.x];
    cp_async_wait<0>();
    out[2 * threadIdx.x] = early;
    out[2 * threadIdx.x + 1] = shared[4 * threadIdx.x + 3];
}

static void test_races_are_seen(void **)
{
    int wrong_barrier = 0, wrong_copy = 0;
    for (uint64_t seed = 0; seed < 4; seed++) {
        float out[128], in[128];
        for (int i = 0; i < 128; i++)
            in[i] = static_cast<float>(i + 1);
        simt_set_seed(seed);
        SIMT_LAUNCH(nullptr, no_barrier_kernel, 1, 64, 64 * 4, out);
        for (uint32_t i = 0; i < 64; i++)
            wrong_barrier += !(out[i] == static_cast<float>((i + 33) % 64));
        SIMT_LAUNCH(nullptr, early_read_kernel, 1, 32, 32 * 16, in, out);
        for (uint32_t i = 0; i < 32; i++) {
            wrong_copy += !(out[2 * i] == in[4 * i]);
            assert_true(out[2 * i + 1] == (i == 5 ? 0 : in[4 * i + 3]));
        }
    }
    assert_true(wrong_barrier > 0);
    assert_true(wrong_copy > 0);
}

static void test_launches_beyond_the_device(void **)
{
    uint32_t out[32];
    assert_int_equal(
        SIMT_LAUNCH(nullptr, warp_kernel, 1, 1056, 0, out), cudaErrorInvalidConfiguration);
    assert_int_equal(
        SIMT_LAUNCH(nullptr, warp_kernel, 0, 32, 0, out), cudaErrorInvalidConfiguration);
    assert_int_equal(
        SIMT_LAUNCH(nullptr, warp_kernel, 1, 32, 164 * 1024, out), cudaErrorInvalidConfiguration);
}

/* ---- tensor cores ---- */

/* d [16][8] = a [16][16] b [16][8], a from shared memory by ldmatrix, b stored [k][n] by the
 * transposed one or [n][k] by the plain one. */
template <typename T> __global__ void mma_kernel(const T *a, const T *b, float *d, bool transposed)
{
    SIMT_SHARED(T, shared);
    T *sa = shared, *sb = shared + 16 * 16;
    uint32_t lane = threadIdx.x;
    for (uint32_t i = lane; i < 16 * 16; i += 32)
        sa[i] = a[i];
    for (uint32_t i = lane; i < 16 * 16; i += 32)
        sb[i] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[4];
    float sum[4] = {0, 0, 0, 0};
    ldmatrix_x4(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    if (transposed)
        ldmatrix_x4_trans(fb, sb + (lane % 16) * 16 + lane / 16 * 8);
    else
        ldmatrix_x4(fb, sb + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
    mma_16816<T>(sum, fa, fb[0], fb[1]);
    for (uint32_t i = 0; i < 4; i++)
        d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

/* Small whole numbers, so that every order of a sum is exact. */
template <typename T> static void check_mma(bool transposed)
{
    alignas(16) T a[256], b[256];
    alignas(16) float d[128];
    float wide_a[256], wide_b[256];
    for (int i = 0; i < 256; i++) {
        wide_a[i] = static_cast<float>(rand() % 17 - 8);
        wide_b[i] = static_cast<float>(rand() % 17 - 8);
        a[i] = from_float<T>(wide_a[i]);
        b[i] = from_float<T>(wide_b[i]);
    }
    SIMT_LAUNCH(nullptr, mma_kernel<T>, 1, 32, 1024, a, b, d, transposed);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float expected = 0;
            for (int k = 0; k < 16; k++)
                expected += wide_a[i * 16 + k] * wide_b[transposed ? k * 16 + j : j * 16 + k];
            assert_true(d[i * 8 + j] == expected);
        }
}

static void test_tensor_cores(void **)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        simt_set_seed(seed);
        check_mma<bf16_t>(false);
        check_mma<bf16_t>(true);
        check_mma<f16_t>(false);
        check_mma<f16_t>(true);
    }
}

/* ---- eight-bit types ---- */

static double value_of_f8(uint32_t code)
{
    double mantissa = code & 7;
    int exponent = static_cast<int>(code >> 3 & 15);
    double magnitude =
        exponent == 0 ? mantissa * 0x1p-9 : (8 + mantissa) * ldexp(1, exponent - 7 - 3);
    return code & 0x80 ? -magnitude : magnitude;
}

/* The nearest of all codes, the even one on a tie. */
static uint32_t nearest_f8(double x)
{
    uint32_t best = 0, sign = signbit(x) ? 0x80 : 0;
    for (uint32_t code = 1; code < 0x7f; code++) {
        double distance = fabs(fabs(x) - value_of_f8(code)),
               least = fabs(fabs(x) - value_of_f8(best));
        if (distance < least || (distance == least && code % 2 == 0))
            best = code;
    }
    return best | sign;
}

static void test_f8_and_i8(void **)
{
    for (uint32_t code = 0; code < 256; code++) {
        f8_t x = {static_cast<uint8_t>(code)};
        if ((code & 0x7f) == 0x7f)
            assert_true(isnan(to_float(x)));
        else
            assert_true(static_cast<double>(to_float(x)) == value_of_f8(code));
    }
    srand(3);
    for (int turn = 0; turn < 20000; turn++) {
        float x = ldexpf(static_cast<float>(rand() % 513 - 256), rand() % 18 - 16);
        if (turn % 3 == 0)
            x *= 1 + static_cast<float>(rand() % 7 - 3) * 0x1p-20f;
        assert_int_equal(from_float<f8_t>(x).bits, nearest_f8(static_cast<double>(x)));
    }
    assert_int_equal(from_float<f8_t>(NAN).bits & 0x7f, 0x7f);
    assert_int_equal(from_float<f8_t>(-INFINITY).bits, 0xfe);
    assert_int_equal(from_float<i8_t>(2.5f), 2);
    assert_int_equal(from_float<i8_t>(-3.5f), -4);
    assert_int_equal(from_float<i8_t>(1e9f), 127);
    assert_int_equal(from_float<i8_t>(-1e9f), -127);
}

int main()
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_warp_together),
        cmocka_unit_test(test_faults_are_named), cmocka_unit_test(test_races_are_seen),
        cmocka_unit_test(test_launches_beyond_the_device), cmocka_unit_test(test_tensor_cores),
        cmocka_unit_test(test_f8_and_i8)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
