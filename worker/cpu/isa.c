/* isa.c - chooses the kernels: the fastest set that the CPU has and that gives the portable set's
 * bits on a small problem at start. So if a CPU, a hypervisor or a compiler gets a set wrong, that
 * costs speed, not scores. */
#include <string.h>

#include "schema/log.h"
#include "worker/cpu/kernels.h"

/* The trial's sizes: more than one tile of any set in both directions, with remainders, and rows
 * whose length is no multiple of a vector. */
#define ROWS 17
#define COLUMNS 37
#define DEPTH 45
#define SPLIT 24 /* of DEPTH: the second piece continues the first's sums */

struct trial {
    float products[3][ROWS][COLUMNS]; /* with f32, f16 and bf16 weights */
    float halves[4][ROWS][COLUMNS];   /* the same in bf16; with tiny products */
    float quantized[ROWS][COLUMNS];
    float wide[2][DEPTH], rows[4][DEPTH];
    float attended[TILE_COLUMNS][ROWS], weights[TILE_COLUMNS][DEPTH],
        sums[3][TILE_COLUMNS]; /* from a step of attention */
};

/* Fills x with floats between -2 and 2, from a fixed seed. */
static void fill(float *x, int64_t n)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(state >> 8) * 0x1p-22f - 2;
    }
}

static void shrink(float *x, int64_t n, float by)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= by;
}

/* Takes the upper halves of the floats' bits, which are numbers in both 16-bit formats. */
static void fill_halves(uint16_t *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        to[i] = (uint16_t)(bits >> 16);
    }
}

/* out = x * w^T + bias, with the panels `p` of s. */
struct trial_product {
    const struct cpu_kernels *s;
    const struct panel_kernels *p;
    float (*out)[COLUMNS], (*x)[DEPTH];
    const void *w;
    enum dtype dtype;
    const float *bias; /* NULL: none */
};

/* Computes piece [k0, k0 + n) of K. */
static void multiply(const struct trial_product *t, int k0, int n)
{
    float a[TILE_ROWS * (DEPTH + 1)], b[TILE_COLUMNS * (DEPTH + 1)];
    const float *bias = k0 + n == DEPTH ? t->bias : NULL;
    for (int row = 0; row < ROWS; row += t->s->mr)
        for (int column = 0; column < COLUMNS; column += t->s->nr) {
            int mr = ROWS - row < t->s->mr ? ROWS - row : t->s->mr;
            int nr = COLUMNS - column < t->s->nr ? COLUMNS - column : t->s->nr;
            t->p->pack_rows(a, &t->x[row][k0], DEPTH, NULL, mr, n);
            t->p->pack_weight(b, (const char *)t->w + (column * DEPTH + k0) * dtype_bytes(t->dtype),
                t->dtype, DEPTH, nr, n);
            unsigned before = t->p->begin();
            t->p->tile(&(struct product){.a = a,
                .a_step = t->s->mr,
                .b = b,
                .k = panel_words(t->p, n),
                .c = &t->out[row][column],
                .ldc = COLUMNS,
                .mr = mr,
                .nr = nr,
                .first = k0 == 0,
                .bias = bias ? bias + column : NULL});
            t->p->end(before);
        }
}

static void multiply_pieces(const struct trial_product *t)
{
    multiply(t, 0, SPLIT);
    multiply(t, SPLIT, DEPTH - SPLIT);
}

/* Makes products that are about the smallest normal number. In row 1 the sum is that number less
 * parts of its last place, which shows whether a set rounds up to it or flushes to zero. */
static void fill_tiny(float x[ROWS][DEPTH], float w[COLUMNS][DEPTH])
{
    fill(x[0], ROWS * DEPTH);
    fill(w[0], COLUMNS * DEPTH);
    shrink(x[0], ROWS * DEPTH, 0x1p-63f);
    shrink(w[0], COLUMNS * DEPTH, 0x1p-64f);
    memset(x[1], 0, sizeof x[1]);
    x[1][SPLIT] = 0x1p-75f;
    x[1][SPLIT + 1] = 0x1p-63f;
    for (int j = 0; j < COLUMNS; j++) {
        w[j][SPLIT] = -0x1p-76f * (1 + (float)(j - COLUMNS / 2) / 64);
        w[j][SPLIT + 1] = 0x1p-63f;
    }
}

