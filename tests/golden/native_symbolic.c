#include "program.h"
#include "scalar.h"

#pragma omp declare reduction(sum_f32 : float : omp_out = omp_out + omp_in) initializer(omp_priv = 0.0f)

/* full over i < 3*batch, reduces i: exp, sum, divide */
GX_LAUNCH(k0_exp_sum_divide_chunks)
{
    const int64_t size_batch = call->sizes[0];
    const float *const x = (const float *)at[0];
    float *const sum_0_parts = (float *)at[1];
    const int64_t chunks = gx_chunks((3 * size_batch), (3 * size_batch), 1);
    for (int64_t unit = gx_start(chunks, 1, part, parts); unit < gx_start(chunks, 1, part + 1, parts); unit++) {
        const int64_t chunk = unit;
        const int64_t first = gx_start((3 * size_batch), 1, chunk, chunks);
        const int64_t last = gx_start((3 * size_batch), 1, chunk + 1, chunks);
        float sum_0 = 0.0f;
        for (int64_t i0 = first; i0 < last; i0 += 1024) {
            const int64_t i1 = gx_least(i0 + 1024, last);
            float sum_0_run = 0.0f;
            #pragma omp simd reduction(sum_f32 : sum_0_run)
            for (int64_t i = i0; i < i1; i++) {
                const float exp_0 = gx_exp_f32(x[i]);
                sum_0_run = sum_0_run + exp_0;
            }
            sum_0 = sum_0 + sum_0_run;
        }
        sum_0_parts[chunk] = sum_0;
    }
}

/* joins what k0_exp_sum_divide_chunks gives, in order */
GX_LAUNCH(k0_exp_sum_divide)
{
    const int64_t size_batch = call->sizes[0];
    float *const sum_0_parts = (float *)at[0];
    float *const to_divide_0 = (float *)at[1];
    const int64_t chunks = gx_chunks((3 * size_batch), (3 * size_batch), 1);
    float sum_0 = 0.0f;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        sum_0 = sum_0 + sum_0_parts[chunk];
    }
    const float divide_0 = sum_0 / (float)call->numbers[0];
    to_divide_0[0] = divide_0;
}

gx_launch *const gx_launches[] = {
    k0_exp_sum_divide_chunks,
    k0_exp_sum_divide
};
