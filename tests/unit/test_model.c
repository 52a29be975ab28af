/* test_model.c - the model in process, without a broker: every golden vector, at every
 * tensor-parallel size that its shape allows; a row's bits whatever else is in its batch, sharing
 * with it or not. Run from the repository root. */
#include "tests/unit/batch_invariance.h"

#include "schema/fnv.h"
#include "worker/cpu/device.h"
#include "worker/score.h"

static void test_golden(void **unused)
{
    (void)unused;
    each_vector(check_alone);
}

static void check_parallel(const struct vector *v)
{
    static float alone[MAX_VALUES], first[MAX_VALUES], second[MAX_VALUES];
    struct scorer s;
    scorer_open(&s, &cpu_ops, v->model, "auto", 1);
    score_all(&s, v, alone);
    scorer_close(&s);
    for (int i = 0; i < v->n_tp; i++) {
        if (v->tp[i] == 1)
            continue;
        score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], first);
        score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], second);
        check_values(v, first);
        for (uint32_t k = 0; k < count_values(v); k++) {
            double scale = fabs((double)alone[k]) > 1 ? fabs((double)alone[k]) : 1;
            assert_true(fabs((double)first[k] - (double)alone[k]) <= 1e-5 * scale);
            assert_memory_equal(&first[k], &second[k], sizeof first[k]);
        }
    }
}

static void test_tensor_parallel(void **unused)
{
    (void)unused;
    each_vector(check_parallel);
}

/* 100 random batchings of each of a few models. */
static void test_batch_invariance(void **unused)
{
    static const char *const names[] = {
        "seqcls.json", "reward.json", "window.json", "tp-12-4.json", "token.json"};
    (void)unused;
    for (int f = 0; f < 5; f++)
        check_batch_invariance(names[f], 20);
}

/* ---- rows that share their beginning: each row's values bit for bit those of a batch that shares
 * nothing ---- */

enum { N_ROWS = 12, ROW_TOKENS = 320 };

/* Rows of one vocabulary: three groups, each of rows that begin alike, and rows alone among
 * them. */
struct rows {
    struct stage_row rows[N_ROWS];
    int32_t ids[N_ROWS][ROW_TOKENS], positions[N_ROWS][4];
    uint32_t shared[N_ROWS];
};

/* Shared tokens, and the row's own: around tiles of 64 keys, a row of which one token is its own, a
 * leader that is nothing but the prefix. */
static const uint32_t shapes[N_ROWS][2] = {{0, 5}, {0, 130}, {65, 1}, {65, 64}, {65, 20}, {0, 64},
    {64, 1}, {64, 130}, {0, 33}, {0, 200}, {127, 66}, {127, 3}};

/* How many tokens of a row are pooled. */
static uint32_t count_pooled(const struct stage_row *row, const int32_t *ids)
{
    uint32_t steps = 0;
    for (uint32_t k = 0; k < row->n_tokens; k++)
        steps += ids[k] == row->pool.step_token;
    switch (row->pool.type) {
    case POOL_ALL:
        return row->n_tokens;
    case POOL_STEP:
        return steps;
    case POOL_POSITIONS:
        return row->n_positions;
    default:
        return 1;
    }
}

static void choose_pooling(const struct model_config *c, struct stage_row *row, const int32_t *ids,
    int32_t *at, uint32_t kind)
{
    row->pool.type = POOL_LAST + kind % (POOL_POSITIONS - POOL_LAST + 1);
    row->pool.activation = ACTIVATION_NONE + kind / 2 % (c->n_labels > 1 ? 4 : 3);
    row->pool.step_token = 3;
    if (row->pool.type == POOL_POSITIONS) {
        row->n_positions = 4;
        at[0] = (int32_t)row->n_tokens - 1;
        at[1] = 0;
        at[2] = at[3] = (int32_t)row->n_tokens / 2;
    }
    row->n_values =
        count_pooled(row, ids) * activation_values((int)row->pool.activation, c->n_labels);
}

