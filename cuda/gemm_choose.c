/* gemm_choose.c - chooses cuBLASLt's algorithm for a shape (gemm.h).
 *
 * Candidates that the library rejects, in advance or when tried, are dropped. The others are timed
 * on the largest batch that products are given, then tested from the fastest on: the first one that
 * gives the rows of that batch the same bits in smaller batches, cut from all over it, is chosen.
 * */
#include <stdlib.h>
#include <string.h>

#include "cuda/gemm_private.h"
#include "schema/log.h"

#define HEURISTICS 12 /* requested for each number of rows */
#define PART_ROWS 1024
#define TIMED_TURNS 3
#define SCALE_ROWS 4 /* F8 rows start where their scales are 16-byte aligned */

struct candidate {
    cublasLtMatmulAlgo_t algo;
    float ms;
    int number; /* in the library's order */
};

/* Memory to try one product: random rows, and results. */
struct trial {
    struct device *device;
    struct product *p;
    struct operands all;   /* gemm_max_rows */
    struct tensor part;    /* PART_ROWS of out */
    uint8_t *whole, *some; /* pinned: PART_ROWS of each */
    cudaEvent_t start, end;
};

/* Also true if the library does not say. */
static int has_split_k(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t n;
    return cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
               sizeof split, &n) != CUBLAS_STATUS_SUCCESS ||
           cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
               &scheme, sizeof scheme, &n) != CUBLAS_STATUS_SUCCESS ||
           split > 1 || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* Whether the algorithm takes this number of rows, within the workspace. */
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
    int64_t rows[] = {
        1, 2, 17, 33, 1000, QUANT_ROWS, 7 * QUANT_ROWS, PART_ROWS, gemm_max_rows(t->p->in)};
    for (size_t i = t->p->in == DTYPE_I8 ? 5 : 0; i < sizeof rows / sizeof *rows; i++)
        if (!takes_rows(t, algo, rows[i]))
            return 0;
    return !has_split_k(algo);
}

/* Returns 0 if the library refuses after all; a device failure ends the process. */
static int multiplies(
    struct trial *t, const cublasLtMatmulAlgo_t *algo, const struct operands *what)
{
    cublasStatus_t rc = gemm_multiply(t->device, t->p, algo, what);
    if (rc != CUBLAS_STATUS_NOT_SUPPORTED && rc != CUBLAS_STATUS_INVALID_VALUE &&
        rc != CUBLAS_STATUS_ARCH_MISMATCH) {
        gemm_must(rc, "cublasLtMatmul");
        return 1;
    }
    (void)cudaGetLastError(); /* or the next launch would find it */
    return 0;
}

static void fetch_rows(struct trial *t, uint8_t *to, struct tensor out, int64_t from, int64_t n)
{
    struct tensor rows = tensor_rows(out, from, n);
    GPU_MUST(cudaMemcpyAsync(
        to, rows.data, tensor_bytes(rows), cudaMemcpyDeviceToHost, t->device->compute));
}

/* Whether rows [from, from + n), as a batch of their own, get the same bits as in all.out. */
static int same_in_a_part(
    struct trial *t, const cublasLtMatmulAlgo_t *algo, int64_t from, int64_t n)
{
    struct operands part = t->all;
    part.x = tensor_rows(t->all.x, from, n);
    part.out = tensor_rows(t->part, 0, n);
    size_t bytes = tensor_bytes(part.out);
    GPU_MUST(cudaMemsetAsync(part.out.data, 0, bytes, t->device->compute));
    if (!multiplies(t, algo, &part))
        return 0;
    fetch_rows(t, t->some, t->part, 0, n);
    fetch_rows(t, t->whole, t->all.out, from, n);
    GPU_MUST(cudaStreamSynchronize(t->device->compute));
    return memcmp(t->some, t->whole, bytes) == 0;
}

/* Whether rows get the same bits in the largest batch and in smaller ones, which cut it from start
 * to end into parts of these sizes. */
static int is_batch_invariant(struct trial *t, const cublasLtMatmulAlgo_t *algo)
{
    static const int64_t sizes[] = {1, 2, 17, 33, 128, 200, 643, PART_ROWS};
    if (t->p->in == DTYPE_I8)
        return 1; /* integer sums are exact */
    GPU_MUST(cudaMemsetAsync(t->all.out.data, 0, tensor_bytes(t->all.out), t->device->compute));
    if (!multiplies(t, algo, &t->all))
        return 0;
    int64_t rows = t->all.x.rows, from = 0;
    for (size_t i = 0; from < rows; i++) {
        int64_t size = sizes[i % (sizeof sizes / sizeof *sizes)];
        int64_t n = size < rows - from ? size : rows - from;
        if (!same_in_a_part(t, algo, from, n))
            return 0;
        from += round_up(n, SCALE_ROWS);
    }
    return 1;
}

/* The time of the largest batch; negative if the library refuses. An algorithm far behind `fastest`
 * is not timed again after its first warm turn. */
