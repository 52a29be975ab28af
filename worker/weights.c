/* weights.c - see weights.h. A checkpoint is a list of mapped files. Each file's header is parsed
 * once and its tensors are sorted by where they begin, which also finds holes and overlaps. */
#include "worker/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "schema/json.h"
#include "schema/regular.h"
#include "worker/directory.h"

#define HEADER_MAX_BYTES (100u << 20)
#define INDEX_MAX_BYTES (100u << 20)
#define MAX_FILES 4096

struct weight_file {
    char *path;
    int fd;         /* of the mapped file, -1: none */
    struct stat st; /* when it was opened */
    uint8_t *map;
    uint64_t bytes;
    json_t *header; /* owns the names */
    struct weight_tensor *tensors;
    size_t n_tensors;
};

struct weights {
    struct weight_file *files;
    size_t n_files;
    size_t file, tensor; /* the iterator */
    const char *decided;
};

static const struct {
    const char *name;
    int dtype;
    uint64_t bytes;
} dtypes[] = {{"F32", DTYPE_F32, 4}, {"F16", DTYPE_F16, 2}, {"BF16", DTYPE_BF16, 2}, {"F64", -1, 8},
    {"I64", -1, 8}, {"I32", -1, 4}, {"I16", -1, 2}, {"I8", -1, 1}, {"U8", -1, 1}, {"BOOL", -1, 1},
    {"F8_E4M3", -1, 1}, {"F8_E5M2", -1, 1}, {"F8_E8M0", -1, 1}, {"U16", -1, 2}, {"U32", -1, 4},
    {"U64", -1, 8}, {"C64", -1, 8}};

static int bad(const struct weight_file *f, const char *name, struct err *e, const char *what)
{
    return err_set(e, ASSAY_EFORMAT, "%s: tensor '%.120s': %s", f->path, name, what);
}

static int read_dtype(const struct weight_file *f, const char *name, const json_t *entry,
    struct weight_tensor *t, uint64_t *element_bytes, struct err *e)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    for (size_t i = 0; dtype && i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) {
            t->dtype = dtypes[i].dtype;
            t->dtype_name = dtypes[i].name;
            *element_bytes = dtypes[i].bytes;
            return 0;
        }
    return err_set(e, ASSAY_EFORMAT,
        "%s: tensor '%.120s': dtype: expected F32, F16 or BF16, found '%.40s'", f->path, name,
        dtype ? dtype : "no string");
}

/* Fills n_dims, shape and bytes = element_bytes * product, overflow-checked. */
static int read_shape(const struct weight_file *f, const char *name, const json_t *entry,
    struct weight_tensor *t, uint64_t element_bytes, struct err *e)
{
    const json_t *shape = json_object_get(entry, "shape");
    uint64_t bytes = element_bytes;
    if (!json_is_array(shape) || json_array_size(shape) > WEIGHT_MAX_DIMS)
        return bad(f, name, e, "shape: expected a list of at most 4 numbers");
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *n = json_array_get(shape, (size_t)i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return bad(f, name, e, "shape: expected numbers of 0 or more");
        t->shape[i] = json_integer_value(n);
        if (__builtin_mul_overflow(bytes, (uint64_t)t->shape[i], &bytes))
            return bad(f, name, e, "shape: the size overflows 64 bits");
    }
    t->bytes = bytes;
    return 0;
}

static int read_tensor(struct weight_file *f, const char *name, const json_t *entry,
    uint64_t data_at, struct weight_tensor *t, struct err *e)
{
    uint64_t element_bytes = 0;
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return bad(f, name, e, "expected dtype, shape and data_offsets");
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return bad(f, name, e, "data_offsets: expected [begin, end]");
    int rc = read_dtype(f, name, entry, t, &element_bytes, e);
    if (rc == 0)
        rc = read_shape(f, name, entry, t, element_bytes, e);
    if (rc != 0)
        return rc;
    uint64_t from = (uint64_t)json_integer_value(begin), to = (uint64_t)json_integer_value(end);
    if (to - from != t->bytes)
        return err_set(e, ASSAY_EFORMAT,
            "%s: tensor '%.120s': expected %llu bytes from its shape, found %llu", f->path, name,
            (unsigned long long)t->bytes, (unsigned long long)(to - from));
    if (to > f->bytes - data_at)
        return err_set(e, ASSAY_EFORMAT,
            "%s: tensor '%.120s': truncated: expected data up to byte %llu of the file, which has "
            "%llu",
            f->path, name, (unsigned long long)(data_at + to), (unsigned long long)f->bytes);
    t->name = name;
    t->file = f->path;
    t->data = f->map + data_at + from;
    return 0;
}

