/*-------------------------------------------------------------------------
 *
 * lint.h
 *	  What the parts of rehome.lint_mapping() share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_LINT_H
#define REHOME_LINT_H

#include "document/document.h"
#include "mapping/mapping.h"
#include "utils/tuplestore.h"

/* Columns of the sample: the source's key, and whether no rule refused a value. */
#define REHOME_LINT_KEY "rehome_key"
#define REHOME_LINT_WHOLE "rehome_whole"

/* A lint in progress; from map on, of the table map at hand. */
typedef struct RehomeLint
{
	RehomeSink	sink;
	RehomeMigration *migration;
	List	   *maps;			/* all table maps of the migration */
	int64		sample;			/* rows to read of a table; -1: all */

	RehomeTableMap *map;
	bool		redacted;		/* no values of its rows are to be shown */
	RehomeMapping *mapping;
	TupleDesc	desc;			/* of rows: mapped columns, then those two */
	Tuplestorestate *rows;		/* with null for a value that a rule refused */
	int64		nrows;
} RehomeLint;

extern void rehome_lint_put(RehomeLint *lint, const char *severity, const char *column,
							const char *name, const char *key, const char *detail, const char *hint);
extern void rehome_lint_row(RehomeLint *lint, int64 *n, const char *column, const char *name,
							const char *key, const char *detail, const char *hint);
extern void rehome_lint_rest(RehomeLint *lint, int64 n, const char *column, const char *name);
extern char *rehome_lint_source_key(RehomeTableMap *map, TupleTableSlot *slot);

/* lint_sample.c */
extern void rehome_lint_sample(RehomeLint *lint);

#endif							/* REHOME_LINT_H */
