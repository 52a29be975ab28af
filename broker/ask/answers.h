/* answers.h - replies with scores, in the form of each family of endpoints. A row that failed has
 * ended its request before (fault_of_rows), so every row has its values here. */
#ifndef ASSAY_ASK_ANSWERS_H
#define ASSAY_ASK_ANSWERS_H

#include "broker/ask/ask.h"

/* Each makes the reply to ask, whose rows have the results [ask->rows.n]. Returns 0 and *body, which
 * the caller releases, or ASSAY_EBADREQ when the rows have values that this form has no place
 * for. */
typedef int answer_writer(
    json_t **body, const struct ask *ask, const struct row_result *rows, struct err *e);

/* A reply as text, which the caller frees; NULL for NULL. Scores have at most nine digits, which read
 * back as the same float32. */
char *answer_text(const json_t *body);

answer_writer answer_classify; /* vLLM's, or SGLang's to its own body */
answer_writer answer_embeddings;
answer_writer answer_pooling;
answer_writer answer_score;
answer_writer answer_rerank;
answer_writer answer_get_reward;
answer_writer answer_rm;

#endif
