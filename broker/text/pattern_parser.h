/* pattern_parser.h - a pattern as it is read (pattern_syntax.c), and its sets of characters
 * (pattern_class.c). Private to these. */
#ifndef ASSAY_PATTERN_PARSER_H
#define ASSAY_PATTERN_PARSER_H

#include <string.h>

#include "broker/text/pattern_syntax.h"

#define PATTERN_MAX_DEPTH 30 /* of groups and classes in each other */
#define PATTERN_NO_CHARACTER UINT32_MAX

struct pattern_parser {
    struct pattern_syntax *out;
    const uint8_t *text;
    size_t len, at;
    int depth, n_classes; /* of groups and classes in each other; of classes alone */
    int ignores_case;
    uint32_t letters_before; /* what the previous atom may be, without case: pattern_fold_set */
    struct err *e;
};

struct pattern_atom {
    int nullable;     /* it may match nothing */
    int is_assertion; /* it always does */
    int is_set;       /* it is one character */
    uint32_t letters; /* without case, bit 0 is a; 0 unless case is ignored */
};

/* ASSAY_EFORMAT: shows what stands at `at`. */
int pattern_refuse(const struct pattern_parser *p, size_t at, const char *what);

/* The byte so far ahead; -1: none. */
static inline int pattern_peek(const struct pattern_parser *p, size_t ahead)
{
    return p->at + ahead < p->len ? p->text[p->at + ahead] : -1;
}

/* Whether the word comes next: it is passed over. */
static inline int pattern_take(struct pattern_parser *p, const char *word)
{
    size_t n = strlen(word);
    if (p->len - p->at < n || memcmp(p->text + p->at, word, n) != 0)
        return 0;
    p->at += n;
    return 1;
}

static inline uint32_t pattern_take_character(struct pattern_parser *p)
{
    unsigned bytes;
    uint32_t c = unicode_decode(p->text + p->at, &bytes);
    p->at += bytes;
    return c;
}

/* A letter of ASCII as a bit, whatever its case; 0: none. */
uint32_t pattern_letter(uint32_t c);
/* Adds the letters that differ in case; refuses some of which, with those before, one character may
 * stand. */
int pattern_fold_set(
    struct pattern_parser *p, size_t at, struct charset *set, struct pattern_atom *a);
/* Reads what follows a backslash: one character, or PATTERN_NO_CHARACTER and a set. */
int pattern_read_escape(struct pattern_parser *p, struct charset *set, uint32_t *c);
/* Reads a class, behind its opening bracket. */
int pattern_read_class(struct pattern_parser *p, struct charset *set, int *negated);

#endif
