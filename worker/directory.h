/* directory.h - which of a directory's files are the checkpoint. transformers, vLLM and whoever saved
 * into a directory that was not empty do not always mean the same ones: what has two readings is
 * refused, by name and date, and --weights decides. */
#ifndef ASSAY_DIRECTORY_H
#define ASSAY_DIRECTORY_H

#include "schema/err.h"

#define WEIGHTS_SINGLE_FILE "model.safetensors"
#define WEIGHTS_INDEX_FILE "model.safetensors.index.json"

enum weights_from { FROM_SINGLE, FROM_INDEX };

/* Where the weights are. `choice` is --weights: "auto", "single" or "index". *decided is 1 where both
 * were there, not the same, and it decided. Else ASSAY_EFORMAT: two sets of weights and nothing that
 * decides, an adapter beside the model, or no weights that can be read, and what is there instead. */
int directory_choose(
    const char *dir, const char *choice, enum weights_from *from, int *decided, struct err *e);

/* For a directory without config.json: what it seems to be. Always ASSAY_EFORMAT. */
int directory_no_config(const char *dir, struct err *e);

#endif
