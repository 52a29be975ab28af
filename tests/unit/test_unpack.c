/* test_unpack.c - panels of packed matrices, from every set of kernels (one that this CPU lacks is
 * skipped, and said so): every element is (stored - zero) * scale in float32, bit for bit, rounded
 * once to bfloat16 in its panels, also between `begin` and `end`, where tiles flush subnormals.
 * Scales are those of float16 and of float32, in groups that mix them, and such as no checkpoint
 * should have: zero, negative, tiny, huge, infinite, NaN. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/ways.h"

enum { N_ROWS = 40, N_COLS = 101, STRIDE = 64, GROUP = 24, GROUPS = 5, WORDS = 8 * 1024 };

static float of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* ---- what is expected ---- */

/* The number of row j and column k, as it is stored. */
static uint32_t stored_at(const struct weight *w, int64_t j, int64_t k)
{
    static const int awq[] = {0, 4, 1, 5, 2, 6, 3, 7};
    const struct packing *p = w->packing;
    const uint32_t *words = w->data;
    int64_t per_word = 32 / p->bits;
    uint32_t mask = (1u << p->bits) - 1;
    if (p->order == PACKED_AWQ)
        return words[k * w->stride + j / 8] >> 4 * awq[j % 8] & mask;
    int64_t at =
        p->order == PACKED_ROWS ? j * w->stride + k / per_word : k / per_word * w->stride + j;
    return words[at] >> k % per_word * p->bits & mask;
}

/* Sign, four bits of exponent, three of mantissa. */
static float e4m3(int byte)
{
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float value =
        exponent > 0 ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    return (byte & 127) == 127 ? NAN : byte & 128 ? -value : value;
}

static float value_at(const struct weight *w, int64_t j, int64_t k)
{
    const struct packing *p = w->packing;
    int64_t at = packing_group(p, k) * p->group_stride + j;
    uint32_t stored = stored_at(w, j, k);
    float x = p->numbers == PACKED_E4M3     ? e4m3((int)stored)
              : p->numbers == PACKED_SIGNED ? (float)(stored ^ 0x80)
                                            : (float)stored;
    return (x - p->zero[at]) * p->scale[at];
}

static void assert_bits(float found, float expected, int64_t j, int64_t k)
{
    if (memcmp(&found, &expected, sizeof found) != 0 && !(isnan(found) && isnan(expected)))
        fail_msg("row %d, column %d: expected %a, found %a", (int)j, (int)k, (double)expected,
            (double)found);
}

/* Element k of column j of a panel. */
static float element(
    const struct cpu_kernels *s, const struct panel_kernels *p, const float *panel, int k, int j)
{
    uint32_t word;
    if (p == &s->f32)
        return panel[k * s->nr + j];
    if (p->per_word == 1)
        return panel[(k ^ 1) * s->nr + j];
    memcpy(&word, &panel[k / 2 * s->nr + j], sizeof word);
    return of_bits(k % 2 ? word & 0xffff0000u : word << 16);
}

static void check_panels(const struct cpu_kernels *s, const struct weight *w, int64_t k0)
{
    static float panel[TILE_COLUMNS * (N_COLS + 1)];
    const struct panel_kernels *kinds[] = {&s->f32, &s->bf16};
    for (int i = 0; i < 2; i++)
        for (int64_t row = 0; row < w->rows; row += s->nr) {
            int nr = (int)(w->rows - row < s->nr ? w->rows - row : s->nr);
            memset(panel, 0xff, sizeof panel);
            unsigned before = k0 ? kinds[i]->begin() : 0;
            kinds[i]->unpack(panel, w, row, nr, k0, N_COLS - k0, 8);
            if (k0)
                kinds[i]->end(before);
            for (int k = 0; k < N_COLS - k0; k++)
                for (int j = 0; j < nr; j++) {
                    float expected = value_at(w, row + j, k0 + k);
                    uint16_t half;
                    dtype_convert(&half, DTYPE_BF16, &expected, DTYPE_F32, 1);
                    assert_bits(element(s, kinds[i], panel, k, j),
                        i ? of_bits((uint32_t)half << 16) : expected, row + j, k0 + k);
                }
            for (int j = 0; i && j < nr; j++) /* beside the odd last one */
                assert_bits(element(s, kinds[i], panel, N_COLS - (int)k0, j), 0, row + j, N_COLS);
        }
}

/* ---- matrices ---- */

static float any_scale(int kind)
{
    static const uint32_t odd[] = {0, 0x80000000, 0xbc000000, 0x00000001, 0x0d7ff000, 0x01800000,
        0x7f000000, 0x71801000, 0x7f800000, 0x7fffffff, 0xff800001, 0x7f808000};
    uint32_t bits = (100 + next_random() % 40) << 23 | (next_random() & 0x7fffff);
    if (kind == 0) /* of float16 */
        return of_bits(bits & ~0x1fffu);
    if (kind == 1)
        return of_bits(bits);
    return of_bits(
        next_random() % 3 ? bits & ~0xffffu : odd[next_random() % (sizeof odd / sizeof *odd)]);
}

/* Scales of one kind, or of one in each group. */
static void fill_tables(float *scale, float *zero, const struct packing *p, int kind)
{
    int most = p->numbers == PACKED_E4M3 ? 1 : (1 << p->bits) + 1;
    for (int g = 0; g < GROUPS; g++)
        for (int j = 0; j < N_ROWS; j++) {
            scale[g * STRIDE + j] = any_scale(kind < 3 ? kind : g % 3);
            zero[g * STRIDE + j] = (float)(next_random() % (uint32_t)most);
        }
}

static void check_packing(struct packing p, int64_t stride, int kind)
{
    static uint32_t words[WORDS];
    static float scale[GROUPS * STRIDE], zero[GROUPS * STRIDE];
    int32_t group_of[N_COLS];
    struct weight w = {words, DTYPE_PACKED, N_ROWS, N_COLS, stride, NULL, DTYPE_F32, &p};
    for (int i = 0; i < WORDS; i++)
        words[i] = next_random();
    for (int k = 0; k < N_COLS; k++)
        group_of[k] = k < 40 ? k / 13 : (int32_t)(next_random() % GROUPS);
    fill_tables(scale, zero, &p, kind);
    p.scale = scale;
    p.zero = zero;
    p.group_stride = STRIDE;
    p.group_size = GROUP;
    p.group_of = kind % 2 ? group_of : NULL;
    for (int way = 0; way < n_ways; way++)
        for (int64_t k0 = 0; k0 < N_COLS; k0 += 48)
            check_panels(kernels_choose(ways[way].isa), &w, k0);
}

static void test_every_packing(void **unused)
{
    static const struct {
        struct packing p;
        int64_t stride;
    } packings[] = {{{.order = PACKED_ROWS, .bits = 4}, 13},
        {{.order = PACKED_ROWS, .bits = 8}, 26},
        {{.order = PACKED_ROWS, .bits = 8, .numbers = PACKED_SIGNED}, 26},
        {{.order = PACKED_ROWS, .bits = 8, .numbers = PACKED_E4M3}, 26},
        {{.order = PACKED_COLUMNS, .bits = 4}, N_ROWS},
        {{.order = PACKED_COLUMNS, .bits = 8}, N_ROWS}, {{.order = PACKED_AWQ, .bits = 4}, 5}};
    (void)unused;
    for (size_t i = 0; i < sizeof packings / sizeof *packings; i++)
        for (int turn = 0; turn < 24; turn++)
            check_packing(packings[i].p, packings[i].stride, turn % 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_packing)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
