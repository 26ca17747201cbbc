/* What a mapping of a BAR is, beside loads and stores: how long it is there, and whose signals are whose. */
#include "vfio.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

enum { LIVENESS = 4 };

static size_t bytes;
static sigjmp_buf back;
static volatile int caught;
static volatile uint8_t *bar;

static uint32_t load(volatile uint8_t *from, unsigned at)
{
    return *(volatile uint32_t *)(from + at);
}

static void alive(volatile uint8_t *from)
{
    static uint32_t value = 0x1000;
    *(volatile uint32_t *)(from + LIVENESS) = ++value;
    check(load(from, LIVENESS) == ~value, "the liveness register");
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
    (void)context;
    caught = signal;
    check(signal != SIGBUS || (uint8_t *)info->si_addr == bar + LIVENESS, "where the bus error was");
    siglongjmp(back, 1);
}

static void on_plain_signal(int signal)
{
    caught = signal;
    siglongjmp(back, 1);
}

/* The signal that a load ends in; 0 where it is done. */
static int signal_of(volatile uint8_t *from)
{
    caught = 0;
    if (sigsetjmp(back, 1) == 0)
        load(from, 0);
    return caught;
}

static void *in_thread(void *argument)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (int round = 0; round < 50; round++)
        check(load(bar, 0) == 0x010000ed, "the identification, in a thread");
    return argument;
}

static int status_of(void work(void))
{
    int status;
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        work();
        _exit(0);
    }
    check(waitpid(child, &status, 0) == child, "waitpid");
    return status;
}

static void use(void)
{
    alive(bar);
}

static void crash(void)
{
    signal(SIGSEGV, SIG_DFL);
    alive(bar);
    *(volatile int *)8 = 1;
}

static void kill_itself(void)
{
    signal(SIGSEGV, SIG_DFL);
    kill(getpid(), SIGSEGV);
    sleep(10);
}

static void jump_nowhere(void)
{
    ((void (*)(void))0x1000)();
}

int main(void)
{
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO }, before;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    int device = open_device("/dev/vfio/1", "0000:01:00.0");
    bar = map_bar(device, 0, &bytes);
    alive(bar);

    /* The program's handlers: set before, read back, changed after. */
    check(signal_of((void *)8) == SIGSEGV, "the handler of before");
    check(sigaction(SIGSEGV, NULL, &before) == 0 && before.sa_sigaction == on_signal, "the handler read back");
    check(signal(SIGSEGV, on_plain_signal) == (void (*)(int))(void *)on_signal, "what signal() replaced");
    check(signal_of((void *)8) == SIGSEGV, "the handler of after");
    alive(bar);

    /* Memory decoding off is a bus error, and no more once it is on. */
    set_command(device, 0);
    caught = 0;
    if (sigsetjmp(back, 1) == 0)
        load(bar, LIVENESS);
    check(caught == SIGBUS, "a load without memory decoding");
    set_command(device, 6);
    alive(bar);

    /* Parts of it can be unmapped, and what is left works. */
    volatile uint8_t *second = map_bar(device, 0, &bytes);
    check(munmap((void *)(second + 4096), 4096) == 0, "munmap");
    alive(second);
    check(signal_of(second + 4096) == SIGSEGV, "a page that was unmapped");
    check(signal_of(second + 8192) == 0, "a page after it");
    check(munmap((void *)second, bytes) == 0, "munmap");
    check(signal_of(second) == SIGSEGV, "what was unmapped");
    alive(bar);
    void *over = mmap((void *)(bar + 8192), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    check(over == bar + 8192, "mmap over a part of it");
    *(uint32_t *)over = 5;
    check(*(volatile uint32_t *)over == 5, "memory in its place");

    /* What the kernel refuses. */
    check(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, device, 0) == MAP_FAILED && errno == EINVAL, "a private mapping");
    check(mmap(NULL, 4096, PROT_READ, MAP_SHARED, device, CONFIG) == MAP_FAILED && errno == EINVAL, "configuration");
    check(mmap(NULL, 4096, PROT_READ, MAP_SHARED, device, bytes) == MAP_FAILED && errno == EINVAL, "beyond the BAR");

    /* Threads, also those that block every signal; and children. */
    pthread_t threads[4];
    for (int at = 0; at < 4; at++)
        check(pthread_create(&threads[at], NULL, in_thread, NULL) == 0, "a thread");
    for (int at = 0; at < 4; at++)
        pthread_join(threads[at], NULL);
    check(status_of(use) == 0, "the BAR in a child");

    /* A crash is a crash. */
    int status = status_of(crash);
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "a child that crashed");
    status = status_of(kill_itself);
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "a child that killed itself");
    signal(SIGSEGV, SIG_IGN);
    status = status_of(jump_nowhere);
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "a child that ignored its fault");
    kill(getpid(), SIGSEGV);

    /* The mapping keeps the device after its descriptor. */
    close(device);
    alive(bar);
    puts("mapped");
    return 0;
}
