/*-------------------------------------------------------------------------
 *
 * preflight.h
 *	  Everything that stands in the way of a migration.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_PREFLIGHT_H
#define REHOME_PREFLIGHT_H

#include "catalog/migration.h"
#include "remote/connection.h"
#include "util/problems.h"

typedef struct RehomeFinding
{
	const char *check;			/* connection, source, target, mapping, privilege, reverse, sequence, setting */
	const char *severity;		/* error, warning, info */
	bool		at_switch;		/* stands in the way of the switch, not of the start */
	char	   *object;
	char	   *detail;
	char	   *hint;			/* or NULL */
} RehomeFinding;

extern List *rehome_preflight_slice(RehomeSlice *slice, bool try_rows);
extern bool rehome_preflight_fits(RehomeTableMap *map, Oid owner);
extern List *rehome_reverse_losses(RehomeTableMap *map);
extern List *rehome_preflight_switch(RehomeConn *conn, RehomeSlice *slice, List *maps);
extern void rehome_key_gates(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeProblems *problems);
extern void rehome_preflight_require(RehomeSlice *slice);

#endif							/* REHOME_PREFLIGHT_H */
