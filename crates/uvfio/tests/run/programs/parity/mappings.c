/* DMA mappings: both versions of type 1. */
#include "parity.h"

#define READ VFIO_DMA_MAP_FLAG_READ
#define WRITE VFIO_DMA_MAP_FLAG_WRITE
#define VADDR VFIO_DMA_MAP_FLAG_VADDR

static int container;
static char *memory;
static const char *version;
/* The labels' beginning is the version. */
static const char *named(const char *what)
{
    static char label[128];
    snprintf(label, sizeof label, "%s: %s", version, what);
    return label;
}

static void map(const char *what, uint32_t flags, const void *from, uint64_t iova, uint64_t bytes)
{
    IO(named(what), container, VFIO_IOMMU_MAP_DMA, 32, flags, Q(from), Q(iova), Q(bytes));
}

/* What was unmapped stands in words 4 and 5: bytes 16 to 23. */
static void unmap(const char *what, uint32_t flags, uint64_t iova, uint64_t bytes)
{
    IO(named(what), container, VFIO_IOMMU_UNMAP_DMA, 24, flags, Q(iova), Q(bytes));
}

static void wrong_mappings(void)
{
    IO(named("MAP_DMA, argsz 31"), container, VFIO_IOMMU_MAP_DMA, 31, READ, Q(memory), Q(0), Q(PAGE));
    IO(named("MAP_DMA, argsz 0"), container, VFIO_IOMMU_MAP_DMA, 0, READ, Q(memory), Q(0), Q(PAGE));
    said(named("MAP_DMA nowhere"), ioctl(container, VFIO_IOMMU_MAP_DMA, NOWHERE));
    map("MAP_DMA, unknown flag 8", READ | 8, memory, 0x100000, PAGE);
    map("MAP_DMA, unknown flag 2^31", READ | 1U << 31, memory, 0x100000, PAGE);
    map("MAP_DMA, no flag", 0, memory, 0x100000, PAGE);
    map("MAP_DMA, VADDR with READ", READ | VADDR, memory, 0x100000, PAGE);
    map("MAP_DMA, VADDR of nothing", VADDR, memory, 0x100000, PAGE);
    map("MAP_DMA, VADDR, size 0", VADDR, memory, 0x100000, 0);
    map("MAP_DMA, size 0", READ, memory, 0x100000, 0);
    map("MAP_DMA, size 1", READ, memory, 0x100000, 1);
    map("MAP_DMA, size 4097", READ, memory, 0x100000, 4097);
    map("MAP_DMA, iova not of a page", READ, memory, 0x100800, PAGE);
    map("MAP_DMA, address not of a page", READ, memory + 8, 0x100000, PAGE);
    map("MAP_DMA, no flag, size 0, unaligned", 0, memory + 8, 0x100001, 0);
    map("MAP_DMA, iova past 2^64", READ, memory, -PAGE, 2 * PAGE);
    map("MAP_DMA, the last page of 2^64", READ, memory, -PAGE, PAGE);
    map("MAP_DMA, address past 2^64", READ, (void *)-PAGE, 0x100000, 2 * PAGE);
    map("MAP_DMA, size 2^64 - 4096", READ, memory, 0x100000, -PAGE);
    map("MAP_DMA, the window of interrupts", READ, memory, 0xfee00000, PAGE);
    map("MAP_DMA, into the window of interrupts", READ, memory, 0xfedff000, 2 * PAGE);
    map("MAP_DMA, iova 2^52", READ, memory, 1UL << 52, PAGE);
    map("MAP_DMA, iova 2^57", READ, memory, 1UL << 57, PAGE);
    map("MAP_DMA, no memory", READ | WRITE, (void *)0x10000, 0x100000, PAGE);
    map("MAP_DMA, the kernel's memory", READ, (void *)0xffff888000000000, 0x100000, PAGE);
    map("MAP_DMA, address 0", READ, NULL, 0x100000, PAGE);
    mprotect(memory + 60 * PAGE, PAGE, PROT_NONE);
    mprotect(memory + 61 * PAGE, PAGE, PROT_READ);
    munmap(memory + 62 * PAGE, PAGE);
    map("MAP_DMA, memory that can't be accessed", READ, memory + 60 * PAGE, 0x100000, PAGE);
    map("MAP_DMA, READ of memory to read", READ, memory + 61 * PAGE, 0x100000, PAGE);
    unmap("UNMAP_DMA of memory to read", 0, 0x100000, PAGE);
    map("MAP_DMA, WRITE of memory to read", WRITE, memory + 61 * PAGE, 0x100000, PAGE);
    map("MAP_DMA, READ and WRITE of memory to read", READ | WRITE, memory + 61 * PAGE, 0x100000, PAGE);
    map("MAP_DMA, a hole in the middle", READ, memory + 61 * PAGE, 0x100000, 3 * PAGE);
    unmap("UNMAP_DMA where a mapping failed", 0, 0x100000, 3 * PAGE);
}