/* Each group has a step among its shared tokens, each row one at its end. */
static void make_rows(struct rows *r, const struct model_config *c, uint32_t kind)
{
    memset(r, 0, sizeof *r);
    for (uint32_t i = 0, leader = 0; i < N_ROWS; i++) {
        uint32_t n_shared = shapes[i][0], n = n_shared + shapes[i][1];
        leader = n_shared ? leader : i;
        r->shared[i] = n_shared;
        r->rows[i].n_tokens = n;
        for (uint32_t k = 0; k < n; k++)
            r->ids[i][k] = (int32_t)(4 + (unsigned)rand() % (c->vocab_size - 4));
        memcpy(r->ids[i], r->ids[leader], n_shared * sizeof(int32_t));
        r->ids[i][n - 1] = 3;
        if (n_shared == 0)
            r->ids[i][1] = 3;
        choose_pooling(c, &r->rows[i], r->ids[i], r->positions[i], kind + i);
    }
}

/* Values of all rows, sharing or not; how many tokens were computed. */
static uint32_t score_rows(struct scorer *s, struct rows *r, int share, float *values)
{
    static int32_t ids[MAX_TOKENS], positions[MAX_TOKENS], explicit_positions[MAX_TOKENS];
    struct stage_row rows[N_ROWS];
    uint32_t cu[N_ROWS + 1] = {0};
    struct stage_batch b = {.n_rows = N_ROWS,
        .rows = rows,
        .ids = ids,
        .positions = explicit_positions,
        .cu_seqlens = cu};
    struct err e = {0};
    for (uint32_t i = 0; i < N_ROWS; i++) {
        rows[i] = r->rows[i];
        rows[i].n_shared = share ? r->shared[i] : 0;
        uint32_t own = rows[i].n_tokens - rows[i].n_shared;
        memcpy(ids + b.n_tokens, r->ids[i] + rows[i].n_shared, own * sizeof *ids);
        memcpy(
            explicit_positions + b.n_positions, r->positions[i], rows[i].n_positions * sizeof *ids);
        b.n_positions += rows[i].n_positions;
        b.n_values += rows[i].n_values;
        cu[i + 1] = b.n_tokens += own;
    }
    assert_true(b.n_values <= MAX_VALUES && b.n_tokens <= MAX_TOKENS);
    die_on(score_batch(&s->model, NULL, &b, ids, positions, values, &e), &e);
    assert_int_equal(s->ops->device->poll(s->device, 1), 1);
    return b.n_tokens;
}

static const struct scorer_rank alone = {-1, 0, 1, 0, 1};

static void check_sharing(const char *name, const char *isa, int threads, struct scorer_rank rank)
{
    static float apart[MAX_VALUES], together[MAX_VALUES];
    static struct rows rows;
    struct scorer s;
    scorer_open_rank(&s, &cpu_ops, name, isa, threads, rank);
    srand(5); /* all ranks the same rows */
    for (uint32_t kind = 0; kind < 6; kind++) {
        make_rows(&rows, &s.model.config, kind);
        memset(apart, 0, sizeof apart);
        memset(together, 0, sizeof together);
        uint32_t n = score_rows(&s, &rows, 0, apart);
        assert_int_equal(score_rows(&s, &rows, 1, together), n - 3 * 65 - 2 * 64 - 2 * 127);
        assert_memory_equal(apart, together, sizeof apart);
    }
    scorer_close(&s);
}

static void test_sharing_in_every_shape_of_model(void **unused)
{
    static const char *const names[] = {"seqcls", "reward", "process", "token", "seqcls-3-labels",
        "window", "window-layer-types", "qwen3", "llama-mha", "mqa", "head-dim-80", "head-dim-96",
        "head-dim-128", "odd-sizes", "rope-yarn"};
    (void)unused;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_sharing(names[i], "auto", 2, alone);
}

static void test_sharing_with_every_instruction_set(void **unused)
{
    static const char *const isas[] = {"portable", "avx2", "avx512", "avx512bf16"};
    (void)unused;
    for (int i = 0; i < 8; i++)
        if (kernels_choose(isas[i % 4])) {
            dtype = i < 4 ? "auto" : "bf16";
            check_sharing("window", isas[i % 4], 1 + i % 4, alone);
        }
    dtype = "auto";
}

