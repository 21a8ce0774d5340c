/*-------------------------------------------------------------------------
 *
 * inverse.h
 *	  How source columns are restored from a target row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_INVERSE_H
#define REHOME_INVERSE_H

#include "mapping/mapping.h"
#include "remote/query.h"

typedef struct RehomeInverseColumn
{
	char	   *local;			/* name in the foreign table */
	char	   *remote;			/* name at the source */
	int			key;			/* position in the source key, from 1; 0: not in it */
	bool		carried;
	char	   *expression;		/* over "target"; NULL when not carried */
	bool		key_only;		/* the expression reads nothing but the target's key */
	bool		by_letter;		/* a copy of what the target compares letter by letter */
	bool		identity_always;
} RehomeInverseColumn;

typedef struct RehomeInverse
{
	RehomeMapping *mapping;
	RehomeRemoteTable *table;
	int			ncolumns;
	RehomeInverseColumn *columns;
	List	   *fragile;		/* source columns of other unique indexes */
	List	   *stays;			/* columns it stores that are not carried */
	List	   *looser;			/* of the key, may take for one what the target tells apart; all as it calls them */
} RehomeInverse;

extern RehomeInverse *rehome_inverse_compile(RehomeTableMap *map, Oid owner);
extern void rehome_inverse_describe(RehomeConn *conn, RehomeInverse *inverse);
extern bool rehome_inverse_may_bypass(RehomeConn *conn);

extern char *rehome_inverse_columns(RehomeInverse *inverse, const char *prefix, bool key);
extern char *rehome_inverse_expressions(RehomeInverse *inverse, bool key);
extern char *rehome_inverse_local_names(RehomeInverse *inverse);
extern char *rehome_inverse_key_condition(RehomeInverse *inverse, const char *a, const char *b);
extern char *rehome_inverse_keys(RehomeInverse *inverse, const char *prefix);
extern char *rehome_inverse_key_is(RehomeInverse *inverse, const char *a, const char *key);

#endif							/* REHOME_INVERSE_H */
