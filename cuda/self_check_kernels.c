/* self_check_kernels.c - small problems for each kernel, beside the CPU's operation (self_check.h).
 *
 * Inputs are drawn, rounded to the kernel's type, and given to both: to the CPU as the float32
 * numbers that they then are. So results differ by the kernel's own rounding alone: one of the
 * result to its type, and what sums in another order give. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "cuda/self_check.h"
#include "schema/pooling.h"

#define ROWS 5
#define COLS 72         /* whole 16 bytes in every type, and no power of two */
#define SUM_ERROR 2e-5f /* of sums in another order, as a part of the largest number */

/* A tensor of the device and what the CPU has in its place, in float32. */
struct pair {
    struct tensor gpu, cpu;
};

/* ---- memory ---- */

static uint8_t *image_of(const struct self_check *c, const void *device)
{
    return c->image + ((const uint8_t *)device - c->memory);
}

static void *take(struct self_check *c, size_t bytes)
{
    void *at = c->memory + c->used;
    c->used += gpu_aligned(bytes);
    assert(c->used <= SELF_CHECK_BYTES);
    memset(image_of(c, at), 0xff, gpu_aligned(bytes));
    return at;
}

static void *put(struct self_check *c, const void *from, size_t bytes)
{
    void *at = take(c, bytes);
    memcpy(image_of(c, at), from, bytes);
    return at;
}

static struct pair pair_new(struct self_check *c, enum dtype type, int64_t rows, int64_t cols)
{
    struct pair p = {
        tensor_shaped(NULL, type, rows, cols), tensor_shaped(NULL, DTYPE_F32, rows, cols)};
    p.gpu.data = take(c, tensor_bytes(p.gpu));
    p.cpu.data = cpu_ops.device->alloc(c->cpu, tensor_bytes(p.cpu));
    assert(p.cpu.data);
    if (dtype_bytes(type) == 1)
        p.gpu.scale = take(c, (size_t)rows * sizeof(float));
    return p;
}

static float *cpu_row(const struct pair *p, int64_t row)
{
    return (float *)p->cpu.data + row * p->cpu.stride;
}

/* From -1 to 1. */
static float draw(struct self_check *c)
{
    c->random = c->random * 1664525u + 1013904223u;
    return (float)(int32_t)c->random * 0x1p-31f;
}

/* Numbers around `middle`, the same on both sides. */
static struct pair pair_drawn(
    struct self_check *c, enum dtype type, int64_t rows, int64_t cols, float middle)
{
    struct pair p = pair_new(c, type, rows, cols);
    for (int64_t i = 0; i < rows; i++) {
        uint8_t *to = image_of(c, p.gpu.data) + i * p.gpu.stride * dtype_bytes(type);
        for (int64_t j = 0; j < cols; j++)
            cpu_row(&p, i)[j] = middle + draw(c);
        dtype_convert(to, type, cpu_row(&p, i), DTYPE_F32, cols);
        dtype_convert(cpu_row(&p, i), DTYPE_F32, to, type, cols);
    }
    return p;
}

static struct weight weight_of(struct tensor t)
{
    return (struct weight){
        .data = t.data, .dtype = t.dtype, .rows = t.rows, .cols = t.cols, .stride = t.stride};
}

/* ---- a kernel ---- */

static void copy(struct self_check *c, void *to, const void *from, enum cudaMemcpyKind kind)
{
    GPU_MUST(cudaMemcpyAsync(to, from, c->used, kind, c->d->compute));
}

/* Brings what was put to the device, where a launch then finds it. */
static cudaStream_t begin(struct self_check *c)
{
    copy(c, c->memory, c->image, cudaMemcpyHostToDevice);
    return c->d->compute;
}

static void end(struct self_check *c)
{
    copy(c, c->image, c->memory, cudaMemcpyDeviceToHost);
    GPU_MUST(cudaStreamSynchronize(c->d->compute));
    c->used = 0;
}

#define RUN(c, launch)                                                                             \
    do {                                                                                           \
        GPU_MUST(launch);                                                                          \
        end(c);                                                                                    \
    } while (0)

