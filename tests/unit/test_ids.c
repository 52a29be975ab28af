/* test_ids.c - token ids as the database keeps them: both forms, their lengths, what is neither. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "schema/ids.h"

/* There and back; returns the bytes that it took. */
static size_t there_and_back(const int32_t *ids, uint32_t n)
{
    uint8_t *bytes = malloc(ids_room(n) + 1);
    int32_t *back = malloc((n + 1) * sizeof *back);
    size_t len = ids_pack(ids, n, bytes);
    assert_true(len <= ids_room(n));
    uint8_t *exact = malloc(len + 1); /* so that a sanitizer sees a read beyond it */
    memcpy(exact, bytes, len);
    assert_int_equal(ids_unpack(exact, len, n, back), 0);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(back[i], ids[i]);
    free(exact);
    free(bytes);
    free(back);
    return len;
}

static void every_length(void **state)
{
    int32_t ids[70];
    (void)state;
    srand(3);
    for (uint32_t n = 1; n <= 70; n++) {
        for (uint32_t i = 0; i < n; i++)
            ids[i] = i == 0 ? (1 << 18) - 1 : rand() & ((1 << 18) - 1);
        assert_int_equal(there_and_back(ids, n), 2 * n + (n + 3) / 4);
    }
}

static void what_is_too_large_stays_plain(void **state)
{
    static const int32_t odd[] = {1 << 18, INT32_MAX, -1, INT32_MIN};
    (void)state;
    for (size_t k = 0; k < 4; k++) {
        int32_t ids[9] = {0, 1, 65535, 65536, 131072, 151935, 262143, 7, 7};
        assert_int_equal(there_and_back(ids, 9), 21);
        ids[2 * k] = odd[k];
        assert_int_equal(there_and_back(ids, 9), 36);
    }
}

static void the_bytes(void **state)
{
    const int32_t ids[5] = {1, 0x10002, 0x20003, 0x3fffe, 0x30005};
    static const uint8_t planes[12] = {1, 0, 2, 0, 3, 0, 0xfe, 0xff, 5, 0, 0xe4, 3};
    uint8_t bytes[20];
    (void)state;
    assert_int_equal(ids_pack(ids, 5, bytes), 12);
    assert_memory_equal(bytes, planes, 12);
}

static void other_lengths_are_refused(void **state)
{
    uint8_t bytes[64] = {0};
    int32_t ids[8];
    (void)state;
    for (size_t len = 0; len <= sizeof bytes; len++)
        assert_int_equal(ids_unpack(bytes, len, 8, ids), len == 18 || len == 32 ? 0 : -1);
}

/* Each place of each length, below, at and above the edges. */
static void ids_below_a_vocabulary(void **state)
{
    static const int32_t odd[] = {1000, 1001, INT32_MAX, -1, INT32_MIN};
    int32_t ids[40];
    (void)state;
    assert_true(ids_are_below(NULL, 0, 1000));
    for (uint32_t n = 1; n <= 40; n++)
        for (uint32_t at = 0; at < n; at++) {
            for (uint32_t i = 0; i < n; i++)
                ids[i] = i % 2 ? 0 : 999;
            assert_true(ids_are_below(ids, n, 1000));
            for (size_t k = 0; k < sizeof odd / sizeof odd[0]; k++) {
                ids[at] = odd[k];
                assert_false(ids_are_below(ids, n, 1000));
            }
        }
    ids[0] = INT32_MAX;
    assert_false(ids_are_below(ids, 1, INT32_MAX));
    ids[0]--;
    assert_true(ids_are_below(ids, 1, INT32_MAX));
}

static void from_the_wire(void **state)
{
    static const uint8_t bytes[] = {0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 4, 3, 2, 0x81};
    int32_t ids[3];
    (void)state;
    ids_from_wire(bytes + 1, 3, ids); /* not aligned */
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], -1);
    assert_int_equal(ids[2], (int32_t)0x81020304);
    ids_from_wire(NULL, 0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length),
        cmocka_unit_test(what_is_too_large_stays_plain),
        cmocka_unit_test(the_bytes),
        cmocka_unit_test(other_lengths_are_refused),
        cmocka_unit_test(ids_below_a_vocabulary),
        cmocka_unit_test(from_the_wire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
