/* gemm.c - see gemm.h.
 *
 * Row-major out [T, N] = x [T, K] W [N, K]^T is, to a library that counts columns first,
 * D [N, T] = A^T B with A = W as [K, N] and B = x as [K, T]. Sums are float32 (cuBLASLt's
 * CUBLAS_COMPUTE_32F without TF32), D is rounded once, the bias is added before that.
 *
 * The trial of a shape runs its candidates on random rows: the rows of a batch of TRIAL_ROWS must
 * come out with the same bits in smaller batches, from the start and from the middle of it. Then
 * each is timed at TIMED_ROWS. */
#include "cuda/gemm.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/gemm_cache.h"
#include "schema/log.h"

#define WORKSPACE_BYTES ((size_t)32 << 20)
#define MAX_PRODUCTS 64
#define MAX_CANDIDATES 32
#define HEURISTICS 12 /* asked for at each number of rows */
#define TRIAL_ROWS 200
#define TIMED_ROWS 1024
#define TIMED_TURNS 5

/* One shape, with its descriptors; the numbers of rows and leading dimensions are set for a call.
 */
struct product {
    enum dtype in, out;
    int64_t n, k, weight_stride;
    int has_bias;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

struct gemm {
    cublasLtHandle_t handle;
    void *workspace;
    char cache_file[512]; /* empty: none */
    char machine[256];    /* device, driver and library, as in the file */
    struct product products[MAX_PRODUCTS];
    int n_products;
};

#define LT_MUST(call) lt_must(call, #call)
static void lt_must(cublasStatus_t rc, const char *call)
{
    if (rc != CUBLAS_STATUS_SUCCESS)
        die(GPU_EXIT_ERROR, "event=gpu_error error=%s call=%.100s", cublasLtGetStatusString(rc),
            call);
}

static cudaDataType_t data_type(enum dtype t)
{
    return t == DTYPE_F32 ? CUDA_R_32F : t == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

int gemm_new(struct gemm **out, struct device *d, const char *cache_dir, struct err *e)
{
    struct gemm *g = xcalloc(1, sizeof *g);
    int driver = 0;
    *out = g;
    int rc = GPU_TRY(cudaDriverGetVersion(&driver), e);
    if (rc == 0 && cublasLtCreate(&g->handle) != CUBLAS_STATUS_SUCCESS)
        rc = err_set(
            e, ASSAY_EUNSUPPORTED, "GPU: cuBLASLt does not start on %.60s", d->properties.name);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc(&g->workspace, WORKSPACE_BYTES), e);
    snprintf(g->machine, sizeof g->machine, "%.100s, driver %d, cuBLASLt %zu", d->properties.name,
        driver, cublasLtGetVersion());
    if (cache_dir)
        snprintf(g->cache_file, sizeof g->cache_file, "%s/gemm-algorithms.txt", cache_dir);
    return rc;
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
    if (g->handle)
        cublasLtDestroy(g->handle);
    free(g);
    *out = NULL;
}

/* ---- one product ---- */

static void make_descriptors(struct product *p)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t in = data_type(p->in), out = data_type(p->out);
    LT_MUST(cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT_MUST(cublasLtMatmulDescSetAttribute(
        p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    if (p->has_bias) {
        LT_MUST(cublasLtMatmulDescSetAttribute(
            p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        LT_MUST(cublasLtMatmulDescSetAttribute(
            p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out, sizeof out));
    }
    LT_MUST(
        cublasLtMatrixLayoutCreate(&p->a, in, (uint64_t)p->k, (uint64_t)p->n, p->weight_stride));
    LT_MUST(cublasLtMatrixLayoutCreate(&p->b, in, (uint64_t)p->k, 1, p->k));
    LT_MUST(cublasLtMatrixLayoutCreate(&p->d, out, (uint64_t)p->n, 1, p->n));
}

static void set_layout(cublasLtMatrixLayout_t l, int64_t rows, int64_t stride)
{
    uint64_t cols = (uint64_t)rows;
    LT_MUST(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols));
    LT_MUST(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_LD, &stride, sizeof stride));
}

static void set_rows(struct product *p, int64_t rows, int64_t x_stride, int64_t out_stride)
{
    set_layout(p->b, rows, x_stride);
    set_layout(p->d, rows, out_stride);
}

static void multiply(struct device *d, struct product *p, const cublasLtMatmulAlgo_t *algo,
    struct tensor out, struct tensor x, const void *weight, const void *bias)
{
    const float one = 1, zero = 0;
    struct gemm *g = d->gemm;
    set_rows(p, x.rows, x.stride, out.stride);
    if (p->has_bias)
        LT_MUST(cublasLtMatmulDescSetAttribute(
            p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    LT_MUST(cublasLtMatmul(g->handle, p->desc, &one, weight, p->a, x.data, p->b, &zero, out.data,
        p->d, out.data, p->d, algo, g->workspace, WORKSPACE_BYTES, gpu_stream(d)));
}

/* ---- the choice ---- */

/* Memory for the trial of one product: random rows, and results. */
struct trial {
    struct device *device;
    struct product *p;
    const void *weight, *bias;
    struct tensor x, out;  /* TIMED_ROWS */
    uint8_t *whole, *part; /* pinned: results of TRIAL_ROWS rows, and of some of them */
    cudaEvent_t start, end;
};

static int has_split_k(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t n;
    LT_MUST(cublasLtMatmulAlgoConfigGetAttribute(
        algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, &n));
    LT_MUST(cublasLtMatmulAlgoConfigGetAttribute(
        algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &n));
    return split > 1 || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* Does it take this number of rows, within the workspace? */
static int takes_rows(struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t rows)
{
    cublasLtMatmulHeuristicResult_t result;
    struct product *p = t->p;
    set_rows(p, rows, t->x.stride, t->out.stride);
    return cublasLtMatmulAlgoCheck(t->device->gemm->handle, p->desc, p->a, p->b, p->d, p->d, algo,
               &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

static int takes_all(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    static const int64_t rows[] = {1, 2, 17, 33, TRIAL_ROWS, TIMED_ROWS};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!takes_rows(t, algo, rows[i]))
            return 0;
    return !has_split_k(algo);
}

/* Rows [from, from + n) of the trial's x as a batch of their own, results to pinned memory. */
static void run_rows(
    struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t from, int64_t n, uint8_t *to)
{
    struct tensor x = tensor_rows(t->x, from, n), out = tensor_rows(t->out, 0, n);
    size_t bytes = (size_t)(n * out.stride * dtype_bytes(out.dtype));
    GPU_MUST(cudaMemsetAsync(out.data, 0, bytes, t->device->compute));
    multiply(t->device, t->p, algo, out, x, t->weight, t->bias);
    GPU_MUST(cudaMemcpyAsync(to, out.data, bytes, cudaMemcpyDeviceToHost, t->device->compute));
    GPU_MUST(cudaStreamSynchronize(t->device->compute));
}

/* The same bits for a row in every batch that is tried. */
static int ignores_company(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    static const int64_t parts[][2] = {{0, 1}, {7, 1}, {3, 2}, {0, 17}, {100, 33}, {72, 128}};
    size_t row_bytes = (size_t)(t->out.stride * dtype_bytes(t->out.dtype));
    run_rows(t, algo, 0, TRIAL_ROWS, t->whole);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        int64_t from = parts[i][0], n = parts[i][1];
        run_rows(t, algo, from, n, t->part);
        if (memcmp(t->part, t->whole + (size_t)from * row_bytes, (size_t)n * row_bytes) != 0)
            return 0;
    }
    run_rows(t, algo, 0, TIMED_ROWS, t->part);
    return memcmp(t->part, t->whole, TRIAL_ROWS * row_bytes) == 0;
}

static float time_of(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    float best = 1e30f;
    for (int turn = 0; turn < TIMED_TURNS; turn++) {
        float ms = 0;
        GPU_MUST(cudaEventRecord(t->start, t->device->compute));
        multiply(t->device, t->p, algo, t->out, t->x, t->weight, t->bias);
        GPU_MUST(cudaEventRecord(t->end, t->device->compute));
        GPU_MUST(cudaEventSynchronize(t->end));
        GPU_MUST(cudaEventElapsedTime(&ms, t->start, t->end));
        best = ms < best ? ms : best;
    }
    return best;
}

static int is_known(const cublasLtMatmulAlgo_t *found, int n, const cublasLtMatmulAlgo_t *algo)
{
    for (int i = 0; i < n; i++)
        if (memcmp(&found[i], algo, sizeof *algo) == 0)
            return 1;
    return 0;
}

/* What the library would take for few rows and for many, each once. */
static int find_candidates(struct trial *t, cublasLtMatmulAlgo_t *found)
{
    static const int64_t rows[] = {TIMED_ROWS, TRIAL_ROWS, 17, 1};
    cublasLtMatmulHeuristicResult_t results[HEURISTICS];
    cublasLtMatmulPreference_t preference;
    size_t workspace = WORKSPACE_BYTES;
    uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    struct product *p = t->p;
    int n = 0, got;
    LT_MUST(cublasLtMatmulPreferenceCreate(&preference));
    LT_MUST(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    LT_MUST(cublasLtMatmulPreferenceSetAttribute(preference,
        CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_reduction, sizeof no_reduction));
    for (int a = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
         a <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; a++) {
        uint32_t bytes = 16;
        LT_MUST(cublasLtMatmulPreferenceSetAttribute(
            preference, (cublasLtMatmulPreferenceAttributes_t)a, &bytes, sizeof bytes));
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        set_rows(p, rows[i], t->x.stride, t->out.stride);
        if (cublasLtMatmulAlgoGetHeuristic(t->device->gemm->handle, p->desc, p->a, p->b, p->d, p->d,
                preference, HEURISTICS, results, &got) != CUBLAS_STATUS_SUCCESS)
            continue;
        for (int k = 0; k < got && n < MAX_CANDIDATES; k++)
            if (results[k].state == CUBLAS_STATUS_SUCCESS && !is_known(found, n, &results[k].algo))
                found[n++] = results[k].algo;
    }
    LT_MUST(cublasLtMatmulPreferenceDestroy(preference));
    return n;
}

static void choose_fastest(struct trial *t)
{
    cublasLtMatmulAlgo_t candidates[MAX_CANDIDATES];
    int n = find_candidates(t, candidates), kept = 0;
    float best = 0;
    for (int i = 0; i < n; i++) {
        if (!takes_all(t, &candidates[i]) || !ignores_company(t, &candidates[i]))
            continue;
        float ms = time_of(t, &candidates[i]);
        if (kept++ == 0 || ms < best) {
            best = ms;
            t->p->algo = candidates[i];
        }
    }
    if (kept == 0)
        die(GPU_EXIT_ERROR,
            "event=no_algorithm n=%lld k=%lld dtype=%s text=none of %d gives a row the same bits "
            "in every batch",
            (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), n);
    log_info("event=algorithm n=%lld k=%lld dtype=%s candidates=%d kept=%d us=%.0f",
        (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), n, kept, (double)best * 1000);
}

/* Random rows to the device, in both of the trial's pinned buffers' stead. */
static void fill_x(struct trial *t)
{
    size_t n = (size_t)(t->x.rows * t->x.stride), size = (size_t)dtype_bytes(t->x.dtype);
    void *host;
    uint32_t state = 1;
    GPU_MUST(cudaHostAlloc(&host, n * size, cudaHostAllocDefault));
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(int32_t)state * 0x1p-31f;
        dtype_convert((uint8_t *)host + i * size, t->x.dtype, &x, DTYPE_F32, 1);
    }
    GPU_MUST(
        cudaMemcpyAsync(t->x.data, host, n * size, cudaMemcpyHostToDevice, t->device->compute));
    GPU_MUST(cudaStreamSynchronize(t->device->compute));
    GPU_MUST(cudaFreeHost(host));
}

static size_t bytes_of(struct tensor t)
{
    return (size_t)(t.rows * t.stride * dtype_bytes(t.dtype));
}

static struct tensor trial_tensor(enum dtype type, int64_t cols)
{
    struct tensor t = tensor_of(NULL, type, TIMED_ROWS, cols, (cols + 7) / 8 * 8);
    GPU_MUST(cudaMalloc(&t.data, bytes_of(t)));
    return t;
}

static void choose(struct device *d, struct product *p, const void *weight, const void *bias)
{
    struct trial t = {.device = d, .p = p, .weight = weight, .bias = bias};
    t.x = trial_tensor(p->in, p->k);
    t.out = trial_tensor(p->out, p->n);
    GPU_MUST(cudaHostAlloc((void **)&t.whole, bytes_of(t.out), cudaHostAllocDefault));
    GPU_MUST(cudaHostAlloc((void **)&t.part, bytes_of(t.out), cudaHostAllocDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.start, cudaEventDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.end, cudaEventDefault));
    fill_x(&t);
    choose_fastest(&t);
    GPU_MUST(cudaFree(t.x.data));
    GPU_MUST(cudaFree(t.out.data));
    GPU_MUST(cudaFreeHost(t.whole));
    GPU_MUST(cudaFreeHost(t.part));
    GPU_MUST(cudaEventDestroy(t.start));
    GPU_MUST(cudaEventDestroy(t.end));
}

static void key_of(const struct gemm *g, const struct product *p, char *key, size_t size)
{
    snprintf(key, size, "%s, %s x %s, n %lld, k %lld, stride %lld%s", g->machine, dtype_name(p->in),
        dtype_name(p->out), (long long)p->n, (long long)p->k, (long long)p->weight_stride,
        p->has_bias ? ", bias" : "");
}

/* What the file says, if the library still takes it. */
static int recall(struct device *d, struct product *p)
{
    char key[512];
    cublasLtMatmulHeuristicResult_t result;
    struct gemm *g = d->gemm;
    key_of(g, p, key, sizeof key);
    set_rows(p, 1, (p->k + 7) / 8 * 8, (p->n + 7) / 8 * 8);
    return g->cache_file[0] != '\0' &&
           gemm_cache_find(g->cache_file, key, &p->algo, sizeof p->algo) &&
           cublasLtMatmulAlgoCheck(g->handle, p->desc, p->a, p->b, p->d, p->d, &p->algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

static void remember(struct gemm *g, const struct product *p)
{
    char key[512];
    key_of(g, p, key, sizeof key);
    if (g->cache_file[0] != '\0')
        gemm_cache_add(g->cache_file, key, &p->algo, sizeof p->algo);
}

static int same_shape(const struct product *a, const struct product *b)
{
    return a->in == b->in && a->out == b->out && a->n == b->n && a->k == b->k &&
           a->weight_stride == b->weight_stride && a->has_bias == b->has_bias;
}

static struct product *find_product(
    struct device *d, struct product wanted, const void *weight, const void *bias)
{
    struct gemm *g = d->gemm;
    for (int i = 0; i < g->n_products; i++)
        if (same_shape(&g->products[i], &wanted))
            return &g->products[i];
    if (g->n_products == MAX_PRODUCTS)
        die(70, "event=too_many_shapes max=%d", MAX_PRODUCTS);
    struct product *p = &g->products[g->n_products++];
    *p = wanted;
    make_descriptors(p);
    if ((!d->comm || comm_rank(d->comm) == 0) && !recall(d, p)) {
        choose(d, p, weight, bias);
        remember(g, p);
    }
    if (d->comm)
        comm_share(d->comm, &p->algo, sizeof p->algo);
    return p;
}

void gemm_linear(struct device *d, struct tensor out, struct tensor x, const struct weight *parts,
    int n_parts, const void *bias)
{
    struct product wanted = {.in = x.dtype,
        .out = out.dtype,
        .k = x.cols,
        .weight_stride = parts[0].stride,
        .has_bias = bias != NULL};
    for (int i = 0; i < n_parts; i++)
        wanted.n += parts[i].rows;
    if (x.rows == 0)
        return;
    struct product *p = find_product(d, wanted, parts[0].data, bias);
    multiply(d, p, &p->algo, out, x, parts[0].data, bias);
}

/* A sum, so that the order in which shapes were first needed does not count. */
uint64_t gemm_table_hash(const struct gemm *g)
{
    uint64_t sum = 0;
    for (int i = 0; i < g->n_products; i++) {
        char text[512 + sizeof(cublasLtMatmulAlgo_t)] = "";
        uint64_t hash = 14695981039346656037ull;
        key_of(g, &g->products[i], text, 512);
        memcpy(text + 512, &g->products[i].algo, sizeof(cublasLtMatmulAlgo_t));
        for (size_t k = 0; k < sizeof text; k++)
            hash = (hash ^ (uint8_t)text[k]) * 1099511628211ull;
        sum += hash;
    }
    return sum;
}
