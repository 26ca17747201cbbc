/* Threads that open and close a device, while others make calls that name descriptors: none waits for another for ever, and
 * each has a descriptor of its own. */
#include "vfio.h"
#include <pthread.h>
#include <stdatomic.h>

enum { ROUNDS = 300, THREADS = 4, NAMING = 3 };

static int device, group = 4;
static atomic_int left = THREADS;

static void *opens(void *argument)
{
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t id = 0;
        int own = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "0000:01:00.0");
        check(own >= 0, "GET_DEVICE_FD");
        check(pread(own, &id, 4, CONFIG) == 4 && id == 0x11e81234, "configuration space");
        check(close(own) == 0, "close: the descriptor was another's, too");
    }
    left--;
    return argument;
}

static void *names(void *argument)
{
    struct { struct vfio_irq_set set; int event; } irqs = {
        { .argsz = sizeof irqs, .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
          .index = VFIO_PCI_MSI_IRQ_INDEX, .count = 1 }, group,
    };
    while (left > 0)
        check(ioctl(device, VFIO_DEVICE_SET_IRQS, &irqs) == -1 && errno == EINVAL, "a group for an eventfd");
    return argument;
}

int main(void)
{
    device = open_device("/dev/vfio/1", "0000:01:00.0");
    pthread_t threads[THREADS + NAMING];
    for (int at = 0; at < THREADS + NAMING; at++)
        check(pthread_create(&threads[at], NULL, at < THREADS ? opens : names, NULL) == 0, "a thread");
    for (int at = 0; at < THREADS + NAMING; at++)
        pthread_join(threads[at], NULL);
    puts("opened and closed");
    return 0;
}
