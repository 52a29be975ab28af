/* metrics_text.c - see metrics_text.h. */
#include "broker/http/metrics_text.h"

#include <inttypes.h>
#include <string.h>

void metrics_put_head(FILE *f, const char *name, const char *type, const char *help)
{
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_put_one(FILE *f, const char *name, const char *type, const char *help, int64_t value)
{
    metrics_put_head(f, name, type, help);
    fprintf(f, "%s %" PRId64 "\n", name, value);
}

void metrics_put_label(FILE *f, const char *name, const char *value)
{
    fprintf(f, "%s=\"", name);
    for (const char *at = value; *at; at++)
        fprintf(f, strchr("\"\\\n", *at) ? "\\%c" : "%c", *at == '\n' ? 'n' : *at);
    fputc('"', f);
}

/* The sum and the count, with their labels in braces if there are any. */
static void put_total(FILE *f, const char *name, const char *what, const char *labels)
{
    int n = (int)strlen(labels);
    if (n > 0)
        fprintf(f, "%s_%s{%.*s} ", name, what, n - 1, labels);
    else
        fprintf(f, "%s_%s ", name, what);
}

void metrics_put_histogram(
    FILE *f, const char *name, const char *labels, const struct metrics_histogram *h)
{
    uint64_t n = 0;
    for (int k = 0; k < h->n_bounds; k++)
        fprintf(
            f, "%s_bucket{%sle=\"%g\"} %" PRIu64 "\n", name, labels, h->bounds[k], n += h->n[k]);
    n += h->n[h->n_bounds];
    fprintf(f, "%s_bucket{%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, n);
    put_total(f, name, "sum", labels);
    fprintf(f, "%.6f\n", h->sum);
    put_total(f, name, "count", labels);
    fprintf(f, "%" PRIu64 "\n", n);
}
