/* statistics.c - what a row's scores say together (statistics.h has the formulas). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "broker/api/statistics.h"
#include "schema/alloc.h"

struct ranked {
    float score;
    uint32_t index;
};

/* Higher scores first, equal ones by index. */
static int compare_ranked(const void *left, const void *right)
{
    const struct ranked *l = left, *r = right;
    if (l->score != r->score)
        return l->score > r->score ? -1 : 1;
    return l->index < r->index ? -1 : 1;
}

/* Fills ranks, best and margin. */
static void rank(struct response_statistics *s, const float *scores, uint32_t n)
{
    struct ranked *order = xcalloc(n, sizeof *order);
    for (uint32_t i = 0; i < n; i++)
        order[i] = (struct ranked){scores[i], i};
    qsort(order, n, sizeof *order, compare_ranked);
    for (uint32_t i = 0; i < n; i++) {
        int is_equal = i > 0 && order[i].score == order[i - 1].score;
        s->ranks[order[i].index] = is_equal ? s->ranks[order[i - 1].index] : i + 1;
    }
    s->best = order[0].index;
    s->margin = n > 1 ? (double)order[0].score - order[1].score : 0;
    free(order);
}

static double mean_of(const float *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i];
    return sum / n;
}

/* Fills mean, std and advantages. */
static void normalize(struct response_statistics *s, const float *scores, uint32_t n)
{
    double squares = 0;
    s->mean = mean_of(scores, n);
    for (uint32_t i = 0; i < n; i++)
        squares += (scores[i] - s->mean) * (scores[i] - s->mean);
    s->std = n > 1 ? sqrt(squares / (n - 1)) : 0;
    for (uint32_t i = 0; i < n; i++)
        s->advantages[i] = s->std > 0 ? (float)((scores[i] - s->mean) / s->std) : 0;
}

void response_statistics_init(struct response_statistics *s, const float *scores, uint32_t n)
{
    *s = (struct response_statistics){
        .ranks = xcalloc(n, sizeof *s->ranks), .advantages = xcalloc(n, sizeof *s->advantages)};
    if (n == 0)
        return;
    rank(s, scores, n);
    normalize(s, scores, n);
}

void response_statistics_release(struct response_statistics *s)
{
    free(s->ranks);
    free(s->advantages);
    memset(s, 0, sizeof *s);
}

struct step_statistics step_statistics(const float *values, uint32_t n)
{
    struct step_statistics s = {
        .min = values[0], .product = 1, .last = values[n - 1], .mean = mean_of(values, n)};
    for (uint32_t i = 0; i < n; i++) {
        s.min = values[i] < s.min ? values[i] : s.min;
        s.product *= values[i];
    }
    return s;
}

struct ensemble_statistics ensemble_statistics(const float *scores, uint32_t n)
{
    struct ensemble_statistics s = {.mean = mean_of(scores, n)};
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += (scores[i] - s.mean) * (scores[i] - s.mean);
    s.std = sqrt(squares / n);
    return s;
}

void ensemble_means(
    const float *scores, uint32_t n_models, uint32_t n, float *means, float *spreads)
{
    float *of_one = xcalloc(n_models, sizeof *of_one);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < n_models; k++)
            of_one[k] = scores[k * n + i];
        struct ensemble_statistics s = ensemble_statistics(of_one, n_models);
        means[i] = (float)s.mean;
        spreads[i] = (float)s.std;
    }
    free(of_one);
}
