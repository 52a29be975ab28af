/* fmath.c - see fmath.h. Taylor series after reduction of the argument to a small range. A table is
 * computed once, so plain code matters more than speed. Formulas: exp(x) = 2^n exp(r), log(x) = 2
 * atanh((m-1)/(m+1)) + n ln 2, sin and cos by quadrants of pi/2 in three parts (Cody and Waite). */
#include "worker/cpu/fmath.h"

#include <stdint.h>
#include <string.h>

#define LN2_HIGH 6.93147180369123816490e-01 /* 33 bits of ln 2 */
#define LN2_LOW 1.90821492927058770002e-10  /* the rest */
#define PIO2_1 1.57079632673412561417e+00   /* 33 bits of pi/2 */
#define PIO2_2 6.07710050630396597660e-11   /* 33 bits more */
#define PIO2_3 2.02226624879595063154e-21   /* the rest */

double fmath_floor(double x)
{
    double t = (double)(int64_t)x;
    return t > x ? t - 1 : t;
}

static double nearest(double x)
{
    return fmath_floor(x + 0.5);
}

/* x * 2^n for results in the normal range. */
static double scale(double x, int64_t n)
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return x * power;
}

double fmath_exp(double x)
{
    if (x < -700)
        return 0;
    double n = nearest(x / 0.693147180559945309417), r = x - n * LN2_HIGH - n * LN2_LOW;
    double sum = 1;
    for (int k = 16; k >= 1; k--)
        sum = 1 + sum * r / k;
    return scale(sum, (int64_t)n);
}

double fmath_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t n = (int64_t)(bits >> 52) - 1023;
    double m = scale(x, -n);
    if (m > 1.41421356237309504880) {
        m /= 2;
        n++;
    }
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;
    for (int k = 25; k >= 1; k -= 2)
        sum = 1.0 / k + sum * square;
    return 2 * s * sum + (double)n * LN2_LOW + (double)n * LN2_HIGH;
}

double fmath_pow(double x, double y)
{
    return fmath_exp(y * fmath_log(x));
}

static double sin_small(double x)
{
    double square = x * x, sum = 1;
    for (int k = 20; k >= 2; k -= 2)
        sum = 1 - sum * square / (k * (k + 1));
    return x * sum;
}

static double cos_small(double x)
{
    double square = x * x, sum = 1;
    for (int k = 20; k >= 2; k -= 2)
        sum = 1 - sum * square / (k * (k - 1));
    return sum;
}

/* sin(x + quarter * pi/2) */
static double sin_shifted(double x, int64_t quarter)
{
    double n = nearest(x / 1.57079632679489661923);
    double r = ((x - n * PIO2_1) - n * PIO2_2) - n * PIO2_3;
    switch (((int64_t)n + quarter) & 3) {
    case 0:
        return sin_small(r);
    case 1:
        return cos_small(r);
    case 2:
        return -sin_small(r);
    default:
        return -cos_small(r);
    }
}

double fmath_sin(double x)
{
    return sin_shifted(x, 0);
}

double fmath_cos(double x)
{
    return sin_shifted(x, 1);
}
