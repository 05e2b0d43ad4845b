/* What stands in for cuBLASLt where there is no GPU: the part of its interface that graphc calls,
 * computed plainly on host memory.
 *
 * It checks what the library checks and answers with the same codes, so that a wrong descriptor,
 * leading dimension, alignment or workspace is seen on a machine without a GPU. An algorithm holds
 * for the problem that it was found for; the first of two asks for a workspace, which it spoils,
 * and for operands at multiples of 16 bytes. Handles and descriptors are plain structures here.
 */
#include "scalar.h"

#include <stdlib.h>

typedef enum {
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    ALLOC_FAILED = 3,
    INVALID_VALUE = 7,
    NOT_SUPPORTED = 15
} gx_status;

enum { TYPE_F32 = 0, TYPE_F64 = 1, TYPE_F16 = 2, TYPE_BF16 = 14 };
enum { COMPUTE_F32 = 68, COMPUTE_F64 = 70, COMPUTE_BF16 = 75, COMPUTE_TF32 = 77 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_RELU = 2, EPILOGUE_BIAS = 4 };
enum { ALGORITHMS = 2, FAST_WORKSPACE = 4096, FAST_ALIGNMENT = 16, WORKSPACE_ALIGNMENT = 256 };

typedef struct {
    int32_t type, order;
    uint64_t rows, columns;
    int64_t row, step; /* the leading dimension; between the matrices of a stack */
    int32_t batch;
} gx_layout;

typedef struct {
    int32_t compute, scale, transposed_a, transposed_b;
    uint32_t epilogue;
    const void *bias;
} gx_operation;

typedef struct {
    uint64_t workspace;
    uint32_t schemes, alignment[4]; /* of A, B, C, D */
} gx_preference;

typedef struct {
    uint64_t problem, workspace, alignment, number, unused[4];
} gx_algorithm;

typedef struct {
    gx_algorithm algorithm;
    size_t workspace;
    int32_t state;
    float waves;
    int32_t reserved[4];
} gx_result;

static int64_t gx_live; /* descriptors that were made and not yet destroyed */

int64_t gx_stand_in_live(void) { return gx_live; }

/* -- versions and names */

size_t cublasLtGetVersion(void) { return 130000; }

const char *cublasLtGetStatusName(int status)
{
    switch (status) {
    case SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_UNKNOWN";
    }
}

/* -- what is made and destroyed */

static int gx_make(void **made, const void *content, size_t nbytes)
{
    if (!made)
        return INVALID_VALUE;
    *made = malloc(nbytes);
    if (!*made)
        return ALLOC_FAILED;
    memcpy(*made, content, nbytes);
    gx_live++;
    return SUCCESS;
}

static int gx_destroy(void *made)
{
    gx_live -= made != 0;
    free(made);
    return SUCCESS;
}

int cublasLtCreate(void **handle)
{
    const uint64_t new = 0; /* a handle holds nothing here */
    return gx_make(handle, &new, sizeof new);
}

int cublasLtMatmulDescCreate(void **operation, int compute, int scale)
{
    const gx_operation new = {.compute = compute, .scale = scale, .epilogue = EPILOGUE_DEFAULT};
    return gx_make(operation, &new, sizeof new);
}

int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns,
                               int64_t row)
{
    const gx_layout new = {
        .type = type, .rows = rows, .columns = columns, .row = row, .batch = 1};
    return gx_make(layout, &new, sizeof new);
}

int cublasLtMatmulPreferenceCreate(void **preference)
{
    const gx_preference new = {.schemes = 7, .alignment = {256, 256, 256, 256}};
    return gx_make(preference, &new, sizeof new);
}

int cublasLtDestroy(void *handle) { return gx_destroy(handle); }
int cublasLtMatmulDescDestroy(void *operation) { return gx_destroy(operation); }
int cublasLtMatrixLayoutDestroy(void *layout) { return gx_destroy(layout); }
int cublasLtMatmulPreferenceDestroy(void *preference) { return gx_destroy(preference); }

/* -- attributes: a value of the wrong size, or of an attribute that is not known, is refused */

static int gx_set(void *field, size_t size, const void *value, size_t given)
{
    if (!field || !value || given != size)
        return INVALID_VALUE;
    memcpy(field, value, size);
    return SUCCESS;
}

