/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the PostgreSQL majors we build on (15 to 18).
 *	  The only file that tests PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_COMPAT_H
#define REHOME_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "pg_rehome needs PostgreSQL 15 or later"
#endif

/* A function that does not return says so before its declaration from 18 on. */
#if PG_VERSION_NUM < 180000
#undef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/*
 * Permission checks: the *_ownercheck and *_aclcheck families became
 * object_ownercheck and object_aclcheck in 16.
 */
#include "access/sysattr.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "utils/acl.h"
#include "utils/wait_event.h"

static inline bool
rehome_owns_relation(Oid relid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, roleid);
#else
	return pg_class_ownercheck(relid, roleid);
#endif
}

static inline bool
rehome_may_use_server(Oid serverid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, serverid, roleid,
						   ACL_USAGE) == ACLCHECK_OK;
#else
	return pg_foreign_server_aclcheck(serverid, roleid, ACL_USAGE) == ACLCHECK_OK;
#endif
}

/* The executor wants permission info beside the range table from 16 on. */
#if PG_VERSION_NUM < 160000
#define RehomeRangeTableInit(estate, pstate) \
	ExecInitRangeTable(estate, (pstate)->p_rtable)
#elif PG_VERSION_NUM < 180000
#define RehomeRangeTableInit(estate, pstate) \
	ExecInitRangeTable(estate, (pstate)->p_rtable, (pstate)->p_rteperminfos)
#else
#define RehomeRangeTableInit(estate, pstate) \
	ExecInitRangeTable(estate, (pstate)->p_rtable, (pstate)->p_rteperminfos, \
					   bms_make_singleton(1))
#endif

/*
 * And there is where the updated columns are.  15.0 and 15.1 compute only those
 * stored generated columns that they are told of; the others find out.
 */
#include "parser/parse_node.h"
#include "utils/rel.h"

static inline void
rehome_range_table_updated(ParseState *pstate, Relation rel, Bitmapset *updated)
{
#if PG_VERSION_NUM < 160000
	RangeTblEntry *rte = linitial_node(RangeTblEntry, pstate->p_rtable);

	rte->updatedCols = updated;
	for (int i = 0; updated != NULL && i < RelationGetNumberOfAttributes(rel); i++)
		if (TupleDescAttr(RelationGetDescr(rel), i)->attgenerated != '\0')
			rte->extraUpdatedCols = bms_add_member(rte->extraUpdatedCols, i + 1 - FirstLowInvalidHeapAttributeNumber);
#else
	linitial_node(RTEPermissionInfo, pstate->p_rteperminfos)->updatedCols = updated;
#endif
}

/* Index insertion grew an argument in 16. */
#if PG_VERSION_NUM < 160000
#define RehomeInsertIndexTuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#else
#define RehomeInsertIndexTuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#endif

/* Which indexes an updated row needs to be in: all or none, or, from 16 on, some. */
#include "access/tableam.h"
#include "executor/executor.h"

#if PG_VERSION_NUM < 160000
typedef bool RehomeIndexUpdate;
#else
typedef TU_UpdateIndexes RehomeIndexUpdate;
#endif

static inline TM_Result
rehome_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid,
					Snapshot snapshot, TM_FailureData *failure, RehomeIndexUpdate *indexes)
{
	LockTupleMode mode;

	return table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
							  failure, &mode, indexes);
}

static inline void
rehome_update_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
						   RehomeIndexUpdate indexes)
{
#if PG_VERSION_NUM < 160000
	if (rri->ri_NumIndices > 0 && indexes)
		list_free(ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL));
#else
	if (rri->ri_NumIndices > 0 && indexes != TU_None)
		list_free(ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL,
										indexes == TU_Summarizing));
#endif
}

/* Index scans tell EXPLAIN more from 18 on. */
#include "access/genam.h"

#if PG_VERSION_NUM >= 180000
#define RehomeIndexBeginScan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define RehomeIndexBeginScan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* LockHeldByMe() looks for stronger locks as well from 17 on, when it is told to. */
#include "storage/lock.h"

static inline bool
rehome_lock_held(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, true);
#else
	for (; mode <= MaxLockMode; mode++)
		if (LockHeldByMe(tag, mode))
			return true;
	return false;
#endif
}

/* LogLogicalMessage() can flush by itself from 17 on. */
#include "access/xlog.h"
#include "replication/message.h"

static inline XLogRecPtr
rehome_log_mark(void)
{
#if PG_VERSION_NUM >= 170000
	return LogLogicalMessage("pg_rehome", "", 0, false, false);
#else
	return LogLogicalMessage("pg_rehome", "", 0, false);
#endif
}

/* Wait event sets belong to a resource owner from 17 on; ours to nobody. */
#include "storage/latch.h"

#if PG_VERSION_NUM >= 170000
#define RehomeCreateWaitEventSet(context, n) CreateWaitEventSet(NULL, n)
#else
#define RehomeCreateWaitEventSet(context, n) CreateWaitEventSet(context, n)
#endif

/* A JSON lexer is given its place in 17.  Ours reads escapes, as that of jsonb. */
#if PG_VERSION_NUM >= 170000
#define RehomeJsonLex(text, len, encoding) makeJsonLexContextCstringLen(NULL, text, len, encoding, true)
#else
#define RehomeJsonLex(text, len, encoding) makeJsonLexContextCstringLen(unconstify(char *, text), len, encoding, true)
#endif

/* A name can be refused softly from 16 on; we want the error. */
#include "utils/regproc.h"

#if PG_VERSION_NUM >= 160000
#define RehomeStringToNameList(string) stringToQualifiedNameList(string, NULL)
#else
#define RehomeStringToNameList(string) stringToQualifiedNameList(string)
#endif

/* The wait event of a wait inside an extension. */
#define REHOME_WAIT_EVENT PG_WAIT_EXTENSION

#endif							/* REHOME_COMPAT_H */
