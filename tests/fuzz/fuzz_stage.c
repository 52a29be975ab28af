/* fuzz_stage.c - any bytes in a staging segment, as the other side may have left them.
 *
 * An input is one byte that says which side reads, then the bytes of a segment with the gap between
 * head and first slot left out (stage.c has the format):
 *     'i'  a rank attaches to this input segment and reads the first hand-over's batch
 *     'o'  a rank attaches to this output segment, and the broker collects the first result
 * What is taken must hold what stage.h promises of it; private copies are of the exact size, so
 * sanitizers see what goes beyond. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "schema/log.h"
#include "shm/stage.h"
#include "worker/pooler.h"

#define HEAD_BYTES 32
#define INPUT_SLOT_AT 4096
#define OUTPUT_SLOT_AT 8192
#define SLOT_BYTES 4096
#define VALUES_AT 64
#define INPUT_BYTES (INPUT_SLOT_AT + SLOT_BYTES)
#define OUTPUT_BYTES (OUTPUT_SLOT_AT + SLOT_BYTES)
#define N_LABELS 2
#define N_POSITIONS 10 /* as many as fit: a reader that goes on behind them leaves its copy */
#define N_VALUES (N_LABELS * (1 + N_POSITIONS))

static const struct stage_config config = {1, 4, 100, 10, 50};
static const float scores[N_VALUES] = {0.5f, 1.5f, 2.5f, 3.5f};

/* What every input is played against, made once: a broker that has handed over one batch, two
 * segments that take the inputs, and a rank attached to them. Never freed: the process ends with
 * it. */
struct rig {
    struct stage *stage;
    struct stage_token token;
    int input_fd, output_fd;
    uint8_t *input, *output, *broker_output; /* the last is the broker's own, mapped once more */
    uint8_t head[HEAD_BYTES];                /* as it should be */
    struct stage_view *view;
};

static int publish(struct stage *s, struct stage_token *token)
{
    static const int32_t a[] = {1, 2, 3}, b[] = {4, 5}, at[N_POSITIONS];
    static const int32_t *const ids[] = {a, b}, *const positions[] = {NULL, at};
    static const struct stage_row rows[] = {
        {3, {POOL_LAST, ACTIVATION_NONE, -1}, 0, N_LABELS, 0, 0},
        {2, {POOL_POSITIONS, ACTIVATION_NONE, -1}, N_POSITIONS, N_POSITIONS * N_LABELS, 1, 0}};
    struct err e = {0};
    return stage_publish(s, 7, 1, &(struct stage_fill){2, rows, ids, positions}, token, &e);
}

static uint8_t *map(int fd, size_t bytes, int protection)
{
    void *at = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        die(71, "event=no_mapping");
    return at;
}

static struct rig make_rig(void)
{
    struct rig r;
    struct err e = {0};
    if (stage_new(&r.stage, &config, &e) != 0 || publish(r.stage, &r.token) != 1 ||
        (r.input_fd = stage_segment_new(INPUT_BYTES, &e)) < 0 ||
        (r.output_fd = stage_segment_new(OUTPUT_BYTES, &e)) < 0)
        die(71, "event=no_segments error=\"%s\"", e.msg);
    r.input = map(r.input_fd, INPUT_BYTES, PROT_READ | PROT_WRITE);
    r.output = map(r.output_fd, OUTPUT_BYTES, PROT_READ | PROT_WRITE);
    r.broker_output = map(stage_output_fd(r.stage), OUTPUT_BYTES, PROT_READ | PROT_WRITE);
    memcpy(r.head, r.broker_output, HEAD_BYTES);
    memcpy(r.input, r.head, HEAD_BYTES);
    memcpy(r.output, r.head, HEAD_BYTES);
    if (stage_attach(&r.view, r.input_fd, r.output_fd, 0, &e) != 0)
        die(71, "event=not_attached error=\"%s\"", e.msg);
    return r;
}

static struct rig *rig(void)
{
    static struct rig r;
    if (!r.stage)
        r = make_rig();
    return &r;
}

static void check_batch(const struct stage_batch *b, const struct stage_config *c)
{
    uint64_t tokens = 0, positions = 0, values = 0;
    const struct stage_row *owner = NULL;
    assert(b->n_rows >= 1 && b->n_rows <= c->max_rows && b->n_tokens <= c->max_tokens);
    assert(b->n_positions <= c->max_positions && b->n_values <= c->max_values);
    for (uint32_t r = 0; r < b->n_rows; r++) {
        const struct stage_row *row = &b->rows[r];
        assert(row->n_tokens > row->n_shared && b->cu_seqlens[r] == tokens);
        owner = row->n_shared == 0 ? row : owner;
        assert(owner && row->n_shared <= owner->n_tokens && row->adapter == owner->adapter);
        assert(row->pool.type >= POOL_LAST && row->pool.type <= POOL_POSITIONS);
        assert(
            row->pool.activation >= ACTIVATION_NONE && row->pool.activation <= ACTIVATION_CLASS1);
        for (uint32_t k = 0; k < row->n_positions; k++, positions++)
            assert(
                b->positions[positions] >= 0 && b->positions[positions] < (int64_t)row->n_tokens);
        tokens += row->n_tokens - row->n_shared;
        values += row->n_values;
    }
    assert(b->cu_seqlens[b->n_rows] == tokens && tokens == b->n_tokens);
    assert(positions == b->n_positions && values == b->n_values);
}

