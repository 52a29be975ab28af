/* test_gpu_model.c - the whole forward and pooler on the GPU's table of operations, its kernels run
 * by the bench and CUDA's libraries replaced by checking doubles: every golden vector, on one rank
 * and several, a row's bits whatever else is in its batch, two batches in flight, and failing
 * calls. Run from the repository root.
 *
 * make gpu-check runs it on a device with the real libraries (ASSAY_ON_DEVICE), each test by
 * itself: some fork, which a process that has used CUDA must not. ASSAY_DEVICES says how many there
 * are, ASSAY_NO_FP8 that they are older than that. */
#include "tests/unit/model_fixture.h"

#include <fcntl.h>
#include <poll.h>

#include "cuda/self_check.h"
#include "schema/log.h"
#include "tests/kernels/doubles/controls.h"

static int is_half(const struct scorer *s)
{
    return s->model.config.activation_type != DTYPE_F32;
}

/* Squared distances from the float32 truth, of 16-bit checkpoints: of what is found, and of what
 * the reference gives in the same type. */
static double all_ours, all_theirs;

/* Float32 checkpoints: as on the CPU. Others: about as far from the float32 truth as the reference
 * in the same type is; a file has too few values to ask for more of each. */
static void check_scores(const struct vector *v, const float *values, int half)
{
    double ours = 0, theirs = 0, n = 0;
    if (!half) {
        check_values(v, values);
        return;
    }
    for (uint32_t r = 0; r < v->n_rows; r++)
        for (uint32_t i = 0; i < v->rows[r].stage.n_values; i++, values++, n++) {
            double truth = (double)v->rows[r].expected[i];
            assert_non_null(v->rows[r].native);
            ours += pow((double)*values - truth, 2);
            theirs += pow((double)v->rows[r].native[i] - truth, 2);
        }
    all_ours += ours;
    all_theirs += theirs;
    if (!(ours <= 4 * theirs + n * 1e-8))
        fail_msg("%s: error (root of mean square) %.3g, of the reference in this type %.3g",
            v->model, sqrt(ours / n), sqrt(theirs / n));
}

static void check_alone(const struct vector *v)
{
    static float values[MAX_VALUES];
    struct scorer s;
    count_values(v);
    double_set_seed(7);
    scorer_open(&s, &gpu_ops, v->model, "auto", 1);
    int half = is_half(&s);
    score_all(&s, v, values);
    scorer_close(&s);
    check_scores(v, values, half);
}

/* Vectors of which the longest rows are computed too, where the kernels run on the CPU without the
 * sanitizer: one for each kind of attention. */
static void check_whole_files(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(ASSAY_ON_DEVICE)
    static const char *const files[] = {"head-dim-80.json", "reward.json", "window.json"};
    uint32_t longest = longest_row;
    longest_row = UINT32_MAX;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct vector v = vector_open(files[i]);
        check_alone(&v);
        vector_close(&v);
    }
    longest_row = longest;
#endif
}

static void test_golden(void **unused)
{
    (void)unused;
    each_vector(check_alone);
    check_whole_files();
    print_message(
        "16-bit checkpoints: error %.3f of the reference's\n", sqrt(all_ours / all_theirs));
    assert_true(all_ours <= all_theirs * 1.1);
    assert_int_equal(double_live_allocations(), 0);
}

static int n_devices(void)
{
    const char *n = getenv("ASSAY_DEVICES");
    return n ? atoi(n) : 4;
}

static void check_parallel(const struct vector *v)
{
    static float values[MAX_VALUES], again[MAX_VALUES];
    struct weights *w = NULL;
    struct err e = {0};
    char dir[512];
    snprintf(dir, sizeof dir, "tests/models/%s", v->model);
    die_on(weights_open(&w, dir, &e), &e);
    int half = weights_dtype(w) != DTYPE_F32;
    weights_close(&w);
    for (int i = 0; i < v->n_tp; i++) {
        if (v->tp[i] == 1 || v->tp[i] > n_devices())
            continue;
        score_ranks(&gpu_ops, v, (uint32_t)v->tp[i], values);
        check_scores(v, values, half);
        if (i == 1) {
            score_ranks(&gpu_ops, v, (uint32_t)v->tp[i], again);
            assert_memory_equal(values, again, count_values(v) * sizeof *values);
        }
    }
}

