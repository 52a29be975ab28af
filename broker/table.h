/* table.h - finds pointers by number: a hash table with open addressing, at most half full. A
 * removal moves entries back, so nothing marks where one was. A zeroed table is empty; the values
 * are the caller's. */
#ifndef ASSAY_TABLE_H
#define ASSAY_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table_entry {
    int64_t key; /* 0: free */
    void *value;
};
struct table {
    struct table_entry *at; /* [room], for a walk over all; table_remove may move any of them */
    size_t n, room;
};

void table_release(struct table *t);
/* Keys are not 0. */
int table_has(const struct table *t, int64_t key);
void *table_find(const struct table *t, int64_t key);      /* NULL: it is not there, or NULL */
void table_set(struct table *t, int64_t key, void *value); /* adds it, or replaces its value */
void table_remove(struct table *t, int64_t key);           /* there or not */

#endif
