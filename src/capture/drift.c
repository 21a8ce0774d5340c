/*-------------------------------------------------------------------------
 *
 * drift.c
 *	  Writes to a target that nobody ordered: recorded, and repaired.
 *
 * While the source has authority, the drift policy of a table map says what
 * happens to a write of somebody else to its target.  "reject" is the guard
 * (trigger.c).  With "record" and "repair" a trigger takes its place that lets
 * the write happen and keeps it in rehome.drift.
 *
 * Repair: the keys of the recorded rows are written to the source's change
 * table, as if they had changed there, in a transaction of its own that
 * commits before the batch takes its snapshot.  So the batch reads these rows
 * again, or finds that the source has none, and makes the target what the map
 * makes of them; that the drift is repaired is noted in the batch's
 * transaction.  If anything dies in between, the keys are written again: a
 * key too many does no harm.  A key that is computed cannot be told to the
 * source: there, and after a TRUNCATE of the target, the table is read as a
 * whole.
 *
 * The rows are turned into JSON as the migration's owner, since that may run
 * functions of the types; the record is written as the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "capture/capture.h"
#include "catalog/redaction.h"
#include "commands/trigger.h"
#include "errors.h"
#include "mapping/mapping.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/row_json.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Keys that are written to the source's change table at once. */
#define RELOG_KEYS 10000

/*
 * row_json returns a row as JSON; NULL for no row.
 */
static char *
row_json(Relation rel, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values;
	bool	   *nulls;

	if (tuple == NULL)
		return NULL;
	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(tuple, desc, values, nulls);
	return rehome_row_json(desc, values, nulls);
}

/*
 * event_kind returns what kind of drift a write is.
 */
static const char *
event_kind(TriggerData *trigger)
{
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return "truncate";
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		return "insert";
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		return "delete";
	return "update";
}

PG_FUNCTION_INFO_V1(rehome_record_drift);

/*
 * rehome_record_drift() RETURNS trigger; argument: the table map's id.
 */
Datum
rehome_record_drift(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	RehomeCall	call;
	RehomeAs	as;
	RehomeRows *rows;
	HeapTuple	old_tuple = NULL;
	HeapTuple	new_tuple = NULL;
	char	   *old_row;
	char	   *new_row;
	List	   *redacted;
	int			map;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigger->tg_trigger->tgnargs != 1 ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("rehome.record_drift() must be called as an AFTER trigger"));
	if (rehome_own_writes(trigger->tg_relation))
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		new_tuple = trigger->tg_trigtuple;
	else if (!TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		old_tuple = trigger->tg_trigtuple;
		if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
			new_tuple = trigger->tg_newtuple;
	}

	rehome_call_begin(&call, fcinfo);
	map = rehome_int(trigger->tg_trigger->tgargs[0]);
	rows = rehome_spi_read("SELECT m.owner::oid, t.target::oid FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id"
						   " JOIN rehome.migration m ON m.id = s.migration_id WHERE t.id = $1", "i", map);
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("table map %d does not exist", map),
				errdetail("Writes to \"%s\" that could not be recorded must not happen unnoticed.",
						  RelationGetRelationName(trigger->tg_relation)));
	if (!rehome_is_part(trigger->tg_relation, (Oid) rehome_int64(rows->value[0][1])))
	{
		rehome_call_end(&call);
		return PointerGetDatum(NULL);
	}
	rehome_become(&as, (Oid) rehome_int64(rows->value[0][0]));
	old_row = row_json(trigger->tg_relation, old_tuple);
	new_row = row_json(trigger->tg_relation, new_tuple);
	rehome_become_self(&as);
	redacted = rehome_redacted_columns((Oid) rehome_int64(rows->value[0][1]));
	rehome_spi("INSERT INTO rehome.drift (migration, slice, side, kind, object, target, key, old_row, new_row,"
			   "  role, application, client, policy)"
			   " SELECT m.name, s.name, 'target', $2, $5, t.target,"
			   "  CASE WHEN $2 <> 'truncate' THEN (SELECT jsonb_object_agg(k, coalesce($3::jsonb, $4::jsonb) -> k::text)"
			   "    FROM unnest(t.key) AS k) END,"
			   "  CASE WHEN $6 IS NULL THEN $3::jsonb ELSE rehome.blanked($3::jsonb, $6::text[]) END,"
			   "  CASE WHEN $6 IS NULL THEN $4::jsonb ELSE rehome.blanked($4::jsonb, $6::text[]) END, session_user, nullif(current_setting('application_name'), ''),"
			   "  inet_client_addr(), CASE t.drift_policy WHEN 'repair' THEN 'repair' ELSE 'record' END"
			   " FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id"
			   " JOIN rehome.migration m ON m.id = s.migration_id WHERE t.id = $1",
			   "ittttt", map, event_kind(trigger), old_row, new_row,
			   rehome_relation_name(RelationGetRelid(trigger->tg_relation)),
			   redacted == NIL ? NULL : rehome_name_array(redacted));
	rehome_call_end(&call);
	return PointerGetDatum(NULL);
}

