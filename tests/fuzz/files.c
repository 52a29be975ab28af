/* files.c - a directory of files that are written anew for each input (files.h). */
#include "tests/fuzz/files.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "schema/log.h"

static char dir[] = "/tmp/fuzz-files-XXXXXX";

static void remove_files(void)
{
    char path[320];
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        unlink(path); /* not of . and .. */
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

const char *fuzz_directory(void)
{
    static int made;
    if (made)
        return dir;
    if (!mkdtemp(dir) || atexit(remove_files) != 0)
        die(71, "event=no_directory");
    made = 1;
    log_init("fuzz", -1, LOG_LEVEL_ERROR);
    return dir;
}

void fuzz_write_file(const char *name, struct slice bytes)
{
    char path[320];
    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), name);
    unlink(path);
    if (bytes.len == 0)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t written = write(fd, bytes.at, bytes.len);
    assert(fd >= 0 && written == (ssize_t)bytes.len);
    close(fd);
}