static float time_of(struct trial *t, const cublasLtMatmulAlgo_t *algo, float fastest)
{
    float best = 1e30f;
    for (int turn = 0; turn < TIMED_TURNS; turn++) {
        float ms = 0;
        GPU_MUST(cudaEventRecord(t->start, t->device->compute));
        if (!multiplies(t, algo, &t->all))
            return -1;
        GPU_MUST(cudaEventRecord(t->end, t->device->compute));
        GPU_MUST(cudaEventSynchronize(t->end));
        GPU_MUST(cudaEventElapsedTime(&ms, t->start, t->end));
        best = ms < best ? ms : best;
        if (turn > 0 && best > 4 * fastest)
            break;
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

static int faster(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->ms != y->ms)
        return x->ms < y->ms ? -1 : 1;
    return x->number - y->number;
}

/* Keeps the usable algorithms, fastest first. */
static int time_all(struct trial *t, const cublasLtMatmulAlgo_t *found, int n, struct candidate *to)
{
    int kept = 0;
    float fastest = 1e30f;
    for (int i = 0; i < n; i++) {
        float ms = takes_all(t, &found[i]) ? time_of(t, &found[i], fastest) : -1;
        if (ms < 0)
            continue;
        to[kept++] = (struct candidate){found[i], ms, i};
        fastest = ms < fastest ? ms : fastest;
    }
    qsort(to, (size_t)kept, sizeof *to, faster);
    return kept;
}

static void choose_fastest(struct trial *t)
{
    const int64_t rows[] = {gemm_max_rows(t->p->in), QUANT_ROWS, PART_ROWS, 17, 1};
    cublasLtMatmulAlgo_t found[GEMM_MAX_CANDIDATES];
    struct candidate timed[GEMM_MAX_CANDIDATES];
    int n = gemm_candidates(t->device, t->p, rows, t->p->in == DTYPE_I8 ? 2 : 5, found);
    int n_timed = time_all(t, found, n, timed), at = 0;
    while (at < n_timed && !is_batch_invariant(t, &timed[at].algo))
        at++;
    if (n == 0)
        die(GPU_EXIT_ERROR,
            "event=no_algorithm n=%lld k=%lld dtype=%s text=cuBLASLt offers none on this device",
            (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in));
    if (at == n_timed)
        die(GPU_EXIT_ERROR,
            "event=no_algorithm n=%lld k=%lld dtype=%s text=of %d offered %d can be used, and none "
            "of these gives a row the same bits in every batch",
            (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), n, n_timed);
    t->p->algo = timed[at].algo;
    log_info("event=algorithm n=%lld k=%lld dtype=%s offered=%d usable=%d faster_passed_over=%d "
             "us=%.0f",
        (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), n, n_timed, at,
        (double)timed[at].ms * 1000);
}

static struct tensor trial_tensor(struct device *d, enum dtype type, int64_t rows, int64_t cols)
{
    struct tensor t = tensor_shaped(NULL, type, rows, cols);
    GPU_MUST(cudaMalloc(&t.data, tensor_bytes(t)));
    GPU_MUST(gpu_fill_noise(d, t.data, tensor_bytes(t), type, 1));
    if (dtype_bytes(type) > 1)
        return t;
    GPU_MUST(cudaMalloc((void **)&t.scale, (size_t)rows * sizeof(float)));
    GPU_MUST(gpu_fill_noise(d, t.scale, (size_t)rows * sizeof(float), DTYPE_F32, 1));
    return t;
}

void gemm_choose_on_noise(struct device *d, struct product *p)
{
    struct tensor w = trial_tensor(d, p->in, p->n, p->k), bias = trial_tensor(d, p->out, 1, p->n);
    gemm_choose(d, p,
        &(struct weight){
            .data = w.data, .dtype = p->in, .rows = p->n, .cols = p->k, .stride = p->weight_stride},
        p->has_bias ? bias.data : NULL);
    GPU_MUST(cudaFree(w.data));
    GPU_MUST(cudaFree(bias.data));
}

void gemm_choose(struct device *d, struct product *p, const struct weight *w, const void *bias)
{
    struct trial t = {.device = d, .p = p, .all = {.w = *w, .bias = bias}};
    t.all.x = trial_tensor(d, p->in, gemm_max_rows(p->in), p->k);
    t.all.out = trial_tensor(d, p->out, gemm_max_rows(p->in), p->n);
    t.part = trial_tensor(d, p->out, PART_ROWS, p->n);
    GPU_MUST(cudaHostAlloc((void **)&t.whole, tensor_bytes(t.part), cudaHostAllocDefault));
    GPU_MUST(cudaHostAlloc((void **)&t.some, tensor_bytes(t.part), cudaHostAllocDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.start, cudaEventDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.end, cudaEventDefault));
    choose_fastest(&t);
    GPU_MUST(cudaFree(t.all.x.data));
    GPU_MUST(cudaFree(t.all.x.scale));
    GPU_MUST(cudaFree(t.all.out.data));
    GPU_MUST(cudaFree(t.part.data));
    GPU_MUST(cudaFreeHost(t.whole));
    GPU_MUST(cudaFreeHost(t.some));
    GPU_MUST(cudaEventDestroy(t.start));
    GPU_MUST(cudaEventDestroy(t.end));
}
