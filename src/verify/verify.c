/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  rehome.verify(): exact comparison on live data.
 *
 * While the source has authority, a batch is applied and its source
 * transaction kept open: the target then equals, or should equal, that very
 * snapshot, and nothing but this transaction can change it (guard and work
 * lock).  While the target has authority it is the other way round: a batch
 * back from a snapshot of the target, under which the target is then read,
 * with the source behind its fence.  So a difference is never a matter of
 * lag.
 *
 * Asked to be incremental, it compares the rows that were touched since a
 * verification after which every difference was on record (apply/touched.c),
 * table by table, and all rows of a table that has no such verification.
 * Either gives the next one something to go on from.
 *
 * rehome.verify_tables() does that table by table, and compares all rows of a
 * large one range by range of its key, each in a transaction of its own, so
 * that a source transaction does not stay open for hours, and what has been
 * compared when it is broken off need not be compared again.  Each row is
 * compared once, at the snapshot of its part.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/touched.h"
#include "capture/capture.h"
#include "catalog/definition.h"
#include "derive/derive.h"
#include "errors.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "util/name.h"
#include "util/position.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "verify/discrepancy.h"
#include "verify/pace.h"
#include "verify/verify.h"

static RehomeVerifyMode
parse_mode(const char *mode)
{
	if (strcmp(mode, "count") == 0)
		return REHOME_VERIFY_COUNT;
	if (strcmp(mode, "hash") == 0)
		return REHOME_VERIFY_HASH;
	if (strcmp(mode, "rows") == 0)
		return REHOME_VERIFY_ROWS;
	ereport(ERROR,
			errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("unknown verification mode \"%s\"", mode),
			errhint("Modes are count, hash and rows."));
}

static const char *
mode_name(RehomeVerifyMode mode)
{
	return mode == REHOME_VERIFY_COUNT ? "count" : mode == REHOME_VERIFY_HASH ? "hash" : "rows";
}

/*
 * rehome_verify_freeze brings both sides to one snapshot and pushes the local one.
 * The targets of kept stay as they are.
 * Returns the connection, NULL for a source this server reads itself, and
 * the snapshot's text.
 */
RehomeConn *
rehome_verify_freeze(RehomeSlice *slice, List *maps, List *kept, char **snapshot)
{
	RehomeConn *conn;

	if (!slice->migration->live)
	{
		rehome_slice_require(slice, "verify", REHOME_SYNCING, REHOME_SYNCING);
		PushActiveSnapshot(GetLatestSnapshot());
		*snapshot = rehome_position_of_active();
		return NULL;
	}
	rehome_slice_require(slice, "verify", REHOME_SYNCING, REHOME_CUT_OVER);
	conn = rehome_slice_connect(slice, "verify");
	/* two processes there keep pace with one here */
	rehome_conn_exec(conn, "SET max_parallel_workers_per_gather = DEFAULT; SET random_page_cost = 1.1;"
					 " SELECT set_config('max_parallel_workers_per_gather', least(current_setting('max_parallel_workers_per_gather')::int, 1)::text, false)");
	if (slice->state == REHOME_SYNCING)
	{
		RehomeBatch batch;

		rehome_forward_batch(conn, slice, maps, true, kept, &batch);
		*snapshot = batch.position;
		CommandCounterIncrement();
		PushActiveSnapshot(GetLatestSnapshot());
	}
	else
	{
		rehome_target_hold(rehome_maps_running(maps));
		PushActiveSnapshot(GetLatestSnapshot());
		*snapshot = rehome_position_of_active();
		if (rehome_reverse_batch(conn, slice, maps, GetActiveSnapshot(), true, NULL) < 0)
			rehome_raise_both(slice);
	}
	return conn;
}

/*
 * pass_note says in words since when the rows of a table that were not looked
 * at are known to be equal.
 */
static char *
pass_note(RehomeTableMap *map, int64 keys)
{
	return rehome_spi_value("SELECT format('%s rows touched since %s; all rows were compared at %s', $2, date_trunc('second', at), date_trunc('second', full_at))"
							" FROM rehome.full_pass WHERE table_map_id = $1", "il", map->id, keys);
}

/*
 * to_compare lists the maps that are not paused; only that of the target, when
 * one is given.
 */
