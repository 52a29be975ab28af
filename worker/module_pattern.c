/* module_pattern.c - see module_pattern.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "worker/module_pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define MOST_STEPS 100000 /* of a match: a few milliseconds; the usual ones take a hundred */

struct module_pattern {
    pcre2_code *code;
    pcre2_match_context *limits;
    pcre2_match_data *data;
};

/* A quantifier to one of Python and PCRE2 (whose releases differ), and text to the other: {,n}, and
 * one with spaces. */
static int is_doubtful_brace(const char *p)
{
    size_t n = strspn(p + 1, "0123456789, \t");
    return p[1] == ',' || (p[1 + n] == '}' && strcspn(p + 1, " \t") < n);
}

/* Where the two read the expression differently, or NULL. In a set, [:word:] and the like are
 * classes to PCRE2 alone. */
static const char *find_doubtful(const char *text)
{
    int in_set = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '\\' && p[1]) {
            p++;
        } else if (in_set) {
            if (*p == '[' && p[1] && strchr(":.=", p[1]))
                return p;
            in_set = *p != ']';
        } else if (*p == '[') {
            in_set = 1;
            p += p[1] == '^';
            p += p[1] == ']';
        } else if (*p == '{' && is_doubtful_brace(p)) {
            return p;
        }
    }
    return NULL;
}

struct module_pattern *module_pattern_new(const char *text, enum module_part part, size_t *at)
{
    int why;
    const char *doubtful = find_doubtful(text);
    if (doubtful) {
        *at = (size_t)(doubtful - text);
        return NULL;
    }
    uint32_t options = PCRE2_UTF | PCRE2_ANCHORED | (part == MODULE_WHOLE ? PCRE2_ENDANCHORED : 0);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, options, &why, at, NULL);
    if (!code)
        return NULL;
    struct module_pattern *p = xcalloc(1, sizeof *p);
    *p = (struct module_pattern){
        code, pcre2_match_context_create(NULL), pcre2_match_data_create(1, NULL)};
    if (!p->limits || !p->data)
        die(EX_OSERR, "out of memory: a pattern for names of modules");
    pcre2_set_match_limit(p->limits, MOST_STEPS);
    return p;
}

void module_pattern_free(struct module_pattern **out)
{
    struct module_pattern *p = *out;
    if (!p)
        return;
    pcre2_code_free(p->code);
    pcre2_match_context_free(p->limits);
    pcre2_match_data_free(p->data);
    free(p);
    *out = NULL;
}

int module_pattern_matches(struct module_pattern *p, const char *name)
{
    int rc = pcre2_match(p->code, (PCRE2_SPTR)name, strlen(name), 0, 0, p->data, p->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    return rc >= 0 ? 1 : rc;
}
