/* xxh.h - xxHash with the CPU's widest instructions, where the library can choose them at run time.
 * Each row's tokens are hashed when they arrive and when they are read. The hashes are the same
 * either way. */
#ifndef ASSAY_XXH_H
#define ASSAY_XXH_H

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
