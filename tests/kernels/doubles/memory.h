/* memory.h - the doubles' device memory: host memory that only the device's work may touch. Outside a
 * device_open every access to it ends the program: on a real device, host code has no business
 * there. As shutting takes time, it is done after each of a process's first pieces of work, until a
 * GiB was shut in all, and after each hundredth; in between the memory stays open. A thread that carries on with the work by itself (doubles.h) opens it for all. */
#ifndef ASSAY_DOUBLES_MEMORY_H
#define ASSAY_DOUBLES_MEMORY_H

#include <stddef.h>

/* Memory of exact size, at the start of a page; under AddressSanitizer what lies around it, and after
 * device_give all of it, may not be accessed. No address comes twice. Returns NULL where there is no
 * room left. */
void *device_take(size_t bytes);
void device_give(void *at, size_t bytes);

/* While one exists, device memory may be touched. The caller holds the doubles' lock. */
struct device_open {
    device_open();
    ~device_open();
    device_open(const device_open &) = delete;
    device_open &operator=(const device_open &) = delete;
};

/* While one exists within a device_open, it may not: a stream calls a function of the host's. */
struct device_shut {
    device_shut();
    ~device_shut();
    device_shut(const device_shut &) = delete;
    device_shut &operator=(const device_shut &) = delete;
};

#endif
