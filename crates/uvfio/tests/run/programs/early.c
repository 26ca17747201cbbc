/* A library, where LIBRARY is defined, whose constructor runs before others' have, and the program that has it. */
#include "vfio.h"
#include <signal.h>
#include <sys/socket.h>

int early_result(void);

#ifdef LIBRARY
static int result = -1;

__attribute__((constructor)) static void before_others(void)
{
    struct sigaction action = { .sa_handler = SIG_IGN }, seen;
    char byte;
    int pair[2], container;
    check(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
    check(sigaction(SIGUSR1, NULL, &seen) == 0 && seen.sa_handler == SIG_IGN, "what it has set");
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "a pair");
    check(write(pair[0], "x", 1) == 1 && read(pair[1], &byte, 1) == 1, "read and write");
    container = open("/dev/vfio/vfio", O_RDWR);
    result = ioctl(container, VFIO_GET_API_VERSION);
    close(container);
}

int early_result(void)
{
    return result;
}
#else
int main(void)
{
    check(early_result() == 0, "the constructor's container");
    puts("early");
    return 0;
}
#endif
