/* reserve.c - room on the disk: whether there is enough for more work, and the reserve files, which
 * hold back space for results of accepted work and for a purge. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "broker/store/private.h"
#include "schema/clock.h"

#define MUCH_BYTES (1ull << 30) /* several times what a log has */
#define ROOM_MS 100             /* how old an answer about the disk's room may be */

static const char *const reserves[STORE_RESERVES] = {"reserve", "reserve-purge"};

static void reserve_path(const struct store *s, int which, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", s->dir, reserves[which]);
}

int store_reserve_remove(struct store *s, int which)
{
    char path[4200];
    reserve_path(s, which, path, sizeof path);
    return unlink(path) == 0;
}

static uint64_t free_bytes(const struct store *s)
{
    struct statvfs v;
    /* A file system that has no blocks at all does not say. */
    return statvfs(s->dir, &v) == 0 && v.f_blocks > 0 ? (uint64_t)v.f_bavail * v.f_frsize
                                                      : UINT64_MAX;
}

int64_t store_free_bytes(const struct store *s)
{
    uint64_t bytes = free_bytes(s);
    return bytes < INT64_MAX ? (int64_t)bytes : -1;
}

void store_reserve_make(struct store *s, int which, uint64_t least)
{
    char path[4200];
    struct stat st;
    uint64_t bytes = s->options.reserve_bytes;
    reserve_path(s, which, path, sizeof path);
    if (bytes == 0 || (stat(path, &st) == 0 && (uint64_t)st.st_size >= bytes) ||
        free_bytes(s) < least)
        return;
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (posix_fallocate(fd, 0, (off_t)bytes) != 0)
        unlink(path);
    close(fd);
}

int store_check_room(struct store *s, uint64_t bytes, struct err *e)
{
    long long now_ms = now_mono_ms();
    if (bytes <= s->room / 4 && now_ms < s->room_ms) {
        s->room -= 4 * bytes;
        return 0;
    }
    /* What is in the WAL will need room in the database as well. */
    uint64_t left = free_bytes(s);
    uint64_t wanted = s->options.min_free_bytes + 4 * bytes + store_wal_bytes(s);
    /* With room to spare the file system is asked only now and then: half of the excess is
     * granted. */
    s->room = left > wanted ? (left - wanted) / 2 : 0;
    s->room_ms = now_ms + ROOM_MS;
    if (left >= wanted)
        return 0;
    err_set(e, ASSAY_EQUEUEFULL,
        "disk of %s: expected %llu bytes free, found %llu; accepted work goes on", s->dir,
        (unsigned long long)wanted, (unsigned long long)left);
    if (e)
        e->retry_after_ms = 5000;
    return ASSAY_EQUEUEFULL;
}

int store_free_reserve(struct store *s)
{
    return store_reserve_remove(s, 0);
}

void store_free_room_to_purge(struct store *s)
{
    store_reserve_remove(s, 0);
    store_reserve_remove(s, 1);
}

int store_is_out_of_room(const struct store *s)
{
    return s->late || free_bytes(s) < s->options.reserve_bytes;
}

int store_has_much_room(const struct store *s)
{
    uint64_t left = free_bytes(s), least = s->options.min_free_bytes;
    return left >= least && left - least >= MUCH_BYTES;
}
