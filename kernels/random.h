/* Random draws: Philox4x32-10 and what is made of its words, for host C and CUDA alike.
 *
 * Salmon, Moraes, Dror, Shaw 2011, Parallel Random Numbers: As Easy as 1, 2, 3. As in
 * graphc/ir/philox.py, element e of a draw is lane e % 4 of group e / 4, with
 *
 *     key     = (seed low, seed high)
 *     counter = (group, number of the draw, step low, step high)
 *     state   = (seed low, seed high, number of the draw, step low, step high)
 *
 * so a draw can be made in any parts, by any number of threads, and again instead of stored.
 * gx_..._lanes_... turns the four words of a group into its four elements, gx_draw_... fills
 * elements [first, first + count) of a draw; `out` is where element `first` goes.
 */
#ifndef GX_RANDOM_H
#define GX_RANDOM_H

#include "scalar.h"

/* One round: the high halves of two products of 64 bits, mixed with the other words and the key,
 * change places with the low halves. */
#define GX_PHILOX_ROUND                                                                            \
    {                                                                                              \
        uint64_t p = (uint64_t)c0 * 0xd2511f53u, q = (uint64_t)c2 * 0xcd9e8d57u;                   \
        c0 = (uint32_t)(q >> 32) ^ c1 ^ k0;                                                        \
        c2 = (uint32_t)(p >> 32) ^ c3 ^ k1;                                                        \
        c1 = (uint32_t)q;                                                                          \
        c3 = (uint32_t)p;                                                                          \
        k0 += 0x9e3779b9u; /* the golden ratio */                                                  \
        k1 += 0xbb67ae85u; /* the square root of 3, less 1 */                                      \
    }

/* The rounds stand one after the other, as a loop of ten would keep compilers from making vectors
 * of the loop over groups around it. */
GX_INLINE void gx_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    GX_PHILOX_ROUND GX_PHILOX_ROUND GX_PHILOX_ROUND GX_PHILOX_ROUND GX_PHILOX_ROUND
    GX_PHILOX_ROUND GX_PHILOX_ROUND GX_PHILOX_ROUND GX_PHILOX_ROUND GX_PHILOX_ROUND
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

GX_INLINE void gx_draw_words(int64_t group, const uint32_t state[5], uint32_t words[4])
{
    const uint32_t counter[4] = {(uint32_t)group, state[2], state[3], state[4]};
    gx_philox(counter, state, words);
}

/* -- elements of words */

/* The upper 24 bits as a whole number: exact in float, and a signed conversion is the fast one */
GX_INLINE float gx_upper_bits(uint32_t word) { return (float)(int32_t)(word >> 8); }

/* The word in double, by bits: 2^52 + word less 2^52 */
GX_INLINE double gx_word_f64(uint32_t word)
{
    return gx_from_bits_f64(0x4330000000000000u | word) - 4503599627370496.0;
}

GX_INLINE void gx_uniform_lanes_f32(const uint32_t words[4], float out[4])
{
    out[0] = gx_upper_bits(words[0]) / GX_LIFT_f32, out[1] = gx_upper_bits(words[1]) / GX_LIFT_f32;
    out[2] = gx_upper_bits(words[2]) / GX_LIFT_f32, out[3] = gx_upper_bits(words[3]) / GX_LIFT_f32;
}

GX_INLINE void gx_uniform_lanes_f64(const uint32_t words[4], double out[4])
{
    out[0] = gx_word_f64(words[0]) / 4294967296.0, out[1] = gx_word_f64(words[1]) / 4294967296.0;
    out[2] = gx_word_f64(words[2]) / 4294967296.0, out[3] = gx_word_f64(words[3]) / 4294967296.0;
}

GX_INLINE void gx_bernoulli_lanes_b8(const uint32_t words[4], bool out[4], uint32_t threshold)
{
    out[0] = words[0] >> 8 < threshold, out[1] = words[1] >> 8 < threshold;
    out[2] = words[2] >> 8 < threshold, out[3] = words[3] >> 8 < threshold;
}

