/* prepare_weights.c - copies the matrices to the device: into one arena, from the mapped file
 * through two pinned chunks, so that the host never holds more of the checkpoint than these.
 *
 * The parts of a stack follow each other, with rows of one length, so a list of views becomes one
 * matrix and one product. A matrix to be quantized is first copied as stored to a chunk on the
 * device, then quantized row by row into its place; its rows' scales follow it.
 *
 * Packed matrices (packed.h) are copied word by word, and the stacks that have any are unpacked for
 * each product: the largest such stack has room behind all matrices. Only packed FP8 of which the
 * products are FP8 too is copied as it would be quantized: its bytes and its rows' scales. */
#include <string.h>

#include "cuda/packed.h"

#define CHUNK_BYTES (16u << 20)
#define WORD_BYTES 4
#define ROW_BYTES 16

static int64_t stride_of(const struct weight_stack *s)
{
    return gpu_row_stride(s->parts[0].cols, s->dtype);
}

static int is_quantized(const struct weight_stack *s)
{
    return dtype_bytes(s->dtype) == 1;
}

static int64_t stack_rows(const struct weight_stack *s)
{
    int64_t rows = 0;
    for (int i = 0; i < s->n_parts; i++)
        rows += s->parts[i].rows;
    return rows;
}

static size_t matrix_bytes(const struct weight_stack *s)
{
    return gpu_aligned((size_t)(stack_rows(s) * stride_of(s) * dtype_bytes(s->dtype)));
}

/* Whether products unpack it. */
static int is_packed(const struct weight_stack *s)
{
    return !is_quantized(s) && packed_any(s->parts, s->n_parts);
}

/* Of a stack that is unpacked; in such the parts lie by themselves. */
static struct tensor part_tensor(const struct weight_stack *s, const struct weight *w, void *at)
{
    if (w->dtype != DTYPE_PACKED)
        return tensor_of(at, s->dtype, w->rows, w->cols, stride_of(s));
    struct weight words = packed_words(w);
    return tensor_of(at, DTYPE_F32, words.rows, words.cols, gpu_row_stride(words.cols, DTYPE_F32));
}

static size_t stack_bytes(const struct weight_stack *s)
{
    size_t bytes = 0;
    for (int i = 0; is_packed(s) && i < s->n_parts; i++)
        bytes += gpu_aligned(tensor_bytes(part_tensor(s, &s->parts[i], NULL)));
    if (is_packed(s))
        return bytes;
    return matrix_bytes(s) +
           (is_quantized(s) ? gpu_aligned((size_t)stack_rows(s) * sizeof(float)) : 0);
}

/* The largest stack's that is unpacked. */
static size_t unpacked_bytes(const struct weight_stack *stacks, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++)
        if (is_packed(&stacks[i]) && matrix_bytes(&stacks[i]) > most)
            most = matrix_bytes(&stacks[i]);
    return most;
}

static int take_weights(struct device *d, size_t bytes, struct err *e)
{
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    if (cudaMalloc((void **)&d->weights, bytes) == cudaSuccess)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "GPU %d: this rank's weights need %zu MiB, %zu of %zu MiB are free: use more ranks (--tp), "
        "or lower --max-batch-tokens",
        d->index, bytes >> 20, free_bytes >> 20, total >> 20);
}

struct chunks {
    uint8_t *memory[2];
    cudaEvent_t copied[2];
    int next;
    size_t bytes;
    uint8_t *device; /* the same size, for rows to be quantized; NULL: none are */
};

static int chunks_new(struct chunks *c, int quantized, struct err *e)
{
    int rc = quantized ? GPU_TRY(cudaMalloc((void **)&c->device, c->bytes), e) : 0;
    for (int i = 0; rc == 0 && i < 2; i++) {
        rc = GPU_TRY(cudaHostAlloc((void **)&c->memory[i], c->bytes, cudaHostAllocDefault), e);
        if (rc == 0)
            rc = GPU_TRY(cudaEventCreateWithFlags(
                             &c->copied[i], cudaEventBlockingSync | cudaEventDisableTiming),
                e);
    }
    return rc;
}

static void chunks_free(struct chunks *c)
{
    cudaFree(c->device);
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(c->memory[i]);
        if (c->copied[i])
            cudaEventDestroy(c->copied[i]);
    }
}

/* Converts the rows of a stored matrix from `row` on to the form of `to`, in the next chunk, and
 * starts their copy there. */