#define GX_FIELD(number, field)                                                                    \
    case number: return gx_set(&(field), sizeof(field), value, nbytes);

int cublasLtMatmulDescSetAttribute(gx_operation *it, int attribute, const void *value,
                                   size_t nbytes)
{
    if (!it)
        return INVALID_VALUE;
    switch (attribute) {
        GX_FIELD(3, it->transposed_a)
        GX_FIELD(4, it->transposed_b)
        GX_FIELD(7, it->epilogue)
        GX_FIELD(8, it->bias)
    default: return INVALID_VALUE;
    }
}

int cublasLtMatrixLayoutSetAttribute(gx_layout *it, int attribute, const void *value,
                                     size_t nbytes)
{
    if (!it)
        return INVALID_VALUE;
    switch (attribute) {
        GX_FIELD(1, it->order)
        GX_FIELD(5, it->batch)
        GX_FIELD(6, it->step)
    default: return INVALID_VALUE;
    }
}

int cublasLtMatmulPreferenceSetAttribute(gx_preference *it, int attribute, const void *value,
                                         size_t nbytes)
{
    if (!it)
        return INVALID_VALUE;
    switch (attribute) {
        GX_FIELD(1, it->workspace)
        GX_FIELD(3, it->schemes)
        GX_FIELD(5, it->alignment[0])
        GX_FIELD(6, it->alignment[1])
        GX_FIELD(7, it->alignment[2])
        GX_FIELD(8, it->alignment[3])
    default: return INVALID_VALUE;
    }
}

/* -- whether a product makes sense, and which algorithms there are for it */

typedef struct {
    const gx_operation *operation;
    const gx_layout *a, *b, *c, *d;
} gx_problem;

static bool gx_fits_memory(const gx_layout *it)
{
    uint64_t least = it->order ? it->columns : it->rows;
    return (it->order == 0 || it->order == 1) && it->rows && it->columns && it->batch > 0 &&
           it->row >= 0 && (uint64_t)it->row >= least;
}

static bool gx_is_half(int type) { return type == TYPE_F16 || type == TYPE_BF16; }

static bool gx_types_fit(const gx_problem *it)
{
    int type = it->a->type, result = it->d->type;
    bool exact = it->operation->compute == COMPUTE_F32;
    if (type != it->b->type || result != it->c->type)
        return false;
    if (type == TYPE_F64)
        return result == type && it->operation->compute == COMPUTE_F64 &&
               it->operation->scale == TYPE_F64;
    if (it->operation->scale != TYPE_F32)
        return false;
    if (type == TYPE_F32)
        return result == type && (exact || it->operation->compute == COMPUTE_TF32 ||
                                  it->operation->compute == COMPUTE_BF16);
    return gx_is_half(type) && exact && (result == type || result == TYPE_F32);
}

static int gx_check(const gx_problem *it)
{
    const gx_layout *a = it->a, *b = it->b, *c = it->c, *d = it->d;
    if (!it->operation || !a || !b || !c || !d)
        return INVALID_VALUE;
    const gx_operation *op = it->operation;
    if (!gx_fits_memory(a) || !gx_fits_memory(b) || !gx_fits_memory(c) || !gx_fits_memory(d))
        return INVALID_VALUE;
    if (op->transposed_a < 0 || op->transposed_a > 1 || op->transposed_b < 0 ||
        op->transposed_b > 1)
        return INVALID_VALUE;
    uint64_t m = op->transposed_a ? a->columns : a->rows;
    uint64_t k = op->transposed_a ? a->rows : a->columns;
    uint64_t l = op->transposed_b ? b->columns : b->rows;
    uint64_t n = op->transposed_b ? b->rows : b->columns;
    if (k != l || m != d->rows || n != d->columns || c->rows != d->rows ||
        c->columns != d->columns || c->order != d->order)
        return INVALID_VALUE;
    if (a->batch != d->batch || b->batch != d->batch || c->batch != d->batch)
        return INVALID_VALUE;
    if (!gx_types_fit(it))
        return NOT_SUPPORTED;
    if (op->epilogue != EPILOGUE_DEFAULT) {
        if (op->epilogue & ~(uint32_t)(EPILOGUE_RELU | EPILOGUE_BIAS) || d->order)
            return NOT_SUPPORTED; /* with rows one after another there are no epilogues */
    }
    return SUCCESS;
}

