/* xxh.h - xxHash, by the widest instructions of the CPU that it runs on where the library has them: each row's
 * tokens are hashed when it comes and when it is read. The hashes are the same either way. */
#ifndef ASSAY_XXH_H
#define ASSAY_XXH_H

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
