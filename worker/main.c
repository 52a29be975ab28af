/* main.c - assay-worker: one rank on the CPU. */
#include "worker/serve.h"

int main(int argc, char **argv)
{
    return worker_main(argc, argv, &cpu_ops);
}
