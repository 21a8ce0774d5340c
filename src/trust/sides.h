/*-------------------------------------------------------------------------
 *
 * sides.h
 *	  Running stated queries on both sides of a slice at one snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_SIDES_H
#define REHOME_SIDES_H

#include "catalog/migration.h"
#include "remote/connection.h"
#include "util/stated.h"

/* No result of a check or a query may be longer. */
#define REHOME_RESULT_ROWS 100000

/* Differences that are kept as evidence. */
#define REHOME_EVIDENCE_ROWS 20

typedef struct RehomeSides
{
	RehomeSlice *slice;
	RehomeConn *conn;			/* NULL: the source is in this database */
	List	   *maps;
	char	   *snapshot;
} RehomeSides;

extern RehomeSides *rehome_sides_freeze(RehomeCall *call, RehomeSlice *slice, const char *what);
extern void rehome_sides_release(RehomeSides *sides);
extern char *rehome_sides_run(RehomeSides *sides, bool source, const RehomeStated *stated,
							  const char *sql, RehomeRows **rows);
extern char *rehome_sides_rows(RehomeSides *sides, bool source, const RehomeStated *stated,
							   const char *expression, const char *sql, RehomeRows **rows);

#endif							/* REHOME_SIDES_H */