static List *
to_compare(List *maps, Oid target)
{
	List	   *compared = NIL;
	ListCell   *lc;

	foreach(lc, rehome_maps_running(maps))
		if (!OidIsValid(target) || ((RehomeTableMap *) lfirst(lc))->target == target)
			compared = lappend(compared, lfirst(lc));
	return compared;
}

/*
 * begin_pace says how much there is to compare: the tables, and the rows the
 * planner believes they have.
 */
static void
begin_pace(List *maps)
{
	char	   *rows = rehome_spi_value("SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_class c WHERE c.oid = ANY ($1::oid[])",
										"t", rehome_map_targets(maps));

	rehome_pace_begin(list_length(maps), rehome_int64(rows));
}

/*
 * rehome_verdict_equal tells whether both sides have the same.
 */
bool
rehome_verdict_equal(const RehomeVerdict *verdict)
{
	return verdict->source_rows - verdict->quarantined == verdict->target_rows - verdict->kept &&
		verdict->missing == 0 && verdict->extra == 0 && verdict->differing == 0;
}

/*
 * tell_verdict says what came out where there is no result to put it in.
 */
static void
tell_verdict(Oid target, const RehomeVerdict *verdict, const char *note)
{
	char	   *name = rehome_relation_name(target);
	const char *sep = note != NULL ? "; " : "";

	note = note != NULL ? note : "";
	if (verdict == NULL)
		ereport(WARNING, errmsg("%s was not compared: %s", name, note));
	else if (rehome_verdict_equal(verdict))
		ereport(NOTICE, errmsg("%s is equal%s%s", name, sep, note));
	else if (verdict->counted_only)
		ereport(WARNING, errmsg("%s has " INT64_FORMAT " rows and the source " INT64_FORMAT "%s%s", name,
								verdict->target_rows, verdict->source_rows, sep, note));
	else
		ereport(WARNING, errmsg("%s differs: " INT64_FORMAT " rows missing, " INT64_FORMAT " extra, " INT64_FORMAT " differing%s%s",
								name, verdict->missing, verdict->extra, verdict->differing, sep, note));
}

/*
 * rehome_verdict_put puts the row of one table, whose comparison began at
 * that time.  verdict is NULL when it was not compared, which note tells why;
 * else note may be NULL.  rsinfo is NULL in a procedure, which says it.
 */
