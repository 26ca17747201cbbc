/* VFIO_DEVICE_SET_IRQS. */
#include "parity.h"
#include <poll.h>
#include <sys/eventfd.h>

#define NONE VFIO_IRQ_SET_DATA_NONE
#define BOOL VFIO_IRQ_SET_DATA_BOOL
#define EVENT VFIO_IRQ_SET_DATA_EVENTFD
#define MASK VFIO_IRQ_SET_ACTION_MASK
#define UNMASK VFIO_IRQ_SET_ACTION_UNMASK
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER

static int device, events[8];

/* How often an eventfd was signalled since it was last looked at. */
static long came(int event)
{
    struct pollfd ready = { .fd = event, .events = POLLIN };
    uint64_t count = 0;
    if (poll(&ready, 1, 2000) != 1 || read(event, &count, 8) != 8)
        return 0;
    return count;
}

/* Whether COMMAND disables INTx. */
static void command_says(const char *when)
{
    char label[96];
    uint16_t command = 0;
    pread(device, &command, 2, (7L << 40) + 4);
    snprintf(label, sizeof label, "irqs: COMMAND with %s", when);
    told(label, "INTx disable %d", command >> 10 & 1);
}

/* What stands in MSI's control register, which edu has at 0x4a. */
static void msi_says(const char *when)
{
    char label[96];
    uint16_t control = 0;
    pread(device, &control, 2, (7L << 40) + 0x4a);
    snprintf(label, sizeof label, "irqs: MSI's register with %s", when);
    told(label, "enable %d, 2^%d messages", control & 1, control >> 4 & 7);
}

