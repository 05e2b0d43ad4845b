#include "program.h"
#include "scalar.h"

#pragma omp declare reduction(max_f32 : float : omp_out = gx_maximum_f32(omp_out, omp_in)) initializer(omp_priv = gx_lowest_f32())
#pragma omp declare reduction(sum_f32 : float : omp_out = omp_out + omp_in) initializer(omp_priv = 0.0f)

/* contraction over i < 7, j < 6: contract, add, relu */
GX_USE_BLOCK(k0_contract_add_relu_use)
{
    float *const to_relu_0 = (float *)at[0];
    const float *const b0 = (const float *)at[1];
    for (int64_t i = block->first_row; i < block->last_row; i++) {
        const float *const values = (const float *)block->values + (i - block->first_row) * block->row;
        #pragma omp simd
        for (int64_t j = block->first_column; j < block->last_column; j++) {
            const float contract_0 = values[j - block->first_column];
            const float add_0 = contract_0 + b0[j];
            const float relu_0 = gx_maximum_f32(add_0, 0);
            to_relu_0[6 * i + j] = relu_0;
        }
    }
}

/* [7, 5] @ [5, 6] */
GX_LAUNCH(k0_contract_add_relu)
{
    const float *const x = (const float *)at[2];
    const float *const w0 = (const float *)at[3];
    const gx_product product = {
        .a = x, .a_row = 5, .a_column = 1,
        .b = w0, .b_row = 6, .b_column = 1,
        .m = 7, .n = 6, .k = 5,
        .use = k0_contract_add_relu_use, .at = at, .batch = NULL,
    };
    call->multiply_f32(call, &product, call->scratch + part * call->scratch_nbytes, part, parts);
}

/* contraction over i < 7, j < 3: contract */
GX_USE_BLOCK(k1_contract_use)
{
    float *const to_contract_1 = (float *)at[0];
    for (int64_t i = block->first_row; i < block->last_row; i++) {
        const float *const values = (const float *)block->values + (i - block->first_row) * block->row;
        #pragma omp simd
        for (int64_t j = block->first_column; j < block->last_column; j++) {
            const float contract_1 = values[j - block->first_column];
            to_contract_1[3 * i + j] = contract_1;
        }
    }
}

/* [7, 6] @ [6, 3] */
GX_LAUNCH(k1_contract)
{
    const float *const relu_0 = (const float *)at[1];
    const float *const w1 = (const float *)at[2];
    const gx_product product = {
        .a = relu_0, .a_row = 6, .a_column = 1,
        .b = w1, .b_row = 3, .b_column = 1,
        .m = 7, .n = 3, .k = 6,
        .use = k1_contract_use, .at = at, .batch = NULL,
    };
    call->multiply_f32(call, &product, call->scratch + part * call->scratch_nbytes, part, parts);
}

/* row over i < 7, j < 3, reduces j: add, max, pick, equal, where, subtract, exp, sum, log, divide, multiply */
GX_LAUNCH(k2_add_max_pick_equal_where_subtract_etc)
{
    const int32_t *const labels = (const int32_t *)at[0];
    const float *const contract_1 = (const float *)at[1];
    const float *const b1 = (const float *)at[2];
    float *const to_add_3 = (float *)at[3];
    const int32_t *const iota = (const int32_t *)at[4];
    float *const to_subtract_1 = (float *)at[5];
    _Alignas(64) float exp_0_row[3];
    const int64_t first = gx_start(7, 8, part, parts);
    const int64_t last = gx_start(7, 8, part + 1, parts);
    for (int64_t i = first; i < last; i++) {
        const int64_t label_pick_0 = labels[i];
        float pick_0 = gx_nan_f32();
        if (label_pick_0 >= 0 && label_pick_0 < 3) {
            const float add_1 = contract_1[3 * i + label_pick_0] + b1[label_pick_0];
            pick_0 = add_1;
        }
        float max_0 = gx_lowest_f32();
        #pragma omp simd reduction(max_f32 : max_0)
        for (int64_t j = 0; j < 3; j++) {
            const float add_1 = contract_1[3 * i + j] + b1[j];
            max_0 = gx_maximum_f32(max_0, add_1);
        }
        float sum_0 = 0.0f;
        #pragma omp simd reduction(sum_f32 : sum_0)
        for (int64_t j = 0; j < 3; j++) {
            const float add_1 = contract_1[3 * i + j] + b1[j];
            const float subtract_0 = add_1 - max_0;
            const float exp_0 = gx_exp_f32(subtract_0);
            sum_0 = sum_0 + exp_0;
            exp_0_row[j] = exp_0;
        }
        const float divide_1 = 0.14285715f / sum_0;
        #pragma omp simd
        for (int64_t j = 0; j < 3; j++) {
            const bool equal_0 = iota[j] == labels[i];
            const float where_0 = equal_0 ? (-0.14285715f) : 0.0f;
            const float multiply_1 = divide_1 * exp_0_row[j];
            const float add_3 = where_0 + multiply_1;
            to_add_3[3 * i + j] = add_3;
        }
        const float log_0 = gx_log_f32(sum_0);
        const float add_2 = log_0 + max_0;
        const float subtract_1 = add_2 - pick_0;
        to_subtract_1[i] = subtract_1;
    }
}

