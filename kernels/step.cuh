/* What surrounds the kernels of a recorded step, on the device: inputs are fetched from where the
 * caller has them, results delivered to where the caller wants them, and the step is counted. A
 * recording has fixed addresses, so those that change with each call lie in a table.
 *
 * Entry e of a table is the place of an array in the program (`rooms`), and the caller's address of
 * it (`arrays`; 0 for none). Of arrays that hold the values of many steps, step `*index` counts.
 */
#ifndef GX_STEP_CUH
#define GX_STEP_CUH

typedef struct {
    char *address;
    long long nbytes;
} gx_room;

typedef struct alignas(16) {
    unsigned long long low, high;
} gx_piece;

/* Entry e has every count-th block, as none should wait for the addresses of one after the other;
 * where there are fewer blocks than entries, a block has several. */
#define GX_FOR_ENTRIES(e)                                                                          \
    for (long long e = blockIdx.x % count; e < count; e += gridDim.x)

/* The threads of an entry's blocks share its bytes: 16 at a time where both addresses allow. */
static __device__ void gx_copy(char *to, const char *from, long long nbytes, long long e,
                               long long count)
{
    const long long blocks = gridDim.x > count ? (gridDim.x - e + count - 1) / count : 1;
    const long long first = blockIdx.x / count * blockDim.x + threadIdx.x;
    const long long step = blocks * blockDim.x;
    const bool aligned = (((unsigned long long)to | (unsigned long long)from) & 15) == 0;
    const long long pieces = aligned ? nbytes / 16 : 0;
    for (long long i = first; i < pieces; i += step)
        ((gx_piece *)to)[i] = ((const gx_piece *)from)[i];
    for (long long i = 16 * pieces + first; i < nbytes; i += step)
        to[i] = from[i];
}

extern "C" __global__ void gx_fetch(const gx_room *rooms, char *const *arrays,
                                    const long long *index, long long count)
{
    GX_FOR_ENTRIES(e)
        if (arrays[e])
            gx_copy(rooms[e].address, arrays[e] + *index * rooms[e].nbytes, rooms[e].nbytes, e,
                    count);
}

extern "C" __global__ void gx_deliver(const gx_room *rooms, char *const *arrays,
                                      const long long *index, long long count)
{
    GX_FOR_ENTRIES(e)
        if (arrays[e])
            gx_copy(arrays[e] + *index * rooms[e].nbytes, rooms[e].address, rooms[e].nbytes, e,
                    count);
}

/* `state` is that of the random draws: seed low, high, step low, high. */
extern "C" __global__ void gx_advance(unsigned int *state, long long *index)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        if (++state[2] == 0)
            ++state[3];
        ++*index;
    }
}

#endif
