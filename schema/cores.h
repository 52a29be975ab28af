/* cores.h - counts the processors that this process may use. */
#ifndef ASSAY_CORES_H
#define ASSAY_CORES_H

/* Returns what the affinity mask and the quotas of the control groups (cgroup v1 and v2) allow,
 * rounded up, at least 1. `root` is where /proc and /sys are: "" except in tests. */
int cores_usable(const char *root);

#endif
