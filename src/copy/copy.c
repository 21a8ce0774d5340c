/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  The initial copy of a slice, from planned to syncing.
 *
 * What is durable, in order, and what a crash after it leaves to do:
 *
 *	1. state copying; guard on the targets.  One local transaction.  After a
 *	   crash: go on with 2.
 *	2. capture at the source, a transaction a table; the local record of it.
 *	   Repeatable: what is there is left alone.
 *	3. a source transaction takes ACCESS SHARE on all tables and then its
 *	   snapshot S0, which becomes the position, together with the chunks, and
 *	   indexes and constraints stored and dropped: one local transaction.  S0
 *	   outlives the source transaction: everything not visible in it is in the
 *	   change tables.
 *	4. chunk by chunk: rows and done mark.  After a crash, the chunks that are
 *	   not done are copied under a new snapshot, leaving out the keys changed
 *	   since S0 (see chunk.c).
 *	5. index by index, constraint by constraint (see saved_object.c).
 *	6. after a crash, a first batch, before the foreign keys: the rows left
 *	   out may be those that these refer to.  The position is the batch's then.
 *	7. state syncing, at position S0 or that of the batch.
 *
 * The leader may be a session in CALL rehome.copy() or the sync worker.  It
 * holds the leader lock throughout, and the work lock in each transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "capture/capture.h"
#include "catalog/definition.h"
#include "copy/copy.h"
#include "derive/derive.h"
#include "errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/name.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/*
 * require_empty raises when targets, which are locked, have rows.
 */
static void
require_empty(RehomeSlice *slice, List *maps)
{
	RehomeProblems problems;
	ListCell   *lc;

	rehome_problems_init(&problems);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (!rehome_target_is_empty(map->target, slice->migration->owner))
			rehome_problem(&problems, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   "TRUNCATE them, or leave them out of the migration.",
						   "Table %s has rows.", rehome_relation_name(map->target));
	}
	rehome_problems_raise(&problems, "the targets of slice \"%s\" are not empty", slice->name);
}

/*
 * rehome_copy_begin is step 1.  The work lock is held.
 */
void
rehome_copy_begin(RehomeCall *call, RehomeSlice *slice)
{
	List	   *maps = rehome_table_maps_require(slice);
	int			ntables = list_length(maps);

	rehome_slice_require(slice, "start", REHOME_PLANNED, REHOME_PLANNED);
	if (maps == NIL)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("slice \"%s\" of migration \"%s\" has no tables",
					   slice->name, slice->migration->name),
				errhint("SELECT rehome.add_table(%s, '<source>', '<target>');",
						quote_literal_cstr(slice->migration->name)));
	maps = list_concat(maps, rehome_derived_targets(slice));
	rehome_targets_lock(maps, AccessExclusiveLock);
	require_empty(slice, maps);
	if (slice->migration->live)
	{
		rehome_target_guard(slice, maps);
		rehome_target_note_partitions(maps);
	}
	rehome_slice_set_state(slice, REHOME_COPYING, "copy",
						   psprintf("copy of %d tables begins", ntables),
						   rehome_rules_detail(slice, NULL));
}

/*
 * report_done logs the figures and ends the copy.
 */
static void
report_done(RehomeSlice *slice, TimestampTz began)
{
	RehomeRows *sums;
	double		seconds = TimestampDifferenceMilliseconds(began, GetCurrentTimestamp()) / 1000.0;

	sums = rehome_spi("SELECT coalesce(sum(c.rows), 0), coalesce(sum(c.bytes), 0), count(DISTINCT t.id)"
					  " FROM rehome.table_map t LEFT JOIN rehome.chunk c ON c.table_map_id = t.id"
					  " WHERE t.slice_id = $1", "i", slice->id);
	rehome_derive(slice, true);
	rehome_slice_set_state(slice, REHOME_SYNCING, "copied",
						   psprintf("copied %s rows of %s tables in %.1f s",
									sums->value[0][0], sums->value[0][2], seconds),
						   rehome_rules_detail(slice,
											   psprintf("{\"rows\": %s, \"bytes\": %s, \"seconds\": %.3f}",
														sums->value[0][0], sums->value[0][1], seconds)));
	rehome_drift_begin(slice);
	ereport(NOTICE,
			errmsg("slice \"%s\": copied %s rows of %s tables in %.1f s", slice->name,
				   sums->value[0][0], sums->value[0][2], seconds));
}

