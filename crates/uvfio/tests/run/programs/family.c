/* Threads, children, and programs that follow this one by exec or get a descriptor by a socket: one device for all. */
#include "vfio.h"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ROUNDS 50

static void works(int device)
{
    uint32_t id = 0;
    struct vfio_device_info info = { .argsz = sizeof info };
    check(pread(device, &id, sizeof id, CONFIG) == sizeof id && id == 0x11e81234, "the IDs");
    check(ioctl(device, VFIO_DEVICE_GET_INFO, &info) == 0 && info.num_regions >= 9, "GET_INFO");
}

static void *in_thread(void *argument)
{
    for (int round = 0; round < ROUNDS; round++)
        works(*(int *)argument);
    return NULL;
}

static void join(pid_t child, const char *what)
{
    int status = -1;
    check(child > 0 && waitpid(child, &status, 0) == child && status == 0, what);
}

static void send_to(int socket, int device)
{
    char byte = 0, control[CMSG_SPACE(sizeof device)] = { 0 };
    struct iovec part = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof device);
    memcpy(CMSG_DATA(header), &device, sizeof device);
    check(sendmsg(socket, &message, 0) == 1, "sendmsg");
}

static int receive_from(int socket)
{
    int device;
    char byte, control[CMSG_SPACE(sizeof device)];
    struct iovec part = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    check(recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message), "recvmsg");
    memcpy(&device, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof device);
    return device;
}

int main(int count, char **arguments)
{
    if (count == 2) {
        /* By exec, with the number of a descriptor. */
        works(atoi(arguments[1]));
        return 0;
    }
    int pair[2], device, other;
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "a socket");
    /* It has nothing of VFIO's but what it is sent. */
    pid_t receiver = fork();
    if (receiver == 0) {
        device = receive_from(pair[1]);
        /* Where the kernel tells of calls, devices are read by high numbers. */
        other = fcntl(device, F_DUPFD, 800);
        check(other >= 800, "F_DUPFD");
        works(other);
        return 0;
    }
    device = open_device("/dev/vfio/1", "0000:01:00.0");

    pthread_t threads[8];
    for (int n = 0; n < 8; n++)
        check(pthread_create(&threads[n], NULL, in_thread, &device) == 0, "a thread");
    /* Meanwhile, children. */
    for (int n = 0; n < 8; n++) {
        pid_t child = fork();
        if (child == 0) {
            works(device);
            _exit(0);
        }
        join(child, "a child");
    }
    for (int n = 0; n < 8; n++)
        check(pthread_join(threads[n], NULL) == 0, "a thread's end");

    check(fcntl(device, F_SETFD, 0) == 0, "F_SETFD");
    pid_t next = fork();
    if (next == 0) {
        char number[12];
        snprintf(number, sizeof number, "%d", device);
        execl("/proc/self/exe", arguments[0], number, (char *)NULL);
        _exit(1);
    }
    join(next, "a program by exec");
    send_to(pair[0], device);
    join(receiver, "who was sent it");
    puts("one device for all");
    return 0;
}
