/* CUDA C on the CPU: put before a CUDA C text, this makes a C++17 compiler (g++, clang++) take it.
 *
 * A launch runs in one thread of the processor, block after block. The threads of a block are
 * fibers: each runs until it comes to a barrier or a collective of its warp, then another one goes
 * on. In which order they run is chosen for each launch: ascending, descending, or at random.
 *
 * What it finds, and names with the kernel, the block, the thread and the line where it can:
 * - threads of a block at different barriers, or at one that some thread will never reach since it
 *   has ended or waits elsewhere; the same for the lanes that the mask of a warp collective names.
 *   This is stricter than a GPU, which lets threads that have ended count as arrived;
 * - accesses outside all allocated memory (emulated_memory.py puts pages that cannot be accessed
 *   around each allocation), null pointers, stacks that are too deep;
 * - misaligned accesses, so vector loads, and indices outside an array whose size is known;
 * - whole numbers divided by zero;
 * - a barrier that is missing, by its result: it differs between the orders of the threads, or has
 *   NaN in it, as shared memory is filled with bytes 0xff, like fresh device memory, before each
 *   block.
 * What it cannot find: races between blocks, and between threads within one run from barrier to
 * barrier that give the same result in all orders that were tried; what depends on the order in
 * which memory is written on a GPU; accesses outside one allocation that fall into another, or into
 * the few bytes of padding beside one (writes there are seen after the launch); registers, shared
 * memory or threads beyond what a GPU has. The last bits of exp(), sin() and their like are those
 * of the C library, not those of CUDA's. Its speed says nothing of that of a GPU.
 *
 * Not there: launches in y and z (these indices are 0, and 1 for sizes), extern __shared__ memory,
 * variables outside of functions that are no constants, textures, the half types, inline PTX,
 * printf, assert, clocks, __syncthreads_count() and its like, waiting for another thread in a loop
 * (run_kernel ends it after a time). NVRTC has neither INFINITY nor NAN, so they are not here.
 */
#ifndef GX_EMULATOR_H
#define GX_EMULATOR_H

#ifdef __FAST_MATH__
#error "-ffast-math is on: NaN and infinities would be lost; take it out of CXX"
#endif
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#if !defined __x86_64__ || defined __APPLE__ || defined GX_UCONTEXT
#include <ucontext.h>
#define GX_UCONTEXTS 1
#endif

#define __CUDACC__ 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(nbytes) __attribute__((aligned(nbytes)))
#define __constant__ static const
/* Static and without an initial value: so it is in .bss, from which GX_STATE keeps all else (but a
 * flag of the linker's, which means nothing here). An attribute that names a section for shared
 * variables themselves would be lost in templates. */
#define __shared__ static
#define GX_STATE __attribute__((section("gx_state")))
#define GX_EXPORT extern "C" __attribute__((visibility("default")))
#define GX_HIDDEN __attribute__((visibility("hidden")))

struct dim3 {
    unsigned x, y, z;
};

/* float2, make_float2(), and so on. */
#define GX_VECTOR_ALIGNMENT(T, n) (n * sizeof(T) < 16 ? n * sizeof(T) : 16)
#define GX_VECTORS(T, name)                                                                        \
    struct alignas(GX_VECTOR_ALIGNMENT(T, 2)) name##2 { T x, y; };                                 \
    struct name##3 { T x, y, z; };                                                                 \
    struct alignas(GX_VECTOR_ALIGNMENT(T, 4)) name##4 { T x, y, z, w; };                           \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                              \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                      \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
GX_VECTORS(signed char, char) GX_VECTORS(unsigned char, uchar) GX_VECTORS(short, short)
GX_VECTORS(unsigned short, ushort) GX_VECTORS(int, int) GX_VECTORS(unsigned, uint)
GX_VECTORS(long long, longlong) GX_VECTORS(unsigned long long, ulonglong)
GX_VECTORS(float, float) GX_VECTORS(double, double)
GX_STATE static dim3 threadIdx = {0, 0, 0}, blockIdx = {0, 0, 0};
GX_STATE static dim3 blockDim = {1, 1, 1}, gridDim = {1, 1, 1};
static const int warpSize = 32;

/* -- between two stacks */

