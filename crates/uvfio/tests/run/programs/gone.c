/* A device edu whose server dies: what a program that drives it sees. Memory is off in no register, so nothing may fail. */
#include "vfio.h"
#include <poll.h>
#include <sys/eventfd.h>

static int set_irqs(int device, uint32_t index, int event)
{
    struct { struct vfio_irq_set set; int event; } irqs = {
        { .argsz = sizeof irqs, .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, .index = index,
          .count = 1 }, event,
    };
    return ioctl(device, VFIO_DEVICE_SET_IRQS, &irqs);
}

int main(void)
{
    int device = open_device("/dev/vfio/1", "0000:01:00.0"), container = 3;
    int wanted = eventfd(0, 0);
    check(set_irqs(device, VFIO_PCI_REQ_IRQ_INDEX, wanted) == 0, "REQ");
    check(set_irqs(device, VFIO_PCI_MSI_IRQ_INDEX, eventfd(0, 0)) == 0, "MSI");
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct vfio_iommu_type1_dma_map map = { sizeof map, 3, (uintptr_t)memory, 0x100000, 4096 };
    check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "MAP_DMA");
    uint32_t value = 0, config = 0;
    check(pread(device, &value, 4, 0) == 4, "a register");
    printf("registers: %08x\n", value);
    fflush(stdout);

    while (check(pread(device, &value, 4, 0) == 4, "a register"), value != UINT32_MAX)
        ;
    printf("registers: %08x\n", value);
    struct pollfd told = { .fd = wanted, .events = POLLIN };
    printf("REQ: %d\n", poll(&told, 1, 20000));
    check(pwrite(device, &value, 4, 4) == 4, "a register");
    check(pread(device, &config, 4, CONFIG) == 4, "configuration space");
    printf("configuration space: %08x\n", config);
    printf("interrupts: %d\n", set_irqs(device, VFIO_PCI_MSI_IRQ_INDEX, eventfd(0, 0)));
    printf("reset: %d\n", ioctl(device, VFIO_DEVICE_RESET));
    map.iova += 4096;
    printf("memory: %d", ioctl(container, VFIO_IOMMU_MAP_DMA, &map));
    struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof unmap, .iova = 0x100000, .size = 8192 };
    printf(", %d\n", ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap));
    close(device);
    errno = 0;
    device = ioctl(4, VFIO_GROUP_GET_DEVICE_FD, "0000:01:00.0");
    printf("again: %s\n", device < 0 && errno == ENODEV ? "ENODEV" : "no");
    return 0;
}