static void test_sharing_tensor_parallel(void **unused)
{
    static const struct {
        const char *name;
        uint32_t tp;
    } cases[] = {{"tp-head-dim-64", 2}, {"tp-12-4", 4}, {"seqcls", 2}};
    (void)unused;
    for (int turn = 0; turn < 6; turn++) {
        int i = turn % 3;
        struct err e = {0};
        dtype = turn < 3 ? "auto" : "bf16";
        int fd = stage_segment_new(stage_comm_bytes(cases[i].tp), &e), status;
        pid_t pids[4];
        assert_true(fd >= 0);
        for (uint32_t r = 0; r < cases[i].tp; r++)
            if ((pids[r] = fork()) == 0) {
                check_sharing(
                    cases[i].name, "auto", 1, (struct scorer_rank){fd, r, cases[i].tp, 0, 1});
                _exit(0);
            }
        for (uint32_t r = 0; r < cases[i].tp; r++) {
            waitpid(pids[r], &status, 0);
            assert_int_equal(status, 0);
        }
        close(fd);
    }
    dtype = "auto";
}

/* More tokens wanted than the device has room for, though few are computed: refused before. */
static void test_too_many_wanted_tokens(void **unused)
{
    enum { ROWS = 40, LEN = 200 };
    static int32_t ids[LEN + ROWS], positions[LEN + ROWS];
    static float values[1];
    struct stage_row rows[ROWS];
    uint32_t cu[ROWS + 1] = {0};
    struct stage_batch b = {
        .n_rows = ROWS, .rows = rows, .ids = ids, .positions = positions, .cu_seqlens = cu};
    struct scorer s;
    struct err e = {0};
    (void)unused;
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = (struct stage_row){.n_tokens = LEN,
            .pool.type = POOL_ALL,
            .pool.activation = ACTIVATION_NONE,
            .n_values = LEN,
            .n_shared = i ? LEN - 1 : 0};
        cu[i + 1] = b.n_tokens += LEN - rows[i].n_shared;
    }
    scorer_open(&s, &cpu_ops, "reward", "auto", 1);
    assert_int_equal(score_batch(&s.model, NULL, &b, ids, positions, values, &e), ASSAY_ETOOLARGE);
    assert_non_null(strstr(e.msg, "expected at most 4096"));
    scorer_close(&s);
}

/* Prefixes that lie nowhere, in their own row, behind it, in two rows, in one that has one
 * itself. */
static void check_bad_prefixes(struct scorer *s)
{
    static const struct attn_prefix bad[][3] = {{{0, 1}, {0, 0}, {0, 0}}, {{0, 0}, {2, 1}, {0, 0}},
        {{0, 0}, {4, 1}, {0, 0}}, {{0, 0}, {0, 3}, {0, 0}}, {{0, 0}, {1, 2}, {0, 0}},
        {{0, 0}, {0, 0}, {1, 2}}, {{0, 0}, {6, 1}, {0, 0}}, {{0, 0}, {0, UINT32_MAX}, {0, 0}},
        {{0, 0}, {UINT32_MAX, 1}, {0, 0}}, {{0, 0}, {0, 2}, {2, 1}},
        {{0, 0}, {1, UINT32_MAX}, {0, 0}}};
    static const struct attn_prefix good[3] = {{0, 0}, {0, 2}, {1, 1}};
    static const int32_t ids[6] = {1, 2, 3, 4, 5, 6}, positions[6] = {0, 1, 2, 3, 1, 2};
    static const uint32_t cu[] = {0, 2, 4, 6};
    struct attn_metadata meta = {
        .n_rows = 3, .cu_seqlens = cu, .max_seqlen = 4, .prefix_segments = good};
    struct forward_inputs in = {.input_ids = ids, .positions = positions, .attn_metadata = &meta};
    struct intermediate_tensors out;
    struct err e = {0};
    die_on(qwen2_reward_model_forward(&s->model, &in, &out, &e), &e);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        meta.prefix_segments = bad[i];
        assert_int_equal(qwen2_reward_model_forward(&s->model, &in, &out, &e), ASSAY_EFORMAT);
        assert_non_null(strstr(e.msg, "prefix_segments"));
    }
}

