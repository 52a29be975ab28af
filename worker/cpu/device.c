/* device.c - the CPU as a device: its threads, arena and scratch memory (device.h). Batches are
 * done when finish returns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "schema/alloc.h"
#include "schema/cores.h"
#include "schema/log.h"
#include "worker/cpu/device.h"

#define ALIGNMENT 64
#define HUGE_PAGE (2u << 20)

void *scratch_take(struct scratch *s, size_t bytes)
{
    if (bytes > s->bytes) {
        free(s->data);
        size_t unit = bytes >= HUGE_PAGE / 2 ? HUGE_PAGE : ALIGNMENT;
        s->bytes = (bytes + unit - 1) / unit * unit;
        s->data = aligned_alloc(unit, s->bytes);
        if (s->data && unit == HUGE_PAGE)
            madvise(s->data, s->bytes, MADV_HUGEPAGE); /* a hint: fewer address translations */
        if (!s->data)
            die(71, "event=out_of_memory what=scratch bytes=%zu", bytes);
    }
    return s->data;
}

static int may_spin(const struct device_options *o)
{
    long ranks = o->comm ? comm_size(o->comm) : 1;
    return ranks * o->n_threads <= cores_usable("");
}

static int device_open(struct device **out, const struct device_options *o, struct err *e)
{
    const struct cpu_kernels *kernels = kernels_choose(o->isa);
    if (!kernels)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "isa: expected auto, portable, or of avx512bf16, avx512vnni, avx512 and avx2 one that "
            "this CPU has, found '%s', which it has not",
            o->isa);
    if (o->quant != DTYPE_F32 && o->quant != DTYPE_I8)
        return err_set(e, ASSAY_EUNSUPPORTED,
            "--quant %s: the CPU does not have it; expected none or int8, or a GPU",
            dtype_name(o->quant));
    if (o->n_threads < 1)
        return err_set(e, ASSAY_EBADREQ, "threads: expected 1 or more, found %d", o->n_threads);
    void *arena = mmap(NULL, o->arena_bytes + ALIGNMENT, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return err_errno(
            e, ASSAY_ENOMEM, "activations: no address space for %zu bytes", o->arena_bytes);
    madvise(arena, o->arena_bytes + ALIGNMENT, MADV_HUGEPAGE);
    struct device *d = xcalloc(1, sizeof *d);
    d->kernels = kernels;
    d->comm = o->comm;
    d->shapes_only = o->shapes_only;
    d->arena = arena;
    d->arena_bytes = o->arena_bytes + ALIGNMENT;
    d->pool = thread_pool_new(o->n_threads, may_spin(o));
    thread_pool_set_bump(d->pool, o->bump, o->bump_arg);
    d->per_thread = xcalloc((size_t)o->n_threads, sizeof *d->per_thread);
    *out = d;
    return 0;
}

static void device_close(struct device **out)
{
    struct device *d = *out;
    if (!d)
        return;
    for (int i = 0; i < thread_pool_threads(d->pool); i++)
        free(d->per_thread[i].data);
    thread_pool_free(&d->pool);
    free(d->per_thread);
    free(d->packed_x.data);
    free(d->rounded_x.data);
    munmap(d->arena, d->arena_bytes);
    if (d->quantized)
        munmap(d->quantized, d->quantized_bytes);
    free(d);
    *out = NULL;
}

static void device_identity(const struct device *d, char *text, size_t bytes)
{
    (void)d; /* threads and instruction sets change no bit */
    snprintf(text, bytes, "cpu arithmetic=%d", CPU_ARITHMETIC);
}

static void device_describe(const struct device *d, char *text, size_t bytes)
{
    snprintf(text, bytes, "cpu (%s)", d->kernels->isa);
}

static void *device_alloc(struct device *d, size_t bytes)
{
    size_t wanted = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (wanted < bytes || wanted > d->arena_bytes - d->arena_used)
        return NULL;
    void *at = d->arena + d->arena_used;
    d->arena_used += wanted;
    return at;
}

static void device_upload(struct device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

/* ---- batches ---- */

static int device_pin(struct device *d, const void *from, size_t bytes)
{
    (void)d, (void)from, (void)bytes;
    return 0;
}

static void device_begin(struct device *d)
{
    (void)d;
}

static const void *device_push(struct device *d, const void *host, size_t bytes)
{
    (void)d, (void)bytes;
    return host;
}

static int device_share(struct device *d, void *host, size_t bytes, struct err *e)
{
    (void)d, (void)host, (void)bytes, (void)e;
    return 0;
}

static void device_copy_out(struct device *d, void *to, struct tensor from)
{
    size_t n = (size_t)(from.cols * dtype_bytes(from.dtype));
    (void)d;
    for (int64_t i = 0; i < from.rows; i++)
        memcpy((char *)to + (size_t)i * n, tensor_rows(from, i, 1).data, n);
}

static void device_copy_in(struct device *d, struct tensor to, const void *from)
{
    size_t n = (size_t)(to.cols * dtype_bytes(to.dtype));
    (void)d;
    for (int64_t i = 0; i < to.rows; i++)
        memcpy(tensor_rows(to, i, 1).data, (const char *)from + (size_t)i * n, n);
}

static void device_finish(struct device *d, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        memcpy(to, from, bytes);
    d->unpolled++;
}

static int device_poll(struct device *d, int wait)
{
    (void)wait;
    return d->unpolled > 0 ? d->unpolled--, 1 : 0;
}

static int device_poll_fd(struct device *d)
{
    (void)d;
    return -1;
}

static uint32_t device_progress(struct device *d)
{
    (void)d;
    return 0;
}

const struct device_ops cpu_device_ops = {
    .in_flight = 1,
    .open = device_open,
    .close = device_close,
    .describe = device_describe,
    .identity = device_identity,
    .alloc = device_alloc,
    .upload = device_upload,
    .prepare_weights = cpu_prepare_weights,
    .pin = device_pin,
    .share = device_share,
    .begin = device_begin,
    .push = device_push,
    .copy_out = device_copy_out,
    .copy_in = device_copy_in,
    .finish = device_finish,
    .poll = device_poll,
    .poll_fd = device_poll_fd,
    .progress = device_progress,
};
