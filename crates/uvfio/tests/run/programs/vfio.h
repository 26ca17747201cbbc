#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
/* What every program here begins with: a device of a group of its own, opened, with memory decoding and bus mastering on. */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CONFIG ((off_t)VFIO_PCI_CONFIG_REGION_INDEX << 40)

static inline void check(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static inline void set_command(int device, uint16_t bits)
{
    check(pwrite(device, &bits, sizeof bits, CONFIG + 4) == sizeof bits, "COMMAND");
}

static inline int open_group(const char *path, int container)
{
    int group = open(path, O_RDWR);
    check(container >= 0 && group >= 0, "the nodes");
    check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) == 0, "SET_CONTAINER");
    check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "SET_IOMMU");
    return group;
}

static inline int open_device_of(int group, const char *address)
{
    int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
    check(device >= 0, "GET_DEVICE_FD");
    set_command(device, 6);
    return device;
}

static inline int open_device(const char *group_path, const char *address)
{
    return open_device_of(open_group(group_path, open("/dev/vfio/vfio", O_RDWR)), address);
}

static inline void *map_bar(int device, uint32_t bar, size_t *bytes)
{
    struct vfio_region_info region = { .argsz = sizeof region, .index = bar };
    check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) == 0, "GET_REGION_INFO");
    check(region.flags & VFIO_REGION_INFO_FLAG_MMAP, "the BAR can't be mapped");
    void *mapped = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, region.offset);
    check(mapped != MAP_FAILED, "mmap");
    *bytes = region.size;
    return mapped;
}
