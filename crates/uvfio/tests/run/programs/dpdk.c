/* Which PCI functions DPDK finds, and which of its drivers drives each; then each DMA engine copies 4 MiB.

   dpdk [EAL OPTIONS] */
#include <inttypes.h>
#include <rte_dev.h>
#include <rte_dmadev.h>
#include <rte_eal.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPIES 64
#define BYTES (64 << 10)

static void check(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "%s: not as it should be\n", what);
        exit(1);
    }
}

static void list(void)
{
    struct rte_dev_iterator iterator;
    struct rte_device *device;
    RTE_DEV_FOREACH(device, "bus=pci", &iterator)
        printf("%s: %s\n", rte_dev_name(device),
               rte_dev_is_probed(device) ? rte_driver_name(rte_dev_driver(device)) : "no driver");
}

static void copies(int16_t device)
{
    struct rte_dma_info info;
    struct rte_dma_conf conf = { .nb_vchans = 1 };
    struct rte_dma_vchan_conf channel = { .direction = RTE_DMA_DIR_MEM_TO_MEM, .nb_desc = 2 * COPIES };
    check(rte_dma_info_get(device, &info) == 0, "rte_dma_info_get");
    check(rte_dma_configure(device, &conf) == 0, "rte_dma_configure");
    check(rte_dma_vchan_setup(device, 0, &channel) == 0, "rte_dma_vchan_setup");
    check(rte_dma_start(device) == 0, "rte_dma_start");
    uint8_t *from = rte_malloc(NULL, COPIES * BYTES, 4096), *to = rte_zmalloc(NULL, COPIES * BYTES, 4096);
    check(from != NULL && to != NULL, "memory");
    for (size_t at = 0; at < COPIES * BYTES; at++)
        from[at] = at * 31 >> 4 ^ (unsigned)device;
    for (size_t at = 0; at < COPIES * BYTES; at += BYTES)
        check(rte_dma_copy(device, 0, rte_malloc_virt2iova(from) + at, rte_malloc_virt2iova(to) + at, BYTES, 0) >= 0, "rte_dma_copy");
    check(rte_dma_submit(device, 0) == 0, "rte_dma_submit");
    bool failed = false;
    for (unsigned ended = 0; ended < COPIES; check(!failed, "a copy"))
        ended += rte_dma_completed(device, 0, COPIES, NULL, &failed);
    check(memcmp(from, to, COPIES * BYTES) == 0, "what was copied");
    const struct rte_memseg *segment = rte_mem_virt2memseg(from, NULL);
    check(segment != NULL, "the memory's pages");
    printf("%s: copied, pages of %" PRIu64 " KiB\n", info.dev_name, segment->hugepage_sz >> 10);
    rte_free(from);
    rte_free(to);
    check(rte_dma_stop(device) == 0 && rte_dma_close(device) == 0, "rte_dma_close");
}

int main(int count, char **arguments)
{
    check(rte_eal_init(count, arguments) >= 0, "rte_eal_init");
    list();
    for (int16_t device = rte_dma_next_dev(0); device >= 0; device = rte_dma_next_dev(device + 1))
        copies(device);
    check(rte_eal_cleanup() == 0, "rte_eal_cleanup");
    return 0;
}
