/* devices.c - finds the worker programs, reads their lists of GPUs, and gives each rank a device
 * (devices.h). */
#include "broker/workers/devices.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/workers/spawn.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define OUTPUT_BYTES (1u << 16)
#define LIST_LIMIT_MS 60000
#define CPU_BATCH_TOKENS 4096 /* if --max-batch-tokens is not given */
#define GPU_BATCH_TOKENS 8192

#define OLDEST_CAPABILITY 8

/* The GPUs that assay-worker-cuda listed, without those that are too old. */
struct found {
    json_t *root, *devices;
    int n;
    struct err too_old; /* why one was left out */
};

static const char *text_of(const json_t *device, const char *key)
{
    const char *text = json_string_value(json_object_get(device, key));
    return text ? text : "";
}

static int index_of(const json_t *device)
{
    return (int)json_integer_value(json_object_get(device, "index"));
}

static void pass_over_old(struct found *f)
{
    for (size_t i = json_array_size(f->devices); i-- > 0;) {
        const json_t *device = json_array_get(f->devices, i);
        const char *capability = text_of(device, "capability");
        if (atoi(capability) >= OLDEST_CAPABILITY)
            continue;
        err_set(&f->too_old, ASSAY_EUNSUPPORTED,
            "GPU %d (%s): expected compute capability %d.0 or newer, found %s", index_of(device),
            text_of(device, "name"), OLDEST_CAPABILITY, capability);
        json_array_remove(f->devices, i);
    }
}

static int take_list(struct found *f, const char *worker, const char *text, struct err *e)
{
    json_error_t why;
    f->root = json_loads(text, 0, &why);
    f->devices = json_object_get(f->root, "devices");
    const char *error = json_string_value(json_object_get(f->root, "error"));
    if (!json_is_array(f->devices))
        return err_set(e, ASSAY_EUNSUPPORTED, "%s --devices: not a list of devices", worker);
    pass_over_old(f);
    f->n = (int)json_array_size(f->devices);
    if (f->n == 0)
        return err_set(e, ASSAY_EUNSUPPORTED, "%s",
            error             ? error
            : f->too_old.code ? f->too_old.msg
                              : "no GPU");
    return 0;
}

/* Lists the GPUs. ASSAY_EUNSUPPORTED, in the driver's words, when there is none. */
static int list_gpus(struct found *f, const char *worker, struct err *e)
{
    char words[4096], *out = xcalloc(1, OUTPUT_BYTES);
    const char *argv[] = {worker, "--devices", NULL};
    int rc = child_output((char *const *)argv, (struct child_limits){LIST_LIMIT_MS, -1},
        (struct child_text){out, OUTPUT_BYTES}, (struct child_text){words, sizeof words}, e);
    if (rc > 0)
        rc = err_set(e, ASSAY_EUNSUPPORTED, "%s", child_last_line(words, "it does not start"));
    else if (rc == 0)
        rc = take_list(f, worker, out, e);
    free(out);
    return rc;
}

static const json_t *find_gpu(const struct found *f, int gpu)
{
    for (int i = 0; i < f->n; i++) {
        const json_t *device = json_array_get(f->devices, (size_t)i);
        if (index_of(device) == gpu)
            return device;
    }
    return NULL;
}

/* Lists all as "0 NVIDIA H100 80GB HBM3, 1 .." */
static void name_all(const struct found *f, char *text, size_t size)
{
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < f->n && n + 1 < size; i++) {
        const json_t *device = json_array_get(f->devices, (size_t)i);
        n += (size_t)snprintf(text + n, size - n, "%s%d %s", i ? ", " : "", index_of(device),
            text_of(device, "name"));
    }
}

static int check_kind(const struct found *f, const int *gpus, int n, struct err *e)
{
    char all[300];
    const json_t *first = find_gpu(f, gpus[0]);
    name_all(f, all, sizeof all);
    for (int i = 0; i < n; i++) {
        const json_t *device = find_gpu(f, gpus[i]);
        if (!device)
            return err_set(e, ASSAY_EUNSUPPORTED,
                "--devices: there is no GPU %d to use; found %s%s%s", gpus[i], all,
                f->too_old.code ? "; " : "", f->too_old.msg);
        if (strcmp(text_of(first, "name"), text_of(device, "name")) != 0)
            return err_set(e, ASSAY_EUNSUPPORTED,
                "GPU %d is %s, GPU %d is %s: expected one kind, since scores depend on it; choose "
                "with --devices",
                gpus[0], text_of(first, "name"), gpus[i], text_of(device, "name"));
    }
    return 0;
}