/* The next to use a batch that was taken. */
static void check_pooling(const struct stage_batch *b)
{
    struct pooling_metadata p;
    struct err e = {0};
    if (pooling_metadata_init(&p, b, N_LABELS, 100, &e) == 0)
        for (uint32_t i = 0; i < p.n_out_rows; i++)
            assert(p.out_rows[i] < b->n_tokens);
    pooling_metadata_release(&p);
}

/* Head and slot of a segment become the input's, zeros behind it. */
static void fill_segment(uint8_t *segment, size_t slot_at, const uint8_t *p, size_t n)
{
    size_t head = n < HEAD_BYTES ? n : HEAD_BYTES;
    size_t slot = n - head < SLOT_BYTES ? n - head : SLOT_BYTES;
    memset(segment, 0, HEAD_BYTES);
    memset(segment + slot_at, 0, SLOT_BYTES);
    memcpy(segment, p, head);
    memcpy(segment + slot_at, p + head, slot);
}

static void read_batch(const struct rig *r, struct stage_view *v)
{
    struct stage_batch b;
    struct err e = {0};
    if (stage_read(v, &r->token, &b, &e) != 0)
        return;
    check_batch(&b, stage_view_config(v));
    check_pooling(&b);
}

/* A rank attaches where the head is not the usual one: that is slow, and mostly refused. */
static void read_input(const struct rig *r, const uint8_t *p, size_t n)
{
    struct stage_view *v = NULL;
    struct err e = {0};
    fill_segment(r->input, INPUT_SLOT_AT, p, n);
    if (memcmp(r->input, r->head, HEAD_BYTES) == 0) {
        read_batch(r, r->view);
        return;
    }
    int rc = stage_attach(&v, r->input_fd, stage_output_fd(r->stage), 0, &e);
    assert((rc == 0) == (v != NULL));
    if (rc == 0)
        read_batch(r, v);
    stage_detach(&v);
}

/* The head goes to a rank, the slot, under its own head, to the broker. */
static void read_output(const struct rig *r, const uint8_t *p, size_t n)
{
    struct stage_view *v = NULL;
    struct err e = {0};
    float *values;
    uint32_t n_values;
    fill_segment(r->output, OUTPUT_SLOT_AT, p, n);
    if (memcmp(r->output, r->head, HEAD_BYTES) != 0) {
        assert(stage_attach(&v, stage_input_fd(r->stage), r->output_fd, 0, &e) < 0 && !v);
        return;
    }
    memcpy(r->broker_output + OUTPUT_SLOT_AT, r->output + OUTPUT_SLOT_AT, SLOT_BYTES);
    if (stage_collect(r->stage, &r->token, &values, &n_values, &e) == 0) {
        assert(n_values == N_VALUES);
        assert(memcmp(values, r->output + OUTPUT_SLOT_AT + VALUES_AT, sizeof scores) == 0);
        free(values);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len > 0 && bytes[0] == 'i')
        read_input(rig(), bytes + 1, len - 1);
    else if (len > 0 && bytes[0] == 'o')
        read_output(rig(), bytes + 1, len - 1);
    return 0;
}

/* The segments as broker and rank leave them, cut behind what they use. */
int fuzz_seed(unsigned n, struct msg_writer *w)
{
    enum { INPUT_USED = 704, OUTPUT_USED = VALUES_AT + sizeof scores };
    struct stage *s = NULL;
    struct stage_view *v = NULL;
    struct stage_token token;
    struct err e = {0};
    if (n > 1)
        return 0;
    if (stage_new(&s, &config, &e) != 0 || publish(s, &token) != 1 ||
        stage_attach(&v, stage_input_fd(s), stage_output_fd(s), 0, &e) != 0 ||
        stage_write(v, &token, scores, N_VALUES, &e) != 0)
        die(71, "event=no_stage error=\"%s\"", e.msg);
    size_t slot_at = n == 0 ? INPUT_SLOT_AT : OUTPUT_SLOT_AT;
    uint8_t *at =
        map(n == 0 ? stage_input_fd(s) : stage_output_fd(s), slot_at + SLOT_BYTES, PROT_READ);
    msgpack_sbuffer_write(&w->buffer, n == 0 ? "i" : "o", 1);
    msgpack_sbuffer_write(&w->buffer, (const char *)at, HEAD_BYTES);
    msgpack_sbuffer_write(
        &w->buffer, (const char *)at + slot_at, n == 0 ? INPUT_USED : OUTPUT_USED);
    munmap(at, slot_at + SLOT_BYTES);
    stage_detach(&v);
    stage_free(&s);
    return 1;
}
