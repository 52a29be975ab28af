/* rope.c - computes frequencies in the order of the reference's operations, and fills the tables
 * (rope.h). */
#include "worker/rope.h"

#include <stdlib.h>

#include "schema/alloc.h"
#include "schema/log.h"
#include "worker/cpu/fmath.h"

#define PI 3.14159265358979323846

/* theta ^ (2i / head_dim): exponent and power each rounded to float32, as in the reference. */
static float power(const struct rope_config *r, uint32_t head_dim, uint32_t i)
{
    return (float)fmath_pow(r->theta, (float)(2 * i) / (float)head_dim);
}

/* The dimension at which a wavelength turns `rotations` times over the original context. */
static double correction(const struct rope_config *r, uint32_t head_dim, double rotations)
{
    return head_dim * fmath_log(r->original_max_position / (rotations * 2 * PI)) /
           (2 * fmath_log(r->theta));
}

static double ceiling(double x)
{
    return -fmath_floor(-x);
}

/* Every step is rounded to float32, as in the reference: at a distant position an inverse frequency
 * that differs in its last bit is an angle that differs much. */
static void scale_yarn(const struct rope_config *r, uint32_t head_dim, float *inv_freq)
{
    double low = correction(r, head_dim, r->beta_fast),
           high = correction(r, head_dim, r->beta_slow);
    if (r->truncate) {
        low = fmath_floor(low);
        high = ceiling(high);
    }
    /* As in the reference, each is bounded on one side only, so either may be the larger. */
    low = low > 0 ? low : 0;
    high = high < head_dim - 1 ? high : head_dim - 1;
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
        float scaled = 1 / ((float)r->factor * power(r, head_dim, i));
        inv_freq[i] = scaled * (1 - keep) + inv_freq[i] * keep;
    }
}

static void scale_llama3(const struct rope_config *r, uint32_t head_dim, float *inv_freq)
{
    float context = (float)r->original_max_position, factor = (float)r->factor;
    float longest = (float)(r->original_max_position / r->low_freq_factor);
    float shortest = (float)(r->original_max_position / r->high_freq_factor);
    float range = (float)(r->high_freq_factor - r->low_freq_factor);
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float inv = inv_freq[i], wavelength = 1 / inv * (float)(2 * PI);
        float blend = (1 / wavelength * context - (float)r->low_freq_factor) / range;
        if (wavelength > longest)
            inv_freq[i] = inv / factor;
        else if (wavelength >= shortest)
            inv_freq[i] = (1 - blend) * inv / factor + blend * inv;
    }
}

void rope_inv_freq(const struct rope_config *r, uint32_t head_dim, float *inv_freq)
{
    for (uint32_t i = 0; i < head_dim / 2; i++)
        inv_freq[i] = 1.0f / power(r, head_dim, i);
    if (r->type == ROPE_LINEAR)
        for (uint32_t i = 0; i < head_dim / 2; i++)
            inv_freq[i] = inv_freq[i] / (float)r->factor;
    else if (r->type == ROPE_LLAMA3)
        scale_llama3(r, head_dim, inv_freq);
    else if (r->type == ROPE_YARN)
        scale_yarn(r, head_dim, inv_freq);
}

void rope_fill(const struct rope_config *r, uint32_t head_dim, uint32_t n_positions,
    float *cos_table, float *sin_table)
{
    uint32_t half = head_dim / 2;
    float *inv_freq = xcalloc(half, sizeof *inv_freq), factor = (float)r->attention_factor;
    rope_inv_freq(r, head_dim, inv_freq);
    for (uint32_t position = 0; position < n_positions; position++)
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)position * inv_freq[i];
            cos_table[(size_t)position * half + i] = (float)fmath_cos(angle) * factor;
            sin_table[(size_t)position * half + i] = (float)fmath_sin(angle) * factor;
        }
    free(inv_freq);
}