void
rehome_verdict_put(ReturnSetInfo *rsinfo, RehomeSlice *slice, Oid target, const RehomeVerdict *verdict,
				   const char *snapshot, TimestampTz began, const char *note)
{
	Datum		values[12];
	bool		nulls[12];

	if (rsinfo == NULL)
	{
		tell_verdict(target, verdict, note);
		return;
	}
	memset(nulls, verdict == NULL, sizeof(nulls));
	values[0] = DirectFunctionCall1(namein, CStringGetDatum(slice->name));
	values[1] = ObjectIdGetDatum(target);
	values[7] = BoolGetDatum(verdict != NULL && rehome_verdict_equal(verdict));
	values[11] = note == NULL ? (Datum) 0 : CStringGetTextDatum(note);
	nulls[0] = nulls[1] = nulls[7] = false;
	nulls[11] = note == NULL;
	if (verdict != NULL)
	{
		Interval   *elapsed = palloc0(sizeof(Interval));

		elapsed->time = GetCurrentTimestamp() - began;
		values[2] = Int64GetDatum(verdict->source_rows);
		values[3] = Int64GetDatum(verdict->target_rows);
		values[4] = Int64GetDatum(verdict->missing);
		values[5] = Int64GetDatum(verdict->extra);
		values[6] = Int64GetDatum(verdict->differing);
		nulls[4] = nulls[5] = nulls[6] = verdict->counted_only;
		values[8] = CStringGetTextDatum(snapshot);
		values[9] = IntervalPGetDatum(elapsed);
		values[10] = Int64GetDatum(verdict->quarantined);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A part of a table, the rows of a range of its key. */
typedef struct Part
{
	char	   *from;			/* the first key; NULL: from the beginning */
	char	   *upto;			/* the first one beyond; NULL: to the end */
	char	   *began;			/* when its comparison did */
} Part;

/*
 * next_part chooses the part of a table to compare next, and has which choose
 * its rows; false for a table that is compared as a whole.
 */
static bool
next_part(RehomeSlice *slice, RehomeMapping *mapping, Part *part, RehomeScope *which)
{
	const char *key = quote_identifier(mapping->key[0]->name);
	StringInfoData filter;
	RehomeRows *rows;
	int64		done = 0;

	if (rehome_verify_part_rows == 0 || !rehome_touched_divisible(mapping))
		return false;
	part->from = rehome_touched_upto(slice, mapping, &done);
	rows = rehome_spi_as(slice->migration->owner, true,
						 psprintf("SELECT %s FROM %s%s ORDER BY %s OFFSET %d LIMIT 1", key,
								  rehome_relation_name(mapping->map->target),
								  part->from ? psprintf(" WHERE %s >= '%s'::int8", key, part->from) : "", key,
								  rehome_verify_part_rows));
	part->upto = rows->n > 0 ? rows->value[0][0] : NULL;
	if (part->from == NULL && part->upto == NULL)
		return false;

	/* the operators are not to be those of the caller's search_path */
	initStringInfo(&filter);
	if (part->from != NULL)
		appendStringInfo(&filter, "%s OPERATOR(pg_catalog.>=) '%s'::pg_catalog.int8", key, part->from);
	if (part->upto != NULL)
		appendStringInfo(&filter, "%s%s OPERATOR(pg_catalog.<) '%s'::pg_catalog.int8", filter.len > 0 ? " AND " : "",
						 key, part->upto);
	else
		appendStringInfo(&filter, " OR %s IS NULL", key);	/* which the source may allow */
	which->filter = filter.data;
	if (part->from != NULL)
		rehome_pace_rows(done);
	part->began = rehome_spi_value("SELECT clock_timestamp()", "");
	return true;
}

/*
 * end_part writes down that a part was compared, and says what is to say.
 */
static void
end_part(RehomeSlice *slice, RehomeMapping *mapping, Part *part, const RehomeVerdict *verdict,
		 const char *snapshot)
{
	Oid			target = mapping->map->target;
	char	   *name = rehome_relation_name(target);
	char	   *since;
	int64		rows;
	int64		open;

	since = rehome_touched_part(slice, mapping, part->from == NULL, part->upto,
								Max(verdict->source_rows, verdict->target_rows), verdict->recorded, part->began, &rows);
	if (part->upto != NULL)
	{
		if (!rehome_verdict_equal(verdict))
			tell_verdict(target, verdict, psprintf("rows with %s below %s", mapping->key[0]->name, part->upto));
		return;
	}
	rehome_discrepancies_close(slice, target, since, snapshot);
	open = rehome_int64(rehome_spi_value("SELECT count(*) FROM rehome.discrepancy WHERE migration = $1::name"
										 " AND slice = $2::name AND target = $3 AND resolved_at IS NULL", "tto",
										 slice->migration->name, slice->name, target));
	if (open > 0 || !verdict->recorded || !rehome_verdict_equal(verdict))
		ereport(WARNING, errmsg("%s differs; " INT64_FORMAT " rows compared in parts since %s, " INT64_FORMAT " differences on record",
								name, rows, since, open));
	else
		ereport(NOTICE, errmsg("%s is equal; " INT64_FORMAT " rows compared in parts since %s", name, rows, since));
}

/* One verification of a slice, and what has come of it so far. */
typedef struct Pass
{
	RehomeSlice *slice;
	RehomeConn *conn;
	RehomeVerifyMode mode;
	const RehomeScope *scope;
	char	   *snapshot;
	bool		moving;			/* the source is being written to */
	bool		in_parts;
	ReturnSetInfo *rsinfo;
	int			ntables;
	int			nincremental;
	int			failed;
	int64		rows;
	int64		wrong;
	bool		more;			/* of the table that is compared in parts */
} Pass;

/*
 * note_compared writes down, for later passes, that a table was compared: as
 * much of it as which says, or a part.
 */
static void
note_compared(Pass *pass, RehomeMapping *mapping, const RehomeScope *which, Part *part,
			  const RehomeVerdict *verdict)
{
	if (part != NULL)
	{
		end_part(pass->slice, mapping, part, verdict, pass->snapshot);
		pass->more = part->upto != NULL;
		return;
	}
	/* a difference that is not on record is known by no key */
	if (pass->conn != NULL && !verdict->counted_only && !verdict->recorded)
		rehome_touched_forget(mapping->map);
	if (verdict->counted_only || !rehome_scope_is_whole(pass->scope))
		return;
	if (rehome_verdict_equal(verdict) && pass->slice->state == REHOME_SYNCING)
	{
		/* whatever made them, the rows are what the rules make */
		rehome_spi("UPDATE rehome.table_map SET rules_hash = rehome.rules_hash(id) WHERE id = $1"
				   " AND rules_hash IS DISTINCT FROM rehome.rules_hash(id)", "i", mapping->map->id);
		if (!which->touched)
			rehome_drift_unguarded_known(pass->slice, mapping->map);
	}
	if (pass->conn != NULL && verdict->recorded)
		rehome_touched_restart(pass->slice, mapping, !which->touched, Max(verdict->source_rows, verdict->target_rows));
}

/*
 * verify_table compares a table, or the next part of it, and puts its row.
 */
static void
verify_table(Pass *pass, RehomeTableMap *map)
{
	static const char *const doing = "it was compared";
	RehomeSlice *slice = pass->slice;
	TimestampTz began = GetCurrentTimestamp();
	RehomeMapping *mapping;
	RehomeScope which = *pass->scope;
	RehomeVerdict verdict;
	Part		part = {0};
	bool		parted;
	char	   *note = NULL;

	rehome_pace_table(pass->conn, map->target);
	mapping = rehome_mapping_compile(map, slice->migration->owner);
	if (which.touched)
	{
		note = pass->conn == NULL ? "the source can only be copied from" : rehome_touched_collect(pass->conn, slice, mapping);
		which.touched = note == NULL;
		note = note == NULL ? NULL : psprintf("all rows: %s", note);
	}
	parted = pass->in_parts && pass->conn != NULL && !which.touched && next_part(slice, mapping, &part, &which);
	if (pass->moving)
		rehome_forward_hold(pass->conn, map, doing);
	rehome_compare(pass->conn, slice, mapping, pass->mode, &which, pass->snapshot, &verdict);
	if (pass->moving)
		rehome_forward_let_go(pass->conn, map, doing);
	/* a count alone cannot tell rows that are to stay from others */
	if (verdict.counted_only && map->on_delete == 'i')
		verdict.kept = Max(verdict.target_rows - (verdict.source_rows - verdict.quarantined), 0);

	pass->failed += rehome_verdict_equal(&verdict) ? 0 : 1;
	pass->wrong += verdict.missing + verdict.extra + verdict.differing;
	if (which.touched)
	{
		note = pass_note(map, verdict.keys);
		pass->nincremental++;
		pass->rows += rehome_int64(rehome_spi_value("SELECT rows FROM rehome.full_pass WHERE table_map_id = $1", "i", map->id));
	}
	else
	{
		rehome_pace_rows(Max(verdict.source_rows, verdict.target_rows));
		pass->rows += Max(verdict.source_rows, verdict.target_rows);
	}
	note_compared(pass, mapping, &which, parted ? &part : NULL, &verdict);
	if (!parted)
		rehome_verdict_put(pass->rsinfo, slice, map->target, &verdict, pass->snapshot, began, note);
}

/*
 * verify_slice compares all tables of a slice and puts a row each.  With
 * in_parts a large target, the only one asked for, is compared in part; true
 * when there is more of it.
 */
static bool
verify_slice(RehomeCall *call, RehomeSlice *slice, Oid target, RehomeVerifyMode mode,
			 const RehomeScope *scope, ReturnSetInfo *rsinfo, bool in_parts)
{
	Pass		pass = {.slice = slice,.mode = mode,.scope = scope,.in_parts = in_parts,.rsinfo = rsinfo};
	bool		whole = !OidIsValid(target) && rehome_scope_is_whole(scope);
	List	   *maps;
	List	   *compared;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext table = AllocSetContextCreate(context, "pg_rehome table compared", ALLOCSET_DEFAULT_SIZES);
	ListCell   *lc;

	rehome_slice_work_lock(slice);
	rehome_slice_require_running(slice);
	rehome_slice_require_way_back(slice, "verify");
	if (slice->state == REHOME_CUT_OVER)
		rehome_call_require_unwritten(call, "rehome.verify()");
	maps = rehome_table_maps_require(slice);
	compared = to_compare(maps, target);
	pass.conn = rehome_verify_freeze(slice, maps, compared, &pass.snapshot);
	pass.moving = pass.conn != NULL && slice->state == REHOME_SYNCING;
	begin_pace(compared);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (OidIsValid(target) && map->target != target)
			continue;
		pass.ntables++;
		if (map->paused)
		{
			rehome_verdict_put(rsinfo, slice, map->target, NULL, pass.snapshot, GetCurrentTimestamp(),
							   psprintf("paused: %s", map->reason));
			pass.failed++;
			whole = false;		/* what was not looked at is not verified */
			continue;
		}
		MemoryContextSwitchTo(table);
		verify_table(&pass, map);
		MemoryContextSwitchTo(context);
		MemoryContextReset(table);
	}
	if (slice->state == REHOME_SYNCING && rehome_scope_is_whole(scope) && !pass.more)
		rehome_verify_derived(slice, target, pass.snapshot, rsinfo, &pass.ntables, &pass.failed, &pass.rows, &pass.wrong);
	rehome_pace_end();
	PopActiveSnapshot();
	if (pass.conn != NULL)
	{
		if (slice->state == REHOME_CUT_OVER)
			rehome_conn_commit(pass.conn);
		rehome_conn_close(pass.conn);
	}
	rehome_event(slice->migration->name, slice->name, whole ? "verified" : "verified_part",
				 pass.failed == 0 ? psprintf("%d tables equal at %s", pass.ntables, pass.snapshot) :
				 psprintf("%d of %d tables differ, or are paused, at %s", pass.failed, pass.ntables, pass.snapshot),
				 rehome_rules_detail(slice, psprintf("{\"mode\": \"%s\", \"rows\": " INT64_FORMAT ", \"wrong\": " INT64_FORMAT ", \"incremental\": %d}",
													 mode_name(mode), pass.rows, pass.wrong, pass.nincremental)));
	return pass.more;
}

PG_FUNCTION_INFO_V1(rehome_verify);

/*
 * get_scope reads the arguments that say which rows to compare: sample, seed,
 * filter and incremental.
 */
static void
get_scope(FunctionCallInfo fcinfo, RehomeCall *call, RehomeVerifyMode mode, RehomeScope *scope)
{
	RehomeProblems problems;

	memset(scope, 0, sizeof(*scope));
	scope->call = call;
	rehome_problems_init(&problems);
	if (!PG_ARGISNULL(4))
	{
		scope->sample = PG_GETARG_FLOAT8(4);
		if (!(scope->sample > 0 && scope->sample <= 1))
			rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
						   "sample is %g; it is a share of the rows, more than 0 and at most 1.", scope->sample);
	}
	if (PG_ARGISNULL(5))
		rehome_problem(&problems, ERRCODE_NULL_VALUE_NOT_ALLOWED, NULL, "seed is null.");
	else
		scope->seed = PG_GETARG_INT32(5);
	if (!PG_ARGISNULL(6))
	{
		scope->filter = text_to_cstring(PG_GETARG_TEXT_PP(6));
		if (PG_ARGISNULL(3))
			rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
						   "filter is given without the target whose key it reads.");
	}
	if (PG_ARGISNULL(7))
		rehome_problem(&problems, ERRCODE_NULL_VALUE_NOT_ALLOWED, NULL, "incremental is null.");
	else
		scope->touched = PG_GETARG_BOOL(7);
	if (scope->touched && !rehome_scope_is_whole(scope))
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE, "Leave out sample and filter, or incremental.",
					   "incremental is about all rows that were touched; sample and filter choose among all rows.");
	if (scope->touched && mode == REHOME_VERIFY_COUNT)
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE, "Use mode hash or rows.",
					   "A count says nothing about the rows that were touched.");
	rehome_problems_raise(&problems, "what is to be verified cannot be chosen like this");
}

