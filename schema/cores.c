/* cores.c - see cores.h.
 *
 * A quota may be set at any level, so the group's folder and all above it are checked. In a
 * container the group's path may be the host's, of which only the end is mounted: missing folders
 * are skipped, and the mount's own root always comes last. */
#include "schema/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CORES 65536

static long affinity(void)
{
    for (int n = 1024; n <= MAX_CORES; n *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        size_t bytes = CPU_ALLOC_SIZE((size_t)n);
        int found = set && sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        if (set)
            CPU_FREE(set);
        if (found > 0)
            return found;
    }
    return sysconf(_SC_NPROCESSORS_ONLN);
}

/* Reads the file's first line; "" when it cannot be read. */
static void read_words(const char *folder, const char *name, char *text, int text_bytes)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = n < (int)sizeof path ? fopen(path, "re") : NULL;
    if (!f || !fgets(text, text_bytes, f))
        text[0] = '\0';
    if (f)
        fclose(f);
}

/* Processors that one group's quota allows; 0: no limit there. */
static long quota_of(const char *folder, int is_v2)
{
    char quota[64], period[64];
    read_words(folder, is_v2 ? "cpu.max" : "cpu.cfs_quota_us", quota, sizeof quota);
    read_words(folder, "cpu.cfs_period_us", period, sizeof period);
    char *end;
    long long q = strtoll(quota, &end, 10), p = strtoll(is_v2 ? end : period, NULL, 10);
    return q > 0 && p > 0 ? (long)((q + p - 1) / p) : 0; /* "max" and -1 mean no limit */
}

static void lower(long *least, long found)
{
    if (found > 0 && found < *least)
        *least = found;
}

/* Checks the group's folder under a mount, and those above it. */
static void look_up(const char *root, const char *mount, const char *group, int is_v2, long *least)
{
    char path[PATH_MAX];
    int base = snprintf(path, sizeof path, "%s/sys/fs/cgroup%s", root, mount);
    int n = snprintf(path + base, sizeof path - (size_t)base, "%s", group);
    if (n < 0 || base + n >= (int)sizeof path)
        return;
    for (char *slash; (slash = strrchr(path + base, '/')) != NULL; *slash = '\0')
        lower(least, quota_of(path, is_v2));
    lower(least, quota_of(path, is_v2));
}

/* Checks one line of /proc/self/cgroup: "0::/group", or "4:cpu,cpuacct:/group". */
static void look_at(const char *root, char *line, long *least)
{
    char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
    if (!group)
        return;
    *group++ = '\0';
    names++;
    group[strcspn(group, "\n")] = '\0';
    if (*names == '\0') {
        look_up(root, "", group, 1, least);
        look_up(root, "/unified", group, 1, least);
        return;
    }
    for (char *rest = names, *name; (name = strtok_r(rest, ",", &rest)) != NULL;)
        if (strcmp(name, "cpu") == 0) {
            look_up(root, "/cpu", group, 0, least);
            look_up(root, "/cpu,cpuacct", group, 0, least);
        }
}

int cores_usable(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX];
    long least = affinity();
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        look_at(root, line, &least);
    if (f)
        fclose(f);
    return least < 1 ? 1 : (int)least;
}