#ifdef GX_UCONTEXTS
typedef ucontext_t gx_context;
static void gx_switch(gx_context *save, gx_context *to) { swapcontext(save, to); }
static void gx_prepare(gx_context *context, char *stack, size_t nbytes, void (*run)(void))
{
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = nbytes;
    context->uc_link = 0;
    makecontext(context, run, 0);
}
#else
/* The registers that a function must keep lie on its stack; a context is where. */
typedef void *gx_context;
extern "C" GX_HIDDEN void gx_switch(gx_context *save, gx_context *to);
asm(".text\n"
    ".globl gx_switch\n"
    ".hidden gx_switch\n"
    ".type gx_switch, @function\n"
    "gx_switch:\n"
    "    push %rbp\n"
    "    push %rbx\n"
    "    push %r12\n"
    "    push %r13\n"
    "    push %r14\n"
    "    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov (%rsi), %rsp\n"
    "    pop %r15\n"
    "    pop %r14\n"
    "    pop %r13\n"
    "    pop %r12\n"
    "    pop %rbx\n"
    "    pop %rbp\n"
    "    ret\n"
    ".size gx_switch, . - gx_switch\n");
static void gx_prepare(gx_context *context, char *stack, size_t nbytes, void (*run)(void))
{
    void **top = (void **)(stack + nbytes); /* a multiple of 16, as ABI and `ret` want it */
    top[-2] = (void *)run;
    *context = top - 8;
}
#endif

/* -- a launch; emulated_module.py has the same records */

enum { GX_MOST_THREADS = 1024, GX_MOST_WARPS = GX_MOST_THREADS / 32 };
enum { GX_ASCENDING, GX_DESCENDING, GX_RANDOM };
enum { GX_UNKNOWN, GX_READ, GX_WRITE };

/* Bytes beside an allocation, which must stay 0xff. */
struct gx_fence {
    const unsigned char *start;
    int64_t nbytes;
};

struct gx_launch {
    void **arguments;
    int64_t blocks, threads, order;
    uint64_t seed;
    char *stacks; /* for GX_MOST_THREADS threads, the first `guard_nbytes` of each out of bounds */
    int64_t stack_nbytes, guard_nbytes;
    const gx_fence *fences;
    int64_t fence_count;
    int64_t microseconds; /* of the processor, after which an alarm ends it, as an interrupt does; 0:
                             neither ends it */
    /* what went wrong */
    int64_t broken_fence, broken_byte; /* the fence, or -1; the first byte that was changed */
    void *address;                     /* of a bad access, or 0 */
    int64_t access;                    /* what it was: a read, a write, or GX_UNKNOWN */
    int64_t misaligned;                /* whether it was that */
    char message[512];
};

struct gx_kernel {
    const char *name, *letters; /* of the parameters, as in Python's `struct` */
    const char *pointees;       /* the same of what a pointer leads to; '.' for others, '*': a type
                                   of the text's own */
    const char *constants;      /* 'c' for a pointer through which nothing is written */
    int64_t bound;              /* threads of __launch_bounds__, or 0 */
    void (*call)(void **arguments);
};
GX_EXPORT const gx_kernel gx_kernels[]; /* behind the text, ended by a null name */

struct gx_thread {
    gx_context context; /* once it has waited */
    bool started, ended;
    const char *call;   /* what it waits at, with `line` and the lanes that it waits for */
    int line;
    unsigned mask, source;
    uint64_t value, result;
};

struct gx_stack {
    gx_context context;
    int next_idle;
};

/* A block at work. A thread is in `ready` if it can go on and is not running. */
struct gx_block {
    gx_launch *launch;
    const gx_kernel *kernel;
    gx_context main;
    pthread_t owner;
    int threads, warps, current;
    int turn, warp, lane_turn; /* place in `warps_order`, the warp there, place in `lanes_order` */
    int at_barrier, ended;
    int stacks, idle; /* how many are in use; the first that is idle, or -1 */
    int signal;
    volatile bool inside; /* a thread is running: the launch can be left */
    bool failed, nowhere; /* nowhere: a bad access whose address the system does not tell */
    uint64_t random;
    uint32_t ready[GX_MOST_WARPS], arrived[GX_MOST_WARPS];
    unsigned char warps_order[GX_MOST_WARPS], lanes_order[32];
    gx_stack stack[GX_MOST_THREADS];
    gx_thread thread[GX_MOST_THREADS];
};
GX_STATE static gx_block *gx = 0;

/* -- errors */

/* The kernel ends; `words` are behind the names of kernel, block and thread. */
template <class... T> static void gx_say(int thread, const char *words, T... values)
{
    char *to = gx->launch->message;
    int room = sizeof gx->launch->message;
    int said = snprintf(to, room, "kernel %s, block %u, thread %d: ", gx->kernel->name, blockIdx.x,
                        thread);
    if (said < room)
        snprintf(to + said, room - said, words, values...);
    gx->failed = true;
}

