/* rope.h - cos and sin of every position and frequency, made once.
 *
 * inv_freq[i] = theta^(-2i/d), i = 0 .. d/2-1, then by type (the formulas are those of
 * transformers' modeling_rope_utils):
 *     linear  inv / factor
 *     llama3  wavelengths above original/low_freq_factor: inv / factor; below
 *             original/high_freq_factor: inv; between the two a blend
 *     yarn    inv / factor * (1 - f) + inv * f, f = 1 - clamp((i - low) / (high - low), 0, 1);
 *             cos and sin times attention_factor
 * Each step of these is rounded to float32, as the reference computes them.
 * The angle is float32(position) * float32(inv_freq) rounded to float32, as the reference computes
 * it; its cos and sin are exact to float32 rounding. */
#ifndef ASSAY_ROPE_H
#define ASSAY_ROPE_H

#include "worker/config.h"

void rope_inv_freq(const struct rope_config *r, uint32_t head_dim, float *inv_freq);
/* cos_table, sin_table: [n_positions, head_dim/2] */
void rope_fill(const struct rope_config *r, uint32_t head_dim, uint32_t n_positions,
    float *cos_table, float *sin_table);

#endif
