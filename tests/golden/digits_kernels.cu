#include "device.cuh"

GX_REDUCTION(gx_max_of_f32, float, gx_lowest_f32(), gx_maximum_f32(x, y))
GX_REDUCTION(gx_sum_of_f32, float, 0.0f, x + y)

/* elementwise over i < 12800: multiply */
extern "C" __global__ void __launch_bounds__(256)
k0_multiply(const float *x_2, float *to_multiply_2)
{
    for (int v = gx_first<int>(); v < 3200; v += gx_all<int>()) {
        const int i0 = 4 * v;
        const gx_pack<float, 4> x_2_4 = gx_load<4>(&x_2[i0]);
        gx_pack<float, 4> to_multiply_2_4;
        #pragma unroll
        for (int e = 0; e < 4; e++) {
            const float multiply_2 = x_2_4.at[e] * 2.0f;
            to_multiply_2_4.at[e] = multiply_2;
        }
        gx_store(&to_multiply_2[i0], to_multiply_2_4);
    }
}

/* elementwise over i < 100, j < 128: transpose; by tiles */
extern "C" __global__ void __launch_bounds__(256)
k1_transpose(const float *multiply_2, float *to_transpose_0)
{
    __shared__ float multiply_2_tile[32][33];
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    for (int tile = blockIdx.x; tile < 4 * 4 * 1; tile += gridDim.x) {
        const int j0 = 32 * (tile % 4);
        const int i0 = 32 * (tile / 4 % 4);
        for (int n = y; n < 32; n += 8) {
            const int i = i0 + x, j = j0 + n;
            if (i < 100 && j < 128) {
                multiply_2_tile[n][x] = multiply_2[i + 100 * j];
            }
        }
        __syncthreads();
        for (int n = y; n < 32; n += 8) {
            const int i = i0 + n, j = j0 + x;
            if (i < 100 && j < 128) {
                const float transpose_0 = multiply_2_tile[x][n];
                to_transpose_0[128 * i + j] = transpose_0;
            }
        }
        __syncthreads();
    }
}

/* row over i < 128, j < 100, reduces j: multiply, tanh, max, pick, equal, where, square, subtract, exp, sum, log, add, divide */
extern "C" __global__ void __launch_bounds__(256)
k2_multiply_tanh_max_pick_equal_where_etc(const int32_t *labels, const float *x_2,
                                          const float *scale, const int32_t *iota,
                                          float *to_multiply_5, float *to_subtract_1)
{
    const int t = threadIdx.x % 32;
    for (int i = blockIdx.x * 8 + threadIdx.x / 32; i < 128; i += gridDim.x * 8) {
        gx_pack<float, 4> x_2_row[1];
        gx_pack<float, 4> scale_row[1];
        gx_pack<float, 4> tanh_0_row[1];
        gx_pack<float, 4> exp_0_row[1];
        const int64_t label_pick_0 = labels[i];
        float pick_0 = gx_nan_f32();
        if (label_pick_0 >= 0 && label_pick_0 < 100) {
            const float multiply_0 = x_2[100 * i + label_pick_0] * scale[label_pick_0];
            const float tanh_0 = gx_tanh_f32(multiply_0);
            pick_0 = tanh_0;
        }
        gx_wait<32>();
        float max_0_own = gx_lowest_f32();
        #pragma unroll
        for (int n = 0; n < 1; n++) {
            const int j0 = 128 * n + 4 * t;
            if (j0 < 100) {
                x_2_row[n] = gx_load<4>(&x_2[100 * i + j0]);
                scale_row[n] = gx_load<4>(&scale[j0]);
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float multiply_0 = x_2_row[n].at[e] * scale_row[n].at[e];
                    const float tanh_0 = gx_tanh_f32(multiply_0);
                    max_0_own = gx_maximum_f32(max_0_own, tanh_0);
                    tanh_0_row[n].at[e] = tanh_0;
                }
            }
        }
        const float max_0 = gx_join<gx_max_of_f32, 32>(max_0_own);
        float sum_0_own = 0.0f;
        #pragma unroll
        for (int n = 0; n < 1; n++) {
            const int j0 = 128 * n + 4 * t;
            if (j0 < 100) {
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float subtract_0 = tanh_0_row[n].at[e] - max_0;
                    const float exp_0 = gx_exp_f32(subtract_0);
                    sum_0_own = sum_0_own + exp_0;
                    exp_0_row[n].at[e] = exp_0;
                }
            }
        }
        const float sum_0 = gx_join<gx_sum_of_f32, 32>(sum_0_own);
        const float divide_0 = 0.0078125f / sum_0;
        #pragma unroll
        for (int n = 0; n < 1; n++) {
            const int j0 = 128 * n + 4 * t;
            if (j0 < 100) {
                const gx_pack<int32_t, 4> iota_4 = gx_load<4>(&iota[j0]);
                gx_pack<float, 4> to_multiply_5_4;
                #pragma unroll
                for (int e = 0; e < 4; e++) {
                    const bool equal_0 = iota_4.at[e] == labels[i];
                    const float where_0 = equal_0 ? (-0.0078125f) : 0.0f;
                    const float square_0 = tanh_0_row[n].at[e] * tanh_0_row[n].at[e];
                    const float subtract_2 = 1.0f - square_0;
                    const float multiply_3 = divide_0 * exp_0_row[n].at[e];
                    const float add_1 = where_0 + multiply_3;
                    const float multiply_4 = add_1 * subtract_2;
                    const float multiply_5 = multiply_4 * x_2_row[n].at[e];
                    to_multiply_5_4.at[e] = multiply_5;
                }
                gx_store(&to_multiply_5[100 * i + j0], to_multiply_5_4);
            }
        }
        const float log_0 = gx_log_f32(sum_0);
        const float add_0 = log_0 + max_0;
        const float subtract_1 = add_0 - pick_0;
        gx_wait<32>();
        if (t == 0) {
            to_subtract_1[i] = subtract_1;
        }
    }
}

