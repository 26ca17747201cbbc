/* A BAR of which a page is plain memory: NVMe's doorbells, with poll=always. */
#include "vfio.h"

enum { VERSION = 0x08, DOORBELLS = 0x1000 };

int main(void)
{
    int device = open_device("/dev/vfio/1", "0000:01:00.0");
    size_t bytes;
    volatile uint8_t *bar = map_bar(device, 0, &bytes);
    char line[512], *rest;
    int shared = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if ((uintptr_t)bar + DOORBELLS == strtoul(line, &rest, 16))
            shared = strstr(rest, " rw-s ") != NULL;
    check(shared, "the doorbells are not mapped as memory");
    uint32_t called, loaded = *(volatile uint32_t *)(bar + VERSION);
    check(pread(device, &called, 4, VERSION) == 4 && called == loaded && loaded == 0x10400, "the version");
    *(volatile uint32_t *)(bar + DOORBELLS) = 3;
    check(pread(device, &called, 4, DOORBELLS) == 4 && called == *(volatile uint32_t *)(bar + DOORBELLS), "a doorbell");
    puts("mapped in part");
    return 0;
}
