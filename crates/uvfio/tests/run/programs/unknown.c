/* An instruction that no driver accesses a register by. */
#include "vfio.h"

int main(void)
{
    size_t bytes;
    volatile uint32_t *bar = map_bar(open_device("/dev/vfio/1", "0000:01:00.0"), 0, &bytes);
    __asm__ volatile("lock xaddl %%eax, (%0)" : : "r"(bar) : "eax", "memory", "cc");
    return 0;
}