static void right_mappings(void)
{
    map("MAP_DMA, 4 pages", READ | WRITE, memory, 0x100000, 4 * PAGE);
    map("MAP_DMA again", READ | WRITE, memory, 0x100000, 4 * PAGE);
    map("MAP_DMA within", READ, memory, 0x101000, PAGE);
    map("MAP_DMA around", READ, memory, 0xff000, 6 * PAGE);
    map("MAP_DMA over the end", READ, memory, 0x103000, 2 * PAGE);
    map("MAP_DMA before", READ, memory + 8 * PAGE, 0xff000, PAGE);
    map("MAP_DMA behind", WRITE, memory, 0x104000, 4 * PAGE);
    map("MAP_DMA, the same memory elsewhere", READ, memory, 0x200000, PAGE);
    map("MAP_DMA, over one and not of a page", READ, memory, 0x100001, PAGE);
    map("MAP_DMA, over one and with VADDR", VADDR, memory, 0x100000, 4 * PAGE);
    map("MAP_DMA at 0", READ, memory, 0, PAGE);
    map("MAP_DMA, iova 2^32", READ, memory, 1UL << 32, PAGE);
    map("MAP_DMA, below the window of interrupts", READ, memory, 0xfedff000, PAGE);
    map("MAP_DMA, behind the window of interrupts", READ, memory, 0xfef00000, PAGE);
    IO(named("MAP_DMA, argsz 64"), container, VFIO_IOMMU_MAP_DMA, 64, READ, Q(memory), Q(0x300000), Q(PAGE));
}

static void unmappings(void)
{
    IO(named("UNMAP_DMA, argsz 23"), container, VFIO_IOMMU_UNMAP_DMA, 23, 0, Q(0x100000), Q(PAGE));
    said(named("UNMAP_DMA nowhere"), ioctl(container, VFIO_IOMMU_UNMAP_DMA, NOWHERE));
    unmap("UNMAP_DMA, unknown flag", 8, 0x100000, 4 * PAGE);
    unmap("UNMAP_DMA, size 0", 0, 0x100000, 0);
    unmap("UNMAP_DMA, size 1", 0, 0x100000, 1);
    unmap("UNMAP_DMA, iova not of a page", 0, 0x100001, PAGE);
    unmap("UNMAP_DMA past 2^64", 0, -PAGE, 2 * PAGE);
    unmap("UNMAP_DMA of the last page of 2^64", 0, -PAGE, PAGE);
    unmap("UNMAP_DMA, size 2^64 - 4096, from a page on", 0, PAGE, -PAGE);
    unmap("UNMAP_DMA, iova 2^52", 0, 1UL << 52, PAGE);
    unmap("UNMAP_DMA of nothing", 0, 0x500000, PAGE);
    unmap("UNMAP_DMA from within", 0, 0x101000, PAGE);
    unmap("UNMAP_DMA from within to the end", 0, 0x101000, 3 * PAGE);
    unmap("UNMAP_DMA over the beginning", 0, 0xfe000, 4 * PAGE);
    map("MAP_DMA before, after that", READ, memory + 8 * PAGE, 0xff000, PAGE);
    map("MAP_DMA of what may be gone", READ | WRITE, memory, 0x100000, 4 * PAGE);
    unmap("UNMAP_DMA of the first page", 0, 0x100000, PAGE);
    map("MAP_DMA of what may be gone again", READ | WRITE, memory, 0x100000, 4 * PAGE);
    unmap("UNMAP_DMA from within over the next", 0, 0x102000, 6 * PAGE);
    unmap("UNMAP_DMA of two with nothing around", 0, 0x80000, 0x100000);
    unmap("UNMAP_DMA of what is gone", 0, 0x100000, 4 * PAGE);
    unmap("UNMAP_DMA, VADDR", 4, 0x200000, PAGE);
    unmap("UNMAP_DMA, VADDR again", 4, 0x200000, PAGE);
    unmap("UNMAP_DMA, VADDR of nothing", 4, 0x500000, PAGE);
    map("MAP_DMA, VADDR of a part before", VADDR, memory, 0x1ff000, 2 * PAGE);
    map("MAP_DMA, VADDR not of a page", VADDR, memory + 1, 0x200000, PAGE);
    map("MAP_DMA, VADDR with WRITE", VADDR | WRITE, memory, 0x200000, PAGE);
    map("MAP_DMA, VADDR", VADDR, memory + PAGE, 0x200000, PAGE);
    map("MAP_DMA, VADDR again", VADDR, memory + PAGE, 0x200000, PAGE);
    unmap("UNMAP_DMA, VADDR, for the last time", 4, 0x200000, PAGE);
    unmap("UNMAP_DMA while the address is away", 0, 0x200000, PAGE);
    unmap("UNMAP_DMA, ALL with a range", 2, 0x100000, PAGE);
    unmap("UNMAP_DMA, ALL with a size", 2, 0, PAGE);
    unmap("UNMAP_DMA, ALL with VADDR", 6, 0, 0);
    unmap("UNMAP_DMA, ALL with a bitmap", 3, 0, 0);
    unmap("UNMAP_DMA, ALL", 2, 0, 0);
    unmap("UNMAP_DMA, ALL of nothing", 2, 0, 0);
    map("MAP_DMA of 64 pages less 4", READ, memory, 0x400000, 60 * PAGE);
    unmap("UNMAP_DMA from 0 to 2^64 - 4096", 0, 0, -PAGE);
    map("MAP_DMA anew", READ, memory, 0x400000, 8 * PAGE);
}

