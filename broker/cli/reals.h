/* reals.h - shortens real numbers in JSON without changing their values. */
#ifndef ASSAY_REALS_H
#define ASSAY_REALS_H

/* Replaces each real number in the JSON text, which must be printed with 17 digits, by the shortest
 * form that reads back as the same double. Works in place. */
void reals_shorten(char *json);

#endif
