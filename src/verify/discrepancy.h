/*-------------------------------------------------------------------------
 *
 * discrepancy.h
 *	  Differences on record: found, found again, gone, accepted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DISCREPANCY_H
#define REHOME_DISCREPANCY_H

#include "catalog/migration.h"
#include "utils/hsearch.h"

/* One verification of one table. */
typedef struct RehomeDiscrepancies
{
	RehomeSlice *slice;
	Oid			target;
	const char *snapshot;
	char	   *began;
	HTAB	   *open;			/* hashes of kind and key of those that were open */
	char	   *redacted;		/* columns that are not to be on record, or NULL */
	bool		partial;		/* not all rows are looked at: none is closed */
	SPIPlanPtr	find;			/* plans of remember() */
	SPIPlanPtr	again;
	SPIPlanPtr	new;
	int64		recorded;
	int64		unrecorded;		/* more than rehome.max_discrepancies */
} RehomeDiscrepancies;

extern RehomeDiscrepancies *rehome_discrepancies_begin(RehomeSlice *slice, Oid target,
													   const char *snapshot);
extern void rehome_discrepancy_seen(RehomeDiscrepancies *run, const char *kind, const char *key,
									const char *columns, const char *source_row, const char *target_row);
extern void rehome_discrepancies_close(RehomeSlice *slice, Oid target, const char *since,
									   const char *snapshot);
extern void rehome_discrepancies_end(RehomeDiscrepancies *run);
extern void rehome_acceptances_apply(RehomeMigration *migration, Oid target, int strict);
extern char *rehome_actor(void);

#endif							/* REHOME_DISCREPANCY_H */
