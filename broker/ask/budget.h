/* budget.h - bytes that all requests under way may have together. */
#ifndef ASSAY_ASK_BUDGET_H
#define ASSAY_ASK_BUDGET_H

#include <stdatomic.h>
#include <stddef.h>

struct budget {
    atomic_size_t used;
    size_t most;
};

static inline void budget_give(struct budget *b, size_t n)
{
    atomic_fetch_sub(&b->used, n);
}

/* Returns 0, or -1 with nothing taken when there would be more than the most. */
static inline int budget_take(struct budget *b, size_t n)
{
    size_t before = atomic_fetch_add(&b->used, n);
    if (n <= b->most && before <= b->most - n)
        return 0;
    budget_give(b, n);
    return -1;
}

#endif
