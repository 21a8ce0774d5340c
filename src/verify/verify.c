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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "capture/capture.h"
#include "catalog/definition.h"
#include "errors.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "util/name.h"
#include "util/position.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
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
 * Returns the connection, NULL for a source this server reads itself, and
 * the snapshot's text.
 */
RehomeConn *
rehome_verify_freeze(RehomeSlice *slice, List *maps, char **snapshot)
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
	rehome_conn_exec(conn, "SET max_parallel_workers_per_gather = DEFAULT; SET random_page_cost = 1.1");
	if (slice->state == REHOME_SYNCING)
	{
		RehomeBatch batch;

		rehome_forward_batch(conn, slice, maps, true, &batch);
		*snapshot = batch.position;
		CommandCounterIncrement();
		PushActiveSnapshot(GetLatestSnapshot());
	}
	else
	{
		rehome_target_hold(maps);
		PushActiveSnapshot(GetLatestSnapshot());
		*snapshot = rehome_position_of_active();
		if (rehome_reverse_batch(conn, slice, maps, GetActiveSnapshot(), true) < 0)
			rehome_raise_both(slice);
	}
	return conn;
}

/*
 * verify_slice compares all tables of a slice and puts a row each.
 */
static void
verify_slice(RehomeCall *call, RehomeSlice *slice, RehomeVerifyMode mode, ReturnSetInfo *rsinfo)
{
	RehomeConn *conn;
	List	   *maps;
	char	   *snapshot;
	int			failed = 0;
	int64		wrong = 0;
	int64		rows = 0;
	ListCell   *lc;

	rehome_slice_work_lock(slice);
	rehome_slice_require_running(slice);
	rehome_slice_require_way_back(slice, "verify");
	if (slice->state == REHOME_CUT_OVER)
		rehome_call_require_unwritten(call, "rehome.verify()");
	maps = rehome_table_maps_require(slice);
	conn = rehome_verify_freeze(slice, maps, &snapshot);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		TimestampTz began = GetCurrentTimestamp();
		RehomeVerdict verdict;
		Interval   *elapsed = palloc0(sizeof(Interval));
		Datum		values[12];
		bool		nulls[12] = {false};
		bool		ok;

		if (map->paused)
		{
			memset(nulls, true, sizeof(nulls));
			values[0] = DirectFunctionCall1(namein, CStringGetDatum(slice->name));
			values[1] = ObjectIdGetDatum(map->target);
			values[7] = BoolGetDatum(false);
			values[11] = CStringGetTextDatum(psprintf("paused: %s", map->reason));
			nulls[0] = nulls[1] = nulls[7] = nulls[11] = false;
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
			failed++;
			continue;
		}
		rehome_compare(conn, slice, map, mode, snapshot, &verdict);
		if (conn != NULL && slice->state == REHOME_SYNCING && rehome_forward_stale(conn, map))
			ereport(ERROR,
					errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("table %s was truncated or repartitioned at the source while it was compared",
						   rehome_relation_name(map->target)),
					errhint("Verify again."));
		/* a count alone cannot tell rows that are to stay from others */
		if (verdict.counted_only && map->on_delete == 'i')
			verdict.kept = Max(verdict.target_rows - (verdict.source_rows - verdict.quarantined), 0);
		ok = verdict.source_rows - verdict.quarantined == verdict.target_rows - verdict.kept && verdict.missing == 0 &&
			verdict.extra == 0 && verdict.differing == 0;
		if (!ok)
			failed++;
		else if (!verdict.counted_only && slice->state == REHOME_SYNCING)
			/* whatever made them, the rows are what the rules make */
			rehome_spi("UPDATE rehome.table_map SET rules_hash = rehome.rules_hash(id) WHERE id = $1"
					   " AND rules_hash IS DISTINCT FROM rehome.rules_hash(id)", "i", map->id);
		rows += Max(verdict.source_rows, verdict.target_rows);
		wrong += verdict.missing + verdict.extra + verdict.differing;
		elapsed->time = GetCurrentTimestamp() - began;
		values[0] = DirectFunctionCall1(namein, CStringGetDatum(slice->name));
		values[1] = ObjectIdGetDatum(map->target);
		values[2] = Int64GetDatum(verdict.source_rows);
		values[3] = Int64GetDatum(verdict.target_rows);
		values[4] = Int64GetDatum(verdict.missing);
		values[5] = Int64GetDatum(verdict.extra);
		values[6] = Int64GetDatum(verdict.differing);
		nulls[4] = nulls[5] = nulls[6] = verdict.counted_only;
		values[7] = BoolGetDatum(ok);
		values[8] = CStringGetTextDatum(snapshot);
		values[9] = IntervalPGetDatum(elapsed);
		values[10] = Int64GetDatum(verdict.quarantined);
		nulls[11] = true;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	PopActiveSnapshot();
	if (conn != NULL)
	{
		if (slice->state == REHOME_CUT_OVER)
			rehome_conn_commit(conn);
		rehome_conn_close(conn);
	}
	rehome_event(slice->migration->name, slice->name, "verified",
				 failed == 0 ? psprintf("%d tables equal at %s", list_length(maps), snapshot) :
				 psprintf("%d of %d tables differ, or are paused, at %s", failed, list_length(maps), snapshot),
				 rehome_rules_detail(slice, psprintf("{\"mode\": \"%s\", \"rows\": " INT64_FORMAT ", \"wrong\": " INT64_FORMAT "}",
													 mode_name(mode), rows, wrong)));
}

PG_FUNCTION_INFO_V1(rehome_verify);

/*
 * rehome_verify(migration name, slice name, mode text)
 */
Datum
rehome_verify(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeVerifyMode mode;
	ListCell   *lc;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("migration and mode must be given"));
	mode = parse_mode(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	InitMaterializedSRF(fcinfo, 0);
	rehome_call_begin(&call, fcinfo);
	foreach(lc, rehome_slices_get(rehome_migration_get(NameStr(*PG_GETARG_NAME(0))),
								  PG_ARGISNULL(1) ? NULL : NameStr(*PG_GETARG_NAME(1))))
		verify_slice(&call, lfirst(lc), mode, (ReturnSetInfo *) fcinfo->resultinfo);
	rehome_call_end(&call);
	return (Datum) 0;
}
