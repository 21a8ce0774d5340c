/*-------------------------------------------------------------------------
 *
 * verify.h
 *	  Comparing source and target at one snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_VERIFY_H
#define REHOME_VERIFY_H

#include "catalog/migration.h"
#include "mapping/mapping.h"
#include "nodes/execnodes.h"
#include "remote/connection.h"

typedef enum RehomeVerifyMode
{
	REHOME_VERIFY_COUNT,
	REHOME_VERIFY_HASH,
	REHOME_VERIFY_ROWS
} RehomeVerifyMode;

/* Which rows to compare: those that satisfy all that is given. */
typedef struct RehomeScope
{
	double		sample;			/* this share of the keys; 0: all */
	int			seed;			/* of the choice */
	const char *filter;			/* over the target's key columns, or NULL */
	RehomeCall *call;			/* whose search_path the filter is read with */
	bool		touched;		/* only rows that were touched since the last verification */
} RehomeScope;

extern bool rehome_scope_is_whole(const RehomeScope *scope);
extern void rehome_scope_filter(const RehomeScope *scope, Oid owner, RehomeMapping *mapping,
								char **source, char **target);

/* What comparing one table gave. */
typedef struct RehomeVerdict
{
	int64		source_rows;
	int64		target_rows;
	bool		counted_only;	/* the following were not looked for */
	int64		missing;
	int64		extra;
	int64		differing;
	int64		kept;			/* target rows that are gone at the source, and are to stay */
	int64		quarantined;	/* source rows that are in quarantine */
	bool		recorded;		/* every difference is on record, by its key */
	int64		keys;			/* that were compared, of touched ones */
} RehomeVerdict;

extern bool rehome_verdict_equal(const RehomeVerdict *verdict);
extern void rehome_verdict_put(ReturnSetInfo *rsinfo, RehomeSlice *slice, Oid target,
							   const RehomeVerdict *verdict, const char *snapshot,
							   TimestampTz began, const char *note);
extern RehomeConn *rehome_verify_freeze(RehomeSlice *slice, List *maps, List *kept, char **snapshot);
extern void rehome_compare(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping,
						   RehomeVerifyMode mode, const RehomeScope *scope,
						   const char *snapshot, RehomeVerdict *verdict);

#endif							/* REHOME_VERIFY_H */