/* The sanitizer, which looks at the same code each time, has every third of many files. */
static void check_parallel_files(const char *const *files, size_t n)
{
#if defined(__SANITIZE_ADDRESS__)
    const size_t step = n > 5 ? 3 : 1;
#else
    const size_t step = 1;
#endif
    setenv("ASSAY_DOUBLE_DEVICES", "4", 1);
    setenv("ASSAY_DOUBLE_THREAD", "1", 1); /* a rank's device works while it waits for others */
    for (size_t i = 0; i < n; i += step) {
        struct vector v = vector_open(files[i]);
        check_parallel(&v);
        vector_close(&v);
    }
    unsetenv("ASSAY_DOUBLE_DEVICES");
    unsetenv("ASSAY_DOUBLE_THREAD");
}

static void test_tensor_parallel(void **unused)
{
    static const char *const files[] = {
        "bf16.json", "odd-sizes.json", "reward.json", "mqa.json", "tp-12-4.json"};
    (void)unused;
    check_parallel_files(files, sizeof files / sizeof *files);
}

/* Biases that one rank alone may add, and each kind of head. */
static void test_tensor_parallel_heads(void **unused)
{
    static const char *const files[] = {"process.json", "token.json", "mistral.json",
        "mistral-token.json", "llama-token.json", "llama-biases.json", "qwen3-token.json",
        "inform.json", "prm.json", "openrlhf.json", "value-head.json", "lm-difference.json",
        "lm-softmax.json", "lm-raw-two.json"};
    uint32_t longest = longest_row;
    (void)unused;
    longest_row = 40;
    check_parallel_files(files, sizeof files / sizeof *files);
    longest_row = longest;
}

/* Rows alone, and in random batches in random order, pruned. */
static void test_batch_invariance(void **unused)
{
    static const char *const files[] = {
        "bf16.json", "head-dim-80.json", "window.json", "token.json"};
    static float alone[MAX_ROWS][ROW_VALUES], values[MAX_VALUES];
    (void)unused;
    srand(5);
    for (int f = 0; f < 4; f++) {
        struct vector v = vector_open(files[f]);
        struct scorer s;
        scorer_open(&s, &gpu_ops, v.model, "auto", 1);
        for (uint32_t r = 0; r < v.n_rows; r++)
            score(&s, &v, &r, 1, 1, alone[r]);
        for (int turn = 0; turn < 4; turn++) {
            uint32_t order[MAX_ROWS], n = 0, tokens = 0;
            double_set_seed((uint64_t)turn);
            for (; n < 12; n++) {
                order[n] = (uint32_t)rand() % v.n_rows;
                tokens += v.rows[order[n]].stage.n_tokens;
                if (tokens > MAX_TOKENS)
                    break;
            }
            score(&s, &v, order, n, 1, values);
            assert_same_bits(&v, order, n, values, alone);
        }
        scorer_close(&s);
        vector_close(&v);
    }
}

/* ---- quantized ---- */

/* Root of the mean square of the values' distance from `from` (NULL: from their own mean). */
static double spread(const float *values, const float *from, uint32_t n)
{
    double mean = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        mean += (double)values[i] / n;
    for (uint32_t i = 0; i < n; i++)
        sum += pow((double)values[i] - (from ? (double)from[i] : mean), 2);
    return sqrt(sum / n);
}

/* Scores in a form that can be compared, on ranks of tp devices; those of the reference in
 * `truth`. */
static uint32_t score_quantized(
    const struct vector *v, const char *method, uint32_t tp, float *values, float *truth)
{
    uint32_t n = 0;
    quant_method = method;
    score_ranks(&gpu_ops, v, tp, values);
    quant_method = "none";
    for (uint32_t r = 0; r < v->n_rows; r++)
        for (uint32_t i = 0; i < v->rows[r].stage.n_values; i++)
            truth[n++] = v->rows[r].expected[i];
    return n;
}

/* Of eight bits some error must come; of a few layers, not more than a part of the scores' spread.
 * (That a product is exactly what quantization makes of it is for test_gpu_linear.) */