/* The GPUs of the first one's kind; returns how many, at most OPTIONS_MAX_GPUS. */
static int of_one_kind(const struct found *f, int *gpus)
{
    const char *kind = text_of(json_array_get(f->devices, 0), "name");
    int n = 0;
    for (int i = 0; i < f->n && n < OPTIONS_MAX_GPUS; i++) {
        const json_t *device = json_array_get(f->devices, (size_t)i);
        if (strcmp(text_of(device, "name"), kind) == 0)
            gpus[n++] = index_of(device);
    }
    return n;
}

/* As many copies as there are GPUs for. */
static int copies(int gpus, int ranks)
{
    int n = gpus / ranks;
    return n < 1 ? 1 : n > OPTIONS_MAX_REPLICAS ? OPTIONS_MAX_REPLICAS : n;
}

/* Gives each rank a GPU: those of --devices, or all of one kind. */
static int place(struct devices *d, struct options *o, const struct found *f, struct err *e)
{
    char all[300];
    int given = o->n_gpus, available = given ? given : f->n;
    int ranks = o->tp * o->pp, alike[OPTIONS_MAX_GPUS], n_alike = of_one_kind(f, alike);
    if (o->replicas == 0)
        o->replicas = given ? (given >= ranks ? given / ranks : 1) : copies(n_alike, ranks);
    if (o->max_batch_tokens == 0)
        o->max_batch_tokens = GPU_BATCH_TOKENS;
    int wanted = ranks * o->replicas;
    name_all(f, all, sizeof all);
    if (given ? given != wanted : available < wanted)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--tp %d --pp %d --replicas %d: expected %d GPUs, one for each rank, found %d%s (%s)",
            o->tp, o->pp, o->replicas, wanted, available, given ? " in --devices" : "", all);
    if (wanted > OPTIONS_MAX_GPUS || o->replicas > OPTIONS_MAX_REPLICAS)
        return err_set(e, ASSAY_EUNSUPPORTED, "--devices: expected at most %d copies, found %d",
            OPTIONS_MAX_REPLICAS, o->replicas);
    for (int i = 0; i < wanted; i++)
        d->gpus[i] = given               ? o->gpus[i]
                     : wanted <= n_alike ? alike[i]
                                         : index_of(json_array_get(f->devices, (size_t)i));
    int rc = check_kind(f, d->gpus, wanted, e);
    if (rc == 0)
        log_info("event=devices device=cuda used=%d of=%d tp=%d replicas=%d found=\"%s\"", wanted,
            f->n, o->tp, o->replicas, all);
    return rc;
}

static int choose_cuda(struct devices *d, struct options *o, struct err *e)
{
    struct found f = {0};
    char words[ERR_MESSAGE_BYTES];
    int rc = 0, must = o->device == DEVICE_CUDA || o->n_gpus > 0;
    if (o->worker)
        snprintf(d->worker, sizeof d->worker, "%s", o->worker);
    else
        rc = program_beside(d->worker, sizeof d->worker, "assay-worker-cuda", e);
    if (rc == 0 && access(d->worker, X_OK) != 0)
        rc = err_set(
            e, ASSAY_EUNSUPPORTED, "%s is not installed (`make CUDA=1` builds it)", d->worker);
    if (rc == 0)
        rc = list_gpus(&f, d->worker, e);
    d->cuda = rc == 0;
    snprintf(words, sizeof words, "%s", e->msg);
    if (rc == 0)
        rc = place(d, o, &f, e);
    else if (must)
        rc = err_set(e, rc, "--device cuda: %.400s", words);
    else
        log_info("event=devices device=cpu reason=\"%s\"", words);
    json_decref(f.root);
    return rc == 0 || d->cuda || must ? rc : 0;
}

int devices_choose(struct devices *d, struct options *o, struct err *e)
{
    int rc = 0;
    *d = (struct devices){.worker = ""};
    if (o->device == DEVICE_CUDA || (o->device == DEVICE_AUTO && (!o->worker || o->n_gpus > 0)))
        rc = choose_cuda(d, o, e);
    if (rc != 0 || d->cuda)
        return rc;
    *e = (struct err){0};
    if (o->replicas == 0)
        o->replicas = 1;
    if (o->max_batch_tokens == 0)
        o->max_batch_tokens = CPU_BATCH_TOKENS;
    if (o->worker)
        snprintf(d->worker, sizeof d->worker, "%s", o->worker);
    else
        rc = program_beside(d->worker, sizeof d->worker, "assay-worker", e);
    return rc;
}