static void try_products(const struct cpu_kernels *s, struct trial *t)
{
    float x[ROWS][DEPTH], w[COLUMNS][DEPTH];
    uint16_t halves[COLUMNS * DEPTH];
    fill(x[0], ROWS * DEPTH);
    fill(w[0], COLUMNS * DEPTH);
    fill_halves(halves, w[0], COLUMNS * DEPTH);
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int i = 0; i < 3; i++) {
        const void *weights = dtypes[i] == DTYPE_F32 ? (const void *)w : halves;
        struct trial_product p = {s, &s->f32, t->products[i], x, weights, dtypes[i], x[0]};
        multiply_pieces(&p);
        p.p = &s->bf16;
        p.out = t->halves[i];
        multiply_pieces(&p);
    }
    s->widen(t->wide[0], halves, DTYPE_F16, DEPTH);
    s->widen(t->wide[1], halves, DTYPE_BF16, DEPTH);
    fill_tiny(x, w);
    multiply_pieces(&(struct trial_product){s, &s->bf16, t->halves[3], x, w, DTYPE_F32, NULL});
}

/* The same in int8. w: plain bytes, since each set stores its panels differently. */
static void multiply_int8(const struct cpu_kernels *s, float out[ROWS][COLUMNS],
    float x[ROWS][DEPTH], const int8_t w[COLUMNS][DEPTH + 1], int k0, int n)
{
    uint32_t a[TILE_ROWS * (DEPTH + 1) / 2], b[TILE_COLUMNS * (DEPTH + 1) / 2];
    int8_t panel[TILE_COLUMNS * (DEPTH + 1)];
    float scale[ROWS + TILE_ROWS] = {0};
    int words = (n + 1) / 2;
    for (int row = 0; row < ROWS; row++)
        scale[row] = s->row_scale(x[row], DEPTH, INT8_ROW_LEVELS);
    for (int row = 0; row < ROWS; row += s->mr)
        for (int column = 0; column < COLUMNS; column += s->nr) {
            int mr = ROWS - row < s->mr ? ROWS - row : s->mr;
            int nr = COLUMNS - column < s->nr ? COLUMNS - column : s->nr;
            for (int j = 0; j < s->nr; j++)
                for (int k = 0; k < 2 * words; k++)
                    panel[2 * (k / 2 * s->nr + j) + k % 2] = j < nr ? w[column + j][k0 + k] : 0;
            s->int8.pack_rows(a, &x[row][k0], DEPTH, scale + row, mr, n);
            s->int8.pack_weight(b, panel, DTYPE_I8, 0, nr, n);
            s->int8.tile(&(struct product){.a = a,
                .a_step = s->mr,
                .b = b,
                .k = words,
                .c = &out[row][column],
                .ldc = COLUMNS,
                .mr = mr,
                .nr = nr,
                .first = k0 == 0,
                .bias = &x[1][column],
                .x_scale = k0 == 0 ? NULL : scale + row,
                .w_scale = &x[0][column]});
        }
}

static void try_int8(const struct cpu_kernels *s, struct trial *t)
{
    float x[ROWS][DEPTH];
    int8_t w[COLUMNS][DEPTH + 1] = {{0}};
    fill(x[0], ROWS * DEPTH);
    for (int j = 0; j < COLUMNS; j++)
        for (int k = 0; k < DEPTH; k++)
            w[j][k] = (int8_t)(x[(j + k) % ROWS][k] * 63);
    multiply_int8(s, t->quantized, x, w, 0, SPLIT);
    multiply_int8(s, t->quantized, x, w, SPLIT, DEPTH - SPLIT);
}

