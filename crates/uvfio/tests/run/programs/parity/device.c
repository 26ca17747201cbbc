/* A device's file: what it says of itself, and the requests that are not of interrupts. */
#include "parity.h"
#include <poll.h>
#include <sys/eventfd.h>

static int device, group;

static void info(void)
{
    static const uint32_t sizes[] = { 0, 15, 16, 20, 24, 64 };
    char label[96];
    for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++) {
        snprintf(label, sizeof label, "device: GET_INFO, argsz %u", sizes[at]);
        IO(label, device, VFIO_DEVICE_GET_INFO, sizes[at], 0xff, 0xff, 0xff);
    }
    said("device: GET_INFO nowhere", ioctl(device, VFIO_DEVICE_GET_INFO, NOWHERE));
    for (uint32_t index = 0; index < 12; index++) {
        snprintf(label, sizeof label, "device: GET_REGION_INFO %u", index);
        IO(label, device, VFIO_DEVICE_GET_REGION_INFO, 32, 0xff, index, 0xff, Q(-1), Q(-1));
    }
    IO("device: GET_REGION_INFO -1", device, VFIO_DEVICE_GET_REGION_INFO, 32, 0, -1, 0, Q(0), Q(0));
    IO("device: GET_REGION_INFO, argsz 31", device, VFIO_DEVICE_GET_REGION_INFO, 31, 0, 0, 0, Q(0), Q(0));
    IO("device: GET_REGION_INFO, argsz 64", device, VFIO_DEVICE_GET_REGION_INFO, 64, 0, 7, 0, Q(0), Q(0));
    said("device: GET_REGION_INFO nowhere", ioctl(device, VFIO_DEVICE_GET_REGION_INFO, NOWHERE));
    for (uint32_t index = 0; index < 7; index++) {
        snprintf(label, sizeof label, "device: GET_IRQ_INFO %u", index);
        IO(label, device, VFIO_DEVICE_GET_IRQ_INFO, 16, 0xff, index, 0xff);
    }
    IO("device: GET_IRQ_INFO -1", device, VFIO_DEVICE_GET_IRQ_INFO, 16, 0, -1, 0);
    IO("device: GET_IRQ_INFO, argsz 15", device, VFIO_DEVICE_GET_IRQ_INFO, 15, 0, 1, 0);
    IO("device: GET_IRQ_INFO, argsz 64", device, VFIO_DEVICE_GET_IRQ_INFO, 64, 0, 1, 0);
    said("device: GET_IRQ_INFO nowhere", ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, NOWHERE));
}

static void others_requests(void)
{
    said("device: an unknown request", ioctl(device, UNKNOWN, 0));
    said("device: a container's request", ioctl(device, VFIO_GET_API_VERSION));
    IO("device: a group's request", device, VFIO_GROUP_GET_STATUS, 8, 0);
    said("device: a request of others", ioctl(device, _IO('x', 1), 0));
    IO("device of a group: BIND_IOMMUFD", device, BIND_IOMMUFD, 16, 0, group, 0);
    IO("device of a group: BIND_IOMMUFD, argsz 8", device, BIND_IOMMUFD, 8, 0, group, 0);
    IO("device of a group: ATTACH_IOMMUFD_PT", device, ATTACH_IOMMUFD_PT, 12, 0, 1);
    IO("device of a group: DETACH_IOMMUFD_PT", device, DETACH_IOMMUFD_PT, 8, 0);
    /* VFIO_DEVICE_QUERY_GFX_PLANE, GET_GFX_DMABUF: of display devices. */
    IO("device: QUERY_GFX_PLANE", device, _IO(VFIO_TYPE, VFIO_BASE + 14), 64, 1);
    IO("device: GET_GFX_DMABUF", device, _IO(VFIO_TYPE, VFIO_BASE + 15), 0);
}

