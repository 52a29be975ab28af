/* test_stage_damage.c - the staging segments, whatever a peer may have written into them, and what
 * is no segment, or cannot be one. */
#include <fcntl.h>
#include <stdlib.h>

#include "schema/msg.h"
#include "tests/unit/stage_fixture.h"

/* Leave ten valid positions in the rank's private copy, so that only a check of the count keeps it
 * from reading on behind them. */
static void read_many_positions(struct pair *p)
{
    static const int32_t zeros[10];
    static const int32_t *const at[] = {zeros};
    static const struct stage_row row[] = {
        {3, {POOL_POSITIONS, ACTIVATION_NONE, -1}, 10, 10, 0, 0}};
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    struct stage_fill many = {1, row, ids, at};
    assert_int_equal(stage_publish(p->stage, 7, 1, &many, &token, &e), 1);
    assert_int_equal(stage_read(p->view, &token, &b, &e), 0);
    stage_release(p->stage, &token);
}

/* Each field of descriptor and rows, set to what it must not be: refused, every one. */
static void test_corrupted_fields_of_a_batch(void **unused)
{
    static const struct {
        uint32_t at, value;
    } bad[] = {{0, 8}, {4, 1}, {8, 2}, {12, 1}, {16, 3}, {24, 1}, {28, 7}, {IN_ROWS, 0},
        {IN_ROWS, 1}, {IN_ROWS, 3}, {IN_ROWS, 5}, {IN_ROWS, UINT32_MAX}, {IN_TOKENS, 0},
        {IN_TOKENS, 4}, {IN_TOKENS, 6}, {IN_TOKENS, 101}, {IN_TOKENS, UINT32_MAX},
        {IN_POSITIONS, 1}, {IN_POSITIONS, 3}, {IN_POSITIONS, 11}, {IN_VALUES, 2}, {IN_VALUES, 4},
        {IN_VALUES, 51}, {IN_SEQUENCE, 0}, {IN_SEQUENCE, 1}, {IN_SEQUENCE, 3}, {IN_SEQUENCE + 4, 1},
        {ROW_0 + ROW_TOKENS, 0}, {ROW_0 + ROW_TOKENS, 2}, {ROW_0 + ROW_TOKENS, 4},
        {ROW_0 + ROW_TOKENS, UINT32_MAX}, {ROW_1 + ROW_TOKENS, UINT32_MAX - 2},
        {ROW_0 + ROW_POOL, POOL_DEFAULT}, {ROW_0 + ROW_POOL, 7}, {ROW_0 + ROW_POOL, UINT32_MAX},
        {ROW_0 + ROW_POOL, POOL_POSITIONS}, {ROW_1 + ROW_POOL, POOL_LAST},
        {ROW_1 + ROW_POOL, POOL_ALL}, {ROW_0 + ROW_ACTIVATION, ACTIVATION_DEFAULT},
        {ROW_0 + ROW_ACTIVATION, 5}, {ROW_1 + ROW_ACTIVATION, UINT32_MAX},
        {ROW_0 + ROW_POSITIONS, 1}, {ROW_0 + ROW_POSITIONS, 2}, {ROW_1 + ROW_POSITIONS, 0},
        {ROW_1 + ROW_POSITIONS, 1}, {ROW_1 + ROW_POSITIONS, 3}, {ROW_1 + ROW_POSITIONS, UINT32_MAX},
        {ROW_0 + ROW_VALUES, 0}, {ROW_0 + ROW_VALUES, UINT32_MAX}, {ROW_1 + ROW_VALUES, 3},
        {POSITIONS_AT, 2}, {POSITIONS_AT, UINT32_MAX}, {POSITIONS_AT + 4, 1u << 31}};
    struct pair p;
    struct stage_token token;
    struct stage_batch b;
    struct err e = {0};
    (void)unused;
    open_pair(&p);
    read_many_positions(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    uint8_t *slot = find_writable(&p) + INPUT_SLOT_0;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint32_t *word = (uint32_t *)(slot + bad[i].at), good = *word;
        assert_int_not_equal(good, bad[i].value);
        *word = bad[i].value;
        e = (struct err){0};
        if (stage_read(p.view, &token, &b, &e) != ASSAY_EFORMAT || e.msg[0] == '\0')
            fail_msg("offset %u, value %u: expected to be refused", bad[i].at, bad[i].value);
        *word = good;
        assert_int_equal(stage_read(p.view, &token, &b, &e), 0);
    }
    close_pair(&p);
}

/* The broker reads what rank 0 wrote: another token, another count, or a write that did not come to
 * its end. */