/* Every bit of every value of the golden vectors, with the layers' matrices held so. */
static uint64_t all_bits;

static void fold_bits(const struct vector *v)
{
    static float values[MAX_VALUES];
    struct scorer s;
    scorer_open(&s, &cpu_ops, v->model, "auto", 2);
    score_all(&s, v, values);
    scorer_close(&s);
    all_bits = fnv_add(all_bits, values, count_values(v) * sizeof *values);
}

/* Scores of another build of the same CPU_ARITHMETIC go into the same job. If this fails, and the
 * bits changed on purpose: raise CPU_ARITHMETIC, and put the digests printed here in place. (They
 * change too with the vectors themselves; then raise nothing.) */
static void test_bits_are_those_of_this_arithmetic(void **unused)
{
    static const struct {
        const char *dtype, *quant;
        uint64_t bits;
    } known[] = {{"auto", "none", 0x9474ef7edff2560f}, {"auto", "int8", 0x41462cc183ec9443},
        {"bf16", "none", 0x8addd5defa5e026c}};
    int failed = 0;
    (void)unused;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        dtype = known[i].dtype;
        quant_method = known[i].quant;
        all_bits = FNV_NOTHING;
        each_vector(fold_bits);
        if (all_bits != known[i].bits)
            fprintf(stderr,
                "arithmetic %d, dtype %s, quant %s: digest of all bits is 0x%016llx, was "
                "0x%016llx\n",
                CPU_ARITHMETIC, known[i].dtype, known[i].quant, (unsigned long long)all_bits,
                (unsigned long long)known[i].bits);
        failed += all_bits != known[i].bits;
    }
    dtype = "auto";
    quant_method = "none";
    assert_int_equal(failed, 0);
}

static void test_what_is_not_built_is_refused_by_name(void **unused)
{
    struct scorer s;
    struct err e = {0};
    struct intermediate_tensors out;
    int32_t ids[] = {1, 2, 100000}, positions[] = {0, 1, 2};
    uint32_t cu[] = {0, 2}, all[] = {0, 3};
    struct attn_metadata meta = {.n_rows = 1, .cu_seqlens = cu, .max_seqlen = 2};
    struct forward_inputs in = {ids, positions, NULL, &meta, NULL, {0}};
    (void)unused;
    scorer_open(&s, &cpu_ops, "seqcls", "auto", 1);
    meta.n_slot_mapping = 1;
    assert_int_equal(qwen2_reward_model_forward(&s.model, &in, &out, &e), ASSAY_EBADREQ);
    assert_non_null(strstr(e.msg, "kv_caches"));
    meta.n_slot_mapping = 0;
    in.intermediate_tensors = &out;
    assert_int_equal(qwen2_reward_model_forward(&s.model, &in, &out, &e), ASSAY_EBADREQ);
    assert_non_null(strstr(e.msg, "intermediate_tensors"));
    in.intermediate_tensors = NULL;
    check_bad_prefixes(&s);
    struct ops without = cpu_ops;
    struct attn_prefix none = {0, 0};
    without.shares_prefixes = 0;
    s.model.ops = &without;
    meta.prefix_segments = &none;
    assert_int_equal(qwen2_reward_model_forward(&s.model, &in, &out, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "prefix_segments"));
    s.model.ops = &cpu_ops;
    meta = (struct attn_metadata){.n_rows = 1, .cu_seqlens = all, .max_seqlen = 3};
    assert_int_equal(qwen2_reward_model_forward(&s.model, &in, &out, &e), ASSAY_EBADTOKEN);
    scorer_close(&s);
    struct quant_config quant = {"fp4"};
    assert_int_equal(quant_config_check(&quant, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "fp8"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
        cmocka_unit_test(test_tensor_parallel), cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_sharing_in_every_shape_of_model),
        cmocka_unit_test(test_sharing_with_every_instruction_set),
        cmocka_unit_test(test_sharing_tensor_parallel),
        cmocka_unit_test(test_too_many_wanted_tokens),
        cmocka_unit_test(test_bits_are_those_of_this_arithmetic),
        cmocka_unit_test(test_what_is_not_built_is_refused_by_name)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
