/* directory.h - decides which files of a directory are the checkpoint. A directory may hold several
 * sets of weights, and transformers and vLLM do not always pick the same one. An ambiguous
 * directory is refused, with the files' names and dates, unless --weights decides. */
#ifndef ASSAY_DIRECTORY_H
#define ASSAY_DIRECTORY_H

#include "schema/err.h"

#define WEIGHTS_SINGLE_FILE "model.safetensors"
#define WEIGHTS_INDEX_FILE "model.safetensors.index.json"
#define VALUE_HEAD_FILE "value_head.safetensors" /* LLaMA-Factory's, beside a language model */

enum weights_from { FROM_SINGLE, FROM_INDEX };

/* Finds the weights. `choice` is --weights: "auto", "single" or "index". *decided is 1 if both sets
 * exist, differ, and `choice` decided. ASSAY_EFORMAT if nothing decides between two sets, if an
 * adapter lies beside the model, or if there are no readable weights; the message says what is
 * there. */
int directory_choose(
    const char *dir, const char *choice, enum weights_from *from, int *decided, struct err *e);

/* Says what a directory without config.json seems to be. Always returns ASSAY_EFORMAT. */
int directory_no_config(const char *dir, struct err *e);

#endif
