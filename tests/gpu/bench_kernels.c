/* bench_kernels.c - the time of every kernel and product at the sizes of a model, against the rates
 * at which the device copies and multiplies in the same run.
 *
 *     bench_kernels TOKENS HIDDEN MLP HEADS KV_HEADS HEAD_DIM MATMUL
 *
 * One line of JSON each: {"name", "ms", and "gb_s" or "tflop_s"}; first "copy" (bytes read and
 * written) and "matmul" (MATMUL^3, bfloat16). */
#include "cuda/gemm.h"
#include "schema/alloc.h"
#include "tests/gpu/timing.h"

struct sizes {
    int64_t tokens, hidden, mlp, heads, kv_heads, dim, matmul;
};

static void print(const char *name, float ms, const char *unit, double amount)
{
    printf("{\"name\":\"%s\",\"ms\":%.4f,\"%s\":%.4f}\n", name, (double)ms, unit,
        amount / ((double)ms * 1e-3) * (strcmp(unit, "gb_s") == 0 ? 1e-9 : 1e-12));
    fflush(stdout);
}

/* ---- ceilings ---- */

struct two {
    struct tensor a, b;
};

static void run_copy(struct device *d, void *arg)
{
    struct two *t = arg;
    GPU_MUST(cudaMemcpyAsync(
        t->a.data, t->b.data, tensor_bytes(t->b), cudaMemcpyDeviceToDevice, d->compute));
}

struct product_case {
    struct tensor out, x;
    struct weight w;
    const void *bias;
};

static void run_product(struct device *d, void *arg)
{
    struct product_case *p = arg;
    gemm_linear(d, p->out, p->x, &p->w, 1, p->bias);
}

static void time_product(struct device *d, const char *name, int64_t rows, int64_t n, int64_t k)
{
    struct tensor w = noise_tensor(d, DTYPE_BF16, n, k, 0.03f);
    struct product_case p = {.x = noise_tensor(d, DTYPE_BF16, rows, k, 1),
        .out = noise_tensor(d, DTYPE_BF16, rows, n, 1),
        .w = {.data = w.data, .dtype = w.dtype, .rows = n, .cols = k, .stride = w.stride}};
    print(name, time_of(d, run_product, &p), "tflop_s", 2.0 * (double)rows * (double)n * (double)k);
    GPU_MUST(cudaFree(w.data));
    GPU_MUST(cudaFree(p.x.data));
    GPU_MUST(cudaFree(p.out.data));
}

static void time_copy(struct device *d, size_t bytes)
{
    int64_t rows = 64, cols = (int64_t)(bytes / 256);
    struct two t = {
        noise_tensor(d, DTYPE_F32, rows, cols, 1), noise_tensor(d, DTYPE_F32, rows, cols, 1)};
    print("copy", time_of(d, run_copy, &t), "gb_s", 2.0 * (double)tensor_bytes(t.a));
    GPU_MUST(cudaFree(t.a.data));
    GPU_MUST(cudaFree(t.b.data));
}

/* ---- kernels over rows ---- */

struct rows_case {
    struct tensor out, x, y;
    struct weight table;
    const int32_t *ids;
    float *weight;
    struct rope_tables tables;
    uint32_t heads;
};

static void run_embed(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_embed(d->compute, c->out, &c->table, c->ids));
}

static void run_norm(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_rms_norm(d->compute, c->out, c->x, &c->y, c->weight, 1e-6f, NULL));
}

static void run_head_norm(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_head_norm(d->compute, c->x, c->heads, c->weight, 1e-6f));
}

static void run_rope(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_rope(d->compute, c->x, c->heads, &c->tables, c->ids));
}

static void run_silu(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_silu_mul(d->compute, c->out, c->x, c->y));
}

static void run_quantize(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_quantize_rows(d->compute, c->out, c->x));
}

static void run_sum(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_sum_ranks(d->compute, c->out.data, c->x));
}

static void run_linear_narrow(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_linear_narrow(d->compute, c->out, c->x, &c->table));
}

static void run_linear_add(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_linear_add(d->compute, c->out, c->x, &c->table));
}

static void run_unpack(struct device *d, void *arg)
{
    struct rows_case *c = arg;
    GPU_MUST(kernel_unpack(d->compute, c->out, &c->table));
}

