/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Which database this is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(rehome_database_identity);

/*
 * rehome_database_identity returns system identifier, timeline and database
 * OID.  A dump restored elsewhere, or beside, a backup recovered to some point
 * and a standby that was promoted find another value in their slices, and so
 * know that they must not touch the source unasked.
 */
Datum
rehome_database_identity(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(UINT64_FORMAT "/%u/%u", GetSystemIdentifier(),
											  RecoveryInProgress() ? 0 : GetWALInsertionTimeLine(),
											  MyDatabaseId)));
}