static void features(void)
{
#define GET (1U << 16)
#define SET (1U << 17)
#define PROBE (1U << 18)
    char label[96];
    static const struct { uint32_t flags; const char *name; } kinds[] = {
        { GET | PROBE, "GET PROBE" }, { SET | PROBE, "SET PROBE" }, { GET | SET | PROBE, "GET SET PROBE" },
        { PROBE, "PROBE" }, { 0, "no flag" }, { GET | SET, "GET SET" },
    };
    for (uint32_t feature = 0; feature <= 13; feature++) {
        char results[256] = "";
        for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
            uint32_t argument[16] = { sizeof argument, feature | kinds[kind].flags };
            int result = ioctl(device, VFIO_DEVICE_FEATURE, argument);
            size_t end = strlen(results);
            snprintf(results + end, sizeof results - end, "%s%s %s", end ? ", " : "", kinds[kind].name,
                     result < 0 ? name_of(errno) : "0");
        }
        snprintf(label, sizeof label, "device: FEATURE %u", feature);
        told(label, "%s", results);
    }
    IO("device: FEATURE 3, unknown flag", device, VFIO_DEVICE_FEATURE, 8, 3 | SET | 1U << 19);
    IO("device: FEATURE 3 SET, argsz 7", device, VFIO_DEVICE_FEATURE, 7, 3 | SET);
    IO("device: FEATURE 3 GET", device, VFIO_DEVICE_FEATURE, 8, 3 | GET);
    IO("device: FEATURE 99 SET", device, VFIO_DEVICE_FEATURE, 8, 99 | SET);
    said("device: FEATURE nowhere", ioctl(device, VFIO_DEVICE_FEATURE, NOWHERE));
    int event = eventfd(0, EFD_NONBLOCK), null = open("/dev/null", O_RDWR);
    IO("device: low power, exit before entry", device, VFIO_DEVICE_FEATURE, 8, 5 | SET);
    IO("device: low power, entry", device, VFIO_DEVICE_FEATURE, 8, 3 | SET);
    IO("device: low power, entry again", device, VFIO_DEVICE_FEATURE, 8, 3 | SET);
    IO("device: low power, entry with wakeup after entry", device, VFIO_DEVICE_FEATURE, 16, 4 | SET, event, 0);
    IO("device: low power, exit", device, VFIO_DEVICE_FEATURE, 8, 5 | SET);
    IO("device: low power, exit again", device, VFIO_DEVICE_FEATURE, 8, 5 | SET);
    IO("device: low power, wakeup, argsz 12", device, VFIO_DEVICE_FEATURE, 12, 4 | SET, event, 0);
    IO("device: low power, wakeup, descriptor -1", device, VFIO_DEVICE_FEATURE, 16, 4 | SET, -1, 0);
    IO("device: low power, wakeup, descriptor 999", device, VFIO_DEVICE_FEATURE, 16, 4 | SET, 999, 0);
    IO("device: low power, wakeup, /dev/null", device, VFIO_DEVICE_FEATURE, 16, 4 | SET, null, 0);
    IO("device: low power, wakeup, reserved field", device, VFIO_DEVICE_FEATURE, 16, 4 | SET, event, 1);
    IO("device: low power, exit after that", device, VFIO_DEVICE_FEATURE, 8, 5 | SET);
    IO("device: low power, wakeup", device, VFIO_DEVICE_FEATURE, 16, 4 | SET, event, 0);
    uint64_t count = 0;
    /* Until now it may have been woken. The kernel puts it to sleep a while after the request. */
    if (read(event, &count, 8) < 0)
        count = 0;
    usleep(1000000);
    IO("device: GET_INFO in low power", device, VFIO_DEVICE_GET_INFO, 24, 0);
    said("device: low power, the eventfd has", read(event, &count, 8) == 8 ? (long)count : -1);
    IO("device: low power, exit after waking", device, VFIO_DEVICE_FEATURE, 8, 5 | SET);
    close(event);
    close(null);
}

