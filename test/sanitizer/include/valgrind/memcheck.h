/*-------------------------------------------------------------------------
 *
 * memcheck.h
 *	  What PostgreSQL tells valgrind about its memory, told to
 *	  AddressSanitizer.
 *
 * A server compiled with USE_VALGRIND says of each byte of its memory
 * contexts and shared buffers whether it may be touched.  With this file in
 * the place of valgrind's own, that server marks it in the shadow memory, and
 * a module that is compiled with AddressSanitizer is stopped when it touches
 * one byte more than was allocated, or a chunk that was freed, or a buffer it
 * has no pin on.  The server itself needs no instrumentation.  Whether memory
 * has been initialized is not tracked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SANITIZER_MEMCHECK_H
#define REHOME_SANITIZER_MEMCHECK_H

#include <sanitizer/asan_interface.h>

#define VALGRIND_MAKE_MEM_NOACCESS(addr, size) \
	__asan_poison_memory_region(addr, size)
#define VALGRIND_MAKE_MEM_UNDEFINED(addr, size) \
	__asan_unpoison_memory_region(addr, size)
#define VALGRIND_MAKE_MEM_DEFINED(addr, size) \
	__asan_unpoison_memory_region(addr, size)

/*
 * A freed chunk is wiped by the context that it goes back to, which takes the
 * access away as well.
 */
#define VALGRIND_CREATE_MEMPOOL(context, redzones, zeroed)	((void) 0)
#define VALGRIND_DESTROY_MEMPOOL(context)					((void) 0)
#define VALGRIND_MEMPOOL_ALLOC(context, addr, size) \
	__asan_unpoison_memory_region(addr, size)
#define VALGRIND_MEMPOOL_FREE(context, addr)				((void) 0)
#define VALGRIND_MEMPOOL_CHANGE(context, optr, nptr, size) \
	__asan_unpoison_memory_region(nptr, size)
#define VALGRIND_MEMPOOL_TRIM(context, addr, size)			((void) 0)

#define VALGRIND_CHECK_MEM_IS_DEFINED(addr, size)			((void) 0)
#define VALGRIND_GET_VBITS(addr, bits, size)				(0)
#define VALGRIND_COUNT_ERRORS								(0)
#define VALGRIND_PRINTF(...)								((void) 0)
#define RUNNING_ON_VALGRIND									(0)

#endif							/* REHOME_SANITIZER_MEMCHECK_H */
