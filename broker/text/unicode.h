/* unicode.h - the properties of characters that the tokenizer needs, as its reference sees them.
 *
 * The reference's split patterns and normalizer follow different versions of Unicode, so the ranges
 * (unicode_ranges.c) are its observed behaviour, character by character. */
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
    UNICODE_TAIL = 8,  /* NFC may change it, move it, or fuse it with what precedes */
    UNICODE_HEAD = 16, /* NFC may fuse it with a tail after it */
};

struct unicode_range {
    uint32_t first, last;
};

extern const struct unicode_range unicode_letters[], unicode_numbers[], unicode_spaces[],
    unicode_tails[], unicode_heads[];
extern const unsigned unicode_n_letters, unicode_n_numbers, unicode_n_spaces, unicode_n_tails,
    unicode_n_heads;

/* Returns the classes of all characters: UNICODE_END bytes of enum unicode_class, by code point.
 * The caller frees it. */
uint8_t *unicode_classes(void);

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

#endif