template <class... T> [[noreturn]] static void gx_fail(const char *words, T... values)
{
    gx_context lost;
    gx->inside = false;
    gx_say(gx->current, words, values...);
    gx_switch(&lost, &gx->main);
    __builtin_unreachable();
}

/* Why the threads that are left wait for ever: one of them, and one that it waits for. */
static void gx_say_stuck()
{
    for (int i = 0; i < gx->threads; i++) {
        const gx_thread &waits = gx->thread[i];
        int first = waits.mask ? i & ~31 : 0, count = waits.mask ? 32 : gx->threads;
        if (waits.ended)
            continue;
        for (int j = first; j < first + count; j++) {
            if (waits.mask && !(waits.mask >> (j & 31) & 1))
                continue;
            if (j >= gx->threads)
                return gx_say(i, "waits at %s in line %d for lane %d of its warp, which a block of "
                              "%d threads has not", waits.call, waits.line, j & 31, gx->threads);
            const gx_thread &other = gx->thread[j];
            if (other.ended)
                return gx_say(i, "waits at %s in line %d for thread %d, which has ended",
                              waits.call, waits.line, j);
            if (other.line != waits.line || other.mask != waits.mask || other.call != waits.call)
                return gx_say(i, "divergent: it waits at %s in line %d%s, but thread %d waits at "
                              "%s in line %d%s", waits.call, waits.line,
                              waits.mask ? " with its mask" : "", j, other.call, other.line,
                              other.mask ? " with its mask" : "");
        }
    }
}

enum { GX_FAULTS = 4, GX_SIGNALS = 6 };
GX_STATE static struct sigaction gx_before[GX_SIGNALS] = {};
static const int gx_signals[GX_SIGNALS] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGINT, SIGVTALRM};

/* Whether a bad access was a write, where the processor tells. */
static int gx_access(void *context)
{
#if defined __x86_64__ && defined __linux__
    return ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2 ? GX_WRITE : GX_READ;
#else
    (void)context;
    return GX_UNKNOWN;
#endif
}

/* An interrupt or an alarm: the launch ends, at once or as soon as a thread runs. */
static void gx_on_end(int number, siginfo_t *, void *)
{
    if (!gx)
        return;
    if (!pthread_equal(gx->owner, pthread_self())) {
        pthread_kill(gx->owner, number);
        return;
    }
    gx->signal = number;
    gx->failed = true;
    if (!gx->inside)
        return;
    gx_context lost;
    gx->inside = false;
    gx_switch(&lost, &gx->main);
}

/* A bad access in a kernel: the launch ends. One in another thread has its old consequences. */
static void gx_on_signal(int number, siginfo_t *info, void *context)
{
    if (!gx || !pthread_equal(gx->owner, pthread_self())) {
        for (int i = 0; i < GX_FAULTS; i++)
            if (gx_signals[i] == number)
                sigaction(number, &gx_before[i], 0);
        return;
    }
    gx_context lost;
    gx->inside = false;
    gx->failed = true;
    gx->signal = number;
    gx->launch->access = number == SIGSEGV ? gx_access(context) : GX_UNKNOWN;
    gx->nowhere = info->si_code == 128; /* SI_KERNEL */
    gx->launch->address = gx->nowhere ? 0 : info->si_addr;
    gx_switch(&lost, &gx->main);
}

static void gx_say_signal()
{
    static const char *const kinds[] = {"access to", "read of", "write to"};
    void *address = gx->launch->address;
    if (gx->signal == SIGINT)
        gx_say(gx->current, "ended by an interrupt");
    else if (gx->signal == SIGVTALRM)
        gx_say(gx->current, "it has run for %g seconds of the processor without an end: a loop that "
               "waits for another thread?", gx->launch->microseconds * 1e-6);
    else if (gx->nowhere) {
        gx_say(gx->current, "access to a misaligned or an impossible address");
        gx->launch->misaligned = true;
    } else if (gx->signal == SIGSEGV || gx->signal == SIGBUS)
        gx_say(gx->current, "%s address %p", kinds[gx->launch->access], address);
    else
        gx_say(gx->current, "it was ended by signal %d", gx->signal);
}

/* What the compiler's checks call: of alignment and null pointers, of bounds, of divisors. */
struct gx_checked {
    const char *file;
    uint32_t line, column;
    const void *type;
    unsigned char alignment; /* its logarithm, where it is about that */
};
#define GX_HANDLER(what, ...)                                                                      \
    GX_HIDDEN void gx_on_##what(__VA_ARGS__) asm("__ubsan_handle_" #what "_abort");                \
    void gx_on_##what(__VA_ARGS__)