static int by_begin(const void *a, const void *b)
{
    const struct weight_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Checks that the tensors, sorted by begin, cover the data area exactly. */
static int check_cover(const struct weight_file *f, uint64_t data_at, struct err *e)
{
    const uint8_t *expected = f->map + data_at;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct weight_tensor *t = &f->tensors[i];
        if (t->data != expected)
            return bad(f, t->name, e,
                (const uint8_t *)t->data < expected ? "overlaps the tensor before it"
                                                    : "leaves a hole before it");
        expected += t->bytes;
    }
    if (expected != f->map + f->bytes)
        return err_set(e, ASSAY_EFORMAT,
            "%s: expected the tensors to end with the file, found %llu bytes more", f->path,
            (unsigned long long)(f->map + f->bytes - expected));
    return 0;
}

static int read_tensors(struct weight_file *f, uint64_t data_at, struct err *e)
{
    const char *name;
    json_t *entry;
    f->tensors = xcalloc(json_object_size(f->header), sizeof *f->tensors);
    json_object_foreach(f->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        int rc = read_tensor(f, name, entry, data_at, &f->tensors[f->n_tensors], e);
        if (rc != 0)
            return rc;
        f->n_tensors++;
    }
    qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_begin);
    return check_cover(f, data_at, e);
}

static int parse_file(struct weight_file *f, struct err *e)
{
    uint64_t header_bytes;
    json_error_t why;
    if (f->bytes < 8)
        return err_set(e, ASSAY_EFORMAT, "%s: expected a safetensors file, found %llu bytes",
            f->path, (unsigned long long)f->bytes);
    if (regular_is_pointer(f->map, f->bytes))
        return regular_refuse_pointer(f->path, e);
    memcpy(&header_bytes, f->map, sizeof header_bytes);
    if (header_bytes > HEADER_MAX_BYTES || header_bytes > f->bytes - 8)
        return err_set(e, ASSAY_EFORMAT, "%s: header: expected at most %llu bytes, found %llu",
            f->path,
            (unsigned long long)(f->bytes - 8 < HEADER_MAX_BYTES ? f->bytes - 8 : HEADER_MAX_BYTES),
            (unsigned long long)header_bytes);
    f->header = json_loadb((const char *)f->map + 8, header_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(f->header))
        return err_set(e, ASSAY_EFORMAT, "%s: header: not a JSON object: %s", f->path,
            f->header ? "" : why.text);
    return read_tensors(f, 8 + header_bytes, e);
}

static int open_file(struct weights *w, const char *dir, const char *name, struct err *e)
{
    struct weight_file *f = &w->files[w->n_files++];
    size_t bytes = strlen(dir) + strlen(name) + 2;
    f->path = xcalloc(1, bytes);
    snprintf(f->path, bytes, "%s/%s", dir, name);
    f->fd = regular_open(f->path, &f->st, e);
    if (f->fd < 0)
        return f->fd;
    f->bytes = (uint64_t)f->st.st_size;
    f->map = f->bytes > 0 ? mmap(NULL, f->bytes, PROT_READ, MAP_SHARED, f->fd, 0) : NULL;
    if (f->map == MAP_FAILED) {
        f->map = NULL;
        return err_errno(e, ASSAY_EFORMAT, "%s: cannot map it", f->path);
    }
    return parse_file(f, e);
}

static const struct weight_tensor *find_in_file(const struct weight_file *f, const char *name)
{
    for (size_t i = 0; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i].name, name) == 0)
            return &f->tensors[i];
    return NULL;
}

static struct weight_file *find_file(struct weights *w, const char *dir, const char *name)
{
    size_t at = strlen(dir) + 1;
    for (size_t i = 0; i < w->n_files; i++)
        if (strcmp(w->files[i].path + at, name) == 0)
            return &w->files[i];
    return NULL;
}

/* Opens each shard that weight_map names and checks that every tensor is in the shard named for
 * it. */
static int open_shards(struct weights *w, const char *dir, const json_t *map, struct err *e)
{
    const char *tensor;
    json_t *value;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s/model.safetensors.index.json: weight_map: expected an object", dir);
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || name[0] == '.')
            return err_set(e, ASSAY_EFORMAT,
                "%s/model.safetensors.index.json: weight_map['%.120s']: expected a file name, "
                "found '%.80s'",
                dir, tensor, name ? name : "no string");
        if (!find_file(w, dir, name)) {
            if (w->n_files == MAX_FILES)
                return err_set(e, ASSAY_EFORMAT, "%s: expected at most %d shards", dir, MAX_FILES);
            int rc = open_file(w, dir, name, e);
            if (rc != 0)
                return rc;
        }
        if (!find_in_file(find_file(w, dir, name), tensor))
            return err_set(e, ASSAY_EFORMAT,
                "%s/%s: tensor '%.120s': expected here by the index, found missing", dir, name,
                tensor);
    }
    return 0;
}

/* It belongs to the checkpoint: model_config_load refuses one that nothing is scored with. */
static int has_value_head(const char *dir)
{
    char path[4200];
    snprintf(path, sizeof path, "%.4000s/" VALUE_HEAD_FILE, dir);
    return regular_exists(path);
}

