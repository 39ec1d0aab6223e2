/* System calls without libc, whose wrappers write errno: a child that borrows the guest's memory borrows that, too, and
 * the guest goes on meanwhile. */
#ifndef CALL_H
#define CALL_H

#include <stdint.h>

#define ADDRESS(pointer) ((long)(uintptr_t)(pointer))

/* What the kernel returns: a result, or an error's number below zero. */
static inline long call(long number, long a, long b, long c, long d)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	long result = number;

	__asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x8 __asm__("x8") = number;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x8) : "memory", "cc");
	return x0;
#else
#error "the guest knows the system calls of x86_64 and aarch64"
#endif
}

#endif