/*
 * rehome_verify(migration name, slice name, mode text, target regclass,
 *				 sample float8, seed int, filter text, incremental boolean)
 */
Datum
rehome_verify(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeVerifyMode mode;
	RehomeScope scope;
	Oid			target = PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3);
	int			slice_id = 0;
	List	   *slices;
	ListCell   *lc;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("migration and mode must be given"));
	mode = parse_mode(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	InitMaterializedSRF(fcinfo, 0);
	rehome_call_begin(&call, fcinfo);
	get_scope(fcinfo, &call, mode, &scope);
	migration = rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));
	if (scope.filter != NULL)
		rehome_require_owner(&call, migration); /* it is run with his rights */
	if (OidIsValid(target))
	{
		slice_id = rehome_derived_slice(migration, target);
		if (slice_id == 0)
			slice_id = rehome_table_map_of(migration, target)->slice_id;
	}
	slices = slice_id == 0 ? rehome_slices_moved(migration, REHOME_ARG_NAME(1)) : rehome_slices_named(migration, REHOME_ARG_NAME(1));
	if (slice_id != 0)
	{
		RehomeSlice *mapped = rehome_slice_by_id(slice_id);

		if (!PG_ARGISNULL(1) && ((RehomeSlice *) linitial(slices))->id != slice_id)
			ereport(ERROR,
					errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("table %s is not mapped in slice \"%s\" of migration \"%s\"", rehome_relation_name(target),
						   ((RehomeSlice *) linitial(slices))->name, migration->name),
					errhint("It belongs to slice \"%s\".", mapped->name));
		slices = list_make1(mapped);
	}
	foreach(lc, slices)
	{
		RehomeSlice *slice = lfirst(lc);

		(void) verify_slice(&call, slice, target, mode, &scope, (ReturnSetInfo *) fcinfo->resultinfo, false);
	}
	rehome_call_end(&call);
	return (Datum) 0;
}

