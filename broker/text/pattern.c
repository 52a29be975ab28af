/* pattern.c - gives characters codes, compiles the pattern over these, and runs it in steps that
 * are counted (pattern.h). */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "broker/text/pattern.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "broker/text/pattern_syntax.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define MAX_CODES 256
#define FIRST_STEPS 256u /* of the first try at a place; each further try has 16 times as many */
#define STEPS 10000000u
#define STEPS_PER_CHARACTER 64u
#define HEAP_KIB (512u << 10)

struct pattern {
    uint8_t *codes; /* by code point */
    pcre2_code *compiled;
    uint8_t starts[MAX_CODES]; /* codes that a match may begin with */
};

struct pattern_matcher {
    const struct pattern *pattern;
    struct slice text;
    struct buffer coded; /* the text's codes */
    size_t at, byte;     /* the next place, in characters and in bytes */
    uint64_t steps;      /* that the rest of the text may take */
    pcre2_match_context *context;
    pcre2_match_data *found;
};

/* ---- codes ---- */

/* What each code has: bit i for sets[i]. */
struct code_list {
    uint64_t sets[MAX_CODES];
    unsigned n;
};

/* Returns the code of characters in these sets, MAX_CODES: there are too many. */
static unsigned find_code(struct code_list *l, uint64_t sets)
{
    unsigned i = 0;
    while (i < l->n && l->sets[i] != sets)
        i++;
    if (i == l->n && l->n < MAX_CODES)
        l->sets[l->n++] = sets;
    return i;
}

/* The sets that hold c, and the first character behind c where one of them begins or ends. */
static uint64_t sets_at(const struct pattern_syntax *s, size_t *places, uint32_t c, uint32_t *next)
{
    uint64_t sets = 0;
    *next = UNICODE_END;
    for (unsigned i = 0; i < s->n_sets; i++) {
        const struct charset *set = &s->sets[i];
        while (places[i] < set->n && set->at[places[i]].last < c)
            places[i]++;
        if (places[i] == set->n)
            continue;
        const struct unicode_range *range = &set->at[places[i]];
        int is_in = range->first <= c;
        uint32_t change = is_in ? range->last + 1 : range->first;
        sets |= (uint64_t)is_in << i;
        *next = change < *next ? change : *next;
    }
    return sets;
}

static int assign_codes(
    uint8_t *codes, struct code_list *list, const struct pattern_syntax *s, struct err *e)
{
    size_t places[PATTERN_MAX_SETS] = {0};
    for (uint32_t c = 0, next; c < UNICODE_END; c = next) {
        unsigned code = find_code(list, sets_at(s, places, c, &next));
        if (code == MAX_CODES)
            return err_set(e, ASSAY_EFORMAT,
                "expected at most %d kinds of characters that the pattern tells apart", MAX_CODES);
        memset(codes + c, (int)code, next - c);
    }
    return 0;
}

/* Writes a set as a class of its codes. */
static void write_codes(struct buffer *out, const struct code_list *list, unsigned set)
{
    char text[16];
    size_t from = out->len;
    for (unsigned code = 0; code < list->n; code++)
        if (list->sets[code] >> set & 1) {
            snprintf(text, sizeof text, "%s\\x%02x", out->len == from ? "[" : "", code);
            buffer_text(out, text);
        }
    buffer_text(out, out->len == from ? "(?!)" : "]");
}

/* ---- life ---- */

static int compile(
    struct pattern *p, const struct pattern_syntax *s, const struct code_list *list, struct err *e)
{
    struct buffer text = {0};
    int code;
    PCRE2_SIZE at;
    for (size_t i = 0; i < s->text.len; i++)
        if (s->text.at[i] >= 0x80)
            write_codes(&text, list, s->text.at[i] - 0x80u);
        else
            buffer_append(&text, &s->text.at[i], 1);
    p->compiled = pcre2_compile(text.at, text.len, PCRE2_NO_AUTO_POSSESS, &code, &at, NULL);
    buffer_release(&text);
    if (p->compiled)
        return 0;
    PCRE2_UCHAR why[128] = "";
    pcre2_get_error_message(code, why, sizeof why);
    return err_set(e, ASSAY_EFORMAT, "PCRE2 does not take the pattern: %s", (const char *)why);
}

static void find_starts(struct pattern *p)
{
    const uint8_t *map = NULL;
    uint32_t kind = 0, first = 0;
    pcre2_pattern_info(p->compiled, PCRE2_INFO_FIRSTCODETYPE, &kind);
    pcre2_pattern_info(p->compiled, PCRE2_INFO_FIRSTCODEUNIT, &first);
    pcre2_pattern_info(p->compiled, PCRE2_INFO_FIRSTBITMAP, &map);
    for (unsigned i = 0; i < MAX_CODES; i++)
        p->starts[i] = kind == 1 ? i == first : !map || map[i / 8] >> (i % 8) & 1;
}