static void test_quantized_scores(void **unused)
{
    static const char *const files[] = {
        "bf16.json", "reward.json", "tp-12-4.json"}; /* the last on 2 ranks */
    static const char *const methods[] = {"fp8", "int8"};
    static float values[MAX_VALUES], truth[MAX_VALUES];
    uint32_t longest = longest_row;
    (void)unused;
    longest_row = 100;
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    setenv("ASSAY_DOUBLE_THREAD", "1", 1);
    for (uint32_t i = getenv("ASSAY_NO_FP8") ? 3 : 0; i < 6; i++) {
        struct vector v = vector_open(files[i % 3]);
        uint32_t tp = i % 3 == 2 && n_devices() > 1 ? 2 : 1;
        uint32_t n = score_quantized(&v, methods[i / 3], tp, values, truth);
        double error = spread(values, truth, n) / spread(truth, NULL, n);
        print_message("%s, %s, tp %u: error %.4f of the scores' spread\n", v.model, methods[i / 3],
            tp, error);
        assert_true(error > 1e-4 && error < (i < 3 ? 0.4 : 0.15));
        vector_close(&v);
    }
    unsetenv("ASSAY_DOUBLE_DEVICES");
    unsetenv("ASSAY_DOUBLE_THREAD");
    longest_row = longest;
}

static void test_quantized_rows_are_batch_invariant(void **unused)
{
    static float alone[MAX_ROWS][ROW_VALUES], values[MAX_VALUES];
    uint32_t longest = longest_row;
    (void)unused;
    longest_row = 100;
    for (int method = getenv("ASSAY_NO_FP8") ? 1 : 0; method < 2; method++) {
        struct vector v = vector_open("seqcls.json");
        struct scorer s;
        quant_method = method ? "int8" : "fp8";
        scorer_open(&s, &gpu_ops, v.model, "auto", 1);
        quant_method = "none";
        for (uint32_t r = 0; r < v.n_rows; r++)
            score(&s, &v, &r, 1, 1, alone[r]);
        for (uint32_t first = 0; first < v.n_rows; first++) {
            uint32_t order[MAX_ROWS], n = 0;
            for (; n < 6; n++)
                order[n] = (first + n * 3) % v.n_rows;
            score(&s, &v, order, n, 1, values);
            assert_same_bits(&v, order, n, values, alone);
        }
        scorer_close(&s);
        vector_close(&v);
    }
    longest_row = longest;
}

/* Hand one row in, without waiting for it. */
static void submit_row(struct scorer *s, const struct vector_row *row, float *values)
{
    struct err e = {0};
    struct pooling_metadata pooling;
    struct intermediate_tensors out;
    uint32_t cu[2] = {0, row->stage.n_tokens};
    int32_t *positions = calloc(row->stage.n_tokens, sizeof *positions);
    struct stage_batch b = {.n_rows = 1,
        .n_tokens = row->stage.n_tokens,
        .n_positions = row->stage.n_positions,
        .n_values = row->stage.n_values,
        .rows = &row->stage,
        .ids = row->ids,
        .positions = row->positions,
        .cu_seqlens = cu};
    for (uint32_t i = 0; i < row->stage.n_tokens; i++)
        positions[i] = (int32_t)i;
    die_on(pooling_metadata_init(&pooling, &b, s->model.config.n_labels, b.n_tokens, &e), &e);
    struct attn_metadata meta = {.n_rows = 1,
        .cu_seqlens = cu,
        .max_seqlen = row->stage.n_tokens,
        .out_rows = pooling.out_rows,
        .n_out_rows = pooling.n_out_rows};
    struct forward_inputs in = {
        .input_ids = row->ids, .positions = positions, .attn_metadata = &meta};
    die_on(qwen2_reward_model_forward(&s->model, &in, &out, &e), &e);
    pooler(&s->model, out.hidden_states, &pooling, values);
    pooling_metadata_release(&pooling);
    memset(positions, 0xff, row->stage.n_tokens * sizeof *positions); /* may be used again */
    free(positions);
}

static int readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

