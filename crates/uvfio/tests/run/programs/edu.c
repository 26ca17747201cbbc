/* Drives QEMU's educational device through the VFIO of Linux, by its header alone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Registers of the device, as its documentation has them, and where its own buffer is for DMA. */
enum { IDENTIFICATION = 0x00, FACTORIAL = 0x08, STATUS = 0x20, RAISE = 0x60, SOURCE = 0x80, DESTINATION = 0x88,
       COUNT = 0x90, COMMAND = 0x98 };
enum { BUFFER = 0x40000, IOVA = 0x100000, MIB = 1 << 20 };

static void check(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static volatile uint8_t *bar;

static uint32_t read_register(unsigned at)
{
    return *(volatile uint32_t *)(bar + at);
}

static void write_register(unsigned at, uint32_t value)
{
    *(volatile uint32_t *)(bar + at) = value;
}

static void transfer(uint32_t from, uint32_t to, uint32_t command)
{
    write_register(SOURCE, from);
    write_register(DESTINATION, to);
    write_register(COUNT, 4096);
    write_register(COMMAND, command);
    while (read_register(COMMAND) & 1)
        ;
}

int main(int arguments, char **argument)
{
    check(arguments == 3, "usage: edu GROUP ADDRESS");

    /* The way of every VFIO program: container, group, device. */
    int container = open("/dev/vfio/vfio", O_RDWR);
    check(container >= 0, "/dev/vfio/vfio");
    check(ioctl(container, VFIO_GET_API_VERSION) == VFIO_API_VERSION, "the interface's version");
    check(ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) == 1, "an IOMMU of type 1, version 2");
    int group = open(argument[1], O_RDWR);
    check(group >= 0, argument[1]);
    struct vfio_group_status status = { .argsz = sizeof status };
    check(ioctl(group, VFIO_GROUP_GET_STATUS, &status) == 0 && status.flags & VFIO_GROUP_FLAGS_VIABLE, "group");
    check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "SET_CONTAINER");
    check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "SET_IOMMU");
    int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argument[2]);
    check(device >= 0, "GET_DEVICE_FD");

    /* Configuration space. */
    struct vfio_region_info config = { .argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX };
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) == 0, "GET_REGION_INFO of configuration space");
    uint16_t ids[2], command;
    check(pread(device, ids, sizeof ids, config.offset) == sizeof ids, "the IDs");
    printf("%04x:%04x\n", ids[0], ids[1]);
    check(pread(device, &command, sizeof command, config.offset + 4) == sizeof command, "COMMAND");
    command |= 6; /* memory and bus master */
    check(pwrite(device, &command, sizeof command, config.offset + 4) == sizeof command, "COMMAND");

    /* Registers. */
    struct vfio_region_info region = { .argsz = sizeof region, .index = VFIO_PCI_BAR0_REGION_INDEX };
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0 && region.size == MIB, "GET_REGION_INFO of BAR 0");
    check(region.flags & VFIO_REGION_INFO_FLAG_MMAP, "BAR 0 can't be mapped");
    bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
    check(bar != MAP_FAILED, "mmap of BAR 0");
    printf("identification %08x\n", read_register(IDENTIFICATION));
    write_register(FACTORIAL, 10);
    while (read_register(STATUS) & 1)
        ;
    printf("10! = %u\n", read_register(FACTORIAL));

    /* DMA: a page to the device's buffer, and back to the page after it. */
    uint8_t *memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "memory");
    for (int at = 0; at < 4096; at++)
        memory[at] = (uint8_t)(at * 7 + 1);
    struct vfio_iommu_type1_dma_map map = {
        .argsz = sizeof map,
        .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        .vaddr = (uintptr_t)memory,
        .iova = IOVA,
        .size = MIB,
    };
    check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == 0, "MAP_DMA");
    check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map) == -1 && errno == EEXIST, "a mapping that is there already");
    transfer(IOVA, BUFFER, 1);
    transfer(BUFFER, IOVA + 4096, 3);
    printf("DMA: %s\n", memcmp(memory, memory + 4096, 4096) ? "differs" : "4096 bytes there and back");

    /* One MSI message, to an eventfd. */
    int event = eventfd(0, EFD_CLOEXEC);
    char buffer[sizeof(struct vfio_irq_set) + sizeof event];
    struct vfio_irq_set *irqs = (void *)buffer;
    *irqs = (struct vfio_irq_set){
        .argsz = sizeof buffer,
        .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        .index = VFIO_PCI_MSI_IRQ_INDEX,
        .count = 1,
    };
    memcpy(irqs->data, &event, sizeof event);
    check(ioctl(device, VFIO_DEVICE_SET_IRQS, irqs) == 0, "SET_IRQS");
    write_register(RAISE, 1);
    struct pollfd ready = { .fd = event, .events = POLLIN };
    check(poll(&ready, 1, 10000) == 1, "no interrupt came");
    uint64_t count = 0;
    check(read(event, &count, sizeof count) == sizeof count, "the eventfd");
    printf("interrupts: %u\n", (unsigned)count);

    /* All is given back in the order in which it is closed; then the group can be had again. */
    check(open(argument[1], O_RDWR) == -1 && errno == EBUSY, "a group that is open");
    munmap((void *)bar, MIB);
    close(device);
    close(group);
    check((group = open(argument[1], O_RDWR)) >= 0, "a group that was closed");
    return 0;
}