/* Token i has id, and position, i. */
static const int32_t *counting(struct device *d, int64_t n)
{
    int32_t *host = xcalloc((size_t)n, sizeof *host);
    void *at;
    for (int64_t i = 0; i < n; i++)
        host[i] = (int32_t)i;
    GPU_MUST(cudaMalloc(&at, (size_t)n * sizeof *host));
    gpu_device_ops.upload(d, at, host, (size_t)n * sizeof *host);
    free(host);
    return at;
}

static struct weight weight_of(struct tensor t)
{
    return (struct weight){t.data, t.dtype, t.rows, t.cols, t.stride, NULL, DTYPE_F32, NULL};
}

/* An adapter of rank 16 beside a square matrix. */
static void time_adapter(struct device *d, const struct sizes *s)
{
    const int64_t rank = 16;
    double hidden = (double)(s->tokens * s->hidden), low = (double)(s->tokens * rank);
    struct tensor x = noise_tensor(d, DTYPE_BF16, s->tokens, s->hidden, 1),
                  scratch = noise_tensor(d, DTYPE_F32, s->tokens, rank, 1);
    struct rows_case c = {
        .out = scratch, .x = x, .table = weight_of(noise_tensor(d, DTYPE_F32, rank, s->hidden, 1))};
    print(
        "linear_narrow, rank 16", time_of(d, run_linear_narrow, &c), "gb_s", hidden * 2 + low * 4);
    c.out = x;
    c.x = scratch;
    c.table = weight_of(noise_tensor(d, DTYPE_F32, s->hidden, rank, 1));
    print("linear_add, rank 16", time_of(d, run_linear_add, &c), "gb_s", hidden * 4 + low * 4);
}

/* Four bits with groups of 128 columns, and eight in blocks, of the largest product's matrix. */
static void time_unpack(struct device *d, const struct sizes *s)
{
    static const struct {
        const char *name;
        enum packing_order order;
        enum packed_numbers numbers;
        int bits;
    } kinds[] = {{"unpack int4, rows", PACKED_ROWS, PACKED_UNSIGNED, 4},
        {"unpack int4, columns (GPTQ)", PACKED_COLUMNS, PACKED_UNSIGNED, 4},
        {"unpack int4, AWQ", PACKED_AWQ, PACKED_UNSIGNED, 4},
        {"unpack fp8", PACKED_ROWS, PACKED_E4M3, 8}};
    int64_t rows = 2 * s->mlp, cols = s->hidden, groups = (cols + 127) / 128;
    double n = (double)(rows * cols);
    struct tensor words = noise_tensor(d, DTYPE_F32, rows, round_up(cols, 64) / 4, 1),
                  table = noise_tensor(d, DTYPE_F32, groups, round_up(rows, PACKING_ROWS), 1);
    struct rows_case c = {.out = noise_tensor(d, DTYPE_BF16, rows, cols, 1)};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct packing p = {.order = kinds[i].order,
            .numbers = kinds[i].numbers,
            .bits = kinds[i].bits,
            .scale = table.data,
            .zero = table.data,
            .group_stride = table.stride,
            .group_size = 128};
        int64_t stride = p.order == PACKED_ROWS      ? cols * p.bits / 32
                         : p.order == PACKED_COLUMNS ? rows
                                                     : rows / 8;
        c.table =
            (struct weight){words.data, DTYPE_PACKED, rows, cols, stride, NULL, DTYPE_F32, &p};
        print(kinds[i].name, time_of(d, run_unpack, &c), "gb_s", n * (p.bits / 8.0 + 2));
    }
}