#define SET(label, size, flags, index, start, count, ...) \
    IO("irqs: " label, device, VFIO_DEVICE_SET_IRQS, size, flags, index, start, count, ##__VA_ARGS__)

static void structure(void)
{
    SET("argsz 19", 19, NONE | TRIGGER, 1, 0, 0);
    SET("argsz 0", 0, NONE | TRIGGER, 1, 0, 0);
    said("irqs: nowhere", ioctl(device, VFIO_DEVICE_SET_IRQS, NOWHERE));
    SET("index 5", 24, EVENT | TRIGGER, 5, 0, 1, events[0]);
    SET("index -1", 24, EVENT | TRIGGER, -1, 0, 1, events[0]);
    SET("unknown flag", 24, EVENT | TRIGGER | 64, 1, 0, 1, events[0]);
    SET("no data", 24, TRIGGER, 1, 0, 1, events[0]);
    SET("two kinds of data", 24, NONE | EVENT | TRIGGER, 1, 0, 1, events[0]);
    SET("no action", 24, EVENT, 1, 0, 1, events[0]);
    SET("two actions", 24, EVENT | TRIGGER | MASK, 1, 0, 1, events[0]);
    SET("start at the end", 24, EVENT | TRIGGER, 1, 8, 1, events[0]);
    SET("start at the end, count 0", 24, EVENT | TRIGGER, 1, 8, 0);
    SET("start behind the end", 24, EVENT | TRIGGER, 1, 9, 0);
    SET("count past the end", 60, EVENT | TRIGGER, 1, 1, 8, -1, -1, -1, -1, -1, -1, -1, -1);
    SET("start and count past 2^32", 24, EVENT | TRIGGER, 1, 1, -1, events[0]);
    SET("count 2^32 - 1", 24, EVENT | TRIGGER, 1, 0, -1, events[0]);
    SET("no room for the eventfd", 23, EVENT | TRIGGER, 1, 0, 1, events[0]);
    SET("no room for the second", 24, EVENT | TRIGGER, 1, 0, 2, events[0], events[1]);
    SET("no room for the bool", 20, BOOL | TRIGGER, 1, 0, 1, 1);
    SET("of an index with none", 24, EVENT | TRIGGER, 2, 0, 1, events[0]);
    SET("of an index with none, count 0", 20, NONE | TRIGGER, 2, 0, 0);
    /* The structure is there, its data is not. */
    char *two = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(two + PAGE, PAGE);
    uint32_t head[] = { 24, EVENT | TRIGGER, 1, 0, 1 };
    memcpy(two + PAGE - sizeof head, head, sizeof head);
    said("irqs: data nowhere", ioctl(device, VFIO_DEVICE_SET_IRQS, two + PAGE - sizeof head));
    munmap(two, PAGE);
}

static void nothing_enabled(void)
{
    char label[96];
    for (uint32_t index = 0; index < 5; index++) {
#define EACH(what, ...) \
    snprintf(label, sizeof label, "irqs, nothing enabled: index %u, %s", index, what); \
    IO(label, device, VFIO_DEVICE_SET_IRQS, __VA_ARGS__)
        EACH("disable", 20, NONE | TRIGGER, index, 0, 0);
        EACH("trigger", 20, NONE | TRIGGER, index, 0, 1);
        EACH("trigger by bool", 21, BOOL | TRIGGER, index, 0, 1, 1);
        EACH("mask", 20, NONE | MASK, index, 0, 1);
        EACH("unmask", 20, NONE | UNMASK, index, 0, 1);
        EACH("mask by bool", 21, BOOL | MASK, index, 0, 1, 1);
        EACH("mask by eventfd", 24, EVENT | MASK, index, 0, 1, events[0]);
        EACH("unmask by eventfd", 24, EVENT | UNMASK, index, 0, 1, events[0]);
        EACH("no eventfds", 20, EVENT | TRIGGER, index, 0, 0);
    }
}

static void messages(void)
{
    int null = open("/dev/null", O_RDWR);
    SET("MSI, descriptor 999", 24, EVENT | TRIGGER, 1, 0, 1, 999);
    SET("MSI, /dev/null", 24, EVENT | TRIGGER, 1, 0, 1, null);
    SET("MSI, the second is /dev/null", 28, EVENT | TRIGGER, 1, 0, 2, events[0], null);
    SET("MSI, disable after a refusal", 20, NONE | TRIGGER, 1, 0, 0);
    SET("MSI, two", 28, EVENT | TRIGGER, 1, 0, 2, events[0], events[1]);
    SET("MSI, trigger the first", 20, NONE | TRIGGER, 1, 0, 1);
    said("irqs: MSI, the first came", came(events[0]));
    SET("MSI, trigger the second by bool", 22, BOOL | TRIGGER, 1, 0, 2, 0x0100);
    said("irqs: MSI, the second came", came(events[1]));
    SET("MSI, trigger by bool 0", 22, BOOL | TRIGGER, 1, 0, 2, 0);
    SET("MSI, trigger a third", 20, NONE | TRIGGER, 1, 2, 1);
    SET("MSI, a third", 24, EVENT | TRIGGER, 1, 2, 1, events[2]);
    SET("MSI, none for a third", 24, EVENT | TRIGGER, 1, 2, 1, -1);
    SET("MSI, none for the second", 24, EVENT | TRIGGER, 1, 1, 1, -1);
    SET("MSI, another for the second", 24, EVENT | TRIGGER, 1, 1, 1, events[2]);
    SET("MSI, trigger both", 20, NONE | TRIGGER, 1, 0, 2);
    said("irqs: MSI, the other came", came(events[2]));
    said("irqs: MSI, the first came again", came(events[0]));
    SET("MSI, no eventfds, enabled", 20, EVENT | TRIGGER, 1, 0, 0);
    SET("MSI, a refused one, enabled", 24, EVENT | TRIGGER, 1, 0, 1, 999);
    SET("MSI, mask", 20, NONE | MASK, 1, 0, 1);
    SET("MSI, unmask", 20, NONE | UNMASK, 1, 0, 1);
    SET("MSI, unmask by eventfd", 24, EVENT | UNMASK, 1, 0, 1, events[0]);
    SET("INTx while MSI is enabled", 24, EVENT | TRIGGER, 0, 0, 1, events[3]);
    SET("INTx, disable while MSI is enabled", 20, NONE | TRIGGER, 0, 0, 0);
    SET("INTx, mask while MSI is enabled", 20, NONE | MASK, 0, 0, 1);
    msi_says("two messages");
    SET("MSI, disable", 20, NONE | TRIGGER, 1, 0, 0);
    msi_says("MSI disabled");
    SET("MSI, disable again", 20, NONE | TRIGGER, 1, 0, 0);
    SET("MSI, the second alone", 24, EVENT | TRIGGER, 1, 1, 1, events[1]);
    SET("MSI, trigger the second alone", 20, NONE | TRIGGER, 1, 1, 1);
    said("irqs: MSI, the second alone came", came(events[1]));
    SET("MSI, the first beside it", 24, EVENT | TRIGGER, 1, 0, 1, events[0]);
    SET("MSI, disable from the second on", 20, NONE | TRIGGER, 1, 1, 0);
    SET("MSI, all eight", 52, EVENT | TRIGGER, 1, 0, 8, events[0], events[1], events[2], events[3], events[4],
        events[5], events[6], events[7]);
    msi_says("eight messages");
    SET("MSI, trigger all eight", 20, NONE | TRIGGER, 1, 0, 8);
    long all = 0;
    for (int at = 0; at < 8; at++)
        all += came(events[at]);
    said("irqs: MSI, of all eight came", all);
    SET("MSI, disable all eight", 20, NONE | TRIGGER, 1, 0, 0);
    msi_says("eight disabled");
    close(null);
}

static void line(void)
{
    int null = open("/dev/null", O_RDWR);
    SET("INTx, descriptor 999", 24, EVENT | TRIGGER, 0, 0, 1, 999);
    SET("INTx, /dev/null", 24, EVENT | TRIGGER, 0, 0, 1, null);
    SET("INTx, two", 28, EVENT | TRIGGER, 0, 0, 2, events[0], events[1]);
    SET("INTx, none, not enabled", 24, EVENT | TRIGGER, 0, 0, 1, -1);
    SET("INTx, disable after none", 20, NONE | TRIGGER, 0, 0, 0);
    SET("INTx", 24, EVENT | TRIGGER, 0, 0, 1, events[0]);
    SET("INTx, trigger", 20, NONE | TRIGGER, 0, 0, 1);
    said("irqs: INTx, came", came(events[0]));
    SET("INTx, trigger by bool", 21, BOOL | TRIGGER, 0, 0, 1, 1);
    said("irqs: INTx, came by bool", came(events[0]));
    SET("INTx, mask", 20, NONE | MASK, 0, 0, 1);
    command_says("INTx masked");
    SET("INTx, mask again", 20, NONE | MASK, 0, 0, 1);
    SET("INTx, mask, count 0", 20, NONE | MASK, 0, 0, 0);
    SET("INTx, unmask", 20, NONE | UNMASK, 0, 0, 1);
    SET("INTx, mask by bool", 21, BOOL | MASK, 0, 0, 1, 1);
    SET("INTx, unmask by bool", 21, BOOL | UNMASK, 0, 0, 1, 1);
    SET("INTx, mask by eventfd", 24, EVENT | MASK, 0, 0, 1, events[1]);
    SET("INTx, unmask by /dev/null", 24, EVENT | UNMASK, 0, 0, 1, null);
    SET("INTx, unmask by eventfd", 24, EVENT | UNMASK, 0, 0, 1, events[1]);
    SET("INTx, unmask by another eventfd", 24, EVENT | UNMASK, 0, 0, 1, events[2]);
    SET("INTx, unmask by none", 24, EVENT | UNMASK, 0, 0, 1, -1);
    SET("INTx, unmask by none again", 24, EVENT | UNMASK, 0, 0, 1, -1);
    SET("INTx, another", 24, EVENT | TRIGGER, 0, 0, 1, events[3]);
    SET("INTx, trigger the other", 20, NONE | TRIGGER, 0, 0, 1);
    said("irqs: INTx, the other came", came(events[3]));
    SET("MSI while INTx is enabled", 24, EVENT | TRIGGER, 1, 0, 1, events[0]);
    SET("MSI, disable while INTx is enabled", 20, NONE | TRIGGER, 1, 0, 0);
    SET("INTx, none, enabled", 24, EVENT | TRIGGER, 0, 0, 1, -1);
    SET("INTx, a refused one, enabled", 24, EVENT | TRIGGER, 0, 0, 1, 999);
    SET("INTx, trigger with none", 20, NONE | TRIGGER, 0, 0, 1);
    SET("INTx, disable", 20, NONE | TRIGGER, 0, 0, 0);
    command_says("INTx disabled");
    SET("INTx, disable again", 20, NONE | TRIGGER, 0, 0, 0);
    close(null);
}

static void notices(void)
{
    static const char *const names[] = { [3] = "ERR", [4] = "REQ" };
    int null = open("/dev/null", O_RDWR);
    char label[96];
    for (uint32_t index = 3; index < 5; index++) {
#define NOTICE(what, ...) \
    snprintf(label, sizeof label, "irqs: %s, %s", names[index], what); \
    IO(label, device, VFIO_DEVICE_SET_IRQS, __VA_ARGS__)
        NOTICE("descriptor 999", 24, EVENT | TRIGGER, index, 0, 1, 999);
        NOTICE("/dev/null", 24, EVENT | TRIGGER, index, 0, 1, null);
        NOTICE("two", 28, EVENT | TRIGGER, index, 0, 2, events[0], events[1]);
        NOTICE("start 1", 24, EVENT | TRIGGER, index, 1, 1, events[0]);
        NOTICE("none, nothing there", 24, EVENT | TRIGGER, index, 0, 1, -1);
        NOTICE("an eventfd", 24, EVENT | TRIGGER, index, 0, 1, events[0]);
        NOTICE("trigger", 20, NONE | TRIGGER, index, 0, 1);
        snprintf(label, sizeof label, "irqs: %s, came", names[index]);
        said(label, came(events[0]));
        NOTICE("trigger by bool", 21, BOOL | TRIGGER, index, 0, 1, 1);
        snprintf(label, sizeof label, "irqs: %s, came by bool", names[index]);
        said(label, came(events[0]));
        NOTICE("trigger by bool 0", 21, BOOL | TRIGGER, index, 0, 1, 0);
        NOTICE("mask", 20, NONE | MASK, index, 0, 1);
        NOTICE("unmask by eventfd", 24, EVENT | UNMASK, index, 0, 1, events[1]);
        NOTICE("another", 24, EVENT | TRIGGER, index, 0, 1, events[1]);
        NOTICE("a refused one", 24, EVENT | TRIGGER, index, 0, 1, 999);
        NOTICE("disable", 20, NONE | TRIGGER, index, 0, 0);
        NOTICE("disable again", 20, NONE | TRIGGER, index, 0, 0);
        NOTICE("trigger, disabled", 20, NONE | TRIGGER, index, 0, 1);
    }
    close(null);
}

void interrupts(void)
{
    int container, group = joined(&container, VFIO_TYPE1v2_IOMMU);
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
    for (int at = 0; at < 8; at++)
        events[at] = eventfd(0, EFD_NONBLOCK);
    structure();
    nothing_enabled();
    messages();
    line();
    notices();
    for (int at = 0; at < 8; at++)
        close(events[at]);
    close(device);
    close(group);
    close(container);
}
