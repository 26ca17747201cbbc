/* /dev/iommu, and a device's own file, /dev/vfio/devices/vfioN. What memory may be mapped where is asked while a device is
 * attached, whose IOMMU decides that. */
#include "parity.h"

#define IOMMUFD(n) _IO(VFIO_TYPE, 0x80 + (n))
#define DESTROY IOMMUFD(0)
#define IOAS_ALLOC IOMMUFD(1)
#define IOAS_ALLOW_IOVAS IOMMUFD(2)
#define IOAS_COPY IOMMUFD(3)
#define IOAS_IOVA_RANGES IOMMUFD(4)
#define IOAS_MAP IOMMUFD(5)
#define IOAS_UNMAP IOMMUFD(6)
#define OPTION IOMMUFD(7)
#define VFIO_IOAS IOMMUFD(8)
#define FIXED 1
#define WRITABLE 2
#define READABLE 4

static int iommu;
static char *memory;
static uint32_t space, other;

static void map(const char *label, uint32_t flags, uint32_t id, const void *from, uint64_t bytes, uint64_t iova)
{
    IO(label, iommu, IOAS_MAP, 40, flags, id, 0, Q(from), Q(bytes), Q(iova));
}

static void unmap(const char *label, uint32_t id, uint64_t iova, uint64_t bytes)
{
    IO(label, iommu, IOAS_UNMAP, 24, id, Q(iova), Q(bytes));
}

static void objects(void)
{
    iommu = opened("iommu: open", open("/dev/iommu", O_RDWR));
    said("iommu: an unknown request", ioctl(iommu, IOMMUFD(0x60), 0));
    IO("IOAS_ALLOC, size 11", iommu, IOAS_ALLOC, 11, 0, 0);
    IO("IOAS_ALLOC, size 0", iommu, IOAS_ALLOC, 0, 0, 0);
    IO("IOAS_ALLOC, flags", iommu, IOAS_ALLOC, 12, 1, 0);
    IO("IOAS_ALLOC, size 16, more is 0", iommu, IOAS_ALLOC, 16, 0, 0, 0);
    space = after[2];
    IO("IOAS_ALLOC, size 16, more is 1", iommu, IOAS_ALLOC, 16, 0, 0, 1);
    IO("IOAS_ALLOC, size 2^31", iommu, IOAS_ALLOC, 1U << 31, 0, 0);
    said("IOAS_ALLOC nowhere", ioctl(iommu, IOAS_ALLOC, NOWHERE));
    IO("IOAS_ALLOC", iommu, IOAS_ALLOC, 12, 0, 0);
    other = after[2];
    IO("DESTROY of what is not there", iommu, DESTROY, 8, 99);
    IO("DESTROY of 0", iommu, DESTROY, 8, 0);
    IO("DESTROY, size 7", iommu, DESTROY, 7, other);
    IO("DESTROY", iommu, DESTROY, 8, other);
    IO("DESTROY again", iommu, DESTROY, 8, other);
    IO("IOAS_ALLOC after DESTROY", iommu, IOAS_ALLOC, 12, 0, 0);
    other = after[2];
}

static void ranges(void)
{
    static uint64_t found[8];
    IO("IOVA_RANGES, reserved field", iommu, IOAS_IOVA_RANGES, 32, space, 4, 1, Q(found), Q(0));
    IO("IOVA_RANGES of what is not there", iommu, IOAS_IOVA_RANGES, 32, 99, 4, 0, Q(found), Q(0));
    IO("IOVA_RANGES, no room", iommu, IOAS_IOVA_RANGES, 32, space, 0, 0, Q(found), Q(0));
    IO("IOVA_RANGES", iommu, IOAS_IOVA_RANGES, 32, space, 4, 0, Q(found), Q(0));
    told("the first range", "%lx to %lx", found[0], found[1]);
    IO("ALLOW_IOVAS, reserved field", iommu, IOAS_ALLOW_IOVAS, 24, space, 0, 1, Q(found));
    uint64_t backwards[2] = { 0x2000, 0x1000 };
    IO("ALLOW_IOVAS, a range that ends before it begins", iommu, IOAS_ALLOW_IOVAS, 24, space, 1, 0, Q(backwards));
    IO("ALLOW_IOVAS nowhere", iommu, IOAS_ALLOW_IOVAS, 24, space, 1, 0, Q(NOWHERE));
    IO("ALLOW_IOVAS of none", iommu, IOAS_ALLOW_IOVAS, 24, space, 0, 0, Q(found));
}

