/* added.h - finds added tokens in a text before it is cut into words: control tokens such as
 * <|im_end|>, and whatever else a tokenizer.json adds.
 *
 * Matches are leftmost first, the longest where several begin at one place, and do not overlap. A
 * token may include the white space beside it (lstrip, rstrip). One that must be a word of its own
 * (single_word) and is not stays text, and nothing else is found in it. */
#ifndef ASSAY_ADDED_H
#define ASSAY_ADDED_H

#include <stddef.h>
#include <stdint.h>

struct added_token {
    uint8_t *content; /* owned by the set */
    size_t len;       /* at least 1 */
    int32_t id;
    int lstrip, rstrip, single_word;
    uint32_t order; /* of tokens with the same content the lowest counts */
};

struct added_set {
    struct added_token *tokens; /* sorted by content after added_set_sort */
    size_t n, room;
    uint8_t starts[256]; /* bytes that some token begins with */
};

void added_set_add(struct added_set *s, const struct added_token *t); /* copies the content */
void added_set_sort(struct added_set *s);
/* Do two sorted sets find the same tokens everywhere? */
int added_sets_are_same(const struct added_set *a, const struct added_set *b);
void added_set_release(struct added_set *s);

/* Part of a text, in bytes. */
struct span {
    size_t begin, end;
};

struct added_cut {
    const struct added_token *token;
    struct span span; /* includes the white space that it takes */
    size_t next;      /* where to search for the next token */
};

/* Finds the next token from `from` on that touches none of the closed spans (ascending). `classes`
 * comes from unicode_classes. Returns 1 and *cut, or 0. `done`: end of what is cut already; white
 * space before it is not taken. */
struct added_search {
    const struct added_set *set;
    const uint8_t *classes, *text;
    size_t len;
    const struct span *closed;
    size_t n_closed;
    int is_first; /* the whole text begins here, too; for the caller */
};
int added_find(const struct added_search *s, size_t from, size_t done, struct added_cut *cut);

#endif