static float gpu_value(const struct self_check *c, struct tensor t, int64_t row, int64_t col)
{
    float x = gpu_element(image_of(c, t.data), t.dtype, row * t.stride + col);
    return t.scale ? x * ((const float *)(void *)image_of(c, t.scale))[row] : x;
}

/* One rounding of x to the type, in a tensor whose largest number is `largest`; twice as much as
 * that is, since x itself may be a little off. */
static float rounding_of(enum dtype t, float x, float largest)
{
    switch (t) {
    case DTYPE_F32:
        return 0;
    case DTYPE_F16:
        return fabsf(x) * 0x1p-10f + 0x1p-24f;
    case DTYPE_BF16:
        return fabsf(x) * 0x1p-7f;
    case DTYPE_F8:
        return fabsf(x) * 0x1p-3f + largest * 0x1p-17f;
    default:
        return largest * 0x1p-7f;
    }
}

static float largest_of(const struct pair *p)
{
    float most = 0;
    for (int64_t i = 0; i < p->cpu.rows; i++)
        for (int64_t j = 0; j < p->cpu.cols; j++)
            most = fmaxf(most, fabsf(cpu_row(p, i)[j]));
    return most;
}

/* error: allowed beside the rounding of the result, as a part of its largest number. */
static int compare(struct self_check *c, const char *what, struct pair p, float error)
{
    const struct device *d = c->d;
    float largest = largest_of(&p);
    for (int64_t i = 0; i < p.cpu.rows; i++)
        for (int64_t j = 0; j < p.cpu.cols; j++) {
            float expected = cpu_row(&p, i)[j], found = gpu_value(c, p.gpu, i, j);
            if (fabsf(found - expected) <=
                rounding_of(p.gpu.dtype, expected, largest) + largest * error)
                continue;
            return err_set(c->e, ASSAY_EUNSUPPORTED,
                "GPU %d (%.60s) computes wrong numbers: %s of %s to %s, row %lld column %lld: "
                "expected %.9g, found %.9g; use another GPU, another driver, or --device cpu",
                d->index, d->properties.name, what, dtype_name(c->type), dtype_name(p.gpu.dtype),
                (long long)i, (long long)j, (double)expected, (double)found);
        }
    return 0;
}

/* ---- rows ---- */

static int check_embed(struct self_check *c)
{
    static const int32_t ids[ROWS] = {0, 8, 3, 3, 1};
    struct pair table = pair_drawn(c, c->type, 9, COLS, 0),
                out = pair_new(c, DTYPE_F32, ROWS, COLS);
    struct weight gpu = weight_of(table.gpu), cpu = weight_of(table.cpu);
    const int32_t *pushed = put(c, ids, sizeof ids);
    RUN(c, kernel_embed(begin(c), out.gpu, &gpu, pushed));
    cpu_ops.embed(c->cpu, out.cpu, &cpu, ids);
    return compare(c, "embed", out, 0);
}

static int check_gather(struct self_check *c)
{
    static const uint32_t rows[ROWS] = {4, 0, 2, 2, 1};
    struct pair x = pair_drawn(c, c->type, ROWS, COLS, 0), out = pair_new(c, c->type, ROWS, COLS);
    const uint32_t *pushed = put(c, rows, sizeof rows);
    RUN(c, kernel_gather(begin(c), out.gpu, x.gpu, pushed));
    cpu_ops.gather(c->cpu, out.cpu, x.cpu, rows);
    return compare(c, "gather", out, 0);
}

static int check_keep(struct self_check *c)
{
    static const struct kv_slots slots[] = {{1, KV_BLOCK_TOKENS, 3}, {0, 2, 1}, {4, 0, 1}};
    struct pair x = pair_drawn(c, c->type, ROWS, COLS, 0),
                out = pair_drawn(c, c->type, 2 * KV_BLOCK_TOKENS, COLS, 0);
    const struct kv_slots *pushed = put(c, slots, sizeof slots);
    RUN(c, kernel_keep(begin(c), out.gpu, x.gpu, pushed, 3));
    cpu_ops.keep(c->cpu, out.cpu, x.cpu, slots, 3);
    return compare(c, "keep", out, 0);
}

