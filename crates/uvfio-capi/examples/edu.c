/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A driver for edu, the educational device, in C.
 *
 *     uvfio serve edu --socket /tmp/edu.sock
 *     cc edu.c -I../include -L../../../target/debug -luvfio -o edu && ./edu /tmp/edu.sock
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uvfio.h>

/* Registers, as byte offsets in BAR 0. */
enum {
	LIVENESS = 0x04,
	FACTORIAL = 0x08,
	STATUS = 0x20,
	INTERRUPT_STATUS = 0x24,
	INTERRUPT_ACKNOWLEDGE = 0x64,
	DMA_SOURCE = 0x80,
	DMA_DESTINATION = 0x88,
	DMA_COUNT = 0x90,
	DMA_COMMAND = 0x98
};

#define STATUS_INTERRUPT 0x80u
#define DMA_START 1u
#define DMA_TO_MEMORY 2u
#define DMA_INTERRUPT 4u
#define DEVICE_BUFFER 0x40000u
#define SECONDS_10 10000

static int check(const char *what, int result)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s (%s)\n", what, uvfio_last_error(), strerror(-result));
		exit(1);
	}
	return result;
}

static void expect(const char *what, uint64_t got, uint64_t wanted)
{
	if (got != wanted) {
		fprintf(stderr, "%s: %#llx, not %#llx\n", what, (unsigned long long)got, (unsigned long long)wanted);
		exit(1);
	}
}

static uint64_t get(const struct uvfio_function *edu, uint64_t offset)
{
	uint64_t value = 0;

	check("reading a register", uvfio_bar_read(edu, 0, offset, 4, &value));
	return value;
}

static void set(const struct uvfio_function *edu, uint64_t offset, uint64_t value)
{
	check("writing a register", uvfio_bar_write(edu, 0, offset, offset < 0x80 ? 4 : 8, value));
}

/* Waits for the interrupt, and acknowledges its cause. */
static void wait_for_interrupt(const struct uvfio_function *edu)
{
	expect("interrupts", (uint64_t)check("waiting", uvfio_irq_wait(edu, 0, SECONDS_10)), 1);
	set(edu, INTERRUPT_ACKNOWLEDGE, get(edu, INTERRUPT_STATUS));
}

static void transfer(const struct uvfio_function *edu, uint64_t from, uint64_t to, uint64_t count, uint64_t command)
{
	set(edu, DMA_SOURCE, from);
	set(edu, DMA_DESTINATION, to);
	set(edu, DMA_COUNT, count);
	set(edu, DMA_COMMAND, command | DMA_START | DMA_INTERRUPT);
	wait_for_interrupt(edu);
}

int main(int argc, char **argv)
{
	static const char sent[] = "from C to the device and back";
	char received[sizeof(sent)] = { 0 };
	struct uvfio_identity identity;
	struct uvfio_function *edu;
	struct uvfio_buffer *buffer;
	struct uvfio_range range;
	uint32_t command;
	uint64_t size;

	if (argc != 2) {
		fprintf(stderr, "usage: %s SOCKET|ADDRESS\n", argv[0]);
		return 2;
	}
	check("opening", uvfio_open(argv[1], &edu));
	check("identifying", uvfio_identify(edu, &identity));
	expect("vendor", identity.vendor, 0x1234);
	expect("device", identity.device, 0x11e8);
	expect("class", identity.class_code[1], 0xff);
	expect("revision", identity.revision, 0x10);
	check("the BAR's size", uvfio_bar_size(edu, 0, &size));
	expect("the BAR's size", size, 1 << 20);
	check("MSI capability", uvfio_capability(edu, 0x05, 0));

	set(edu, LIVENESS, 0x12345678);
	expect("liveness", get(edu, LIVENESS), 0xedcba987);

	check("bus mastering", uvfio_set_bus_master(edu, 1));
	check("reading COMMAND", uvfio_config_read(edu, 0x04, 2, &command));
	expect("COMMAND", command & 6, 6);
	check("enabling interrupts", uvfio_irq_enable(edu, UVFIO_MSI, 1));
	set(edu, STATUS, STATUS_INTERRUPT);
	set(edu, FACTORIAL, 10);
	wait_for_interrupt(edu);
	expect("10!", get(edu, FACTORIAL), 3628800);
	printf("10! = %llu\n", (unsigned long long)get(edu, FACTORIAL));

	check("usable addresses", uvfio_usable_iova(edu, &range, 1));
	check("28 address bits", uvfio_set_dma_limit(edu, (1 << 28) - 1));
	check("a buffer", uvfio_buffer_new(edu, 4096, &buffer));
	check("writing it", uvfio_buffer_write(buffer, 100, sent, sizeof(sent)));
	transfer(edu, uvfio_buffer_iova(buffer) + 100, DEVICE_BUFFER, sizeof(sent), 0);
	transfer(edu, DEVICE_BUFFER, uvfio_buffer_iova(buffer) + 2000, sizeof(sent), DMA_TO_MEMORY);
	check("reading it", uvfio_buffer_read(buffer, 2000, received, sizeof(received)));
	expect("the data's difference", (uint64_t)(memcmp(sent, received, sizeof(sent)) != 0), 0);
	printf("%s\n", received);

	check("a reset", uvfio_reset(edu));
	expect("liveness after a reset", get(edu, LIVENESS), 0);
	check("D3hot", uvfio_set_power_state(edu, UVFIO_D3HOT));
	expect("the power state", (uint64_t)uvfio_power_state(edu), UVFIO_D3HOT);
	check("D0", uvfio_set_power_state(edu, UVFIO_D0));
	expect("an event", (uint64_t)check("events", uvfio_event_wait(edu, 0)), UVFIO_EVENT_NONE);

	/* What can't be is an error with a reason, and no more. */
	expect("outside the BAR", (uint64_t)-uvfio_bar_read(edu, 0, size, 4, &size), ERANGE);
	printf("%s\n", uvfio_last_error());
	expect("a width of 3", (uint64_t)-uvfio_bar_write(edu, 0, 0, 3, 0), EINVAL);
	expect("no BAR 1", (uint64_t)-uvfio_bar_size(edu, 1, &size), ENOENT);
	expect("a null pointer", (uint64_t)-uvfio_reset(NULL), EINVAL);

	uvfio_buffer_free(buffer);
	check("disabling interrupts", uvfio_irq_disable(edu));
	expect("no interrupts", (uint64_t)-uvfio_irq_wait(edu, 0, 0), ERANGE);
	uvfio_close(edu);
	uvfio_close(NULL);
	return 0;
}
