/* What `dpdk.rs` measures: copies by DMA engines, as an application of DPDK's has them made. By the interface of dmadev
   alone; which engines there are is for the EAL's options to say.

   dpdk [EAL OPTIONS] -- BLOCKS BLOCK OURS THEIRS

   OURS and THEIRS are the names of two engines; BLOCKS times in turn each makes copies for BLOCK milliseconds. Each line that
   it prints is a figure: its name, ours and theirs, in nanoseconds for one copy. */
#include <rte_dmadev.h>
#include <rte_eal.h>
#include <rte_malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DESCRIPTORS 512
#define MOST_BYTES 4096

static void check(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "%s: not as it should be\n", what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int16_t start(const char *name)
{
    int device = rte_dma_get_dev_id_by_name(name);
    check(device >= 0, name);
    struct rte_dma_conf conf = { .nb_vchans = 1 };
    struct rte_dma_vchan_conf channel = { .direction = RTE_DMA_DIR_MEM_TO_MEM, .nb_desc = DESCRIPTORS };
    check(rte_dma_configure(device, &conf) == 0, "rte_dma_configure");
    check(rte_dma_vchan_setup(device, 0, &channel) == 0, "rte_dma_vchan_setup");
    check(rte_dma_start(device) == 0, "rte_dma_start");
    return device;
}

static uint8_t *buffer(void)
{
    uint8_t *memory = rte_malloc(NULL, DESCRIPTORS * MOST_BYTES, 4096);
    check(memory != NULL, "rte_malloc");
    return memory;
}

/* Copies for so many nanoseconds, `burst` by a doorbell and `most` under way: nanoseconds for one. */
static double copies(int16_t device, double time, unsigned most, unsigned burst, size_t bytes, uint8_t *from, uint8_t *to)
{
    static uint8_t round;
    unsigned started = 0, ended = 0;
    bool failed = false, on = true;
    memset(from, ++round, DESCRIPTORS * bytes);
    double begin = now();
    while (on || ended < started) {
        if (on && started - ended + burst <= most) {
            for (unsigned n = 0; n < burst; n++, started++) {
                size_t at = started % DESCRIPTORS * bytes;
                uint64_t flags = n + 1 == burst ? RTE_DMA_OP_FLAG_SUBMIT : 0;
                check(rte_dma_copy(device, 0, (rte_iova_t)from + at, (rte_iova_t)to + at, bytes, flags) >= 0, "rte_dma_copy");
            }
            on = now() - begin < time;
        }
        ended += rte_dma_completed(device, 0, most, NULL, &failed);
        check(!failed, "a copy");
    }
    double passed = now() - begin;
    unsigned written = started < DESCRIPTORS ? started : DESCRIPTORS;
    check(memcmp(from, to, written * bytes) == 0, "what was copied");
    return passed / started;
}

int main(int count, char **arguments)
{
    int used = rte_eal_init(count, arguments);
    check(used >= 0 && count - used == 5, "the command line");
    arguments += used;
    int blocks = atoi(arguments[1]);
    double time = atof(arguments[2]) * 1e6;
    check(blocks > 0 && time > 0, "how often");
    int16_t devices[2] = { start(arguments[3]), start(arguments[4]) };
    uint8_t *from = buffer(), *to = buffer();
    /* A quarter less than there are descriptors: engines keep one or two to themselves. */
    static const struct {
        const char *name;
        unsigned most, burst;
        size_t bytes;
    } figures[] = {
        { "pages", DESCRIPTORS / 4 * 3, 32, 4096 },
        { "small", DESCRIPTORS / 4 * 3, 32, 64 },
        { "one", 1, 1, 4096 },
    };
    for (unsigned n = 0; n < RTE_DIM(figures); n++) {
        double times[2][blocks];
        for (int block = 0; block < blocks; block++)
            for (int side = 0; side < 2; side++)
                times[side][block] =
                    copies(devices[side], time, figures[n].most, figures[n].burst, figures[n].bytes, from, to);
        for (int side = 0; side < 2; side++)
            qsort(times[side], blocks, sizeof(double), by_value);
        printf("%s %.3f %.3f\n", figures[n].name, times[0][blocks / 2], times[1][blocks / 2]);
    }
    for (int side = 0; side < 2; side++)
        check(rte_dma_stop(devices[side]) == 0 && rte_dma_close(devices[side]) == 0, "rte_dma_close");
    rte_eal_cleanup();
    return 0;
}
