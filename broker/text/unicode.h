/* unicode.h - the properties of characters that the tokenizer needs, as its reference sees them.
 *
 * The reference's patterns, its normalizer and its other parts follow different versions of
 * Unicode, so the tables (unicode_ranges.c, unicode_categories.c) are its observed behaviour,
 * character by character. A table named *_but holds the characters in which a property differs from
 * the one beside it. */
#ifndef ASSAY_UNICODE_H
#define ASSAY_UNICODE_H

#include <stddef.h>
#include <stdint.h>

#define UNICODE_END 0x110000

enum unicode_class {
    UNICODE_LETTER = 1, /* \p{L} */
    UNICODE_NUMBER = 2, /* \p{N} */
    UNICODE_SPACE = 4,  /* \s */
    /* A character that is neither tail nor head stands alone under NFC: it does not change, move or
     * fuse. */
    UNICODE_TAIL = 8,         /* NFC may change it, move it, or fuse it with what precedes */
    UNICODE_HEAD = 16,        /* NFC may fuse it with a tail after it */
    UNICODE_WORD = 32,        /* a token marked single_word is not found beside it */
    UNICODE_DIGIT = 64,       /* the pre-tokenizer Digits cuts it out */
    UNICODE_PUNCTUATION = 128 /* Punctuation does */
};

/* The general categories, in the order of unicode_categories.c. */
enum unicode_category {
    UNICODE_LU,
    UNICODE_LL,
    UNICODE_LT,
    UNICODE_LM,
    UNICODE_LO,
    UNICODE_MN,
    UNICODE_MC,
    UNICODE_ME,
    UNICODE_ND,
    UNICODE_NL,
    UNICODE_NO,
    UNICODE_PC,
    UNICODE_PD,
    UNICODE_PS,
    UNICODE_PE,
    UNICODE_PI,
    UNICODE_PF,
    UNICODE_PO,
    UNICODE_SM,
    UNICODE_SC,
    UNICODE_SK,
    UNICODE_SO,
    UNICODE_ZS,
    UNICODE_ZL,
    UNICODE_ZP,
    UNICODE_CC,
    UNICODE_CF,
    UNICODE_CO,
    UNICODE_CN
};

/* Sets of categories, 1 << category. */
#define UNICODE_LETTERS 0x1fu              /* Lu to Lo */
#define UNICODE_MARKS 0xe0u                /* Mn to Me */
#define UNICODE_NUMBERS 0x700u             /* Nd to No */
#define UNICODE_PUNCTUATION_MARKS 0x3f800u /* Pc to Po */
#define UNICODE_WORD_CATEGORIES                                                                    \
    (UNICODE_LETTERS | UNICODE_MARKS | 1u << UNICODE_ND | 1u << UNICODE_PC)

struct unicode_range {
    uint32_t first, last;
};

/* The characters from `first` to the next run's have this category. */
struct unicode_run {
    uint32_t first;
    uint8_t category;
};

extern const struct unicode_run unicode_runs[];
extern const unsigned unicode_n_runs;

/* Each step-th character of the range has its small letter `shift` further on. */
struct unicode_lower_run {
    struct unicode_range range;
    uint32_t step;
    int32_t shift;
};

extern const struct unicode_lower_run unicode_lowers[];
extern const unsigned unicode_n_lowers;

extern const struct unicode_range unicode_spaces[], unicode_han[], unicode_tails[], unicode_heads[],
    unicode_words_but[], unicode_words_alone[], unicode_single_words_but[], unicode_digits_but[],
    unicode_punctuation_but[],
    unicode_compatible[], /* NFKC and NFKD change it, NFC and NFD do not */
    unicode_accents[];    /* the normalizer StripAccents drops it */
extern const unsigned unicode_n_spaces, unicode_n_han, unicode_n_tails, unicode_n_heads,
    unicode_n_words_but, unicode_n_words_alone, unicode_n_single_words_but, unicode_n_digits_but,
    unicode_n_punctuation_but, unicode_n_compatible, unicode_n_accents;

/* Returns the classes of all characters: UNICODE_END bytes of enum unicode_class, by code point.
 * The caller frees it. */
uint8_t *unicode_classes(void);

/* Is it in one of these n ranges, which ascend? */
int unicode_is_in(const struct unicode_range *ranges, unsigned n, uint32_t c);
/* Returns its small letter, or c: as the normalizer Lowercase has it, but for U+0130, which has a
 * text of two characters. */
uint32_t unicode_lower(uint32_t c);

/* Decodes the character at p, its first byte in valid UTF-8; *len: its length in bytes. */
static inline uint32_t unicode_decode(const uint8_t *p, unsigned *len)
{
    if (p[0] < 0x80) {
        *len = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *len = 2;
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *len = 3;
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *len = 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
           (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

/* Is this white space to Python's str.strip() and str.split(): \s of the patterns, and ASCII's four
 * separators? */
static inline int unicode_is_python_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

#endif
