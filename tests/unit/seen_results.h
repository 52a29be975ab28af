/* seen_results.h - what a walk over results has seen. */
#ifndef ASSAY_SEEN_RESULTS_H
#define ASSAY_SEEN_RESULTS_H

#include "tests/unit/store_fixture.h"

struct seen {
    uint64_t cursor;
    uint32_t n, i[4096];
    int failed;
};

static inline int see(void *arg, const struct store_result_row *row)
{
    struct seen *seen = arg;
    assert_true(row->cursor > seen->cursor);
    seen->cursor = row->cursor;
    seen->i[seen->n++] = row->i;
    if (row->error_code) {
        seen->failed++;
        assert_int_equal(row->n_values, 0);
    } else {
        assert_int_equal(row->n_values, 1);
        assert_true(row->values[0] == (float)row->i + 0.5f);
        assert_int_equal(row->n_pooled, 1);
        assert_int_equal(row->pooled_at[0], row->n_tokens - 1);
        assert_int_equal(row->pooled_at[1], 7);
    }
    return 0;
}

#endif
