/* Each instruction on a BAR against the same on memory: the processor itself says what is right. The device is NVMe's
   controller, whose MSI-X table, at 0x2000 of BAR 0, holds what is written to it, but for a few bits. */
#include "vfio.h"

enum { TABLE = 0x2000, BYTES = 64 };

struct registers {
    uint64_t a, c, flags;
    uint8_t v[32], w[32];
};

/* The memory is at rdi, other memory at rsi, 0 in r8; a, c, v and w are rax, rcx, ymm0 and ymm1. */
#define INSTRUCTIONS                                                                                                 \
    ONE("mov 4(%%rdi), %%al") ONE("mov 4(%%rdi), %%ah") ONE("mov 4(%%rdi), %%ax") ONE("mov 4(%%rdi), %%eax")           \
    ONE("mov (%%rdi), %%rax") ONE("mov %%al, 5(%%rdi)") ONE("mov %%ah, 5(%%rdi)") ONE("mov %%ax, 6(%%rdi)")            \
    ONE("mov %%eax, 4(%%rdi)") ONE("mov %%rax, (%%rdi)") ONE("movb $0x5a, 7(%%rdi)") ONE("movw $0x1234, 8(%%rdi)")     \
    ONE("movl $0x12345678, 8(%%rdi)") ONE("movq $-8, (%%rdi)") ONE("movzbl 4(%%rdi), %%eax")                          \
    ONE("movzwl 4(%%rdi), %%eax") ONE("movzbw 4(%%rdi), %%ax") ONE("movsbl 4(%%rdi), %%eax")                          \
    ONE("movsbq 7(%%rdi), %%rax") ONE("movswq 6(%%rdi), %%rax") ONE("movslq 4(%%rdi), %%rax")                         \
    ONE("movbe 4(%%rdi), %%eax") ONE("movbe (%%rdi), %%rax") ONE("movbe %%ax, 4(%%rdi)") ONE("movnti %%eax, 4(%%rdi)") \
    ONE("movl 4(%%rdi,%%r8,4), %%eax") ONE("mov %%r8d, 4(%%rdi)") ONE("xchg %%eax, 4(%%rdi)") ONE("xchg %%al, 4(%%rdi)") \
    ONE("add %%eax, 4(%%rdi)") ONE("add 4(%%rdi), %%rax") ONE("addb $0x7f, 4(%%rdi)") ONE("sub %%eax, 4(%%rdi)")       \
    ONE("sub 4(%%rdi), %%al") ONE("and %%eax, 4(%%rdi)") ONE("andl $0x0f0f, 4(%%rdi)") ONE("or %%ax, 4(%%rdi)")        \
    ONE("orq $0x40, (%%rdi)") ONE("xor %%eax, 4(%%rdi)") ONE("cmp %%eax, 4(%%rdi)") ONE("cmp 4(%%rdi), %%eax")         \
    ONE("cmpl $-1, 4(%%rdi)") ONE("cmpb $0x40, 4(%%rdi)") ONE("test %%eax, 4(%%rdi)") ONE("testb $1, 4(%%rdi)")        \
    ONE("incl 4(%%rdi)") ONE("decw 4(%%rdi)") ONE("notl 4(%%rdi)") ONE("negl 4(%%rdi)") ONE("stc; incl 4(%%rdi)")      \
    ONE("movdqu (%%rdi), %%xmm0") ONE("movdqa %%xmm0, (%%rdi)") ONE("movups %%xmm1, (%%rdi)") ONE("movaps (%%rdi), %%xmm0") \
    ONE("movntdq %%xmm0, (%%rdi)") ONE("movd 4(%%rdi), %%xmm0") ONE("movq (%%rdi), %%xmm0") ONE("movq %%xmm1, (%%rdi)") \
    ONE("movss 4(%%rdi), %%xmm0") ONE("movsd (%%rdi), %%xmm0") ONE("movsd %%xmm0, (%%rdi)") ONE("movhps (%%rdi), %%xmm0") \
    ONE("movhps %%xmm0, (%%rdi)") ONE("movlps (%%rdi), %%xmm0") ONE("vmovdqu (%%rdi), %%ymm0")                        \
    ONE("vmovdqu %%ymm0, (%%rdi)") ONE("vmovdqa (%%rdi), %%xmm0") ONE("vmovups %%xmm1, (%%rdi)")                      \
    ONE("vmovq (%%rdi), %%xmm0") ONE("vmovhps (%%rdi), %%xmm1, %%xmm0")                                              \
    ONE("mov $4, %%ecx; xchg %%rsi, %%rdi; rep movsq; xchg %%rsi, %%rdi") ONE("mov $32, %%ecx; rep movsb")            \
    ONE("movsl; lea -4(%%rdi), %%rdi; lea -4(%%rsi), %%rsi") ONE("mov $3, %%ecx; rep stosl") ONE("std; mov $2, %%ecx; lea 8(%%rdi), %%rdi; rep stosq") \
    ONE("xchg %%rsi, %%rdi; lodsq") ONE("xor %%ecx, %%ecx; rep movsb")

