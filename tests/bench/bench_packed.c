/* bench_packed.c - products with weights of four bits against the same with bfloat16's, for few
 * tokens, where memory and unpacking are the bound, and for many.
 *
 *     bench_packed [ISA [TOKENS]]
 *
 * prints a line of JSON for each kind of packing, type of product and number of tokens (8 and 512,
 * or TOKENS): `ratio` is bfloat16's processor time, whose median is `plain_ms`, over the packed
 * weights', `ms`; the median of pairs that take turns, on one thread. The matrix is one of a 7B model, 3584 by 18944: no cache holds it. */
#include <stdio.h>

#include "schema/log.h"
#include "tests/bench/rate.h"

#define IN 3584
#define OUT 18944
#define GROUP 128
#define PAIRS 7

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double measure(struct device *d, const struct weight *w, int64_t tokens, float *x, float *y)
{
    int turns = tokens < 64 ? 4 : 1;
    double start = cpu_seconds();
    for (int i = 0; i < turns; i++)
        cpu_ops.linear(d, tensor_of(y, DTYPE_F32, tokens, OUT, OUT),
            tensor_of(x, DTYPE_F32, tokens, IN, IN), w, 1, NULL);
    return (cpu_seconds() - start) / turns;
}

static void compare(struct device *d, const struct weight *plain, const struct weight *packed,
    const char *name, int64_t tokens)
{
    float *x = malloc((size_t)(tokens * IN) * sizeof *x),
          *y = malloc((size_t)(tokens * OUT) * sizeof *y);
    double ratios[PAIRS], times[PAIRS], of_plain[PAIRS];
    fill(x, tokens * IN, DTYPE_F32);
    measure(d, packed, tokens, x, y);
    for (int i = 0; i < PAIRS; i++) {
        of_plain[i] = measure(d, plain, tokens, x, y);
        times[i] = measure(d, packed, tokens, x, y);
        ratios[i] = of_plain[i] / times[i];
    }
    qsort(ratios, PAIRS, sizeof *ratios, by_value);
    qsort(times, PAIRS, sizeof *times, by_value);
    qsort(of_plain, PAIRS, sizeof *of_plain, by_value);
    printf("{\"packing\":\"%s\",\"dtype\":\"%s\",\"tokens\":%d,\"plain_ms\":%.2f,\"ms\":%.2f,"
           "\"ratio\":%.3f}\n",
        name, dtype_name(plain->factors), (int)tokens, of_plain[PAIRS / 2] * 1e3,
        times[PAIRS / 2] * 1e3, ratios[PAIRS / 2]);
    fflush(stdout);
    free(x);
    free(y);
}

/* Scales that bfloat16 has, as published checkpoints' are, or zero points. */
static float *tables(int64_t n, int are_zeros)
{
    float *table = malloc((size_t)n * sizeof *table);
    for (int64_t i = 0; i < n; i++)
        table[i] = are_zeros ? (float)(i % 16) : (float)(128 + i % 128) * 0x1p-14f;
    return table;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        enum packing_order order;
        int64_t stride;
    } kinds[] = {{"compressed-tensors", PACKED_ROWS, IN / 8}, {"gptq", PACKED_COLUMNS, OUT},
        {"awq", PACKED_AWQ, OUT / 8}};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    int64_t tokens[] = {argc > 2 ? atoll(argv[2]) : 8, 512};
    int n_tokens = argc > 2 ? 1 : 2;
    struct device *d = NULL;
    struct err e = {0};
    struct device_options options = {
        .n_threads = 1, .isa = argc > 1 ? argv[1] : "auto", .arena_bytes = 64};
    void *half = malloc((size_t)IN * OUT * 2), *words = malloc((size_t)IN * OUT / 2);
    struct packing packing = {.bits = 4,
        .group_size = GROUP,
        .group_stride = OUT,
        .scale = tables(IN / GROUP * OUT, 0),
        .zero = tables(IN / GROUP * OUT, 1)};
    fill(half, (int64_t)IN * OUT, DTYPE_BF16);
    fill(words, (int64_t)IN * OUT / 8, DTYPE_F32);
    if (cpu_ops.device->open(&d, &options, &e) != 0)
        die(70, "%s", e.msg);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (size_t t = 0; t < 2; t++) {
            packing.order = kinds[k].order;
            struct weight plain = {half, DTYPE_BF16, OUT, IN, IN, NULL, types[t], NULL},
                          packed = {words, DTYPE_PACKED, OUT, IN, kinds[k].stride, NULL, types[t],
                              &packing};
            for (int i = 0; i < n_tokens; i++)
                compare(d, &plain, &packed, kinds[k].name, tokens[i]);
        }
    cpu_ops.device->close(&d);
    return 0;
}
