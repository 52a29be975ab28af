/* suggest.c - see suggest.h. The distance of two words is the least number of letters to insert,
 * delete, change or swap with the next to turn one into the other. */
#include "schema/suggest.h"

#include <stdio.h>
#include <string.h>

#define LONGEST 40

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), d[LONGEST + 1][LONGEST + 1];
    if (n > LONGEST || m > LONGEST)
        return LONGEST;
    for (size_t i = 0; i <= n; i++)
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            d[i][j] = least(d[i - 1][j], d[i][j - 1]) + 1;
            d[i][j] = least(d[i][j], d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[n][m];
}

void suggestion_begin(struct suggestion *s, const char *typed)
{
    /* every third letter may be wrong, in a short word one */
    *s = (struct suggestion){.typed = typed, .distance = strlen(typed) / 3 + 1};
    if (s->distance < 2)
        s->distance = 2;
}

void suggestion_try(struct suggestion *s, const char *word)
{
    size_t found = distance(s->typed, word);
    if (found >= s->distance)
        return;
    s->distance = found;
    s->best = word;
}

const char *suggestion_text(
    const struct suggestion *s, const char *before, char *text, size_t text_bytes)
{
    text[0] = '\0';
    if (s->best)
        snprintf(text, text_bytes, "; did you mean %s%s?", before, s->best);
    return text;
}

/* ---- options ---- */

static const char *name_of(const struct option *list, int value)
{
    for (; list->name; list++)
        if (list->val == value)
            return list->name;
    return NULL;
}

static int count_beginning_with(const struct option *list, const char *word)
{
    int n = 0;
    for (; list->name; list++)
        n += strncmp(list->name, word, strlen(word)) == 0;
    return n;
}

static void explain_unknown(
    const struct option *list, const char *typed, char *text, size_t text_bytes)
{
    struct suggestion s;
    char word[LONGEST + 1], more[LONGEST + 40];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(typed, "="), typed);
    suggestion_begin(&s, word);
    for (const struct option *o = list; o->name; o++)
        suggestion_try(&s, o->name);
    int ambiguous = count_beginning_with(list, word) > 1;
    snprintf(text, text_bytes, "%s option --%s%s", ambiguous ? "ambiguous" : "unknown", word,
        suggestion_text(&s, "--", more, sizeof more));
}

void suggest_explain(
    const struct option *list, int found, char *const *argv, char *text, size_t text_bytes)
{
    const char *name = name_of(list, optopt), *typed = argv[optind - 1];
    int is_long = strncmp(typed, "--", 2) == 0;
    if (found == ':' && name)
        snprintf(text, text_bytes, "--%s: expected an argument, found none", name);
    else if (found == ':')
        snprintf(text, text_bytes, "-%c: expected an argument, found none", optopt);
    else if (name)
        snprintf(text, text_bytes, "--%s: expected no argument, found '%s'", name,
            strchr(typed, '=') ? strchr(typed, '=') + 1 : "");
    else if (optopt == 0 && is_long)
        explain_unknown(list, typed + 2, text, text_bytes);
    else
        snprintf(text, text_bytes, "unknown option -%c", optopt);
}