static void try_rows(const struct cpu_kernels *s, struct trial *t)
{
    float x[2][DEPTH];
    fill(x[0], 2 * DEPTH);
    for (int i = 0; i < 4; i++)
        memcpy(t->rows[i], x[0], sizeof x[0]);
    s->rms_norm(t->rows[0], x[0], x[1], 1e-6f, DEPTH);
    s->silu_mul(t->rows[1], x[0], x[1], DEPTH);
    s->sigmoid(t->rows[2], DEPTH);
    s->softmax(t->rows[3], DEPTH);
}

static void try_columns(const struct cpu_kernels *s, struct trial *t)
{
    float scores[TILE_COLUMNS][DEPTH], keys[DEPTH * TILE_COLUMNS];
    float panel[TILE_COLUMNS * DEPTH], product[TILE_COLUMNS * TILE_COLUMNS];
    int32_t from[TILE_COLUMNS], to[TILE_COLUMNS];
    fill(scores[0], TILE_COLUMNS * DEPTH);
    memcpy(t->sums, scores, sizeof t->sums);
    for (int j = 0; j < TILE_COLUMNS; j++) {
        from[j] = j / 8;
        to[j] = DEPTH - j / 3;
    }
    s->transpose(keys, TILE_COLUMNS, scores[0], DEPTH, TILE_COLUMNS, DEPTH);
    for (int j = 0; j < TILE_COLUMNS; j += s->nr) {
        s->transpose(panel, s->nr, scores[j], DEPTH, s->nr, DEPTH);
        s->multiply_columns(&(struct product){.a = keys,
            .a_step = TILE_COLUMNS,
            .b = panel,
            .k = DEPTH,
            .c = product,
            .mr = ROWS,
            .first = 1});
        s->unpack(t->attended[j], ROWS, product, s->nr, ROWS);
        s->softmax_columns(
            panel, DEPTH, from + j, to + j, t->sums[0] + j, t->sums[1] + j, t->sums[2] + j);
        s->scale_columns(panel, DEPTH, t->sums[1] + j);
        s->unpack(t->weights[j], DEPTH, panel, s->nr, DEPTH);
    }
}

static void run_trial(const struct cpu_kernels *s, struct trial *t)
{
    try_products(s, t);
    try_int8(s, t);
    try_rows(s, t);
    try_columns(s, t);
}

static int gives_same_bits(const struct cpu_kernels *s)
{
    struct trial expected = {0}, found = {0};
    run_trial(&cpu_kernels_portable, &expected);
    run_trial(s, &found);
    return memcmp(&expected, &found, sizeof found) == 0;
}

const struct cpu_kernels *kernels_proven(const struct cpu_kernels *const *sets)
{
    for (; *sets && *sets != &cpu_kernels_portable; sets++) {
        if (gives_same_bits(*sets))
            return *sets;
        log_warn("event=kernels_differ isa=%s from=portable action=passed_over", (*sets)->isa);
    }
    return &cpu_kernels_portable;
}

static int cpu_has(const struct cpu_kernels *set)
{
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (set == &cpu_kernels_avx2)
        return avx2;
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    int vnni = __builtin_cpu_supports("avx512vnni");
    if (set == &cpu_kernels_avx512)
        return avx512;
    if (set == &cpu_kernels_avx512vnni)
        return avx512 && vnni;
    if (set == &cpu_kernels_avx512bf16)
        return avx512 && vnni && __builtin_cpu_supports("avx512bf16");
#endif
    return set == &cpu_kernels_portable;
}

const struct cpu_kernels *kernels_choose(const char *isa)
{
    static const struct cpu_kernels *const all[] = {
#if defined(__x86_64__)
        &cpu_kernels_avx512bf16,
        &cpu_kernels_avx512vnni,
        &cpu_kernels_avx512,
        &cpu_kernels_avx2,
#endif
        &cpu_kernels_portable,
        NULL
    };
    const struct cpu_kernels *sets[6] = {NULL};
    int n = 0;
    for (int i = 0; all[i]; i++)
        if (cpu_has(all[i]) && (n > 0 || strcmp(isa, "auto") == 0 || strcmp(isa, all[i]->isa) == 0))
            sets[n++] = all[i];
    return n > 0 ? kernels_proven(sets) : NULL;
}