static void dirty_pages(void)
{
    static uint64_t bits[2];
#define BITMAP(page, size, data) Q(page), Q(size), Q(data)
#define DIRTY(what, ...) IO(named("DIRTY_PAGES" what), container, VFIO_IOMMU_DIRTY_PAGES, __VA_ARGS__)
    DIRTY(", argsz 7", 7, 1);
    said(named("DIRTY_PAGES nowhere"), ioctl(container, VFIO_IOMMU_DIRTY_PAGES, NOWHERE));
    DIRTY(", no flag", 8, 0);
    DIRTY(", unknown flag", 8, 8);
    DIRTY(", START and STOP", 8, 3);
    DIRTY(", STOP before START", 8, 2);
    DIRTY(", GET_BITMAP before START", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 8, bits));
    DIRTY(", START", 8, 1);
    DIRTY(", START again", 8, 1);
    DIRTY(", GET_BITMAP, argsz 47", 47, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 8, bits));
    DIRTY(", GET_BITMAP, pages of 8192", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(8192, 8, bits));
    DIRTY(", GET_BITMAP, pages of 0", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(0, 8, bits));
    DIRTY(", GET_BITMAP, pages of 3", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(3, 8, bits));
    DIRTY(", GET_BITMAP of 0 bytes", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 0, bits));
    DIRTY(", GET_BITMAP too short", 48, 4, Q(0x400000), Q(65 * PAGE), BITMAP(PAGE, 8, bits));
    DIRTY(", GET_BITMAP too long", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 1UL << 30, bits));
    DIRTY(", GET_BITMAP of size 0", 48, 4, Q(0x400000), Q(0), BITMAP(PAGE, 8, bits));
    DIRTY(", GET_BITMAP not of a page", 48, 4, Q(0x400001), Q(8 * PAGE), BITMAP(PAGE, 8, bits));
    DIRTY(", GET_BITMAP of a part", 48, 4, Q(0x400000), Q(4 * PAGE), BITMAP(PAGE, 8, bits));
    DIRTY(", GET_BITMAP past 2^64", 48, 4, Q(-PAGE), Q(2 * PAGE), BITMAP(PAGE, 8, bits));
    DIRTY(", GET_BITMAP nowhere", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 8, NOWHERE));
    DIRTY(", GET_BITMAP", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 8, bits));
    told(named("its bits"), "%lx", bits[0]);
    bits[0] = 0;
    bits[0] = 0;
    map("MAP_DMA of 8 pages while tracked", READ | WRITE, memory, 0x600000, 8 * PAGE);
    IO(named("UNMAP_DMA, bitmap, of those"), container, VFIO_IOMMU_UNMAP_DMA, 48, 1, Q(0x600000), Q(8 * PAGE),
       BITMAP(PAGE, 8, bits));
    told(named("its bits, of those"), "%lx", bits[0]);
    bits[0] = 0;
    DIRTY(", GET_BITMAP of more", 48, 4, Q(0x3fe000), Q(16 * PAGE), BITMAP(PAGE, 8, bits));
    told(named("its bits, of more"), "%lx", bits[0]);
    bits[0] = 0;
    DIRTY(", GET_BITMAP of nothing", 48, 4, Q(0x800000), Q(8 * PAGE), BITMAP(PAGE, 8, bits));
    told(named("its bits, of nothing"), "%lx", bits[0]);
    DIRTY(", GET_BITMAP after that of more", 48, 4, Q(0x400000), Q(8 * PAGE), BITMAP(PAGE, 8, bits));
    told(named("its bits, after that of more"), "%lx", bits[0]);
    bits[0] = 0;
    IO(named("UNMAP_DMA, bitmap, argsz 47"), container, VFIO_IOMMU_UNMAP_DMA, 47, 1, Q(0x400000), Q(8 * PAGE),
       BITMAP(PAGE, 8, bits));
    IO(named("UNMAP_DMA, bitmap of 0 bytes"), container, VFIO_IOMMU_UNMAP_DMA, 48, 1, Q(0x400000), Q(8 * PAGE),
       BITMAP(PAGE, 0, bits));
    IO(named("UNMAP_DMA, bitmap with VADDR"), container, VFIO_IOMMU_UNMAP_DMA, 48, 5, Q(0x400000), Q(8 * PAGE),
       BITMAP(PAGE, 8, bits));
    IO(named("UNMAP_DMA, bitmap"), container, VFIO_IOMMU_UNMAP_DMA, 48, 1, Q(0x400000), Q(8 * PAGE),
       BITMAP(PAGE, 8, bits));
    told(named("its bits, unmapped"), "%lx", bits[0]);
    DIRTY(", STOP", 8, 2);
    DIRTY(", STOP again", 8, 2);
    IO(named("UNMAP_DMA, bitmap, not tracked"), container, VFIO_IOMMU_UNMAP_DMA, 48, 1, Q(0x400000), Q(8 * PAGE),
       BITMAP(PAGE, 8, bits));
    unmap("UNMAP_DMA at last", 2, 0, 0);
}