GX_HANDLER(type_mismatch_v1, const gx_checked *at, void *pointer)
{
    if (!pointer)
        gx_fail("access through a null pointer in line %u", at->line);
    gx->launch->misaligned = true;
    gx_fail("misaligned access in line %u: address %p is not a multiple of %d", at->line, pointer,
            1 << at->alignment);
}
GX_HANDLER(out_of_bounds, const gx_checked *at, intptr_t index)
{
    gx_fail("index %lld is outside the array in line %u", (long long)index, at->line);
}
GX_HANDLER(divrem_overflow, const gx_checked *at, void *, void *)
{
    gx_fail("whole number divided by zero in line %u", at->line);
}

/* -- which thread is next */

static uint32_t gx_random(uint32_t below) /* xorshift64* (Vigna 2016) */
{
    gx->random ^= gx->random >> 12;
    gx->random ^= gx->random << 25;
    gx->random ^= gx->random >> 27;
    return (uint32_t)(((gx->random * 0x2545f4914f6cdd1du >> 32) * below) >> 32);
}

static void gx_order(unsigned char *order, int count)
{
    bool down = gx->launch->order == GX_DESCENDING;
    for (int i = 0; i < count; i++)
        order[i] = down ? count - 1 - i : i;
    if (gx->launch->order != GX_RANDOM)
        return;
    for (int i = count - 1; i > 0; i--) {
        int j = gx_random(i + 1);
        unsigned char swapped = order[i];
        order[i] = order[j], order[j] = swapped;
    }
}

static void gx_enter_warp(int turn)
{
    gx->turn = turn;
    gx->warp = gx->warps_order[turn];
    gx->lane_turn = 0;
    if (gx->launch->order == GX_RANDOM)
        gx_order(gx->lanes_order, 32);
}

/* All threads can go on, those of a new block or those at a barrier. */
static void gx_all_ready()
{
    gx->at_barrier = 0;
    for (int i = 0; i < gx->warps; i++) {
        int lanes = gx->threads - 32 * i;
        gx->ready[i] = lanes < 32 ? (1u << lanes) - 1 : 0xffffffffu;
    }
    if (gx->launch->order == GX_RANDOM)
        gx_order(gx->warps_order, gx->warps);
    gx_enter_warp(0);
}

static bool gx_all_at_one_barrier()
{
    if (gx->at_barrier < gx->threads)
        return false;
    for (int i = 1; i < gx->threads; i++)
        if (gx->thread[i].line != gx->thread[0].line)
            return false;
    return true;
}

/* The thread that is to run; -1 if none can. A warp runs as far as it can before the next one. */
static int gx_next()
{
    for (;;) {
        uint32_t &ready = gx->ready[gx->warp];
        while (ready && gx->lane_turn < 32) {
            int lane = gx->lanes_order[gx->lane_turn++];
            if (ready >> lane & 1) {
                ready &= ~(1u << lane);
                return 32 * gx->warp + lane;
            }
        }
        if (ready)
            gx_enter_warp(gx->turn);
        else if (gx->turn + 1 < gx->warps)
            gx_enter_warp(gx->turn + 1);
        else if (gx_all_at_one_barrier())
            gx_all_ready();
        else
            return -1;
    }
}

/* -- running threads */

static void gx_run_threads();

static gx_context *gx_idle_stack()
{
    int number = gx->idle;
    if (number >= 0) {
        gx->idle = gx->stack[number].next_idle;
        return &gx->stack[number].context;
    }
    number = gx->stacks++;
    const gx_launch &launch = *gx->launch;
    char *start = launch.stacks + number * launch.stack_nbytes + launch.guard_nbytes;
    /* Tops at different distances from a page do not compete for the same lines of the cache. */
    size_t nbytes = launch.stack_nbytes - launch.guard_nbytes - (number * 5 & 31) * 128;
    gx_prepare(&gx->stack[number].context, start, nbytes, gx_run_threads);
    return &gx->stack[number].context;
}

static void gx_become(int thread)
{
    gx->current = thread;
    threadIdx.x = thread;
}

/* Go on with a thread, or with the launch if it is -1. */
static void gx_leave(gx_context *save, int next)
{
    gx_context *to = &gx->main;
    if (next >= 0) {
        gx_become(next);
        to = gx->thread[next].started ? &gx->thread[next].context : gx_idle_stack();
    } else {
        gx->inside = false;
    }
    gx_switch(save, to);
}

/* What a stack does: threads, one after another, as plain calls. Once one has waited, this stack is
 * its own until it ends. */
