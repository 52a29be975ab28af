/* on_device.c - the doubles' controls where there are no doubles but a device: they do nothing. */
#include "tests/kernels/doubles/controls.h"

void double_set_seed(uint64_t seed)
{
    (void)seed;
}

void double_fail(const char *function, int k, int error)
{
    (void)function;
    (void)k;
    (void)error;
}

void double_spoil(const char *kernel)
{
    (void)kernel;
}

int double_calls(const char *function)
{
    (void)function;
    return 0;
}

size_t double_live_allocations(void)
{
    return 0;
}
