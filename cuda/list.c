/* list.c - lists the devices; assayd asks for them before it starts anything. */
#include <jansson.h>
#include <stdio.h>

#include "cuda/gpu.h"

static json_t *describe_device(int index, struct err *e)
{
    struct cudaDeviceProp p;
    char capability[16], uuid[33];
    if (GPU_TRY(cudaGetDeviceProperties(&p, index), e) != 0)
        return NULL;
    snprintf(capability, sizeof capability, "%d.%d", p.major, p.minor);
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", (unsigned char)p.uuid.bytes[i]);
    return json_pack("{s:i, s:s, s:s, s:s, s:I}", "index", index, "name", p.name, "uuid", uuid,
        "capability", capability, "memory_bytes", (json_int_t)p.totalGlobalMem);
}

int gpu_list(FILE *out)
{
    struct err e = {0};
    int n = 0;
    int rc = GPU_TRY(cudaGetDeviceCount(&n), &e);
    json_t *devices = json_array();
    for (int i = 0; rc == 0 && i < n; i++) {
        json_t *device = describe_device(i, &e);
        rc = device ? json_array_append_new(devices, device) : ASSAY_EUNSUPPORTED;
    }
    if (rc == 0 && n == 0)
        rc = err_set(&e, ASSAY_EUNSUPPORTED, "GPU: the driver names no device");
    json_t *line = json_pack("{s:o, s:s?}", "devices", devices, "error", rc ? e.msg : NULL);
    int failed = !line || json_dumpf(line, out, JSON_COMPACT) != 0 || fputc('\n', out) == EOF ||
                 fflush(out) != 0;
    json_decref(line);
    return failed ? 74 : 0;
}
