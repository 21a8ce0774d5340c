/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  Work that may fail without failing the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "util/attempt.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/*
 * rehome_attempt does the work in a subtransaction and returns NULL.  If it
 * raises, the subtransaction is rolled back, and the error returned, in the
 * caller's memory context, for the caller to judge: ReThrowError() raises it
 * after all.
 */
ErrorData *
rehome_attempt(void (*work) (void *arg), void *arg)
{
	return rehome_attempt_in(work, arg, CurrentMemoryContext);
}

/*
 * rehome_attempt_in is the same with the error in another memory context, for
 * work that fails often: FreeErrorData() does not free all of one.
 */
ErrorData *
rehome_attempt_in(void (*work) (void *arg), void *arg, MemoryContext errors)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(errors);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