/* A number for all that the choice of an algorithm depends on; where the bias lies does not. */
static uint64_t gx_identity(const gx_problem *it)
{
    const gx_layout *layouts[] = {it->a, it->b, it->c, it->d};
    const gx_operation *op = it->operation;
    uint64_t hash = 14695981039346656037u; /* FNV-1a, on words */
#define GX_MIX(word) hash = (hash ^ (uint64_t)(word)) * 1099511628211u;
    GX_MIX(op->compute) GX_MIX(op->transposed_a) GX_MIX(op->transposed_b) GX_MIX(op->epilogue)
    for (int i = 0; i < 4; i++) {
        const gx_layout *l = layouts[i];
        GX_MIX(l->type) GX_MIX(l->order) GX_MIX(l->rows) GX_MIX(l->columns)
        GX_MIX(l->row) GX_MIX(l->step) GX_MIX(l->batch)
    }
    return hash;
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, const gx_operation *operation, const gx_layout *a,
                                   const gx_layout *b, const gx_layout *c, const gx_layout *d,
                                   const gx_preference *preference, int wanted, gx_result *results,
                                   int *found)
{
    const gx_problem problem = {operation, a, b, c, d};
    if (!handle)
        return NOT_INITIALIZED;
    if (!preference || !results || !found || wanted <= 0)
        return INVALID_VALUE;
    *found = 0;
    int status = gx_check(&problem);
    if (status)
        return status;
    uint32_t alignment = 256;
    for (int i = 0; i < 4; i++) {
        if (!preference->alignment[i])
            return INVALID_VALUE;
        if (preference->alignment[i] < alignment)
            alignment = preference->alignment[i];
    }
    for (int number = 0; number < ALGORITHMS && *found < wanted; number++) {
        bool fast = number == 0;
        if (fast && (preference->workspace < FAST_WORKSPACE || alignment < FAST_ALIGNMENT))
            continue;
        gx_result *result = &results[(*found)++];
        memset(result, 0, sizeof *result);
        result->workspace = fast ? FAST_WORKSPACE : 0;
        result->algorithm = (gx_algorithm){.problem = gx_identity(&problem),
                                           .workspace = result->workspace,
                                           .alignment = fast ? FAST_ALIGNMENT : 1,
                                           .number = (uint64_t)number};
        result->waves = 1;
    }
    return *found ? SUCCESS : NOT_SUPPORTED;
}

/* -- computing */

static size_t gx_size(int type) { return type == TYPE_F64 ? 8 : type == TYPE_F32 ? 4 : 2; }

static double gx_get(const void *at, int type, int64_t i)
{
    switch (type) {
    case TYPE_F64: return ((const double *)at)[i];
    case TYPE_F32: return ((const float *)at)[i];
    case TYPE_F16: return gx_from_f16(((const uint16_t *)at)[i]);
    default: return gx_from_bf16(((const uint16_t *)at)[i]);
    }
}

static void gx_put(void *at, int type, int64_t i, double x)
{
    switch (type) {
    case TYPE_F64: ((double *)at)[i] = x; return;
    case TYPE_F32: ((float *)at)[i] = (float)x; return;
    case TYPE_F16: ((uint16_t *)at)[i] = gx_to_f16((float)x); return;
    default: ((uint16_t *)at)[i] = gx_to_bf16((float)x);
    }
}

/* As the units round what they multiply: to 8 bits of fraction for bf16, to 11 for tf32. */
static double gx_operand(double x, int compute)
{
    if (compute == COMPUTE_BF16)
        return gx_from_bf16(gx_to_bf16((float)x));
    if (compute == COMPUTE_TF32) {
        uint32_t bits = gx_bits_f32((float)x), rounded = bits + 0xfffu + (bits >> 13 & 1);
        return x - x == 0 ? gx_from_bits_f32(rounded & ~0x1fffu) : x;
    }
    return x;
}

static int64_t gx_place(const gx_layout *it, bool transposed, int64_t i, int64_t j)
{
    bool swapped = transposed != (it->order == 1);
    return swapped ? i * it->row + j : j * it->row + i;
}

