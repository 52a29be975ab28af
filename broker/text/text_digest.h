/* text_digest.h - what a checkpoint's text becomes tokens by, beside the files that its digest is of: part of a
 * score's mode, so that a job's rows are all of one reading. */
#ifndef ASSAY_TEXT_DIGEST_H
#define ASSAY_TEXT_DIGEST_H

#define TEXT_DIGEST_HEX 9

/* Eight hex digits over the contents of tokenizer_config.json, special_tokens_map.json, added_tokens.json and the
 * chat templates' files of DIR, and the template's name where one was asked for (else NULL). "" where there is
 * nothing of that, or no tokenizer. */
void text_digest(char hex[TEXT_DIGEST_HEX], const char *dir, const char *template_name);

#endif
