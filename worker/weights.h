/* weights.h - a checkpoint's tensors, by a safetensors iterator over mapped files; its digest; and
 * whether the mapped files have changed since (weights_check).
 *
 * The format: u64 little-endian header length, a JSON header {name: {dtype, shape, data_offsets
 * [begin, end)}} with an optional __metadata__, then the bytes. Checked before anything is handed
 * out: header length (at most 100 MB and inside the file), JSON depth and duplicate keys, dtype
 * known, product of the shape (overflow-checked) times size equals end - begin, tensors cover the
 * data area without hole or overlap. Sharded checkpoints: model.safetensors.index.json's
 * weight_map, each name found in the shard it says, file names without a slash. Files are mapped
 * read-only and never copied; a tensor's data pointer lives until weights_close. */
#ifndef ASSAY_WEIGHTS_H
#define ASSAY_WEIGHTS_H

#include "schema/err.h"
#include "schema/identity.h"
#include "worker/ops.h"

#define WEIGHT_MAX_DIMS 4

struct weight_tensor {
    const char *name;       /* as in the file */
    const char *file;       /* file name, for messages */
    const char *dtype_name; /* as in the file, for messages */
    int dtype;              /* enum dtype, or -1 for a dtype that only ignored tensors may have */
    int n_dims;
    int64_t shape[WEIGHT_MAX_DIMS];
    const void *data;
    uint64_t bytes;
};

struct weights;

int weights_open(struct weights **w, const char *dir, struct err *e);
/* `choice`: "auto"; "single" or "index" if a directory has both (directory.h). */
int weights_open_chosen(struct weights **w, const char *dir, const char *choice, struct err *e);
/* One file of the directory. */
int weights_open_file(struct weights **w, const char *dir, const char *name, struct err *e);
/* "single" or "index" if the choice decided between two sets, else NULL. Part of a score's mode. */
const char *weights_decided(const struct weights *w);
void weights_close(struct weights **w);
/* Takes the next tensor, in file order: returns 1, or 0 at the end. */
int weights_next(struct weights *w, struct weight_tensor *t);
void weights_rewind(struct weights *w);
/* The dtype of the layers' matrices if they all have the same, else DTYPE_F32. Rewinds. */
enum dtype weights_dtype(struct weights *w);
/* The embedding's dtype; DTYPE_F32 where there is none of a float type. Rewinds. */
enum dtype weights_embedding_dtype(struct weights *w);
/* Drops the files' pages from this process; later reads come from the page cache. For use once most
 * of the data has been copied or quantized. */
void weights_drop(const struct weights *w);
uint64_t weights_bytes(const struct weights *w); /* sum of the tensors' bytes */

/* Returns 0 if the mapped files are unchanged since they were opened; ASSAY_EFORMAT if one was
 * written to, replaced or deleted. */
int weights_check(const struct weights *w, struct err *e);
/* Also checks that the names still lead to the same files. */
int weights_check_names(const struct weights *w, struct err *e);

/* Computes the BLAKE2b-256 over names and contents of the checkpoint's files (schema/identity.h),
 * as 64 hex digits, and the identity that the files had throughout. `cache_file` (may be NULL)
 * remembers the digest by identity. */
int checkpoint_digest(
    char hex[65], struct identity *id, const char *dir, const char *cache_file, struct err *e);
/* The same over an adapter's two files (lora.h). */
int adapter_digest(char hex[65], const char *dir, struct err *e);

#endif