/* What the table does not hold: all but one bit of each control word. */
static void mask(uint8_t *memory)
{
    for (int entry = 0; entry < BYTES; entry += 16) {
        memory[entry + 12] &= 1;
        memset(memory + entry + 13, 0, 3);
    }
}

static void fill(uint8_t *bytes, size_t count, unsigned seed)
{
    for (size_t at = 0; at < count; at++)
        bytes[at] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
}

static int wrong;
static volatile uint32_t *table;

static void compare(const char *text, void (*run)(uint8_t *, uint8_t *, struct registers *), unsigned seed)
{
    static uint8_t memory[BYTES] __attribute__((aligned(64))), seen[BYTES], other[2][BYTES] __attribute__((aligned(64)));
    struct registers of_memory, of_bar;
    fill((uint8_t *)&of_memory, sizeof of_memory, seed);
    of_memory.c = seed & 1 ? ~0ull : 0;
    fill(memory, BYTES, seed ^ 0x55);
    mask(memory);
    fill(other[0], BYTES, seed ^ 0xaa);
    mask(other[0]);
    memcpy(other[1], other[0], BYTES);
    of_bar = of_memory;
    for (int at = 0; at < BYTES; at += 4)
        table[at / 4] = *(uint32_t *)(memory + at);
    run(memory, other[0], &of_memory);
    mask(memory);
    run((uint8_t *)table, other[1], &of_bar);
    for (int at = 0; at < BYTES; at += 4)
        *(uint32_t *)(seen + at) = table[at / 4];
    of_memory.flags &= 0x8d5;
    of_bar.flags &= 0x8d5;
    for (int at = 0; at < BYTES; at++)
        if (memory[at] != seen[at])
            wrong++, printf("%s: byte %d is %#x and not %#x\n", text, at, seen[at], memory[at]);
    if (memcmp(other[0], other[1], BYTES))
        wrong++, printf("%s: other memory\n", text);
    if (of_memory.flags != of_bar.flags)
        wrong++, printf("%s: flags %#lx and not %#lx\n", text, of_bar.flags, of_memory.flags);
    if (memcmp(&of_memory, &of_bar, sizeof of_bar))
        wrong++, printf("%s: registers, rax %#lx and not %#lx\n", text, of_bar.a, of_memory.a);
}

int main(void)
{
    size_t bytes;
    int count = 0, device = open_device("/dev/vfio/1", "0000:01:00.0");
    table = (void *)((uint8_t *)map_bar(device, 0, &bytes) + TABLE);
#define ONE(text)                                                                                                    \
    {                                                                                                                \
        void run(uint8_t *memory, uint8_t *other, struct registers *r)                                               \
        {                                                                                                            \
            __asm__ volatile("mov (%%rbx), %%rax; mov 8(%%rbx), %%rcx; vmovdqu 24(%%rbx), %%ymm0;"                   \
                             "vmovdqu 56(%%rbx), %%ymm1; xor %%r8d, %%r8d;" text "; pushfq; pop 16(%%rbx); cld;"      \
                             "mov %%rax, (%%rbx); mov %%rcx, 8(%%rbx); vmovdqu %%ymm0, 24(%%rbx); vzeroupper"        \
                             : "+D"(memory), "+S"(other)                                                             \
                             : "b"(r)                                                                                \
                             : "rax", "rcx", "r8", "xmm0", "xmm1", "memory", "cc");                                  \
        }                                                                                                            \
        for (unsigned seed = 1; seed <= 4; seed++)                                                                   \
            compare(text, run, seed);                                                                                \
        count++;                                                                                                     \
    }
    INSTRUCTIONS
    printf("%d instructions, %d wrong\n", count, wrong);
    return wrong != 0;
}
