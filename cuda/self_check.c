/* self_check.c - when the kernels are tried, and the file of what passed (self_check.h). */
#include "cuda/self_check.h"

#include <stdio.h>
#include <sys/stat.h>

#include "cuda/gemm_cache.h"
#include "schema/log.h"
#include "schema/version.h"

#define CPU_BYTES ((size_t)8 << 20)

/* The device by its own number, since one of several may be broken; the program by its file. */
static int key_of(
    const struct device *d, const struct device_options *o, char *key, size_t size, struct err *e)
{
    struct stat program = {0};
    char uuid[33];
    int driver = 0, runtime = 0;
    int rc = GPU_TRY(cudaDriverGetVersion(&driver), e);
    if (rc == 0)
        rc = GPU_TRY(cudaRuntimeGetVersion(&runtime), e);
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", (unsigned char)d->properties.uuid.bytes[i]);
    if (rc == 0 && stat("/proc/self/exe", &program) != 0)
        return err_errno(e, ASSAY_EIO, "/proc/self/exe");
    snprintf(key, size,
        "%.100s, %s, driver %d, runtime %d, Assay %s (%lld bytes of %lld.%09ld), heads of %u, %s",
        d->properties.name, uuid, driver, runtime, ASSAY_VERSION, (long long)program.st_size,
        (long long)program.st_mtim.tv_sec, program.st_mtim.tv_nsec, o->head_dim,
        dtype_name(o->quant));
    return rc;
}

static int take(struct self_check *c, struct err *e)
{
    struct device_options cpu = {.arena_bytes = CPU_BYTES, .n_threads = 1, .isa = "auto"};
    int rc = cpu_ops.device->open(&c->cpu, &cpu, e);
    if (rc == 0)
        rc = GPU_TRY(cudaMalloc((void **)&c->memory, SELF_CHECK_BYTES), e);
    if (rc == 0)
        rc = GPU_TRY(cudaHostAlloc((void **)&c->image, SELF_CHECK_BYTES, cudaHostAllocDefault), e);
    return rc;
}

static int check_types(struct device *d, const struct device_options *o, struct err *e)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof types / sizeof *types; i++) {
        struct self_check c = {.d = d,
            .type = types[i],
            .quant = o->quant,
            .head_dim = o->head_dim > 0 ? o->head_dim : 64,
            .e = e};
        rc = take(&c, e);
        if (rc == 0)
            rc = self_check_kernels(&c);
        cpu_ops.device->close(&c.cpu);
        cudaFree(c.memory);
        cudaFreeHost(c.image);
    }
    return rc;
}

int self_check(struct device *d, const struct device_options *o, struct err *e)
{
    char file[512] = "", key[512];
    uint8_t passed = 1;
    struct err why = {0};
    int rc = key_of(d, o, key, sizeof key, e);
    if (rc != 0)
        return rc;
    if (o->cache_dir)
        snprintf(file, sizeof file, "%s/" GEMM_CACHE_FILE, o->cache_dir);
    if (file[0] && gemm_cache_find(file, key, 0, &passed, sizeof passed) && passed == 1)
        return 0;
    rc = check_types(d, o, e);
    if (rc == 0 && file[0] && gemm_cache_add(file, key, &passed, sizeof passed, &why) != 0)
        log_warn("event=self_check_not_remembered error=\"%s\"", why.msg);
    return rc;
}
