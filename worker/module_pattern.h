/* module_pattern.h - a regular expression of a checkpoint's or an adapter's JSON file, tried on the
 * names of the model's modules: Python's re, as far as PCRE2 reads it alike. What is known to be
 * read otherwise is no pattern: {,n}, a quantifier with spaces, and [:word:] in a set. */
#ifndef ASSAY_MODULE_PATTERN_H
#define ASSAY_MODULE_PATTERN_H

#include <stddef.h>

struct module_pattern;

/* What of a name must match: re.match or re.fullmatch. */
enum module_part { MODULE_BEGINNING, MODULE_WHOLE };

/* NULL for what is no pattern to both; *at: where it fails, in bytes. */
struct module_pattern *module_pattern_new(const char *text, enum module_part part, size_t *at);
void module_pattern_free(struct module_pattern **p);
/* 1 or 0; negative if the pattern takes more steps than names this short give cause for. */
int module_pattern_matches(struct module_pattern *p, const char *name);

#endif
