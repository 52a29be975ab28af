/* test_packed_rows.c - rows' input as the database keeps it: what goes in comes out, and what does
 * not fit together is refused, whatever its bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "schema/packed_rows.h"

#define LEN 100

/* Row k: its numbers say whose they are. */
struct sample {
    int32_t ids[LEN], positions[LEN];
    uint32_t ends[LEN];
    uint32_t n_tokens, n_positions, n_ends;
};

static struct sample make_row(uint32_t k, uint32_t largest)
{
    struct sample r = {.n_tokens = k % LEN,
        .n_positions = k % 3 == 0 ? k % 7 : 0,
        .n_ends = k % 5 == 0 ? k % 4 : 0};
    for (uint32_t i = 0; i < LEN; i++) {
        r.ids[i] = (int32_t)((k * 1000 + i * 7919) % largest);
        r.positions[i] = (int32_t)(k * 100 + i);
        r.ends[i] = k * 10 + i;
    }
    return r;
}

static void add(struct packed_writer *w, const struct sample *r)
{
    packed_add(w,
        &(struct row_input){r->ids, r->positions, r->ends, r->n_tokens, r->n_positions, r->n_ends});
}

/* A copy that ends where its memory ends. */
static struct slice copy(struct slice s)
{
    uint8_t *bytes = s.at ? malloc(s.len + (s.len == 0)) : NULL;
    if (s.len > 0)
        memcpy(bytes, s.at, s.len);
    return (struct slice){bytes, s.len};
}

static struct packed_columns copy_all(const struct packed_columns *c)
{
    return (struct packed_columns){copy(c->rows), copy(c->ids), copy(c->positions), copy(c->ends)};
}

static void free_all(struct packed_columns *c)
{
    free((void *)c->rows.at);
    free((void *)c->ids.at);
    free((void *)c->positions.at);
    free((void *)c->ends.at);
}

static void expect_row(const struct packed_rows *b, uint32_t k, const struct sample *r)
{
    int32_t ids[LEN];
    struct packed_input in = packed_input(b, k);
    assert_int_equal(in.n_tokens, r->n_tokens);
    assert_int_equal(in.n_positions, r->n_positions);
    assert_int_equal(in.n_ends, r->n_ends);
    packed_ids(b, &in, ids);
    assert_memory_equal(ids, r->ids, r->n_tokens * sizeof *ids);
    if (r->n_positions > 0)
        assert_memory_equal(in.positions, r->positions, r->n_positions * sizeof *r->positions);
    if (r->n_ends > 0)
        assert_memory_equal(in.ends, r->ends, r->n_ends * sizeof *r->ends);
}

/* Rows [from, from + n) with ids below `largest`: packed, or plain where that is beyond 2^18. */
static void round_trip(struct packed_writer *w, uint32_t from, uint32_t n, uint32_t largest)
{
    struct packed_rows b;
    packed_clear(w);
    for (uint32_t k = 0; k < n; k++) {
        struct sample r = make_row(from + k, largest);
        assert_true(packed_has_room(w, r.n_tokens));
        add(w, &r);
    }
    struct packed_columns c = packed_encode(w), exact = copy_all(&c);
    assert_int_equal(packed_open(&b, &exact, from % LEN), 0);
    assert_int_equal(b.n_rows, n);
    for (uint32_t k = 0; k < n; k++) {
        struct sample r = make_row(from + k, largest);
        expect_row(&b, k, &r);
    }
    free_all(&exact);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct packed_writer w = {0};
    for (uint32_t n = 1; n <= PACKED_ROWS; n++) /* one writer, as a broker has it */
        for (uint32_t from = 0; from < 12; from++) {
            round_trip(&w, from, n, 1 << 18);
            round_trip(&w, from, n, 1u << 31);
        }
    packed_writer_release(&w);
}

static void test_room(void **state)
{
    (void)state;
    struct packed_writer w = {0};
    int32_t *ids = calloc(3 * PACKED_TOKENS, sizeof *ids);
    assert_true(packed_has_room(&w, 3 * PACKED_TOKENS));
    packed_add(&w, &(struct row_input){.ids = ids, .n_tokens = 3 * PACKED_TOKENS});
    assert_false(packed_has_room(&w, 0));
    packed_clear(&w);
    packed_add(&w, &(struct row_input){.ids = ids, .n_tokens = PACKED_TOKENS - 1});
    assert_true(packed_has_room(&w, 1));
    assert_false(packed_has_room(&w, 2));
    assert_false(packed_has_room(&w, UINT32_MAX));
    packed_clear(&w);
    for (int k = 0; k < PACKED_ROWS; k++) {
        assert_true(packed_has_room(&w, 0));
        packed_add(&w, &(struct row_input){.ids = ids, .n_tokens = 1});
    }
    assert_false(packed_has_room(&w, 0));
    packed_writer_release(&w);
    free(ids);
}

static void read_everything(const struct packed_rows *b)
{
    uint32_t sum = 0;
    for (uint32_t k = 0; k < b->n_rows; k++) {
        struct packed_input in = packed_input(b, k);
        int32_t *ids = malloc((in.n_tokens + 1) * sizeof *ids);
        packed_ids(b, &in, ids);
        for (uint32_t i = 0; i < 4 * in.n_positions; i++)
            sum += in.positions[i];
        for (uint32_t i = 0; i < 4 * in.n_ends; i++)
            sum += in.ends[i];
        free(ids);
    }
    assert_true(sum < UINT32_MAX);
}

/* Bytes that were changed or cut off are refused, or read without a step beyond them (the address
 * sanitizer watches: `make check`). */
static void test_damaged(void **state)
{
    (void)state;
    struct packed_writer w = {0};
    struct packed_rows b;
    int refused = 0;
    srand(5);
    for (uint32_t k = 0; k < 9; k++) {
        struct sample r = make_row(10 + k, 1 << 18);
        add(&w, &r);
    }
    struct packed_columns c = packed_encode(&w);
    for (int round = 0; round < 20000; round++) {
        struct packed_columns damaged = copy_all(&c);
        struct slice *columns[] = {&damaged.rows, &damaged.ids, &damaged.positions, &damaged.ends};
        struct slice *one = columns[rand() % 4];
        if (rand() % 2)
            ((uint8_t *)one->at)[(size_t)rand() % (one->len < 40 ? one->len : 40)] =
                (uint8_t)rand();
        else
            one->len = (size_t)rand() % one->len;
        struct packed_columns exact = copy_all(&damaged);
        if (packed_open(&b, &exact, 10) == 0)
            read_everything(&b);
        else
            refused++;
        free_all(&damaged);
        free_all(&exact);
    }
    assert_true(refused > 10000);
    packed_writer_release(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
