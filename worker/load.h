/* load.h - what load.c, load_head.c and load_packed.c share: the list of places that the
 * checkpoint's tensors go to. Private to them. */
#ifndef ASSAY_LOAD_H
#define ASSAY_LOAD_H

#include "worker/layer_matrix.h"
#include "worker/qwen2.h"

#define PLACE_NAME_BYTES 96

enum cut { CUT_NONE, CUT_ROWS, CUT_COLUMNS, CUT_KV_ROWS };

struct place {
    int64_t rows, cols; /* whole, before the cut; cols 0: a vector of rows */
    enum cut cut;
    struct weight *view; /* a matrix goes here */
    void *vector;        /* or a vector, to this device memory */
    enum dtype vector_type;
    float *picked; /* and some rows of the matrix go here, in float32, back to back */
    uint32_t n_picks, picks[2];
    struct weight_tensor *raw;    /* or the tensor as it is stored */
    const char *stored;           /* what type it is of; NULL: a float type */
    int is_scalar;                /* one number, of shape [1], [] or [1, 1] */
    int is_optional;              /* nothing is missing if there is no such tensor */
    int is_elsewhere;             /* it belongs to another pipeline stage: checked, not read */
    int is_labels;                /* the number of rows is the config's number of labels */
    char name[PLACE_NAME_BYTES];  /* without "model." */
    const char *from, *from_file; /* the tensor that filled it; NULL: none yet */
};

struct packed_matrix; /* load_packed.c */

struct loader {
    struct qwen2_reward_model *m;
    struct packed_matrix *packed; /* owned; NULL: the layers are not quantized */
    size_t n_packed;
    struct place *places;
    size_t n, room;
    int elsewhere;    /* what is added now belongs to another pipeline stage */
    const char *file; /* the checkpoint's file that was read last, for messages */
    int has_files;    /* there is more than that one */
};

/* Adds the place of a tensor: of this layer, or with -1 of none. While l->elsewhere, it is filled
 * by the first tensor that fits, and nothing is kept of that. */
void load_add_place(struct loader *l, int layer, const char *name, struct place place);
/* The first row (or column) of this rank's part of `whole`, and how many. */
void load_cut(
    const struct qwen2_reward_model *m, enum cut cut, int64_t whole, int64_t *from, int64_t *n);
/* Takes device memory for a vector; NULL if there is none, which the loader reports when the vector
 * is to be filled. Takes none while l->elsewhere. */
void *load_new_vector(struct loader *l, int64_t n, enum dtype type);
/* The place of that name, once the places are sorted, or NULL. */
struct place *load_find_place(struct loader *l, const char *name);

/* Adds the places of the head's tensors. `embedding` is that of the embedding, before it is added:
 * a language model's head may be its rows. */
void load_add_head(struct loader *l, struct place *embedding);
/* Puts a head together whose rows were picked, once every place is filled. */
int load_finish_head(struct loader *l, struct err *e);

/* Adds the places of the tensors of a quantized matrix. */
void load_add_packed(struct loader *l, int layer, enum layer_matrix which, struct place place);
/* Makes the views of the quantized matrices, once every place is filled. */
int load_finish_packed(struct loader *l, struct err *e);
/* What the tables of so many layers' quantized matrices take of the device's memory, at most. */
size_t load_packed_bytes(const struct model_config *c, uint32_t n_layers);

#endif
