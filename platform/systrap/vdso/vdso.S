// The guests' vDSO. Each function goes to the host's function of the same name (table at the start of the stub's read-only
// page, layout.rs: Consts::vdso), or makes the system call where the host has none.
        .text

        .macro entry name, index, nr
        .globl __vdso_\name
        .type __vdso_\name, @function
        .p2align 4
__vdso_\name:
        movabs 0x7ff000010000 + 8 * \index, %rax
        test %rax, %rax
        jz 1f
        jmp *%rax
1:      mov $\nr, %eax
        syscall
        ret
        .size __vdso_\name, . - __vdso_\name
        .weak \name
        .set \name, __vdso_\name
        .endm

        entry clock_gettime, 0, 228
        entry gettimeofday, 1, 96
        entry time, 2, 201
        entry clock_getres, 3, 229
        entry getcpu, 4, 309

        .section .note.Linux, "a", @note
        .p2align 2
        .long 6, 4, 0
        .asciz "Linux"
        .p2align 2
        .long 0x060c00          // 6.12.0
        .section .note.GNU-stack, "", @progbits
