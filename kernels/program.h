/* What a generated program and the runtime (runtime.c) share: the frame of a call, how work is cut
 * into parts, and matrix products.
 *
 * A program is a table of launches. Each launch does one part of `parts` of its work; all parts may
 * run at the same time, in any threads. What a part computes never depends on who runs it.
 */
#ifndef GX_PROGRAM_H
#define GX_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct gx_call gx_call;
typedef struct gx_product gx_product;

/* One part of a launch; `at` holds the addresses of the buffers that it reads and writes. Kernels
 * that differ in their buffers only are one function. */
typedef void gx_launch(const gx_call *call, char *const *at, int64_t part, int64_t parts);

#define GX_UNUSED __attribute__((unused))
#define GX_LAUNCH(name)                                                                            \
    static void name(GX_UNUSED const gx_call *call, GX_UNUSED char *const *at,                     \
                     GX_UNUSED int64_t part, GX_UNUSED int64_t parts)

/* What is to be done with a finished block of a product: rows first_row <= i < last_row, columns
 * first_column <= j < last_column. Element (i, j) is
 * values[(i - first_row) * row + (j - first_column)]. */
enum { GX_MOST_COLUMNS = 256 };
typedef struct {
    const void *values;
    int64_t row, first_row, last_row, first_column, last_column;
} gx_block;
typedef void gx_use_block(const gx_call *call, char *const *at, const gx_block *block,
                          const int64_t *batch);

#define GX_USE_BLOCK(name)                                                                         \
    static void name(GX_UNUSED const gx_call *call, GX_UNUSED char *const *at,                     \
                     const gx_block *block, GX_UNUSED const int64_t *batch)

/* a [m, k] @ b [k, n]; strides in elements. Parts share the rows, or the columns. */
struct gx_product {
    const void *a, *b;
    int64_t m, n, k, a_row, a_column, b_row, b_column;
    gx_use_block *use;    /* gets every block, and what follows */
    char *const *at;
    const int64_t *batch; /* indices of this product in a stack */
};
typedef void gx_multiply(const gx_call *call, const gx_product *product, void *scratch,
                         int64_t part, int64_t parts);

struct gx_call {
    const int64_t *sizes;      /* symbolic sizes */
    const double *numbers;     /* constants that depend on sizes */
    gx_multiply *multiply_f32, *multiply_f64, *multiply_i32, *multiply_i64; /* product.c */
    char *scratch;             /* private to each part */
    int64_t scratch_nbytes;    /* of one part */
    uint32_t seed[2], step[2]; /* of the random draws */
};

/* Whether parts share the columns of a product rather than its rows: a wide one is shared so that
 * each part reads its own share of the larger operand. Small products stay with their rows, which
 * may have been written by the same thread. */
static inline bool gx_by_columns(int64_t m, int64_t n, int64_t k)
{
    return n >= 2 * m && m * n * k >= 1 << 23;
}

enum { GX_ROW_UNIT = 8 }; /* rows of a part come in multiples of this, in every kernel */

/* The start of a part, of `extent` things that are shared out in whole units. Part `parts` starts
 * at the end. */
static inline int64_t gx_start(int64_t extent, int64_t unit, int64_t part, int64_t parts)
{
    const int64_t units = (extent + unit - 1) / unit;
    const int64_t start = units * part / parts * unit;
    return start < extent ? start : extent;
}

/* Columns are reduced in stretches of so many. */
enum { GX_STRETCH = 512 };

static inline int64_t gx_stretches(int64_t columns)
{
    return (columns + GX_STRETCH - 1) / GX_STRETCH;
}

/* Into how many chunks a reduction of `total` elements to `columns` values is cut, along a loop of
 * `extent` steps: by size alone, so that sums are the same for any number of threads. */
static inline int64_t gx_chunks(int64_t extent, int64_t total, int64_t columns)
{
    const int64_t wanted = columns > 0 ? (total >> 16) / gx_stretches(columns) : 0;
    const int64_t most = extent < 64 ? extent : 64;
    return wanted < 1 || most < 1 ? 1 : wanted < most ? wanted : most;
}

/* Bytes, rounded up to whole cache lines. */
static inline int64_t gx_padded(int64_t nbytes)
{
    return (nbytes + 63) / 64 * 64;
}

static inline int64_t gx_least(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

/* Copy to memory that nobody reads soon, past the caches: a line that is written as a whole is not
 * fetched first. The runtime makes it visible to other threads. */
static inline void gx_stream(void *to, const void *from, int64_t nbytes)
{
    GX_UNUSED typedef float gx_line __attribute__((vector_size(64), aligned(64), may_alias));
    GX_UNUSED typedef float gx_any_line __attribute__((vector_size(64), aligned(1), may_alias));
    char *target = (char *)to;
    const char *source = (const char *)from;
    const int64_t head = gx_least((int64_t)(-(uintptr_t)target & 63), nbytes);
    memcpy(target, source, (size_t)head);
    target += head, source += head, nbytes -= head;
    for (; nbytes >= 64; target += 64, source += 64, nbytes -= 64) {
#if defined(__clang__)
        __builtin_nontemporal_store((gx_line)*(const gx_any_line *)source, (gx_line *)target);
#elif defined(__AVX512F__)
        __builtin_ia32_movntps512((float *)target, *(const gx_any_line *)source);
#elif defined(__AVX__)
        typedef float gx_half __attribute__((vector_size(32), aligned(1), may_alias));
        __builtin_ia32_movntps256((float *)target, *(const gx_half *)source);
        __builtin_ia32_movntps256((float *)(target + 32), *(const gx_half *)(source + 32));
#else
        *(gx_line *)target = *(const gx_any_line *)source;
#endif
    }
    memcpy(target, source, (size_t)nbytes);
}

#endif
