// Included before everything else: keeps the libraries loadable by the C and C++ libraries of 2018 (manylinux_2_28),
// however new those of the machine are that builds them.
#pragma once

#include <cstddef>

#if defined(__GLIBCXX__)
// Streams are instantiated here: a newer libstdc++ has constructors in its library that an older one lacks.
#undef _GLIBCXX_EXTERN_TEMPLATE
#define _GLIBCXX_EXTERN_TEMPLATE 0
#endif

#if defined(__GLIBC__) && defined(__x86_64__)
// A newer glibc has new versions of these that differ in setting errno alone.
__asm__(".symver log,log@GLIBC_2.2.5");
__asm__(".symver exp,exp@GLIBC_2.2.5");
__asm__(".symver pow,pow@GLIBC_2.2.5");

// libstdc++ asks glibc (2.32) whether the process has one thread only. No is always right.
extern "C" {
extern __attribute__((weak, visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
}
#endif
