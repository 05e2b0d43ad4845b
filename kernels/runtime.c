/* What all programs of a process share: the team of threads, the loop that runs a
 * program. Compiled once for a machine.
 *
 * The team is started when a program first needs it. Between launches its threads spin for a short
 * while, because the next one follows at once, and then sleep. There is one team: a second caller
 * that finds it busy runs all parts by itself, with the same result. So does one whose program was
 * slower together than alone: the others sleep, or their cores are taken by somebody else.
 */
#include "program.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* -- the team */

enum {
    MOST_THREADS = 256,
    SPINS = 4000,    /* looks at the signal before a thread sleeps: about 0.2 ms */
    PATIENCE = 1000, /* looks at a barrier before a thread lets others have its core */
    MOST_ALONE = 1024 /* runs that a program goes alone before it tries again together */
};

/* A launch and how it is run: `barrier` waits for all parts of the launches before it. */
typedef struct {
    gx_launch *run;
    char *const *at;
    int32_t parts, barrier;
} gx_step;

/* A program as it is to be run: what gx_run is given. */
typedef struct {
    const gx_call *call;
    const gx_step *steps;
    int64_t count, threads;
    double *seconds; /* of each step, if wanted */
    double alone;    /* seconds that it last took without the team; 0: not known */
    int64_t stay;    /* runs for which it stays alone */
    int64_t backoff; /* for how many it did the last time */
} gx_job;

static struct {
    pthread_mutex_t busy, lock;
    pthread_cond_t wake;
    int started;                /* threads beside the caller's */
    int sleepers;               /* under `lock` */
    gx_job job;
    atomic_bool late;           /* whether somebody's patience came to its end in this run */
    _Alignas(64) atomic_ullong signal; /* a new number of a job, and how many threads it takes */
    _Alignas(64) atomic_int arrived; /* at the barrier */
    _Alignas(64) atomic_uint phase;  /* of the barrier */
} team = {.busy = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Let other threads see what gx_stream wrote. */
static inline void publish(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("sfence" ::: "memory");
#endif
}

/* All threads of the job meet here. */
static void meet(int64_t threads)
{
    publish();
    if (threads == 1)
        return;
    const unsigned phase = atomic_load_explicit(&team.phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team.arrived, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&team.arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team.phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team.phase, memory_order_acquire) == phase; spins++) {
        if (spins < PATIENCE) {
            pause_briefly();
            continue;
        }
        atomic_store_explicit(&team.late, true, memory_order_relaxed);
        sched_yield(); /* more threads than cores: let the others arrive */
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* What thread `thread` of the job does. */
static void work(const gx_job *job, int64_t thread)
{
    double start = 0;
    if (job->seconds) {
        meet(job->threads); /* to wake up is no part of the first step */
        start = now();
    }
    for (int64_t i = 0; i < job->count; i++) {
        const gx_step *step = &job->steps[i];
        if (step->barrier)
            meet(job->threads);
        for (int64_t part = thread; part < step->parts; part += job->threads)
            step->run(job->call, step->at, part, step->parts);
        if (job->seconds) {
            meet(job->threads);
            if (thread == 0) {
                const double end = now();
                job->seconds[i] = end - start;
                start = end;
            }
        }
    }
    meet(job->threads);
}

/* Wait for another signal than `seen`; spins before it sleeps. */
static unsigned long long await_signal(unsigned long long seen)
{
    for (int spins = 0; spins < SPINS; spins++) {
        const unsigned long long signal = atomic_load_explicit(&team.signal, memory_order_acquire);
        if (signal != seen)
            return signal;
        pause_briefly();
    }
    pthread_mutex_lock(&team.lock);
    team.sleepers++;
    while (atomic_load(&team.signal) == seen)
        pthread_cond_wait(&team.wake, &team.lock);
    team.sleepers--;
    pthread_mutex_unlock(&team.lock);
    return atomic_load(&team.signal);
}

typedef struct {
    int thread;
    unsigned long long seen;
} gx_start_of_thread;
static gx_start_of_thread starts[MOST_THREADS];

static void *serve(void *argument)
{
    const gx_start_of_thread *start = argument;
    const int thread = start->thread;
    unsigned long long seen = start->seen;
    for (;;) {
        seen = await_signal(seen);
        /* Who takes no part must not look at the job: it may be over, and the next written. */
        if ((unsigned long long)thread < seen % (2 * MOST_THREADS))
            work(&team.job, thread);
    }
    return NULL;
}

/* A child has the team's record, but none of its threads. */
static void forget(void)
{
    pthread_mutex_init(&team.busy, NULL);
    pthread_mutex_init(&team.lock, NULL);
    pthread_cond_init(&team.wake, NULL);
    team.started = team.sleepers = 0;
    atomic_store(&team.arrived, 0);
}

/* Start threads until there are `threads` with the caller's; returns how many there are. */
static int64_t gather(int64_t threads)
{
    static bool registered;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, forget) == 0;
    if (threads > MOST_THREADS)
        threads = MOST_THREADS;
    while (registered && team.started + 1 < threads) {
        gx_start_of_thread *start = &starts[team.started + 1];
        *start = (gx_start_of_thread){team.started + 1, atomic_load(&team.signal)};
        pthread_attr_t attributes;
        pthread_t id;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        const int failed = pthread_create(&id, &attributes, serve, start);
        pthread_attr_destroy(&attributes);
        if (failed)
            break;
        team.started++;
    }
    return team.started + 1 < threads ? team.started + 1 : threads;
}

/* Without the team: all parts in this thread. */
static void run_alone(const gx_job *wanted)
{
    gx_job job = *wanted;
    job.threads = 1;
    work(&job, 0);
}

static void run_together(const gx_job *wanted)
{
    gx_job job = *wanted;
    job.threads = gather(job.threads);
    team.job = job;
    atomic_store(&team.late, false);
    const unsigned long long number = atomic_load(&team.signal) / (2 * MOST_THREADS) + 1;
    atomic_store(&team.signal, number * (2 * MOST_THREADS) + (unsigned long long)job.threads);
    pthread_mutex_lock(&team.lock);
    if (team.sleepers)
        pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.lock);
    work(&job, 0);
}

/* Run a program: all its steps, in order. Where somebody had to wait long for the others, the next
 * run goes alone, to compare; if that is faster, so do more and more runs between two trials. */
void gx_run(gx_job *job)
{
    if (job->threads == 1 || pthread_mutex_trylock(&team.busy) != 0) {
        run_alone(job);
        return;
    }
    const double start = now();
    if (job->stay > 0) {
        job->stay--;
        run_alone(job);
        job->alone = now() - start;
    } else {
        run_together(job);
        const double together = now() - start;
        const bool slower = atomic_load(&team.late) && (job->alone == 0 || together > job->alone);
        job->backoff = slower ? 2 * job->backoff + 1 : 0;
        if (job->backoff > MOST_ALONE)
            job->backoff = MOST_ALONE;
        job->stay = job->backoff;
    }
    pthread_mutex_unlock(&team.busy);
}
