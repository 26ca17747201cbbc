/* Writes a number to a register of edu's, says so, and reads it again when its input ends. */
#include "vfio.h"
#include <dirent.h>

/* What edu keeps, and gives back as it was: where DMA goes from. */
#define SOURCE 0x80

int main(int count, char **arguments)
{
    char none;
    int device = open_device("/dev/vfio/1", "0000:01:00.0"), functions = 0;
    uint64_t number = count > 1 ? strtoul(arguments[1], NULL, 0) : 0, seen = 0;
    check(pwrite(device, &number, sizeof number, SOURCE) == sizeof number, "a write");
    puts("written");
    fflush(stdout);
    check(read(0, &none, 1) == 0, "the end of the input");
    check(pread(device, &seen, sizeof seen, SOURCE) == sizeof seen, "a read");
    DIR *folder = opendir("/sys/bus/pci/devices");
    check(folder != NULL, "sysfs");
    for (struct dirent *entry; (entry = readdir(folder));)
        functions += entry->d_name[0] != '.';
    printf("%#010lx, %d function\n", (unsigned long)seen, functions);
    return 0;
}