/* Whatever the library computes in, float64 is near enough to compare with: sums of products, then
 * the rest in the type of alpha and beta. */
static void gx_matrix(const gx_problem *it, double alpha, double beta, const char *a, const char *b,
                      const char *c, char *d, double *left, double *sums)
{
    const gx_operation *op = it->operation;
    int64_t m = (int64_t)it->d->rows, n = (int64_t)it->d->columns;
    int64_t k = (int64_t)(op->transposed_a ? it->a->rows : it->a->columns);
    for (int64_t p = 0; p < k; p++)
        for (int64_t i = 0; i < m; i++) {
            double x = gx_get(a, it->a->type, gx_place(it->a, op->transposed_a, i, p));
            left[p * m + i] = gx_operand(x, op->compute);
        }
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i < m; i++)
            sums[i] = 0;
        for (int64_t p = 0; p < k; p++) {
            double y = gx_get(b, it->b->type, gx_place(it->b, op->transposed_b, p, j));
            const double *column = left + p * m;
            y = gx_operand(y, op->compute);
            for (int64_t i = 0; i < m; i++)
                sums[i] += column[i] * y;
        }
        for (int64_t i = 0; i < m; i++) {
            double x = alpha * sums[i];
            if (beta != 0) /* else c is not read: it may hold NaN */
                x += beta * gx_get(c, it->c->type, gx_place(it->c, false, i, j));
            if (op->epilogue & EPILOGUE_BIAS)
                x += gx_get(op->bias, it->d->type, i);
            if (op->epilogue & EPILOGUE_RELU)
                x = gx_maximum_f64(x, 0);
            gx_put(d, it->d->type, gx_place(it->d, false, i, j), x);
        }
    }
}

static bool gx_is_at(const void *address, uint64_t alignment)
{
    return (uintptr_t)address % alignment == 0;
}

int cublasLtMatmul(void *handle, const gx_operation *operation, const void *alpha, const void *a,
                   const gx_layout *a_layout, const void *b, const gx_layout *b_layout,
                   const void *beta, const void *c, const gx_layout *c_layout, void *d,
                   const gx_layout *d_layout, const gx_algorithm *algorithm, void *workspace,
                   size_t workspace_nbytes, void *stream)
{
    const gx_problem problem = {operation, a_layout, b_layout, c_layout, d_layout};
    (void)stream;
    if (!handle)
        return NOT_INITIALIZED;
    int status = gx_check(&problem);
    if (status)
        return status;
    if (!alpha || !beta || !a || !b || !c || !d || !algorithm)
        return INVALID_VALUE;
    if (algorithm->problem != gx_identity(&problem) || algorithm->workspace > workspace_nbytes)
        return INVALID_VALUE;
    if (algorithm->workspace && (!workspace || !gx_is_at(workspace, WORKSPACE_ALIGNMENT)))
        return INVALID_VALUE;
    if (operation->epilogue & EPILOGUE_BIAS && !operation->bias)
        return INVALID_VALUE;
    uint64_t needed = algorithm->alignment;
    if (!gx_is_at(a, needed) || !gx_is_at(b, needed) || !gx_is_at(c, needed) ||
        !gx_is_at(d, needed) || !gx_is_at(operation->bias, needed))
        return NOT_SUPPORTED;
    size_t m = d_layout->rows, k = operation->transposed_a ? a_layout->rows : a_layout->columns;
    double *room = malloc((m * k + m) * sizeof *room);
    if (!room)
        return ALLOC_FAILED;
    if (algorithm->workspace)
        memset(workspace, 0xff, algorithm->workspace); /* NaN, whatever the type */
    int scale = operation->scale;
    for (int64_t i = 0; i < d_layout->batch; i++)
        gx_matrix(&problem, gx_get(alpha, scale, 0), gx_get(beta, scale, 0),
                  (const char *)a + i * a_layout->step * (int64_t)gx_size(a_layout->type),
                  (const char *)b + i * b_layout->step * (int64_t)gx_size(b_layout->type),
                  (const char *)c + i * c_layout->step * (int64_t)gx_size(c_layout->type),
                  (char *)d + i * d_layout->step * (int64_t)gx_size(d_layout->type), room,
                  room + m * k);
    free(room);
    return SUCCESS;
}
