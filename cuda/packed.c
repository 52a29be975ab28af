/* packed.c - see packed.h. */
#include "cuda/packed.h"

#include <nvtx3/nvToolsExt.h>

#define WORD_BITS 32
#define AWQ_ROWS 8 /* rows in a word of PACKED_AWQ */

static int64_t divided_up(int64_t n, int64_t by)
{
    return (n + by - 1) / by;
}

struct weight packed_words(const struct weight *w)
{
    int64_t per_word = WORD_BITS / w->packing->bits;
    struct weight words = {.data = w->data, .dtype = DTYPE_F32, .stride = w->stride};
    words.rows = w->packing->order == PACKED_ROWS      ? w->rows
                 : w->packing->order == PACKED_COLUMNS ? divided_up(w->cols, per_word)
                                                       : w->cols;
    words.cols = w->packing->order == PACKED_ROWS      ? divided_up(w->cols, per_word)
                 : w->packing->order == PACKED_COLUMNS ? w->rows
                                                       : divided_up(w->rows, AWQ_ROWS);
    return words;
}

struct weight packed_unpack(struct device *d, const struct weight *parts, int n_parts)
{
    enum dtype type = parts[0].factors;
    struct tensor to =
        tensor_of(d->unpacked, type, 0, parts[0].cols, gpu_row_stride(parts[0].cols, type));
    struct weight whole = {.data = to.data, .dtype = type, .cols = to.cols, .stride = to.stride};
    nvtxRangePushA("unpack");
    for (int i = 0; i < n_parts; i++) {
        to.rows = parts[i].rows;
        if (parts[i].dtype == DTYPE_PACKED)
            GPU_MUST(kernel_unpack(gpu_stream(d), to, &parts[i]));
        else
            GPU_MUST(cudaMemcpyAsync(
                to.data, parts[i].data, tensor_bytes(to), cudaMemcpyDeviceToDevice, gpu_stream(d)));
        to.data = (uint8_t *)to.data + tensor_bytes(to);
        whole.rows += to.rows;
    }
    nvtxRangePop();
    return whole;
}
