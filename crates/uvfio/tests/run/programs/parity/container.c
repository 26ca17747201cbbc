/* /dev/vfio/vfio, and /dev/vfio/N. */
#include "parity.h"

void containers(void)
{
    char label[64];
    int container = opened("container: open", open("/dev/vfio/vfio", O_RDWR));
    int other = opened("container: open another", open("/dev/vfio/vfio", O_RDWR));
    close(other);
    opened("container: open to read", other = open("/dev/vfio/vfio", O_RDONLY));
    said("container: GET_API_VERSION of one open to read", ioctl(other, VFIO_GET_API_VERSION));
    close(other);
    said("container: GET_API_VERSION", ioctl(container, VFIO_GET_API_VERSION));
    said("container: GET_API_VERSION with an argument", ioctl(container, VFIO_GET_API_VERSION, NOWHERE));
    for (unsigned long extension = 0; extension <= 12; extension++) {
        snprintf(label, sizeof label, "container: CHECK_EXTENSION %lu", extension);
        said(label, ioctl(container, VFIO_CHECK_EXTENSION, extension));
    }
    said("container: CHECK_EXTENSION 2^32 + 1", ioctl(container, VFIO_CHECK_EXTENSION, (1UL << 32) + 1));
    said("container: CHECK_EXTENSION -1", ioctl(container, VFIO_CHECK_EXTENSION, -1UL));
    said("container without group: SET_IOMMU", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
    said("container without group: SET_IOMMU of no kind", ioctl(container, VFIO_SET_IOMMU, 99UL));
    IO("container without IOMMU: IOMMU_GET_INFO", container, VFIO_IOMMU_GET_INFO, 64, 0);
    IO("container without IOMMU: MAP_DMA", container, VFIO_IOMMU_MAP_DMA, 32, 3, Q(0), Q(0), Q(PAGE));
    IO("container without IOMMU: UNMAP_DMA", container, VFIO_IOMMU_UNMAP_DMA, 24, 0, Q(0), Q(PAGE));
    IO("container without IOMMU: DIRTY_PAGES", container, VFIO_IOMMU_DIRTY_PAGES, 8, 1);
    said("container without IOMMU: an unknown request", ioctl(container, UNKNOWN, 0));
    IO("container: a group's request", container, VFIO_GROUP_GET_STATUS, 8, 0);
    IO("container: a device's request", container, VFIO_DEVICE_GET_INFO, 24, 0);
    IO("container: iommufd's request", container, _IO(VFIO_TYPE, 0x81), 12, 0, 0);
    said("container: a request of others", ioctl(container, _IO('x', 1), 0));
    char byte[4];
    said("container: pread", pread(container, byte, 4, 0));
    said("container: pwrite", pwrite(container, byte, 4, 0));
    said("container: mmap", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, container, 0) == MAP_FAILED ? -1 : 0);
    close(container);
}

/* The group alone. */
static void group_alone(void)
{
    char none[64];
    snprintf(none, sizeof none, "/dev/vfio/%u", group_number + 4000);
    opened("group: open one that is not there", open(none, O_RDWR));
    int group = opened("group: open", open(group_path, O_RDWR));
    opened("group: open again", open(group_path, O_RDWR));
    opened("group: open again to read", open(group_path, O_RDONLY));
    IO("group: STATUS", group, VFIO_GROUP_GET_STATUS, 8, 0);
    IO("group: STATUS, argsz 64", group, VFIO_GROUP_GET_STATUS, 64, 0xff);
    IO("group: STATUS, argsz 7", group, VFIO_GROUP_GET_STATUS, 7, 0);
    IO("group: STATUS, argsz 0", group, VFIO_GROUP_GET_STATUS, 0, 0);
    said("group: STATUS nowhere", ioctl(group, VFIO_GROUP_GET_STATUS, NOWHERE));
    said("group without container: UNSET_CONTAINER", ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
    said("group without container: GET_DEVICE_FD", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address));
    said("group without container: GET_DEVICE_FD of another", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:7f:1f.7"));
    IO("group without container: SET_CONTAINER -1", group, VFIO_GROUP_SET_CONTAINER, -1);
    IO("group without container: SET_CONTAINER 999, not open", group, VFIO_GROUP_SET_CONTAINER, 999);
    int null = open("/dev/null", O_RDWR);
    said("group without container: SET_CONTAINER of /dev/null", ioctl(group, VFIO_GROUP_SET_CONTAINER, &null));
    said("group without container: SET_CONTAINER of the group", ioctl(group, VFIO_GROUP_SET_CONTAINER, &group));
    said("group without container: SET_CONTAINER nowhere", ioctl(group, VFIO_GROUP_SET_CONTAINER, NOWHERE));
    close(null);
    said("group: an unknown request", ioctl(group, UNKNOWN, 0));
    said("group: a container's request", ioctl(group, VFIO_GET_API_VERSION));
    IO("group: a device's request", group, VFIO_DEVICE_GET_INFO, 24, 0);
    char byte[4];
    said("group: pread", pread(group, byte, 4, 0));
    said("group: pwrite", pwrite(group, byte, 4, 0));
    said("group: mmap", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, group, 0) == MAP_FAILED ? -1 : 0);
    close(group);
}

