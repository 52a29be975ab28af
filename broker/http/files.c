/* files.c - see files.h. */
#include "broker/http/files.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "schema/utf8.h"

struct files {
    pthread_mutex_t lock;
    struct folder *folder;
    int64_t max_bytes;
    json_t *all;  /* ids and objects, the oldest first */
    json_t *uses; /* ids, and how many batches read them */
};

/* ---- owners ---- */

const char *object_owner(const json_t *object)
{
    return json_string_value(json_object_get(object, OBJECT_OWNER));
}

void object_set_owner(json_t *object, const char *owner)
{
    if (owner)
        json_object_set_new(object, OBJECT_OWNER, json_string(owner));
}

json_t *object_shown(const json_t *object)
{
    json_t *copy = object ? json_deep_copy(object) : NULL;
    if (copy)
        json_object_del(copy, OBJECT_OWNER);
    return copy;
}

/* ---- lists ---- */

static json_int_t created(const json_t *object)
{
    return json_integer_value(json_object_get(object, "created_at"));
}

struct by_age {
    const char *id;
    json_t *object;
};

static int compare(const void *a, const void *b)
{
    const struct by_age *x = a, *y = b;
    json_int_t first = created(x->object), second = created(y->object);
    return first != second ? (first > second) - (first < second) : strcmp(x->id, y->id);
}

json_t *objects_by_age(json_t *all)
{
    struct by_age *list = xcalloc(json_object_size(all) + 1, sizeof *list);
    json_t *sorted = json_object(), *object;
    const char *id;
    size_t n = 0;
    json_object_foreach(all, id, object)
    {
        list[n++] = (struct by_age){id, object};
    }
    qsort(list, n, sizeof *list, compare);
    for (size_t k = 0; k < n; k++)
        json_object_set(sorted, list[k].id, list[k].object);
    free(list);
    json_decref(all);
    return sorted;
}

static int is_wanted(const json_t *object, const struct page_of *page)
{
    const char *purpose = json_string_value(json_object_get(object, "purpose"));
    const json_t *expires = json_object_get(object, "expires_at");
    if (page->asker && !asker_sees(page->asker, object_owner(object)))
        return 0;
    if (page->purpose && (!purpose || strcmp(purpose, page->purpose) != 0))
        return 0;
    return !purpose || !json_is_integer(expires) || json_integer_value(expires) > time(NULL);
}

/* All that are wanted, in order. */
static json_t *select_of(const json_t *all, const struct page_of *page)
{
    json_t *list = json_array(), *object;
    const char *id;
    json_object_foreach((json_t *)all, id, object)
    {
        if (is_wanted(object, page))
            json_array_append(list, object);
    }
    size_t n = json_array_size(list);
    json_t *turned = json_array();
    for (size_t k = 0; k < n; k++)
        json_array_append(turned, json_array_get(list, page->is_ascending ? k : n - 1 - k));
    json_decref(list);
    return turned;
}

static json_t *id_at(const json_t *list, size_t k)
{
    json_t *id = json_object_get(json_array_get(list, k), "id");
    return id ? json_incref(id) : json_null();
}

json_t *page_of_objects(const json_t *all, const struct page_of *page, struct err *e)
{
    json_t *list = select_of(all, page), *data = json_array();
    size_t n = json_array_size(list), k = 0;
    const char *id;
    int is_found = !page->after;
    while (!is_found && k < n) {
        id = json_string_value(json_object_get(json_array_get(list, k++), "id"));
        is_found = id && strcmp(id, page->after) == 0;
    }
    for (; is_found && k < n && (json_int_t)json_array_size(data) < page->limit; k++)
        json_array_append_new(data, object_shown(json_array_get(list, k)));
    int has_more = k < n;
    json_decref(list);
    n = json_array_size(data);
    if (is_found)
        return json_pack("{s:s, s:o, s:o, s:o, s:b}", "object", "list", "data", data, "first_id",
            id_at(data, 0), "last_id", id_at(data, n > 0 ? n - 1 : 0), "has_more", has_more);
    json_decref(data);
    err_field(e, ASSAY_EBADREQ, "after", "`after`: expected the id of one in this list");
    return NULL;
}