static void info(void)
{
    static const uint32_t sizes[] = { 0, 15, 16, 20, 24, 28, 200 };
    char what[64];
    /* What it says of the machine's addresses and pages has lines of its own. */
    quiet = 1;
    for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++) {
        snprintf(what, sizeof what, "GET_INFO, argsz %u", sizes[at]);
        if (IO(named(what), container, VFIO_IOMMU_GET_INFO, sizes[at], 0xff) == 0 && sizes[at] < 200) {
            snprintf(what, sizeof what, "GET_INFO, argsz %u, what it says", sizes[at]);
            told(named(what), "flags %x, capabilities %x, behind %x; argsz %s", after[1], after[4], after[5],
                 after[0] == sizes[at] ? "as it was" : "what they need");
        }
    }
    quiet = 0;
    told(named("GET_INFO, sizes of pages"), "%lx", after[2] | (uint64_t)after[3] << 32);
    told(named("GET_INFO, argsz and where its capabilities are"), "%u %u", after[0], after[4]);
    told_chain(named("GET_INFO"), after[4]);
    said(named("GET_INFO nowhere"), ioctl(container, VFIO_IOMMU_GET_INFO, NOWHERE));
}

void mappings(void)
{
    static const struct { const char *name; unsigned long type; } versions[] = {
        { "type 1", VFIO_TYPE1_IOMMU }, { "type 1 version 2", VFIO_TYPE1v2_IOMMU },
    };
    for (int at = 0; at < 2; at++) {
        version = versions[at].name;
        memory = mmap((void *)0x200000000, 64 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        int group = joined(&container, versions[at].type);
        info();
        wrong_mappings();
        right_mappings();
        unmappings();
        dirty_pages();
        close(container);
        close(group);
    }
}
