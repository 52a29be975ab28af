/* main.c - assay-worker-cuda: one rank on a GPU; or with --devices alone, which GPUs there are. */
#include <string.h>

#include "cuda/gpu.h"
#include "worker/serve.h"

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--devices") == 0)
        return gpu_list(stdout);
    return worker_main(argc, argv, &gpu_ops);
}
