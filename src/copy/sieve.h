/*-------------------------------------------------------------------------
 *
 * sieve.h
 *	  Rows that are refused, and what becomes of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SIEVE_H
#define REHOME_SIEVE_H

#include "mapping/mapping.h"
#include "remote/connection.h"
#include "utils/hsearch.h"
#include "utils/tuplestore.h"

/* Takes rows in sets; what it has taken since the last flush can be undone. */
typedef struct RehomeTaker
{
	void		(*take) (TupleTableSlot *row, void *arg);
	void		(*flush) (void *arg);	/* NULL: take does it all */
	void		(*reset) (void *arg);	/* after a subtransaction was rolled back */
	void		(*remove) (TupleTableSlot *key, void *arg); /* of a refused row, or NULL */
	void	   *arg;
} RehomeTaker;

typedef struct RehomeSieve
{
	RehomeSlice *slice;
	RehomeMapping *mapping;
	RehomeTaker *taker;
	HTAB	   *known;			/* source keys in quarantine */
	RehomeProjector *key;		/* for the target's key of a refused row */
	MemoryContext scratch;		/* for one row's bookkeeping */
	char	   *redacted;		/* source columns that are not to be on record, or NULL */
	bool		look_only;		/* verification: nothing is written */
	bool		again;			/* rows are read again, though nothing has changed */
	bool		nameless_gone;	/* and which of those without a key nobody knows */
	int64		explained;		/* rows left out that are in quarantine */
	int64		refused;		/* rows left out that are not */
} RehomeSieve;

extern RehomeSieve *rehome_sieve_begin(RehomeSlice *slice, RehomeMapping *mapping,
									   RehomeTaker *taker, bool look_only);
extern void rehome_sieve_end(RehomeSieve *sieve);
extern void rehome_sieve_gone(RehomeSieve *sieve, TupleTableSlot *source);
extern int64 rehome_sieve_stream(RehomeConn *conn, const char *select, RehomeMapping *mapping,
								 List *columns, RehomeProjector *projector, int64 *bytes);
extern bool rehome_refusable(int sqlerrcode);

#endif							/* REHOME_SIEVE_H */
