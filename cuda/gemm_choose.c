/* gemm_choose.c - which of cuBLASLt's algorithms a shape gets (gemm.h).
 *
 * The trial of a shape runs its candidates on random rows: the rows of a batch of TRIAL_ROWS must
 * come out with the same bits in smaller batches, from the start and from the middle of it. Then
 * each is timed at TIMED_ROWS. */
#include <string.h>

#include "cuda/gemm_private.h"
#include "schema/log.h"

#define HEURISTICS 12 /* asked for at each number of rows */
#define TRIAL_ROWS 200
#define TIMED_ROWS 1024
#define TIMED_TURNS 5

/* Memory for the trial of one product: random rows, and results. */
struct trial {
    struct device *device;
    struct product *p;
    struct operands all;   /* TIMED_ROWS rows */
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
    gemm_set_rows(p, rows, t->all.x.stride, t->all.out.stride);
    return cublasLtMatmulAlgoCheck(t->device->gemm->handle, p->desc, p->a, p->b, p->d, p->d, algo,
               &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= GEMM_WORKSPACE_BYTES;
}

static int takes_all(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    static const int64_t rows[] = {
        1, 2, 17, 33, TRIAL_ROWS, QUANT_ROWS, 7 * QUANT_ROWS, TIMED_ROWS};
    for (size_t i = t->p->in == DTYPE_I8 ? 5 : 0; i < sizeof rows / sizeof *rows; i++)
        if (!takes_rows(t, algo, rows[i]))
            return 0;
    return !has_split_k(algo);
}

/* Rows [from, from + n) of the trial's x as a batch of their own, results to pinned memory. */
static void run_rows(
    struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t from, int64_t n, uint8_t *to)
{
    struct operands part = t->all;
    part.x = tensor_rows(t->all.x, from, n);
    part.out = tensor_rows(t->all.out, 0, n);
    size_t bytes = tensor_bytes(part.out);
    GPU_MUST(cudaMemsetAsync(part.out.data, 0, bytes, t->device->compute));
    gemm_multiply(t->device, t->p, algo, &part);
    GPU_MUST(cudaMemcpyAsync(to, part.out.data, bytes, cudaMemcpyDeviceToHost, t->device->compute));
    GPU_MUST(cudaStreamSynchronize(t->device->compute));
}

/* The same bits for a row in every batch that is tried. */
static int ignores_company(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    static const int64_t parts[][2] = {{0, 1}, {8, 1}, {4, 2}, {0, 17}, {100, 33}, {72, 128}};
    if (t->p->in == DTYPE_I8)
        return 1; /* whole sums are exact */
    size_t row_bytes = (size_t)(t->all.out.stride * dtype_bytes(t->all.out.dtype));
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
        gemm_multiply(t->device, t->p, algo, &t->all);
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

int gemm_candidates(struct device *d, struct product *p, const int64_t *rows, int n_rows,
    cublasLtMatmulAlgo_t *found)
{
    cublasLtMatmulHeuristicResult_t results[HEURISTICS];
    cublasLtMatmulPreference_t preference;
    size_t workspace = GEMM_WORKSPACE_BYTES;
    uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
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
    for (int i = 0; i < n_rows; i++) {
        gemm_set_rows(p, rows[i], round_up(p->k, ROW_ELEMENTS), round_up(p->n, ROW_ELEMENTS));
        if (cublasLtMatmulAlgoGetHeuristic(d->gemm->handle, p->desc, p->a, p->b, p->d, p->d,
                preference, HEURISTICS, results, &got) != CUBLAS_STATUS_SUCCESS)
            continue;
        for (int k = 0; k < got && n < GEMM_MAX_CANDIDATES; k++)
            if (results[k].state == CUBLAS_STATUS_SUCCESS && !is_known(found, n, &results[k].algo))
                found[n++] = results[k].algo;
    }
    LT_MUST(cublasLtMatmulPreferenceDestroy(preference));
    return n;
}

static void choose_fastest(struct trial *t)
{
    static const int64_t rows[] = {TIMED_ROWS, QUANT_ROWS, TRIAL_ROWS, 17, 1};
    cublasLtMatmulAlgo_t candidates[GEMM_MAX_CANDIDATES];
    int n = gemm_candidates(t->device, t->p, rows, t->p->in == DTYPE_I8 ? 2 : 5, candidates),
        kept = 0;
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
    if (n == 0)
        die(GPU_EXIT_ERROR,
            "event=no_algorithm n=%lld k=%lld dtype=%s text=cuBLASLt offers none on this device",
            (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in));
    if (kept == 0)
        die(GPU_EXIT_ERROR,
            "event=no_algorithm n=%lld k=%lld dtype=%s text=none of %d gives a row the same bits "
            "in every batch",
            (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), n);
    log_info("event=algorithm n=%lld k=%lld dtype=%s candidates=%d kept=%d us=%.0f",
        (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), n, kept, (double)best * 1000);
}

static struct tensor trial_tensor(struct device *d, enum dtype type, int64_t cols)
{
    struct tensor t = tensor_shaped(NULL, type, TIMED_ROWS, cols);
    GPU_MUST(cudaMalloc(&t.data, tensor_bytes(t)));
    GPU_MUST(gpu_fill_noise(d, t.data, tensor_bytes(t), type, 1));
    if (dtype_bytes(type) > 1)
        return t;
    GPU_MUST(cudaMalloc((void **)&t.scale, TIMED_ROWS * sizeof(float)));
    GPU_MUST(gpu_fill_noise(d, t.scale, TIMED_ROWS * sizeof(float), DTYPE_F32, 1));
    return t;
}

void gemm_choose(struct device *d, struct product *p, const struct weight *w, const void *bias)
{
    struct trial t = {.device = d, .p = p, .all = {.w = *w, .bias = bias}};
    t.all.x = trial_tensor(d, p->in, p->k);
    t.all.out = trial_tensor(d, p->out, p->n);
    GPU_MUST(cudaHostAlloc((void **)&t.whole, tensor_bytes(t.all.out), cudaHostAllocDefault));
    GPU_MUST(cudaHostAlloc((void **)&t.part, tensor_bytes(t.all.out), cudaHostAllocDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.start, cudaEventDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.end, cudaEventDefault));
    choose_fastest(&t);
    GPU_MUST(cudaFree(t.all.x.data));
    GPU_MUST(cudaFree(t.all.x.scale));
    GPU_MUST(cudaFree(t.all.out.data));
    GPU_MUST(cudaFreeHost(t.whole));
    GPU_MUST(cudaFreeHost(t.part));
    GPU_MUST(cudaEventDestroy(t.start));
    GPU_MUST(cudaEventDestroy(t.end));
}