/* out: F32, the type of activations, or what products take. */
static int check_rms_norm(struct self_check *c, enum dtype to)
{
    struct pair x = pair_drawn(c, DTYPE_F32, ROWS, COLS, 0),
                y = pair_drawn(c, c->type, ROWS, COLS, 0),
                weight = pair_drawn(c, DTYPE_F32, 1, COLS, 1), out = pair_new(c, to, ROWS, COLS);
    RUN(c, kernel_rms_norm(begin(c), out.gpu, x.gpu, &y.gpu, weight.gpu.data, 1e-6f, NULL));
    cpu_ops.rms_norm(c->cpu, out.cpu, x.cpu, &y.cpu, weight.cpu.data, 1e-6f);
    int rc = compare(c, "rms_norm", out, SUM_ERROR);
    return rc == 0 ? compare(c, "rms_norm's residual", x, 0) : rc;
}

static int check_head_norm(struct self_check *c)
{
    int64_t dim = c->head_dim;
    struct pair x = pair_drawn(c, c->type, ROWS, 2 * dim, 0),
                weight = pair_drawn(c, DTYPE_F32, 1, dim, 1);
    RUN(c, kernel_head_norm(begin(c), x.gpu, 2, weight.gpu.data, 1e-6f));
    cpu_ops.head_norm(c->cpu, x.cpu, 2, weight.cpu.data, 1e-6f);
    return compare(c, "head_norm", x, SUM_ERROR);
}

static int check_rope(struct self_check *c)
{
    static const int32_t positions[ROWS] = {0, 1, 6, 2, 3};
    int64_t half = c->head_dim / 2;
    struct pair x = pair_drawn(c, c->type, ROWS, 4 * half, 0);
    float *cpu_cos = cpu_ops.device->alloc(c->cpu, 14 * (size_t)half * sizeof(float));
    for (int64_t i = 0; i < 14 * half; i++)
        cpu_cos[i] = draw(c);
    float *cos = put(c, cpu_cos, 14 * (size_t)half * sizeof(float));
    struct rope_tables gpu = {(uint32_t)(2 * half), cos, cos + 7 * half},
                       cpu = {(uint32_t)(2 * half), cpu_cos, cpu_cos + 7 * half};
    const int32_t *pushed = put(c, positions, sizeof positions);
    RUN(c, kernel_rope(begin(c), x.gpu, 2, &gpu, pushed));
    cpu_ops.rope(c->cpu, x.cpu, 2, &cpu, positions);
    return compare(c, "rope", x, SUM_ERROR);
}

static int check_silu_mul(struct self_check *c, enum dtype to)
{
    struct pair gate = pair_drawn(c, c->type, ROWS, COLS, 0),
                up = pair_drawn(c, c->type, ROWS, COLS, 0), out = pair_new(c, to, ROWS, COLS);
    RUN(c, kernel_silu_mul(begin(c), out.gpu, gate.gpu, up.gpu));
    cpu_ops.silu_mul(c->cpu, out.cpu, gate.cpu, up.cpu);
    return compare(c, "silu_mul", out, SUM_ERROR);
}

static int check_relu(struct self_check *c)
{
    struct pair x = pair_drawn(c, c->type, ROWS, COLS, 0);
    RUN(c, kernel_relu(begin(c), x.gpu));
    cpu_ops.relu(c->cpu, x.cpu);
    return compare(c, "relu", x, 0);
}

static int check_add_bias(struct self_check *c)
{
    struct pair x = pair_drawn(c, c->type, ROWS, COLS, 0),
                bias = pair_drawn(c, c->type, 1, COLS, 0);
    RUN(c, kernel_add_bias(begin(c), x.gpu, bias.gpu.data));
    cpu_ops.add_bias(c->cpu, x.cpu, bias.cpu.data);
    return compare(c, "add_bias", x, 0);
}

