/*-------------------------------------------------------------------------
 *
 * result.c
 *	  Tables for the executor's functions to write to, without a statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "executor/executor.h"
#include "parser/parse_relation.h"
#include "util/result.h"

/*
 * rehome_result_relation opens a table, and its indexes, for the executor's
 * functions to write to; updated: the columns that an UPDATE sets.
 */
ResultRelInfo *
rehome_result_relation(EState *estate, Relation rel, Bitmapset *updated)
{
	ParseState *pstate = make_parsestate(NULL);
	ResultRelInfo *rri = makeNode(ResultRelInfo);

	(void) addRangeTableEntryForRelation(pstate, rel, RowExclusiveLock, NULL, false, false);
	rehome_range_table_updated(pstate, rel, updated);
	RehomeRangeTableInit(estate, pstate);
	InitResultRelInfo(rri, rel, 1, NULL, 0);
	ExecOpenIndices(rri, false);
	return rri;
}