/*
 * copy_once copies from a source that is read but once: all tables in one
 * transaction.
 */
static void
copy_once(RehomeSlice *slice, TimestampTz began)
{
	ListCell   *lc;

	foreach(lc, rehome_table_maps_require(slice))
	{
		RehomeTableMap *map = lfirst(lc);
		int64		n = rehome_load_local(slice, rehome_mapping_compile(map, slice->migration->owner));

		rehome_spi("INSERT INTO rehome.chunk (slice_id, table_map_id, part_schema, part_table, part_filenode, rows, done_at)"
				   " SELECT $1, $2, n.nspname, c.relname, 0, $4, clock_timestamp() FROM pg_class c"
				   " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $3",
				   "iiol", slice->id, map->id, map->source, n);
		rehome_spi("UPDATE rehome.table_map SET copied_at = clock_timestamp(), rules_hash = rehome.rules_hash(id) WHERE id = $1", "i", map->id);
	}
	report_done(slice, began);
}

/*
 * lock_and_snapshot opens the source transaction of the copy: locks, then
 * snapshot, so that no TRUNCATE can come in between.  Fills in the job and
 * returns the snapshot's text.
 */
static char *
lock_and_snapshot(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeCopyJob *job)
{
	char	   *sql = psprintf("LOCK TABLE %s IN ACCESS SHARE MODE", rehome_remote_relations(maps, false));
	RehomeRows *rows;

	for (int attempt = 0;; attempt++)
	{
		RehomeRemoteError error;

		rehome_conn_begin(conn, "ISOLATION LEVEL REPEATABLE READ");
		rehome_conn_exec(conn, psprintf("SET LOCAL lock_timeout = %d", rehome_lock_timeout));
		if (rehome_conn_try(conn, sql, &error))
			break;
		if (strcmp(error.sqlstate, "55P03") != 0)
			rehome_conn_raise(conn, &error, sql);
		rehome_conn_rollback(conn);
		if (attempt >= rehome_lock_retries)
			rehome_source_raise_locked(conn, maps, true);
		rehome_back_off(attempt);
	}
	rows = rehome_conn_query(conn, "SELECT pg_export_snapshot(), txid_current_snapshot(), pg_current_wal_insert_lsn()", "");
	rehome_source_flushed(conn, slice, rows->value[0][2], true);
	strlcpy(job->snapshot, rows->value[0][0], sizeof(job->snapshot));
	return rows->value[0][1];
}

/*
 * still_copying takes the work lock in a new transaction and looks whether
 * the copy is still wanted.
 */
static void
still_copying(RehomeSlice *slice)
{
	rehome_slice_work_lock(slice);
	rehome_slice_require(slice, "copy", REHOME_COPYING, REHOME_COPYING);
	rehome_slice_require_running(slice);
}

/*
 * check_complete raises when the workers left something undone; foreign keys
 * are not theirs when the copy was resumed.
 */
static void
check_complete(RehomeSlice *slice, bool resumed)
{
	RehomeRows *left;

	left = rehome_spi("SELECT (SELECT count(*) FROM rehome.chunk WHERE slice_id = $1 AND done_at IS NULL),"
					  " (SELECT count(*) FROM rehome.saved_object WHERE slice_id = $1 AND rebuilt_at IS NULL"
					  "  AND deferred IS NULL AND NOT ($2 AND kind = 'foreign key')),"
					  " (SELECT count(*) FROM rehome.table_map WHERE slice_id = $1 AND copied_at IS NULL),"
					  " (SELECT error FROM rehome.slice WHERE id = $1)", "ib", slice->id, resumed);
	if (rehome_int64(left->value[0][0]) > 0 || rehome_int64(left->value[0][1]) > 0 ||
		rehome_int64(left->value[0][2]) > 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_COPY_INCOMPLETE),
				errmsg("the copy of slice \"%s\" is not complete", slice->name),
				errdetail("%s chunks and %s indexes and constraints of %s tables are left. Last error of a worker: %s",
						  left->value[0][0], left->value[0][1], left->value[0][2],
						  left->value[0][3] ? left->value[0][3] : "none"),
				errhint("CALL rehome.copy(%s, %s) goes on where it stopped.",
						quote_literal_cstr(slice->migration->name), quote_literal_cstr(slice->name)));
}

