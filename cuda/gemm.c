/* gemm.c - see gemm.h.
 *
 * cuBLASLt is column-major, so row-major out [T, N] = x [T, K] W [N, K]^T is D [N, T] = A^T B
 * there, with A = W as [K, N] and B = x as [K, T]. Sums are float32 (CUBLAS_COMPUTE_32F, without
 * TF32). The bias is added before D is rounded, once.
 *
 * F8 matrices have a scale for each row of W and of x, by which the library multiplies the sums
 * (OUTER_VEC); their bias is added by a kernel of ours, to the rounded result, since not every
 * version of the library has both. I8 products are exact int32 sums of some rows at a time, which
 * our own kernel turns into floats. The library takes few rows of either not everywhere, so rows
 * are rounded up, and the extra rows' results, for which there is room, are ignored.
 *
 * Parts of a stack whose inputs are rounded differently (round.cu), or some of which are not, are
 * products of their own. */
#include "cuda/gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "cuda/comm_nccl.h"
#include "cuda/gemm_cache.h"
#include "cuda/gemm_private.h"
#include "cuda/packed.h"
#include "schema/alloc.h"
#include "schema/fnv.h"
#include "schema/log.h"

/* ---- made and freed ---- */

static int take_tensor(struct tensor *t, struct err *e)
{
    return GPU_TRY(cudaMalloc(&t->data, tensor_bytes(*t)), e);
}

/* Takes memory for rounded inputs, some rows at a time. */
static int take_rounded(struct gemm *g, const struct device_options *o, struct err *e)
{
    g->rounded = o->rounded;
    if (g->rounded.rows == 0)
        return 0;
    if (g->rounded.rows > GEMM_MAX_ROWS)
        g->rounded.rows = GEMM_MAX_ROWS;
    int rc = take_tensor(&g->rounded, e);
    if (rc == 0)
        rc = GPU_TRY(
            cudaMalloc((void **)&g->bounds, (size_t)g->rounded.rows * 2 * sizeof(float)), e);
    return rc;
}

/* Takes memory for quantized inputs and for sums. */
static int take_scratch(struct gemm *g, const struct device_options *o, struct err *e)
{
    if (o->quant == DTYPE_F32)
        return 0;
    int64_t all = round_up(o->quant_rows, QUANT_ROWS);
    g->quantized = tensor_shaped(NULL, o->quant, all, o->quant_in);
    int rc = take_tensor(&g->quantized, e);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc((void **)&g->quantized.scale, (size_t)all * sizeof(float)), e);
    if (rc != 0 || o->quant != DTYPE_I8)
        return rc;
    int64_t rows = all < GEMM_SUM_ROWS ? all : GEMM_SUM_ROWS;
    g->sums = tensor_shaped(NULL, DTYPE_F32, rows, o->quant_out);
    return take_tensor(&g->sums, e);
}

int gemm_new(struct gemm **out, struct device *d, const struct device_options *o, struct err *e)
{
    struct gemm *g = xcalloc(1, sizeof *g);
    int driver = 0;
    *out = g;
    int rc = GPU_TRY(cudaDriverGetVersion(&driver), e);
    if (rc == 0 && cublasLtCreate(&g->handle) != CUBLAS_STATUS_SUCCESS)
        rc = err_set(
            e, ASSAY_EUNSUPPORTED, "GPU: cuBLASLt does not start on %.60s", d->properties.name);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc(&g->workspace, GEMM_WORKSPACE_BYTES), e);
    snprintf(g->machine, sizeof g->machine, "%.100s, driver %d, cuBLASLt %zu", d->properties.name,
        driver, cublasLtGetVersion());
    if (o->cache_dir)
        snprintf(g->cache_file, sizeof g->cache_file, "%s/" GEMM_CACHE_FILE, o->cache_dir);
    if (rc == 0)
        rc = take_rounded(g, o, e);
    return rc == 0 ? take_scratch(g, o, e) : rc;
}

void gemm_free(struct gemm **out)
{
    struct gemm *g = *out;
    if (!g)
        return;
    for (int i = 0; i < g->n_products; i++) {
        struct product *p = &g->products[i];
        cublasLtMatmulDescDestroy(p->desc);
        cublasLtMatrixLayoutDestroy(p->a);
        cublasLtMatrixLayoutDestroy(p->b);
        cublasLtMatrixLayoutDestroy(p->d);
    }
    cudaFree(g->workspace);
    cudaFree(g->quantized.data);
    cudaFree(g->quantized.scale);
    cudaFree(g->sums.data);
    cudaFree(g->rounded.data);
    cudaFree(g->bounds);
    if (g->handle)
        cublasLtDestroy(g->handle);
    free(g);
    *out = NULL;
}

/* ---- one product ---- */

