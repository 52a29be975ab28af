/* test_kv_cache.c - which blocks are found, made, and driven out. That they hold the right keys and
 * values is test_reuse.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "worker/kv_cache.h"

enum { B = KV_BLOCK_TOKENS, MOST = 64 };

/* A row is a word: each letter stands for a block of its own. */
static uint32_t read_word(int32_t *ids, const char *word)
{
    uint32_t n = (uint32_t)strlen(word);
    for (uint32_t i = 0; i < n * B; i++)
        ids[i] = word[i / B] * 100 + (int32_t)(i % B);
    return n * B;
}

static uint32_t found(struct kv_cache *c, uint32_t adapter, const char *word)
{
    int32_t ids[MOST * B];
    uint32_t blocks[MOST];
    return kv_cache_find(c, adapter, ids, read_word(ids, word), blocks);
}

static uint32_t kept(struct kv_cache *c, const char *word, uint32_t *blocks)
{
    int32_t ids[MOST * B];
    return kv_cache_extend(c, 0, ids, read_word(ids, word), blocks);
}

static void expect_kept(struct kv_cache *c, const char *word, uint32_t n)
{
    uint32_t blocks[MOST];
    assert_int_equal(kept(c, word, blocks), n);
}

static void rows_that_begin_alike_have_the_same_blocks(void **unused)
{
    struct kv_cache *c = kv_cache_new(16);
    uint32_t a[MOST], b[MOST];
    int32_t ids[MOST * B];
    (void)unused;
    kv_cache_begin(c);
    assert_int_equal(found(c, 0, "abc"), 0);
    assert_int_equal(kept(c, "abc", a), 3);
    assert_int_equal(kept(c, "abd", b), 3);
    assert_memory_equal(a, b, 2 * sizeof *a);
    assert_int_not_equal(a[2], b[2]);
    assert_int_equal(kv_cache_used(c), 4);
    kv_cache_begin(c);
    assert_int_equal(found(c, 0, "abcd"), 3);
    assert_int_equal(found(c, 1, "abcd"), 0); /* through an adapter they are others */
    assert_int_equal(found(c, 0, "bc"), 0);   /* and behind another beginning */
    assert_int_equal(found(c, 0, "cab"), 0);
    uint32_t n = read_word(ids, "abc");
    ids[n - 1]++; /* the last id of the last block */
    assert_int_equal(kv_cache_find(c, 0, ids, n, b), 2);
    assert_int_equal(kv_cache_find(c, 0, ids, 2 * B - 1, b), 1); /* only whole blocks */
    kv_cache_free(&c);
    assert_null(c);
}

/* The end of what was not used for longest goes first, and nothing that this batch uses. */
static void blocks_are_driven_out_from_the_end(void **unused)
{
    struct kv_cache *c = kv_cache_new(6);
    (void)unused;
    kv_cache_begin(c);
    expect_kept(c, "abc", 3);
    kv_cache_begin(c);
    expect_kept(c, "xyz", 3);
    kv_cache_begin(c);
    assert_int_equal(found(c, 0, "ab"), 2); /* now xyz is older, but c is older still */
    expect_kept(c, "m", 1);
    kv_cache_begin(c);
    assert_int_equal(found(c, 0, "abc"), 2);
    assert_int_equal(found(c, 0, "xyz"), 3);
    assert_int_equal(found(c, 0, "m"), 1);
    expect_kept(c, "pq", 0); /* all six are in use */
    kv_cache_begin(c);
    assert_int_equal(found(c, 0, "ab"), 2);
    expect_kept(c, "pqrstu", 4);
    assert_int_equal(kv_cache_used(c), 6);
    kv_cache_begin(c);
    assert_int_equal(found(c, 0, "xyz"), 0);
    assert_int_equal(found(c, 0, "pqrs"), 4);
    kv_cache_free(&c);
}

static void one_block(void **unused)
{
    struct kv_cache *c = kv_cache_new(1);
    (void)unused;
    for (int turn = 0; turn < 3; turn++) {
        kv_cache_begin(c);
        expect_kept(c, "aa", 1);
        kv_cache_begin(c);
        expect_kept(c, "b", 1);
        assert_int_equal(found(c, 0, "a"), 0);
    }
    kv_cache_free(&c);
}

/* What a batch made goes with it; what it found stays, and so do the logits of that. */
static void a_batch_that_fails(void **unused)
{
    struct kv_cache *c = kv_cache_new(8);
    uint32_t blocks[MOST];
    (void)unused;
    kv_cache_begin(c);
    assert_int_equal(kept(c, "ab", blocks), 2);
    uint32_t slot = blocks[1] * B + 5;
    assert_false(kv_cache_has_logits(c, slot));
    kv_cache_set_logits(c, slot);
    kv_cache_begin(c);
    expect_kept(c, "abcd", 4);
    expect_kept(c, "xyz", 3);
    kv_cache_take_back(c);
    assert_int_equal(kv_cache_used(c), 2);
    assert_int_equal(found(c, 0, "xyz"), 0);
    assert_int_equal(found(c, 0, "abcd"), 2);
    assert_true(kv_cache_has_logits(c, slot));
    assert_false(kv_cache_has_logits(c, slot + 1));
    kv_cache_begin(c);
    expect_kept(c, "pqrstuvw", 8); /* there is room for all, and no logits are left */
    for (uint32_t i = 0; i < 8 * B; i++)
        assert_false(kv_cache_has_logits(c, i));
    kv_cache_free(&c);
}

/* Any rows in any order, beside a plain list of what was kept in each batch. */
static void any_rows(void **unused)
{
    (void)unused;
    srand(11);
    for (uint32_t size = 1; size < 40; size += 3) {
        struct kv_cache *c = kv_cache_new(size);
        uint32_t owner[40];
        for (int turn = 0; turn < 200; turn++) {
            uint32_t blocks[MOST], used = 0;
            kv_cache_begin(c);
            memset(owner, 0, sizeof owner);
            for (uint32_t rows = 1 + (uint32_t)rand() % 4; rows > 0; rows--) {
                char word[12] = {0};
                for (int i = 0, n = rand() % 11; i < n; i++)
                    word[i] = (char)('a' + rand() % 3);
                uint32_t before = found(c, 0, word), after = kept(c, word, blocks);
                assert_true(before <= after && after <= strlen(word));
                for (uint32_t i = 0; i < after; i++) {
                    assert_true(blocks[i] < size);
                    owner[blocks[i]] = 1;
                    for (uint32_t k = 0; k < i; k++)
                        assert_int_not_equal(blocks[i], blocks[k]);
                }
                assert_int_equal(found(c, 0, word), after);
            }
            for (uint32_t i = 0; i < size; i++)
                used += owner[i];
            assert_true(used <= kv_cache_used(c) && kv_cache_used(c) <= size);
            if (rand() % 4 == 0)
                kv_cache_take_back(c);
        }
        kv_cache_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_that_begin_alike_have_the_same_blocks),
        cmocka_unit_test(blocks_are_driven_out_from_the_end), cmocka_unit_test(one_block),
        cmocka_unit_test(a_batch_that_fails), cmocka_unit_test(any_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