static void send_rows(
    struct device *d, struct chunks *c, struct tensor to, const struct weight *w, int64_t row)
{
    int i = c->next;
    int64_t size = dtype_bytes(to.dtype), stored = dtype_bytes(w->dtype);
    c->next ^= 1;
    GPU_MUST(cudaEventSynchronize(c->copied[i]));
    for (int64_t r = 0; r < to.rows; r++) {
        uint8_t *at = c->memory[i] + r * to.stride * size;
        dtype_convert(at, to.dtype, (const char *)w->data + (row + r) * w->stride * stored,
            w->dtype, w->cols);
        memset(at + w->cols * size, 0, (size_t)((to.stride - w->cols) * size));
    }
    GPU_MUST(
        cudaMemcpyAsync(to.data, c->memory[i], tensor_bytes(to), cudaMemcpyHostToDevice, d->copy));
    GPU_MUST(cudaEventRecord(c->copied[i], d->copy));
}

/* Elements from row to row of a matrix in its stored type, in the device's chunk. */
static int64_t chunk_stride(const struct weight *w)
{
    return round_up(w->cols, ROW_BYTES);
}

/* Quantizes the rows of a stack's part from `row` on into `to`, through the device's chunk. */
static void quantize_rows(
    struct device *d, struct chunks *c, struct tensor to, const struct weight *w, int64_t row)
{
    struct tensor stored = tensor_of(c->device, w->dtype, to.rows, w->cols, chunk_stride(w));
    send_rows(d, c, stored, w, row);
    GPU_MUST(kernel_quantize_rows(d->copy, to, stored));
}

/* Packed FP8 as it is: its bytes, word by word, and its rows' scales from their table. */
static void send_stored(
    struct device *d, struct chunks *c, struct tensor to, const struct weight *w, int64_t row)
{
    struct weight words = packed_words(w);
    GPU_MUST(cudaMemcpyAsync(to.scale, w->packing->scale + row, (size_t)to.rows * sizeof(float),
        cudaMemcpyDeviceToDevice, d->copy));
    send_rows(d, c, tensor_of(to.data, DTYPE_F32, to.rows, words.cols, to.stride / WORD_BYTES),
        &words, row);
}

/* Rows that a chunk holds. */
static int64_t rows_at_once(const struct chunks *c, struct tensor t)
{
    return (int64_t)c->bytes / (t.stride * dtype_bytes(t.dtype));
}

static uint8_t *send_packed_stack(
    struct device *d, struct chunks *c, uint8_t *to, const struct weight_stack *s)
{
    for (int i = 0; i < s->n_parts; i++) {
        struct weight *w = &s->parts[i];
        struct tensor all = part_tensor(s, w, to);
        struct weight from = w->dtype == DTYPE_PACKED ? packed_words(w) : *w;
        int64_t step = rows_at_once(c, all);
        for (int64_t row = 0; row < all.rows; row += step) {
            int64_t n = all.rows - row < step ? all.rows - row : step;
            send_rows(d, c, tensor_rows(all, row, n), &from, row);
        }
        enum dtype type = w->dtype == DTYPE_PACKED ? DTYPE_PACKED : s->dtype;
        *w = (struct weight){to, type, w->rows, w->cols, all.stride, NULL, s->dtype, w->packing};
        to += gpu_aligned(tensor_bytes(all));
    }
    return to;
}

