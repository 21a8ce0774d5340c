/*-------------------------------------------------------------------------
 *
 * touched.h
 *	  Keys that were touched since a verification had looked at all rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_TOUCHED_H
#define REHOME_TOUCHED_H

#include "mapping/mapping.h"
#include "utils/portal.h"
#include "utils/tuplestore.h"

/* Name under which SQL sees the keys on hand, with the target's column names. */
#define REHOME_TOUCHED_KEYS "rehome_keys"

/* The touched keys of a table, a part at a time. */
typedef struct RehomeTouched
{
	RehomeMapping *mapping;
	Oid			owner;			/* of the migration */
	Portal		cursor;
	TupleDesc	desc;
	Tuplestorestate *store;		/* the part on hand; NULL: none */
	int64		n;				/* keys of the part on hand */
	int64		total;			/* of all parts read so far */
	char	   *source_keys;	/* the part on hand, as jsonb of the source's change table */
} RehomeTouched;

/* Writing down, in a batch's own transaction. */
extern void rehome_touched_mark(RehomeSlice *slice, List *maps);
extern void rehome_touched_check(RehomeMapping *mapping);
extern void rehome_touched_keys(RehomeMapping *mapping, TupleDesc desc, Tuplestorestate *store,
								int64 n);
extern void rehome_touched_all(RehomeTableMap *map, const char *why);
extern void rehome_touched_bound(RehomeTableMap *map, int64 n);
extern void rehome_touched_captured(RehomeTableMap *map);

/* Using it. */
extern char *rehome_touched_collect(RehomeConn *conn, RehomeSlice *slice, RehomeMapping *mapping);
extern void rehome_touched_restart(RehomeSlice *slice, RehomeMapping *mapping, bool full,
								   int64 rows);
extern bool rehome_touched_divisible(RehomeMapping *mapping);
extern char *rehome_touched_upto(RehomeSlice *slice, RehomeMapping *mapping, int64 *n);
extern char *rehome_touched_part(RehomeSlice *slice, RehomeMapping *mapping, bool first,
								 const char *upto, int64 n, bool recorded, const char *began,
								 int64 *rows);
extern void rehome_touched_forget(RehomeTableMap *map);
extern void rehome_touched_drop(List *maps);

extern Bitmapset *rehome_touched_spelled(RehomeMapping *mapping);
extern RehomeTouched *rehome_touched_open(RehomeMapping *mapping, Oid owner);
extern bool rehome_touched_next(RehomeTouched *touched);
extern void rehome_touched_close(RehomeTouched *touched);

#endif							/* REHOME_TOUCHED_H */
