/*-------------------------------------------------------------------------
 *
 * direct.c
 *	  Bringing rows into a plain table without a statement for each part.
 *
 * What MERGE does in apply.c, for a table at which nothing else can happen:
 * each row is looked up by the unique index on its key, compared byte for
 * byte, and updated in place; those that are not there are inserted many at a
 * time, as a copy does.  That saves what the executor needs to join, compare
 * and project, and the log a record a row that is new.
 *
 * Anything out of the ordinary is left to MERGE: rules, row security, triggers
 * that fire in replica role and are not our guard, partitions, descendants,
 * constraints that are checked later, a key without an index, columns that get
 * a value of their own, missing privileges (the error is MERGE's), and a row
 * that somebody else is changing.  A test holds the two against each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "apply/apply.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "copy/copy.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "parser/parse_relation.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

typedef struct Direct
{
	RehomeMapping *mapping;
	Relation	rel;
	Relation	index;			/* the unique one on the key */
	int			nkeys;
	RehomeMappedColumn *key[INDEX_MAX_KEYS];	/* in the index's order */
	ScanKeyData scankey[INDEX_MAX_KEYS];
	IndexScanDesc scan;
	EState	   *estate;
	ResultRelInfo *rri;
	TupleTableSlot *found;		/* the target's row */
	TupleTableSlot *changed;	/* what it is to be */
	RehomeLoader *loader;		/* for rows that are new, or NULL */
	int64		touched;
} Direct;

/*
 * covers tells whether an index is unique on just the mapping's key, at any
 * time, by the operators that the mapping compares it with; if so, which
 * column of the key comes where.
 */
static bool
covers(Direct *direct, Relation index)
{
	Form_pg_index ind = index->rd_index;
	RehomeMapping *mapping = direct->mapping;

	if (!ind->indisunique || !ind->indimmediate || !ind->indisvalid || index->rd_rel->relam != BTREE_AM_OID ||
		ind->indnkeyatts != mapping->nkey || RelationGetIndexPredicate(index) != NIL)
		return false;
	for (int i = 0; i < ind->indnkeyatts; i++)
	{
		RehomeMappedColumn *column = NULL;
		Oid			operator;
		char	   *name;

		for (int k = 0; k < mapping->nkey; k++)
			if (mapping->key[k]->attnum == ind->indkey.values[i])
				column = mapping->key[k];
		if (column == NULL || index->rd_indcollation[i] != column->collation)
			return false;
		operator = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
									   index->rd_opcintype[i], BTEqualStrategyNumber);
		name = rehome_operator_name(operator);
		if (strcmp(name, column->equal) != 0)
			return false;
		direct->key[i] = column;
		ScanKeyInit(&direct->scankey[i], i + 1, BTEqualStrategyNumber, get_opcode(operator), (Datum) 0);
		direct->scankey[i].sk_collation = index->rd_indcollation[i];
	}
	direct->nkeys = ind->indnkeyatts;
	return true;
}

/*
 * find_index opens the index to look rows up by, or leaves it NULL; false
 * when some index of the table is checked later.
 */
static bool
find_index(Direct *direct)
{
	bool		immediate = true;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(direct->rel))
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);

		immediate = immediate && index->rd_index->indimmediate;
		if (direct->index == NULL && covers(direct, index))
			direct->index = index;
		else
			index_close(index, RowExclusiveLock);
	}
	return immediate;
}

/*
 * is_ordinary tells whether nothing happens at a table but what is done here.
 */
static bool
is_ordinary(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	AclMode		needed = ACL_SELECT | ACL_INSERT | ACL_UPDATE;

	return rehome_load_is_plain(relid) && !rel->rd_rel->relhassubclass &&
		pg_class_aclmask(relid, GetUserId(), needed, ACLMASK_ALL) == needed &&
		check_enable_rls(relid, InvalidOid, true) == RLS_NONE;
}

/*
 * is_whole tells whether the rest of a new row is null: columns that are not
 * mapped, and get no value of their own.
 */
static bool
is_whole(Direct *direct)
{
	TupleDesc	desc = RelationGetDescr(direct->rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		mapped = att->attisdropped;

		for (int c = 0; c < direct->mapping->ncolumns && !mapped; c++)
			mapped = direct->mapping->columns[c].attnum == att->attnum;
		if (!mapped && (att->atthasdef || att->attidentity != '\0' || OidIsValid(getBaseType(att->atttypid)) != 0) &&
			(att->atthasdef || att->attidentity != '\0' || get_typtype(att->atttypid) == TYPTYPE_DOMAIN))
			return false;
	}
	return true;
}