static void memory_of(void)
{
    map("MAP, unknown flag", 8 | READABLE, space, memory, PAGE, 0);
    map("MAP that can be neither read nor written", FIXED, space, memory, PAGE, 0x10000);
    IO("MAP, reserved field", iommu, IOAS_MAP, 40, READABLE, space, 1, Q(memory), Q(PAGE), Q(0));
    map("MAP, of what is not there", FIXED | READABLE, 99, memory, PAGE, 0x10000);
    map("MAP, length 0", FIXED | READABLE, space, memory, 0, 0x10000);
    map("MAP, length not of a page", FIXED | READABLE, space, memory, 100, 0x10000);
    map("MAP, iova not of a page", FIXED | READABLE, space, memory, PAGE, 0x10001);
    map("MAP past 2^64", FIXED | READABLE, space, memory, 2 * PAGE, -PAGE);
    map("MAP of no memory", FIXED | READABLE, space, (void *)0x10000, PAGE, 0x10000);
    map("MAP", FIXED | READABLE | WRITABLE, space, memory, 4 * PAGE, 0x10000);
    map("MAP again", FIXED | READABLE | WRITABLE, space, memory, 4 * PAGE, 0x10000);
    map("MAP over the end", FIXED | READABLE, space, memory, 2 * PAGE, 0x13000);
    map("MAP in another", FIXED | READABLE, other, memory, PAGE, 0x20000);
    /* Where that is, is for the kernel to say. */
    quiet = 1;
    map("MAP where there is room", READABLE, space, memory, PAGE, 0);
    quiet = 0;
    uint64_t chosen = after[8] | (uint64_t)after[9] << 32;
    unmap("UNMAP of that", space, chosen, PAGE);
    unmap("UNMAP of nothing", space, 0x900000, PAGE);
    unmap("UNMAP of a part", space, 0x10000, PAGE);
    unmap("UNMAP from within", space, 0x11000, 3 * PAGE);
    unmap("UNMAP, length 0", space, 0x10000, 0);
    unmap("UNMAP past 2^64", space, -PAGE, 2 * PAGE);
    unmap("UNMAP of what is not there", 99, 0x10000, PAGE);
    IO("COPY, flags", iommu, IOAS_COPY, 40, 8 | READABLE, other, space, Q(PAGE), Q(0x40000), Q(0x10000));
    IO("COPY of nothing", iommu, IOAS_COPY, 40, FIXED | READABLE, other, space, Q(PAGE), Q(0x40000), Q(0x900000));
    IO("COPY past the mapping", iommu, IOAS_COPY, 40, FIXED | READABLE, other, space, Q(8 * PAGE), Q(0x40000),
       Q(0x10000));
    IO("COPY, length 0", iommu, IOAS_COPY, 40, FIXED | READABLE, other, space, Q(0), Q(0x40000), Q(0x10000));
    IO("COPY", iommu, IOAS_COPY, 40, FIXED | READABLE, other, space, Q(2 * PAGE), Q(0x40000), Q(0x10000));
    IO("COPY again", iommu, IOAS_COPY, 40, FIXED | READABLE, other, space, Q(2 * PAGE), Q(0x40000), Q(0x10000));
    IO("COPY from what is not there", iommu, IOAS_COPY, 40, FIXED | READABLE, other, 99, Q(PAGE), Q(0x60000),
       Q(0x10000));
    unmap("UNMAP", space, 0x10000, 4 * PAGE);
    unmap("UNMAP again", space, 0x10000, 4 * PAGE);
    unmap("UNMAP of all", other, 0, -1);
    unmap("UNMAP of all of nothing", other, 0, -1);
}

