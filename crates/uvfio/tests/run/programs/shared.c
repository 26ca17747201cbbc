/* A device that writes to memory that it has a descriptor of, and tells by MSI-X. Its registers: address, count, vector. */
#include "vfio.h"
#include <poll.h>
#include <sys/eventfd.h>

enum { PAGE = 4096, VECTORS = 4 };

static int device;

static void set(off_t at, uint64_t value, size_t bytes)
{
    check(pwrite(device, &value, bytes, at) == (ssize_t)bytes, "a register");
}

int main(void)
{
    device = open_device("/dev/vfio/1", "0000:01:00.0");
    int container = 3, file = memfd_create("memory", MFD_CLOEXEC);
    uint8_t page[256];
    check(pread(device, page, sizeof page, CONFIG) == sizeof page, "configuration space");
    printf("%02x%02x:%02x%02x, capability %02x\n", page[1], page[0], page[3], page[2], page[page[0x34]]);

    check(file >= 0 && ftruncate(file, 2 * PAGE) == 0, "a file");
    uint8_t *memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    struct vfio_iommu_type1_dma_map map = { sizeof map, 3, (uintptr_t)memory, 0x100000, 2 * PAGE };
    check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "MAP_DMA");
    void *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct vfio_iommu_type1_dma_map other = { sizeof map, 3, (uintptr_t)private, 0x200000, PAGE };
    printf("private memory: %s\n", ioctl(container, VFIO_IOMMU_MAP_DMA, &other) == 0 ? "mapped" : strerror(errno));

    struct { struct vfio_irq_set set; int events[VECTORS]; } irqs = {
        { .argsz = sizeof irqs, .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
          .index = VFIO_PCI_MSIX_IRQ_INDEX, .count = VECTORS }, { 0 },
    };
    for (int vector = 0; vector < VECTORS; vector++)
        irqs.events[vector] = eventfd(0, 0);
    check(ioctl(device, VFIO_DEVICE_SET_IRQS, &irqs) == 0, "SET_IRQS");
    for (int vector = 0; vector < VECTORS; vector++) {
        set(0x00, 0x100000 + PAGE + 16 * vector, 8);
        set(0x08, 16, 4);
        set(0x0c, vector, 4);
        struct pollfd told = { .fd = irqs.events[vector], .events = POLLIN };
        check(poll(&told, 1, 20000) == 1, "no interrupt came");
    }
    int right = memory[PAGE - 1] == 0 && memory[PAGE + 16 * VECTORS] == 0;
    for (int at = 0; at < 16 * VECTORS; at++)
        right &= memory[PAGE + at] == 0xa5;
    printf("memory: %s\n", right ? "written" : "not as it should be");

    struct vfio_region_info region = { .argsz = sizeof region, .index = 2 };
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0, "GET_REGION_INFO");
    if (region.flags & VFIO_REGION_INFO_FLAG_MMAP) {
        size_t bytes;
        volatile uint32_t *bar = map_bar(device, 2, &bytes);
        bar[1] = 0x11223344;
        printf("BAR 2: %zu bytes, %08x\n", bytes, bar[1]);
    } else {
        printf("BAR 2: %llu bytes, not to be mapped\n", (unsigned long long)region.size);
    }
    uint16_t command = 0;
    check(ioctl(device, VFIO_DEVICE_RESET) == 0, "RESET");
    check(pread(device, &command, 2, CONFIG + 4) == 2, "COMMAND");
    printf("COMMAND after a reset: %04x\n", command);
    return 0;
}
