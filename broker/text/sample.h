/* sample.h - a short row of each kind, which is written to find out whether rows of that kind can
 * be: whether the checkpoint, a recipe and the options have all that their text needs. */
#ifndef ASSAY_SAMPLE_H
#define ASSAY_SAMPLE_H

#include "broker/text/compose.h"

/* Writes a row of the kind, of RECIPE_ANSWERS, RECIPE_STEPS and RECIPE_QUERIES. Returns 0, or why
 * rows of this kind fail. m has a tokenizer. */
int sample_write(const struct text_model *m, unsigned kind, int32_t step_token, struct err *e);

#endif
