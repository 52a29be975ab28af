/* cores.h - how many processors this process may use. */
#ifndef ASSAY_CORES_H
#define ASSAY_CORES_H

/* By the affinity mask and the quotas of its control groups (cgroup v1 and v2), rounded up; at least 1. `root` is
 * where /proc and /sys are: "" but for tests. */
int cores_usable(const char *root);

#endif