static void options(void)
{
    /* Option, operation (SET 0, GET 1) with the reserved field, object, value. */
    IO("OPTION, how memory is accounted", iommu, OPTION, 24, 0, 1, 0, Q(7));
    IO("OPTION, how memory is accounted, of an object", iommu, OPTION, 24, 0, 1, space, Q(7));
    IO("OPTION, large pages", iommu, OPTION, 24, 1, 1, space, Q(7));
    IO("OPTION, large pages, of what is not there", iommu, OPTION, 24, 1, 1, 99, Q(7));
    IO("OPTION, large pages 2", iommu, OPTION, 24, 1, 0, space, Q(2));
    IO("OPTION, large pages off", iommu, OPTION, 24, 1, 0, space, Q(0));
    IO("OPTION, large pages now", iommu, OPTION, 24, 1, 1, space, Q(7));
    IO("OPTION, unknown", iommu, OPTION, 24, 9, 1, space, Q(0));
    IO("OPTION, unknown operation", iommu, OPTION, 24, 1, 9, space, Q(0));
    IO("OPTION, reserved field", iommu, OPTION, 24, 1, 1 | 1 << 16, space, Q(0));
    IO("VFIO_IOAS, get before there is one", iommu, VFIO_IOAS, 12, 0, 0);
    IO("VFIO_IOAS, set to what is not there", iommu, VFIO_IOAS, 12, 99, 1);
    IO("VFIO_IOAS, set", iommu, VFIO_IOAS, 12, space, 1);
    IO("VFIO_IOAS, get", iommu, VFIO_IOAS, 12, 0, 0);
    IO("VFIO_IOAS, unknown operation", iommu, VFIO_IOAS, 12, 0, 9);
    IO("VFIO_IOAS, clear", iommu, VFIO_IOAS, 12, 0, 2);
    IO("VFIO_IOAS, get after clear", iommu, VFIO_IOAS, 12, 0, 0);
}