/*
 * targets_of lists the targets of a slice, those of its table maps first, as
 * OIDs.
 */
static List *
targets_of(RehomeSlice *slice)
{
	RehomeRows *rows = rehome_spi("SELECT target::oid FROM (SELECT target, 1 AS part, id FROM rehome.table_map WHERE slice_id = $1"
								  " UNION ALL SELECT target, 2, min(id) FROM rehome.derivation d WHERE slice_id = $1"
								  "  AND NOT EXISTS (SELECT FROM rehome.table_map t WHERE t.slice_id = $1 AND t.target = d.target)"
								  "  GROUP BY target) AS t ORDER BY part, id", "i", slice->id);
	List	   *targets = NIL;

	for (int i = 0; i < rows->n; i++)
		targets = lappend_oid(targets, (Oid) rehome_int64(rows->value[i][0]));
	return targets;
}

PG_FUNCTION_INFO_V1(rehome_verify_tables);

/*
 * rehome_verify_tables(migration name, slice name, mode text): table by table,
 * each, or each part of a large one, in a transaction of its own, and
 * incrementally where that is possible; so it can be broken off and called
 * again.
 */
Datum
rehome_verify_tables(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeVerifyMode mode;
	RehomeScope scope = {0};
	MemoryContext context;
	ListCell   *lc;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("migration and mode must be given"));
	mode = parse_mode(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	rehome_call_begin(&call, fcinfo);
	rehome_call_require_nonatomic(&call, "rehome.verify_tables()");
	scope.call = &call;
	scope.touched = mode != REHOME_VERIFY_COUNT;
	context = AllocSetContextCreate(call.context, "pg_rehome verify_tables", ALLOCSET_DEFAULT_SIZES);
	migration = rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));
	foreach(lc, rehome_slices_moved(migration, REHOME_ARG_NAME(1)))
	{
		RehomeSlice *slice = lfirst(lc);
		ListCell   *target;

		foreach(target, targets_of(slice))
		{
			bool		more;

			do
			{
				RehomeSlice *now;

				MemoryContextSwitchTo(context);
				now = rehome_slice_by_id(slice->id);
				if (now == NULL)
					ereport(ERROR,
							errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("slice \"%s\" has been dropped meanwhile", slice->name));
				more = verify_slice(&call, now, lfirst_oid(target), mode, &scope, NULL, mode != REHOME_VERIFY_COUNT);
				MemoryContextReset(context);
				rehome_call_commit(&call);
			} while (more);
		}
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