static void time_rows(struct device *d, const struct sizes *s)
{
    int64_t t = s->tokens, q = s->heads * s->dim, kv = s->kv_heads * s->dim;
    double hidden = (double)(t * s->hidden), mlp = (double)(t * s->mlp);
    struct tensor table = noise_tensor(d, DTYPE_BF16, t, s->hidden, 1),
                  f32 = noise_tensor(d, DTYPE_F32, t, s->hidden, 1),
                  half = noise_tensor(d, DTYPE_BF16, t, s->hidden, 1),
                  eighth = noise_tensor(d, DTYPE_F8, t, s->hidden, 1),
                  qkv = noise_tensor(d, DTYPE_BF16, t, q + 2 * kv, 1),
                  weight = noise_tensor(d, DTYPE_F32, 1, s->hidden, 1),
                  angles = noise_tensor(d, DTYPE_F32, t, s->dim / 2, 1);
    struct rows_case c = {
        .table = {table.data, table.dtype, t, s->hidden, table.stride, NULL, DTYPE_F32, NULL},
        .ids = counting(d, t),
        .weight = weight.data,
        .tables = {(uint32_t)s->dim, angles.data, angles.data}};
    c.out = f32;
    print("embed", time_of(d, run_embed, &c), "gb_s", hidden * 6);
    c.x = f32;
    c.y = half;
    c.out = half;
    print("add, rms_norm", time_of(d, run_norm, &c), "gb_s", hidden * 12);
    c.out = eighth;
    print("add, rms_norm to fp8", time_of(d, run_norm, &c), "gb_s", hidden * 11);
    c.x = half;
    print("quantize to fp8", time_of(d, run_quantize, &c), "gb_s", hidden * 3);
    c.x = tensor_columns(qkv, 0, q + kv);
    c.heads = (uint32_t)(s->heads + s->kv_heads);
    print("rope", time_of(d, run_rope, &c), "gb_s",
        (double)(t * (q + kv)) * 4 + (double)(t * s->dim) * 4);
    print("head_norm", time_of(d, run_head_norm, &c), "gb_s", (double)(t * (q + kv)) * 4);
    struct tensor gate_up = noise_tensor(d, DTYPE_BF16, t, 2 * s->mlp, 1),
                  gated = noise_tensor(d, DTYPE_F8, t, s->mlp, 1);
    c.x = c.out = tensor_columns(gate_up, 0, s->mlp);
    c.y = tensor_columns(gate_up, s->mlp, s->mlp);
    print("silu_mul", time_of(d, run_silu, &c), "gb_s", mlp * 6);
    c.out = gated;
    print("silu_mul to fp8", time_of(d, run_silu, &c), "gb_s", mlp * 5);
    struct tensor parts = noise_tensor(d, DTYPE_BF16, 4, t * s->hidden / 4, 1);
    c.x = parts;
    c.out = half;
    print("sum of 4 ranks", time_of(d, run_sum, &c), "gb_s", hidden / 4 * 10);
}

/* ---- attention ---- */

struct attention_case {
    struct tensor out;
    struct attention_input in;
    struct attention_shape shape;
    struct attention_tiles tiles;
};

static void run_attention(struct device *d, void *arg)
{
    struct attention_case *c = arg;
    GPU_MUST(kernel_attention_mma(d->compute, c->out, &c->in, &c->shape, &c->tiles, NULL));
}

/* Keys and values of so many tokens, and where they are cached: the even blocks, from the last
 * on. */
