/* Reads and writes of a device in every form, and what its descriptor is. The device is edu. With "preload" for an argument
 * also what only that way catches. */
#include "vfio.h"
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { ID = 0x010000ed };

static int device;
/* Where there is no memory, so that the compiler does not know it. */
static void *volatile nowhere = (void *)8;

#define FAILS(call, number) check((errno = 0, call) == -1 && errno == number, #call)

static void descriptors(int container, int group)
{
    char byte = 0;
    for (int number = 0; number < 2; number++) {
        int file = number ? group : container;
        struct iovec piece = { &byte, 1 };
        FAILS(read(file, &byte, 1), EINVAL);
        FAILS(write(file, &byte, 1), EINVAL);
        FAILS(readv(file, &piece, 1), EINVAL);
        FAILS(writev(file, &piece, 1), EINVAL);
        FAILS(lseek(file, 0, SEEK_SET), ESPIPE);
    }
    /* A device from its group is a file without a place; a node's is that node. */
    struct stat found, other, node;
    struct statx more;
    check(fstat(device, &found) == 0 && found.st_mode == 0600 && found.st_rdev == 0, "fstat of the device");
    check(fstatat(device, "", &other, AT_EMPTY_PATH) == 0 && other.st_mode == 0600, "fstatat of the device");
    check(other.st_dev == found.st_dev && other.st_ino == found.st_ino, "the same by both");
    check(statx(device, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &more) == 0 && more.stx_mode == 0600, "statx of it");
    check(stat("/dev/vfio/1", &node) == 0 && fstat(group, &found) == 0, "the group");
    check(S_ISCHR(found.st_mode) && found.st_ino == node.st_ino && found.st_dev == node.st_dev, "fstat of the group");
    check(statx(group, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &more) == 0, "statx of the group");
    check(S_ISCHR(more.stx_mode) && more.stx_ino == node.st_ino, "the node");
    check(fstatat(AT_FDCWD, "/dev/vfio/1", &other, 0) == 0 && other.st_ino == node.st_ino, "by its name");
    FAILS(fstatat(device, nowhere, &other, AT_EMPTY_PATH), EFAULT);

    /* Other sockets of the same kind, and other files at their ends. */
    int pair[2], ends[2];
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && pipe(ends) == 0, "a pair and a pipe");
    check(fstat(pair[0], &found) == 0 && S_ISSOCK(found.st_mode), "another socket");
    close(pair[1]);
    close(ends[0]);
    check(read(pair[0], &byte, 1) == 0, "its end");
    FAILS(write(pair[0], &byte, 1), EPIPE);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(ends[1], &byte, 1), EPIPE);
    FAILS(read(1000, &byte, 1), EBADF);
}

int main(int count, char **arguments)
{
    device = open_device("/dev/vfio/1", "0000:01:00.0");
    uint32_t value = 0, second = 0;
    uint16_t halves[2] = { 0 };

    /* From the file's position, which is 0 at first, and each leaves behind what it has read or written. */
    check(read(device, &value, 4) == 4 && value == ID, "read");
    value = 0x12345678;
    check(write(device, &value, 4) == 4, "write");
    check(pread(device, &value, 4, 4) == 4 && value == ~0x12345678u, "what was written to the second register");
    /* Not a low number: by seccomp a device's is high. */
    int duplicate = fcntl(device, F_DUPFD, device);
    check(read(duplicate, &value, 4) == 4 && read(device, &value, 4) == 4, "at 8 and 12");
    FAILS(lseek(device, 0, SEEK_SET), ESPIPE);
    FAILS(lseek(device, 0, 9), EINVAL);
    FAILS(read(device, nowhere, 4), EFAULT);
    close(device);

    /* Another open file begins at its own beginning. */
    int group = 4;
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:01:00.0");
    check(device >= 0, "the device once more");
    struct iovec pieces[3] = { { &value, 4 }, { NULL, 0 }, { &second, 4 } };
    check(readv(device, pieces, 3) == 8 && value == ID && second == ~0x12345678u, "readv");
    struct iovec half[2] = { { &halves[0], 2 }, { &halves[1], 2 } };
    check(preadv(device, half, 2, CONFIG) == 4 && halves[0] == 0x1234 && halves[1] == 0x11e8, "preadv");
    check(preadv2(device, half, 2, CONFIG, 0) == 4 && halves[1] == 0x11e8, "preadv2");
    check(preadv2(device, half, 2, CONFIG, RWF_HIPRI) == 4, "preadv2 with the flag that counts for nothing");
    FAILS(preadv2(device, half, 2, CONFIG, RWF_NOWAIT), EOPNOTSUPP);
    FAILS(preadv(device, half, 2, -1), EINVAL);
    FAILS(preadv2(device, half, 2, -2, 0), EINVAL);
    FAILS(pread(device, &value, 4, -1), EINVAL);
    static volatile size_t endless = -1, half_of_all = (size_t)1 << 63;
    FAILS(pread(device, &value, endless, CONFIG), EFAULT);
    FAILS(pwrite(device, &value, half_of_all, CONFIG), EFAULT);
    static struct iovec many[1025];
    FAILS(readv(device, many, 1025), EINVAL);
    FAILS(readv(device, nowhere, 1), EFAULT);
    check(readv(device, half, 0) == 0 && read(device, &value, 0) == 0, "nothing");
    value = 0x0badcafe;
    struct iovec one = { &value, 4 };
    check(pwritev(device, &one, 1, 4) == 4, "pwritev");
    check(pread(device, &second, 4, 4) == 4 && second == ~0x0badcafeu, "what that wrote");
    value = 6;
    check(pwritev2(device, &one, 1, CONFIG + 4, 0) == 4, "pwritev2");
    FAILS(pwritev2(device, &one, 1, CONFIG + 4, RWF_DSYNC), EOPNOTSUPP);

    /* By the position: at 8 is the register of factorials. */
    value = 5;
    check(pwritev2(device, &one, 1, -1, 0) == 4, "pwritev2 at the position");
    uint32_t status;
    while (check(pread(device, &status, 4, 0x20) == 4, "its status"), status & 1)
        ;
    check(pread(device, &second, 4, 8) == 4 && second == 120, "5!");
    check(preadv2(device, &one, 1, -1, 0) == 4, "preadv2 at the position");
    check(writev(device, &one, 0) == 0, "nothing again");

    int container = openat(-1, "/dev/vfio/vfio", O_RDWR);
    check(container >= 0 && ioctl(container, VFIO_GET_API_VERSION) == 0, "a whole name in no folder");
    if (count > 1 && strcmp(arguments[1], "preload") == 0)
        descriptors(container, group);
    puts("read and written");
    return 0;
}
