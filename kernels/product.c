/* Matrix products of one element type, GX_T: compiled once for each type that programs need.
 *
 * c [m, n] = a [m, k] @ b [k, n], block by block, and each finished block is handed to `use` while
 * it is in the cache: an epilogue, an update of parameters. Nothing else is ever stored of c.
 *
 * The heart is a tile of ROWS rows and up to WIDE vectors of columns that stays in registers over a
 * stretch of k (as in Goto, van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication).
 * Every element is summed over k in one order, whatever the tile or the part: the bits do not
 * depend on the number of threads.
 */
#include "program.h"

#include <string.h>

#if !defined(__clang__) /* tiles are written out: -O3 finds nothing more, and takes twice as long */
#pragma GCC optimize("O2")
#endif

#ifndef GX_T
#define GX_T float
#endif

#if defined(__AVX512F__)
#define GX_VECTOR 64 /* bytes of a vector; 32 registers hold a tile of 8 x 3 vectors */
#define ROWS 8
#define WIDE 3
#elif defined(__AVX__)
#define GX_VECTOR 32 /* 16 registers: 4 x 3 */
#define ROWS 4
#define WIDE 3
#elif defined(__ARM_NEON)
#define GX_VECTOR 16 /* 32 registers: 8 x 3 */
#define ROWS 8
#define WIDE 3
#else
#define GX_VECTOR 16 /* 16 registers: 4 x 3 */
#define ROWS 4
#define WIDE 3
#endif

enum {
    DEPTH = 256,       /* of k that a tile is summed over at a time: its columns stay in L2 */
    TILES = 4,         /* tiles side by side, which share their rows of a in L1 */
    BLOCK_ROWS = 64,   /* rows of a block */
    PACK_FROM = 96,    /* rows from which copying b together pays */
    FAR = 2048         /* bytes between columns of a from which copying a block of it pays */
};

typedef GX_T vector __attribute__((vector_size(GX_VECTOR), aligned(sizeof(GX_T)), may_alias));
enum { LANES = GX_VECTOR / sizeof(GX_T), GROUP = TILES * WIDE * LANES };

_Static_assert(GX_ROW_UNIT % ROWS == 0, "parts would cut tiles");
_Static_assert((int)GROUP <= (int)GX_MOST_COLUMNS, "a block is too wide for those who use it");

/* Fused multiply-add is wanted here, and here alone: everywhere else it is written out. */
#if defined(__clang__)
#define FUSED __attribute__((noinline))
#define FUSED_LOOPS __attribute__((noinline))
#define CONTRACT _Pragma("clang fp contract(fast)")
#else
#define FUSED __attribute__((noinline, optimize("fp-contract=fast")))
#define FUSED_LOOPS __attribute__((noinline, optimize("O3", "fp-contract=fast")))
#define CONTRACT
#endif
#define UNROLL _Pragma("GCC unroll 16")

typedef void tile(int64_t k, const GX_T *a, int64_t a_row, int64_t a_column, const GX_T *b,
                  int64_t b_row, GX_T *c, int64_t c_row, bool add);

