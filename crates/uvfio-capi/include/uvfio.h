/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * uvfio: PCI drivers in user space, over vfio-user.
 *
 * A function (struct uvfio_function) is opened over the socket of its server, for example that of `uvfio serve`. Its
 * driver reads and writes configuration space and BARs, gives it memory to reach (struct uvfio_buffer), and waits for
 * its interrupts. Nothing is hidden behind a loop or a thread of the library's: every call blocks until it is answered,
 * and every interrupt is also a file descriptor.
 *
 * RESULTS. A function that returns int returns 0 or a positive value, as said with it, or a negative error number
 * (-EINVAL, ...). uvfio_last_error() has the reason as a sentence. What every call may return beside its own:
 *
 *   -EINVAL      an argument that can't be right: a null pointer, a width of 3
 *   -ENODEV      the server has closed the connection; close the function and open it again
 *   -ETIMEDOUT   the server does not answer
 *   -EPROTO      the server does not keep to the protocol
 *   -EIO         the server or the device could not do it
 *   others       as the server gave them
 *
 * THREADS. Every call may be made from every thread, several at once on the same function too; only uvfio_close and
 * uvfio_buffer_free must be the last to use what they are given. Calls to one server take turns; a thread that waits for
 * an interrupt holds up nobody.
 *
 * BYTE ORDER. PCI is little-endian. Values here are the processor's own; bytes of a buffer are as they lie in memory.
 */
#ifndef UVFIO_H
#define UVFIO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A PCI function, opened. */
struct uvfio_function;

/* Memory that the device can reach. */
struct uvfio_buffer;

/* Which function it is. */
struct uvfio_identity {
	uint16_t vendor;
	uint16_t device;
	uint8_t class_code[3]; /* base class, sub-class, programming interface */
	uint8_t revision;
};

/* A range of addresses. */
struct uvfio_range {
	uint64_t first;
	uint64_t last; /* inclusive: a range may end with the address space */
};

/* Kinds of interrupts. */
#define UVFIO_INTX 0u
#define UVFIO_MSI 1u
#define UVFIO_MSIX 2u

/* Events. */
#define UVFIO_EVENT_NONE 0
#define UVFIO_EVENT_ERROR 1   /* the device has reported an error: reset it, or give it up */
#define UVFIO_EVENT_REMOVAL 2 /* the device is wanted back: finish and close it */

/* Power states. */
#define UVFIO_D0 0u
#define UVFIO_D1 1u
#define UVFIO_D2 2u
#define UVFIO_D3HOT 3u

/*
 * Why this thread's last failed call failed, as a sentence in English; "" if none has. Valid until the thread's next
 * failed call. Never null.
 */
const char *uvfio_last_error(void);

/* ---- The function ---- */

/*
 * Opens a function: a PCI address, such as "0000:01:00.0" or "01:00.0", names one of this machine's that is bound to
 * vfio-pci; anything else is the path of a vfio-user socket (write "./01:00.0" for one of that name). The function is in
 * D0 then, and its BARs answer. Writes the handle to `*function`: to be closed with uvfio_close; null where this fails.
 *
 * -ENOENT, -ECONNREFUSED, ...: there is no such socket, or nobody listens.
 * -ENODEV: there is no function at that address, or it is in no IOMMU group.
 * -EBUSY: another driver has the function, or another program.
 * -EACCES: this user may not open its group's file, /dev/vfio/NUMBER.
 */
int uvfio_open(const char *target, struct uvfio_function **function);

/*
 * Closes a function: its interrupts are disabled, and the device is given back once its last buffer is freed too. Null is
 * allowed, and nothing.
 */
void uvfio_close(struct uvfio_function *function);

/* Tells which function it is. */
int uvfio_identify(const struct uvfio_function *function, struct uvfio_identity *identity);

/*
 * Resets the function. When this returns, the device does nothing that was asked of it before, and its registers are as
 * at power-on. Configuration space, interrupts and buffers stay as they are.
 */
int uvfio_reset(const struct uvfio_function *function);

/* Returns the power state, UVFIO_D0 to UVFIO_D3HOT. */
int uvfio_power_state(const struct uvfio_function *function);

/*
 * Goes to a power state. Back in D0 configuration space is as it was; the device's own registers may be as at power-on.
 *
 * -ENOENT: the function has no power management. -EIO: it did not enter the state.
 */
int uvfio_set_power_state(const struct uvfio_function *function, uint32_t state);

/*
 * Waits for an event for so many milliseconds, for ever where that is negative, not at all where it is 0. Returns
 * UVFIO_EVENT_NONE where none came. Events are noted from the first call on.
 */
int uvfio_event_wait(const struct uvfio_function *function, int milliseconds);

/* ---- Configuration space ---- */

/*
 * Reads 1, 2 or 4 bytes (`width`) at `offset`, a multiple of the width.
 *
 * -ERANGE: outside configuration space.
 */
int uvfio_config_read(const struct uvfio_function *function, uint32_t offset, uint32_t width, uint32_t *value);

