/* adapter_text.h - does a text mean the same for an adapter as for its base?
 *
 * Trainers save a tokenizer and a chat template beside an adapter, and whoever loads the adapter
 * with them writes rows so. Here all rows are written with the base's, so files that would write
 * them otherwise are refused. */
#ifndef ASSAY_ADAPTER_TEXT_H
#define ASSAY_ADAPTER_TEXT_H

#include "broker/text/compose.h"

/* Compares what is in the adapter's directory with the base's: the tokenizer (tokenizer_differs),
 * bos_token, eos_token and the tokens that a template names, the side on which a text that is too
 * long is cut, and the chat template unless --chat-template was given. What the directory lacks is
 * the base's. *max_length: how many tokens its files leave of a text that is cut
 * (side_truncation.h); 0: they set no limit. ASSAY_EFORMAT naming adapter, file and difference. */
int adapter_text_check(const struct text_model *base, const struct text_options *o,
    const char *name, const char *dir, uint32_t *max_length, struct err *e);

#endif
