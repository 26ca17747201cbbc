/* By calls alone, nothing mapped; linked with no shared library. */
#include "vfio.h"
#include <poll.h>
#include <sys/eventfd.h>

static int device;

static uint64_t reg(off_t at, size_t bytes)
{
    uint64_t value = 0;
    check(pread(device, &value, bytes, at) == (ssize_t)bytes, "pread");
    return value;
}

static void set(off_t at, uint64_t value, size_t bytes)
{
    check(pwrite(device, &value, bytes, at) == (ssize_t)bytes, "pwrite");
}

int main(void)
{
    device = open_device("/dev/vfio/1", "0000:01:00.0");
    printf("%08lx\n", reg(CONFIG, 4));
    set(0x08, 5, 4);
    while (reg(0x20, 4) & 1)
        ;
    printf("5! = %lu\n", reg(0x08, 4));
    struct vfio_region_info region = { .argsz = sizeof region, .index = 0 };
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0, "GET_REGION_INFO");
    printf("mmap: %s\n", region.flags & VFIO_REGION_INFO_FLAG_MMAP ? "offered" : "not offered");

    struct { struct vfio_irq_set set; int event; } irqs = {
        { .argsz = sizeof irqs, .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
          .index = VFIO_PCI_MSI_IRQ_INDEX, .count = 1 }, eventfd(0, 0),
    };
    check(ioctl(device, VFIO_DEVICE_SET_IRQS, &irqs) == 0, "SET_IRQS");
    set(0x60, 1, 4);
    struct pollfd ready = { .fd = irqs.event, .events = POLLIN };
    check(poll(&ready, 1, 10000) == 1, "no interrupt came");

    /* Files of others, by names and numbers that could be ours. */
    check(open("/dev/vfio/1", O_RDWR) == -1 && errno == EBUSY, "a group that is open");
    check(open("/dev/vfio/7", O_RDWR) == -1 && errno == ENOENT, "a group that is not there");
    check(ioctl(1000, VFIO_GET_API_VERSION) == -1 && errno == EBADF, "no file");
    check(ioctl(irqs.event, VFIO_GET_API_VERSION) == -1 && errno == ENOTTY, "another file");
    check(open("/nonexistent", O_RDONLY) == -1 && errno == ENOENT, "no file");
    int null = open("/dev/null", O_RDWR), high = fcntl(null, F_DUPFD, 800);
    check(null >= 0 && high >= 800 && pread(high, &high, 4, 0) == 0, "another file with a high number");
    for (int round = 0; round < 20; round++) {
        int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), group;
        check(container >= 0 && fcntl(container, F_GETFD) == FD_CLOEXEC, "a container");
        close(device);
        for (int number = 3; number < 10; number++)
            if (number != container)
                close(number);
        check((group = open("/dev/vfio/1", O_RDWR)) >= 0, "a group that was closed");
        check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &(int){ -1 }) == -1 && errno == EBADF, "SET_CONTAINER of no file");
        check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "SET_CONTAINER");
        check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) == 0, "SET_IOMMU");
        check((device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:01:00.0")) >= 0, "GET_DEVICE_FD");
        check(reg(CONFIG, 4) == 0x11e81234, "configuration space");
    }
    puts("all by calls");
    return 0;
}
