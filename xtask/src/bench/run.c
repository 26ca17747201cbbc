/* What `run.rs` measures: a program below `uvfio run`, with edu in group 1 and NVMe with mapped doorbells in group 2.

   run calls BLOCKS BLOCK     calls on a device beside the same calls on other files
   run registers BLOCKS BLOCK loads of mapped registers, and of a page of them that is memory
   run busy OPERATIONS        system calls that are none of VFIO's

   Each line that it prints is a figure: its name, ours and theirs, in nanoseconds for one. Of `busy` it is the time that has
   passed, and the processor's. */
#include "vfio.h"
#include <sys/stat.h>
#include <time.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static double processor(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of alternating blocks of each. */
#define BESIDE(name, blocks, block, ours, theirs)                                       \
    do {                                                                                \
        double times[2][(blocks)];                                                      \
        for (int round = 0; round < (blocks); round++) {                                \
            double start = now();                                                       \
            for (int n = 0; n < (block); n++)                                           \
                check(ours, name);                                                      \
            double middle = now();                                                      \
            for (int n = 0; n < (block); n++)                                           \
                check(theirs, name);                                                    \
            times[0][round] = (middle - start) / (block);                               \
            times[1][round] = (now() - middle) / (block);                               \
        }                                                                               \
        for (int side = 0; side < 2; side++)                                            \
            qsort(times[side], (blocks), sizeof(double), by_value);                     \
        printf("%s %.3f %.3f\n", name, times[0][(blocks) / 2], times[1][(blocks) / 2]); \
    } while (0)

static int memory(void)
{
    int file = memfd_create("memory", MFD_CLOEXEC);
    check(file >= 0 && ftruncate(file, 4096) == 0, "a memfd");
    return file;
}

static void calls(int blocks, int block)
{
    int device = open_device("/dev/vfio/1", "0000:01:00.0"), file = memory(), pair[2], waiting;
    struct vfio_device_info info = { .argsz = sizeof info };
    uint32_t value;
    check(pipe(pair) == 0, "a pipe");
    BESIDE("ioctl", blocks, block, ioctl(device, VFIO_DEVICE_GET_INFO, &info) == 0, ioctl(pair[0], FIONREAD, &waiting) == 0);
    BESIDE("config", blocks, block, pread(device, &value, 4, CONFIG) == 4, pread(file, &value, 4, 0) == 4);
}

static void registers(int blocks, int block)
{
    size_t bytes;
    uint32_t value;
    int edu = open_device("/dev/vfio/1", "0000:01:00.0"), nvme = open_device("/dev/vfio/2", "0000:01:01.0");
    volatile uint32_t *trapped = map_bar(edu, 0, &bytes), *mapped = map_bar(nvme, 0, &bytes);
    BESIDE("trapped", blocks, block, trapped[0] == 0x010000ed, pread(edu, &value, 4, 0) == 4);
    volatile uint32_t *plain = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory(), 0);
    check(plain != MAP_FAILED, "a page");
    /* Doorbells begin at 0x1000. */
    volatile uint32_t *doorbell = mapped + 0x1000 / 4;
    BESIDE("mapped", blocks, block * 400, doorbell[0] == 0, plain[0] == 0);
}

static void busy(int operations)
{
    int file = memory(), pair[2], waiting;
    char data[64] = { 0 };
    struct stat found;
    check(pipe(pair) == 0, "a pipe");
    double start = now(), spent = processor();
    for (int n = 0; n < operations; n++) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        check(null >= 0, "open");
        check(fstat(null, &found) == 0, "fstat");
        check(write(null, data, sizeof data) == sizeof data, "write");
        check(pwrite(file, data, sizeof data, 0) == sizeof data, "pwrite");
        check(pread(file, data, sizeof data, 0) == sizeof data, "pread");
        check(ioctl(pair[0], FIONREAD, &waiting) == 0, "ioctl");
        void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
        check(page != MAP_FAILED && munmap(page, 4096) == 0, "mmap");
        check(close(null) == 0, "close");
    }
    printf("busy %.3f %.3f\n", (now() - start) / operations, (processor() - spent) / operations);
}

int main(int count, char **arguments)
{
    int blocks = count > 2 ? atoi(arguments[2]) : 0, block = count > 3 ? atoi(arguments[3]) : 0;
    check(blocks > 0, "how often");
    if (strcmp(arguments[1], "calls") == 0)
        calls(blocks, block);
    else if (strcmp(arguments[1], "registers") == 0)
        registers(blocks, block);
    else
        busy(blocks);
    return 0;
}