static void test_corrupted_fields_of_a_result(void **unused)
{
    static const struct {
        uint32_t at, value;
    } bad[] = {{0, 8}, {4, 1}, {8, 2}, {12, 1}, {16, 2}, {20, 1}, {24, 1}, {28, 9}, {OUT_VALUES, 0},
        {OUT_VALUES, 2}, {OUT_VALUES, 4}, {OUT_VALUES, 51}, {OUT_VALUES, UINT32_MAX},
        {OUT_SEQUENCE, 0}, {OUT_SEQUENCE, 2}, {OUT_SEQUENCE + 4, 1}};
    struct pair p;
    struct stage_token token;
    struct err e = {0};
    const float out[] = {1, 2, 3};
    float *found;
    uint32_t n;
    (void)unused;
    open_pair(&p);
    assert_int_equal(stage_publish(p.stage, 7, 1, &fill, &token, &e), 1);
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), 0);
    uint8_t *segment =
        mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, stage_output_fd(p.stage), 0);
    assert_true(segment != MAP_FAILED);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint32_t *word = (uint32_t *)(segment + OUTPUT_SLOT_0 + bad[i].at), good = *word;
        assert_int_not_equal(good, bad[i].value);
        *word = bad[i].value;
        if (stage_collect(p.stage, &token, &found, &n, &e) != ASSAY_EFORMAT)
            fail_msg("offset %u, value %u: expected to be refused", bad[i].at, bad[i].value);
        *word = good;
        assert_int_equal(stage_collect(p.stage, &token, &found, &n, &e), 0);
        free(found);
    }
    /* What is collected is a copy. */
    assert_int_equal(stage_collect(p.stage, &token, &found, &n, &e), 0);
    memset(segment + OUTPUT_SLOT_0 + 64, 0xff, sizeof out);
    assert_memory_equal(found, out, sizeof out);
    free(found);
    munmap(segment, 12288);
    /* A rank that would write too much, or elsewhere. */
    static const float many[51];
    assert_int_equal(stage_write(p.view, &token, many, 51, &e), ASSAY_EFORMAT);
    token.slot = 2;
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), ASSAY_EFORMAT);
    token.slot = UINT32_MAX;
    assert_int_equal(stage_write(p.view, &token, out, 3, &e), ASSAY_EFORMAT);
    close_pair(&p);
}

static int attach(struct stage_view **v, int input_fd, int output_fd, uint32_t rank)
{
    struct err e = {0};
    int rc = stage_attach(v, input_fd, output_fd, rank, &e);
    if (rc != 0)
        assert_true(*v == NULL && e.msg[0] != '\0');
    return rc;
}

static void test_segments_that_are_none(void **unused)
{
    struct stage_view *v = NULL;
    struct stage *s = NULL, *other = NULL;
    struct err e = {0};
    struct stage_config wide = config;
    (void)unused;
    wide.max_rows++;
    assert_int_equal(stage_new(&s, &config, &e), 0);
    assert_int_equal(stage_new(&other, &wide, &e), 0);
    int zeros = stage_segment_new(65536, &e), small = stage_segment_new(100, &e);
    int in = stage_input_fd(s), out = stage_output_fd(s);
    assert_true(zeros >= 0 && small >= 0);
    assert_int_equal(attach(&v, zeros, zeros, 0), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, small, out, 0), ASSAY_EFORMAT);
    assert_true(attach(&v, -1, out, 0) < 0);
    assert_true(attach(&v, in, -1, 0) < 0);
    assert_true(attach(&v, in, in, 0) < 0); /* the output must be writable */
    assert_int_equal(attach(&v, in, stage_output_fd(other), 0), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, in, out, STAGE_MAX_RANKS), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, in, out, STAGE_MAX_RANKS - 1), 0);
    stage_detach(&v);
    stage_detach(&v);
    close(zeros);
    close(small);
    stage_free(&s);
    stage_free(&other);
}

/* A head of which any one bit is off is no head of ours. */
static void test_corrupted_heads(void **unused)
{
    struct pair p;
    struct stage_view *v = NULL;
    (void)unused;
    open_pair(&p);
    int in = stage_input_fd(p.stage), out = stage_output_fd(p.stage);
    uint32_t *head = (uint32_t *)find_writable(&p);
    for (int word = 0; word < 8; word++)
        for (int bit = 0; bit < 32; bit++) {
            head[word] ^= 1u << bit;
            assert_true(attach(&v, in, out, 0) < 0);
            head[word] ^= 1u << bit;
        }
    assert_int_equal(attach(&v, in, out, 0), 0);
    stage_detach(&v);
    struct err e = {0};
    int larger = stage_segment_new(65536, &e);
    assert_int_equal(pwrite(larger, head, 32, 0), 32);
    assert_int_equal(attach(&v, larger, out, 0), ASSAY_EFORMAT);
    assert_int_equal(attach(&v, in, larger, 0), ASSAY_EFORMAT);
    close(larger);
    close_pair(&p);
}

static void test_sizes_out_of_range(void **unused)
{
    static const struct stage_config bad[] = {{0, 4, 100, 10, 50}, {17, 4, 100, 10, 50},
        {2, 0, 100, 10, 50}, {2, 4, 0, 10, 50}, {2, 4, 100, 10, 0}, {2, UINT32_MAX, 100, 10, 50},
        {2, 4, 1u << 29, 10, 50}, {2, 4, 100, UINT32_MAX, 50}, {2, 4, 100, 10, UINT32_MAX}};
    struct stage *s = NULL;
    struct err e = {0};
    (void)unused;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(stage_new(&s, &bad[i], &e), ASSAY_ETOOLARGE);
        assert_null(s);
    }
    stage_free(&s);
}

/* More than the machine has: refused at once, and the error says how much was wanted. */
static void test_memory_that_is_not_there(void **unused)
{
    struct err e = {0};
    (void)unused;
    assert_int_equal(stage_segment_new(1ull << 50, &e), ASSAY_ENOMEM);
    assert_non_null(strstr(e.msg, "wanted 1125899906842624 bytes"));
    assert_non_null(strstr(e.msg, "--max-batch-tokens"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corrupted_fields_of_a_batch),
        cmocka_unit_test(test_corrupted_fields_of_a_result),
        cmocka_unit_test(test_segments_that_are_none),
        cmocka_unit_test(test_corrupted_heads),
        cmocka_unit_test(test_sizes_out_of_range),
        cmocka_unit_test(test_memory_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