/* column over i < 7, j < 3, reduces i: multiply, sum, add, subtract */
GX_LAUNCH(k3_multiply_sum_add_subtract)
{
    const float *const add_3 = (const float *)at[0];
    float *const to_add_7 = (float *)at[1];
    const float *const v_b1 = (const float *)at[2];
    float *const to_subtract_5 = (float *)at[3];
    const float *const b1 = (const float *)at[4];
    _Alignas(64) float sum_3_columns[3];
    const int64_t first = gx_start(3, 64, part, parts);
    const int64_t last = gx_start(3, 64, part + 1, parts);
    for (int64_t j0 = first; j0 < last; j0 += 512) {
        const int64_t j1 = gx_least(j0 + 512, last);
        #pragma omp simd
        for (int64_t j = j0; j < j1; j++) {
            sum_3_columns[j - j0] = 0.0f;
        }
        for (int64_t i = 0; i < 7; i++) {
            #pragma omp simd
            for (int64_t j = j0; j < j1; j++) {
                sum_3_columns[j - j0] = sum_3_columns[j - j0] + add_3[3 * i + j];
            }
        }
        #pragma omp simd
        for (int64_t j = j0; j < j1; j++) {
            const float multiply_7 = 0.9f * v_b1[j];
            const float add_7 = multiply_7 + sum_3_columns[j - j0];
            const float multiply_8 = 0.1f * add_7;
            const float subtract_5 = b1[j] - multiply_8;
            to_add_7[j] = add_7;
            to_subtract_5[j] = subtract_5;
        }
    }
}

/* full over i < 7, reduces i: sum, divide */
GX_LAUNCH(k4_sum_divide)
{
    const float *const subtract_1 = (const float *)at[0];
    float *const to_divide_0 = (float *)at[1];
    float sum_1 = 0.0f;
    #pragma omp simd reduction(sum_f32 : sum_1)
    for (int64_t i = 0; i < 7; i++) {
        sum_1 = sum_1 + subtract_1[i];
    }
    const float divide_0 = sum_1 / 7.0f;
    to_divide_0[0] = divide_0;
}

/* contraction over i < 7, j < 6: contract, greater, where */
GX_USE_BLOCK(k5_contract_greater_where_use)
{
    float *const to_where_1 = (float *)at[0];
    const float *const relu_0 = (const float *)at[1];
    for (int64_t i = block->first_row; i < block->last_row; i++) {
        const float *const values = (const float *)block->values + (i - block->first_row) * block->row;
        #pragma omp simd
        for (int64_t j = block->first_column; j < block->last_column; j++) {
            const float contract_2 = values[j - block->first_column];
            const bool greater_0 = relu_0[6 * i + j] > 0.0f;
            const float where_1 = greater_0 ? contract_2 : 0.0f;
            to_where_1[6 * i + j] = where_1;
        }
    }
}

/* [7, 3] @ [3, 6] */
GX_LAUNCH(k5_contract_greater_where)
{
    const float *const add_3 = (const float *)at[2];
    const float *const w1 = (const float *)at[3];
    const gx_product product = {
        .a = add_3, .a_row = 3, .a_column = 1,
        .b = w1, .b_row = 1, .b_column = 3,
        .m = 7, .n = 6, .k = 3,
        .use = k5_contract_greater_where_use, .at = at, .batch = NULL,
    };
    call->multiply_f32(call, &product, call->scratch + part * call->scratch_nbytes, part, parts);
}

/* contraction over i < 5, j < 6: contract, multiply, add, subtract */
GX_USE_BLOCK(k6_contract_multiply_add_subtract_use)
{
    float *const to_add_4 = (float *)at[0];
    const float *const v_w0 = (const float *)at[1];
    float *const to_subtract_2 = (float *)at[2];
    const float *const w0 = (const float *)at[3];
    for (int64_t i = block->first_row; i < block->last_row; i++) {
        const float *const values = (const float *)block->values + (i - block->first_row) * block->row;
        #pragma omp simd
        for (int64_t j = block->first_column; j < block->last_column; j++) {
            const float contract_3 = values[j - block->first_column];
            const float multiply_0 = 0.9f * v_w0[6 * i + j];
            const float add_4 = multiply_0 + contract_3;
            const float multiply_2 = 0.1f * add_4;
            const float subtract_2 = w0[6 * i + j] - multiply_2;
            to_add_4[6 * i + j] = add_4;
            to_subtract_2[6 * i + j] = subtract_2;
        }
    }
}

