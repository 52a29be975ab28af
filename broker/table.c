/* table.c - a hash table with linear probing; a removal moves the entries behind it back
 * (table.h). */
#include "broker/table.h"

#include <assert.h>
#include <stdlib.h>

#include "schema/alloc.h"

#define FIRST_ROOM 64

void table_release(struct table *t)
{
    free(t->at);
    *t = (struct table){0};
}

static size_t next(const struct table *t, size_t at)
{
    return (at + 1) & (t->room - 1);
}

/* Returns the entry where the key is, or would be; the table has room. */
static struct table_entry *place_of(const struct table *t, int64_t key)
{
    size_t at = (size_t)((uint64_t)key * 0x9e3779b97f4a7c15ull >> 32) & (t->room - 1);
    while (t->at[at].key != 0 && t->at[at].key != key)
        at = next(t, at);
    return &t->at[at];
}

int table_has(const struct table *t, int64_t key)
{
    return t->n > 0 && place_of(t, key)->key == key;
}

void *table_find(const struct table *t, int64_t key)
{
    return t->n > 0 ? place_of(t, key)->value : NULL;
}

static void grow(struct table *t)
{
    struct table old = *t;
    t->room = old.room > 0 ? 2 * old.room : FIRST_ROOM;
    t->at = xcalloc(t->room, sizeof *t->at);
    for (size_t i = 0; i < old.room; i++)
        if (old.at[i].key != 0)
            *place_of(t, old.at[i].key) = old.at[i];
    free(old.at);
}

void table_set(struct table *t, int64_t key, void *value)
{
    assert(key != 0);
    if (2 * (t->n + 1) > t->room)
        grow(t);
    struct table_entry *place = place_of(t, key);
    t->n += place->key == 0;
    *place = (struct table_entry){key, value};
}

void table_remove(struct table *t, int64_t key)
{
    if (!table_has(t, key))
        return;
    struct table_entry *hole = place_of(t, key);
    *hole = (struct table_entry){0};
    t->n--;
    for (size_t at = next(t, (size_t)(hole - t->at)); t->at[at].key != 0; at = next(t, at)) {
        struct table_entry moved = t->at[at];
        t->at[at] = (struct table_entry){0};
        *place_of(t, moved.key) = moved;
    }
}
