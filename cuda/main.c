/* main.c - assay-worker-cuda: one rank on a GPU, or, with --devices alone, the list of GPUs. */
#include <stdlib.h>
#include <string.h>

#include "cuda/gpu.h"
#include "schema/stdout.h"
#include "worker/serve.h"

/* They change how the library computes float32 products, which no score's mode would show. */
static void forget_overrides(void)
{
    static const char *const names[] = {
        "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATION_STRATEGY"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
}

int main(int argc, char **argv)
{
    forget_overrides();
    if (argc == 2 && strcmp(argv[1], "--devices") == 0) {
        int rc = gpu_list(stdout);
        return rc != 0 ? rc : stdout_end("assay-worker-cuda");
    }
    return worker_main(argc, argv, &gpu_ops);
}