/* [5, 7] @ [7, 6] */
GX_LAUNCH(k6_contract_multiply_add_subtract)
{
    const float *const x = (const float *)at[4];
    const float *const where_1 = (const float *)at[5];
    const gx_product product = {
        .a = x, .a_row = 1, .a_column = 5,
        .b = where_1, .b_row = 6, .b_column = 1,
        .m = 5, .n = 6, .k = 7,
        .use = k6_contract_multiply_add_subtract_use, .at = at, .batch = NULL,
    };
    call->multiply_f32(call, &product, call->scratch + part * call->scratch_nbytes, part, parts);
}

/* column over i < 7, j < 6, reduces i: multiply, sum, add, subtract */
GX_LAUNCH(k7_multiply_sum_add_subtract)
{
    const float *const where_1 = (const float *)at[0];
    float *const to_add_5 = (float *)at[1];
    const float *const v_b0 = (const float *)at[2];
    float *const to_subtract_3 = (float *)at[3];
    const float *const b0 = (const float *)at[4];
    _Alignas(64) float sum_2_columns[6];
    const int64_t first = gx_start(6, 64, part, parts);
    const int64_t last = gx_start(6, 64, part + 1, parts);
    for (int64_t j0 = first; j0 < last; j0 += 512) {
        const int64_t j1 = gx_least(j0 + 512, last);
        #pragma omp simd
        for (int64_t j = j0; j < j1; j++) {
            sum_2_columns[j - j0] = 0.0f;
        }
        for (int64_t i = 0; i < 7; i++) {
            #pragma omp simd
            for (int64_t j = j0; j < j1; j++) {
                sum_2_columns[j - j0] = sum_2_columns[j - j0] + where_1[6 * i + j];
            }
        }
        #pragma omp simd
        for (int64_t j = j0; j < j1; j++) {
            const float multiply_3 = 0.9f * v_b0[j];
            const float add_5 = multiply_3 + sum_2_columns[j - j0];
            const float multiply_4 = 0.1f * add_5;
            const float subtract_3 = b0[j] - multiply_4;
            to_add_5[j] = add_5;
            to_subtract_3[j] = subtract_3;
        }
    }
}

/* contraction over i < 6, j < 3: contract, multiply, add, subtract */
GX_USE_BLOCK(k8_contract_multiply_add_subtract_use)
{
    float *const to_add_6 = (float *)at[0];
    const float *const v_w1 = (const float *)at[1];
    float *const to_subtract_4 = (float *)at[2];
    const float *const w1 = (const float *)at[3];
    for (int64_t i = block->first_row; i < block->last_row; i++) {
        const float *const values = (const float *)block->values + (i - block->first_row) * block->row;
        #pragma omp simd
        for (int64_t j = block->first_column; j < block->last_column; j++) {
            const float contract_4 = values[j - block->first_column];
            const float multiply_5 = 0.9f * v_w1[3 * i + j];
            const float add_6 = multiply_5 + contract_4;
            const float multiply_6 = 0.1f * add_6;
            const float subtract_4 = w1[3 * i + j] - multiply_6;
            to_add_6[3 * i + j] = add_6;
            to_subtract_4[3 * i + j] = subtract_4;
        }
    }
}

/* [6, 7] @ [7, 3] */
GX_LAUNCH(k8_contract_multiply_add_subtract)
{
    const float *const relu_0 = (const float *)at[4];
    const float *const add_3 = (const float *)at[5];
    const gx_product product = {
        .a = relu_0, .a_row = 1, .a_column = 6,
        .b = add_3, .b_row = 3, .b_column = 1,
        .m = 6, .n = 3, .k = 7,
        .use = k8_contract_multiply_add_subtract_use, .at = at, .batch = NULL,
    };
    call->multiply_f32(call, &product, call->scratch + part * call->scratch_nbytes, part, parts);
}

gx_launch *const gx_launches[] = {
    k0_contract_add_relu,
    k1_contract,
    k2_add_max_pick_equal_where_subtract_etc,
    k3_multiply_sum_add_subtract,
    k4_sum_divide,
    k5_contract_greater_where,
    k6_contract_multiply_add_subtract,
    k7_multiply_sum_add_subtract,
    k8_contract_multiply_add_subtract
};