/* full over i < 128, reduces i: sum, multiply */
extern "C" __global__ void __launch_bounds__(32)
k3_sum_multiply(const float *subtract_1, float *to_multiply_1)
{
    float sum_1_own = 0.0f;
    #pragma unroll
    for (int n = 0; n < 1; n++) {
        const int i0 = 128 * n + 4 * threadIdx.x;
        const gx_pack<float, 4> subtract_1_4 = gx_load<4>(&subtract_1[i0]);
        #pragma unroll
        for (int e = 0; e < 4; e++) {
            sum_1_own = sum_1_own + subtract_1_4.at[e];
        }
    }
    const float sum_1 = gx_join<gx_sum_of_f32, 32>(sum_1_own);
    const float multiply_1 = sum_1 * 0.0078125f;
    gx_wait<32>();
    if (threadIdx.x == 0) {
        to_multiply_1[0] = multiply_1;
    }
}

/* column over i < 128, j < 100, reduces i: sum */
extern "C" __global__ void __launch_bounds__(256)
k4_sum_chunks(int64_t chunks, const float *multiply_5, float *sum_2_parts)
{
    __shared__ float sum_2_own_tile[8][64];
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    const int tiles = gridDim.x / (int)chunks;
    const int chunk = blockIdx.x / tiles;
    const int tile = (blockIdx.x % tiles) % ((100 + 63) / 64);
    const int j0 = 64 * tile + 2 * x;
    const bool active = j0 < 100;
    float sum_2_own[2] = {0.0f, 0.0f};
    if (active) {
        #pragma unroll 4
        for (int i = 8 * chunk + y; i < 128; i += 8 * (int)chunks) {
            const gx_pack<float, 2> multiply_5_2 = gx_load<2>(&multiply_5[100 * i + j0]);
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                sum_2_own[e] = sum_2_own[e] + multiply_5_2.at[e];
            }
        }
    }
    #pragma unroll
    for (int e = 0; e < 2; e++) {
        sum_2_own_tile[y][2 * x + e] = sum_2_own[e];
    }
    __syncthreads();
    const int j = 64 * tile + threadIdx.x;
    if (threadIdx.x < 64 && j < 100) {
        float sum_2 = sum_2_own_tile[0][threadIdx.x];
        for (int n = 1; n < 8; n++) sum_2 = sum_2 + sum_2_own_tile[n][threadIdx.x];
        sum_2_parts[chunk * (100) + j] = sum_2;
    }
}

/* joins what k4_sum_chunks gives, in order */
extern "C" __global__ void __launch_bounds__(256)
k4_sum_joined(int64_t chunks, float *sum_2_parts, float *to_sum_2)
{
    __shared__ float sum_2_own_tile[8][32];
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    const int tile = blockIdx.x % ((100 + 31) / 32);
    const int j = 32 * tile + x;
    const bool active = j < 100;
    float sum_2_own = 0.0f;
    if (active) {
        for (int chunk = y; chunk < (int)chunks; chunk += 8) {
            sum_2_own = sum_2_own + sum_2_parts[chunk * (100) + j];
        }
    }
    sum_2_own_tile[y][x] = sum_2_own;
    __syncthreads();
    if (active && y == 0) {
        float sum_2 = sum_2_own_tile[0][threadIdx.x];
        for (int n = 1; n < 8; n++) sum_2 = sum_2 + sum_2_own_tile[n][threadIdx.x];
        to_sum_2[j] = sum_2;
    }
}

/* elementwise over i < 100: multiply, subtract */
extern "C" __global__ void __launch_bounds__(256)
k5_multiply_subtract(const float *sum_2, const float *scale, float *to_subtract_3)
{
    for (int v = gx_first<int>(); v < 25; v += gx_all<int>()) {
        const int i0 = 4 * v;
        const gx_pack<float, 4> sum_2_4 = gx_load<4>(&sum_2[i0]);
        const gx_pack<float, 4> scale_4 = gx_load<4>(&scale[i0]);
        gx_pack<float, 4> to_subtract_3_4;
        #pragma unroll
        for (int e = 0; e < 4; e++) {
            const float multiply_6 = 0.1f * sum_2_4.at[e];
            const float subtract_3 = scale_4.at[e] - multiply_6;
            to_subtract_3_4.at[e] = subtract_3;
        }
        gx_store(&to_subtract_3[i0], to_subtract_3_4);
    }
}
