/* pread, pwrite and mmap of a device's file. */
#include "parity.h"
#include <setjmp.h>
#include <signal.h>

#define CONFIG 7
#define BYTE(region, at) (((off_t)(region) << 40) + (off_t)(at))

static int device;

/* Reads, and prints what was read as a number, or as bytes if there are more than 8. */
static long get(const char *label, int region, uint64_t at, size_t bytes)
{
    uint8_t data[64];
    memset(data, 0xa5, sizeof data);
    long result = pread(device, data, bytes, BYTE(region, at));
    if (result < 0)
        return said(label, result);
    printf("%s = %ld:", label, result);
    for (long byte = 0; byte < result; byte++)
        printf(" %02x", data[byte]);
    putchar('\n');
    return result;
}

static long set(const char *label, int region, uint64_t at, uint64_t value, size_t bytes)
{
    return said(label, pwrite(device, &value, bytes, BYTE(region, at)));
}

/* Of configuration: all that has to be there in each function, and what a driver does first. */
static void configuration(void)
{
    char label[96];
    get("configuration: COMMAND at first", CONFIG, 4, 2);
    set("configuration: COMMAND, memory alone", CONFIG, 4, 2, 2);
    /* A dword a line. What firmware decides, addresses of BARs and the interrupt's line, is left out. */
    for (uint32_t at = 0; at < 0x100; at += 4)
        if (at < 0x10 || at >= 0x28) {
            snprintf(label, sizeof label, "configuration: dword %02x", at);
            get(label, CONFIG, at, at == 0x3c ? 0 : 4);
        }
    get("configuration: interrupt pin", CONFIG, 0x3d, 1);
    get("configuration: byte 0", CONFIG, 0, 1);
    get("configuration: byte 1", CONFIG, 1, 1);
    get("configuration: word 2", CONFIG, 2, 2);
    get("configuration: word 1, unaligned", CONFIG, 1, 2);
    get("configuration: dword 1, unaligned", CONFIG, 1, 4);
    get("configuration: dword 2, unaligned", CONFIG, 2, 4);
    get("configuration: 3 bytes", CONFIG, 0, 3);
    get("configuration: 5 bytes from 1 on", CONFIG, 1, 5);
    get("configuration: 8 bytes", CONFIG, 0, 8);
    get("configuration: 16 bytes", CONFIG, 0, 16);
    get("configuration: no bytes", CONFIG, 0, 0);
    get("configuration: the last byte of 256", CONFIG, 0xff, 1);
    get("configuration: over 256", CONFIG, 0xfe, 4);
    get("configuration: the first extended dword", CONFIG, 0x100, 4);
    get("configuration: a later extended dword", CONFIG, 0x800, 4);
    get("configuration: the last dword of 4096", CONFIG, 0xffc, 4);
    get("configuration: over 4096", CONFIG, 0xffe, 4);
    get("configuration: past 4096", CONFIG, 0x1000, 4);
    get("configuration: far past 4096", CONFIG, 1UL << 39, 4);
    said("configuration: read nowhere", pread(device, NOWHERE, 4, BYTE(CONFIG, 0)));
    said("configuration: write from nowhere", pwrite(device, NOWHERE, 4, BYTE(CONFIG, 4)));

    set("configuration: write the IDs", CONFIG, 0, 0xffffffff, 4);
    get("configuration: the IDs after that", CONFIG, 0, 4);
    set("configuration: write the class", CONFIG, 8, 0xffffffff, 4);
    get("configuration: the class after that", CONFIG, 8, 4);
    set("configuration: write the subsystem", CONFIG, 0x2c, 0xffffffff, 4);
    get("configuration: the subsystem after that", CONFIG, 0x2c, 4);
    set("configuration: write the header type", CONFIG, 0xe, 0xff, 1);
    get("configuration: the header type after that", CONFIG, 0xe, 1);
    set("configuration: write the cache line size", CONFIG, 0xc, 0x10, 1);
    get("configuration: the cache line size after that", CONFIG, 0xc, 1);
    set("configuration: write the latency timer", CONFIG, 0xd, 0xff, 1);
    get("configuration: the latency timer after that", CONFIG, 0xd, 1);
    set("configuration: write the interrupt line", CONFIG, 0x3c, 0x5a, 1);
    get("configuration: the interrupt line after that", CONFIG, 0x3c, 1);
    set("configuration: write the interrupt pin", CONFIG, 0x3d, 0x5a, 1);
    get("configuration: the interrupt pin after that", CONFIG, 0x3d, 1);
    for (uint32_t bar = 0; bar < 7; bar++) {
        uint32_t at = bar < 6 ? 0x10 + 4 * bar : 0x30, kept = 0;
        pread(device, &kept, 4, BYTE(CONFIG, at));
        snprintf(label, sizeof label, "configuration: write ones to BAR %u", bar);
        set(label, CONFIG, at, 0xffffffff, 4);
        snprintf(label, sizeof label, "configuration: BAR %u after that", bar);
        get(label, CONFIG, at, 4);
        pwrite(device, &kept, 4, BYTE(CONFIG, at));
        uint32_t now = 0;
        pread(device, &now, 4, BYTE(CONFIG, at));
        snprintf(label, sizeof label, "configuration: BAR %u, its address put back", bar);
        told(label, "%s", now == kept ? "as it was" : "another");
    }
    set("configuration: write ones to COMMAND", CONFIG, 4, 0xffff, 2);
    get("configuration: COMMAND after ones", CONFIG, 4, 2);
    set("configuration: write STATUS", CONFIG, 6, 0xffff, 2);
    get("configuration: STATUS after that", CONFIG, 6, 2);
    set("configuration: write 0 to COMMAND", CONFIG, 4, 0, 2);
    get("configuration: COMMAND after 0", CONFIG, 4, 2);
    set("configuration: COMMAND, its first byte", CONFIG, 4, 6, 1);
    get("configuration: COMMAND after its first byte", CONFIG, 4, 2);
    set("configuration: write over 256", CONFIG, 0xfe, 0, 4);
    set("configuration: write over 4096", CONFIG, 0xffe, 0, 4);
    set("configuration: write past 4096", CONFIG, 0x1000, 0, 4);
    set("configuration: write no bytes", CONFIG, 4, 0, 0);
    set("configuration: write 3 bytes", CONFIG, 0x2c, 0, 3);
}