/*
 * relog_everything has the next batch read a table as a whole; false, with
 * *error filled in, when the source refuses.
 */
static bool
relog_everything(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map, RehomeRemoteError *error)
{
	return rehome_conn_try(conn, psprintf("INSERT INTO %s (op) VALUES ('t')",
										  rehome_change_table(slice->migration, map)), error) != NULL;
}

/*
 * relog_keys writes the keys of some drift, given by id, to the change table;
 * false, with *error filled in, when the source refuses.
 */
static bool
relog_keys(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map, List *columns, const char *ids,
		   RehomeRemoteError *error)
{
	StringInfoData names;
	RehomeRows *rows;
	char	   *change = rehome_change_table(slice->migration, map);

	initStringInfo(&names);
	rehome_append_keys(&names, list_length(columns), NULL);
	/* both keys of an update that changed it */
	rows = rehome_spi("SELECT jsonb_agg(DISTINCT x.key)"
					  " FROM rehome.drift d, LATERAL (SELECT jsonb_object_agg('key' || c.n, r.row -> c.name)"
					  "   FROM (VALUES (d.old_row), (d.new_row)) AS r(row),"
					  "        unnest($2::text[]) WITH ORDINALITY AS c(name, n)"
					  "   WHERE r.row IS NOT NULL GROUP BY r.row) AS x(key)"
					  " WHERE d.id = ANY ($1::bigint[])", "tt", ids, rehome_name_array(columns));
	return rows->value[0][0] == NULL ||
		rehome_conn_try(conn, psprintf("INSERT INTO %s (op, %s) SELECT 'd', %s"
									   " FROM jsonb_populate_recordset(NULL::%s, %s::jsonb)",
									   change, names.data, names.data, change,
									   quote_literal_cstr(rows->value[0][0])), error) != NULL;
}

/*
 * rehome_drift_relog has the next batch repair what was recorded to be
 * repaired in targets of the maps.  Returns the ids of that drift, as the
 * text of an array, or NULL.  A table whose keys the source refuses is paused,
 * and the others go on.  No transaction is open on conn.
 */
