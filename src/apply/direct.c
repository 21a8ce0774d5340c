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
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "apply/apply.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "copy/copy.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "util/result.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

typedef struct Direct
{
	RehomeMapping *mapping;
	MemoryContext context;		/* for the time of one call */
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
	bool		published;		/* an UPDATE can be, or need not */
	bool		whole;			/* a new row has nothing but mapped columns */
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

	if (!ind->indisunique || !ind->indimmediate || !ind->indisvalid || ind->indcheckxmin ||
		index->rd_rel->relam != BTREE_AM_OID || ind->indnkeyatts != mapping->nkey || RelationGetIndexPredicate(index) != NIL)
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
 * rehome_sees_stored tells whether what a role reaches of a table by SQL is all
 * of its stored rows: no descendants, no policies, no privilege missing.
 */
bool
rehome_sees_stored(Relation rel, Oid role, AclMode privileges)
{
	Oid			relid = RelationGetRelid(rel);

	return rel->rd_rel->relkind == RELKIND_RELATION && !rel->rd_rel->relhassubclass &&
		pg_class_aclmask(relid, role, privileges, ACLMASK_ALL) == privileges &&
		check_enable_rls(relid, role, true) == RLS_NONE;
}

/*
 * is_ordinary tells whether nothing happens at a table but what is done here.
 */
static bool
is_ordinary(Relation rel)
{
	return rehome_load_is_plain(RelationGetRelid(rel), TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE) &&
		rehome_sees_stored(rel, GetUserId(), ACL_SELECT | ACL_INSERT | ACL_UPDATE);
}

/*
 * is_whole tells whether the mapped columns are all that a new row has: the
 * others are null, or computed from these.
 */
static bool
is_whole(Direct *direct)
{
	TupleDesc	desc = RelationGetDescr(direct->rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		known = att->attisdropped || att->attgenerated != '\0';

		for (int c = 0; c < direct->mapping->ncolumns && !known; c++)
			known = direct->mapping->columns[c].attnum == att->attnum;
		if (!known && (att->atthasdef || att->attidentity != '\0' || get_typtype(att->atttypid) == TYPTYPE_DOMAIN))
			return false;
	}
	return true;
}

/*
 * begin prepares for rows of a mapping; false, with the table open, when it is
 * none for us.
 */
static bool
begin(Direct *direct)
{
	Bitmapset  *updated = NULL;

	if (!is_ordinary(direct->rel) || !find_index(direct) || direct->index == NULL)
		return false;
	direct->whole = is_whole(direct);
	direct->estate = CreateExecutorState();
	/* a key is updated if it can be spelled differently */
	for (int c = 0; c < direct->mapping->ncolumns; c++)
		if (direct->mapping->columns[c].key == 0 ||
			bms_is_member(direct->mapping->columns[c].key - 1, rehome_mapping_target_spelled(direct->mapping)))
			updated = bms_add_member(updated, direct->mapping->columns[c].attnum - FirstLowInvalidHeapAttributeNumber);
	direct->rri = rehome_result_relation(direct->estate, direct->rel, updated);
	direct->found = table_slot_create(direct->rel, NULL);
	direct->changed = MakeSingleTupleTableSlot(RelationGetDescr(direct->rel), &TTSOpsVirtual);
	direct->scan = RehomeIndexBeginScan(direct->rel, direct->index, GetActiveSnapshot(), direct->nkeys);
	return true;
}

static void
end(Direct *direct)
{
	if (direct->scan != NULL)
	{
		index_endscan(direct->scan);
		ExecDropSingleTupleTableSlot(direct->found);
		ExecDropSingleTupleTableSlot(direct->changed);
		ExecCloseIndices(direct->rri);
		FreeExecutorState(direct->estate);
	}
	if (direct->loader != NULL)
		rehome_loader_end(direct->loader);
	if (direct->index != NULL)
		index_close(direct->index, NoLock);
	table_close(direct->rel, NoLock);
}

/*
 * look_up finds the target's row with the key of a mapped row; false when
 * there is none.  *null is set when the key is not complete, so that no row
 * can have it.
 */
static bool
look_up(Direct *direct, TupleTableSlot *row, bool *null)
{
	*null = false;
	for (int i = 0; i < direct->nkeys; i++)
	{
		int			c = direct->key[i] - direct->mapping->columns;

		*null = *null || row->tts_isnull[c];
		direct->scankey[i].sk_argument = row->tts_values[c];
	}
	if (*null)
		return false;
	index_rescan(direct->scan, direct->scankey, direct->nkeys, NULL, 0);
	return index_getnext_slot(direct->scan, ForwardScanDirection, direct->found);
}

/*
 * differs tells whether the row that was found has other bytes in some mapped
 * column.
 */
static bool
differs(Direct *direct, TupleTableSlot *row)
{
	TupleDesc	desc = RelationGetDescr(direct->rel);

	slot_getallattrs(direct->found);
	for (int c = 0; c < direct->mapping->ncolumns; c++)
	{
		int			i = direct->mapping->columns[c].attnum - 1;
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (direct->found->tts_isnull[i] != row->tts_isnull[c] ||
			(!row->tts_isnull[c] &&
			 !datum_image_eq(direct->found->tts_values[i], row->tts_values[c], att->attbyval, att->attlen)))
			return true;
	}
	return false;
}

/*
 * fill makes the changed row of the mapped columns, and of what the row that
 * was found has besides, or nothing.
 */
static TupleTableSlot *
fill(Direct *direct, TupleTableSlot *row, bool found)
{
	TupleTableSlot *slot = ExecClearTuple(direct->changed);
	int			natts = slot->tts_tupleDescriptor->natts;

	if (found)
	{
		memcpy(slot->tts_values, direct->found->tts_values, sizeof(Datum) * natts);
		memcpy(slot->tts_isnull, direct->found->tts_isnull, sizeof(bool) * natts);
	}
	else
		memset(slot->tts_isnull, true, sizeof(bool) * natts);
	for (int c = 0; c < direct->mapping->ncolumns; c++)
	{
		RehomeMappedColumn *column = &direct->mapping->columns[c];

		if (found && column->identity_always)
			continue;
		slot->tts_values[column->attnum - 1] = row->tts_values[c];
		slot->tts_isnull[column->attnum - 1] = row->tts_isnull[c];
	}
	return ExecStoreVirtualTuple(slot);
}

/*
 * update makes the row that was found what it is to be; false when somebody
 * else has changed it.
 */
static bool
update(Direct *direct, TupleTableSlot *row)
{
	TupleConstr *constr = RelationGetDescr(direct->rel)->constr;
	TupleTableSlot *slot = fill(direct, row, true);
	TM_FailureData failure;
	RehomeIndexUpdate indexes;
	TM_Result	result;

	if (!direct->published)
		CheckCmdReplicaIdentity(direct->rel, CMD_UPDATE);
	direct->published = true;
	slot->tts_tableOid = RelationGetRelid(direct->rel);
	if (constr != NULL && constr->has_generated_stored)
		ExecComputeStoredGenerated(direct->rri, direct->estate, slot, CMD_UPDATE);
	if (constr != NULL)
		ExecConstraints(direct->rri, slot, direct->estate);
	result = rehome_tuple_update(direct->rel, &direct->found->tts_tid, slot, GetCurrentCommandId(true),
								 GetActiveSnapshot(), &failure, &indexes);
	if (result == TM_SelfModified)
		ereport(ERROR,
				errcode(ERRCODE_CARDINALITY_VIOLATION),
				errmsg("two rows of the source have the same key in table \"%s\"",
					   RelationGetRelationName(direct->rel)),
				errhint("Map the key so that each row has its own."));
	if (result != TM_Ok)
		return false;
	rehome_update_index_tuples(direct->rri, slot, direct->estate, indexes);
	direct->touched++;
	return true;
}

/*
 * insert puts a new row with the others.
 */
static void
insert(Direct *direct, TupleTableSlot *row)
{
	MemoryContext old = MemoryContextSwitchTo(direct->context);

	if (direct->loader == NULL)
		direct->loader = rehome_loader_begin(RelationGetRelid(direct->rel));
	rehome_loader_put(fill(direct, row, false), direct->loader);
	MemoryContextSwitchTo(old);
	direct->touched++;
}

/*
 * take brings one row in; false when that is left to MERGE.
 */
static bool
take(Direct *direct, TupleTableSlot *row)
{
	MemoryContext old = MemoryContextSwitchTo(direct->context); /* the scan keeps things */
	bool		null;
	bool		found = look_up(direct, row, &null);

	MemoryContextSwitchTo(old);
	if (found)
		return !differs(direct, row) || update(direct, row);
	if (null || !direct->whole)
		return false;
	insert(direct, row);
	return true;
}

/*
 * rehome_apply_direct brings rows (of mapped_desc) into the target, as the
 * current user, where that is a plain table.  Puts those that are left to
 * MERGE into left, and their number into *nleft; returns the number of rows of
 * the target that were changed.
 */
int64
rehome_apply_direct(RehomeMapping *mapping, Tuplestorestate *rows, int64 n,
					Tuplestorestate *left, int64 *nleft)
{
	Direct		direct = {.mapping = mapping,.context = CurrentMemoryContext};
	TupleTableSlot *row;

	*nleft = n;
	direct.rel = table_open(mapping->map->target, RowExclusiveLock);
	CommandCounterIncrement();	/* see what came before */
	PushActiveSnapshot(GetTransactionSnapshot());
	if (begin(&direct))
	{
		*nleft = 0;
		row = MakeSingleTupleTableSlot(mapping->mapped_desc, &TTSOpsMinimalTuple);
		tuplestore_rescan(rows);
		while (tuplestore_gettupleslot(rows, true, false, row))
		{
			MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(direct.estate));
			bool		taken;

			CHECK_FOR_INTERRUPTS();
			slot_getallattrs(row);
			taken = take(&direct, row);
			MemoryContextSwitchTo(old);
			ResetPerTupleExprContext(direct.estate);
			if (!taken)
			{
				tuplestore_puttupleslot(left, row);
				(*nleft)++;
			}
		}
		ExecDropSingleTupleTableSlot(row);
	}
	end(&direct);
	PopActiveSnapshot();
	return direct.touched;
}