static void regions(void)
{
    char label[96];
    for (int region = 0; region < 11; region++)
        if (region != CONFIG) {
            snprintf(label, sizeof label, "region %d: read", region);
            get(label, region, 0, 4);
            snprintf(label, sizeof label, "region %d: write", region);
            set(label, region, 4, 0, 4);
        }
    get("BAR 0: 1 byte", 0, 0, 1);
    get("BAR 0: 2 bytes", 0, 0, 2);
    get("BAR 0: 2 bytes from 2 on", 0, 2, 2);
    get("BAR 0: 2 bytes from 1 on", 0, 1, 2);
    get("BAR 0: 3 bytes", 0, 0, 3);
    get("BAR 0: 4 bytes from 2 on", 0, 2, 4);
    get("BAR 0: 8 bytes", 0, 0, 8);
    get("BAR 0: 8 bytes from 4 on", 0, 4, 8);
    get("BAR 0: 12 bytes", 0, 0, 12);
    get("BAR 0: no bytes", 0, 0, 0);
    get("BAR 0: the last dword", 0, (1 << 20) - 4, 4);
    get("BAR 0: over the end", 0, (1 << 20) - 4, 8);
    get("BAR 0: at the end", 0, 1 << 20, 4);
    get("BAR 0: no bytes at the end", 0, 1 << 20, 0);
    get("BAR 0: past the end", 0, 1 << 30, 4);
    said("BAR 0: read nowhere", pread(device, NOWHERE, 4, BYTE(0, 0)));
    said("BAR 0: write from nowhere", pwrite(device, NOWHERE, 4, BYTE(0, 4)));
    set("BAR 0: write", 0, 4, 0x12345678, 4);
    get("BAR 0: what was written, inverted", 0, 4, 4);
    set("BAR 0: write at the end", 0, 1 << 20, 0, 4);
    set("BAR 0: write over the end", 0, (1 << 20) - 4, 0, 8);
    set("BAR 0: write no bytes", 0, 4, 0, 0);
    said("a negative offset", pread(device, label, 4, -4));
    set("configuration: memory off", CONFIG, 4, 0, 2);
    get("BAR 0 with memory off: read", 0, 0, 4);
    set("BAR 0 with memory off: write", 0, 4, 0, 4);
    set("configuration: memory on", CONFIG, 4, 2, 2);
    get("BAR 0 with memory on: read", 0, 0, 4);
}

