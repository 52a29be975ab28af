/* model_path.c - says what a path that is no directory seems to be: a file, a name on the hub,
 * or nothing (model_path.h). */
#include "schema/model_path.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* Is it "owner/name", the form of names on the hub, and not "./name" or "/name"? */
static int is_hub_name(const char *path)
{
    const char *slash = strchr(path, '/');
    if (!slash || !isalnum((unsigned char)path[0]) || !isalnum((unsigned char)slash[1]))
        return 0;
    for (const char *c = path; *c; c++)
        if (c != slash && !isalnum((unsigned char)*c) && !strchr("._-", *c))
            return 0;
    return 1;
}

static int refuse_file(const char *path, struct err *e)
{
    const char *dot = strrchr(path, '.');
    if (dot && strcmp(dot, ".gguf") == 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: a GGUF file; expected the directory of the original checkpoint, with config.json "
            "and safetensors",
            path);
    return err_set(e, ASSAY_EFORMAT,
        "%s: a file; expected the directory that holds config.json and the weights", path);
}

int model_path_check(const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : refuse_file(path, e);
    if (errno == ENOENT && is_hub_name(path))
        return err_set(e, ASSAY_EFORMAT,
            "%s: no such directory, and nothing is downloaded; a model of the Hugging Face hub is "
            "fetched with `hf download %s --local-dir .%s` and given as .%s",
            path, path, strchr(path, '/'), strchr(path, '/'));
    return err_errno(e, ASSAY_EFORMAT, "%s: expected a checkpoint's directory", path);
}
