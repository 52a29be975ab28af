/* fmath.h - double-precision elementary functions for the rope tables: own code, so that a table's
 * bits do not depend on the C library. Relative error below 1e-14 (sin and cos: absolute, for |x|
 * up to 1e6). Only + - * / and rounding to integer are used. */
#ifndef ASSAY_FMATH_H
#define ASSAY_FMATH_H

double fmath_exp(double x);
double fmath_log(double x);           /* x > 0, normal */
double fmath_pow(double x, double y); /* x > 0: exp(y log x) */
double fmath_sin(double x);
double fmath_cos(double x);
double fmath_floor(double x);

#endif