/* ---- the files ---- */

static void load(void *arg, const char *id, const char *text)
{
    struct files *files = arg;
    struct err e = {0};
    json_t *object = json_loads(text, 0, NULL);
    int fd = folder_read(files->folder, id, &e);
    if (!json_is_object(object) || fd < 0)
        log_warn("event=file_ignored id=%s reason=\"%s\"", id, fd < 0 ? e.msg : "not JSON");
    else
        json_object_set(files->all, id, object);
    if (fd >= 0)
        close(fd);
    json_decref(object);
}

int files_new(struct files **out, struct folder *folder, int64_t max_bytes, struct err *e)
{
    struct files *files = xcalloc(1, sizeof *files);
    files->folder = folder;
    files->max_bytes = max_bytes;
    files->all = json_object();
    files->uses = json_object();
    pthread_mutex_init(&files->lock, NULL);
    int rc = folder_each(folder, FOLDER_FILE, load, files, e);
    files->all = objects_by_age(files->all);
    *out = files;
    if (rc != 0)
        files_free(out);
    return rc;
}

void files_free(struct files **out)
{
    struct files *files = *out;
    *out = NULL;
    if (!files)
        return;
    json_decref(files->all);
    json_decref(files->uses);
    pthread_mutex_destroy(&files->lock);
    free(files);
}

int64_t files_max_bytes(const struct files *files)
{
    return files->max_bytes;
}

int files_check_name(const char *name, struct err *e)
{
    size_t n = strlen(name);
    int is_fit = n > 0 && n < FILES_NAME_BYTES && !strchr(name, '/') && !strchr(name, '\\') &&
                 utf8_valid((const uint8_t *)name, n) == n;
    for (size_t k = 0; is_fit && k < n; k++)
        is_fit = (unsigned char)name[k] >= ' ' && name[k] != 127;
    if (is_fit && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
        return 0;
    return err_field(e, ASSAY_EBADREQ, "file",
        "`file`: expected a file name of 1 to %d bytes of UTF-8 without slashes and control "
        "characters, found '%.80s'",
        FILES_NAME_BYTES - 1, name);
}

int files_check_room(struct files *files, struct err *e)
{
    pthread_mutex_lock(&files->lock);
    size_t n = json_object_size(files->all);
    pthread_mutex_unlock(&files->lock);
    if (n < FILES_MOST)
        return 0;
    return err_set(e, ASSAY_ETOOLARGE,
        "expected at most %d files, found as many: delete some that are not needed", FILES_MOST);
}

static json_t *object_of(const struct file_new *file, const char *id)
{
    json_int_t now = (json_int_t)time(NULL);
    json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:s}", "id", id, "object", "file",
        "bytes", (json_int_t)file->bytes, "created_at", now, "filename", file->name, "purpose",
        file->purpose, "status", "processed");
    if (file->expires_after_s > 0)
        json_object_set_new(object, "expires_at", json_integer(now + file->expires_after_s));
    object_set_owner(object, file->owner);
    return object;
}

int files_add(struct files *files, const struct file_new *file, int fd, const char *temporary,
    json_t **out, struct err *e)
{
    char id[FOLDER_ID_BYTES], name[FOLDER_NAME_BYTES];
    if (file->id[0])
        snprintf(id, sizeof id, "%s", file->id);
    else
        folder_new_id(id, FOLDER_FILE);
    snprintf(name, sizeof name, "%s.json", id);
    json_t *object = object_of(file, id);
    char *text = json_dumps(object, JSON_COMPACT);
    int rc = text ? folder_keep(files->folder, fd, temporary, id, e)
                  : err_set(e, ASSAY_EINTERNAL, "the file's record cannot be written as JSON");
    if (rc == 0 && (rc = folder_write(files->folder, name, text, e)) != 0)
        folder_drop(files->folder, id);
    free(text);
    if (rc == 0) {
        pthread_mutex_lock(&files->lock);
        json_object_set(files->all, id, object);
        pthread_mutex_unlock(&files->lock);
        *out = object_shown(object);
    }
    json_decref(object);
    return rc;
}

