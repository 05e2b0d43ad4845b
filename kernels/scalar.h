/* Scalar helpers of the elementwise ops: what their C expressions call, for host C and CUDA alike.
 *
 * Suffixes: f32 float, f64 double, i32 int32_t, i64 int64_t, b8 bool.
 * They mean what NumPy means: NaN passes through maximum and minimum, sign(NaN) is NaN. They need
 * strict floating point (no -ffast-math); signed overflow wraps where -fwrapv is given.
 */
#ifndef GX_SCALAR_H
#define GX_SCALAR_H

#ifdef __CUDACC__
#define GX_INLINE static __device__ __forceinline__
#else
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#define GX_INLINE static inline
#endif

/* -- order and sign */

#define GX_ORDER(t, T)                                                                             \
    GX_INLINE T gx_maximum_##t(T x, T y) { return x >= y || x != x ? x : y; }                      \
    GX_INLINE T gx_minimum_##t(T x, T y) { return x <= y || x != x ? x : y; }

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

/* -- functions of floats: `f` is the suffix of the C library's own (expf, exp) */

#define GX_FLOAT(t, T, f)                                                                          \
    GX_INLINE T gx_abs_##t(T x) { return fabs##f(x); }                                             \
    GX_INLINE T gx_sign_##t(T x) { return x > 0 ? (T)1 : x < 0 ? (T)-1 : x != x ? x : (T)0; }      \
    GX_INLINE T gx_floor_##t(T x) { return floor##f(x); }                                          \
    GX_INLINE bool gx_isfinite_##t(T x) { return x - x == 0; } /* inf - inf is NaN */              \
    GX_INLINE bool gx_isnan_##t(T x) { return x != x; }                                            \
    GX_INLINE T gx_power_##t(T x, T y) { return pow##f(x, y); }                                    \
    GX_INLINE T gx_exp_##t(T x) { return exp##f(x); }                                              \
    GX_INLINE T gx_exp2_##t(T x) { return exp2##f(x); }                                            \
    GX_INLINE T gx_expm1_##t(T x) { return expm1##f(x); }                                          \
    GX_INLINE T gx_log_##t(T x) { return log##f(x); }                                              \
    GX_INLINE T gx_log1p_##t(T x) { return log1p##f(x); }                                          \
    GX_INLINE T gx_log2_##t(T x) { return log2##f(x); }                                            \
    GX_INLINE T gx_sqrt_##t(T x) { return sqrt##f(x); }                                            \
    GX_INLINE T gx_erf_##t(T x) { return erf##f(x); }                                              \
    GX_INLINE T gx_erfc_##t(T x) { return erfc##f(x); }                                            \
    GX_INLINE T gx_sin_##t(T x) { return sin##f(x); }                                              \
    GX_INLINE T gx_cos_##t(T x) { return cos##f(x); }                                              \
    GX_INLINE T gx_tan_##t(T x) { return tan##f(x); }                                              \
    GX_INLINE T gx_arctan_##t(T x) { return atan##f(x); }                                          \
    GX_INLINE T gx_sinh_##t(T x) { return sinh##f(x); }                                            \
    GX_INLINE T gx_cosh_##t(T x) { return cosh##f(x); }                                            \
    GX_INLINE T gx_tanh_##t(T x) { return tanh##f(x); }                                            \
    GX_INLINE T gx_softplus_##t(T x)                                                               \
    {                                                                                              \
        return gx_maximum_##t(x, 0) + log1p##f(exp##f(-fabs##f(x))); /* e^x never overflows */     \
    }

GX_FLOAT(f32, float, f)
GX_FLOAT(f64, double, )

#endif
