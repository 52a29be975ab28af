/* doctor_data.c - `assay doctor` about the data directory: whose it is, what it lies on, how long a
 * sync takes there, and whether the clock goes with its database. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include "broker/cli/doctor.h"
#include "broker/store/store.h"
#include "schema/clock.h"

#define GIB (1024.0 * 1024.0 * 1024.0)
#define ROOM_LEAST (0.1 * GIB)
#define ROOM_ENOUGH (2 * GIB)
#define SYNCS 9
#define SYNC_SLOW_US 30000
#define SYNC_BYTES 8192
#define CLOCK_LEAST_MS 1704067200000 /* 2024: before this program was written */
#define CLOCK_SLACK_MS 60000

/* The directory, or the first above it that exists: where it will be made. */
static int open_nearest(char path[4096])
{
    int fd;
    while ((fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 && errno == ENOENT &&
           strcmp(path, "/") != 0 && strcmp(path, ".") != 0)
        memmove(path, dirname(path), strlen(path) + 1); /* dirname may give a constant */
    return fd;
}

static void look_at_owner(struct doctor *d, const char *dir)
{
    struct stat st;
    const char *advice = "it must be yours alone: chmod 700, chown, or choose another --data";
    if (stat(dir, &st) != 0 && errno == ENOENT)
        doctor_say(d, DOCTOR_OK, "data directory", NULL,
            "%s is not there: assayd makes it, for you alone", dir);
    else if (stat(dir, &st) != 0)
        doctor_say(d, DOCTOR_WRONG, "data directory", advice, "%s: %s", dir, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        doctor_say(d, DOCTOR_WRONG, "data directory", advice, "%s is no directory", dir);
    else if (st.st_uid != geteuid())
        doctor_say(d, DOCTOR_WRONG, "data directory", advice,
            "%s is user %u's, and this is user %u", dir, (unsigned)st.st_uid, (unsigned)geteuid());
    else
        doctor_say(d,
            st.st_mode & 022   ? DOCTOR_WRONG
            : st.st_mode & 055 ? DOCTOR_WARNING
                               : DOCTOR_OK,
            "data directory", advice, "%s, mode %04o", dir, (unsigned)st.st_mode & 07777);
}

/* SQLite's log needs shared memory between processes and locks that hold, which network file
 * systems do not give. */
static void look_at_file_system(struct doctor *d, int fd)
{
    static const struct {
        long magic;
        const char *name;
    } remote[] = {{0x6969, "NFS"}, {0xff534d42, "CIFS"}, {0xfe534d42, "SMB2"}, {0x01021997, "9p"},
        {0x65735546, "FUSE"}};
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0)
        return;
    for (size_t i = 0; i < sizeof remote / sizeof remote[0]; i++)
        if ((unsigned)fs.f_type == (unsigned)remote[i].magic) {
            doctor_say(d, i < 3 ? DOCTOR_WRONG : DOCTOR_WARNING, "file system",
                "a database may be damaged there: choose a --data on a local disk", "%s",
                remote[i].name);
            return;
        }
    if ((unsigned)fs.f_type == 0x01021994u)
        doctor_say(d, DOCTOR_WARNING, "file system", "choose a --data on a disk to keep jobs",
            "tmpfs: all is lost when the machine restarts");
    else
        doctor_say(d, DOCTOR_OK, "file system", NULL, "local, type %#lx", (unsigned long)fs.f_type);
}

static void look_at_room(struct doctor *d, int fd)
{
    struct statvfs v;
    if (fstatvfs(fd, &v) != 0)
        return;
    double room = (double)v.f_bavail * (double)v.f_frsize;
    doctor_say(d, doctor_grade(room, ROOM_LEAST, ROOM_ENOUGH), "disk",
        "free some (`assay purge`, assayd --retain); new work is refused below "
        "--min-free-bytes (64 MiB)",
        "%.1f GiB free", room / GIB);
}

static int by_time(const void *a, const void *b)
{
    long long x = *(const long long *)a, y = *(const long long *)b;
    return x < y ? -1 : x > y;
}

/* Times writes with a sync, in a file that has no name. Returns the median in us, or -1. */
static long long time_syncs(int dir)
{
    static const char page[SYNC_BYTES];
    long long times[SYNCS];
    int file = openat(dir, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600), ok = file >= 0;
    for (int i = 0; ok && i < SYNCS; i++) {
        long long began_us = now_mono_us();
        ok = pwrite(file, page, sizeof page, (off_t)i * SYNC_BYTES) == SYNC_BYTES &&
             fdatasync(file) == 0;
        times[i] = now_mono_us() - began_us;
    }
    int error = errno;
    if (file >= 0)
        close(file);
    errno = error;
    if (!ok)
        return -1;
    qsort(times, SYNCS, sizeof *times, by_time);
    return times[SYNCS / 2];
}

static void look_at_syncs(struct doctor *d, int fd)
{
    long long us = time_syncs(fd);
    if (us >= 0)
        doctor_say(d, us > SYNC_SLOW_US ? DOCTOR_WARNING : DOCTOR_OK, "sync",
            "an acknowledgement waits for one: take a disk with a protected write cache, or "
            "larger chunks",
            "%.2f ms for a page, the median of %d", (double)us / 1000, SYNCS);
    else if (errno == EOPNOTSUPP || errno == EISDIR)
        doctor_say(d, DOCTOR_WARNING, "sync", "look with another tool",
            "not measured: this file system has no unnamed files");
    else
        doctor_say(d, DOCTOR_WRONG, "sync", "look at the mount and its permissions",
            "cannot write there: %s", strerror(errno));
}

static void look_at_clock(struct doctor *d, const char *dir)
{
    const char *advice = "set it and keep it (NTP): ages of jobs are measured by it";
    struct timex t = {0};
    int64_t now_ms = now_wall_ms(), last_ms = 0;
    int state = adjtimex(&t);
    if (store_last_time(dir, &last_ms) == 0 && last_ms > now_ms + CLOCK_SLACK_MS)
        doctor_say(d, DOCTOR_WRONG, "clock", advice, "%" PRId64 " s behind what the database has",
            (last_ms - now_ms) / 1000);
    else if (now_ms < CLOCK_LEAST_MS)
        doctor_say(d, DOCTOR_WRONG, "clock", advice, "before 2024");
    else if (state == -1 || state == TIME_ERROR)
        doctor_say(d, DOCTOR_WARNING, "clock", advice, "not known to be synchronized");
    else
        doctor_say(d, DOCTOR_OK, "clock", NULL, "synchronized");
}

void doctor_look_at_data(struct doctor *d, const char *dir)
{
    char near[4096];
    look_at_owner(d, dir);
    snprintf(near, sizeof near, "%s", dir);
    int fd = open_nearest(near);
    if (fd >= 0) {
        look_at_file_system(d, fd);
        look_at_room(d, fd);
        look_at_syncs(d, fd);
        close(fd);
    }
    look_at_clock(d, dir);
}
