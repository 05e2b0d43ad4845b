/* What generated CUDA kernels are built on: loops over all threads, vectors, reductions in a fixed
 * order. Needs no header of CUDA's: NVRTC compiles it alone, and so does the emulator's g++.
 *
 * Nothing here adds floats in an order that depends on which thread comes first: results are the
 * same bits in every run.
 */
#ifndef GX_DEVICE_CUH
#define GX_DEVICE_CUH

#ifdef __CUDACC_RTC__
#define INT64_C(number) number##LL
#pragma nv_diag_suppress 177 /* a helper, or an index, that this program does not need */
#endif

#include "scalar.h"

#define GX_METHOD static __device__ __forceinline__
#define GX_WARP 0xffffffffu /* all threads of a warp */

/* -- loops that all threads of a launch share: for (I i = gx_first<I>(); i < n; i += gx_all<I>()) */

template <class I> GX_INLINE I gx_first(void) { return (I)blockIdx.x * (I)blockDim.x + (I)threadIdx.x; }
template <class I> GX_INLINE I gx_all(void) { return (I)gridDim.x * (I)blockDim.x; }

/* What integers were computed from is hidden from NVRTC, which knows no -fwrapv: it holds x + 1 > x
 * for true, and so for any sum, difference or product that it can compare. */
#ifdef __CUDACC_RTC__
GX_INLINE int32_t gx_wrapping(int32_t x)
{
    asm("" : "+r"(x));
    return x;
}
GX_INLINE int64_t gx_wrapping(int64_t x)
{
    asm("" : "+l"(x));
    return x;
}
#else
template <class T> GX_INLINE T gx_wrapping(T x) { return x; }
#endif

/* -- vectors: N neighbours that move in one instruction, of 16 bytes at most */

template <class T, int N> struct alignas(sizeof(T) * N) gx_pack {
    T at[N];
};

template <int N, class T> GX_INLINE gx_pack<T, N> gx_load(const T *from)
{
    return *reinterpret_cast<const gx_pack<T, N> *>(from);
}

template <int N, class T> GX_INLINE void gx_store(T *to, const gx_pack<T, N> &values)
{
    *reinterpret_cast<gx_pack<T, N> *>(to) = values;
}

/* -- reductions: what `threads` neighbouring threads have is joined, and all of them get the result.
 *
 * Within a warp the upper half joins the lower half, again and again; the warps of a block follow
 * each other. All threads of a warp (of the block, if `threads` is more than 32) must take part.
 */

#define GX_REDUCTION(name, type, first, expression)                                                \
    struct name {                                                                                  \
        typedef type T;                                                                            \
        GX_METHOD type start(void) { return first; }                                               \
        GX_METHOD type join(type x, type y) { return expression; }                                 \
    };

template <class R, int threads> GX_INLINE typename R::T gx_join_warp(typename R::T x)
{
    if (threads == 1)
        return x;
#pragma unroll
    for (int step = threads / 2; step > 0; step /= 2)
        x = R::join(x, (typename R::T)__shfl_down_sync(GX_WARP, x, step, threads));
    return (typename R::T)__shfl_sync(GX_WARP, x, 0, threads);
}

template <class R, int threads> GX_INLINE typename R::T gx_join(typename R::T x)
{
    if constexpr (threads <= 32) {
        return gx_join_warp<R, threads>(x);
    } else {
        __shared__ typename R::T warps[threads / 32];
        x = gx_join_warp<R, 32>(x);
        __syncthreads(); /* the last use of `warps` is over */
        if (threadIdx.x % 32 == 0)
            warps[threadIdx.x / 32] = x;
        __syncthreads();
        x = warps[0];
#pragma unroll
        for (int warp = 1; warp < threads / 32; warp++)
            x = R::join(x, warps[warp]);
        return x;
    }
}

/* -- searches: the value that beats all others, and its place; the first of equals */

#define GX_SEARCH(name, type, first, expression)                                                   \
    struct name {                                                                                  \
        typedef type T;                                                                            \
        GX_METHOD type start(void) { return first; }                                               \
        GX_METHOD bool beats(type x, type best) { return expression; }                             \
    };

/* The one element whose place is wanted: no value beats another. */
template <class V> struct gx_only {
    typedef V T;
    GX_METHOD bool beats(V, V) { return false; }
};

template <class S> struct gx_found {
    typename S::T value;
    int64_t place;
};

#define GX_NOWHERE 0x7fffffffffffffffLL

template <class S> GX_INLINE gx_found<S> gx_better(gx_found<S> x, gx_found<S> y)
{
    bool later = S::beats(y.value, x.value) || (!S::beats(x.value, y.value) && y.place < x.place);
    return later ? y : x;
}

template <class S, int threads> GX_INLINE gx_found<S> gx_search_warp(gx_found<S> x)
{
    typedef typename S::T T;
    if (threads == 1)
        return x;
#pragma unroll
    for (int step = threads / 2; step > 0; step /= 2) {
        gx_found<S> y = {(T)__shfl_down_sync(GX_WARP, x.value, step, threads),
                         __shfl_down_sync(GX_WARP, x.place, step, threads)};
        x = gx_better<S>(x, y);
    }
    gx_found<S> first = {(T)__shfl_sync(GX_WARP, x.value, 0, threads),
                         __shfl_sync(GX_WARP, x.place, 0, threads)};
    return first;
}

template <class S, int threads> GX_INLINE gx_found<S> gx_search(gx_found<S> x)
{
    if constexpr (threads <= 32) {
        return gx_search_warp<S, threads>(x);
    } else {
        __shared__ typename S::T values[threads / 32];
        __shared__ int64_t places[threads / 32];
        x = gx_search_warp<S, 32>(x);
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            values[threadIdx.x / 32] = x.value;
            places[threadIdx.x / 32] = x.place;
        }
        __syncthreads();
        x.value = values[0], x.place = places[0];
#pragma unroll
        for (int warp = 1; warp < threads / 32; warp++) {
            gx_found<S> y = {values[warp], places[warp]};
            x = gx_better<S>(x, y);
        }
        return x;
    }
}

/* Wait until the threads that share a row have read what one of them is about to write. */
template <int threads> GX_INLINE void gx_wait(void)
{
    if constexpr (threads > 32)
        __syncthreads();
    else if constexpr (threads > 1)
        __syncwarp();
}

#endif
