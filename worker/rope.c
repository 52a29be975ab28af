/* rope.c - see rope.h. */
#include "worker/rope.h"

#include <stdlib.h>

#include "schema/log.h"
#include "worker/cpu/fmath.h"

#define PI 3.14159265358979323846

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
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
        double keep = 1 - clamp((i - low) / (high - low), 0, 1);
        inv_freq[i] = (float)(inv_freq[i] / r->factor * (1 - keep) + inv_freq[i] * keep);
    }
}

static void scale_llama3(const struct rope_config *r, uint32_t head_dim, float *inv_freq)
{
    double longest = r->original_max_position / r->low_freq_factor;
    double shortest = r->original_max_position / r->high_freq_factor;
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        double inv = inv_freq[i], wavelength = 2 * PI / inv;
        double blend = (r->original_max_position / wavelength - r->low_freq_factor) /
                       (r->high_freq_factor - r->low_freq_factor);
        if (wavelength > longest)
            inv = inv / r->factor;
        else if (wavelength >= shortest)
            inv = (1 - blend) * inv / r->factor + blend * inv;
        inv_freq[i] = (float)inv;
    }
}

void rope_inv_freq(const struct rope_config *r, uint32_t head_dim, float *inv_freq)
{
    /* Exponent, power and reciprocal each rounded to float32, as in the reference. */
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)head_dim;
        inv_freq[i] = 1.0f / (float)fmath_pow(r->theta, exponent);
    }
    if (r->type == ROPE_LINEAR)
        for (uint32_t i = 0; i < head_dim / 2; i++)
            inv_freq[i] = (float)(inv_freq[i] / r->factor);
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