static void test_two_in_flight(void **unused)
{
    static float expected[2][1024], found[2][1024];
    struct vector v = vector_open("seqcls.json");
    struct scorer s;
    (void)unused;
    scorer_open(&s, &gpu_ops, v.model, "auto", 1);
    for (uint32_t turn = 0; turn < 12; turn++) {
        uint32_t a = turn % v.n_rows, b = (turn * 5 + 1) % v.n_rows;
        int done = 0;
        double_set_seed(turn);
        score(&s, &v, &a, 1, 1, expected[0]);
        score(&s, &v, &b, 1, 1, expected[1]);
        assert_false(readable(gpu_ops.device->poll_fd(s.device)));
        uint32_t progress = gpu_ops.device->progress(s.device);
        submit_row(&s, &v.rows[a], found[0]);
        submit_row(&s, &v.rows[b], found[1]);
        while (done < 2)
            done += gpu_ops.device->poll(s.device, turn % 2 ? 1 : 0);
        assert_false(readable(gpu_ops.device->poll_fd(s.device)));
        assert_int_equal(gpu_ops.device->poll(s.device, 1), 0);
        /* each layer's norms and attention, and the last norm */
        assert_true(
            gpu_ops.device->progress(s.device) - progress >= 2 * (3 * s.model.config.n_layers + 1));
        assert_memory_equal(found[0], expected[0], v.rows[a].stage.n_values * sizeof *found[0]);
        assert_memory_equal(found[1], expected[1], v.rows[b].stage.n_values * sizeof *found[1]);
    }
    scorer_close(&s);
    vector_close(&v);
}

#ifndef ASSAY_ON_DEVICE
/* ---- what goes wrong ---- */

static int open_in_child(void (*act)(void))
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        act();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void score_with_failing_copy(void)
{
    static float values[1024];
    struct vector v = vector_open("seqcls.json");
    struct scorer s;
    uint32_t row = 0;
    scorer_open(&s, &gpu_ops, v.model, "auto", 1);
    score(&s, &v, &row, 1, 1, values);
    double_fail("cudaMemcpyAsync", 2, cudaErrorIllegalAddress);
    score(&s, &v, &row, 1, 1, values);
}

static void score_with_failing_product(void)
{
    static float values[1024];
    struct vector v = vector_open("seqcls.json");
    struct scorer s;
    uint32_t row = 0;
    scorer_open(&s, &gpu_ops, v.model, "auto", 1);
    double_fail("cublasLtMatmul", 3, 13);
    score(&s, &v, &row, 1, 1, values);
}

static void test_a_failing_call_ends_the_process(void **unused)
{
    (void)unused;
    assert_int_equal(open_in_child(score_with_failing_copy), GPU_EXIT_ERROR);
    assert_int_equal(open_in_child(score_with_failing_product), GPU_EXIT_ERROR);
}

/* A rank of two on device `gpu`, as far as opening goes; exits with 1 when that fails as `words`
 * say. */
static void open_rank(int fd, uint32_t rank, int gpu, const char *words)
{
    struct comm *comm = NULL;
    struct device *d = NULL;
    struct err e = {0};
    die_on(comm_new(&comm, fd, rank, 2, 500, &e), &e);
    struct device_options o = {.arena_bytes = 4096,
        .input_bytes = 4096,
        .output_bytes = 64,
        .reduce_bytes = 4096,
        .comm = comm,
        .deadline_ms = 500,
        .gpu = gpu};
    int rc = gpu_ops.device->open(&d, &o, &e);
    _exit(rc == ASSAY_EUNSUPPORTED && strstr(e.msg, words) ? 1 : rc == 0 ? 0 : 2);
}