/* c [HEIGHT, WIDTH vectors] (+)= a [HEIGHT, k] @ b [k, WIDTH vectors] */
#define TILE(NAME, HEIGHT, WIDTH)                                                                  \
    static FUSED void NAME(int64_t k, const GX_T *a, int64_t a_row, int64_t a_column,              \
                              const GX_T *b, int64_t b_row, GX_T *c, int64_t c_row, bool add)      \
    {                                                                                              \
        CONTRACT                                                                                   \
        vector sum[HEIGHT][WIDTH];                                                                 \
        UNROLL for (int i = 0; i < HEIGHT; i++)                                                    \
            UNROLL for (int j = 0; j < WIDTH; j++) sum[i][j] = (vector){0};                        \
        for (int64_t z = 0; z < k; z++) {                                                          \
            vector right[WIDTH];                                                                   \
            UNROLL for (int j = 0; j < WIDTH; j++)                                                 \
                right[j] = *(const vector *)(b + z * b_row + j * LANES);                           \
            UNROLL for (int i = 0; i < HEIGHT; i++) {                                              \
                const GX_T left = a[i * a_row + z * a_column];                                     \
                UNROLL for (int j = 0; j < WIDTH; j++) sum[i][j] += left * right[j];               \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < HEIGHT; i++)                                                    \
            UNROLL for (int j = 0; j < WIDTH; j++) {                                               \
                vector *to = (vector *)(c + i * c_row + j * LANES);                                \
                if (add)                                                                           \
                    sum[i][j] += *to;                                                              \
                *to = sum[i][j];                                                                   \
            }                                                                                      \
    }

TILE(tile_all_3, ROWS, 3)
TILE(tile_all_2, ROWS, 2)
TILE(tile_all_1, ROWS, 1)
TILE(tile_2_3, 2, 3)
TILE(tile_2_2, 2, 2)
TILE(tile_2_1, 2, 1)
TILE(tile_1_3, 1, 3)
TILE(tile_1_2, 1, 2)
TILE(tile_1_1, 1, 1)

static tile *const tiles[3][WIDE] = {
    {tile_1_1, tile_1_2, tile_1_3},
    {tile_2_1, tile_2_2, tile_2_3},
    {tile_all_1, tile_all_2, tile_all_3},
};

#if defined(__clang__) /* has no shuffle by variable */
#define TURNS 0
static void turn(const GX_T *from, int64_t from_row, GX_T *to, int64_t to_row)
{
    (void)from, (void)from_row, (void)to, (void)to_row;
}
#else
#define TURNS 1
typedef __typeof__((vector){0} == (vector){0}) selection; /* integers as wide as the elements */

/* Rows that lie `distance` apart exchange every second stretch of so many elements. */
static inline __attribute__((always_inline)) void exchange(vector *rows, int distance)
{
    selection low, high;
    UNROLL for (int i = 0; i < LANES; i++) {
        low[i] = i & distance ? LANES + (i ^ distance) : i;
        high[i] = i & distance ? LANES + i : (i ^ distance);
    }
    UNROLL for (int i = 0; i < LANES; i++)
        if (!(i & distance)) {
            const vector first = rows[i], second = rows[i + distance];
            rows[i] = __builtin_shuffle(first, second, low);
            rows[i + distance] = __builtin_shuffle(first, second, high);
        }
}

/* to[z, j] = from[j, z] for a square of LANES x LANES, in log2 LANES exchanges (Eklundh 1972). */
static void turn(const GX_T *from, int64_t from_row, GX_T *to, int64_t to_row)
{
    vector rows[LANES];
    UNROLL for (int i = 0; i < LANES; i++) rows[i] = *(const vector *)(from + i * from_row);
    if (LANES > 8)
        exchange(rows, 8);
    if (LANES > 4)
        exchange(rows, 4);
    if (LANES > 2)
        exchange(rows, 2);
    exchange(rows, 1);
    UNROLL for (int i = 0; i < LANES; i++) *(vector *)(to + i * to_row) = rows[i];
}
#endif

/* Columns first <= j < last of b, row behind row, padded with zeros to `width`, whole vectors. */
static void pack(const gx_product *product, int64_t first, int64_t last, int64_t width,
                 GX_T *packed)
{
    const GX_T *b = (const GX_T *)product->b + first * product->b_column;
    const int64_t row = product->b_row, column = product->b_column, count = last - first;
    if (column == 1) {
        const int64_t whole = count / LANES * LANES; /* columns in whole vectors */
        for (int64_t z = 0; z < product->k; z++) {
            const GX_T *from = b + z * row;
            GX_T *to = packed + z * width;
            for (int64_t j = 0; j < whole; j += LANES)
                *(vector *)(to + j) = *(const vector *)(from + j);
            if (whole < width) { /* a call of memcpy would cost more than these few elements */
                vector rest = {0};
                for (int64_t j = whole; j < count; j++) rest[j - whole] = from[j];
                *(vector *)(to + whole) = rest;
            }
        }
        return;
    }
    for (int64_t z = 0; z < product->k; z += LANES)
        for (int64_t j = 0; j < width; j += LANES) {
            GX_T *to = packed + z * width + j;
            if (TURNS && row == 1 && z + LANES <= product->k && j + LANES <= count) {
                turn(b + z + j * column, column, to, width);
                continue;
            }
            for (int64_t y = z; y < gx_least(z + LANES, product->k); y++)
                for (int64_t i = j; i < j + LANES; i++)
                    packed[y * width + i] = i < count ? b[y * row + i * column] : 0;
        }
}

/* Rows first_row <= i < last_row times the columns of one group, into `values`. A transposed a
 * whose columns lie far apart is copied to `near` block by block: at multiples of 4 KB its columns
 * would take each other's place in the cache. */
static void multiply_block(const gx_product *product, const GX_T *b, int64_t b_row,
                           int64_t first_row, int64_t last_row, int64_t width, GX_T *values,
                           GX_T *near)
{
    const bool far = product->a_row == 1 && product->a_column * (int64_t)sizeof(GX_T) >= FAR;
    const int64_t a_column = far ? BLOCK_ROWS : product->a_column;
    for (int64_t z = 0; z < product->k || z == 0; z += DEPTH) {
        const int64_t depth = gx_least(DEPTH, product->k - z);
        const GX_T *rows = (const GX_T *)product->a;
        rows += first_row * product->a_row + z * product->a_column;
        if (far) {
            for (int64_t y = 0; y < depth; y++)
                memcpy(near + y * BLOCK_ROWS, rows + y * product->a_column,
                       (size_t)(last_row - first_row) * sizeof(GX_T));
            rows = near;
        }
        for (int64_t i = first_row; i < last_row;) {
            const int64_t left = last_row - i;
            const int size = left >= ROWS ? 2 : left >= 2 ? 1 : 0;
            const GX_T *a = rows + (i - first_row) * product->a_row;
            for (int64_t j = 0; j < width;) {
                const int64_t vectors = gx_least(WIDE, (width - j) / LANES);
                tiles[size][vectors - 1](depth, a, product->a_row, a_column,
                                         b + z * b_row + j, b_row,
                                         values + (i - first_row) * width + j, width, z > 0);
                j += vectors * LANES;
            }
            i += size == 2 ? ROWS : size == 1 ? 2 : 1;
        }
    }
}

/* A product with a vector: values[i - first] is the sum over z of
 * matrix[i * row + z * column] * vector[z]. Along rows it is a dot product, made of sums of DEPTH
 * terms for accuracy; else rows are added up. */
static FUSED_LOOPS void multiply_vector(const GX_T *matrix, int64_t row, int64_t column,
                                        const GX_T *vector, int64_t k, int64_t first,
                                        int64_t last, GX_T *values)
{
    const GX_T *from = matrix + first * row;
    const int64_t count = last - first;
    for (int64_t i = 0; i < count; i++)
        values[i] = 0;
    if (column == 1) {
        for (int64_t i = 0; i < count; i++)
            for (int64_t z0 = 0; z0 < k; z0 += DEPTH) {
                const int64_t z1 = gx_least(z0 + DEPTH, k);
                GX_T sum = 0;
                _Pragma("omp simd reduction(+ : sum)")
                for (int64_t z = z0; z < z1; z++)
                    sum += from[i * row + z] * vector[z];
                values[i] += sum;
            }
        return;
    }
    for (int64_t z = 0; z < k; z++) {
        const GX_T factor = vector[z];
        _Pragma("omp simd")
        for (int64_t i = 0; i < count; i++)
            values[i] += from[i * row + z * column] * factor;
    }
}

/* Part of a product of which one side is a vector: rows top <= i < bottom, or columns left <= j <
 * right, whichever are more than one. */
static void multiply_vectors(const gx_call *call, const gx_product *product, GX_T *values,
                             GX_T *copied, int64_t top, int64_t bottom, int64_t left, int64_t right)
{
    const bool upright = product->n == 1; /* b is the vector */
    const GX_T *vector = upright ? product->b : product->a;
    const int64_t stride = upright ? product->b_row : product->a_column;
    const int64_t begin = upright ? top : left, end = upright ? bottom : right;
    if (stride != 1) {
        for (int64_t z = 0; z < product->k; z++)
            copied[z] = vector[z * stride];
        vector = copied;
    }
    enum { MANY = BLOCK_ROWS * GROUP }; /* long stretches of each row of the matrix are read */
    for (int64_t i = begin; i < end; i += MANY) {
        const int64_t last = gx_least(i + MANY, end);
        if (upright)
            multiply_vector(product->a, product->a_row, product->a_column, vector, product->k, i,
                            last, values);
        else
            multiply_vector(product->b, product->b_column, product->b_row, vector, product->k, i,
                            last, values);
        for (int64_t j = i; j < last; j += GROUP) {
            const int64_t stop = gx_least(j + GROUP, last);
            const gx_block block = upright ? (gx_block){values + (j - i), 1, j, stop, 0, 1}
                                           : (gx_block){values + (j - i), stop - j, 0, 1, j, stop};
            product->use(call, product->at, &block, product->batch);
        }
    }
}

/* One part of a product. `scratch` has room for a block and for the packed columns of a group. */
void gx_product_part(const gx_call *call, const gx_product *product, void *scratch,
                     int64_t part, int64_t parts)
{
    const int64_t m = product->m, n = product->n;
    int64_t top = 0, bottom = m, left = 0, right = n;
    if (gx_by_columns(m, n, product->k)) {
        left = gx_start(n, WIDE * LANES, part, parts);
        right = gx_start(n, WIDE * LANES, part + 1, parts);
    } else {
        top = gx_start(m, GX_ROW_UNIT, part, parts);
        bottom = gx_start(m, GX_ROW_UNIT, part + 1, parts);
    }
    GX_T *const values = scratch, *const near = values + BLOCK_ROWS * GROUP;
    GX_T *const packed = near + BLOCK_ROWS * DEPTH;
    if ((m == 1 || n == 1) && top < bottom && left < right) {
        multiply_vectors(call, product, values, packed, top, bottom, left, right);
        return;
    }
    for (int64_t j = left; j < right && top < bottom; j += GROUP) {
        const int64_t end = gx_least(j + GROUP, right);
        const int64_t width = (end - j + LANES - 1) / LANES * LANES;
        const GX_T *b = (const GX_T *)product->b + j;
        int64_t b_row = product->b_row;
        if (product->b_column != 1 || width != end - j || bottom - top >= PACK_FROM) {
            pack(product, j, end, width, packed);
            b = packed, b_row = width;
        }
        for (int64_t i = top; i < bottom; i += BLOCK_ROWS) {
            const int64_t last = gx_least(i + BLOCK_ROWS, bottom);
            multiply_block(product, b, b_row, i, last, width, values, near);
            const gx_block block = {values, width, i, last, j, end};
            product->use(call, product->at, &block, product->batch);
        }
    }
}

/* Bytes of scratch that one part of a product of inner size k needs. */
int64_t gx_product_scratch(int64_t k)
{
    return ((BLOCK_ROWS + k) * GROUP + BLOCK_ROWS * DEPTH) * (int64_t)sizeof(GX_T);
}
