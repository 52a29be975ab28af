/* devices.c - prints which GPUs there are, as assay-worker-cuda --devices does, without ZeroMQ. */
#include "cuda/gpu.h"

int main(void)
{
    return gpu_list(stdout);
}
