/* Products of integers, which cuBLASLt does not know: a block computes one tile of 16 x 16. */
#ifndef GX_PRODUCT_CUH
#define GX_PRODUCT_CUH

#include "device.cuh"

enum { GX_TILE = 16 };

/* Tile (row, column) of a [m, k] @ b [k, n]; strides in elements; `out` is contiguous. */
template <class T>
GX_INLINE void gx_product_tile(const T *a, const T *b, T *out, int64_t m, int64_t n, int64_t k,
                               int64_t a_row, int64_t a_column, int64_t b_row, int64_t b_column,
                               int64_t row, int64_t column)
{
    __shared__ T a_tile[GX_TILE][GX_TILE + 1], b_tile[GX_TILE][GX_TILE + 1];
    const int x = threadIdx.x % GX_TILE, y = threadIdx.x / GX_TILE;
    const int64_t i = GX_TILE * row + y, j = GX_TILE * column + x;
    T sum = 0;
    for (int64_t first = 0; first < k; first += GX_TILE) {
        const int64_t p = first + x, q = first + y;
        a_tile[y][x] = i < m && p < k ? a[i * a_row + p * a_column] : T(0);
        b_tile[y][x] = q < k && j < n ? b[q * b_row + j * b_column] : T(0);
        __syncthreads();
        for (int step = 0; step < GX_TILE; step++)
            sum = T(sum + a_tile[y][step] * b_tile[step][x]);
        __syncthreads();
    }
    if (i < m && j < n)
        out[i * n + j] = sum;
}

#endif
