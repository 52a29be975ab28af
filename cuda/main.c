/* main.c - assay-worker-cuda: one rank on a GPU. */
#include "worker/serve.h"

int main(int argc, char **argv)
{
    return worker_main(argc, argv, &gpu_ops);
}