static void key_of(const struct gemm *g, const struct product *p, char *key, size_t size)
{
    snprintf(key, size, "%s, %s x %s, n %lld, k %lld, stride %lld%s, compared on %lld rows",
        g->machine, dtype_name(p->in), dtype_name(p->out), (long long)p->n, (long long)p->k,
        (long long)p->weight_stride, p->has_bias ? ", bias" : "", (long long)gemm_max_rows(p->in));
}

static int is_usable(struct gemm *g, struct product *p, const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t result;
    gemm_set_rows(
        p, gemm_max_rows(p->in), round_up(p->k, ROW_ELEMENTS), round_up(p->n, ROW_ELEMENTS));
    return cublasLtMatmulAlgoCheck(g->handle, p->desc, p->a, p->b, p->d, p->d, algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= GEMM_WORKSPACE_BYTES;
}

/* Recalls the file's first algorithm that the library still takes. */
static int recall(struct device *d, struct product *p)
{
    char key[512];
    cublasLtMatmulAlgo_t found;
    struct gemm *g = d->gemm;
    key_of(g, p, key, sizeof key);
    if (g->cache_file[0] == '\0')
        return 0;
    for (int skip = 0; gemm_cache_find(g->cache_file, key, skip, &found, sizeof found); skip++)
        if (is_usable(g, p, &found)) {
            p->algo = found;
            return 1;
        }
    return 0;
}

/* Remembers the choice of a process that only describes the model: its ranks must find it, or they
 * would choose for themselves. If another process was first, its choice holds for all. */
static void remember(struct device *d, struct product *p)
{
    char key[512];
    struct err e = {0};
    struct gemm *g = d->gemm;
    if (g->cache_file[0] == '\0')
        return;
    key_of(g, p, key, sizeof key);
    int rc = gemm_cache_add(g->cache_file, key, &p->algo, sizeof p->algo, &e);
    if (rc == 0 && recall(d, p))
        return;
    if (rc == 0)
        err_set(&e, ASSAY_EIO, "%.400s: what was written there cannot be read", g->cache_file);
    if (d->shapes_only)
        die(EX_IOERR, "event=algorithm_not_remembered error=\"%s\"", e.msg);
    log_warn("event=algorithm_not_remembered error=\"%s\"", e.msg);
}

static int same_shape(const struct product *a, const struct product *b)
{
    return a->in == b->in && a->out == b->out && a->n == b->n && a->k == b->k &&
           a->weight_stride == b->weight_stride && a->has_bias == b->has_bias;
}

/* w NULL: there is no matrix of this shape here. */
static struct product *find_product(
    struct device *d, struct product wanted, const struct weight *w, const void *bias)
{
    struct gemm *g = d->gemm;
    for (int i = 0; i < g->n_products; i++)
        if (same_shape(&g->products[i], &wanted))
            return &g->products[i];
    if (g->n_products == GEMM_MAX_PRODUCTS)
        die(70, "event=too_many_shapes max=%d", GEMM_MAX_PRODUCTS);
    struct product *p = &g->products[g->n_products++];
    *p = wanted;
    gemm_make_descriptors(p, w, bias);
    if ((!d->comm || comm_rank(d->comm) == 0) && !recall(d, p)) {
        if (w)
            gemm_choose(d, p, w, bias);
        else
            gemm_choose_on_noise(d, p);
        remember(d, p);
    }
    if (d->comm)
        comm_share(d->comm, &p->algo, sizeof p->algo);
    return p;
}

/* ---- linear ---- */

static void run(struct device *d, const struct operands *o)
{
    int64_t unit = gemm_row_unit(o->x.dtype);
    const void *bias = o->x.dtype == DTYPE_F8 ? NULL : o->bias;
    struct product wanted = {.in = o->x.dtype,
        .out = o->out.dtype,
        .n = o->w.rows,
        .k = o->x.cols,
        .weight_stride = o->w.stride,
        .has_bias = bias != NULL};
    struct product *p = find_product(d, wanted, &o->w, bias);
    for (int64_t row = 0; row < o->x.rows; row += GEMM_MAX_ROWS) {
        int64_t n = o->x.rows - row < GEMM_MAX_ROWS ? o->x.rows - row : GEMM_MAX_ROWS;
        struct operands part = *o;
        part.x = tensor_rows(o->x, row, round_up(n, unit));
        part.out = tensor_rows(o->out, row, round_up(n, unit));
        part.bias = bias;
        LT_MUST(gemm_multiply(d, p, &p->algo, &part));
    }
    if (o->bias && !bias)
        GPU_MUST(kernel_add_bias(gpu_stream(d), o->out, o->bias));
}

/* Computes int32 sums for some rows at a time and turns them into floats. */
static void run_sums(struct device *d, const struct operands *o)
{
    struct tensor sums = d->gemm->sums;
    for (int64_t row = 0; row < o->x.rows; row += sums.rows) {
        int64_t n = o->x.rows - row < sums.rows ? o->x.rows - row : sums.rows;
        int64_t rounded = round_up(n, QUANT_ROWS);
        struct operands part = *o;
        part.x = tensor_rows(o->x, row, rounded);
        part.out = tensor_of(sums.data, sums.dtype, rounded, o->w.rows, sums.stride);
        part.bias = NULL;
        run(d, &part);
        part.out.scale = part.x.scale;
        GPU_MUST(kernel_dequantize(
            gpu_stream(d), tensor_rows(o->out, row, n), part.out, o->w.scale, o->bias));
    }
}

static struct tensor quantize(struct device *d, struct tensor x)
{
    struct tensor to = d->gemm->quantized;
    if (x.rows > to.rows || x.cols > to.cols)
        die(70, "event=quantized_input_too_large rows=%lld cols=%lld", (long long)x.rows,
            (long long)x.cols);
    to.rows = x.rows;
    to.cols = x.cols;
    GPU_MUST(kernel_quantize_rows(gpu_stream(d), to, x));
    return to;
}

/* At most as many rows as there is memory for. */
static struct tensor round_rows(struct device *d, struct tensor x, const struct rounding *r)
{
    struct gemm *g = d->gemm;
    struct tensor to = g->rounded;
    float *bounds = r->is_split && d->comm_nccl ? g->bounds : NULL;
    if (x.cols > to.cols || x.dtype != to.dtype)
        die(70, "event=rounded_input_too_large cols=%lld type=%s", (long long)x.cols,
            dtype_name(x.dtype));
    to.rows = x.rows;
    to.cols = x.cols;
    if (bounds) {
        GPU_MUST(kernel_measure_rows(gpu_stream(d), bounds, x));
        comm_nccl_all_reduce_max(d, bounds, 2 * x.rows);
    }
    GPU_MUST(kernel_round_rows(gpu_stream(d), to, x, r, bounds));
    return to;
}

static void run_rounded(struct device *d, const struct operands *o, const struct rounding *r)
{
    int64_t step = d->gemm->rounded.rows;
    if (step == 0)
        die(70, "event=rounded_input_without_memory");
    for (int64_t row = 0; row < o->x.rows; row += step) {
        int64_t n = o->x.rows - row < step ? o->x.rows - row : step;
        struct operands part = *o;
        part.x = round_rows(d, tensor_rows(o->x, row, n), r);
        part.out = tensor_rows(o->out, row, n);
        run(d, &part);
    }
}

/* Parts whose inputs are rounded alike; unpacks: the stack that they are of is packed. */
static void multiply_parts(
    struct device *d, struct operands o, const struct weight *parts, int n_parts, int unpacks)
{
    o.w = parts[0];
    for (int i = 1; i < n_parts; i++)
        o.w.rows += parts[i].rows;
    const struct rounding *r = weight_rounding(parts);
    if (unpacks)
        o.w = packed_unpack(d, parts, n_parts);
    if (dtype_bytes(o.w.dtype) == 1 && o.x.dtype != o.w.dtype)
        o.x = quantize(d, o.x);
    if (o.w.dtype == DTYPE_I8)
        run_sums(d, &o);
    else if (r)
        run_rounded(d, &o, r);
    else
        run(d, &o);
}

void gemm_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias)
{
    int unpacks = packed_any(parts, n_parts);
    const uint8_t *each = bias;
    int64_t column = 0, columns;
    for (int i = 0, n; x.rows > 0 && i < n_parts; i += n, column += columns) {
        n = weights_alike(parts, i, n_parts);
        columns = 0;
        for (int k = i; k < i + n; k++)
            columns += parts[k].rows;
        struct operands o = {.out = tensor_columns(out, column, columns),
            .x = x,
            .bias = each ? each + column * dtype_bytes(out.dtype) : NULL};
        multiply_parts(d, o, parts + i, n, unpacks);
    }
}

/* The bias's place is only looked at. */
void gemm_choose_linear(struct device *d, enum dtype type, int64_t rows, int64_t cols, int has_bias)
{
    find_product(d,
        (struct product){.in = type,
            .out = type,
            .n = rows,
            .k = cols,
            .weight_stride = gpu_row_stride(cols, type),
            .has_bias = has_bias},
        NULL, d->gemm->workspace);
}

/* A sum of hashes, so that the order in which shapes were first needed does not matter. */
uint64_t gemm_table_hash(const struct gemm *g)
{
    uint64_t sum = 0;
    for (int i = 0; i < g->n_products; i++) {
        char text[512 + sizeof(cublasLtMatmulAlgo_t)] = "";
        key_of(g, &g->products[i], text, 512);
        memcpy(text + 512, &g->products[i].algo, sizeof(cublasLtMatmulAlgo_t));
        sum += fnv_add(FNV_NOTHING, text, sizeof text);
    }
    return sum;
}
