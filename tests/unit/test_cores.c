/* test_cores.c - how many cores are used: by the affinity mask, and by the quotas of cgroups v1 and
 * v2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/cores.h"

struct tree {
    char root[64];
};

static int setup(void **state)
{
    struct tree *t = calloc(1, sizeof *t);
    snprintf(t->root, sizeof t->root, "/tmp/assay_cores_XXXXXX");
    assert_non_null(mkdtemp(t->root));
    *state = t;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static int teardown(void **state)
{
    struct tree *t = *state;
    nftw(t->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(t);
    return 0;
}

static void put(const struct tree *t, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", t->root, name);
    for (char *slash = path + strlen(t->root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int all(void)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    return CPU_COUNT(&set);
}

static int at_most(int n)
{
    return n < all() ? n : all();
}

static void without_groups_the_mask_counts(void **state)
{
    struct tree *t = *state;
    assert_int_equal(cores_usable(t->root), all());
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int core = 0;
    while (!CPU_ISSET(core, &before))
        core++;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(cores_usable(t->root), 1);
    assert_int_equal(cores_usable(""), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void a_quota_of_v2(void **state)
{
    struct tree *t = *state;
    put(t, "/proc/self/cgroup", "0::/a/b\n");
    put(t, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_int_equal(cores_usable(t->root), all());
    put(t, "/sys/fs/cgroup/a/b/cpu.max", "100000 100000\n");
    assert_int_equal(cores_usable(t->root), 1);
    put(t, "/sys/fs/cgroup/a/b/cpu.max", "20000 100000\n"); /* a fifth of one */
    assert_int_equal(cores_usable(t->root), 1);
    put(t, "/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n");
    assert_int_equal(cores_usable(t->root), at_most(2));
    put(t, "/sys/fs/cgroup/a/b/cpu.max", "99900000 100000\n");
    assert_int_equal(cores_usable(t->root), at_most(999));
    put(t, "/sys/fs/cgroup/a/cpu.max", "50000 100000\n"); /* of a group above it */
    assert_int_equal(cores_usable(t->root), 1);
}

/* Its path is the host's, its folder is the mount's root. */
static void a_container(void **state)
{
    struct tree *t = *state;
    put(t, "/proc/self/cgroup", "0::/docker/0123abc\n");
    put(t, "/sys/fs/cgroup/cpu.max", "100000 100000\n");
    assert_int_equal(cores_usable(t->root), 1);
    put(t, "/proc/self/cgroup", "0::/\n");
    assert_int_equal(cores_usable(t->root), 1);
}

static void a_quota_of_v1(void **state)
{
    struct tree *t = *state;
    put(t, "/proc/self/cgroup", "12:memory:/x\n4:cpu,cpuacct:/x/y\n1:name=systemd:/x\n0::/x\n");
    put(t, "/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_quota_us", "-1\n");
    put(t, "/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_period_us", "100000\n");
    put(t, "/sys/fs/cgroup/memory/x/cpu.cfs_quota_us", "100000\n"); /* not of the processors */
    put(t, "/sys/fs/cgroup/memory/x/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cores_usable(t->root), all());
    put(t, "/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_quota_us", "100000\n");
    assert_int_equal(cores_usable(t->root), 1);
}

static void nonsense_is_passed_over(void **state)
{
    struct tree *t = *state;
    put(t, "/proc/self/cgroup", "nonsense\n0:\n:::\n0::/a\n0::nothing\n");
    put(t, "/sys/fs/cgroup/a/cpu.max", "x y\n");
    assert_int_equal(cores_usable(t->root), all());
    put(t, "/sys/fs/cgroup/a/cpu.max", "100000 0\n");
    assert_int_equal(cores_usable(t->root), all());
    put(t, "/sys/fs/cgroup/a/cpu.max", "");
    assert_int_equal(cores_usable(t->root), all());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_groups_the_mask_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_quota_of_v2, setup, teardown),
        cmocka_unit_test_setup_teardown(a_container, setup, teardown),
        cmocka_unit_test_setup_teardown(a_quota_of_v1, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_is_passed_over, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