/* The group, with a container. */
static void group_joined(void)
{
    int group = open(group_path, O_RDWR), container = open("/dev/vfio/vfio", O_RDWR);
    said("group: SET_CONTAINER", ioctl(group, VFIO_GROUP_SET_CONTAINER, &container));
    said("group with container: SET_CONTAINER", ioctl(group, VFIO_GROUP_SET_CONTAINER, &container));
    IO("group with container: SET_CONTAINER -1", group, VFIO_GROUP_SET_CONTAINER, -1);
    IO("group with container: STATUS", group, VFIO_GROUP_GET_STATUS, 8, 0);
    said("container without IOMMU: GET_DEVICE_FD", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address));
    IO("container with group: IOMMU_GET_INFO", container, VFIO_IOMMU_GET_INFO, 64, 0);
    IO("container with group: MAP_DMA", container, VFIO_IOMMU_MAP_DMA, 32, 3, Q(0), Q(0), Q(PAGE));
    said("container with group: an unknown request", ioctl(container, UNKNOWN, 0));
    char label[64];
    for (unsigned long kind = 0; kind <= 12; kind++)
        if (kind != VFIO_TYPE1_IOMMU && kind != VFIO_TYPE1v2_IOMMU) {
            snprintf(label, sizeof label, "container: SET_IOMMU %lu", kind);
            said(label, ioctl(container, VFIO_SET_IOMMU, kind));
        }
    said("container: SET_IOMMU 2^32 + 1", ioctl(container, VFIO_SET_IOMMU, (1UL << 32) + 1));
    said("container: SET_IOMMU", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
    said("container: SET_IOMMU again", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
    said("container: SET_IOMMU of another version", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
    for (unsigned long extension = 0; extension <= 12; extension++) {
        snprintf(label, sizeof label, "container with IOMMU: CHECK_EXTENSION %lu", extension);
        said(label, ioctl(container, VFIO_CHECK_EXTENSION, extension));
    }
    said("container with IOMMU: GET_API_VERSION", ioctl(container, VFIO_GET_API_VERSION));
    said("container with IOMMU: an unknown request", ioctl(container, UNKNOWN, 0));
    said("group: GET_DEVICE_FD nowhere", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, NOWHERE));
    said("group: GET_DEVICE_FD of no name", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, ""));
    said("group: GET_DEVICE_FD of a part of the name", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:01:00"));
    said("group: GET_DEVICE_FD of another", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:7f:1f.7"));
    char name[128], longest[8192];
    snprintf(name, sizeof name, "%sx", address);
    said("group: GET_DEVICE_FD of a longer name", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name));
    snprintf(name, sizeof name, "%s vf_token=2ab74924-c335-45f4-9b16-8569e5b08258", address);
    said("group: GET_DEVICE_FD with a token", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name));
    snprintf(name, sizeof name, "%s colour=blue", address);
    said("group: GET_DEVICE_FD with what is no option", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name));
    memset(longest, 'x', sizeof longest);
    said("group: GET_DEVICE_FD of a name without end", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, longest));
    int device = opened("group: GET_DEVICE_FD", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address));
    said("device: F_GETFD", fcntl(device, F_GETFD));
    int second = opened("group: GET_DEVICE_FD again", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address));
    said("group with open devices: UNSET_CONTAINER", ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
    close(second);
    said("group with an open device: UNSET_CONTAINER", ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
    close(group);
    opened("group closed with an open device: open", open(group_path, O_RDWR));
    IO("device without its group's file: GET_INFO", device, VFIO_DEVICE_GET_INFO, 24, 0);
    close(container);
    IO("device without its container's file: GET_INFO", device, VFIO_DEVICE_GET_INFO, 24, 0);
    close(device);

    group = opened("group: open when all is closed", open(group_path, O_RDWR));
    IO("group opened anew: STATUS", group, VFIO_GROUP_GET_STATUS, 8, 0);
    container = open("/dev/vfio/vfio", O_RDWR);
    said("group opened anew: SET_CONTAINER", ioctl(group, VFIO_GROUP_SET_CONTAINER, &container));
    said("group opened anew: SET_IOMMU", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
    said("group without open devices: UNSET_CONTAINER", ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
    IO("container whose group has left: IOMMU_GET_INFO", container, VFIO_IOMMU_GET_INFO, 64, 0);
    said("container whose group has left: SET_IOMMU", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
    said("group that has left: UNSET_CONTAINER", ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
    said("group that has left: SET_CONTAINER", ioctl(group, VFIO_GROUP_SET_CONTAINER, &container));
    close(container);
    IO("group whose container's file is closed: STATUS", group, VFIO_GROUP_GET_STATUS, 8, 0);
    close(group);
}

void groups(void)
{
    group_alone();
    group_joined();
}
