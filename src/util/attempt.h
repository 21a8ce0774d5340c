/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  Work that may fail without failing the transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_ATTEMPT_H
#define REHOME_ATTEMPT_H

#include "utils/elog.h"

extern ErrorData *rehome_attempt(void (*work) (void *arg), void *arg);
extern ErrorData *rehome_attempt_in(void (*work) (void *arg), void *arg, MemoryContext errors);

#endif							/* REHOME_ATTEMPT_H */