static void start_ranks(int n, const int *gpus, const char *words, int *codes)
{
    struct err e = {0};
    pid_t pids[2];
    int status, fd = stage_segment_new(stage_comm_bytes(2), &e);
    die_on(fd < 0 ? fd : 0, &e);
    fflush(NULL);
    for (int r = 0; r < n; r++)
        if ((pids[r] = fork()) == 0)
            open_rank(fd, (uint32_t)r, gpus[r], words);
    for (int r = 0; r < n; r++) {
        waitpid(pids[r], &status, 0);
        codes[r] = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    close(fd);
}

static void test_two_ranks_on_a_device_and_a_rank_that_never_comes(void **unused)
{
    const int same[] = {0, 0}, other[] = {0, 1};
    int codes[2] = {-1, -1};
    (void)unused;
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    start_ranks(2, same, "ranks 0 and 1 are both on GPU 0 (Test Double)", codes);
    assert_int_equal(codes[0], 1);
    assert_int_equal(codes[1], 1);
    start_ranks(1, other, "", codes);
    assert_int_equal(codes[0], COMM_EXIT_DEADLINE);
    /* both are there, but one fails before NCCL: the other waits until the deadline, no longer */
    setenv("ASSAY_DOUBLE_FAIL", "ncclCommInitRankConfig:1:2", 1);
    setenv("ASSAY_DOUBLE_FAIL_ONCE", "build/fail-once", 1);
    close(open("build/fail-once", O_CREAT | O_WRONLY, 0600));
    start_ranks(2, other, "NCCL", codes);
    unsetenv("ASSAY_DOUBLE_FAIL");
    unsetenv("ASSAY_DOUBLE_FAIL_ONCE");
    unsetenv("ASSAY_DOUBLE_DEVICES");
    assert_int_equal(codes[0] + codes[1], 1 + COMM_EXIT_DEADLINE);
}

static void test_no_device_and_no_memory(void **unused)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.arena_bytes = 4096, .input_bytes = 4096, .output_bytes = 64};
    (void)unused;
    setenv("ASSAY_DOUBLE_DEVICES", "0", 1);
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "no CUDA-capable device is detected"));
    gpu_ops.device->close(&d);
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    o.gpu = 2;
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "this machine has 2"));
    gpu_ops.device->close(&d);
    unsetenv("ASSAY_DOUBLE_DEVICES");
    setenv("ASSAY_DOUBLE_CAPABILITY", "75", 1);
    o.gpu = 0;
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "found 7.5"));
    gpu_ops.device->close(&d);
    setenv("ASSAY_DOUBLE_CAPABILITY", "80", 1);
    o.quant = DTYPE_F8;
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "--quant fp8: expected a GPU of compute capability 9.0"));
    gpu_ops.device->close(&d);
    setenv("ASSAY_DOUBLE_CAPABILITY", "100", 1);
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "found GPU 0 (Test Double) of 10.0"));
    gpu_ops.device->close(&d);
    unsetenv("ASSAY_DOUBLE_CAPABILITY");
    setenv("ASSAY_DOUBLE_SHARED", "101376", 1); /* as 8.6 has */
    o.quant = DTYPE_F32;
    o.head_dim = 256;
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(
        strstr(e.msg, "head_dim 256: expected a GPU with 148224 bytes of shared memory"));
    gpu_ops.device->close(&d);
    o.head_dim = 128;
    assert_int_equal(gpu_ops.device->open(&d, &o, &e), 0);
    gpu_ops.device->close(&d);
    unsetenv("ASSAY_DOUBLE_SHARED");
    assert_int_equal(double_live_allocations(), 0);
}

/* ---- the device tried at the start (cuda/self_check.h) ---- */

struct spoiled {
    const char *kernel, *words;
    enum dtype quant;
    uint32_t head_dim;
};

/* Opens a device of which a kernel leaves one number wrong. */
static int open_spoiled(const struct spoiled *s, const char *remember, struct err *e)
{
    struct device *d = NULL;
    struct device_options o = {.arena_bytes = 4096,
        .input_bytes = 4096,
        .output_bytes = 64,
        .quant = s->quant,
        .quant_rows = 32,
        .quant_in = 64,
        .quant_out = 64,
        .head_dim = s->head_dim,
        .cache_dir = remember};
    double_spoil(s->kernel);
    int rc = gpu_ops.device->open(&d, &o, e);
    double_spoil("");
    gpu_ops.device->close(&d);
    return rc;
}