/* Under the lock. NULL: it is not there, or its time is over. */
static json_int_t count_uses(const struct files *files, const char *id)
{
    return json_integer_value(json_object_get(files->uses, id));
}

static json_t *find(struct files *files, const struct asker *asker, const char *id, struct err *e)
{
    static const struct page_of any;
    json_t *object = folder_is_id(id, FOLDER_FILE) ? json_object_get(files->all, id) : NULL;
    /* one that a batch reads stays until that is over */
    if (object && asker_sees(asker, object_owner(object)) &&
        (is_wanted(object, &any) || count_uses(files, id) > 0))
        return object;
    err_field(e, ASSAY_EGONE, "id", "No such File object: %.60s", id);
    return NULL;
}

json_t *files_get(struct files *files, const struct asker *asker, const char *id, struct err *e)
{
    pthread_mutex_lock(&files->lock);
    json_t *object = object_shown(find(files, asker, id, e));
    pthread_mutex_unlock(&files->lock);
    return object;
}

int files_open(
    struct files *files, const struct asker *asker, const char *id, int64_t *bytes, struct err *e)
{
    pthread_mutex_lock(&files->lock);
    const json_t *object = find(files, asker, id, e);
    *bytes = json_integer_value(json_object_get(object, "bytes"));
    int fd = object ? folder_read(files->folder, id, e) : ASSAY_EGONE;
    pthread_mutex_unlock(&files->lock);
    return fd;
}

/* Under the lock. The record goes first: contents without one are removed at the next start. */
static void drop(struct files *files, const char *id)
{
    char name[FOLDER_NAME_BYTES], copy[FOLDER_ID_BYTES];
    snprintf(copy, sizeof copy, "%s", id); /* id may lie in the map */
    snprintf(name, sizeof name, "%s.json", copy);
    folder_drop(files->folder, name);
    folder_drop(files->folder, copy);
    json_object_del(files->all, copy);
}

int files_delete(
    struct files *files, const struct asker *asker, const char *id, json_t **reply, struct err *e)
{
    pthread_mutex_lock(&files->lock);
    int rc = find(files, asker, id, e) ? 0 : ASSAY_EGONE;
    if (rc == 0 && count_uses(files, id) > 0)
        rc = err_field(e, ASSAY_ESTATE, "id", "%s is being read by a batch: cancel that first", id);
    if (rc == 0)
        drop(files, id);
    pthread_mutex_unlock(&files->lock);
    if (rc == 0)
        rc = folder_sync(files->folder, e);
    if (rc == 0)
        *reply = json_pack("{s:s, s:s, s:b}", "id", id, "object", "file", "deleted", 1);
    return rc;
}

static void add_uses(struct files *files, const char *id, int more)
{
    pthread_mutex_lock(&files->lock);
    json_object_set_new(files->uses, id, json_integer(count_uses(files, id) + more));
    if (count_uses(files, id) <= 0)
        json_object_del(files->uses, id);
    pthread_mutex_unlock(&files->lock);
}

void files_hold(struct files *files, const char *id)
{
    add_uses(files, id, 1);
}

void files_release(struct files *files, const char *id)
{
    add_uses(files, id, -1);
}

void files_expire(struct files *files)
{
    static const struct page_of any;
    const char *id;
    json_t *object;
    void *next;
    struct err e = {0};
    int n = 0;
    pthread_mutex_lock(&files->lock);
    json_object_foreach_safe(files->all, next, id, object)
    {
        if (is_wanted(object, &any) || count_uses(files, id) > 0)
            continue;
        drop(files, id);
        n++;
    }
    pthread_mutex_unlock(&files->lock);
    if (n > 0 && folder_sync(files->folder, &e) != 0)
        log_warn("event=files_not_synced reason=\"%s\"", e.msg);
}

json_t *files_list(struct files *files, const struct page_of *page, struct err *e)
{
    pthread_mutex_lock(&files->lock);
    json_t *list = page_of_objects(files->all, page, e);
    pthread_mutex_unlock(&files->lock);
    return list;
}
