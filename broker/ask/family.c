/* family.c - see family.h. */
#include "broker/ask/family.h"

#include <string.h>

const struct family family_classify = {"classify", ask_classify, answer_classify};
const struct family family_embeddings = {"embd", ask_embeddings, answer_embeddings};
const struct family family_pooling = {"pooling", ask_pooling, answer_pooling};
const struct family family_score = {"score", ask_score, answer_score};
const struct family family_rerank = {"rerank", ask_rerank, answer_rerank};
const struct family family_get_reward = {"reward", ask_get_reward, answer_get_reward};
const struct family family_rm = {"rm", ask_rm, answer_rm};

#define PATH(path, family, arguments) {path, &family},

static const struct {
    const char *path;
    const struct family *family;
} paths[] = {FAMILY_PATHS(PATH)};

const struct family *family_find(const char *path)
{
    for (size_t k = 0; k < sizeof paths / sizeof paths[0]; k++)
        if (strcmp(paths[k].path, path) == 0)
            return paths[k].family;
    return NULL;
}