char *
rehome_drift_relog(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	char	   *all = NULL;
	ListCell   *lc;

	if (rehome_spi("SELECT FROM rehome.drift WHERE migration = $1::name AND slice = $2::name"
				   " AND resolved_at IS NULL AND policy = 'repair' LIMIT 1", "tt",
				   slice->migration->name, slice->name)->n == 0)
		return NULL;
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		List	   *columns = NIL;
		RehomeRows *rows;
		RehomeRemoteError error;
		bool		written;
		char	  **v;

		CHECK_FOR_INTERRUPTS();
		if (map->paused)
			continue;
		rows = rehome_spi("SELECT array_agg(id), bool_or(kind IN ('truncate', 'guard off')), count(*) FROM (SELECT id, kind FROM rehome.drift"
						  "  WHERE migration = $1::name AND slice = $2::name AND target = $3"
						  "  AND resolved_at IS NULL AND policy = 'repair' ORDER BY id LIMIT $4) AS d", "ttoi",
						  slice->migration->name, slice->name, map->target, RELOG_KEYS);
		v = rows->value[0];
		if (v[0] == NULL)
			continue;
		if (!rehome_bool(v[1]))
			columns = rehome_mapping_source_key(rehome_mapping_compile(map, slice->migration->owner));
		if (columns == NIL)
			written = relog_everything(conn, slice, map, &error);
		else
			written = relog_keys(conn, slice, map, columns, v[0], &error);
		if (!written)
		{
			rehome_map_pause(slice, map, psprintf("its drift cannot be repaired: the source refuses the keys: %s", error.message), false);
			continue;
		}
		all = all == NULL ? v[0] :
			rehome_spi_value("SELECT $1::bigint[] || $2::bigint[]", "tt", all, v[0]);
	}
	return all;
}

/*
 * rehome_drift_repaired notes that a batch has repaired the drift with these
 * ids.
 */
void
rehome_drift_repaired(const char *ids)
{
	if (ids != NULL)
		rehome_spi("UPDATE rehome.drift SET resolved_at = clock_timestamp(), resolution = 'repaired'"
				   " WHERE id = ANY ($1::bigint[]) AND resolved_at IS NULL", "t", ids);
}

/*
 * rehome_drift_open lists, a line each, the targets with writes that nobody
 * has repaired or accepted.
 */
List *
rehome_drift_open(RehomeSlice *slice)
{
	RehomeRows *rows = rehome_spi("SELECT CASE WHEN kind = 'guard off' THEN format('The guard of %s was off for a while: what was written then is not known.', target)"
								  " ELSE format('%s writes to %s that nobody ordered.', count(*), target) END"
								  " FROM rehome.drift WHERE migration = $1::name AND slice = $2::name"
								  " AND resolved_at IS NULL AND side = 'target' AND policy IS NOT NULL"
								  " GROUP BY target, kind = 'guard off' ORDER BY target::text, kind = 'guard off'", "tt",
								  slice->migration->name, slice->name);
	List	   *lines = NIL;

	for (int i = 0; i < rows->n; i++)
		lines = lappend(lines, rows->value[i][0]);
	return lines;
}

/*
 * rehome_drift_unguarded_known notes that all rows of a target are as they should
 * be: what was written while its guard was off made no difference.
 */
void
rehome_drift_unguarded_known(RehomeSlice *slice, RehomeTableMap *map)
{
	rehome_spi("UPDATE rehome.drift SET resolved_at = clock_timestamp(), resolution = 'verified'"
			   " WHERE migration = $1::name AND slice = $2::name AND target = $3 AND kind = 'guard off' AND resolved_at IS NULL",
			   "tto", slice->migration->name, slice->name, map->target);
}

/*
 * wanted_maps returns the maps of a slice, or that of one target, if it is
 * in the slice.
 */
static List *
wanted_maps(RehomeSlice *slice, Oid target)
{
	List	   *wanted = NIL;
	ListCell   *lc;

	foreach(lc, rehome_table_maps_require(slice))
	{
		RehomeTableMap *map = lfirst(lc);

		if (!OidIsValid(target) || map->target == target)
			wanted = lappend(wanted, map);
	}
	return wanted;
}

/*
 * put_up has the targets of maps, which are locked, treat writes as their
 * policies say.
 */
static void
put_up(RehomeSlice *slice, List *maps)
{
	ListCell   *lc;

	rehome_target_guard(slice, maps);
	foreach(lc, maps)
		rehome_target_guard_switch(lfirst(lc), slice->state == REHOME_SYNCING);
}

/*
 * set_policy gives maps of a slice a drift policy.  Writers wait for the
 * triggers to be exchanged, so each of them meets one policy or the other.
 */
