/* doctor_machine.c - `assay doctor` about the machine: programs, CPU, GPUs, memory, limits. */
#include <stdio.h>
#include <string.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <zmq.h>

#include "broker/cli/doctor.h"
#include "schema/cores.h"
#include "schema/version.h"

#define MIB (1024.0 * 1024.0)
#define SHM_ENOUGH (1024.0 * MIB) /* for NCCL's buffers, as NVIDIA advises */
#define FILES_LEAST 256           /* the broker's own, and some clients */
#define FILES_ENOUGH 4096

static void look_at_versions(struct doctor *d, const struct cli *c)
{
    struct utsname u = {0};
    int major, minor, patch;
    char path[4200];
    uname(&u);
    zmq_version(&major, &minor, &patch);
    doctor_say(d, DOCTOR_OK, "versions", NULL, "assay %s, SQLite %s, ZeroMQ %d.%d.%d, %s %s",
        ASSAY_VERSION, sqlite3_libversion(), major, minor, patch, u.sysname, u.release);
    static const char *const programs[] = {"assayd", "assay-worker"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", c->bin_dir, programs[i]);
        if (access(path, X_OK) != 0)
            doctor_say(d, DOCTOR_WRONG, "programs", "install it beside `assay`",
                "%s is not there, or may not be run", path);
    }
}

#ifdef __x86_64__
/* What the CPU has of what worker/cpu has kernels for. */
static void look_at_cpu(struct doctor *d)
{
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    int vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    int bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    doctor_say(d, avx2 ? DOCTOR_OK : DOCTOR_WARNING, "cpu",
        "scores are the same, and some ten times as slow: take a CPU with AVX2",
        "%d cores, x86-64%s%s%s%s", cores_usable(""), avx2 ? ", AVX2 and FMA" : " without AVX2",
        avx512 ? ", AVX-512" : "", vnni ? ", VNNI" : "", bf16 ? ", BF16" : "");
}
#else
static void look_at_cpu(struct doctor *d)
{
    struct utsname u = {0};
    uname(&u);
    doctor_say(d, DOCTOR_WARNING, "cpu", "the portable kernels are slow: take x86-64 with AVX2",
        "%d cores, %s", cores_usable(""), u.machine);
}
#endif

static int count_gpus(void)
{
    char device[32];
    int n = 0;
    for (int i = 0; i < 256; i++) {
        snprintf(device, sizeof device, "/dev/nvidia%d", i);
        n += access(device, F_OK) == 0;
    }
    return n;
}

static void look_at_gpus(struct doctor *d, const struct cli *c)
{
    char path[4200];
    int n = count_gpus();
    snprintf(path, sizeof path, "%s/assay-worker-cuda", c->bin_dir);
    int has_worker = access(path, X_OK) == 0;
    if (n == 0)
        doctor_say(d, DOCTOR_OK, "gpus", NULL, "none: the model runs on the CPU");
    else if (!has_worker)
        doctor_say(d, DOCTOR_WARNING, "gpus", "build with `make CUDA=1` to use them",
            "%d, and no assay-worker-cuda beside `assay`", n);
    else
        doctor_say(d, DOCTOR_OK, "gpus", NULL, "%d; `assay-worker-cuda --devices` lists them", n);
}

/* Batches are in memory without a name (shm/stage.c), however small /dev/shm is. NCCL's buffers are
 * files there. */
static void look_at_shm(struct doctor *d)
{
    struct statvfs v = {0};
    double room = statvfs("/dev/shm", &v) == 0 ? (double)v.f_bavail * (double)v.f_frsize : 0;
    int n = count_gpus();
    if (n < 2)
        doctor_say(d, DOCTOR_OK, "/dev/shm", NULL,
            "%.0f MiB free; only NCCL needs it, for several GPUs", room / MIB);
    else
        doctor_say(d, room < SHM_ENOUGH ? DOCTOR_WARNING : DOCTOR_OK, "/dev/shm",
            "NCCL's buffers are there with --tp: give it 1 GiB (in a container --shm-size=1g; else "
            "mount -o remount,size=1g /dev/shm)",
            "%.0f MiB free", room / MIB);
}

static const char *limit_text(rlim_t n, double unit, char text[32])
{
    if (n == RLIM_INFINITY)
        return "no limit";
    snprintf(text, 32, "%.0f", (double)n / unit);
    return text;
}

static void look_at_limits(struct doctor *d)
{
    struct rlimit files = {0}, locked = {0};
    char soft[32], hard[32];
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    doctor_say(d, doctor_grade((double)files.rlim_max, FILES_LEAST, FILES_ENOUGH), "open files",
        "each client takes one: raise the hard limit (ulimit -Hn, LimitNOFILE=65536)",
        "%s, at most %s", limit_text(files.rlim_cur, 1, soft), limit_text(files.rlim_max, 1, hard));
    doctor_say(d, DOCTOR_OK, "locked memory", NULL,
        "%s KiB (on GPUs the driver pins memory by itself)",
        limit_text(locked.rlim_cur, 1024, soft));
}

void doctor_look_at_machine(struct doctor *d, const struct cli *c)
{
    look_at_versions(d, c);
    look_at_cpu(d);
    look_at_gpus(d, c);
    look_at_shm(d);
    look_at_limits(d);
}