static uint8_t *send_stack(
    struct device *d, struct chunks *c, uint8_t *to, const struct weight_stack *s)
{
    if (is_packed(s))
        return send_packed_stack(d, c, to, s);
    int64_t stride = stride_of(s), row_bytes = stride * dtype_bytes(s->dtype);
    float *scale = is_quantized(s) ? (float *)(void *)(to + matrix_bytes(s)) : NULL;
    uint8_t *end = to + stack_bytes(s);
    for (int i = 0; i < s->n_parts; i++) {
        struct weight *w = &s->parts[i];
        struct tensor all = tensor_of(to, s->dtype, w->rows, w->cols, stride);
        int64_t step =
            (int64_t)c->bytes / (scale ? chunk_stride(w) * dtype_bytes(w->dtype) : row_bytes);
        all.scale = scale;
        for (int64_t row = 0; row < w->rows; row += step) {
            int64_t n = w->rows - row < step ? w->rows - row : step;
            (w->dtype == DTYPE_PACKED ? send_stored
                : scale               ? quantize_rows
                                      : send_rows)(d, c, tensor_rows(all, row, n), w, row);
        }
        *w = (struct weight){to, s->dtype, w->rows, w->cols, stride, scale, DTYPE_F32, NULL};
        to += w->rows * row_bytes;
        scale = scale ? scale + w->rows : NULL;
    }
    return end;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* A chunk must hold a row of any matrix, both as stored and as sent, and of words. */
static size_t chunk_bytes(const struct weight_stack *stacks, size_t n)
{
    int64_t bytes = CHUNK_BYTES;
    for (size_t i = 0; i < n; i++) {
        const struct weight_stack *s = &stacks[i];
        bytes = most(bytes, stride_of(s) * dtype_bytes(s->dtype));
        for (int k = 0; k < s->n_parts; k++) {
            const struct weight *w = &s->parts[k];
            bytes = most(bytes, chunk_stride(w) * dtype_bytes(w->dtype));
            if (is_packed(s))
                bytes =
                    most(bytes, (int64_t)tensor_bytes(tensor_rows(part_tensor(s, w, NULL), 0, 1)));
        }
    }
    return (size_t)bytes;
}

static int send_stacks(struct device *d, struct weight_stack *stacks, size_t n, struct err *e)
{
    struct chunks c = {.bytes = chunk_bytes(stacks, n)};
    size_t bytes = 0, unpacked = unpacked_bytes(stacks, n);
    int quantized = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += stack_bytes(&stacks[i]);
        quantized |= is_quantized(&stacks[i]);
    }
    int rc = take_weights(d, bytes + unpacked, e);
    d->unpacked = rc == 0 && unpacked > 0 ? d->weights + bytes : NULL;
    if (rc == 0)
        rc = chunks_new(&c, quantized, e);
    uint8_t *to = d->weights;
    for (size_t i = 0; rc == 0 && i < n; i++)
        to = send_stack(d, &c, to, &stacks[i]);
    if (rc == 0)
        GPU_MUST(cudaStreamSynchronize(d->copy));
    chunks_free(&c);
    return rc;
}

/* ---- shapes only ---- */

static void grow(size_t *largest, size_t bytes)
{
    *largest = bytes > *largest ? bytes : *largest;
}

/* Puts all stacks of one type in the same place, which is as large as the largest of them. Scales
 * are taken from the float32 place. */
static int place_shapes(struct device *d, struct weight_stack *stacks, size_t n, struct err *e)
{
    size_t largest[N_DTYPES] = {0}, first[N_DTYPES] = {0}, bytes = 0;
    for (size_t i = 0; i < n; i++)
        grow(&largest[stacks[i].dtype], matrix_bytes(&stacks[i]));
    for (size_t i = 0; i < n; i++)
        if (is_quantized(&stacks[i]))
            grow(&largest[DTYPE_F32], gpu_aligned((size_t)stack_rows(&stacks[i]) * sizeof(float)));
    for (int t = 0; t < N_DTYPES; t++) {
        first[t] = bytes;
        bytes += largest[t];
    }
    int rc = take_weights(d, bytes, e);
    for (int t = 0; rc == 0 && t < N_DTYPES; t++)
        if (largest[t] > 0)
            rc = GPU_TRY(
                gpu_fill_noise(d, d->weights + first[t], largest[t], (enum dtype)t, 0x1p-5f), e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        uint8_t *to = d->weights + first[stacks[i].dtype];
        const float *scale =
            is_quantized(&stacks[i]) ? (float *)(void *)(d->weights + first[DTYPE_F32]) : NULL;
        int64_t stride = stride_of(&stacks[i]);
        for (int k = 0; k < stacks[i].n_parts; k++) {
            struct weight *w = &stacks[i].parts[k];
            *w = (struct weight){to, stacks[i].dtype, w->rows, w->cols, stride, scale, DTYPE_F32,
                scale ? NULL : w->packing};
            to += w->rows * stride * dtype_bytes(w->dtype);
        }
    }
    return rc;
}

/* Products of their own begin at 16 bytes of their output (gemm.c). */
static int check_parts(const struct weight_stack *s, struct err *e)
{
    int64_t row = 0, unit = ROW_BYTES / dtype_bytes(s->dtype);
    for (int i = 0; i + 1 < s->n_parts; i++) {
        row += s->parts[i].rows;
        if (row % unit != 0 && !weights_rounded_alike(&s->parts[i], &s->parts[i + 1]))
            return err_set(e, ASSAY_EUNSUPPORTED,
                "GPU: matrices of one product whose activations are rounded differently: expected "
                "one after a multiple of %lld rows, found it after %lld; --activations "
                "weights-only and --device cpu go",
                (long long)unit, (long long)row);
    }
    return 0;
}

int gpu_prepare_weights(struct device *d, struct weight_stack *stacks, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (check_parts(&stacks[i], e) != 0)
            return e->code;
    return d->shapes_only ? place_shapes(d, stacks, n, e) : send_stacks(d, stacks, n, e);
}
