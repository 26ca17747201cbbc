/* What the parts of the program share: each call is a line, "label = result", which is the same wherever it is made. */
#ifndef PARITY_H
#define PARITY_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Requests of headers newer than those that may be here. */
#define BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#define ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#define DETACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 20)
#define UNKNOWN _IO(VFIO_TYPE, VFIO_BASE + 99)

/* An argument's 64-bit field, as the two words that it is. */
#define Q(value) (uint32_t)(uint64_t)(value), (uint32_t)((uint64_t)(value) >> 32)
/* A pointer that points to nothing. */
extern void *volatile nowhere;
#define NOWHERE nowhere
#define PAGE 4096UL

extern const char *group_path, *address;
extern uint32_t group_number;

/* Prints a call and its result; of a failed one, the error's name. Gives the result. */
long said(const char *label, long result);
/* The same for a call that makes a descriptor, whose number is not printed. */
int opened(const char *label, int descriptor);
/* The name of an error number. */
const char *name_of(int error);
/* A line that is not a call's. */
void told(const char *label, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Makes a request whose argument is these words; what lies behind them is filled with a5. Prints which words of the
 * argument the call changed. */
#define IO(label, file, request, ...) \
    io(label, file, request, (uint32_t[]){ __VA_ARGS__ }, sizeof((uint32_t[]){ __VA_ARGS__ }) / 4)
long io(const char *label, int file, unsigned long request, const uint32_t *words, size_t count);
/* The argument after the last such call. */
#define MOST_WORDS 1024
extern uint32_t after[MOST_WORDS];
/* The same, telling only the result: what changes is told by another line. */
extern int quiet;

/* Walks the capabilities from byte `at` of `after` on, a line each. */
void told_chain(const char *label, uint32_t at);

/* Opens group and container and joins them: the group's file. Nothing is printed but what fails. */
int joined(int *container, unsigned long type);

void containers(void);
void mappings(void);
void groups(void);
void devices(void);
void interrupts(void);
void registers(void);
void without_kernel(const char *device_path);

#endif