static void gx_run_threads()
{
    int own = gx->stacks - 1; /* a new stack is the last one */
    for (;;) {
        gx->inside = true;
        if (gx->signal) /* which came before that */
            gx_leave(&gx->stack[own].context, -1);
        gx->kernel->call(gx->launch->arguments);
        gx->thread[gx->current].ended = true;
        gx->ended++;
        int next = gx_next();
        if (next >= 0 && !gx->thread[next].started) {
            gx_become(next);
            continue;
        }
        gx->stack[own].next_idle = gx->idle;
        gx->idle = own;
        gx_leave(&gx->stack[own].context, next);
    }
}

/* The running thread lets others run until it can go on. */
static void gx_wait()
{
    int self = gx->current, next = gx_next();
    if (next == self)
        return;
    gx->thread[self].started = true;
    gx_leave(&gx->thread[self].context, next);
}

/* -- barriers and collectives, which know the line that calls them */

#define GX_LINE int line = __builtin_LINE()
#define GX_FULL 0xffffffffu

__attribute__((noinline)) static void __syncthreads(GX_LINE)
{
    gx_thread &self = gx->thread[gx->current];
    self.call = "__syncthreads()", self.line = line, self.mask = 0;
    gx->at_barrier++;
    gx_wait();
}

/* Whether all lanes of the mask are here, in the same call. */
static bool gx_all_arrived(const gx_thread *lanes, uint32_t arrived, const gx_thread &self)
{
    if ((arrived & self.mask) != self.mask)
        return false;
    for (uint32_t left = self.mask; left; left &= left - 1) {
        const gx_thread &other = lanes[__builtin_ctz(left)];
        if (other.line != self.line || other.mask != self.mask || other.call != self.call)
            return false;
    }
    return true;
}

/* Each lane gives a value and gets that of the lane `source`, or, where `source` is 32, a bit for
 * each lane whose value is not 0. The last one to come takes what it needs for all. */
__attribute__((noinline)) static uint64_t gx_exchange(const char *call, int line, unsigned mask,
                                                      uint64_t value, unsigned source)
{
    int warp = gx->current >> 5, lane = gx->current & 31;
    gx_thread *lanes = gx->thread + 32 * warp, &self = lanes[lane];
    if (!(mask >> lane & 1))
        gx_fail("the mask %#x of %s in line %d lacks the lane itself", mask, call, line);
    self.call = call, self.line = line, self.mask = mask, self.value = value, self.source = source;
    gx->arrived[warp] |= 1u << lane;
    if (!gx_all_arrived(lanes, gx->arrived[warp], self)) {
        gx_wait();
        return self.result;
    }
    uint64_t votes = 0;
    for (uint32_t left = mask; left; left &= left - 1)
        votes |= (uint64_t)(lanes[__builtin_ctz(left)].value != 0) << __builtin_ctz(left);
    for (uint32_t left = mask; left; left &= left - 1) {
        gx_thread &other = lanes[__builtin_ctz(left)];
        bool there = other.source < 32 && mask >> other.source & 1; /* else it has no value */
        other.result = other.source == 32 ? votes : there ? lanes[other.source].value : ~0ull;
    }
    gx->arrived[warp] &= ~mask;
    gx->ready[warp] |= mask & ~(1u << lane);
    return self.result;
}

