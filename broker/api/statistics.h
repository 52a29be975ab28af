/* statistics.h - what a row's scores say together: those of the responses to one prompt, and those
 * of the steps of one solution. Sums are doubles over the float32 scores, in their order. */
#ifndef ASSAY_STATISTICS_H
#define ASSAY_STATISTICS_H

#include <stdint.h>

/* Of the n scores x[0 .. n - 1] of the responses to one prompt:
 *
 *     mean = sum x / n
 *     std = sqrt(sum (x[i] - mean)^2 / (n - 1)), 0 of one score: the sample's standard deviation,
 *           as torch.std has it
 *     advantages[i] = (x[i] - mean) / std, 0 where all scores are equal: GRPO's group-relative
 *           advantage with outcome supervision (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300,
 *           section 4.1.2). TRL adds 1e-4 to std, and verl 1e-6.
 *     ranks[i] = 1 + how many scores are higher, so equal scores have the same rank
 *     best: the index of the highest score, the first of equal ones
 *     margin: the highest score less the second highest; 0 of one score */
struct response_statistics {
    uint32_t best;
    double margin, mean, std;
    uint32_t *ranks;   /* [n] */
    float *advantages; /* [n] */
};

/* Of no scores all is 0. The caller ends *s with response_statistics_release. */
void response_statistics_init(struct response_statistics *s, const float *scores, uint32_t n);
void response_statistics_release(struct response_statistics *s);

/* Of the n values of a solution's steps, n >= 1. */
struct step_statistics {
    double min, product, last, mean;
};
struct step_statistics step_statistics(const float *values, uint32_t n);

/* Of the n scores that several models gave one row: the mean, and the population's standard
 * deviation, sqrt(sum (x[i] - mean)^2 / n), since these models are all that there are. */
struct ensemble_statistics {
    double mean, std;
};
struct ensemble_statistics ensemble_statistics(const float *scores, uint32_t n);

/* Of n sequences that n_models models have scored each, scores[model * n + sequence]: of each the mean
 * and the standard deviation over the models, as float32. */
void ensemble_means(
    const float *scores, uint32_t n_models, uint32_t n, float *means, float *spreads);

#endif
