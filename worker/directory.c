/* directory.c - looks which sets of weights are there, and refuses those that contradict each
 * other (directory.h). */
#include "worker/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "schema/json.h"

#define INDEX_MAX_BYTES (100u << 20)
#define DIGITS "[0-9][0-9][0-9][0-9][0-9]"

/* Finds the first name in the directory that matches, for messages. */
static int find_name(const char *dir, const char *pattern, char name[256])
{
    DIR *d = opendir(dir);
    const struct dirent *entry;
    int found = 0;
    while (d && !found && (entry = readdir(d)))
        if (fnmatch(pattern, entry->d_name, FNM_PERIOD) == 0) {
            snprintf(name, 256, "%s", entry->d_name);
            found = 1;
        }
    if (d)
        closedir(d);
    return found;
}

static int has(const char *dir, const char *pattern)
{
    char name[256];
    return find_name(dir, pattern, name);
}

static int has_adapter(const char *dir)
{
    return has(dir, "adapter_config.json") &&
           (has(dir, "adapter_model.safetensors") || has(dir, "adapter_model.bin"));
}

/* Says what was found instead of the missing file, and what to do. */
static int refuse_instead(const char *dir, const char *missing, struct err *e)
{
    static const struct {
        const char *pattern, *advice;
    } others[] = {
        {"adapter_model.*",
            "an adapter alone; expected a whole model: give its base, and the adapter "
            "with --lora NAME=DIR, or merge it into the base (peft: "
            "merge_and_unload, then save_pretrained)"},
        {"model-" DIGITS "-of-" DIGITS ".safetensors",
            "a shard without its index; expected " WEIGHTS_INDEX_FILE " beside it: fetch that too"},
        {"model.*.safetensors", "a variant; expected " WEIGHTS_SINGLE_FILE
                                ": load it in transformers with variant=, then save_pretrained"},
        {"*.gguf", "GGUF; expected the original checkpoint, with config.json and safetensors"},
        {"*.bin", "PyTorch's format; expected safetensors: load it in transformers, then "
                  "save_pretrained"},
        {"*.pt*", "PyTorch's format; expected safetensors: load it in transformers, then "
                  "save_pretrained"},
        {"consolidated*.safetensors",
            "its publisher's own format; expected the one for transformers"},
    };
    char name[256];
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (find_name(dir, others[i].pattern, name))
            return err_set(e, ASSAY_EFORMAT, "%s/%s: not found; found %s: %s", dir, missing, name,
                others[i].advice);
    return err_set(e, ASSAY_EFORMAT,
        "%s/%s: not found; expected a checkpoint's directory, with config.json and safetensors",
        dir, missing);
}

int directory_no_config(const char *dir, struct err *e)
{
    return refuse_instead(dir, "config.json", e);
}

/* Returns 1 if the index places every tensor in model.safetensors, 0 if not, or an error. */
static int index_names_single(const char *dir, struct err *e)
{
    json_t *index = json_read_file(dir, WEIGHTS_INDEX_FILE, INDEX_MAX_BYTES, e), *value;
    json_t *map = json_object_get(index, "weight_map");
    const char *tensor;
    int same = json_object_size(map) > 0;
    if (!index)
        return ASSAY_EFORMAT;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        same &= name && strcmp(name, WEIGHTS_SINGLE_FILE) == 0;
    }
    json_decref(index);
    return same;
}

static void date_of(const char *dir, const char *name, char text[32])
{
    char path[4096];
    struct stat st;
    struct tm tm;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (stat(path, &st) != 0 || !gmtime_r(&st.st_mtim.tv_sec, &tm) ||
        strftime(text, 32, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        snprintf(text, 32, "an unknown date");
}

static int refuse_both(const char *dir, struct err *e)
{
    char single[32], index[32];
    date_of(dir, WEIGHTS_SINGLE_FILE, single);
    date_of(dir, WEIGHTS_INDEX_FILE, index);
    return err_set(e, ASSAY_EFORMAT,
        "%s: two sets of weights: " WEIGHTS_SINGLE_FILE " (of %s) and " WEIGHTS_INDEX_FILE
        " (of %s), which names other files; say which with --weights single (what transformers "
        "takes) or --weights index, or move the other away",
        dir, single, index);
}

static int refuse_beside(const char *dir, struct err *e)
{
    char name[256];
    if (has_adapter(dir))
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s: an adapter (adapter_config.json) beside the model, which transformers adds to it "
            "where peft is installed: merge it (peft: merge_and_unload), or move it away to score "
            "without it",
            dir);
    if (find_name(dir, "shard-" DIGITS "-model-" DIGITS "-of-" DIGITS ".safetensors", name))
        return err_set(e, ASSAY_EUNSUPPORTED,
            "%s/%s: a shard of a distributed checkpoint, which transformers would read in place of "
            "the others; expected the model saved whole",
            dir, name);
    return 0;
}

int directory_choose(
    const char *dir, const char *choice, enum weights_from *from, int *decided, struct err *e)
{
    int single = has(dir, WEIGHTS_SINGLE_FILE), index = has(dir, WEIGHTS_INDEX_FILE), same = 0,
        chosen = strcmp(choice, "auto") != 0, rc = refuse_beside(dir, e);
    *decided = 0;
    *from = index ? FROM_INDEX : FROM_SINGLE;
    if (rc != 0)
        return rc;
    if (strcmp(choice, "single") == 0 ? !single : strcmp(choice, "index") == 0 && !index)
        return err_set(e, ASSAY_EFORMAT, "%s: --weights %s: expected %s, found none", dir, choice,
            strcmp(choice, "index") == 0 ? WEIGHTS_INDEX_FILE : WEIGHTS_SINGLE_FILE);
    if (!single && !index)
        return refuse_instead(dir, WEIGHTS_SINGLE_FILE, e);
    if (chosen)
        *from = strcmp(choice, "index") == 0 ? FROM_INDEX : FROM_SINGLE;
    if (!single || !index)
        return 0;
    if (!chosen && (same = index_names_single(dir, e)) == 0)
        return refuse_both(dir, e);
    *decided = chosen;
    return same < 0 ? same : 0;
}