static void add_cache(struct device *d, struct attention_case *c, int64_t tokens, int64_t kv)
{
    int64_t n = (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    struct tensor cache = noise_tensor(d, DTYPE_BF16, 2 * n * KV_BLOCK_TOKENS, 2 * kv, 1);
    uint32_t *host = xcalloc((size_t)n, sizeof *host);
    void *blocks;
    for (int64_t i = 0; i < n; i++)
        host[i] = (uint32_t)(2 * (n - 1 - i));
    GPU_MUST(cudaMalloc(&blocks, (size_t)n * sizeof *host));
    gpu_device_ops.upload(d, blocks, host, (size_t)n * sizeof *host);
    c->tiles.blocks = blocks;
    c->in.cached_k = tensor_columns(cache, 0, kv);
    c->in.cached_v = tensor_columns(cache, kv, kv);
    free(host);
}

/* The last tokens of a row whose others are cached. */
static void time_cached(struct device *d, const struct sizes *s, int64_t length)
{
    char name[64];
    int64_t q = s->heads * s->dim, kv = s->kv_heads * s->dim, own = ATTENTION_TILE_TOKENS,
            cached = (length - 1) / own * own;
    struct tensor qkv = noise_tensor(d, DTYPE_BF16, own, q + 2 * kv, 1);
    struct attention_tile host = {0 - (uint32_t)cached, (uint32_t)(cached + own), (uint32_t)cached,
        0, (uint32_t)cached, (uint32_t)cached, 0};
    void *tile;
    struct attention_case c = {.out = noise_tensor(d, DTYPE_BF16, own, q, 1),
        .in = {.q = tensor_columns(qkv, 0, q),
            .k = tensor_columns(qkv, q, kv),
            .v = tensor_columns(qkv, q + kv, kv)},
        .shape = {(uint32_t)s->heads, (uint32_t)s->kv_heads, (uint32_t)s->dim,
            1 / __builtin_sqrtf((float)s->dim), 0}};
    add_cache(d, &c, cached, kv);
    GPU_MUST(cudaMalloc(&tile, sizeof host));
    gpu_device_ops.upload(d, tile, &host, sizeof host);
    c.tiles.list = tile;
    c.tiles.n = 1;
    snprintf(name, sizeof name, "attention, %lld tokens after %lld cached", (long long)own,
        (long long)cached);
    print(name, time_of(d, run_attention, &c), "tflop_s",
        4.0 * (double)(own * q) * ((double)cached + (double)(own + 1) / 2));
}

static void time_attention(struct device *d, const struct sizes *s, int64_t length)
{
    char name[64];
    int64_t q = s->heads * s->dim, kv = s->kv_heads * s->dim, n = s->tokens / length,
            per = (length + ATTENTION_TILE_TOKENS - 1) / ATTENTION_TILE_TOKENS;
    struct tensor qkv = noise_tensor(d, DTYPE_BF16, n * length, q + 2 * kv, 1);
    struct attention_tile *host = xcalloc((size_t)(n * per), sizeof *host);
    void *tiles;
    struct attention_case c = {.out = noise_tensor(d, DTYPE_BF16, n * length, q, 1),
        .in = {.q = tensor_columns(qkv, 0, q),
            .k = tensor_columns(qkv, q, kv),
            .v = tensor_columns(qkv, q + kv, kv)},
        .shape = {(uint32_t)s->heads, (uint32_t)s->kv_heads, (uint32_t)s->dim,
            1 / __builtin_sqrtf((float)s->dim), 0},
        .tiles.n = (uint32_t)(n * per)};
    for (uint32_t i = 0; i < c.tiles.n; i++)
        host[i] = (struct attention_tile){(uint32_t)(i / per * length), (uint32_t)length,
            (uint32_t)((per - 1 - i % per) * ATTENTION_TILE_TOKENS), 0, 0, 0, 0};
    GPU_MUST(cudaMalloc(&tiles, c.tiles.n * sizeof *host));
    gpu_device_ops.upload(d, tiles, host, c.tiles.n * sizeof *host);
    c.tiles.list = tiles;
    snprintf(name, sizeof name, "attention, rows of %lld", (long long)length);
    print(name, time_of(d, run_attention, &c), "tflop_s",
        4.0 * (double)(n * q) * (double)length * (double)(length + 1) / 2);
    free(host);
    GPU_MUST(cudaFree(tiles));
    GPU_MUST(cudaFree(qkv.data));
    GPU_MUST(cudaFree(c.out.data));
}

int main(int argc, char **argv)
{
    int64_t n[7];
    struct device *d = NULL;
    struct err e = {0};
    if (argc != 8) {
        fprintf(stderr, "usage: bench_kernels TOKENS HIDDEN MLP HEADS KV_HEADS HEAD_DIM MATMUL\n");
        return 64;
    }
    for (int i = 0; i < 7; i++)
        n[i] = atoll(argv[i + 1]);
    struct sizes s = {n[0], n[1], n[2], n[3], n[4], n[5], n[6]};
    struct device_options o = {.arena_bytes = 1 << 20, .input_bytes = 1 << 20, .output_bytes = 64};
    log_init("bench_kernels", -1, LOG_LEVEL_ERROR);
    die_on(gpu_device_ops.open(&d, &o, &e), &e);
    time_copy(d, s.matmul >= 8192 ? (size_t)1 << 30 : (size_t)1 << 16);
    time_product(d, "matmul", s.matmul, s.matmul, s.matmul);
    time_product(d, "qkv_proj", s.tokens, (s.heads + 2 * s.kv_heads) * s.dim, s.hidden);
    time_product(d, "o_proj", s.tokens, s.hidden, s.heads * s.dim);
    time_product(d, "gate_up_proj", s.tokens, 2 * s.mlp, s.hidden);
    time_product(d, "down_proj", s.tokens, s.hidden, s.mlp);
    for (int64_t length = 64; length <= s.tokens; length *= 4)
        time_attention(d, &s, length);
    if (s.tokens > ATTENTION_TILE_TOKENS)
        time_cached(d, &s, s.tokens);
    time_rows(d, &s);
    time_adapter(d, &s);
    time_unpack(d, &s);
    return 0; /* the process's end frees the rest */
}