template <class T>
static T gx_shuffle(const char *call, int line, unsigned mask, T value, int source)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = gx_exchange(call, line, mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Lanes of one segment of `width` exchange among themselves, but xor reaches earlier segments. */
#define GX_SHUFFLE(name, number, source)                                                           \
    template <class T>                                                                             \
    static T name(unsigned mask, T value, int number, int width = 32, GX_LINE)                     \
    {                                                                                              \
        int lane = threadIdx.x & 31, first = lane & ~(width - 1), last = first + width - 1;        \
        (void)last;                                                                                \
        return gx_shuffle(#name "()", line, mask, value, source);                                  \
    }
GX_SHUFFLE(__shfl_sync, from, first + (from & (width - 1)))
GX_SHUFFLE(__shfl_up_sync, by, lane - by < first ? lane : lane - by)
GX_SHUFFLE(__shfl_down_sync, by, lane + by > last ? lane : lane + by)
GX_SHUFFLE(__shfl_xor_sync, bits, (lane ^ bits) > last ? lane : lane ^ bits)

static inline void __syncwarp(unsigned mask = GX_FULL, GX_LINE)
{
    gx_exchange("__syncwarp()", line, mask, 0, 32);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, GX_LINE)
{
    return (unsigned)gx_exchange("__ballot_sync()", line, mask, predicate, 32);
}
static inline int __any_sync(unsigned mask, int predicate, GX_LINE)
{
    return gx_exchange("__any_sync()", line, mask, predicate, 32) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, GX_LINE)
{
    return gx_exchange("__all_sync()", line, mask, predicate, 32) == mask;
}

/* -- blocks */

static uint64_t gx_common_divisor(uint64_t x, uint64_t y)
{
    return y ? gx_common_divisor(y, x % y) : x;
}

/* The block at a place of the order; at random, by steps that lead to each block once. */
static unsigned gx_block_at(uint64_t place, uint64_t blocks, uint64_t step)
{
    if (gx->launch->order == GX_RANDOM)
        return (unsigned)((place * step + gx->launch->seed) % blocks);
    return (unsigned)(gx->launch->order == GX_DESCENDING ? blocks - 1 - place : place);
}

extern "C" GX_HIDDEN char __bss_start[], _end[]; /* by the linker: all shared memory */

static void gx_run_block(unsigned block)
{
    blockIdx.x = block;
    memset(__bss_start, 0xff, _end - __bss_start);
    for (int i = 0; i < gx->threads; i++)
        gx->thread[i].started = gx->thread[i].ended = false;
    memset(gx->arrived, 0, sizeof gx->arrived);
    gx->ended = 0;
    gx_all_ready();
    gx_leave(&gx->main, gx_next());
    if (gx->signal)
        gx_say_signal();
    else if (!gx->failed && gx->ended < gx->threads)
        gx_say_stuck();
}

static void gx_run_blocks()
{
    uint64_t blocks = gx->launch->blocks, step = gx->launch->seed % blocks + 1;
    while (gx_common_divisor(step, blocks) != 1)
        step++;
    blockDim.x = gx->threads, gridDim.x = blocks;
    gx_order(gx->warps_order, gx->warps);
    gx_order(gx->lanes_order, 32);
    for (uint64_t i = 0; i < blocks && !gx->failed; i++)
        gx_run_block(gx_block_at(i, blocks, step));
}

/* Whether all bytes of a fence are as they were; if not, the launch tells the first that is not. */
static bool gx_intact(gx_launch *launch, int64_t number)
{
    const unsigned char *start = launch->fences[number].start;
    int64_t nbytes = launch->fences[number].nbytes, i = 0;
    if (!nbytes || (start[0] == 0xff && !memcmp(start, start + 1, nbytes - 1)))
        return true;
    while (start[i] == 0xff)
        i++;
    launch->broken_fence = number, launch->broken_byte = i;
    return false;
}

/* Run a kernel of the table; whether all went well. */
GX_EXPORT int gx_emulate(int kernel, gx_launch *launch)
{
    static const size_t room = 64 << 10;
    char handler_stack[room];
    gx_block block;
    block.launch = launch, block.kernel = &gx_kernels[kernel], block.owner = pthread_self();
    block.threads = launch->threads, block.warps = (launch->threads + 31) / 32;
    block.current = 0, block.stacks = 0, block.idle = -1, block.signal = 0, block.failed = false;
    block.nowhere = block.inside = false;
    block.random = launch->seed * 0x9e3779b97f4a7c15u | 1;
    gx = &block;

    stack_t own = {}, before;
    own.ss_sp = handler_stack, own.ss_size = room;
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER; /* it is left by a switch */
    sigaltstack(&own, &before);
    int signals = launch->microseconds ? GX_SIGNALS : GX_FAULTS;
    for (int i = 0; i < signals; i++) {
        action.sa_sigaction = i < GX_FAULTS ? gx_on_signal : gx_on_end;
        sigaction(gx_signals[i], &action, &gx_before[i]);
    }
    struct itimerval alarm = {}, alarm_before;
    alarm.it_value.tv_sec = launch->microseconds / 1000000;
    alarm.it_value.tv_usec = launch->microseconds % 1000000;
    if (launch->microseconds)
        setitimer(ITIMER_VIRTUAL, &alarm, &alarm_before);
    gx_run_blocks();
    if (launch->microseconds)
        setitimer(ITIMER_VIRTUAL, &alarm_before, 0);
    for (int i = 0; i < signals; i++)
        sigaction(gx_signals[i], &gx_before[i], 0);
    sigaltstack(&before, 0);
    if (block.signal && !launch->message[0])
        gx_say_signal(); /* which came behind the last thread */
    gx = 0;
    if (block.signal == SIGINT)
        raise(SIGINT); /* for whoever waits for one */
    launch->broken_fence = -1;
    for (int64_t i = 0; i < launch->fence_count; i++)
        if (!gx_intact(launch, i))
            return 0;
    return !block.failed;
}

/* -- the table of kernels: GX_KERNEL(name) for each one behind the text */

template <int... I> struct gx_indices {};
template <int N, int... I> struct gx_count : gx_count<N - 1, N - 1, I...> {};
template <int... I> struct gx_count<0, I...> {
    typedef gx_indices<I...> type;
};

template <class T> struct gx_letter; /* no definition: kernels take pointers and numbers only */
template <class T> struct gx_pointee { /* what a pointer leads to, or the same of no pointer */
    static const char value = '.', constant = '.';
};
template <class T> struct gx_element { /* of memory */
    static const char value = '*';
};
template <class T> struct gx_pointee<T *> {
    static const char value = gx_element<T>::value, constant = '.';
};
template <class T> struct gx_pointee<const T *> {
    static const char value = gx_element<T>::value, constant = 'c';
};
template <class T> struct gx_letter<T *> {
    static const char value = 'P';
};
#define GX_LETTER(T, letter)                                                                       \
    template <> struct gx_letter<T> {                                                              \
        static const char value = letter;                                                          \
    };                                                                                             \
    template <> struct gx_element<T> {                                                             \
        static const char value = letter;                                                          \
    };
GX_LETTER(bool, '?')
GX_LETTER(char, 'b')
GX_LETTER(signed char, 'b')
GX_LETTER(unsigned char, 'B')
GX_LETTER(short, 'h')
GX_LETTER(unsigned short, 'H')
GX_LETTER(int, 'i')
GX_LETTER(unsigned, 'I')
GX_LETTER(long, 'l')
GX_LETTER(unsigned long, 'L')
GX_LETTER(long long, 'q')
GX_LETTER(unsigned long long, 'Q')
GX_LETTER(float, 'f')
GX_LETTER(double, 'd')
#define GX_VECTOR_LETTER(name, letter)                                                             \
    template <> struct gx_element<name##2> { static const char value = letter; };                  \
    template <> struct gx_element<name##3> { static const char value = letter; };                  \
    template <> struct gx_element<name##4> { static const char value = letter; };
GX_VECTOR_LETTER(char, 'b') GX_VECTOR_LETTER(uchar, 'B') GX_VECTOR_LETTER(short, 'h')
GX_VECTOR_LETTER(ushort, 'H') GX_VECTOR_LETTER(int, 'i') GX_VECTOR_LETTER(uint, 'I')
GX_VECTOR_LETTER(longlong, 'q') GX_VECTOR_LETTER(ulonglong, 'Q') GX_VECTOR_LETTER(float, 'f')
GX_VECTOR_LETTER(double, 'd')

template <auto kernel> struct gx_entry;
template <class... P, void (*kernel)(P...)> struct gx_entry<kernel> {
    static constexpr char letters[] = {gx_letter<P>::value..., 0};
    static constexpr char pointees[] = {gx_pointee<P>::value..., 0};
    static constexpr char constants[] = {gx_pointee<P>::constant..., 0};
    template <int... I> static void unpack(void **arguments, gx_indices<I...>)
    {
        kernel(*(P *)arguments[I]...);
    }
    static void call(void **arguments)
    {
        unpack(arguments, typename gx_count<sizeof...(P)>::type());
    }
};
#define GX_KERNEL(name, bound)                                                                     \
    {#name, gx_entry<name>::letters, gx_entry<name>::pointees, gx_entry<name>::constants, bound,   \
     gx_entry<name>::call},

/* -- CUDA's functions: bits, order, arithmetic */

template <class To, class From> static inline To gx_bits(From from)
{
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) { return gx_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return gx_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return gx_bits<float>(x); }
static inline float __int_as_float(int x) { return gx_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return gx_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return gx_bits<double>(x); }
static inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
static inline double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }
static inline unsigned __umulhi(unsigned x, unsigned y) { return (uint64_t)x * y >> 32; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
template <class T> static inline T __ldg(const T *at) { return *at; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __mulhi(int x, int y) { return (int64_t)x * y >> 32; }
static inline int __mul24(int x, int y) { return (x << 8 >> 8) * (y << 8 >> 8); }
static inline unsigned __umul24(unsigned x, unsigned y) { return (x << 8 >> 8) * (y << 8 >> 8); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned __int128)x * y >> 64;
}
static inline long long __mul64hi(long long x, long long y) { return (__int128)x * y >> 64; }
static inline unsigned __brev(unsigned x)
{
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++)
        reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}

/* One block at a time, one thread at a time: nothing comes between reading and writing. */
#define GX_ATOMIC(name, result)                                                                    \
    template <class T, class U> static T name(T *at, U value)                                      \
    {                                                                                              \
        T old = *at;                                                                               \
        *at = result;                                                                              \
        return old;                                                                                \
    }
GX_ATOMIC(atomicAdd, old + (T)value)
GX_ATOMIC(atomicMax, old > (T)value ? old : (T)value)
GX_ATOMIC(atomicMin, old < (T)value ? old : (T)value)
GX_ATOMIC(atomicExch, (T)value)
GX_ATOMIC(atomicSub, old - (T)value)
GX_ATOMIC(atomicAnd, old & (T)value)
GX_ATOMIC(atomicOr, old | (T)value)
GX_ATOMIC(atomicXor, old ^ (T)value)
template <class T, class U, class V> static T atomicCAS(T *at, U expected, V value)
{
    T old = *at;
    if (old == (T)expected)
        *at = (T)value;
    return old;
}

/* Of numbers of two types, as C converts them; of NaN and a number, the number. */
template <class T, class U> static inline auto max(T x, U y) -> decltype(x + y)
{
    decltype(x + y) a = x, b = y;
    return a != a || b > a ? b : a;
}
template <class T, class U> static inline auto min(T x, U y) -> decltype(x + y)
{
    decltype(x + y) a = x, b = y;
    return a != a || b < a ? b : a;
}

/* -- <math.h> (which itself takes long to compile) with CUDA's overloads for float */

#define GX_MATH_1(name)                                                                            \
    extern "C" double name(double);                                                                \
    extern "C" float name##f(float);                                                               \
    static inline float name(float x) { return name##f(x); }
#define GX_MATH_2(name)                                                                            \
    extern "C" double name(double, double);                                                        \
    extern "C" float name##f(float, float);                                                        \
    static inline float name(float x, float y) { return name##f(x, y); }
GX_MATH_1(acos) GX_MATH_1(acosh) GX_MATH_1(asin) GX_MATH_1(asinh) GX_MATH_1(atan) GX_MATH_1(atanh)
GX_MATH_1(cbrt) GX_MATH_1(ceil) GX_MATH_1(cos) GX_MATH_1(cosh) GX_MATH_1(erf) GX_MATH_1(erfc)
GX_MATH_1(exp) GX_MATH_1(exp2) GX_MATH_1(expm1) GX_MATH_1(fabs) GX_MATH_1(floor) GX_MATH_1(lgamma)
GX_MATH_1(log) GX_MATH_1(log10) GX_MATH_1(log1p) GX_MATH_1(log2) GX_MATH_1(nearbyint)
GX_MATH_1(rint) GX_MATH_1(round) GX_MATH_1(sin) GX_MATH_1(sinh) GX_MATH_1(sqrt) GX_MATH_1(tan)
GX_MATH_1(tanh) GX_MATH_1(tgamma) GX_MATH_1(trunc)
GX_MATH_2(atan2) GX_MATH_2(copysign) GX_MATH_2(fdim) GX_MATH_2(fmax) GX_MATH_2(fmin)
GX_MATH_2(fmod) GX_MATH_2(hypot) GX_MATH_2(pow)
static inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
static inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
static inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
#define GX_FAST(name, ...)                                                                         \
    static inline float name(float x) { return __VA_ARGS__; }
#define GX_OPERATION(name, operation)                                                              \
    static inline float __f##name##_rn(float x, float y) { return x operation y; }                 \
    static inline double __d##name##_rn(double x, double y) { return x operation y; }
GX_FAST(__expf, expf(x)) GX_FAST(exp10f, powf(10, x)) GX_FAST(__exp10f, powf(10, x))
GX_FAST(__logf, logf(x)) GX_FAST(__log2f, log2f(x)) GX_FAST(__log10f, log10f(x))
GX_FAST(__sinf, sinf(x)) GX_FAST(__cosf, cosf(x)) GX_FAST(__tanf, tanf(x))
GX_FAST(__frcp_rn, 1 / x) GX_FAST(__fsqrt_rn, sqrtf(x)) GX_FAST(__frsqrt_rn, rsqrtf(x))
GX_FAST(rcbrtf, 1 / cbrtf(x))
GX_OPERATION(add, +) GX_OPERATION(sub, -) GX_OPERATION(mul, *) GX_OPERATION(div, /)
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline double __drcp_rn(double x) { return 1 / x; }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline void sincos(double x, double *s, double *c) { *s = sin(x), *c = cos(x); }
static inline void sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
static inline void __sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_ru(float x) { return (int)ceilf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
template <class T> static inline bool isnan(T x) { return x != x; }
template <class T> static inline bool isinf(T x) { return __builtin_isinf(x); }
template <class T> static inline bool isfinite(T x) { return x - x == 0; }
extern "C" int abs(int) noexcept;
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline long abs(long x) { return x < 0 ? -x : x; }

#endif
