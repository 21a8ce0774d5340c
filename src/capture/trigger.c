/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  The two trigger functions on target tables: guard and capture.
 *
 * rehome.guard() refuses writes while the source has authority.  It knows
 * our own writes by a variable of this backend, which no SQL can set, so it
 * can be ENABLE ALWAYS: replica role does not get past it.
 *
 * rehome.capture() writes the keys of changed rows to a change table after
 * cutover, for the way back.  Its arguments are the change table's name, and
 * the name and the number of each key column.  They must agree, and the types
 * be those of the change table: a column that was renamed, dropped or retyped
 * might give other values than the key's.  Then writes are not refused: what
 * is written down is that any row may have changed.
 *
 * Everybody may execute both, since partitions get the triggers of their table,
 * and readers may put them on tables of their own: what they say of a table that
 * is no part of the map's target is not listened to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "capture/capture.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "util/name.h"
#include "util/result.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * Nest level of the transaction in which our own writes are going on; 0
 * outside.  Reset by the abort of that level, so an error can never leave
 * the guard open.
 */
static int	own_writes_level = 0;

/*
 * The tables that are written: what triggers of them write elsewhere is somebody
 * else's, whose table may have authority.
 */
static Oid	own_writes_to[2];

/* The part of one of them that was met last: triggers for each row ask for each. */
static Oid	own_writes_part = InvalidOid;

static void
own_writes_xact(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT ||
		event == XACT_EVENT_PREPARE)
		own_writes_level = 0;
}

static void
own_writes_subxact(SubXactEvent event, SubTransactionId mySubid,
				   SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB &&
		own_writes_level >= GetCurrentTransactionNestLevel())
		own_writes_level = 0;
}

/*
 * rehome_own_writes_init registers the callbacks; called from _PG_init.
 */
void
rehome_own_writes_init(void)
{
	RegisterXactCallback(own_writes_xact, NULL);
	RegisterSubXactCallback(own_writes_subxact, NULL);
}

/*
 * rehome_own_writes_begin begins our writes to a table, and to its archive if
 * that is not InvalidOid.
 */
void
rehome_own_writes_begin(Oid target, Oid archive)
{
	Assert(own_writes_level == 0);
	own_writes_to[0] = target;
	own_writes_to[1] = archive;
	own_writes_part = InvalidOid;
	own_writes_level = GetCurrentTransactionNestLevel();
}

void
rehome_own_writes_end(void)
{
	own_writes_level = 0;
}

/*
 * rehome_is_part tells whether a table is another one, or a part of it.
 */
bool
rehome_is_part(Relation rel, Oid of)
{
	Oid			relid = RelationGetRelid(rel);

	if (relid == of)
		return true;
	if (rel->rd_rel->relispartition)
		return list_member_oid(get_partition_ancestors(relid), of);
	return OidIsValid(of) && has_superclass(relid) && list_member_oid(find_all_inheritors(of, NoLock, NULL), relid);
}

/*
 * rehome_own_writes tells whether what is being written to a table is ours.
 */
bool
rehome_own_writes(Relation rel)
{
	if (own_writes_level == 0)
		return false;
	if (RelationGetRelid(rel) == own_writes_part)
		return true;
	if (!rehome_is_part(rel, own_writes_to[0]) && !rehome_is_part(rel, own_writes_to[1]))
		return false;
	own_writes_part = RelationGetRelid(rel);
	return true;
}

/*
 * pass_on returns what a trigger returns to let the write happen.
 */
static Datum
pass_on(TriggerData *trigger)
{
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return PointerGetDatum(trigger->tg_newtuple);
	return PointerGetDatum(trigger->tg_trigtuple);
}

/*
 * target_of returns the target of a table map; InvalidOid if there is no such
 * map.  It is asked of the latest snapshot: a transaction may be older than the
 * map and write to its target.
 */