static void test_a_device_that_computes_wrong_numbers_is_refused(void **unused)
{
    static const struct spoiled kinds[] = {{"embed_kernel", "embed of", DTYPE_F32, 64},
        {"gather_kernel", "gather of", DTYPE_F32, 64}, {"keep_kernel", "keep of", DTYPE_F32, 64},
        {"(rms_norm_kernel", "rms_norm", DTYPE_F32, 64},
        {"head_norm_kernel", "head_norm of", DTYPE_F32, 80},
        {"rope_kernel", "rope of", DTYPE_F32, 64}, {"relu_kernel", "relu of", DTYPE_F32, 64},
        {"add_bias_kernel", "add_bias of", DTYPE_F32, 64},
        {"pool_kernel", "pool of", DTYPE_F32, 64},
        {"sum_ranks_kernel", "sum_ranks of", DTYPE_F32, 64},
        {"adapter_kernel", "linear_narrow of", DTYPE_F32, 64},
        {"unpack_kernel", "unpack of", DTYPE_F32, 64},
        {"round_kernel", "round_rows of", DTYPE_F32, 64},
        {"swiglu_kernel", "silu_mul of", DTYPE_F32, 64},
        {"attention_simt_kernel", "attention_simt of f32", DTYPE_F32, 64},
        {"(attention_kernel", "attention_mma of f16", DTYPE_F32, 128},
        {"swiglu_quantized_kernel", "silu_mul of f32 to int8", DTYPE_I8, 64},
        {"quantize_kernel", "quantize_rows of f32 to fp8", DTYPE_F8, 64},
        {"dequantize_kernel", "dequantize of f32", DTYPE_I8, 64}};
    (void)unused;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct err e = {0};
        assert_int_equal(open_spoiled(&kinds[i], NULL, &e), ASSAY_EUNSUPPORTED);
        if (!strstr(e.msg, "GPU 0 (Test Double) computes wrong numbers") ||
            !strstr(e.msg, kinds[i].words) || !strstr(e.msg, ": expected "))
            fail_msg("%s: %s", kinds[i].kernel, e.msg);
    }
    assert_int_equal(double_live_allocations(), 0);
}

static void test_what_passed_is_remembered_and_what_did_not_is_not(void **unused)
{
    const struct spoiled good = {"", "", DTYPE_F32, 64}, bad = {"rope_kernel", "", DTYPE_F32, 64},
                         other = {"rope_kernel", "", DTYPE_F32, 96};
    char directory[] = "/tmp/test_gpu_model-XXXXXX", file[64];
    struct err e = {0};
    (void)unused;
    assert_non_null(mkdtemp(directory));
    assert_int_equal(open_spoiled(&bad, directory, &e), ASSAY_EUNSUPPORTED);
    assert_int_equal(open_spoiled(&bad, directory, &e), ASSAY_EUNSUPPORTED);
    assert_int_equal(open_spoiled(&good, directory, &e), 0);
    int launches = double_calls("launch");
    assert_int_equal(open_spoiled(&bad, directory, &e), 0);
    assert_int_equal(double_calls("launch"), launches);
    assert_int_equal(open_spoiled(&other, directory, &e), ASSAY_EUNSUPPORTED);
    snprintf(file, sizeof file, "%s/gemm-algorithms.txt", directory);
    unlink(file);
    rmdir(directory);
}

#endif

int main(int argc, char **argv)
{
    char directory[] = "/tmp/test_gpu_model-XXXXXX", remembered[64];
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    cache_dir = mkdtemp(directory); /* shapes that models have in common are tried once */
    log_init("test", -1, LOG_LEVEL_ERROR);
#ifndef ASSAY_ON_DEVICE
    longest_row = 160; /* three tiles of attention */
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_tensor_parallel_heads),
        cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_quantized_scores),
        cmocka_unit_test(test_quantized_rows_are_batch_invariant),
        cmocka_unit_test(test_two_in_flight),
#ifndef ASSAY_ON_DEVICE
        cmocka_unit_test(test_a_failing_call_ends_the_process),
        cmocka_unit_test(test_two_ranks_on_a_device_and_a_rank_that_never_comes),
        cmocka_unit_test(test_no_device_and_no_memory),
        cmocka_unit_test(test_a_device_that_computes_wrong_numbers_is_refused),
        cmocka_unit_test(test_what_passed_is_remembered_and_what_did_not_is_not),
#endif
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(remembered, sizeof remembered, "%s/gemm-algorithms.txt", directory);
    unlink(remembered);
    rmdir(directory);
    return failed;
}