/* ---- the ends of the model ---- */

static int check_pool(struct self_check *c)
{
    static const struct pool_span spans[] = {{0, 5, 1, ACTIVATION_NONE, 0},
        {1, 3, 0, ACTIVATION_SIGMOID, 3}, {2, 2, 0, ACTIVATION_SOFTMAX, 12},
        {0, 1, 0, ACTIVATION_CLASS1, 18}};
    struct pair logits = pair_drawn(c, DTYPE_F32, ROWS, 3, 0),
                values = pair_new(c, DTYPE_F32, 1, 19);
    const struct pool_span *pushed = put(c, spans, sizeof spans);
    RUN(c, kernel_pool(begin(c), values.gpu.data, logits.gpu, pushed, 4));
    cpu_ops.pool(c->cpu, values.cpu.data, logits.cpu, spans, 4);
    return compare(c, "pool", values, SUM_ERROR);
}

static int check_sum_ranks(struct self_check *c)
{
    struct pair parts = pair_drawn(c, c->type, 2, 80, 0), out = pair_new(c, c->type, 1, 80);
    RUN(c, kernel_sum_ranks(begin(c), out.gpu.data, parts.gpu));
    for (int64_t i = 0; i < 80; i++)
        cpu_row(&out, 0)[i] = cpu_row(&parts, 0)[i] + cpu_row(&parts, 1)[i];
    return compare(c, "sum_ranks", out, 0);
}

static int check_adapters(struct self_check *c)
{
    struct pair x = pair_drawn(c, c->type, ROWS, COLS, 0), w = pair_drawn(c, DTYPE_F32, 8, COLS, 0),
                narrow = pair_new(c, DTYPE_F32, ROWS, 8);
    struct weight gpu = weight_of(w.gpu), cpu = weight_of(w.cpu);
    RUN(c, kernel_linear_narrow(begin(c), narrow.gpu, x.gpu, &gpu));
    cpu_ops.linear_narrow(c->cpu, narrow.cpu, x.cpu, &cpu, 1);
    int rc = compare(c, "linear_narrow", narrow, SUM_ERROR);
    if (rc != 0)
        return rc;
    struct pair in = pair_drawn(c, DTYPE_F32, ROWS, 8, 0),
                wide = pair_drawn(c, DTYPE_F32, COLS, 8, 0),
                out = pair_drawn(c, c->type, ROWS, COLS, 0);
    gpu = weight_of(wide.gpu);
    cpu = weight_of(wide.cpu);
    RUN(c, kernel_linear_add(begin(c), out.gpu, in.gpu, &gpu));
    cpu_ops.linear_add(c->cpu, out.cpu, in.cpu, &cpu);
    return compare(c, "linear_add", out, SUM_ERROR);
}

/* ---- attention ---- */

/* Two sequences, the first of two tiles, with a window that ends inside it. */
static const uint32_t cu_seqlens[] = {0, 70, 79};
static const struct attention_tile tiles[] = {
    {.length = 70, .from = 64}, {.length = 70}, {.first = 70, .length = 9}};
#define TOKENS 79