/* Writes 1, 2 or 4 bytes; as uvfio_config_read. */
int uvfio_config_write(const struct uvfio_function *function, uint32_t offset, uint32_t width, uint32_t value);

/*
 * Returns the byte offset of the first capability with this ID, or of the first extended capability where `extended`
 * is not 0.
 *
 * -ENOENT: the function has it not.
 */
int uvfio_capability(const struct uvfio_function *function, uint32_t id, int extended);

/* ---- BARs ---- */

/*
 * Writes the size of BAR 0 to 5 to `*size`, in bytes.
 *
 * -ENOENT: the function has no such BAR.
 */
int uvfio_bar_size(const struct uvfio_function *function, uint32_t bar, uint64_t *size);

/*
 * Reads 1, 2, 4 or 8 bytes (`width`) of a BAR, by one access, at `offset`, a multiple of the width.
 *
 * -ENOENT: the function has no such BAR. -ERANGE: outside it.
 */
int uvfio_bar_read(const struct uvfio_function *function, uint32_t bar, uint64_t offset, uint32_t width,
		   uint64_t *value);

/*
 * Writes 1, 2, 4 or 8 bytes; as uvfio_bar_read. What this thread wrote to buffers before can be seen by the device when
 * it sees this.
 */
int uvfio_bar_write(const struct uvfio_function *function, uint32_t bar, uint64_t offset, uint32_t width,
		    uint64_t value);

/* ---- DMA ---- */

/* Lets the device reach memory and send messages (MSI, MSI-X), or stops it from both where `on` is 0. */
int uvfio_set_bus_master(const struct uvfio_function *function, int on);

/* The last address that the device can reach; buffers made from now on lie below or at it. At first 2^64 - 1. */
int uvfio_set_dma_limit(const struct uvfio_function *function, uint64_t last);

/*
 * Returns how many ranges of addresses buffers may lie in, and writes the first `room` of them to `ranges`, which may be
 * null where `room` is 0.
 */
int uvfio_usable_iova(const struct uvfio_function *function, struct uvfio_range *ranges, size_t room);

/*
 * Makes `size` bytes of memory, zeros, that the device can reach from uvfio_buffer_iova on, as one range. Writes the handle
 * to `*buffer`: to be freed with uvfio_buffer_free; null where this fails.
 *
 * -ENOSPC: no address is left, or the quota is used up. -ENOMEM: no memory is.
 */
int uvfio_buffer_new(const struct uvfio_function *function, uint64_t size, struct uvfio_buffer **buffer);

/*
 * Frees a buffer; the device can't reach it any more then. It must be done with it: where that is not certain, reset the
 * function first. Null is allowed, and nothing.
 */
void uvfio_buffer_free(struct uvfio_buffer *buffer);

/* Returns where the buffer begins for the device, a multiple of 4096; 0, which never is one, for a null pointer. */
uint64_t uvfio_buffer_iova(const struct uvfio_buffer *buffer);

/*
 * Copies `size` bytes out of a buffer, from byte `offset` on. The device may write at the same time, so there is no pointer
 * into it; naturally aligned words of up to 8 bytes are copied whole, in ascending order.
 *
 * -ERANGE: outside the buffer.
 */
int uvfio_buffer_read(const struct uvfio_buffer *buffer, uint64_t offset, void *data, size_t size);

/* Copies `size` bytes into a buffer; as uvfio_buffer_read. */
int uvfio_buffer_write(const struct uvfio_buffer *buffer, uint64_t offset, const void *data, size_t size);

/* ---- Interrupts ---- */

/* Returns how many interrupts of a kind the function has: UVFIO_INTX, UVFIO_MSI or UVFIO_MSIX. */
int uvfio_irq_count(const struct uvfio_function *function, uint32_t kind);

/*
 * Enables the first `vectors` interrupts of a kind; those enabled before are disabled first. Messages need bus mastering.
 *
 * -EINVAL: the function has fewer.
 */
int uvfio_irq_enable(const struct uvfio_function *function, uint32_t kind, uint32_t vectors);

/* Disables interrupts; where another thread waits for one, once that has ended. */
int uvfio_irq_disable(const struct uvfio_function *function);

/*
 * Waits for an interrupt for so many milliseconds, for ever where that is negative, not at all where it is 0. Returns how
 * many have come since the last call; 0 where none has.
 *
 * -ERANGE: that vector is not enabled.
 */
int uvfio_irq_wait(const struct uvfio_function *function, uint32_t vector, int milliseconds);

/*
 * Returns the vector's eventfd, for a loop of the caller's (poll, epoll): readable once an interrupt has come, until
 * uvfio_irq_wait is called. It is the library's, and closed when interrupts are disabled.
 *
 * -ERANGE: that vector is not enabled.
 */
int uvfio_irq_fd(const struct uvfio_function *function, uint32_t vector);

/* INTx is masked by itself when it comes: lets it come again, once its cause is acknowledged. Nothing for messages. */
int uvfio_irq_rearm(const struct uvfio_function *function);

#ifdef __cplusplus
}
#endif

#endif