static Oid
target_of(int map)
{
	/* not by a RangeVar: whoever writes need not be allowed into the schema */
	Relation	rel = table_open(get_relname_relid("table_map", get_namespace_oid("rehome", false)), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	Oid			target = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	list_free(RelationGetIndexList(rel));	/* rd_pkindex */
	ScanKeyInit(&key, get_attnum(RelationGetRelid(rel), "id"), BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(map));
	scan = systable_beginscan(rel, rel->rd_pkindex, OidIsValid(rel->rd_pkindex), snapshot, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		null;

		target = DatumGetObjectId(heap_getattr(tuple, get_attnum(RelationGetRelid(rel), "target"),
											   RelationGetDescr(rel), &null));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return target;
}

/*
 * is_foreign tells whether a trigger with the id of a table map is on a table
 * that is no part of its target: a partition that was detached, or one of
 * somebody who has put it there himself.
 */
static bool
is_foreign(TriggerData *trigger, int map)
{
	Oid			target = target_of(map);

	return OidIsValid(target) && !rehome_is_part(trigger->tg_relation, target);
}

/*
 * note_refusal counts a write that the guard refuses, with a sequence, which
 * the abort that follows does not take back, and tells the log who it was.
 */
static void
note_refusal(TriggerData *trigger, const char *table)
{
	LOCAL_FCINFO(no_arguments, 0);
	Datum		client;

	if (trigger->tg_trigger->tgnargs > 1 && !is_foreign(trigger, atoi(trigger->tg_trigger->tgargs[1])))
	{
		Oid			counter = get_relname_relid(psprintf("refused_%s", trigger->tg_trigger->tgargs[1]),
												get_namespace_oid("rehome_change", false));

		if (OidIsValid(counter))
			(void) nextval_internal(counter, false);
	}
	InitFunctionCallInfoData(*no_arguments, NULL, 0, InvalidOid, NULL, NULL);
	client = inet_client_addr(no_arguments);
	ereport(LOG_SERVER_ONLY,
			errmsg("pg_rehome refuses a write to table \"%s\": role \"%s\", application \"%s\", client %s", table,
				   GetUserNameFromId(GetSessionUserId(), false), application_name ? application_name : "",
				   no_arguments->isnull ? "local" : TextDatumGetCString(DirectFunctionCall1(network_host, client))),
			errhidestmt(true));
}

/*
 * captured_table returns the table that was given the trigger: of a partition,
 * the ancestor it has it from.
 */
static Oid
captured_table(TriggerData *trigger)
{
	Oid			relid = RelationGetRelid(trigger->tg_relation);
	ListCell   *lc;

	if (trigger->tg_trigger->tgisclone)
		foreach(lc, get_partition_ancestors(RelationGetRelid(trigger->tg_relation)))
			if (OidIsValid(get_trigger_oid(lfirst_oid(lc), trigger->tg_trigger->tgname, true)))
				relid = lfirst_oid(lc);
	return relid;
}

/*
 * is_cut_over tells whether a guard's table has authority, so that the guard
 * should not be on.
 */
static bool
is_cut_over(FunctionCallInfo fcinfo, TriggerData *trigger)
{
	RehomeCall	call;
	bool		is;

	rehome_call_begin(&call, fcinfo);
	/* the transaction may be older than a rollback */
	PushActiveSnapshot(GetLatestSnapshot());
	is = rehome_spi_read("SELECT FROM rehome.migration m JOIN rehome.slice s ON s.migration_id = m.id"
						 " WHERE m.name = $1::name AND s.state = 'cut_over'"
						 " AND (s.id IN (SELECT t.slice_id FROM rehome.table_map t WHERE t.id = $2)"
						 "  OR s.id IN (SELECT d.slice_id FROM rehome.derivation d WHERE $2 = 0 AND d.target = $3))", "tio",
						 trigger->tg_trigger->tgargs[0],
						 trigger->tg_trigger->tgnargs > 1 ? atoi(trigger->tg_trigger->tgargs[1]) : 0,
						 captured_table(trigger))->n > 0;
	PopActiveSnapshot();
	rehome_call_end(&call);
	return is;
}

PG_FUNCTION_INFO_V1(rehome_guard);

/*
 * rehome_guard() RETURNS trigger; arguments: the migration's name, and the
 * table map's id if writes that are refused are counted.
 */
Datum
rehome_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const char *migration;
	const char *table;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs < 1)
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("rehome.guard() must be called as a trigger"));
	if (rehome_own_writes(trigger->tg_relation))
		return pass_on(trigger);
	table = psprintf("%s.%s", get_namespace_name(RelationGetNamespace(trigger->tg_relation)),
					 RelationGetRelationName(trigger->tg_relation));
	note_refusal(trigger, table);
	migration = trigger->tg_trigger->tgargs[0];
	if (is_cut_over(fcinfo, trigger))
		ereport(ERROR,
				errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				errmsg("table \"%s\" cannot be written: its guard was enabled by hand", table),
				errdetail("Migration \"%s\" is cut over: the table has authority, and its guard, trigger %s, is to be disabled.",
						  migration, trigger->tg_trigger->tgname),
				errhint("ALTER TABLE %s DISABLE TRIGGER %s; ALTER TABLE ... ENABLE TRIGGER USER, or ALL, had enabled it.",
						rehome_relation_name(RelationGetRelid(trigger->tg_relation)), trigger->tg_trigger->tgname));
	ereport(ERROR,
			errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			errmsg("table \"%s\" cannot be written here yet", table),
			errdetail("Migration \"%s\" keeps it in sync with its source, which still has authority over it.",
					  migration),
			errhint("Write to the source, or CALL rehome.cutover(%s) first.",
					quote_literal_cstr(migration)));
}