static int check_attention(struct self_check *c, int simple)
{
    int64_t dim = c->head_dim;
    struct pair qkv = pair_drawn(c, c->type, TOKENS, 4 * dim, 0),
                out = pair_new(c, c->type, TOKENS, 2 * dim);
    struct attention_input gpu = {.q = tensor_columns(qkv.gpu, 0, 2 * dim),
        .k = tensor_columns(qkv.gpu, 2 * dim, dim),
        .v = tensor_columns(qkv.gpu, 3 * dim, dim)};
    struct attention_input cpu = {.q = tensor_columns(qkv.cpu, 0, 2 * dim),
        .k = tensor_columns(qkv.cpu, 2 * dim, dim),
        .v = tensor_columns(qkv.cpu, 3 * dim, dim)};
    struct attention_shape shape = {2, 1, c->head_dim, 1 / sqrtf((float)dim), 50};
    struct attn_metadata meta = {.n_rows = 2, .cu_seqlens = cu_seqlens, .max_seqlen = 70};
    struct attention_tiles all = {.list = put(c, tiles, sizeof tiles), .n = 3};
    if (simple)
        RUN(c, kernel_attention_simt(begin(c), out.gpu, &gpu, &shape, &all, NULL));
    else if (kernel_attention_mma_fits(out.gpu, &gpu, &shape))
        RUN(c, kernel_attention_mma(begin(c), out.gpu, &gpu, &shape, &all, NULL));
    else
        return 0;
    cpu_ops.attention(c->cpu, out.cpu, &cpu, &shape, &meta);
    /* weights are rounded to the type before they multiply values */
    return compare(c, simple ? "attention_simt" : "attention_mma", out,
        c->type == DTYPE_F32    ? SUM_ERROR
        : c->type == DTYPE_BF16 ? 0x1p-8f
                                : 0x1p-11f);
}

/* ---- eight bits and less ---- */

static int check_quantize_rows(struct self_check *c)
{
    struct pair x = pair_drawn(c, c->type, ROWS, COLS, 0), out = pair_new(c, c->quant, ROWS, COLS);
    RUN(c, kernel_quantize_rows(begin(c), out.gpu, x.gpu));
    memcpy(out.cpu.data, x.cpu.data, tensor_bytes(x.cpu));
    return compare(c, "quantize_rows", out, 0);
}

static int check_dequantize(struct self_check *c)
{
    struct pair sums = pair_new(c, DTYPE_F32, ROWS, COLS),
                scale = pair_drawn(c, DTYPE_F32, 1, ROWS, 2),
                w_scale = pair_drawn(c, DTYPE_F32, 1, COLS, 2),
                out = pair_new(c, c->type, ROWS, COLS), bias = pair_drawn(c, c->type, 1, COLS, 0);
    int32_t *whole = (int32_t *)(void *)image_of(c, sums.gpu.data);
    sums.gpu.scale = scale.gpu.data;
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < COLS; j++) {
            int32_t sum = (int32_t)(draw(c) * 5e3f);
            whole[i * sums.gpu.stride + j] = sum;
            cpu_row(&out, i)[j] =
                (float)sum * cpu_row(&scale, 0)[i] * cpu_row(&w_scale, 0)[j] + cpu_row(&bias, 0)[j];
        }
    RUN(c, kernel_dequantize(begin(c), out.gpu, sums.gpu, w_scale.gpu.data, bias.gpu.data));
    return compare(c, "dequantize", out, SUM_ERROR);
}

/* A packed matrix: the CPU's product of ones on a diagonal with it is its transpose. */
static int check_unpack(struct self_check *c, struct packing how)
{
    enum { N = 32, K = 64 };
    uint32_t words[N * K / 4] = {0};
    float scale[2 * N], zero[2 * N];
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        draw(c);
        words[i] = c->random & 0xf7f7f7f7u; /* no NaN of E4M3 */
    }
    for (int i = 0; i < 2 * N; i++) {
        scale[i] = 1 + draw(c) / 2;
        zero[i] = how.numbers == PACKED_E4M3 ? 0 : rintf(draw(c) * 8 + 8);
    }
    how.group_stride = N;
    how.group_size = K / 2;
    struct packing on_gpu = how, on_cpu = how;
    on_gpu.scale = put(c, scale, sizeof scale);
    on_gpu.zero = put(c, zero, sizeof zero);
    on_cpu.scale = scale;
    on_cpu.zero = zero;
    struct weight w = {.dtype = DTYPE_PACKED, .rows = N, .cols = K};
    w.stride = how.order == PACKED_ROWS      ? K * how.bits / 32
               : how.order == PACKED_COLUMNS ? N
                                             : N / 8;
    struct weight gpu = w, cpu = w;
    gpu.data = put(c, words, sizeof words);
    gpu.packing = &on_gpu;
    gpu.factors = c->type;
    cpu.data = words;
    cpu.packing = &on_cpu;
    struct pair ones = pair_new(c, DTYPE_F32, K, K), across = pair_new(c, DTYPE_F32, K, N),
                out = pair_new(c, c->type, N, K);
    for (int64_t k = 0; k < K; k++)
        cpu_row(&ones, k)[k] = 1;
    RUN(c, kernel_unpack(begin(c), out.gpu, &gpu));
    cpu_ops.linear(c->cpu, across.cpu, ones.cpu, &cpu, 1, NULL);
    for (int64_t j = 0; j < N; j++)
        for (int64_t k = 0; k < K; k++)
            cpu_row(&out, j)[k] = cpu_row(&across, k)[j];
    return compare(c, "unpack", out, 0);
}