static int make(struct pattern *p, const struct pattern_syntax *s, struct err *e)
{
    struct code_list *list = xcalloc(1, sizeof *list);
    p->codes = xcalloc(UNICODE_END, 1);
    int rc = assign_codes(p->codes, list, s, e);
    if (rc == 0)
        rc = compile(p, s, list, e);
    if (rc == 0)
        find_starts(p);
    free(list);
    return rc;
}

int pattern_new(struct pattern **out, const char *pattern, struct err *e)
{
    struct pattern *p = xcalloc(1, sizeof *p);
    struct pattern_syntax *s = xcalloc(1, sizeof *s);
    int rc = pattern_syntax_read(s, pattern, e);
    if (rc == 0)
        rc = make(p, s, e);
    if (rc != 0)
        pattern_free(&p);
    pattern_syntax_release(s);
    free(s);
    *out = p;
    return rc;
}

int pattern_new_text(struct pattern **out, const char *text, struct err *e)
{
    struct buffer escaped = {0};
    for (; *text; text++) {
        if (strchr("\\^$.|?*+()[]{}", *text))
            buffer_text(&escaped, "\\");
        buffer_append(&escaped, text, 1);
    }
    buffer_append(&escaped, "", 1);
    int rc = pattern_new(out, (const char *)escaped.at, e);
    buffer_release(&escaped);
    return rc;
}

void pattern_free(struct pattern **out)
{
    struct pattern *p = *out;
    if (!p)
        return;
    pcre2_code_free(p->compiled);
    free(p->codes);
    free(p);
    *out = NULL;
}

struct pattern_matcher *pattern_matcher_new(void)
{
    struct pattern_matcher *m = xcalloc(1, sizeof *m);
    m->context = pcre2_match_context_create(NULL);
    m->found = pcre2_match_data_create(1, NULL);
    if (!m->context || !m->found)
        die(EX_OSERR, "out of memory: a pattern's matches");
    pcre2_set_heap_limit(m->context, HEAP_KIB);
    return m;
}

void pattern_matcher_free(struct pattern_matcher **out)
{
    struct pattern_matcher *m = *out;
    if (!m)
        return;
    buffer_release(&m->coded);
    pcre2_match_context_free(m->context);
    pcre2_match_data_free(m->found);
    free(m);
    *out = NULL;
}

/* ---- matching ---- */

void pattern_begin(struct pattern_matcher *m, const struct pattern *p, struct slice text)
{
    unsigned bytes;
    m->pattern = p;
    m->text = text;
    m->at = m->byte = 0;
    m->coded.len = 0;
    uint8_t *out = buffer_reserve(&m->coded, text.len), *end = out;
    for (size_t i = 0; i < text.len; i += bytes)
        *end++ = p->codes[unicode_decode(text.at + i, &bytes)];
    m->coded.len = (size_t)(end - out);
    m->steps = STEPS + STEPS_PER_CHARACTER * (uint64_t)m->coded.len;
}

/* Matches at m->at. Returns 1 and *end in characters, 0, or a negative code of PCRE2. */
static int match_here(struct pattern_matcher *m, size_t *end)
{
    uint64_t steps = FIRST_STEPS;
    for (;;) {
        pcre2_set_match_limit(m->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
        int rc = pcre2_match(m->pattern->compiled, m->coded.at, m->coded.len, m->at,
            PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, m->found, m->context);
        if (rc == PCRE2_ERROR_NOMATCH)
            return 0;
        if (rc >= 0) {
            *end = pcre2_get_ovector_pointer(m->found)[1];
            return 1;
        }
        if (rc != PCRE2_ERROR_MATCHLIMIT || steps > m->steps)
            return rc;
        m->steps -= steps;
        steps *= 16;
    }
}

/* Moves on by n characters. */
static void move_on(struct pattern_matcher *m, size_t n)
{
    unsigned bytes;
    for (; n > 0; n--, m->at++, m->byte += bytes)
        unicode_decode(m->text.at + m->byte, &bytes);
}

int pattern_next(struct pattern_matcher *m, struct span *match, struct err *e)
{
    size_t end;
    for (; m->at < m->coded.len; move_on(m, 1)) {
        if (!m->pattern->starts[m->coded.at[m->at]])
            continue;
        int rc = match_here(m, &end);
        if (rc == 0)
            continue;
        if (rc < 0)
            return err_set(e, ASSAY_EBADTEXT,
                "byte %zu: the tokenizer's pattern takes too many steps or too much memory here",
                m->byte);
        match->begin = m->byte;
        move_on(m, end - m->at);
        match->end = m->byte;
        return 1;
    }
    return 0;
}