/* A change table open for inserting. */
typedef struct ChangeTable
{
	EState	   *estate;
	Relation	rel;
	ResultRelInfo *rri;
	TupleTableSlot *slot;
} ChangeTable;

static void
open_change_table(ChangeTable *change, const char *name)
{
	Oid			relid = get_relname_relid(name, get_namespace_oid("rehome_change", false));

	if (!OidIsValid(relid))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("change table \"rehome_change.%s\" does not exist", name),
				errdetail("Writes that could not be carried back must not happen unnoticed."));
	change->estate = CreateExecutorState();
	change->rel = table_open(relid, RowExclusiveLock);
	change->rri = rehome_result_relation(change->estate, change->rel, NULL);
	change->slot = table_slot_create(change->rel, NULL);
}

static void
close_change_table(ChangeTable *change)
{
	ExecDropSingleTupleTableSlot(change->slot);
	ExecCloseIndices(change->rri);
	table_close(change->rel, NoLock);
	FreeExecutorState(change->estate);
}

/* Where the key is in a table's rows; looked for once a statement. */
typedef struct CapturedKey
{
	bool		foreign_table;	/* the table is none of ours */
	bool		known;
	int			n;
	AttrNumber	attnum[FLEXIBLE_ARRAY_MEMBER];
} CapturedKey;

/*
 * captured_map returns the id of the map whose change table a trigger names.
 */
static int
captured_map(TriggerData *trigger)
{
	const char *name = trigger->tg_trigger->tgargs[0];
	int			map = 0;

	if (sscanf(name, "change_%d", &map) != 1 || strcmp(name, psprintf("change_%d", map)) != 0)
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("\"%s\" is no change table", name));
	return map;
}

