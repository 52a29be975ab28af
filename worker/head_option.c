/* head_option.c - see head_option.h. */
#include "worker/head_option.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t n; /* tokens; 0: one or two */
} ways[] = {{"raw", 0}, {"sigmoid", 1}, {"difference", 2}, {"softmax", 2}};

/* Reads a number of digits alone; returns what follows it, or NULL. */
static const char *read_id(const char *text, uint32_t *id)
{
    char *end;
    if (*text < '0' || *text > '9')
        return NULL;
    unsigned long long value = strtoull(text, &end, 10);
    *id = (uint32_t)value;
    return value <= INT32_MAX ? end : NULL;
}

static int read_way(struct head_tokens *t, const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, ways[i].name) == 0 && (ways[i].n == 0 || ways[i].n == t->n)) {
            t->how = (enum token_score)i;
            return 1;
        }
    return 0;
}

static int read_option(struct head_tokens *t, const char *text)
{
    if (strncmp(text, "lm:", 3) != 0 || !(text = read_id(text + 3, &t->ids[0])))
        return 0;
    t->n = 1;
    if (*text == ',') {
        t->n = 2;
        if (!(text = read_id(text + 1, &t->ids[1])) || t->ids[0] == t->ids[1])
            return 0;
    }
    return *text == ':' && read_way(t, text + 1);
}

int head_option_parse(struct head_tokens *t, const char *text, struct err *e)
{
    *t = (struct head_tokens){0};
    if (!read_option(t, text))
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--head: expected auto, or of a language model lm:ID:raw, lm:ID:sigmoid, lm:ID,ID:raw, "
            "lm:ID,ID:difference or lm:ID,ID:softmax with two token ids that differ, found '%.80s'",
            text);
    const char *how = ways[t->how].name;
    if (t->n == 2)
        snprintf(t->text, sizeof t->text, "lm:%u,%u:%s", t->ids[0], t->ids[1], how);
    else
        snprintf(t->text, sizeof t->text, "lm:%u:%s", t->ids[0], how);
    return 0;
}
