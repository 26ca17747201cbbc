/* Threads that map and unmap a BAR at a time, and parts of one mapping: an access meets what it was mapped for, always. */
#include "vfio.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { PAGE = 4096, PAGES = 16, ROUNDS = 1500, ID = 0x010000ed };

static int device;
static atomic_int left;

static volatile uint8_t *map(size_t bytes)
{
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    check(mapped != MAP_FAILED, "mmap");
    return mapped;
}

static uint32_t load(volatile uint8_t *from, unsigned at)
{
    return *(volatile uint32_t *)(from + at);
}

/* What one unmaps, another is given. */
static void *whole(void *argument)
{
    for (int round = 0; round < ROUNDS; round++) {
        volatile uint8_t *bar = map(PAGE);
        check(load(bar, 0) == ID, "a BAR of its own");
        check(munmap((void *)bar, PAGE) == 0, "munmap");
    }
    left--;
    return argument;
}

/* What there is to be read, and what is being read: that is not unmapped. */
static volatile uint8_t *_Atomic shared, *_Atomic reading;

/* The first page of it stays, while others go. */
static void *parts(void *argument)
{
    while (left > 0) {
        volatile uint8_t *bar = map(PAGES * PAGE);
        volatile uint8_t *before = shared;
        shared = bar;
        for (int page = 2; page < PAGES; page += 3) {
            check(munmap((void *)(bar + page * PAGE), PAGE) == 0, "munmap of a page");
            check(load(bar, 0) == ID, "the first page");
        }
        if (before)
            check(munmap((void *)(before + PAGE), (PAGES - 1) * PAGE) == 0, "munmap of the rest");
        /* The one before stays mapped with one page; there is room for some. */
        static volatile uint8_t *old[4];
        static int next;
        while (old[next] && reading == old[next])
            sched_yield();
        if (old[next])
            check(munmap((void *)old[next], PAGE) == 0, "munmap of the last page");
        old[next] = before;
        next = (next + 1) % 4;
    }
    return argument;
}

static void *first(void *argument)
{
    while (left > 0) {
        volatile uint8_t *bar = shared;
        reading = bar;
        /* It may have gone before it was known to be read. */
        if (bar && bar == shared)
            check(load(bar, 0) == ID, "the page that stays");
        reading = NULL;
    }
    return argument;
}

int main(void)
{
    device = open_device("/dev/vfio/1", "0000:01:00.0");
    pthread_t threads[5];
    void *(*const work[5])(void *) = { whole, whole, whole, parts, first };
    left = 3;
    for (int at = 0; at < 5; at++)
        check(pthread_create(&threads[at], NULL, work[at], NULL) == 0, "a thread");
    for (int at = 0; at < 5; at++)
        pthread_join(threads[at], NULL);
    puts("each its own");
    return 0;
}