/*
 * plan_load takes the targets for the moment in which indexes and constraints
 * are dropped, and plans the chunks.
 */
static void
plan_load(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	int			level = NewGUCNestLevel();

	rehome_targets_lock(maps, AccessExclusiveLock);
	/* foreign keys may refer to tables that are none of ours */
	rehome_limit_lock_waits(rehome_lock_timeout);
	rehome_chunk_plan(conn, slice, maps);
	AtEOXact_GUC(true, level);
}

/*
 * catch_up is step 6.  Each part is committed: the batch, since validation may
 * take long; then all keys together, which locks what they refer to; then the
 * validation of each.  What is undone after a failure is done after the batch
 * that comes then.
 */
static void
catch_up(RehomeCall *call, RehomeSlice *slice)
{
	RehomeConn *conn = rehome_slice_connect(slice, "copy");
	RehomeBatch batch;

	rehome_forward_batch(conn, slice, rehome_table_maps_get(slice), false, NIL, &batch);
	rehome_conn_close(conn);
	do
	{
		rehome_call_commit(call);
		rehome_debug_point("caught-up");
		still_copying(slice);
	} while (rehome_saved_key_one(slice));
}

/*
 * copy_live is steps 2 to 7.
 */
static void
copy_live(RehomeCall *call, RehomeSlice *slice, TimestampTz began)
{
	RehomeMigration *migration = slice->migration;
	RehomeConn *conn;
	List	   *maps;
	RehomeCopyJob job = {.database = MyDatabaseId,.slice_id = slice->id};
	char	   *position;

	still_copying(slice);
	maps = rehome_table_maps_require(slice);
	conn = rehome_slice_connect(slice, "copy");
	if (rehome_source_remember(conn, migration))
	{
		rehome_commit_durably();
		rehome_call_commit(call);
		still_copying(slice);
		maps = rehome_table_maps_require(slice);
	}
	rehome_source_install(conn, slice, maps);
	rehome_call_commit(call);
	rehome_debug_point("capture-installed");

	still_copying(slice);
	position = lock_and_snapshot(conn, slice, maps, &job);
	if (slice->position == NULL)
	{
		plan_load(conn, slice, maps);
		rehome_slice_set_position(slice, position, 0, 0);
	}
	else
	{
		job.resumed = true;
		rehome_chunk_replan(conn, slice, maps);
		rehome_event(migration->name, slice->name, "copy", "copy resumed", rehome_rules_detail(slice, NULL));
	}
	ereport(NOTICE,
			errmsg("slice \"%s\": copying %d tables at snapshot %s", slice->name,
				   list_length(maps), position));
	job.run = rehome_int64(rehome_spi_value("UPDATE rehome.slice SET copy_run = copy_run + 1, error = NULL, error_since = NULL"
											" WHERE id = $1 RETURNING copy_run", "i", slice->id));
	rehome_call_commit(call);
	rehome_debug_point("chunks-planned");

	rehome_copy_launch(call, &job);
	rehome_conn_rollback(conn);
	rehome_conn_close(conn);
	rehome_call_commit(call);	/* to see what the workers did */

	still_copying(slice);
	check_complete(slice, job.resumed);
	if (job.resumed)
		catch_up(call, slice);
	report_done(slice, began);
}

/*
 * rehome_copy_slice copies a slice that is copying, to the end.  The frame
 * may commit, and the copy is committed when this returns.  False when
 * another session leads the copy already.
 */
bool
rehome_copy_slice(RehomeCall *call, RehomeSlice *slice)
{
	TimestampTz began = GetCurrentTimestamp();

	if (!rehome_copy_lead(slice->id))
		return false;
	PG_TRY();
	{
		if (slice->migration->live)
			copy_live(call, slice, began);
		else
		{
			still_copying(slice);
			copy_once(slice, began);
		}
		rehome_call_commit(call);
	}
	PG_FINALLY();
	{
		rehome_copy_unlead(slice->id);
	}
	PG_END_TRY();
	return true;
}
