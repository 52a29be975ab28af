/* family.h - the families of requests to score: how each is decoded and answered, and under which
 * paths clients post it. */
#ifndef ASSAY_ASK_FAMILY_H
#define ASSAY_ASK_FAMILY_H

#include "broker/ask/answers.h"
#include "broker/ask/ask.h"

struct family {
    const char *id; /* begins the reply's `id` */
    ask_decoder *decode;
    answer_writer *reply;
};

extern const struct family family_classify, family_embeddings, family_pooling, family_score,
    family_rerank, family_get_reward, family_rm;

/* X(path, family, arguments): arguments that may stand behind the path, as ?NAME=VALUE. */
#define FAMILY_PATHS(X)                                                                            \
    X("/classify", family_classify, NULL)                                                          \
    X("/v1/classify", family_classify, NULL)                                                       \
    X("/v1/embeddings", family_embeddings, NULL)                                                   \
    X("/pooling", family_pooling, NULL)                                                            \
    X("/v1/pooling", family_pooling, NULL)                                                         \
    X("/score", family_score, NULL)                                                                \
    X("/v1/score", family_score, NULL)                                                             \
    X("/rerank", family_rerank, NULL)                                                              \
    X("/v1/rerank", family_rerank, NULL)                                                           \
    X("/v2/rerank", family_rerank, NULL)                                                           \
    X("/get_reward", family_get_reward, NULL)                                                      \
    X("/rm", family_rm, "prompt")

/* NULL for a path that is none. */
const struct family *family_find(const char *path);

#endif
