/* Scalar functions of the elementwise ops: what their C expressions call, for host C and CUDA.
 *
 * Suffixes: f32 float, f64 double, i32 int32_t, i64 int64_t, b8 bool; f16 and bf16 only store.
 * They mean what NumPy means: NaN passes through maximum and minimum, sign(NaN) is NaN. They need
 * strict floating point (no -ffast-math, no contraction); signed overflow wraps under -fwrapv.
 *
 * The float32 functions, and the exponential family of float64, are own polynomials without branch
 * or call: a compiler turns a plain loop over them into vector code, and the vector and the scalar
 * form are one expression, so that a result never depends on where a loop is cut, on the number of
 * threads, or on the C library. The other float64 functions call the C library.
 *
 * Polynomials are minimax fits of the function named beside them over the interval named there,
 * made by Remez exchange in 40 digits and rounded; docs/accuracy.md holds the measured errors.
 * Reductions of the argument follow Cody and Waite 1980, Software Manual for the Elementary
 * Functions: a multiple of a constant is taken off in two parts, the first so short that its
 * product is exact.
 */
#ifndef GX_SCALAR_H
#define GX_SCALAR_H

/* -- the two dialects: integers of known width, bit casts, fused multiply-add */

#ifdef __CUDACC__
#ifdef __CUDACC_RTC__ /* NVRTC has no headers */
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned short uint16_t;
#else
#include <stdint.h>
#endif
#define GX_INLINE static __device__ __forceinline__
GX_INLINE uint32_t gx_bits_f32(float x) { return __float_as_uint(x); }
GX_INLINE uint64_t gx_bits_f64(double x) { return (uint64_t)__double_as_longlong(x); }
GX_INLINE float gx_from_bits_f32(uint32_t bits) { return __uint_as_float(bits); }
GX_INLINE double gx_from_bits_f64(uint64_t bits) { return __longlong_as_double((int64_t)bits); }
GX_INLINE float gx_fma_f32(float x, float y, float z) { return __fmaf_rn(x, y, z); }
GX_INLINE double gx_fma_f64(double x, double y, double z) { return __fma_rn(x, y, z); }
#else
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#define GX_INLINE static inline __attribute__((always_inline)) /* else loops would not vectorise */
GX_INLINE uint32_t gx_bits_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
GX_INLINE uint64_t gx_bits_f64(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
GX_INLINE float gx_from_bits_f32(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
GX_INLINE double gx_from_bits_f64(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
/* Where the processor has no fused multiply-add, the C library's would cost a call: every use below
 * is accurate with two roundings, too. */
#if defined __FP_FAST_FMAF || defined __FMA__ || defined __ARM_FEATURE_FMA
GX_INLINE float gx_fma_f32(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
GX_INLINE double gx_fma_f64(double x, double y, double z) { return __builtin_fma(x, y, z); }
#else
GX_INLINE float gx_fma_f32(float x, float y, float z) { return x * y + z; }
GX_INLINE double gx_fma_f64(double x, double y, double z) { return x * y + z; }
#endif
#endif

/* A size: x / y rounded down, for y > 0. */
GX_INLINE int64_t gx_floor_divide(int64_t x, int64_t y) { return x / y - (x % y < 0); }

/* -- order and sign; where a maximum or a minimum starts; whether a value beats the best so far */

#define GX_ORDER(t, T)                                                                             \
    GX_INLINE T gx_maximum_##t(T x, T y)                                                           \
    {                                                                                              \
        T larger = x > y ? x : y; /* y, if either is NaN: what one instruction of x86 does */      \
        return x != x ? x : larger;                                                                \
    }                                                                                              \
    GX_INLINE T gx_minimum_##t(T x, T y)                                                           \
    {                                                                                              \
        T smaller = x < y ? x : y;                                                                 \
        return x != x ? x : smaller;                                                               \
    }                                                                                              \
    GX_INLINE bool gx_beats_max_##t(T x, T best)                                                   \
    {                                                                                              \
        return (x > best) | ((x != x) & (best == best)); /* the first NaN wins */                  \
    }                                                                                              \
    GX_INLINE bool gx_beats_min_##t(T x, T best)                                                   \
    {                                                                                              \
        return (x < best) | ((x != x) & (best == best));                                           \
    }

#define GX_LIMITS(t, T, lowest, highest)                                                           \
    GX_INLINE T gx_lowest_##t(void) { return lowest; }                                             \
    GX_INLINE T gx_highest_##t(void) { return highest; }

#define GX_ALWAYS_FINITE(t, T)                                                                     \
    GX_INLINE bool gx_isfinite_##t(T x) { return (void)x, true; }                                  \
    GX_INLINE bool gx_isnan_##t(T x) { return (void)x, false; }

#define GX_SIGNED_INTEGER(t, T, U)                                                                 \
    GX_ORDER(t, T)                                                                                 \
    GX_INLINE T gx_abs_##t(T x) { return x < 0 ? (T)(0 - (U)x) : x; }                              \
    GX_INLINE T gx_sign_##t(T x) { return (T)((x > 0) - (x < 0)); }                                \
    GX_ALWAYS_FINITE(t, T)                                                                         \
    GX_INLINE T gx_invert_##t(T x) { return ~x; }                                                  \
    GX_INLINE T gx_power_##t(T base, T exponent)                                                   \
    {                                                                                              \
        U result = 1, factor = (U)base; /* unsigned: wraps as NumPy's does */                      \
        for (; exponent > 0; exponent >>= 1, factor *= factor)                                     \
            if (exponent & 1)                                                                      \
                result *= factor;                                                                  \
        return (T)result;                                                                          \
    }

GX_SIGNED_INTEGER(i32, int32_t, uint32_t)
GX_SIGNED_INTEGER(i64, int64_t, uint64_t)
GX_ORDER(b8, bool)
GX_ORDER(f32, float)
GX_ORDER(f64, double)

GX_ALWAYS_FINITE(b8, bool)
GX_INLINE bool gx_invert_b8(bool x) { return !x; }

GX_INLINE float gx_infinity_f32(void) { return gx_from_bits_f32(0x7f800000u); }
GX_INLINE double gx_infinity_f64(void) { return gx_from_bits_f64(0x7ff0000000000000u); }
GX_INLINE float gx_nan_f32(void) { return gx_from_bits_f32(0x7fc00000u); }
GX_INLINE double gx_nan_f64(void) { return gx_from_bits_f64(0x7ff8000000000000u); }

GX_LIMITS(b8, bool, false, true)
GX_LIMITS(i32, int32_t, -0x7fffffff - 1, 0x7fffffff)
GX_LIMITS(i64, int64_t, (int64_t)(-0x7fffffffffffffff - 1), (int64_t)0x7fffffffffffffff)
GX_LIMITS(f32, float, -gx_infinity_f32(), gx_infinity_f32())
GX_LIMITS(f64, double, -gx_infinity_f64(), gx_infinity_f64())

#define GX_FLOAT(t, T, f)                                                                          \
    GX_INLINE T gx_abs_##t(T x) { return fabs##f(x); }                                             \
    GX_INLINE T gx_floor_##t(T x) { return floor##f(x); }                                          \
    GX_INLINE T gx_sqrt_##t(T x) { return sqrt##f(x); }                                            \
    GX_INLINE bool gx_isfinite_##t(T x) { return x - x == 0; } /* inf - inf is NaN */              \
    GX_INLINE bool gx_isnan_##t(T x) { return x != x; }

GX_FLOAT(f32, float, f)
GX_FLOAT(f64, double, )

/* `magnitude` >= 0 with the sign of x: for odd functions, -0 included */
GX_INLINE float gx_signed_f32(float magnitude, float x)
{
    return gx_from_bits_f32(gx_bits_f32(magnitude) | (gx_bits_f32(x) & 0x80000000u));
}
GX_INLINE double gx_signed_f64(double magnitude, double x)
{
    return gx_from_bits_f64(gx_bits_f64(magnitude) | (gx_bits_f64(x) & 0x8000000000000000u));
}
GX_INLINE float gx_sign_f32(float x)
{
    float sign = x == 0 ? 0 : gx_signed_f32(1, x);
    return x != x ? x : sign;
}
GX_INLINE double gx_sign_f64(double x)
{
    double sign = x == 0 ? 0 : gx_signed_f64(1, x);
    return x != x ? x : sign;
}

/* -- the exponential family, for both widths
 *
 * Rounding: adding GX_ROUND, 1.5 times 2^(bits of the fraction), leaves x rounded to a whole number
 * in the low bits; with the exponent's bias added as well, a shift makes them a power of two.
 */

#define GX_FRACTION_f32 23
#define GX_FRACTION_f64 52
#define GX_BIAS_f32 127
#define GX_BIAS_f64 1023
#define GX_ROUND_f32 12582912.0f
#define GX_ROUND_f64 6755399441055744.0
#define GX_ONE_f32 0x3f800000u /* the bits of 1 */
#define GX_ONE_f64 0x3ff0000000000000u
#define GX_TWO_THIRDS_f32 0x3f2aaaabu
#define GX_TWO_THIRDS_f64 0x3fe5555555555555u
#define GX_NORMAL_f32 1.17549435e-38f /* the smallest that is not denormal */
#define GX_NORMAL_f64 2.2250738585072014e-308
#define GX_LIFT_f32 16777216.0f /* 2^(bits of the fraction + 1), the inverse of the precision */
#define GX_LIFT_f64 9007199254740992.0
#define GX_LOG2E_f32 1.44269504f
#define GX_LOG2E_f64 1.4426950408889634
#define GX_LN2_f32 0.693147181f
#define GX_LN2_f64 0.6931471805599453
#define GX_LN2_HIGH_f32 0.693145752f /* 16 bits: exact times |n| < 2^8 */
#define GX_LN2_HIGH_f64 0.6931471805598903 /* 42 bits: exact times |n| < 2^11 */
#define GX_LN2_LOW_f32 1.42860677e-6f
#define GX_LN2_LOW_f64 5.497923018708371e-14
#define GX_EXP_HIGHEST_f32 89.0f /* above, e^x is inf; below the lowest, 0 */
#define GX_EXP_HIGHEST_f64 710.0
#define GX_EXP_LOWEST_f32 -104.0f
#define GX_EXP_LOWEST_f64 -746.0

/* e^r - 1 = r + r^2 q(r) for |r| < ln(2)/2, error 2^-26 of the result */
GX_INLINE float gx_expm1_series_f32(float r)
{
    float q = 0.00138824922f;
    q = gx_fma_f32(q, r, 0.00836669188f);
    q = gx_fma_f32(q, r, 0.0416672044f);
    q = gx_fma_f32(q, r, 0.16666542f);
    q = gx_fma_f32(q, r, 0.49999997f);
    return gx_fma_f32(r * r, q, r);
}

/* The same, error 2^-55. */
GX_INLINE double gx_expm1_series_f64(double r)
{
    double q = 2.5053768202871885e-08;
    q = gx_fma_f64(q, r, 2.762639199655069e-07);
    q = gx_fma_f64(q, r, 2.755740849368497e-06);
    q = gx_fma_f64(q, r, 2.4801504426647904e-05);
    q = gx_fma_f64(q, r, 0.00019841269717078597);
    q = gx_fma_f64(q, r, 0.0013888888932227462);
    q = gx_fma_f64(q, r, 0.008333333333390725);
    q = gx_fma_f64(q, r, 0.04166666666657489);
    q = gx_fma_f64(q, r, 0.16666666666666588);
    q = gx_fma_f64(q, r, 0.5000000000000006);
    return gx_fma_f64(r * r, q, r);
}

/* ln(1 + f) = f + f^2 q(f) for |f| <= 1/3, error 2^-25 of the result */
GX_INLINE float gx_log1p_series_f32(float f)
{
    float q = 0.140262991f;
    q = gx_fma_f32(q, f, -0.153885454f);
    q = gx_fma_f32(q, f, 0.139958203f);
    q = gx_fma_f32(q, f, -0.164159611f);
    q = gx_fma_f32(q, f, 0.200111672f);
    q = gx_fma_f32(q, f, -0.250078201f);
    q = gx_fma_f32(q, f, 0.333331972f);
    q = gx_fma_f32(q, f, -0.499999374f);
    return gx_fma_f32(f * f, q, f);
}

/* ln(1 + f) = 2 artanh s, s = f / (2 + f), written so that f, which is exact, leads (the form of
 * Sun's fdlibm): f - (h - s (h + z q(z))), h = f^2 / 2, z = s^2; q for z <= 1/25, error 2^-55 */
GX_INLINE double gx_log1p_series_f64(double f)
{
    double s = f / (2 + f), z = s * s, h = 0.5 * f * f;
    double q = 0.15368743929900405;
    q = gx_fma_f64(q, z, 0.15250117694236093);
    q = gx_fma_f64(q, z, 0.181863595999389);
    q = gx_fma_f64(q, z, 0.2222213841571808);
    q = gx_fma_f64(q, z, 0.28571429396335307);
    q = gx_fma_f64(q, z, 0.3999999999615589);
    q = gx_fma_f64(q, z, 0.6666666666667272);
    return f - (h - s * gx_fma_f64(z, q, h));
}

/* k ln 2 + y */
GX_INLINE float gx_add_ln2_f32(float k, float y) { return gx_fma_f32(k, GX_LN2_f32, y); }
GX_INLINE double gx_add_ln2_f64(double k, double y)
{
    return gx_fma_f64(k, GX_LN2_HIGH_f64, gx_fma_f64(k, GX_LN2_LOW_f64, y));
}

#define GX_EXPONENTIAL(t, T, U)                                                                    \
    /* 2^n, n + bias in the low bits of a rounded number */                                        \
    GX_INLINE T gx_scale_##t(T rounded)                                                            \
    {                                                                                              \
        return gx_from_bits_##t(gx_bits_##t(rounded) << GX_FRACTION_##t);                          \
    }                                                                                              \
    /* x - n ln 2 */                                                                               \
    GX_INLINE T gx_minus_ln2_##t(T x, T n)                                                         \
    {                                                                                              \
        return gx_fma_##t(n, -GX_LN2_LOW_##t, gx_fma_##t(n, -GX_LN2_HIGH_##t, x));                 \
    }                                                                                              \
    /* (1 + w) 2^n for bits with n + 2 bias in the low ones; 2^n alone may not be a number */      \
    GX_INLINE T gx_times_power_##t(T w, U bits)                                                    \
    {                                                                                              \
        U half = bits >> 1;                                                                        \
        T first = gx_from_bits_##t(half << GX_FRACTION_##t);                                       \
        T second = gx_from_bits_##t((bits - half) << GX_FRACTION_##t);                             \
        return gx_fma_##t(w, first, first) * second; /* one rounding where denormal */             \
    }                                                                                              \
    GX_INLINE T gx_exp_##t(T x)                                                                    \
    {                                                                                              \
        const T round = GX_ROUND_##t + 2 * GX_BIAS_##t;                                            \
        T n = gx_fma_##t(x, GX_LOG2E_##t, round);                                                  \
        T w = gx_expm1_series_##t(gx_minus_ln2_##t(x, n - round));                                 \
        T y = gx_times_power_##t(w, gx_bits_##t(n));                                               \
        y = x < GX_EXP_LOWEST_##t ? 0 : y;                                                         \
        return x > GX_EXP_HIGHEST_##t ? gx_infinity_##t() : y;                                     \
    }                                                                                              \
    /* (2^n - 1) + 2^n (e^r - 1), of half of all: 2^n itself overflows before the result does */   \
    GX_INLINE T gx_expm1_##t(T x)                                                                  \
    {                                                                                              \
        const T round = GX_ROUND_##t + (GX_BIAS_##t - 1);                                          \
        T n = gx_fma_##t(x, GX_LOG2E_##t, round), s = gx_scale_##t(n);                             \
        T w = gx_expm1_series_##t(gx_minus_ln2_##t(x, n - round));                                 \
        T half = gx_fma_##t(s, w, s - (T)0.5), y = half + half;                                    \
        y = gx_abs_##t(x) < 1 / GX_LIFT_##t ? x : y; /* keeps -0 and denormals */                  \
        y = x < -40 ? (T)-1 : y;                                                                   \
        return x > GX_EXP_HIGHEST_##t ? gx_infinity_##t() : y;                                     \
    }                                                                                              \
    /* 1 / (1 + e^-x), both terms over 2^(bits of the fraction + 1): so e^-x never overflows,      \
     * and the quotient is right where it is denormal */                                           \
    GX_INLINE T gx_sigmoid_##t(T x)                                                                \
    {                                                                                              \
        const T round = GX_ROUND_##t + (GX_BIAS_##t - GX_FRACTION_##t - 1);                        \
        T n = gx_fma_##t(x, -GX_LOG2E_##t, round), s = gx_scale_##t(n);                            \
        T w = gx_expm1_series_##t(gx_minus_ln2_##t(-x, n - round));                                \
        T y = 1 / GX_LIFT_##t / gx_fma_##t(s, w, s + 1 / GX_LIFT_##t);                             \
        y = x < GX_EXP_LOWEST_##t ? 0 : y;                                                         \
        return x > 60 ? (T)1 : y;                                                                  \
    }                                                                                              \
    /* m / (m + 2), m = e^2|x| - 1 */                                                              \
    GX_INLINE T gx_tanh_##t(T x)                                                                   \
    {                                                                                              \
        const T round = GX_ROUND_##t + GX_BIAS_##t;                                                \
        T size = gx_abs_##t(x), twice = size + size;                                               \
        T n = gx_fma_##t(twice, GX_LOG2E_##t, round), s = gx_scale_##t(n);                         \
        T w = gx_expm1_series_##t(gx_minus_ln2_##t(twice, n - round));                             \
        T m = gx_fma_##t(s, w, s - 1), y = m / (m + 2);                                            \
        return gx_signed_##t(size > 20 ? (T)1 : y, x);                                             \
    }                                                                                              \
    /* k + bias for x = 2^k m, m in [2/3, 4/3) */                                                  \
    GX_INLINE U gx_exponent_##t(T x)                                                               \
    {                                                                                              \
        return (gx_bits_##t(x) + (GX_ONE_##t - GX_TWO_THIRDS_##t)) >> GX_FRACTION_##t;             \
    }                                                                                              \
    /* k from k + bias, by bits: processors convert 64-bit integers slowly */                      \
    GX_INLINE T gx_unbiased_##t(U exponent)                                                        \
    {                                                                                              \
        const T round = GX_ROUND_##t;                                                              \
        return gx_from_bits_##t(exponent + gx_bits_##t(round)) - (round + GX_BIAS_##t);            \
    }                                                                                              \
    /* By how many powers of two to lift x, so that it is not denormal; then x lifted. Arithmetic, \
     * where a choice would make compilers compute all that follows twice */                       \
    GX_INLINE U gx_lift_##t(T x) { return -(U)(x < GX_NORMAL_##t) & (GX_FRACTION_##t + 1); }       \
    GX_INLINE T gx_lifted_##t(T x, U lift)                                                         \
    {                                                                                              \
        return x * gx_from_bits_##t(GX_ONE_##t + (lift << GX_FRACTION_##t));                       \
    }                                                                                              \
    GX_INLINE T gx_mantissa_##t(T x, U exponent)                                                   \
    {                                                                                              \
        return gx_from_bits_##t(gx_bits_##t(x) - (exponent << GX_FRACTION_##t) + GX_ONE_##t);      \
    }                                                                                              \
    /* A logarithm y put right where x is none of the positive numbers; by a mask, where two       \
     * conditions joined would keep compilers from vectorising what calls it */                    \
    GX_INLINE T gx_log_domain_##t(T x, T y)                                                        \
    {                                                                                              \
        T special = x < 0 ? gx_nan_##t() : x; /* inf and NaN are their own logarithms */           \
        special = x == 0 ? -gx_infinity_##t() : special;                                           \
        U regular = -((U)(x > 0) & (U)(x < gx_infinity_##t()));                                    \
        return gx_from_bits_##t((gx_bits_##t(y) & regular) | (gx_bits_##t(special) & ~regular));   \
    }                                                                                              \
    GX_INLINE T gx_log_##t(T x)                                                                    \
    {                                                                                              \
        U lift = gx_lift_##t(x), exponent;                                                         \
        x = gx_lifted_##t(x, lift);                                                                \
        exponent = gx_exponent_##t(x);                                                             \
        T k = gx_unbiased_##t(exponent - lift);                                                    \
        T y = gx_log1p_series_##t(gx_mantissa_##t(x, exponent) - 1);                               \
        return gx_log_domain_##t(x, gx_add_ln2_##t(k, y));                                         \
    }                                                                                              \
    /* k from 1 + x rounded, but f = (1 + x) / 2^k - 1 = x s + (s - 1) from x itself, s = 2^-k.    \
     * s is made 2^64 times too large: 2^-k is denormal for the largest x. */                      \
    GX_INLINE T gx_log1p_##t(T x)                                                                  \
    {                                                                                              \
        U exponent = gx_exponent_##t(1 + x);                                                       \
        U inverse = 2 * GX_BIAS_##t + 64 - exponent;                                               \
        T s = gx_from_bits_##t(inverse << GX_FRACTION_##t) * (T)5.421010862427522e-20;             \
        T y = gx_log1p_series_##t(gx_fma_##t(x, s, s - 1));                                        \
        y = gx_log_domain_##t(1 + x, gx_add_ln2_##t(gx_unbiased_##t(exponent), y));                \
        return gx_abs_##t(x) < 1 / GX_LIFT_##t ? x : y; /* keeps -0 and denormals */               \
    }                                                                                              \
    /* max(x, 0) + ln(1 + e), e = e^-|x| <= 1: k = 1 where e is above 1/3, else 0, and as in log1p \
     * f = e s + (s - 1), s = 2^-k. NaN comes through e. */                                        \
    GX_INLINE T gx_softplus_##t(T x)                                                               \
    {                                                                                              \
        T e = gx_exp_##t(-gx_abs_##t(x));                                                          \
        U halved = -(U)(3 * e > 1) & ((U)1 << GX_FRACTION_##t);                                    \
        T s = gx_from_bits_##t(GX_ONE_##t - halved);                                               \
        T y = gx_log1p_series_##t(gx_fma_##t(e, s, s - 1));                                        \
        return (x > 0 ? x : 0) + gx_add_ln2_##t(2 - 2 * s, y);                                     \
    }

GX_EXPONENTIAL(f32, float, uint32_t)
GX_EXPONENTIAL(f64, double, uint64_t)

/* -- the rest of float32 */

/* 2^r - 1 = r q(r) for |r| <= 1/2, error 2^-28 of 2^r */
GX_INLINE float gx_exp2_f32(float x)
{
    const float round = GX_ROUND_f32 + 2 * GX_BIAS_f32;
    float n = x + round, r = x - (n - round), q = 0.000153531408f;
    q = gx_fma_f32(q, r, 0.00133991323f);
    q = gx_fma_f32(q, r, 0.00961843971f);
    q = gx_fma_f32(q, r, 0.0555033199f);
    q = gx_fma_f32(q, r, 0.240226477f);
    q = gx_fma_f32(q, r, 0.693147182f);
    float y = gx_times_power_f32(r * q, gx_bits_f32(n));
    y = x < -151 ? 0 : y;
    return x >= 128 ? gx_infinity_f32() : y;
}

/* k + log2(1 + f), log2(1 + f) = f q(f) for |f| <= 1/3, error 2^-25 of the result */
GX_INLINE float gx_log2_f32(float x)
{
    uint32_t lift = gx_lift_f32(x), exponent;
    x = gx_lifted_f32(x, lift);
    exponent = gx_exponent_f32(x);
    float k = gx_unbiased_f32(exponent - lift);
    float f = gx_mantissa_f32(x, exponent) - 1, q = 0.202787653f;
    q = gx_fma_f32(q, f, -0.222221628f);
    q = gx_fma_f32(q, f, 0.201798931f);
    q = gx_fma_f32(q, f, -0.23678644f);
    q = gx_fma_f32(q, f, 0.288711339f);
    q = gx_fma_f32(q, f, -0.360789567f);
    q = gx_fma_f32(q, f, 0.480895966f);
    q = gx_fma_f32(q, f, -0.721346557f);
    q = gx_fma_f32(q, f, 1.44269502f);
    return gx_log_domain_f32(x, gx_fma_f32(f, q, k));
}

/* |x| and what sinh and cosh share: e^r = even + odd, 2^(n-2) + 2^-(n+2) and their difference; of
 * half the result, as cosh may be a number where e^|x| is none */
typedef struct {
    float even, odd, sum, difference;
} GxHyperbolic;

GX_INLINE GxHyperbolic gx_hyperbolic_f32(float size)
{
    const float round = GX_ROUND_f32 + (GX_BIAS_f32 - 2);
    float n = gx_fma_f32(size, GX_LOG2E_f32, round), up = gx_scale_f32(n);
    /* 2^(30-n): in range for all n, which 2^-(n+2) is not */
    uint32_t inverse = 2 * GX_BIAS_f32 + 28 - gx_bits_f32(n);
    float down = gx_from_bits_f32(inverse << GX_FRACTION_f32) * 2.32830644e-10f;
    float r = gx_minus_ln2_f32(size, n - round), z = r * r;
    /* cosh r = 1 + z b(z), sinh r = r + r z a(z), |r| < ln(2)/2, errors 2^-34 and 2^-37 */
    float b = gx_fma_f32(gx_fma_f32(0.00139465265f, z, 0.0416662619f), z, 0.5f);
    float a = gx_fma_f32(gx_fma_f32(0.000199052898f, z, 0.00833328813f), z, 0.166666672f);
    GxHyperbolic parts = {gx_fma_f32(z, b, 1), gx_fma_f32(r * z, a, r), up + down, up - down};
    return parts;
}

GX_INLINE float gx_sinh_f32(float x)
{
    float size = gx_abs_f32(x);
    GxHyperbolic h = gx_hyperbolic_f32(size);
    float half = gx_fma_f32(h.difference, h.even, h.sum * h.odd), y = half + half;
    y = size < 0.0001f ? size : y; /* keeps denormals */
    return gx_signed_f32(size > 89.5f ? gx_infinity_f32() : y, x);
}

GX_INLINE float gx_cosh_f32(float x)
{
    float size = gx_abs_f32(x);
    GxHyperbolic h = gx_hyperbolic_f32(size);
    float half = gx_fma_f32(h.sum, h.even, h.difference * h.odd);
    return size > 89.5f ? gx_infinity_f32() : half + half;
}

/* -expm1(-a q(a)), a q(a) = -ln erfc a for a < 3.95, error 2^-27 of erf a; above, erf is 1 */
GX_INLINE float gx_erf_f32(float x)
{
    const float round = GX_ROUND_f32 + GX_BIAS_f32;
    float size = gx_abs_f32(x), a = size > 3.95f ? 3.95f : size, q = -9.25608493e-6f;
    q = gx_fma_f32(q, a, 0.000117639785f);
    q = gx_fma_f32(q, a, -0.00063283206f);
    q = gx_fma_f32(q, a, 0.00166701979f);
    q = gx_fma_f32(q, a, -0.00016038974f);
    q = gx_fma_f32(q, a, -0.019153066f);
    q = gx_fma_f32(q, a, 0.102777831f);
    q = gx_fma_f32(q, a, 0.636619389f);
    q = gx_fma_f32(q, a, -5.86353834e-08f); /* 2 / sqrt(pi), which leads, in two parts */
    float y = gx_fma_f32(a, q, a * 1.12837923f);
    float n = gx_fma_f32(y, -GX_LOG2E_f32, round), s = gx_scale_f32(n);
    float w = gx_expm1_series_f32(gx_fma_f32(n - round, -GX_LN2_f32, -y));
    return gx_signed_f32(gx_fma_f32(-s, w, 1 - s), x);
}

/* 2^x in double for |x| < 1000: 2^r - 1 = r q(r) for |r| <= 1/2, error 2^-34 of 2^r */
GX_INLINE double gx_exp2_wide(double x)
{
    const double round = GX_ROUND_f64 + GX_BIAS_f64;
    double n = x + round, r = x - (n - round), s = gx_scale_f64(n), q = 1.5195941483804e-05;
    q = gx_fma_f64(q, r, 0.00015467008522777547);
    q = gx_fma_f64(q, r, 0.0013333938013768481);
    q = gx_fma_f64(q, r, 0.00961803740623752);
    q = gx_fma_f64(q, r, 0.05550410360065591);
    q = gx_fma_f64(q, r, 0.2402265107099556);
    q = gx_fma_f64(q, r, 0.6931471807068238);
    return gx_fma_f64(r * q, s, s);
}

/* log2 of |x| in double, of any float that is not 0, inf or NaN: k + s q(s^2), s = f / (2 + f),
 * for |f| <= 1/3, error 2^-42 of the second term */
GX_INLINE double gx_log2_wide(double size)
{
    uint64_t exponent = gx_exponent_f64(size);
    double f = gx_mantissa_f64(size, exponent) - 1, s = f / (2 + f), z = s * s;
    double q = 0.2908057268469068;
    q = gx_fma_f64(q, z, 0.31928735493826566);
    q = gx_fma_f64(q, z, 0.41222610065591325);
    q = gx_fma_f64(q, z, 0.5770777565138824);
    q = gx_fma_f64(q, z, 0.9617966948214282);
    q = gx_fma_f64(q, z, 2.885390081777427);
    return gx_fma_f64(s, q, gx_unbiased_f64(exponent));
}

/* e^(-a^2) e(a), e(a) = e^(a^2) erfc a as a polynomial of t = (a - 3) / (a + 3) for a < 10.1, error
 * 2^-29; the mapping is that of Shepherd and Laframboise 1981. In double, since an error of a^2 is
 * an error of the result a hundred times as large. */
GX_INLINE float gx_erfc_f32(float x)
{
    double size = gx_abs_f32(x), a = size > 10.5 ? 10.5 : size, t = (a - 3) / (a + 3);
    double e = 5.586336454222537e-05;
    e = gx_fma_f64(e, t, 2.875696778750583e-05);
    e = gx_fma_f64(e, t, -0.0005946262711771371);
    e = gx_fma_f64(e, t, 0.0007157869855827976);
    e = gx_fma_f64(e, t, 0.0042689193230738285);
    e = gx_fma_f64(e, t, -0.02439423823446038);
    e = gx_fma_f64(e, t, 0.07166585584461482);
    e = gx_fma_f64(e, t, -0.15011578168756412);
    e = gx_fma_f64(e, t, 0.24560379806385388);
    e = gx_fma_f64(e, t, -0.3262335638246152);
    e = gx_fma_f64(e, t, 0.17900115126016777);
    double y = e * gx_exp2_wide(a * a * -GX_LOG2E_f64);
    return (float)(x < 0 ? 2 - y : y);
}

/* 2^(y log2 |x|), in double, then the cases of C99 (F.9.4.4) by choice: NaN for negative x and y
 * that is not whole, the sign of x for odd y, 1 for y = 0 or x = 1 whatever the other is */
GX_INLINE float gx_power_f32(float x, float y)
{
    float size = gx_abs_f32(x), infinity = gx_infinity_f32();
    /* by masks here and below, where compilers would turn choices into branches */
    uint32_t extreme = gx_bits_f32(size) & -(uint32_t)!(size < infinity); /* inf and NaN */
    extreme |= gx_bits_f32(-infinity) & -(uint32_t)(size == 0);
    double t = (gx_log2_wide(size) + gx_from_bits_f32(extreme)) * y;
    t = t > 200 ? 200 : t;
    t = t < -200 ? -200 : t;
    float result = (float)gx_exp2_wide(t);
    /* Whole numbers and their parity: below 2^23 rounded by an addition; from there on every float
     * is whole, from 2^24 on even. */
    float n = gx_abs_f32(y), rounded = n + 8388608.0f;
    uint32_t below = n < 8388608.0f, between = (uint32_t)(n < 16777216.0f) & ~below;
    uint32_t whole = (uint32_t)(n >= 8388608.0f) | (uint32_t)(rounded - 8388608.0f == n);
    uint32_t odd = (gx_bits_f32(rounded) & below) | (gx_bits_f32(n) & between);
    uint32_t bits = gx_bits_f32(result) ^ ((odd & whole) << 31 & gx_bits_f32(x));
    uint32_t undefined = (uint32_t)(x < 0) & (uint32_t)(size < infinity) & ~whole;
    uint32_t unit = (uint32_t)(x == -1) & (uint32_t)(n == infinity);
    uint32_t one = -(unit | (uint32_t)(x == 1) | (uint32_t)(y == 0));
    bits |= -(undefined & 1); /* all bits set are a NaN */
    return gx_from_bits_f32((bits & ~one) | (GX_ONE_f32 & one));
}

/* arctan z = z + z^3 q(z^2) for z <= 1, error 2^-25 of the result; above, pi/2 - arctan 1/z */
GX_INLINE float gx_arctan_f32(float x)
{
    float size = gx_abs_f32(x);
    bool large = size > 1;
    float z = (large ? 1 : size) / (large ? size : 1), s = z * z, q = 0.00292065903f;
    q = gx_fma_f32(q, s, -0.0163677931f);
    q = gx_fma_f32(q, s, 0.0432116389f);
    q = gx_fma_f32(q, s, -0.0755219534f);
    q = gx_fma_f32(q, s, 0.106659956f);
    q = gx_fma_f32(q, s, -0.142110527f);
    q = gx_fma_f32(q, s, 0.199937731f);
    q = gx_fma_f32(q, s, -0.333331525f);
    float y = gx_fma_f32(z * s, q, z);
    return gx_signed_f32(large ? 1.57079633f - y : y, x);
}

/* An angle as turns: the fraction of turns, |near| <= 1/2, the part that may still hold whole ones,
 * a correction; the parity of the whole turns taken off is the last bit of `parity` */
typedef struct {
    double near, middle, far;
    uint64_t parity;
} GxTurns;

/* |x| unit / pi, for units of 1 and 2. With y = |x| / 2^(21 a), a chosen so that y < 2^44, it is
 * y times 2^(21 a) / pi less a multiple of 2, held as two floats of 24 bits after one another and
 * the rest: both products are exact in double, since y has 24 bits, too. The error of the fraction
 * is 2^-57 of a turn, which leaves 26 good bits of the float nearest to a multiple of pi/2. It is
 * the reduction of Payne and Hanek 1983, by choice between five windows instead of by a table:
 * without branch or gather. inf and NaN give NaN. */
GX_INLINE GxTurns gx_turns_f32(float x, double unit)
{
    float size = gx_abs_f32(x), scale = 1, first = 0.318309903f, second = -1.69610459e-08f;
    double third = 1.46854777018591e-16;
    bool above = size >= 1.75921860e13f; /* 2^44, 2^65, ... */
    scale = above ? 4.76837158e-07f : scale;
    first = above ? 0.214430094f : first;
    second = above ? 1.52091388e-08f : second;
    third = above ? -8.540537656840852e-16 : third;
    above = size >= 3.68934881e19f;
    scale = above ? 2.27373675e-13f : scale;
    first = above ? 0.531895876f : first;
    second = above ? -1.79107928e-09f : second;
    third = above ? -1.2779267109918958e-15 : third;
    above = size >= 7.73712525e25f;
    scale = above ? 1.08420217e-19f : scale;
    first = above ? 0.496243834f : first;
    second = above ? -2.68000377e-09f : second;
    third = above ? -2.7833522030545516e-15 : third;
    above = size >= 1.62259277e32f;
    scale = above ? 5.16987883e-26f : scale;
    first = above ? 0.74437964f : first;
    second = above ? -2.07382769e-08f : second;
    third = above ? 3.0403563214944917e-15 : third;
    double y = (double)(size * scale) * unit, turns = y * (double)first;
    double whole = turns + GX_ROUND_f64;
    GxTurns parts = {turns - (whole - GX_ROUND_f64), y * (double)second, y * third,
                     gx_bits_f64(whole)};
    return parts;
}

/* near + middle + far less the nearest whole number plus `offset`; in an order without rounding
 * where little is left */
GX_INLINE double gx_fraction_of_turn(GxTurns turns, double offset, uint64_t *parity)
{
    double whole = (turns.near + turns.middle - offset) + GX_ROUND_f64;
    *parity = turns.parity + gx_bits_f64(whole);
    return ((turns.near - offset - (whole - GX_ROUND_f64)) + turns.middle) + turns.far;
}

/* sin(pi r) = r q(r^2) for |r| <= 1/2, error 2^-35; the sign from the parity of whole half turns */
GX_INLINE double gx_sin_half_turn(double r, uint64_t parity)
{
    double z = r * r, q = -0.007021468877380383;
    q = gx_fma_f64(q, z, 0.08204607795534073);
    q = gx_fma_f64(q, z, -0.5992512496528378);
    q = gx_fma_f64(q, z, 2.550163233774199);
    q = gx_fma_f64(q, z, -5.167712761930992);
    q = gx_fma_f64(q, z, 3.1415926535225203);
    return gx_from_bits_f64(gx_bits_f64(r * q) ^ (parity << 63));
}

GX_INLINE double gx_sin_turns(GxTurns turns)
{
    uint64_t parity;
    double r = gx_fraction_of_turn(turns, 0, &parity);
    return gx_sin_half_turn(r, parity);
}

/* cos(pi (k + 1/2 + r)) = -(-1)^k sin(pi r) */
GX_INLINE double gx_cos_turns(GxTurns turns)
{
    uint64_t parity;
    double r = gx_fraction_of_turn(turns, 0.5, &parity);
    return gx_sin_half_turn(r, parity + 1);
}

GX_INLINE float gx_sin_f32(float x)
{
    float y = (float)gx_sin_turns(gx_turns_f32(x, 1));
    return gx_from_bits_f32(gx_bits_f32(y) ^ (gx_bits_f32(x) & 0x80000000u));
}

GX_INLINE float gx_cos_f32(float x) { return (float)gx_cos_turns(gx_turns_f32(x, 1)); }

/* sin(pi/2 r) = r a(r^2) and cos(pi/2 r) = b(r^2), quarter turns |r| <= 1/2, errors 2^-37, 2^-34;
 * in odd quarters the tangent is -cos / sin */
GX_INLINE float gx_tan_f32(float x)
{
    uint64_t parity;
    double r = gx_fraction_of_turn(gx_turns_f32(x, 2), 0, &parity), z = r * r;
    double a = 0.00015819058809391607, b = 0.0009033308222143127;
    a = gx_fma_f64(a, z, -0.004681258648488967);
    b = gx_fma_f64(b, z, -0.020859921600877213);
    a = gx_fma_f64(a, z, 0.07969258157497808);
    b = gx_fma_f64(b, z, 0.253669180598952);
    a = gx_fma_f64(a, z, -0.6459640960910916);
    b = gx_fma_f64(b, z, -1.2337005394776812);
    a = r * gx_fma_f64(a, z, 1.5707963267876777);
    b = gx_fma_f64(b, z, 0.9999999999433559);
    bool odd = parity & 1;
    float y = (float)((odd ? -b : a) / (odd ? a : b));
    return gx_from_bits_f32(gx_bits_f32(y) ^ (gx_bits_f32(x) & 0x80000000u));
}

/* -- the rest of float64: the C library's own */

GX_INLINE double gx_exp2_f64(double x) { return exp2(x); }
GX_INLINE double gx_log2_f64(double x) { return log2(x); }
GX_INLINE double gx_power_f64(double x, double y) { return pow(x, y); }
GX_INLINE double gx_erf_f64(double x) { return erf(x); }
GX_INLINE double gx_erfc_f64(double x) { return erfc(x); }
GX_INLINE double gx_sin_f64(double x) { return sin(x); }
GX_INLINE double gx_cos_f64(double x) { return cos(x); }
GX_INLINE double gx_tan_f64(double x) { return tan(x); }
GX_INLINE double gx_arctan_f64(double x) { return atan(x); }
GX_INLINE double gx_sinh_f64(double x) { return sinh(x); }
GX_INLINE double gx_cosh_f64(double x) { return cosh(x); }

/* -- 16-bit storage, in integers: rounded to nearest even, NaN stays NaN, overflow gives inf */

#ifdef __CUDA_ARCH__ /* one instruction each; a NaN comes out as another NaN */
GX_INLINE float gx_from_f16(uint16_t half)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}

GX_INLINE uint16_t gx_to_f16(float x)
{
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
#else
/* The fraction moved up, times 2^112 for the difference of the biases: right for denormals, too. */
GX_INLINE float gx_from_f16(uint16_t half)
{
    uint32_t moved = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t bits = gx_bits_f32(gx_from_bits_f32(moved) * 5.19229686e33f);
    bits |= moved >= 0x0f800000u ? 0x7f800000u : 0; /* inf and NaN */
    return gx_from_bits_f32(bits | ((uint32_t)(half & 0x8000u) << 16));
}

GX_INLINE uint16_t gx_to_f16(float x)
{
    uint32_t bits = gx_bits_f32(x), size = bits & 0x7fffffffu;
    uint32_t normal = (size + 0xfffu + (size >> 13 & 1) - 0x38000000u) >> 13;
    /* below 2^-14: the addition of 1/2 rounds at the last place of a half */
    uint32_t denormal = gx_bits_f32(gx_from_bits_f32(size) + 0.5f) - 0x3f000000u;
    uint32_t half = size < 0x38800000u ? denormal : normal;
    half = size >= 0x47800000u ? 0x7c00u : half;
    half = size > 0x7f800000u ? 0x7e00u | (size >> 13 & 0x3ffu) : half;
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}
#endif

GX_INLINE float gx_from_bf16(uint16_t half) { return gx_from_bits_f32((uint32_t)half << 16); }

GX_INLINE uint16_t gx_to_bf16(float x)
{
    uint32_t bits = gx_bits_f32(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}

#endif
