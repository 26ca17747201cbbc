/* Walks the requests of the kernel's VFIO, with right and wrong arguments, on a device edu that nobody else has.
 *
 *     parity GROUP ADDRESS            containers, groups and devices, such as: parity /dev/vfio/1 0000:01:00.0
 *     parity GROUP ADDRESS DEVICE     /dev/iommu and the device's own file, such as: ... /dev/vfio/devices/vfio0
 *
 * Its output is the same in each run, and the same on every kernel as far as kernels are. */
#include "parity.h"
#include <stdarg.h>

const char *group_path, *address;
uint32_t group_number;
uint32_t after[MOST_WORDS];
int quiet;
/* Which the compiler must not know, and then say that nothing can be there. */
void *volatile nowhere = (void *)16;

const char *name_of(int error)
{
#define ONE(name) case name: return #name
    switch (error) {
    ONE(EPERM); ONE(ENOENT); ONE(EIO); ONE(ENXIO); ONE(E2BIG); ONE(EBADF); ONE(EAGAIN); ONE(ENOMEM); ONE(EACCES);
    ONE(EFAULT); ONE(EBUSY); ONE(EEXIST); ONE(ENODEV); ONE(EINVAL); ONE(ENOTTY); ONE(ENOSPC); ONE(ESPIPE); ONE(EROFS);
    ONE(EDOM); ONE(ERANGE); ONE(ENOSYS); ONE(EOVERFLOW); ONE(EBADFD); ONE(EOPNOTSUPP); ONE(EADDRINUSE); ONE(EMSGSIZE);
    ONE(ENODATA);
    default: return strerror(error);
    }
}

static void result_of(const char *label, long result, const char *shown)
{
    if (result < 0)
        printf("%s = %s", label, name_of(errno));
    else if (shown)
        printf("%s = %s", label, shown);
    else
        printf("%s = %ld", label, result);
}

long said(const char *label, long result)
{
    result_of(label, result, NULL);
    putchar('\n');
    return result;
}

int opened(const char *label, int descriptor)
{
    result_of(label, descriptor, "a descriptor");
    putchar('\n');
    return descriptor;
}

void told(const char *label, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("%s = ", label);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

long io(const char *label, int file, unsigned long request, const uint32_t *words, size_t count)
{
    static uint32_t before[MOST_WORDS];
    memset(before, 0xa5, sizeof before);
    memcpy(before, words, count * 4);
    memcpy(after, before, sizeof after);
    long result = ioctl(file, request, after);
    result_of(label, result, NULL);
    for (size_t at = 0; at < MOST_WORDS && !quiet; at++)
        if (before[at] != after[at])
            printf(" [%zu]=%x", at * 4, after[at]);
    putchar('\n');
    return result;
}

void told_chain(const char *label, uint32_t at)
{
    while (at != 0 && at % 4 == 0 && at < sizeof after - 8) {
        uint32_t next = after[at / 4 + 1];
        uint32_t end = next > at && next <= sizeof after ? next : at + 8;
        /* The last one's length stands in no place: as much as is not what lay there before. */
        if (next == 0)
            while (end < sizeof after && after[end / 4] != 0xa5a5a5a5)
                end += 4;
        printf("%s, capability %u version %u =", label, after[at / 4] & 0xffff, after[at / 4] >> 16);
        for (uint32_t word = at / 4 + 2; word < end / 4; word++)
            printf(" %x", after[word]);
        putchar('\n');
        at = next;
    }
}

int joined(int *container, unsigned long type)
{
    int group = open(group_path, O_RDWR);
    *container = open("/dev/vfio/vfio", O_RDWR);
    if (group < 0 || *container < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, container) < 0 ||
        ioctl(*container, VFIO_SET_IOMMU, type) < 0)
        told("the group and its container", "%s", name_of(errno));
    return group;
}

int main(int count, char **arguments)
{
    if (count != 3 && count != 4) {
        fprintf(stderr, "usage: %s GROUP ADDRESS [DEVICE]\n", arguments[0]);
        return 2;
    }
    group_path = arguments[1];
    address = arguments[2];
    group_number = atoi(strrchr(group_path, '/') + 1);
    if (count == 4) {
        without_kernel(arguments[3]);
    } else {
        containers();
        groups();
        mappings();
        devices();
        interrupts();
        registers();
    }
    return 0;
}
