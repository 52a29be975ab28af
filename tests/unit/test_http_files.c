/* test_http_files.c - the folder of --files, and the lines of a batch's input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/http/batch_lines.h"
#include "broker/http/files.h"

static int make_folder(void **state)
{
    char *path = strdup("/tmp/assay-files-XXXXXX");
    *state = path;
    return sodium_init() < 0 || !mkdtemp(path) ? -1 : 0;
}

static int remove_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", (char *)*state);
    free(*state);
    *state = NULL;
    return system(command);
}

static struct folder *open_folder(const char *path)
{
    struct folder *folder;
    struct err e = {0};
    if (folder_open(&folder, path, &e) != 0)
        fail_msg("%s", e.msg);
    return folder;
}

static int exists(const char *path, const char *name)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", path, name);
    return access(whole, F_OK) == 0;
}

static void ids_are_what_they_are(void **state)
{
    char id[FOLDER_ID_BYTES], again[FOLDER_ID_BYTES];
    (void)state;
    folder_new_id(id, FOLDER_FILE);
    assert_true(folder_is_id(id, FOLDER_FILE) && !folder_is_id(id, FOLDER_BATCH));
    folder_new_id(again, FOLDER_FILE);
    assert_string_not_equal(id, again);
    folder_id_of(id, FOLDER_BATCH, "a");
    folder_id_of(again, FOLDER_BATCH, "a");
    assert_string_equal(id, again);
    static const char *const none[] = {"", "file-", "file-0", "../lock",
        "file-../../../../../../../etc/passwd12", "file-0123456789abcdef0123456789abcdeF",
        "file-0123456789abcdef0123456789abcdef0", "batch_0123456789abcdef0123456789abcdef"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_false(folder_is_id(none[i], FOLDER_FILE));
}

static void a_file_is_whole_or_absent(void **state)
{
    struct folder *folder = open_folder(*state), *other;
    char temporary[FOLDER_NAME_BYTES], id[FOLDER_ID_BYTES];
    struct err e = {0};
    assert_int_equal(folder_open(&other, *state, &e), ASSAY_EBUSY);
    assert_null(other);
    folder_new_id(id, FOLDER_FILE);
    int fd = folder_temporary(folder, temporary, &e);
    assert_true(fd >= 0 && exists(*state, temporary) && write(fd, "abc", 3) == 3);
    assert_int_equal(folder_keep(folder, fd, temporary, id, &e), 0);
    assert_true(!exists(*state, temporary) && exists(*state, id));
    close(fd);
    fd = folder_temporary(folder, temporary, &e);
    close(fd);
    assert_int_equal(folder_read(folder, "file-none", &e), ASSAY_EGONE);
    folder_close(&folder);
    /* a file without a record, and a temporary one, are what a cut left behind */
    folder = open_folder(*state);
    assert_false(exists(*state, temporary) || exists(*state, id));
    folder_close(&folder);
}

static void a_folder_of_others_is_refused(void **state)
{
    struct folder *folder;
    struct err e = {0};
    assert_int_equal(chmod(*state, 0750), 0);
    assert_int_equal(folder_open(&folder, *state, &e), ASSAY_EUNAUTHORIZED);
    assert_non_null(strstr(e.msg, "chmod 700"));
    assert_int_equal(folder_open(&folder, "/dev/null", &e), ASSAY_EFORMAT);
    assert_int_equal(folder_open(&folder, "/tmp/no/such/folder", &e), ASSAY_EFORMAT);
}

static int n_syncs;

/* In place of the library's. */
int fsync(int fd)
{
    n_syncs++;
    return (int)syscall(SYS_fsync, fd);
}

static json_t *add_file_for(struct files *files, struct folder *folder, const char *id,
    const char *text, int64_t expires_after_s)
{
    char temporary[FOLDER_NAME_BYTES];
    struct err e = {0};
    json_t *object = NULL;
    int fd = folder_temporary(folder, temporary, &e);
    assert_true(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    struct file_new file = {.id = id,
        .name = "a.jsonl",
        .purpose = "batch",
        .bytes = (int64_t)strlen(text),
        .expires_after_s = expires_after_s};
    assert_int_equal(files_add(files, &file, fd, temporary, &object, &e), 0);
    close(fd);
    return object;
}

static json_t *add_file(
    struct files *files, struct folder *folder, const char *id, const char *text)
{
    return add_file_for(files, folder, id, text, 0);
}

/* The time of a file that a batch reads may be over: it stays until the batch is. */
static void a_file_in_use_does_not_expire(void **state)
{
    struct folder *folder = open_folder(*state);
    struct files *files;
    struct err e = {0};
    int64_t bytes;
    char id[FOLDER_ID_BYTES];
    assert_int_equal(files_new(&files, folder, 100, &e), 0);
    json_t *object = add_file_for(files, folder, "", "abc", 1);
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(object, "id")));
    json_decref(object);
    files_hold(files, id);
    sleep(2);
    files_expire(files);
    int fd = files_open(files, &asker_own, id, &bytes, &e);
    assert_true(fd >= 0 && bytes == 3);
    close(fd);
    files_release(files, id);
    assert_int_equal(files_open(files, &asker_own, id, &bytes, &e), ASSAY_EGONE);
    files_expire(files);
    assert_false(exists(*state, id));
    files_free(&files);
    folder_close(&folder);
}

