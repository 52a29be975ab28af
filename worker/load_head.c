/* load_head.c - the places of the head's tensors, and heads that are put together from rows.
 *
 * A head's last product is a linear layer. Most heads are that as they lie in the file. Others are
 * made in float32 on the host when the checkpoint is loaded, so that nothing else is to be done to
 * the numbers: rows of a language model's head (two of them may become their difference), and a row
 * with OpenRLHF's mean and standard deviation:
 *     (w h - mean) / std = (w / std) h - mean / std */
#include "worker/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/log.h"

/* Adds the place of a tensor of the head; `part` is what follows the head's name. */
static void add_head_place(struct loader *l, const char *part, struct place place)
{
    char name[PLACE_NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", l->m->config.head_name, part);
    load_add_place(l, -1, name, place);
}

static void *add_head_bias(struct loader *l, const char *part)
{
    const struct model_config *c = &l->m->config;
    void *bias = load_new_vector(l, c->n_labels, DTYPE_F32);
    add_head_place(l, part,
        (struct place){.rows = c->n_labels, .vector = bias, .is_labels = c->head->n_labels == 0});
    return bias;
}

static void add_mlp_head(struct loader *l)
{
    struct parallel_linear *first = &l->m->score.first, *second = &l->m->score.second;
    int64_t h = l->m->config.hidden_size, n = l->m->config.n_labels;
    first->n_parts = 1;
    first->skip_bias_add = 1; /* relu adds it */
    first->bias = load_new_vector(l, h / l->m->n_ranks, DTYPE_F32);
    add_head_place(l, "0.weight", (struct place){h, h, CUT_ROWS, .view = first->parts});
    add_head_place(l, "0.bias", (struct place){h, 0, CUT_ROWS, .vector = first->bias});
    add_head_place(l, "2.weight",
        (struct place){n, h, CUT_COLUMNS, .view = second->parts,
            .is_labels = l->m->config.head->n_labels == 0});
    second->bias = add_head_bias(l, "2.bias");
}

static void add_linear_head(struct loader *l)
{
    const struct model_config *c = &l->m->config;
    struct reward_head *head = &l->m->score;
    struct place place = {
        c->n_labels, c->hidden_size, CUT_NONE, .is_labels = c->head->n_labels == 0};
    place.view = head->second.parts;
    if (c->std > 0 && !l->elsewhere) {
        head->rows = xcalloc(c->hidden_size, sizeof *head->rows);
        place.picked = head->rows;
        place.n_picks = 1;
    }
    add_head_place(l, "weight", place);
    if (c->head_bias)
        head->second.bias = add_head_bias(l, "bias");
}

/* A tied head's rows are the embedding's, which the last pipeline stage reads for them alone. Where
 * there is a head in the file all the same, its rows follow them in head->rows. */
static void add_token_head(struct loader *l, struct place *embedding)
{
    const struct model_config *c = &l->m->config;
    struct reward_head *head = &l->m->score;
    size_t numbers = (size_t)c->tokens.n * c->hidden_size;
    struct place place = {c->vocab_size, c->hidden_size, CUT_NONE, .n_picks = c->tokens.n,
        .picks = {c->tokens.ids[0], c->tokens.ids[1]}, .is_optional = c->tie_word_embeddings};
    if (l->elsewhere) {
        load_add_place(l, -1, "lm_head.weight", place);
        return;
    }
    place.picked = head->rows = xcalloc(2 * numbers, sizeof *head->rows);
    if (c->tie_word_embeddings) {
        embedding->picked = head->rows;
        embedding->n_picks = place.n_picks;
        memcpy(embedding->picks, place.picks, sizeof place.picks);
        place.picked += numbers;
    }
    load_add_place(l, -1, "lm_head.weight", place);
}

void load_add_head(struct loader *l, struct place *embedding)
{
    enum head_kind kind = l->m->config.head->kind;
    l->m->score.mlp = kind == HEAD_MLP;
    l->m->score.second.n_parts = 1;
    if (kind == HEAD_MLP)
        add_mlp_head(l);
    else if (kind == HEAD_TOKENS)
        add_token_head(l, embedding);
    else
        add_linear_head(l);
}

/* transformers 4 ties a head whatever the file has, 5 only one that is the same. */
static int check_tied(struct loader *l, struct err *e)
{
    const struct model_config *c = &l->m->config;
    size_t numbers = (size_t)c->tokens.n * c->hidden_size;
    const float *rows = l->m->score.rows;
    const struct place *own = load_find_place(l, "lm_head.weight");
    if (!c->tie_word_embeddings || !own || !own->from ||
        memcmp(rows, rows + numbers, numbers * sizeof *rows) == 0)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: tensor '%.80s': its rows differ from the embedding's, which contradicts "
        "tie_word_embeddings: expected no such tensor, the same rows, or tie_word_embeddings false",
        own->from_file, own->from);
}

static int normalize(struct loader *l, struct err *e)
{
    const struct model_config *c = &l->m->config;
    struct reward_head *head = &l->m->score;
    float std = (float)c->std, bias = -(float)c->mean / std;
    head->second.bias = load_new_vector(l, 1, DTYPE_F32);
    if (!head->second.bias)
        return err_set(e, ASSAY_ENOMEM, "weights: no memory for the head's bias");
    for (uint32_t i = 0; i < c->hidden_size; i++)
        head->rows[i] /= std;
    l->m->ops->device->upload(l->m->device, head->second.bias, &bias, sizeof bias);
    return 0;
}

int load_finish_head(struct loader *l, struct err *e)
{
    const struct model_config *c = &l->m->config;
    struct reward_head *head = &l->m->score;
    if (!head->rows)
        return 0;
    int is_difference = c->tokens.how == TOKENS_DIFFERENCE || c->tokens.how == TOKENS_SOFTMAX,
        rc = c->tokens.n > 0 ? check_tied(l, e) : normalize(l, e);
    for (uint32_t i = 0; is_difference && i < c->hidden_size; i++)
        head->rows[i] -= head->rows[c->hidden_size + i];
    head->second.parts[0] = (struct weight){.data = head->rows,
        .dtype = DTYPE_F32,
        .rows = c->n_labels,
        .cols = c->hidden_size,
        .stride = c->hidden_size,
        .factors = DTYPE_F32};
    return rc;
}
