/* A program that has set an eventfd for REQ: its operator wants the device back.

   req oblige TIMES        gives it back when it was asked so many times
   req keep TIMES          does not, until it is gone
   req keep-mapped TIMES   the same, with a BAR mapped */
#include "vfio.h"
#include <stdbool.h>
#include <sched.h>
#include <sys/eventfd.h>

static int eventfd_for(int device, uint32_t index, uint32_t flags, uint32_t count)
{
    struct {
        struct vfio_irq_set set;
        int32_t number;
    } request = { { sizeof request, flags | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, count }, -1 };
    if (flags == VFIO_IRQ_SET_DATA_EVENTFD) {
        request.number = eventfd(0, EFD_CLOEXEC);
        check(request.number >= 0, "an eventfd");
    }
    check(ioctl(device, VFIO_DEVICE_SET_IRQS, &request) == 0, "SET_IRQS");
    return request.number;
}

/* The device is not to be had any more. */
static void is_withdrawn(int group)
{
    errno = 0;
    check(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:01:00.0") == -1 && errno == ENODEV, "opened again");
}

static void keep(int device, int container, int group, bool mapped)
{
    size_t bytes;
    volatile uint32_t *bar = mapped ? map_bar(device, 0, &bytes) : NULL;
    uint32_t vendor = 0;
    while (vendor != 0xffffffff) {
        check(pread(device, &vendor, 4, CONFIG) == 4, "configuration space");
        check(vendor == 0x11e81234 || vendor == 0xffffffff, "its identity");
        sched_yield();
    }
    uint32_t value = 0;
    check(pread(device, &value, 4, 0) == 4 && value == 0xffffffff, "a register");
    check(!mapped || bar[0] == 0xffffffff, "a mapped register");
    set_command(device, 6);
    check(ioctl(device, VFIO_DEVICE_RESET) == 0, "RESET");
    eventfd_for(device, VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE, 0);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(page != MAP_FAILED, "a page");
    struct vfio_iommu_type1_dma_map map = { sizeof map, VFIO_DMA_MAP_FLAG_READ, (uintptr_t)page, 0x100000, 4096 };
    check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "MAP_DMA");
    is_withdrawn(group);
    check(close(device) == 0, "close");
    puts("gone");
}

int main(int count, char **arguments)
{
    check(count > 2, "what to do");
    int container = open("/dev/vfio/vfio", O_RDWR), group = open_group("/dev/vfio/1", container);
    int device = open_device_of(group, "0000:01:00.0");
    int request = eventfd_for(device, VFIO_PCI_REQ_IRQ_INDEX, VFIO_IRQ_SET_DATA_EVENTFD, 1);
    eventfd_for(device, VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_DATA_EVENTFD, 1);
    puts("ready");
    fflush(stdout);
    uint64_t asked = 0;
    for (int times = atoi(arguments[2]); times > 0; times--) {
        check(read(request, &asked, sizeof asked) == sizeof asked && asked == 1, "REQ");
        /* It is the program's still; one that keeps it may come too late to see that. */
        int late = strcmp(arguments[1], "oblige") != 0;
        uint32_t identity = 0;
        check(pread(device, &identity, 4, 0) == 4, "edu's identity");
        check(identity == 0x010000ed || (late && identity == 0xffffffff), "edu's identity");
        is_withdrawn(group);
    }
    if (strcmp(arguments[1], "oblige") == 0) {
        check(close(device) == 0, "close");
        is_withdrawn(group);
        puts("given back");
    } else {
        keep(device, container, group, strcmp(arguments[1], "keep-mapped") == 0);
    }
    return 0;
}