static void files_are_there_after_a_start(void **state)
{
    struct folder *folder = open_folder(*state);
    struct files *files;
    struct err e = {0};
    int64_t bytes;
    char id[FOLDER_ID_BYTES];
    json_t *reply = NULL;
    assert_int_equal(files_new(&files, folder, 100, &e), 0);
    json_t *object = add_file(files, folder, "", "abc");
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(object, "id")));
    json_decref(object);
    files_free(&files);
    folder_close(&folder);
    folder = open_folder(*state);
    assert_int_equal(files_new(&files, folder, 100, &e), 0);
    int fd = files_open(files, &asker_own, id, &bytes, &e);
    assert_true(fd >= 0 && bytes == 3);
    close(fd);
    files_hold(files, id);
    assert_int_equal(files_delete(files, &asker_own, id, &reply, &e), ASSAY_ESTATE);
    files_release(files, id);
    n_syncs = 0;
    assert_int_equal(files_delete(files, &asker_own, id, &reply, &e), 0);
    assert_int_equal(n_syncs, 1); /* what is said to be deleted stays so */
    json_decref(reply);
    assert_int_equal(files_delete(files, &asker_own, id, &reply, &e), ASSAY_EGONE);
    assert_false(exists(*state, id));
    /* one with an id of its own takes the place of the one before */
    folder_id_of(id, FOLDER_FILE, "output");
    json_decref(add_file(files, folder, id, "first"));
    json_decref(add_file(files, folder, id, "second one"));
    fd = files_open(files, &asker_own, id, &bytes, &e);
    assert_int_equal(bytes, 10);
    close(fd);
    files_free(&files);
    folder_close(&folder);
}

static void names_are_shown_and_never_used(void **state)
{
    static const char *const wrong[] = {"", ".", "..", "a/b", "a\\b", "a\nb", "\xff", "a\x7f"};
    struct err e = {0};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(files_check_name(wrong[i], &e), ASSAY_EBADREQ);
    assert_int_equal(files_check_name("requests \xc3\xa9.jsonl", &e), 0);
}

static void lists_have_pages(void **state)
{
    json_t *all = json_object();
    struct err e = {0};
    char id[24];
    (void)state;
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof id, "%d", i);
        json_object_set_new(all, id,
            json_pack("{s:s, s:i, s:s}", "id", id, "created_at", i, "purpose", i % 2 ? "a" : "b"));
    }
    json_t *page = page_of_objects(all, &(struct page_of){.limit = 2, .after = "3"}, &e);
    assert_string_equal(json_string_value(json_object_get(page, "first_id")), "2");
    assert_string_equal(json_string_value(json_object_get(page, "last_id")), "1");
    assert_true(json_is_true(json_object_get(page, "has_more")));
    json_decref(page);
    page =
        page_of_objects(all, &(struct page_of){.limit = 9, .purpose = "a", .is_ascending = 1}, &e);
    assert_int_equal(json_array_size(json_object_get(page, "data")), 2);
    assert_true(json_is_false(json_object_get(page, "has_more")));
    json_decref(page);
    assert_null(page_of_objects(all, &(struct page_of){.limit = 2, .after = "9"}, &e));
    assert_string_equal(e.field, "after");
    page = page_of_objects(all, &(struct page_of){.limit = 2, .after = "0"}, &e);
    assert_int_equal(json_array_size(json_object_get(page, "data")), 0);
    assert_true(json_is_null(json_object_get(page, "first_id")));
    json_decref(page);
    json_decref(all);
}

