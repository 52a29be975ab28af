/* text_digest.h - a digest of the files that turn text into tokens and that the checkpoint's digest
 * leaves out. It is part of a score's mode, so that all rows of a job are tokenized alike. */
#ifndef ASSAY_TEXT_DIGEST_H
#define ASSAY_TEXT_DIGEST_H

#include "schema/err.h"

#define TEXT_DIGEST_HEX 9

/* Writes eight hex digits over tokenizer_config.json, special_tokens_map.json, added_tokens.json
 * and the chat template files in DIR, and over the template's name or the contents of its file if
 * one was requested, and the date for templates (else NULL). "" if there is none of these, or no
 * tokenizer. */
void text_digest(
    char hex[TEXT_DIGEST_HEX], const char *dir, const char *template_name, const char *date);
/* ASSAY_EFORMAT if it is another one by now: call it once the files have been read. */
int text_digest_check(
    const char *hex, const char *dir, const char *template_name, const char *date, struct err *e);

#endif
