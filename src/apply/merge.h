/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  Merging at the source what a batch back has staged there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_MERGE_H
#define REHOME_MERGE_H

#include "apply/inverse.h"

/* One table's part of a batch back. */
typedef struct RehomeReturn
{
	RehomeInverse *inverse;
	const char *since;			/* what the source has of it, the target's snapshot */
	bool		everything;		/* truncated here, or partitions are gone */
	bool		lost;			/* not every row that has changed is on record */
	List	   *added;			/* partitions whose rows count as new */
	char	   *relation;		/* at the source */
	char	   *stage;
	char	   *outside;		/* keys of rows that are ours whatever the filter says; NULL: no filter */
	char	   *passes;			/* condition on r: the filter lets it through; NULL: no filter */
	bool		large;			/* much is staged: see stage_all() */
	int64		empty_pages;	/* of the source's table, if its planner takes that for empty; else -1 */
	bool		seems_empty;	/* and would go through what is staged for each row of it */
	char	   *join;			/* r.key = s.key */
	char	   *upsert[3];		/* delete fragile, update, insert; NULL: not needed */
	char	   *exchange;		/* instead of the first where a part of the row stays; or NULL */
	char	   *erase;
	char	   *replaced;		/* condition: the row is taken out and put back; NULL: none is */
	char	   *set;			/* assignments of the update; NULL: none */
	const char *visible;		/* condition on r: it is the migration's; or "" */
	char	   *hidden;			/* keys taken by rows that are not; NULL: no filter */
	char	   *taken;			/* keys taken by others that are spelled differently; or NULL */
} RehomeReturn;

extern void rehome_merge_compose(RehomeConn *conn, RehomeReturn *ret);
extern void rehome_merge_spare_refused(RehomeConn *conn, RehomeSlice *slice, RehomeReturn *ret);
extern void rehome_merge_spare_ignored(RehomeConn *conn, RehomeReturn *ret);
extern void rehome_merge_note_outside(RehomeConn *conn, RehomeReturn *ret);
extern void rehome_merge(RehomeConn *conn, List *returns);

/* taken.c */
extern char *rehome_spelled_apart(RehomeInverse *inverse, const char *a, const char *b);
extern char *rehome_spelled_apart_key(RehomeInverse *inverse, const char *a, const char *key);
extern char *rehome_taken_back(RehomeReturn *ret);

#endif							/* REHOME_MERGE_H */
