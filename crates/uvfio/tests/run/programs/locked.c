/* How much memory can be mapped for DMA, with an RLIMIT_MEMLOCK of two pages: by a container, and by /dev/iommu. */
#include "vfio.h"
#include <sys/resource.h>

enum { PAGE = 4096 };

static uint8_t *memory;
static int container, iommu;
static uint32_t ioas;

static const char *result(int returned)
{
    return returned == 0 ? "done" : errno == ENOMEM ? "ENOMEM" : "another error";
}

static const char *map(uint64_t page, uint64_t pages)
{
    struct vfio_iommu_type1_dma_map map = { sizeof map, 3, (uintptr_t)memory + page * PAGE, page * PAGE, pages * PAGE };
    return result(ioctl(container, VFIO_IOMMU_MAP_DMA, &map));
}

static void unmap_all(void)
{
    struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof unmap, .flags = VFIO_DMA_UNMAP_FLAG_ALL };
    check(ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap) == 0, "UNMAP_DMA");
}

static const char *ioas_map(uint64_t pages)
{
    /* struct iommu_ioas_map, for whose header there may be none: somewhere, to be read and written */
    struct { uint32_t size, flags, ioas, reserved; uint64_t address, bytes, iova; } map =
        { sizeof map, 6, ioas, 0, (uintptr_t)memory, pages * PAGE, 0 };
    return result(ioctl(iommu, 0x3b85, &map));
}

int main(void)
{
    struct rlimit limit = { 2 * PAGE, 2 * PAGE };
    check(setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "setrlimit");
    open_device("/dev/vfio/1", "0000:01:00.0");
    container = 3;
    memory = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("3: %s, ", map(0, 3));
    unmap_all();
    printf("2: %s, ", map(0, 2));
    printf("1 more: %s, ", map(2, 1));
    unmap_all();
    check(mlock(memory + 4 * PAGE, PAGE) == 0, "mlock");
    printf("2 beside 1 that is locked: %s, ", map(0, 2));
    printf("1: %s\n", map(3, 1));
    unmap_all();
    uint32_t alloc[3] = { sizeof alloc, 0, 0 };
    iommu = open("/dev/iommu", O_RDWR);
    check(iommu >= 0 && ioctl(iommu, 0x3b81, alloc) == 0, "an address space");
    ioas = alloc[2];
    printf("3: %s, ", ioas_map(3));
    printf("2: %s, ", ioas_map(2));
    printf("1 more: %s\n", ioas_map(1));
    return 0;
}