static sigjmp_buf back;
static void fault(int signal)
{
    siglongjmp(back, signal);
}

static void *map(const char *label, size_t bytes, int protection, int flags, off_t at)
{
    void *mapped = mmap(NULL, bytes, protection, flags, device, at);
    said(label, mapped == MAP_FAILED ? -1 : 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

static void load(const char *label, volatile uint32_t *from)
{
    int signal = sigsetjmp(back, 1);
    if (signal)
        told(label, "%s", signal == SIGBUS ? "SIGBUS" : "SIGSEGV");
    else
        told(label, "%x", *from);
}

static void mapped(void)
{
    const int both = PROT_READ | PROT_WRITE;
    struct sigaction action = { .sa_handler = fault };
    sigaction(SIGBUS, &action, NULL);
    map("mmap: private", PAGE, both, MAP_PRIVATE, BYTE(0, 0));
    map("mmap: of no bytes", 0, both, MAP_SHARED, BYTE(0, 0));
    map("mmap: not of a page", PAGE, both, MAP_SHARED, BYTE(0, 8));
    map("mmap: over the end", 2 << 20, both, MAP_SHARED, BYTE(0, 0));
    map("mmap: at the end", PAGE, both, MAP_SHARED, BYTE(0, 1 << 20));
    map("mmap: over the end from the last page on", 2 * PAGE, both, MAP_SHARED, BYTE(0, (1 << 20) - PAGE));
    map("mmap: BAR 1", PAGE, both, MAP_SHARED, BYTE(1, 0));
    map("mmap: BAR 5", PAGE, both, MAP_SHARED, BYTE(5, 0));
    map("mmap: the ROM", PAGE, PROT_READ, MAP_SHARED, BYTE(6, 0));
    map("mmap: configuration", PAGE, both, MAP_SHARED, BYTE(7, 0));
    map("mmap: VGA", PAGE, both, MAP_SHARED, BYTE(8, 0));
    map("mmap: region 9", PAGE, both, MAP_SHARED, BYTE(9, 0));
    map("mmap: region 200", PAGE, both, MAP_SHARED, BYTE(200, 0));
    void *one = map("mmap: 8 bytes", 8, both, MAP_SHARED, BYTE(0, 0));
    void *last = map("mmap: the last page", PAGE, PROT_READ, MAP_SHARED, BYTE(0, (1 << 20) - PAGE));
    uint32_t *bar = map("mmap: all of BAR 0", 1 << 20, both, MAP_SHARED, BYTE(0, 0));
    if (one)
        munmap(one, PAGE);
    if (last)
        munmap(last, PAGE);
    if (!bar)
        return;
    load("a load: identification", bar);
    bar[1] = 0xff00ff00;
    load("a load: what was stored, inverted", bar + 1);
    set("a mapping: memory off", CONFIG, 4, 0, 2);
    load("a load with memory off", bar);
    set("a mapping: memory on", CONFIG, 4, 2, 2);
    load("a load with memory on again", bar);
    said("a mapping: RESET", ioctl(device, VFIO_DEVICE_RESET));
    load("a load after RESET", bar);
    munmap(bar, 1 << 20);
}

void registers(void)
{
    int container, group = joined(&container, VFIO_TYPE1v2_IOMMU);
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
    configuration();
    regions();
    mapped();
    close(device);
    close(group);
    close(container);
}