static void doorbells(void)
{
#define AT(region, offset) Q(((uint64_t)(region) << 40) + (offset))
#define BELL(what, ...) IO("device: IOEVENTFD" what, device, VFIO_DEVICE_IOEVENTFD, __VA_ARGS__)
    int event = eventfd(0, EFD_NONBLOCK), null = open("/dev/null", O_RDWR);
    BELL(", argsz 27", 27, 4, AT(0, 4), Q(5), event, 0);
    said("device: IOEVENTFD nowhere", ioctl(device, VFIO_DEVICE_IOEVENTFD, NOWHERE));
    BELL(" of no width", 32, 0, AT(0, 4), Q(5), event, 0);
    BELL(" of two widths", 32, 3, AT(0, 4), Q(5), event, 0);
    BELL(", unknown flag", 32, 0x14, AT(0, 4), Q(5), event, 0);
    BELL(", descriptor -2", 32, 4, AT(0, 4), Q(5), -2, 0);
    BELL(", -1 of none", 32, 4, AT(0, 4), Q(5), -1, 0);
    BELL(", descriptor 999", 32, 4, AT(0, 4), Q(5), 999, 0);
    BELL(", /dev/null", 32, 4, AT(0, 4), Q(5), null, 0);
    BELL(" of BAR 1", 32, 4, AT(1, 4), Q(5), event, 0);
    BELL(" of the ROM", 32, 4, AT(6, 4), Q(5), event, 0);
    BELL(" of configuration", 32, 4, AT(7, 4), Q(5), event, 0);
    BELL(" past the BAR's end", 32, 4, AT(0, 1UL << 30), Q(5), event, 0);
    BELL(" over the BAR's end", 32, 4, AT(0, (1UL << 20) - 2), Q(5), event, 0);
    BELL(", unaligned", 32, 4, AT(0, 6), Q(5), event, 0);
    BELL(", unaligned, away", 32, 4, AT(0, 6), Q(5), -1, 0);
    BELL(" of 8 bytes", 32, 8, AT(0, 8), Q(5), event, 0);
    BELL(" of 8 bytes, away", 32, 8, AT(0, 8), Q(5), -1, 0);
    BELL("", 32, 4, AT(0, 4), Q(0x1234), event, 0);
    BELL(" again", 32, 4, AT(0, 4), Q(0x1234), event, 0);
    BELL(" of another value", 32, 4, AT(0, 4), Q(0x4321), event, 0);
    BELL(" of another value, away", 32, 4, AT(0, 4), Q(0x4321), -1, 0);
    BELL(", away", 32, 4, AT(0, 4), Q(0x1234), -1, 0);
    BELL(", away again", 32, 4, AT(0, 4), Q(0x1234), -1, 0);
    close(event);
    close(null);
}

static void resets(void)
{
    said("device: RESET", ioctl(device, VFIO_DEVICE_RESET));
    said("device: RESET with an argument", ioctl(device, VFIO_DEVICE_RESET, NOWHERE));
    /* Its first words are argsz, flags and count; then a word of the group and one of the address for each function. */
    quiet = 1;
    IO("device: GET_PCI_HOT_RESET_INFO, argsz 64", device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, 64, 0xff, 0xff);
    quiet = 0;
    told("device: GET_PCI_HOT_RESET_INFO, what it says", "argsz %u, flags %x, count %u, group %s, address %x", after[0],
         after[1], after[2], after[3] == group_number ? "its own" : "another", after[4]);
    IO("device: GET_PCI_HOT_RESET_INFO, argsz 12", device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, 12, 0xff, 0xff);
    IO("device: GET_PCI_HOT_RESET_INFO, argsz 11", device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, 11, 0, 0);
    said("device: GET_PCI_HOT_RESET_INFO nowhere", ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, NOWHERE));
#define HOT(what, ...) IO("device: PCI_HOT_RESET" what, device, VFIO_DEVICE_PCI_HOT_RESET, __VA_ARGS__)
    HOT(", argsz 11", 11, 0, 0);
    HOT(" without groups", 12, 0, 0);
    HOT(", flags", 16, 1, 1, group);
    HOT(", descriptor -1", 16, 0, 1, -1);
    HOT(", descriptor 999", 16, 0, 1, 999);
    HOT(" of the device's descriptor", 16, 0, 1, device);
    HOT(" of two groups where there is one", 20, 0, 2, group, group);
    HOT(", argsz short of the group", 12, 0, 1, group);
    said("device: PCI_HOT_RESET nowhere", ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, NOWHERE));
    HOT("", 16, 0, 1, group);
}

void devices(void)
{
    int container;
    group = joined(&container, VFIO_TYPE1v2_IOMMU);
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
    info();
    others_requests();
    features();
    doorbells();
    resets();
    close(device);
    close(group);
    close(container);
}