static int check_every_packing(struct self_check *c)
{
    static const struct packing every[] = {
        {.order = PACKED_ROWS, .numbers = PACKED_UNSIGNED, .bits = 4},
        {.order = PACKED_ROWS, .numbers = PACKED_SIGNED, .bits = 8},
        {.order = PACKED_ROWS, .numbers = PACKED_E4M3, .bits = 8},
        {.order = PACKED_COLUMNS, .numbers = PACKED_UNSIGNED, .bits = 4},
        {.order = PACKED_AWQ, .numbers = PACKED_UNSIGNED, .bits = 4}};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof every / sizeof *every; i++)
        rc = check_unpack(c, every[i]);
    return rc;
}

/* Inputs that are rounded to 8 bits and back: the CPU's product of them with ones on a diagonal. */
static int check_round_rows(struct self_check *c, struct rounding how)
{
    struct packing packing = {.inputs = how};
    struct pair x = pair_drawn(c, c->type, ROWS, 64, 0), out = pair_new(c, c->type, ROWS, 64),
                ones = pair_new(c, DTYPE_F32, 64, 64);
    for (int64_t k = 0; k < 64; k++)
        cpu_row(&ones, k)[k] = 1;
    struct weight w = weight_of(ones.cpu);
    w.packing = &packing;
    RUN(c, kernel_round_rows(begin(c), out.gpu, x.gpu, &how, NULL));
    cpu_ops.linear(c->cpu, out.cpu, x.cpu, &w, 1, NULL);
    return compare(c, "round_rows", out, 0);
}

static int check_every_rounding(struct self_check *c)
{
    static const struct rounding every[] = {{.how = ROUND_BY_ROW, .numbers = PACKED_SIGNED},
        {.how = ROUND_BY_MAGNITUDE, .numbers = PACKED_E4M3},
        {.how = ROUND_BY_MAGNITUDE, .numbers = PACKED_SIGNED, .group = 32},
        {.how = ROUND_BY_SCALE, .numbers = PACKED_SIGNED, .scale = 0.01f}};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof every / sizeof *every; i++)
        rc = check_round_rows(c, every[i]);
    return rc;
}

static int check_quantized(struct self_check *c)
{
    int rc = check_rms_norm(c, c->quant);
    if (rc == 0)
        rc = check_silu_mul(c, c->quant);
    if (rc == 0)
        rc = check_quantize_rows(c);
    return rc == 0 && c->quant == DTYPE_I8 ? check_dequantize(c) : rc;
}

int self_check_kernels(struct self_check *c)
{
    static int (*const checks[])(struct self_check *) = {check_embed, check_gather, check_keep,
        check_head_norm, check_rope, check_relu, check_add_bias, check_pool, check_sum_ranks,
        check_adapters, check_every_packing, check_every_rounding};
    int rc = check_rms_norm(c, c->type);
    for (size_t i = 0; rc == 0 && i < sizeof checks / sizeof *checks; i++)
        rc = checks[i](c);
    if (rc == 0)
        rc = check_silu_mul(c, c->type);
    for (int simple = 1; rc == 0 && simple >= 0; simple--)
        rc = check_attention(c, simple);
    return rc == 0 && c->quant != DTYPE_F32 ? check_quantized(c) : rc;
}