static void
set_policy(RehomeSlice *slice, Oid target, RehomeDriftPolicy policy)
{
	List	   *maps = NIL;
	ListCell   *lc;

	rehome_slice_work_lock(slice);
	rehome_slice_require(slice, "set the drift policy of", REHOME_SYNCING, REHOME_CUT_OVER);
	foreach(lc, wanted_maps(slice, target))
	{
		RehomeTableMap *map = lfirst(lc);

		if (map->drift_policy != policy)
			maps = lappend(maps, map);
		else
			ereport(NOTICE,
					errmsg("the drift policy of %s is %s already", rehome_relation_name(map->target),
						   rehome_drift_policy_name(policy)));
	}
	if (maps == NIL)
		return;
	rehome_targets_lock(maps, ShareRowExclusiveLock);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		map->drift_policy = policy;
		rehome_spi("UPDATE rehome.table_map SET drift_policy = $2 WHERE id = $1", "it", map->id,
				   rehome_drift_policy_name(policy));
		rehome_event(slice->migration->name, slice->name, "drift",
					 psprintf("drift policy of %s: %s", rehome_relation_name(map->target),
							  rehome_drift_policy_name(policy)), NULL);
	}
	put_up(slice, maps);
	rehome_slice_maps_changed(slice);
}

/*
 * rehome_drift_begin puts the policies in force that were given before there
 * was anything to drift.  The slice has just come to be in sync.
 */
void
rehome_drift_begin(RehomeSlice *slice)
{
	List	   *maps = NIL;
	ListCell   *lc;

	if (!slice->migration->live)
		return;
	foreach(lc, rehome_table_maps_require(slice))
		if (((RehomeTableMap *) lfirst(lc))->drift_policy != REHOME_DRIFT_REJECT)
			maps = lappend(maps, lfirst(lc));
	if (maps == NIL)
		return;
	rehome_targets_lock(maps, ShareRowExclusiveLock);
	put_up(slice, maps);
}

PG_FUNCTION_INFO_V1(rehome_set_drift_policy);

/*
 * rehome_set_drift_policy(migration name, policy text, target regclass)
 */
Datum
rehome_set_drift_policy(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeDriftPolicy policy;
	Oid			target = PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2);
	List	   *slices;
	ListCell   *lc;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the policy must be given"),
				errhint("Policies are reject, record and repair."));
	policy = rehome_drift_policy_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	if (OidIsValid(target))
		slices = list_make1(rehome_slice_by_id(rehome_table_map_of(migration, target)->slice_id));
	else
		slices = rehome_slices_moved(migration, NULL);
	foreach(lc, slices)
		set_policy(lfirst(lc), target, policy);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * settle changes the open writes of a migration, or of one target, those that
 * which (SQL) selects; set says how.  Returns how many there were.
 */
static int64
settle(FunctionCallInfo fcinfo, const char *set, const char *which)
{
	RehomeCall	call;
	RehomeMigration *migration;
	Oid			target = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	int64		n;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	if (OidIsValid(target))
		(void) rehome_table_map_of(migration, target);
	n = (int64) rehome_spi(psprintf("UPDATE rehome.drift SET %s WHERE migration = $1::name"
									" AND ($2 = 0::oid OR target = $2) AND resolved_at IS NULL AND (%s)",
									set, which),
						   "to", migration->name, target)->processed;
	rehome_call_end(&call);
	return n;
}

PG_FUNCTION_INFO_V1(rehome_repair_drift);

/*
 * rehome_repair_drift(migration name, target regclass): by the next batch.
 */
Datum
rehome_repair_drift(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(settle(fcinfo, "policy = 'repair'", "side = 'target' AND policy IS NOT NULL"));
}

PG_FUNCTION_INFO_V1(rehome_accept_drift);

/*
 * rehome_accept_drift(migration name, target regclass): it stays as it is; and
 * of what was refused somebody knows.
 */
Datum
rehome_accept_drift(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(settle(fcinfo, "resolved_at = clock_timestamp(), resolution = 'accepted'",
							"side = 'target' AND policy IS NOT NULL OR kind = 'refused'"));
}
