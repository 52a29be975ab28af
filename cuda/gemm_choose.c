/* gemm_choose.c - chooses cuBLASLt's algorithm for a shape (gemm.h).
 *
 * Candidates that the library rejects, in advance or when tried, are dropped. The others are timed
 * on the largest batch that products are given, and dropped if numbers sampled from the result are
 * not those that the host computes (gemm_sample.c). Then they are tested from the fastest on: the
 * first one that gives the rows of that batch the same bits in smaller batches, cut from all over
 * it, is chosen. */
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "cuda/gemm_private.h"
#include "schema/log.h"

#define HEURISTICS 12 /* requested for each number of rows */
#define PART_ROWS 1024
#define TIMED_TURNS 3

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
    struct gemm_sample sample; /* of `all` */
    char wrong[160];           /* what the last algorithm with wrong numbers gave */
};

/* A number in the algorithm's configuration; 0 if the library does not say. */
static uint32_t attribute(
    const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t which)
{
    uint32_t value = 0;
    size_t n;
    int known = cublasLtMatmulAlgoConfigGetAttribute(algo, which, &value, sizeof value, &n) ==
                CUBLAS_STATUS_SUCCESS;
    return known ? value : 0;
}

/* What the library does not say is left to is_batch_invariant. */
static int has_split_k(const cublasLtMatmulAlgo_t *algo)
{
    return attribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) > 1 ||
           attribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) != CUBLASLT_REDUCTION_SCHEME_NONE;
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
    for (size_t i = dtype_bytes(t->p->in) == 1 ? 5 : 0; i < sizeof rows / sizeof *rows; i++)
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
    GPU_MUST(cudaMemsetAsync(t->all.out.data, 0, tensor_bytes(t->all.out), t->device->compute));
    if (!multiplies(t, algo, &t->all))
        return 0;
    int64_t rows = t->all.x.rows, from = 0;
    for (size_t i = 0; from < rows; i++) {
        int64_t size = sizes[i % (sizeof sizes / sizeof *sizes)];
        int64_t wanted = round_up(size, gemm_row_unit(t->p->in));
        int64_t n = wanted < rows - from ? wanted : rows - from;
        if (!same_in_a_part(t, algo, from, n))
            return 0;
        from += n;
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

/* Whether what the algorithm left in all.out is right. */
static int is_right(struct trial *t, int number)
{
    if (gemm_sample_agrees(t->device, &t->sample, t->all.out, t->wrong, sizeof t->wrong))
        return 1;
    log_warn("event=wrong_product gpu=%d n=%lld k=%lld dtype=%s algorithm=%d text=%s",
        t->device->index, (long long)t->p->n, (long long)t->p->k, dtype_name(t->p->in), number,
        t->wrong);
    return 0;
}

/* Keeps the usable algorithms, fastest first. */
static int time_all(struct trial *t, const cublasLtMatmulAlgo_t *found, int n, struct candidate *to)
{
    int kept = 0;
    float fastest = 1e30f;
    for (int i = 0; i < n; i++) {
        float ms = takes_all(t, &found[i]) ? time_of(t, &found[i], fastest) : -1;
        if (ms < 0 || !is_right(t, i))
            continue;
        to[kept++] = (struct candidate){found[i], ms, i};
        fastest = ms < fastest ? ms : fastest;
    }
    qsort(to, (size_t)kept, sizeof *to, faster);
    return kept;
}

/* A start over would find the same: the device and the library do not have this product. */
static void refuse(const struct trial *t, int offered, int right)
{
    const struct product *p = t->p;
    die(EX_CONFIG,
        "event=no_algorithm gpu=\"%.60s\" n=%lld k=%lld dtype=%s out=%s%s text=%s: %d offered, %d "
        "usable and right%s%s",
        t->device->properties.name, (long long)p->n, (long long)p->k, dtype_name(p->in),
        dtype_name(p->out), p->has_bias ? " bias=1" : "",
        offered == 0 ? "cuBLASLt offers none on this device"
                     : "none gives a row the same and right bits in every batch",
        offered, right, t->wrong[0] ? "; " : "", t->wrong);
}

static void choose_fastest(struct trial *t)
{
    const int64_t rows[] = {gemm_max_rows(t->p->in), QUANT_ROWS, PART_ROWS, 17, 1};
    cublasLtMatmulAlgo_t found[GEMM_MAX_CANDIDATES];
    struct candidate timed[GEMM_MAX_CANDIDATES];
    int n = gemm_candidates(t->device, t->p, rows, dtype_bytes(t->p->in) == 1 ? 3 : 5, found);
    int n_timed = time_all(t, found, n, timed), at = 0;
    while (at < n_timed && !is_batch_invariant(t, &timed[at].algo))
        at++;
    if (at == n_timed)
        refuse(t, n, n_timed);
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

/* Beside the weights and the arena, which are there by now. */
static void check_room(struct device *d, const struct product *p)
{
    int64_t rows = gemm_max_rows(p->in);
    size_t free_bytes = 0, total = 0,
           bytes = tensor_bytes(tensor_shaped(NULL, p->in, rows, p->k)) +
                   tensor_bytes(tensor_shaped(NULL, p->out, rows + PART_ROWS, p->n));
    GPU_MUST(cudaMemGetInfo(&free_bytes, &total));
    if (bytes > free_bytes)
        die(EX_CONFIG,
            "event=no_room_to_try gpu=%d n=%lld k=%lld dtype=%s text=trying this product takes %zu "
            "MiB, %zu of %zu MiB are free: lower --kv-cache or --max-batch-tokens, or use more "
            "ranks",
            d->index, (long long)p->n, (long long)p->k, dtype_name(p->in), bytes >> 20,
            free_bytes >> 20, total >> 20);
}

void gemm_choose(struct device *d, struct product *p, const struct weight *w, const void *bias)
{
    struct trial t = {.device = d, .p = p, .all = {.w = *w, .bias = bias}};
    check_room(d, p);
    t.all.x = trial_tensor(d, p->in, gemm_max_rows(p->in), p->k);
    t.all.out = trial_tensor(d, p->out, gemm_max_rows(p->in), p->n);
    t.part = trial_tensor(d, p->out, PART_ROWS, p->n);
    GPU_MUST(cudaHostAlloc((void **)&t.whole, tensor_bytes(t.part), cudaHostAllocDefault));
    GPU_MUST(cudaHostAlloc((void **)&t.some, tensor_bytes(t.part), cudaHostAllocDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.start, cudaEventDefault));
    GPU_MUST(cudaEventCreateWithFlags(&t.end, cudaEventDefault));
    gemm_sample_take(d, &t.sample, p->in, &t.all);
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
