/* What memory is for DMA once it is mapped for it: the kernel pins its pages. The device is edu. */
#include "vfio.h"
#include <sys/prctl.h>
#include <sys/stat.h>

enum { BUFFER = 0x40000, IOVA = 0x100000, PAGE = 4096 };

static int device;

static void transfer(uint64_t from, uint64_t to, uint64_t command)
{
    uint64_t values[4] = { from, to, PAGE, command };
    for (int at = 0; at < 4; at++)
        check(pwrite(device, &values[at], 8, 0x80 + 8 * at) == 8, "a register");
    while (check(pread(device, &command, 8, 0x98) == 8, "a register"), command & 1)
        ;
}

static int map(int container, void *memory, uint64_t iova, uint64_t bytes, uint32_t flags)
{
    struct vfio_iommu_type1_dma_map map = { sizeof map, flags, (uintptr_t)memory, iova, bytes };
    return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

int main(void)
{
    /* Names are bytes. */
    check(prctl(PR_SET_NAME, "memory\xff\xfe") == 0, "the thread's name");
    device = open_device("/dev/vfio/1", "0000:01:00.0");
    int container = 3, file = memfd_create("memory\xff\xfe", MFD_CLOEXEC);
    check(file >= 0 && ftruncate(file, 4 * PAGE) == 0, "a file");
    uint8_t *kept = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    uint8_t *mapped = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, PAGE);
    check(map(container, mapped, IOVA, 2 * PAGE, 3) == 0, "MAP_DMA");

    /* It stays what it was when the program has something else there. */
    uint8_t *other = mmap(mapped, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    check(other == mapped, "memory in its place");
    memset(kept + PAGE, 0x5a, PAGE);
    transfer(IOVA, BUFFER, 1);
    transfer(BUFFER, IOVA + PAGE, 3);
    check(kept[2 * PAGE] == 0x5a && kept[3 * PAGE - 1] == 0x5a && kept[3 * PAGE] == 0 && other[PAGE] == 0, "the pages");
    check(munmap(other, 2 * PAGE) == 0, "munmap");
    memset(kept + PAGE, 0xa5, PAGE);
    transfer(IOVA, BUFFER, 1);
    transfer(BUFFER, IOVA + PAGE, 3);
    check(kept[2 * PAGE] == 0xa5, "the pages of what is unmapped");

    /* What is not there can't be mapped. */
    check(map(container, other, 0x800000, PAGE, 3) == -1 && errno == EFAULT, "no memory");
    uint8_t *half = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(half + PAGE, PAGE);
    check(map(container, half, 0x800000, 2 * PAGE, 3) == -1 && errno == EFAULT, "half of it");
    uint8_t *fixed = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(map(container, fixed, 0x800000, PAGE, 3) == -1 && errno == EFAULT, "memory that can't be written");
    check(map(container, fixed, 0x800000, PAGE, VFIO_DMA_MAP_FLAG_READ) == 0, "nor need be");

    /* It stays what it was, too, where it can be written by one of its descriptors only, and not by the first. */
    int writable = memfd_create("other", MFD_CLOEXEC);
    check(writable >= 0 && ftruncate(writable, 2 * PAGE) == 0, "another file");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", writable);
    int appending = open(path, O_RDWR | O_APPEND), readable = open(path, O_RDONLY), last = fcntl(writable, F_DUPFD, 50);
    close(writable);
    check(appending >= 0 && readable >= 0 && last >= 50, "its descriptors");
    uint8_t *of_it = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, last, 0);
    check(of_it != MAP_FAILED && map(container, of_it, 2 * IOVA, 2 * PAGE, 3) == 0, "MAP_DMA of that");
    memset(of_it, 0x33, PAGE);
    transfer(2 * IOVA, BUFFER, 1);
    transfer(BUFFER, 2 * IOVA + PAGE, 3);
    struct stat size;
    check(of_it[PAGE] == 0x33 && fstat(last, &size) == 0 && size.st_size == 2 * PAGE, "where it belongs");
    puts("pinned");
    return 0;
}
