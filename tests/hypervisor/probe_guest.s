# A guest of one boot sector. It uses a kernel's first steps: paging, long mode, SSE, and a timer interrupt that ends HLT.
.code16
.globl _start
_start:
    cli
    xor %ax,%ax
    mov %ax,%ds
    mov %ax,%es
    mov %ax,%ss
    mov $0x7c00,%sp
    # page tables at 0x1000, 0x2000, 0x3000: the first GiB in pages of 2 MiB
    mov $0x1000,%di
    xor %eax,%eax
    mov $0xc00,%cx
    cld
    rep stosl
    movl $0x2003,0x1000
    movl $0x3003,0x2000
    mov $0x3000,%di
    mov $0x83,%eax
    mov $512,%cx
1:  mov %eax,(%di)
    add $0x200000,%eax
    add $8,%di
    loop 1b
    # the vector 0x20 of the IDT at 0x4000
    mov $0x4000,%di
    xor %eax,%eax
    mov $0x400,%cx
    rep stosl
    movl $(0x00080000+tick-_start+0x7c00),0x4200
    movl $0x00008e00,0x4204
    mov %cr4,%eax
    or $0x620,%eax
    mov %eax,%cr4
    mov $0x1000,%eax
    mov %eax,%cr3
    mov $0xc0000080,%ecx
    rdmsr
    or $0x100,%eax
    wrmsr
    lgdt gdtr-_start+0x7c00
    mov %cr0,%eax
    and $0xfffffffb,%eax
    or $0x80000003,%eax
    mov %eax,%cr0
    ljmp $8,$(long-_start+0x7c00)
.code64
long:
    mov $16,%ax
    mov %ax,%ds
    mov %ax,%ss
    mov $0x7c00,%rsp
    lidt idtr-_start+0x7c00
    # interrupt controllers: vectors from 0x20, only the timer
    mov $0x11,%al
    out %al,$0x20
    out %al,$0xa0
    mov $0x20,%al
    out %al,$0x21
    mov $0x28,%al
    out %al,$0xa1
    mov $4,%al
    out %al,$0x21
    mov $2,%al
    out %al,$0xa1
    mov $1,%al
    out %al,$0x21
    out %al,$0xa1
    mov $0xfe,%al
    out %al,$0x21
    mov $0xff,%al
    out %al,$0xa1
    # timer: 1 kHz
    mov $0x34,%al
    out %al,$0x43
    mov $0xa9,%al
    out %al,$0x40
    mov $0x04,%al
    out %al,$0x40
    pxor %xmm0,%xmm0
    movups %xmm0,0x5000
    xor %ebx,%ebx
    sti
2:  hlt
    cmp $20,%ebx
    jb 2b
    cli
    mov $0x10,%al
    out %al,$0xf4
3:  hlt
    jmp 3b
tick:
    inc %ebx
    push %rax
    mov $0x20,%al
    out %al,$0x20
    pop %rax
    iretq
.balign 8
gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr: .word 23
      .long gdt-_start+0x7c00
idtr: .word 0xfff
      .quad 0x4000
.org 510
.word 0xaa55
