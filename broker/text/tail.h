/* tail.h - how a conversation ends, once the chat template has written it: trainers differ in the
 * token that LAST then reads. With ChatML a template ends in <|im_end|> and a newline.
 *
 *     none        as the template wrote it: LAST reads the newline
 *     strip       without newlines at its end: LAST reads <|im_end|>
 *     strip,eos   the same, and where it does not end in the tokenizer's eos_token, a space and
 *     that
 *                 behind it, as OpenRLHF does: LAST reads eos_token, which stays where a row is
 *                 cut */
#ifndef ASSAY_TAIL_H
#define ASSAY_TAIL_H

#include <jansson.h>

#include "broker/text/chat.h"

enum { TAIL_STRIP = 1, TAIL_EOS = 2 };

#define TAIL_NAMES "none strip strip,eos"

/* Returns the rules of that name, or -1. */
int tail_from_name(const char *name);
const char *tail_name(unsigned tail);
/* Changes the end of the text. tokens: tokenizer_texts. ASSAY_EBADTEXT where there is no
 * eos_token. */
int tail_apply(unsigned tail, struct chat_text *text, const json_t *tokens, struct err *e);

#endif