static void requests_of_vfio(void)
{
    said("iommu: GET_API_VERSION", ioctl(iommu, VFIO_GET_API_VERSION));
    IO("iommu: VFIO_IOMMU_MAP_DMA without address space", iommu, VFIO_IOMMU_MAP_DMA, 32, 3, Q(memory), Q(0x10000),
       Q(PAGE));
    int group = open(group_path, O_RDWR);
    said("group: SET_CONTAINER of /dev/iommu", ioctl(group, VFIO_GROUP_SET_CONTAINER, &iommu));
    said("iommu: SET_IOMMU", ioctl(iommu, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
    IO("iommu: VFIO_IOMMU_MAP_DMA", iommu, VFIO_IOMMU_MAP_DMA, 32, 3, Q(memory), Q(0x10000), Q(4 * PAGE));
    IO("iommu: VFIO_IOMMU_UNMAP_DMA of nothing", iommu, VFIO_IOMMU_UNMAP_DMA, 24, 0, Q(0x900000), Q(PAGE));
    IO("iommu: VFIO_IOMMU_UNMAP_DMA of a part", iommu, VFIO_IOMMU_UNMAP_DMA, 24, 0, Q(0x10000), Q(PAGE));
    IO("iommu: VFIO_IOMMU_UNMAP_DMA", iommu, VFIO_IOMMU_UNMAP_DMA, 24, 0, Q(0x10000), Q(4 * PAGE));
    IO("iommu: VFIO_IOMMU_DIRTY_PAGES", iommu, VFIO_IOMMU_DIRTY_PAGES, 8, 1);
    int device = opened("group with /dev/iommu: GET_DEVICE_FD", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address));
    IO("device of a group with /dev/iommu: GET_INFO", device, VFIO_DEVICE_GET_INFO, 24, 0, 0, 0);
    close(device);
    close(group);
}

static void own_file(const char *device_path)
{
    int second_iommu = open("/dev/iommu", O_RDWR), null = open("/dev/null", O_RDWR);
    int device = opened("device: open", open(device_path, O_RDWR));
    int second = opened("device: open again", open(device_path, O_RDWR));
    char bytes[4];
    IO("device not bound: GET_INFO", device, VFIO_DEVICE_GET_INFO, 24, 0, 0, 0);
    said("device not bound: pread", pread(device, bytes, 4, 7L << 40));
    said("device not bound: an unknown request", ioctl(device, UNKNOWN, 0));
    IO("device not bound: ATTACH", device, ATTACH_IOMMUFD_PT, 12, 0, space);
    IO("device not bound: DETACH", device, DETACH_IOMMUFD_PT, 8, 0);
    IO("BIND, argsz 15", device, BIND_IOMMUFD, 15, 0, iommu, 0);
    IO("BIND, unknown flag", device, BIND_IOMMUFD, 16, 2, iommu, 0);
    IO("BIND to -1", device, BIND_IOMMUFD, 16, 0, -1, 0);
    IO("BIND to 999, not open", device, BIND_IOMMUFD, 16, 0, 999, 0);
    IO("BIND to /dev/null", device, BIND_IOMMUFD, 16, 0, null, 0);
    said("BIND nowhere", ioctl(device, BIND_IOMMUFD, NOWHERE));
    int group = open(group_path, O_RDWR);
    IO("BIND while the group is open", device, BIND_IOMMUFD, 16, 0, iommu, 0);
    close(group);
    IO("BIND", device, BIND_IOMMUFD, 16, 0, iommu, 0);
    IO("BIND again", device, BIND_IOMMUFD, 16, 0, iommu, 0);
    IO("BIND of the second file", second, BIND_IOMMUFD, 16, 0, second_iommu, 0);
    opened("group of a bound device: open", open(group_path, O_RDWR));
    IO("device: GET_INFO", device, VFIO_DEVICE_GET_INFO, 24, 0, 0, 0);
    said("device: pread", pread(device, bytes, 4, 7L << 40));
    IO("ATTACH, argsz 11", device, ATTACH_IOMMUFD_PT, 11, 0, space);
    IO("ATTACH, unknown flag", device, ATTACH_IOMMUFD_PT, 16, 2, space, 0);
    IO("ATTACH to what is not there", device, ATTACH_IOMMUFD_PT, 12, 0, 99);
    IO("ATTACH", device, ATTACH_IOMMUFD_PT, 12, 0, space);
    ranges();
    memory_of();
    options();
    IO("ATTACH to another, instead", device, ATTACH_IOMMUFD_PT, 12, 0, other);
    IO("DESTROY of what a device is attached to", iommu, DESTROY, 8, other);
    IO("DETACH, argsz 7", device, DETACH_IOMMUFD_PT, 7, 0);
    IO("DETACH, unknown flag", device, DETACH_IOMMUFD_PT, 8, 2);
    IO("DETACH", device, DETACH_IOMMUFD_PT, 8, 0);
    IO("DETACH again", device, DETACH_IOMMUFD_PT, 8, 0);
    IO("DESTROY when it is detached", iommu, DESTROY, 8, other);
    close(second);
    close(device);
    opened("group when the device is closed: open", group = open(group_path, O_RDWR));
    close(group);
    close(second_iommu);
    close(null);
}

void without_kernel(const char *device_path)
{
    memory = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    objects();
    own_file(device_path);
    IO("IOAS_ALLOC for VFIO's requests", iommu, IOAS_ALLOC, 12, 0, 0);
    requests_of_vfio();
    close(iommu);
}
