/* round.cu - inputs of a product rounded to 8 bits and back, each row or each group of its columns
 * by itself: the steps of worker/cpu/round_rows.c, to the same bits in float32. What they give is
 * rounded to the inputs' type, once. */
#include "cuda/rows.h"

namespace
{

const float LARGEST_E4M3 = 448, LOWEST_INT = -128, HIGHEST_INT = 127, INT_RANGE = 255,
            INT_MAGNITUDE = 127.5f, LEAST_SCALE = 0x1p-23f,
            ROUNDING = 12582912;  /* 1.5 * 2^23: adding it rounds to an integer */
const int64_t MAX_GROUPS = 65535; /* of a row: a grid's blocks in y */

struct bounds {
    float high, low; /* the largest number, and the largest negated one; at least 0 */
};

template <typename T> struct round_arguments {
    rows_of<T> out, x;
    int64_t cols, group;
    const bounds *known; /* of each row; NULL: the block finds them */
    rounding how;
};

/* Not NaN, unless b is. */
struct larger_bound {
    SIMT_DEVICE static float of(float a, float b)
    {
        return a > b ? a : b;
    }
};

template <typename T>
SIMT_DEVICE bounds find_bounds(const T *x, int64_t n, bool vectors, float *scratch)
{
    float v[GROUP];
    bounds b = {0, 0};
    int64_t step = static_cast<int64_t>(blockDim.x) * GROUP;
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * GROUP; at < n; at += step) {
        load_group(v, x + at, n - at, vectors);
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            b.high = larger_bound::of(v[i], b.high);
            b.low = larger_bound::of(-v[i], b.low);
        }
    }
    b.high = over_block<larger_bound>(b.high, scratch);
    b.low = over_block<larger_bound>(b.low, scratch);
    return b;
}

SIMT_DEVICE float round_int(float x)
{
    float kept = x < LOWEST_INT ? LOWEST_INT : x > HIGHEST_INT ? HIGHEST_INT : x;
    return kept + ROUNDING - ROUNDING;
}

/* Adding 0 makes a zero positive. */
SIMT_DEVICE float round_e4m3(float x)
{
    return to_float(from_float<f8_t>(x)) + 0.0f;
}

SIMT_DEVICE void set_scale(rounding &r, bounds b)
{
    float largest = b.low > b.high ? b.low : b.high;
    r.zero = 0;
    if (r.how == ROUND_BY_ROW)
        r.scale = div_rn(b.high + b.low, INT_RANGE);
    else
        r.scale = div_rn(largest, r.numbers == PACKED_E4M3 ? LARGEST_E4M3 : INT_MAGNITUDE);
    if (r.how == ROUND_BY_ROW && r.scale > 0)
        r.zero = round_int(LOWEST_INT + div_rn(b.low, r.scale));
    if (r.scale == 0 && r.least == 0)
        r.scale = LEAST_SCALE;
}

SIMT_DEVICE float round_number(float x, const rounding &r)
{
    float by = r.scale < r.least ? r.least : r.scale;
    return r.numbers == PACKED_E4M3 ? round_e4m3(div_rn(x, by)) * r.scale
                                    : (round_int(div_rn(x, by) + r.zero) - r.zero) * r.scale;
}

/* One block per row. */
template <typename T>
__global__ void __launch_bounds__(MAX_BLOCK) measure_kernel(bounds *out, rows_of<T> x, int64_t cols)
{
    SIMT_SHARED(float, scratch);
    bounds b = find_bounds(x.row(blockIdx.x), cols, x.vectors, scratch);
    if (threadIdx.x == 0)
        out[blockIdx.x] = b;
}

/* One block per row and group. */
template <typename T>
__global__ void __launch_bounds__(MAX_BLOCK) round_kernel(round_arguments<T> a)
{
    SIMT_SHARED(float, scratch);
    int64_t first = blockIdx.y * a.group, step = static_cast<int64_t>(blockDim.x) * GROUP,
            n = a.cols - first < a.group ? a.cols - first : a.group;
    const T *x = a.x.row(blockIdx.x) + first;
    T *out = a.out.row(blockIdx.x) + first;
    rounding r = a.how;
    if (r.how != ROUND_BY_SCALE)
        set_scale(r, a.known ? a.known[blockIdx.x] : find_bounds(x, n, a.x.vectors, scratch));
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * GROUP; at < n; at += step) {
        float v[GROUP];
        load_group(v, x + at, n - at, a.x.vectors);
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            v[i] = round_number(v[i], r);
        store_group(out + at, v, n - at, a.out.vectors);
    }
}

} // namespace

cudaError_t kernel_measure_rows(cudaStream_t stream, float *out, struct tensor x)
{
    if (x.rows == 0)
        return cudaSuccess;
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        return SIMT_LAUNCH(stream, measure_kernel<T>, static_cast<unsigned>(x.rows),
            block_for(x.cols), 32 * sizeof(float), reinterpret_cast<bounds *>(out), rows_view<T>(x),
            x.cols);
    });
}

cudaError_t kernel_round_rows(cudaStream_t stream, struct tensor out, struct tensor x,
    const struct rounding *r, const float *known)
{
    int64_t group = r->group > 0 && r->group < x.cols ? r->group : x.cols;
    int64_t groups = group > 0 ? (x.cols + group - 1) / group : 0;
    if (out.dtype != x.dtype || r->how == ROUND_NOT || groups > MAX_GROUPS || (known && groups > 1))
        return cudaErrorInvalidValue;
    if (x.rows == 0 || groups == 0)
        return cudaSuccess;
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        round_arguments<T> a = {rows_view<T>(out), rows_view<T>(x), x.cols, group,
            reinterpret_cast<const bounds *>(known), *r};
        a.x.vectors = a.x.vectors && (groups == 1 || group % GROUP == 0);
        a.out.vectors = a.out.vectors && (groups == 1 || group % GROUP == 0);
        dim3 grid(static_cast<unsigned>(x.rows), static_cast<unsigned>(groups));
        return SIMT_LAUNCH(stream, round_kernel<T>, grid, block_for(group), 32 * sizeof(float), a);
    });
}