int weights_open_chosen(struct weights **out, const char *dir, const char *choice, struct err *e)
{
    struct weights *w = xcalloc(1, sizeof *w);
    enum weights_from from;
    int decided, rc = directory_choose(dir, choice, &from, &decided, e);
    w->files = xcalloc(MAX_FILES, sizeof *w->files);
    *out = w;
    if (rc == 0 && from == FROM_SINGLE) {
        rc = open_file(w, dir, WEIGHTS_SINGLE_FILE, e);
    } else if (rc == 0) {
        json_t *index = json_read_file(dir, WEIGHTS_INDEX_FILE, INDEX_MAX_BYTES, e);
        rc = index ? open_shards(w, dir, json_object_get(index, "weight_map"), e) : ASSAY_EFORMAT;
        json_decref(index);
    }
    if (rc == 0 && has_value_head(dir) && !find_file(w, dir, VALUE_HEAD_FILE))
        rc = open_file(w, dir, VALUE_HEAD_FILE, e);
    w->decided = decided ? from == FROM_SINGLE ? "single" : "index" : NULL;
    if (rc != 0)
        weights_close(out);
    return rc;
}

int weights_open_file(struct weights **out, const char *dir, const char *name, struct err *e)
{
    struct weights *w = *out = xcalloc(1, sizeof *w);
    w->files = xcalloc(1, sizeof *w->files);
    int rc = open_file(w, dir, name, e);
    if (rc != 0)
        weights_close(out);
    return rc;
}

int weights_open(struct weights **out, const char *dir, struct err *e)
{
    return weights_open_chosen(out, dir, "auto", e);
}

const char *weights_decided(const struct weights *w)
{
    return w->decided;
}

void weights_close(struct weights **out)
{
    struct weights *w = *out;
    if (!w)
        return;
    for (size_t i = 0; i < w->n_files; i++) {
        if (w->files[i].map)
            munmap(w->files[i].map, w->files[i].bytes);
        if (w->files[i].fd >= 0)
            close(w->files[i].fd);
        json_decref(w->files[i].header);
        free(w->files[i].tensors);
        free(w->files[i].path);
    }
    free(w->files);
    free(w);
    *out = NULL;
}

int weights_next(struct weights *w, struct weight_tensor *t)
{
    while (w->file < w->n_files && w->tensor == w->files[w->file].n_tensors) {
        w->file++;
        w->tensor = 0;
    }
    if (w->file == w->n_files)
        return 0;
    *t = w->files[w->file].tensors[w->tensor++];
    return 1;
}

void weights_rewind(struct weights *w)
{
    w->file = w->tensor = 0;
}

enum dtype weights_dtype(struct weights *w)
{
    struct weight_tensor t;
    int found = -1, mixed = 0;
    weights_rewind(w);
    while (weights_next(w, &t)) {
        if (t.n_dims != 2 || !strstr(t.name, "layers."))
            continue;
        mixed |= found >= 0 && found != t.dtype;
        found = t.dtype;
    }
    weights_rewind(w);
    return mixed || found < 0 ? DTYPE_F32 : (enum dtype)found;
}

enum dtype weights_embedding_dtype(struct weights *w)
{
    struct weight_tensor t;
    int found = -1;
    weights_rewind(w);
    while (weights_next(w, &t))
        if (strcmp(t.name, "model.embed_tokens.weight") == 0 ||
            strcmp(t.name, "embed_tokens.weight") == 0)
            found = t.dtype;
    weights_rewind(w);
    return found < 0 ? DTYPE_F32 : (enum dtype)found;
}

static int is_same(const struct stat *a, const struct stat *b)
{
    return regular_is_same(a, b) && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

int weights_check(const struct weights *w, struct err *e)
{
    struct stat now;
    for (size_t i = 0; i < w->n_files; i++)
        if (fstat(w->files[i].fd, &now) != 0 || !is_same(&now, &w->files[i].st))
            return err_set(e, ASSAY_EFORMAT, "%s: changed or replaced while the model is in use",
                w->files[i].path);
    return 0;
}

int weights_check_names(const struct weights *w, struct err *e)
{
    struct stat now;
    for (size_t i = 0; i < w->n_files; i++)
        if (stat(w->files[i].path, &now) != 0 || !is_same(&now, &w->files[i].st))
            return err_set(
                e, ASSAY_EFORMAT, "%s: changed or replaced while it was read", w->files[i].path);
    return weights_check(w, e);
}

void weights_drop(const struct weights *w)
{
    for (size_t i = 0; i < w->n_files; i++)
        if (w->files[i].map)
            madvise(w->files[i].map, w->files[i].bytes, MADV_DONTNEED);
}

uint64_t weights_bytes(const struct weights *w)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < w->n_files; i++)
        for (size_t k = 0; k < w->files[i].n_tensors; k++)
            bytes += w->files[i].tensors[k].bytes;
    return bytes;
}