/* A pair of independent normal values (Box and Muller 1958): radius from (0, 1], angle from [0, 1).
 * The angle is rounded to float as NumPy rounds it, and is below 2 pi: its reduction is simple. */
GX_INLINE void gx_normal_pair_f32(uint32_t first, uint32_t second, float out[2])
{
    float radius = gx_sqrt_f32(-2 * gx_log_f32((gx_upper_bits(first) + 1) / GX_LIFT_f32));
    float angle = gx_upper_bits(second) / GX_LIFT_f32 * 6.28318531f;
    GxTurns turns = {(double)angle * 0.3183098861837907, 0, 0, 0};
    out[0] = radius * (float)gx_cos_turns(turns);
    out[1] = radius * (float)gx_sin_turns(turns);
}

GX_INLINE void gx_normal_pair_f64(uint32_t first, uint32_t second, double out[2])
{
    double radius = gx_sqrt_f64(-2 * gx_log_f64((gx_word_f64(first) + 1) / 4294967296.0));
    double angle = gx_word_f64(second) / 4294967296.0 * 6.283185307179586;
    out[0] = radius * gx_cos_f64(angle);
    out[1] = radius * gx_sin_f64(angle);
}

GX_INLINE void gx_normal_lanes_f32(const uint32_t words[4], float out[4])
{
    gx_normal_pair_f32(words[0], words[1], out);
    gx_normal_pair_f32(words[2], words[3], out + 2);
}

GX_INLINE void gx_normal_lanes_f64(const uint32_t words[4], double out[4])
{
    gx_normal_pair_f64(words[0], words[1], out);
    gx_normal_pair_f64(words[2], words[3], out + 2);
}

/* -- parts of draws: the rest of a group, a loop over whole groups that vectorises, a last part */

#define GX_DRAW(name, t, T, PARAMETER, ARGUMENT)                                                   \
    GX_INLINE void gx_part_of_##name##_##t(T *out, int64_t first, int64_t count,                   \
                                           const uint32_t state[5] PARAMETER)                      \
    {                                                                                              \
        uint32_t words[4];                                                                         \
        T lanes[4];                                                                                \
        gx_draw_words(first / 4, state, words);                                                    \
        gx_##name##_lanes_##t(words, lanes ARGUMENT);                                              \
        for (int64_t i = 0; i < count; i++)                                                        \
            out[i] = lanes[first % 4 + i];                                                         \
    }                                                                                              \
    GX_INLINE void gx_draw_##name##_##t(T *out, int64_t first, int64_t count,                      \
                                        const uint32_t state[5] PARAMETER)                         \
    {                                                                                              \
        int64_t head = -first & 3, groups, done;                                                   \
        head = head < count ? head : count;                                                        \
        groups = (count - head) / 4;                                                               \
        done = head + 4 * groups;                                                                  \
        if (head)                                                                                  \
            gx_part_of_##name##_##t(out, first, head, state ARGUMENT);                             \
        for (int64_t group = 0; group < groups; group++) {                                         \
            T *four = out + head + 4 * group;                                                      \
            uint32_t words[4];                                                                     \
            T lanes[4];                                                                            \
            gx_draw_words((first + head) / 4 + group, state, words);                               \
            gx_##name##_lanes_##t(words, lanes ARGUMENT);                                          \
            four[0] = lanes[0], four[1] = lanes[1], four[2] = lanes[2], four[3] = lanes[3];        \
        }                                                                                          \
        if (done < count)                                                                          \
            gx_part_of_##name##_##t(out + done, first + done, count - done, state ARGUMENT);       \
    }

#define GX_NONE
#define GX_THRESHOLD , uint32_t threshold
#define GX_PASS_THRESHOLD , threshold
GX_DRAW(uniform, f32, float, GX_NONE, GX_NONE)
GX_DRAW(uniform, f64, double, GX_NONE, GX_NONE)
GX_DRAW(normal, f32, float, GX_NONE, GX_NONE)
GX_DRAW(normal, f64, double, GX_NONE, GX_NONE)
GX_DRAW(bernoulli, b8, bool, GX_THRESHOLD, GX_PASS_THRESHOLD)

#endif
