/* sequences.c - cuts a batch's rows where their prefixes end (sequences.h). */
#include "worker/sequences.h"

#include <stdlib.h>

#include "schema/alloc.h"

static void add(
    struct sequences *s, uint32_t end, uint32_t row, uint32_t owner, struct attn_prefix prefix)
{
    s->prefixes[s->n] = prefix;
    s->rows[s->n] = row;
    s->owners[s->n] = prefix.n > 0 ? owner : SEQUENCES_NONE;
    s->cu_seqlens[++s->n] = end;
}

void sequences_init(struct sequences *s, const struct stage_batch *b)
{
    size_t most = 2 * (size_t)b->n_rows;
    *s = (struct sequences){.cu_seqlens = xcalloc(most + 1, sizeof *s->cu_seqlens),
        .prefixes = xcalloc(most, sizeof *s->prefixes),
        .tables = xcalloc(most, sizeof *s->tables),
        .rows = xcalloc(most, sizeof *s->rows),
        .owners = xcalloc(most, sizeof *s->owners)};
    struct attn_prefix prefix = {0, 0};
    uint32_t owner = SEQUENCES_NONE;
    for (uint32_t r = 0; r < b->n_rows; r++) {
        const struct stage_row *row = &b->rows[r];
        if (row->n_tokens > s->longest)
            s->longest = row->n_tokens;
        if (row->n_shared == 0) {
            uint32_t n = r + 1 < b->n_rows ? row[1].n_shared : 0;
            prefix = (struct attn_prefix){b->cu_seqlens[r], n};
            owner = s->n;
            if (n > 0)
                add(s, prefix.first + n, r, SEQUENCES_NONE, (struct attn_prefix){0, 0});
            if (n == row->n_tokens)
                continue;
        }
        add(s, b->cu_seqlens[r + 1], r, owner, prefix);
    }
}

void sequences_release(struct sequences *s)
{
    free(s->cu_seqlens);
    free(s->prefixes);
    free(s->tables);
    free(s->rows);
    free(s->owners);
    *s = (struct sequences){0};
}

int sequences_positions(const struct sequences *s, int32_t *positions)
{
    int shares = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        uint32_t first = s->cu_seqlens[k], from = s->tables[k].n_tokens + s->prefixes[k].n;
        for (uint32_t i = first; i < s->cu_seqlens[k + 1]; i++)
            positions[i] = (int32_t)(from + i - first);
        shares |= s->prefixes[k].n > 0;
    }
    return shares;
}