static void lines_lie_where_newlines_end_them(void **state)
{
    static const char text[] =
        "\xef\xbb\xbf{}\n\n \t\r\n{]\r\n  {\"a\":1}\n" /* no newline at the end: */
        "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/score\",\"body\":{}}";
    struct batch_lines lines;
    struct batch_line line;
    struct err e = {0};
    const char *code;
    (void)state;
    int fd = memfd_create("lines", MFD_CLOEXEC);
    assert_true(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    assert_int_equal(batch_lines_open(&lines, fd, 100, &e), 0);
    assert_int_equal(lines.n, 4);
    static const uint32_t numbers[] = {1, 4, 5, 6};
    for (int k = 0; k < 4; k++)
        assert_int_equal(lines.places[k].number, numbers[k]);
    assert_int_equal(batch_lines_read(&lines, 0, "/score", &line, &code, &e), ASSAY_EBADREQ);
    assert_string_equal(code, "missing_required_parameter"); /* JSON, without its mark */
    batch_line_release(&line);
    assert_int_equal(batch_lines_read(&lines, 1, "/score", &line, &code, &e), ASSAY_EBADREQ);
    assert_string_equal(code, "invalid_json_line");
    batch_line_release(&line);
    assert_int_equal(batch_lines_read(&lines, 2, "/score", &line, &code, &e), ASSAY_EBADREQ);
    assert_string_equal(code, "unknown_parameter");
    batch_line_release(&line);
    assert_int_equal(batch_lines_read(&lines, 3, "/score", &line, &code, &e), 0);
    assert_string_equal(line.custom_id, "a");
    batch_line_release(&line);
    assert_int_equal(batch_lines_read(&lines, 3, "/v", &line, &code, &e), ASSAY_EBADREQ);
    assert_string_equal(code, "invalid_url");
    batch_line_release(&line);
    lines.max_bytes = 10;
    assert_int_equal(batch_lines_read(&lines, 3, "/score", &line, &code, &e), ASSAY_ETOOLARGE);
    batch_line_release(&line);
    batch_lines_release(&lines);
}

static json_t *list_of(struct files *files, const struct asker *asker)
{
    struct page_of page = {.limit = 10, .asker = asker};
    struct err e = {0};
    json_t *list = files_list(files, &page, &e);
    assert_non_null(list);
    return list;
}

static size_t n_seen(struct files *files, const struct asker *asker)
{
    json_t *list = list_of(files, asker);
    size_t n = json_array_size(json_object_get(list, "data"));
    json_decref(list);
    return n;
}

static void add_file_of(struct files *files, struct folder *folder, const char *owner, char *id)
{
    char temporary[FOLDER_NAME_BYTES];
    struct err e = {0};
    json_t *object = NULL;
    int fd = folder_temporary(folder, temporary, &e);
    struct file_new file = {.id = "", .name = "a.jsonl", .purpose = "batch", .owner = owner};
    assert_int_equal(files_add(files, &file, fd, temporary, &object, &e), 0);
    assert_null(json_object_get(object, OBJECT_OWNER));
    snprintf(id, FOLDER_ID_BYTES, "%s", json_string_value(json_object_get(object, "id")));
    json_decref(object);
    close(fd);
}

/* Also after a start. One without an owner is there for those who see all. */
static void files_are_their_makers(void **state)
{
    static const struct asker trainer = {"trainer", 0}, other = {"train", 0}, ops = {"ops", 1},
                              nobody = {NULL, 0};
    struct folder *folder = open_folder(*state);
    struct files *files;
    struct err e = {0};
    char own[FOLDER_ID_BYTES], none[FOLDER_ID_BYTES];
    int64_t bytes;
    json_t *reply = NULL;
    assert_int_equal(files_new(&files, folder, 100, &e), 0);
    add_file_of(files, folder, "trainer", own);
    add_file_of(files, folder, NULL, none);
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(n_seen(files, &trainer), 1);
        assert_int_equal(n_seen(files, &other), 0);
        assert_int_equal(n_seen(files, &nobody), 0);
        assert_int_equal(n_seen(files, &ops), 2);
        assert_null(files_get(files, &other, own, &e));
        assert_int_equal(e.code, ASSAY_EGONE);
        assert_null(files_get(files, &trainer, none, &e));
        assert_int_equal(files_open(files, &other, own, &bytes, &e), ASSAY_EGONE);
        assert_int_equal(files_delete(files, &other, own, &reply, &e), ASSAY_EGONE);
        json_t *object = files_get(files, &trainer, own, &e);
        assert_non_null(object);
        assert_null(json_object_get(object, OBJECT_OWNER));
        json_decref(object);
        files_free(&files);
        assert_int_equal(files_new(&files, folder, 100, &e), 0);
    }
    assert_int_equal(files_delete(files, &trainer, own, &reply, &e), 0);
    json_decref(reply);
    files_free(&files);
    folder_close(&folder);
}

static void an_id_comes_once(void **state)
{
    struct seen *seen = seen_new(1000);
    char id[16];
    (void)state;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 1000; i++) {
            snprintf(id, sizeof id, "r%d", i);
            assert_int_equal(seen_add(seen, id), pass);
        }
    seen_free(&seen);
}

int main(void)
{
#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_what_they_are),
        IN_FOLDER(a_file_is_whole_or_absent),
        IN_FOLDER(a_folder_of_others_is_refused),
        IN_FOLDER(a_file_in_use_does_not_expire),
        IN_FOLDER(files_are_there_after_a_start),
        IN_FOLDER(files_are_their_makers),
        cmocka_unit_test(names_are_shown_and_never_used),
        cmocka_unit_test(lists_have_pages),
        cmocka_unit_test(lines_lie_where_newlines_end_them),
        cmocka_unit_test(an_id_comes_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