static CapturedKey *
captured_key(FunctionCallInfo fcinfo, TriggerData *trigger, Relation change)
{
	Trigger    *def = trigger->tg_trigger;
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);
	CapturedKey *key = fcinfo->flinfo->fn_extra;
	Oid			relid;

	if (key != NULL)
		return key;
	relid = captured_table(trigger);
	key = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
								 offsetof(CapturedKey, attnum) + def->tgnargs * sizeof(AttrNumber));
	key->foreign_table = is_foreign(trigger, captured_map(trigger));
	key->known = true;
	for (int i = 1; i < def->tgnargs; i += 2)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(trigger->tg_relation), def->tgargs[i]);

		key->known = key->known && attnum > 0 &&
			get_attnum(relid, def->tgargs[i]) == atoi(def->tgargs[i + 1]) &&
			key->n + 2 < RelationGetNumberOfAttributes(change) &&
			getBaseType(TupleDescAttr(desc, attnum - 1)->atttypid) ==
			TupleDescAttr(RelationGetDescr(change), key->n + 2)->atttypid;
		key->attnum[key->n++] = attnum;
	}
	fcinfo->flinfo->fn_extra = key;
	return key;
}

/*
 * log_key inserts one row (xid, op, key...) into the change table.  Without a
 * tuple the key columns are null.
 */
static void
log_key(ChangeTable *change, char op, CapturedKey *key, TriggerData *trigger, HeapTuple tuple)
{
	TupleTableSlot *slot = change->slot;
	FullTransactionId xid = GetTopFullTransactionId();

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	slot->tts_values[0] = Int64GetDatum((int64) U64FromFullTransactionId(xid));
	slot->tts_isnull[0] = false;
	slot->tts_values[1] = CharGetDatum(op);
	slot->tts_isnull[1] = false;
	for (int k = 0; tuple != NULL && k < key->n; k++)
		slot->tts_values[k + 2] = heap_getattr(tuple, key->attnum[k], RelationGetDescr(trigger->tg_relation),
											   &slot->tts_isnull[k + 2]);
	ExecStoreVirtualTuple(slot);
	ExecSimpleRelationInsert(change->rri, change->estate, slot);
}

/*
 * key_changed tells whether an update changed the key, byte for byte.
 */
static bool
key_changed(CapturedKey *key, TriggerData *trigger)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	for (int k = 0; k < key->n; k++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, key->attnum[k] - 1);
		bool		old_null;
		bool		new_null;
		Datum		old_value = heap_getattr(trigger->tg_trigtuple, att->attnum, desc, &old_null);
		Datum		new_value = heap_getattr(trigger->tg_newtuple, att->attnum, desc, &new_null);

		if (old_null != new_null ||
			(!old_null && !datumIsEqual(old_value, new_value, att->attbyval, att->attlen)))
			return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(rehome_capture);

/*
 * rehome_capture() RETURNS trigger; arguments: change table, and of each key
 * column name and number.
 */
Datum
rehome_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	ChangeTable change;
	CapturedKey *key;
	Oid			user;
	int			context;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs < 3 ||
		trigger->tg_trigger->tgnargs % 2 == 0)
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("rehome.capture() must be called as a trigger"));
	if (rehome_own_writes(trigger->tg_relation))
		return PointerGetDatum(NULL);

	/* whoever writes to the table has no rights on the change table */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rehome_catalog_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetTransactionSnapshot());
	open_change_table(&change, trigger->tg_trigger->tgargs[0]);
	key = captured_key(fcinfo, trigger, change.rel);
	if (key->foreign_table)
		;						/* nobody's business */
	else if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) || !key->known)
		log_key(&change, 't', key, trigger, NULL);
	else if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		log_key(&change, 'i', key, trigger, trigger->tg_trigtuple);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		log_key(&change, 'd', key, trigger, trigger->tg_trigtuple);
	else
	{
		bool		moved = key_changed(key, trigger);

		/* the end of one row, and the beginning of another */
		log_key(&change, moved ? 'i' : 'u', key, trigger, trigger->tg_newtuple);
		if (moved)
			log_key(&change, 'd', key, trigger, trigger->tg_trigtuple);
	}
	close_change_table(&change);
	PopActiveSnapshot();
	SetUserIdAndSecContext(user, context);
	return PointerGetDatum(NULL);
}
