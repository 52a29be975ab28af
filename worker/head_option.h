/* head_option.h - --head: how a language model's logits become scores, where the checkpoint cannot
 * say it. "auto": as the checkpoint says. Else the logits of one token or two:
 *     lm:ID:raw                the logit
 *     lm:ID:sigmoid            its sigmoid
 *     lm:ID,ID:raw             both logits, two labels
 *     lm:ID,ID:difference      the first less the second
 *     lm:ID,ID:softmax         the first's probability of the two: the sigmoid of the difference */
#ifndef ASSAY_HEAD_OPTION_H
#define ASSAY_HEAD_OPTION_H

#include <stdint.h>

#include "schema/err.h"

#define HEAD_OPTION_BYTES 48

enum token_score { TOKENS_RAW, TOKENS_SIGMOID, TOKENS_DIFFERENCE, TOKENS_SOFTMAX };

struct head_tokens {
    uint32_t n; /* 1 or 2; 0: no such head */
    uint32_t ids[2];
    enum token_score how;
    char text[HEAD_OPTION_BYTES]; /* the option, written in one way */
};

/* ASSAY_EUNSUPPORTED with what is expected, unless `text` is one of the above but "auto". */
int head_option_parse(struct head_tokens *t, const char *text, struct err *e);

#endif
