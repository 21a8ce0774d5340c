/*-------------------------------------------------------------------------
 *
 * move.c
 *	  The procedures that move data and authority: what a DBA calls.
 *
 * Each takes a migration and a slice, or all its slices when that is null,
 * one after the other.  cutover and rollback run in the caller's transaction
 * when there is one; the others that go in steps refuse to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "apply/apply.h"
#include "capture/capture.h"
#include "copy/copy.h"
#include "cutover/cutover.h"
#include "errors.h"
#include "miscadmin.h"
#include "monitor/preflight.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "worker/worker.h"

/*
 * named_slices returns the slices that arguments 0 (migration) and 1 (slice,
 * null: all that have not ended) name.
 */
static List *
named_slices(FunctionCallInfo fcinfo)
{
	return rehome_slices_named(rehome_migration_argument(fcinfo), REHOME_ARG_NAME(1));
}

/*
 * moved_slices returns those of them that have something to move.
 */
static List *
moved_slices(FunctionCallInfo fcinfo)
{
	return rehome_slices_moved(rehome_migration_argument(fcinfo), REHOME_ARG_NAME(1));
}

/*
 * ended_as returns those of the slices that have ended in state end, if all have
 * ended, some of them so: it is these that a call which ends them is about.
 */
static List *
ended_as(List *slices, RehomeState end)
{
	List	   *so = NIL;
	ListCell   *lc;

	foreach(lc, slices)
	{
		RehomeSlice *slice = lfirst(lc);

		if (!rehome_slice_ended(slice))
			return slices;
		if (slice->state == end)
			so = lappend(so, slice);
	}
	return so != NIL ? so : slices;
}

static void
require_live(RehomeSlice *slice, const char *call)
{
	if (!slice->migration->live)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("cannot %s migration \"%s\": its source can only be copied from", call,
					   slice->migration->name),
				errdetail("Changes are captured on PostgreSQL sources, reached through postgres_fdw."),
				errhint("CALL rehome.copy(%s); copies it once.", quote_literal_cstr(slice->migration->name)));
}

PG_FUNCTION_INFO_V1(rehome_start);

/*
 * rehome_start(migration, slice): what takes time is the worker's.
 */
Datum
rehome_start(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	foreach(lc, moved_slices(fcinfo))
	{
		RehomeSlice *slice = lfirst(lc);

		require_live(slice, "start");
		rehome_slice_work_lock(slice);
		if (slice->state == REHOME_COPYING || slice->state == REHOME_SYNCING)
			ereport(NOTICE,
					errmsg("slice \"%s\" is %s already", slice->name, rehome_state_name(slice->state)));
		else
		{
			rehome_slice_require(slice, "start", REHOME_PLANNED, REHOME_PLANNED);
			rehome_slice_require_running(slice);
			rehome_preflight_require(slice);
			rehome_copy_begin(&call, slice);
		}
		rehome_slice_require_running(slice);
		rehome_worker_request(slice);
	}
	rehome_commit_durably();	/* whoever was told that it goes on need not look again */
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_copy);

/*
 * rehome_copy(migration, slice): in the foreground, to the end of the copy.
 */
Datum
rehome_copy(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	rehome_call_require_nonatomic(&call, "rehome.copy()");
	foreach(lc, moved_slices(fcinfo))
	{
		RehomeSlice *slice = lfirst(lc);

		rehome_slice_work_lock(slice);
		if (slice->state == REHOME_SYNCING)
		{
			ereport(NOTICE, errmsg("slice \"%s\" is copied already", slice->name));
			continue;
		}
		rehome_slice_require(slice, "copy", REHOME_PLANNED, REHOME_COPYING);
		rehome_slice_require_running(slice);
		if (slice->state == REHOME_PLANNED)
		{
			rehome_preflight_require(slice);
			rehome_copy_begin(&call, slice);
		}
		rehome_call_commit(&call);
		if (!rehome_copy_slice(&call, slice))
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_IN_USE),
					errmsg("slice \"%s\" is being copied by another session", slice->name),
					errhint("Watch it in rehome.progress."));
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * tell_paused raises when tables of the slice were left out of a batch, which
 * is committed; where it is not, an error would undo it.
 */
static void
tell_paused(RehomeCall *call, RehomeSlice *slice, List *maps)
{
	RehomeProblems problems;

	rehome_problems_init(&problems);
	rehome_maps_paused(slice, maps, &problems);
	if (problems.n > 0 && !call->nonatomic)
		ereport(WARNING,
				errcode(ERRCODE_REHOME_PAUSED),
				errmsg("tables of slice \"%s\" of migration \"%s\" are paused, and were left out",
					   slice->name, slice->migration->name),
				errdetail_internal("%s", problems.text.data),
				errhint("%s", problems.hint));
	else
		rehome_problems_raise(&problems, "tables of slice \"%s\" of migration \"%s\" are paused, and were left out",
							  slice->name, slice->migration->name);
}

PG_FUNCTION_INFO_V1(rehome_sync);

/*
 * rehome_sync(migration, slice): to a snapshot taken after the call began.
 */
Datum
rehome_sync(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	foreach(lc, moved_slices(fcinfo))
	{
		RehomeSlice *slice = lfirst(lc);
		RehomeConn *conn;
		List	   *maps;
		int64		n;

		require_live(slice, "sync");
		rehome_slice_work_lock(slice);
		rehome_slice_require(slice, "sync", REHOME_SYNCING, REHOME_CUT_OVER);
		rehome_slice_require_way_back(slice, "sync");
		if (slice->state == REHOME_CUT_OVER)
			rehome_call_require_unwritten(&call, "rehome.sync()");
		rehome_slice_require_running(slice);
		maps = rehome_table_maps_require(slice);
		conn = rehome_slice_connect(slice, "sync");
		if (slice->state == REHOME_SYNCING)
		{
			RehomeBatch batch;

			rehome_forward_batch(conn, slice, maps, false, NIL, &batch);
			n = batch.nrows;
		}
		else
		{
			if (call.nonatomic)
				maps = rehome_reverse_inspected(&call, conn, slice, maps, "sync");
			n = rehome_reverse_batch(conn, slice, maps, NULL, false, NULL);
			if (n < 0)
				rehome_raise_both(slice);
		}
		if (call.nonatomic)
		{
			char	   *position = slice->position;

			rehome_call_commit(&call);
			/* in sync all the same if somebody else was faster */
			if (rehome_slice_try_work_lock(slice->id))
			{
				rehome_slice_reread(slice);
				if (slice->state == REHOME_SYNCING && XactLastCommitEnd <= GetFlushRecPtr(NULL))
				{
					rehome_forward_mark(maps);
					rehome_forward_prune(conn, slice, maps, position);
				}
			}
		}
		rehome_conn_close(conn);
		tell_paused(&call, slice, maps);
		ereport(NOTICE,
				errmsg("slice \"%s\": in sync, " INT64_FORMAT " rows moved", slice->name, n));
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_cutover);

/*
 * rehome_cutover(migration, slice, one_way boolean)
 */
Datum
rehome_cutover(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	bool		one_way = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	foreach(lc, moved_slices(fcinfo))
		rehome_cutover_slice(&call, lfirst(lc), one_way);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_rollback);

Datum
rehome_rollback(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	rehome_call_commit_written(&call);
	foreach(lc, moved_slices(fcinfo))
		rehome_rollback_slice(&call, lfirst(lc));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_complete);

/*
 * rehome_complete(migration, slice, local_only boolean).
 */
Datum
rehome_complete(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	bool		local_only = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	rehome_call_require_nonatomic(&call, "rehome.complete()");
	rehome_call_commit_written(&call);
	foreach(lc, ended_as(moved_slices(fcinfo), REHOME_COMPLETED))
		rehome_complete_slice(&call, lfirst(lc), local_only);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_cancel);

/*
 * rehome_cancel(migration, slice, local_only boolean).  What one slice could
 * not rebuild for want of what another had taken off is tried again at the end.
 */
Datum
rehome_cancel(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	bool		local_only = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	List	   *slices;
	bool		rebuilt = true;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	rehome_call_require_nonatomic(&call, "rehome.cancel()");
	slices = ended_as(named_slices(fcinfo), REHOME_CANCELLED);
	foreach(lc, slices)
		rebuilt = rehome_cancel_slice(&call, lfirst(lc), local_only) && rebuilt;
	if (!rebuilt)
		foreach(lc, slices)
			(void) rehome_saved_rebuild(lfirst(lc), WARNING);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * recover_one ends what was interrupted of one slice; for rehome_attempt.
 */
static void
recover_one(void *arg)
{
	RehomeSlice *slice = arg;

	rehome_slice_work_lock(slice);
	if (slice->restored)
		rehome_slice_require_running(slice);
	rehome_recover_slice(slice);
	if (slice->continuous && !slice->paused)
		rehome_worker_request(slice);
}

PG_FUNCTION_INFO_V1(rehome_recover);

/*
 * rehome_recover(migration): of all migrations when that is null.  Also
 * makes sure that every slice that should have a worker has one.  One that
 * cannot be recovered keeps no other from it.
 */
Datum
rehome_recover(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeProblems problems;
	RehomeRows *rows;

	rehome_call_begin(&call, fcinfo);
	rehome_problems_init(&problems);
	if (!PG_ARGISNULL(0))
		(void) rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));	/* raises when there is none */
	rows = rehome_spi("SELECT s.id FROM rehome.slice s JOIN rehome.migration m ON m.id = s.migration_id"
					  " WHERE m.name = coalesce($1::name, m.name)"
					  " AND s.state IN ('copying', 'syncing', 'cutting_over', 'cut_over', 'rolling_back')"
					  " ORDER BY s.id", "t", REHOME_ARG_NAME(0));
	for (int i = 0; i < rows->n; i++)
	{
		RehomeSlice *slice = rehome_slice_by_id(rehome_int(rows->value[i][0]));
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		if (slice == NULL)
			continue;			/* dropped meanwhile */
		error = rehome_attempt(recover_one, slice);
		if (error == NULL)
			ereport(NOTICE,
					errmsg("slice \"%s\" of migration \"%s\" is %s, authority is with: %s", slice->name,
						   slice->migration->name, rehome_state_name(slice->state),
						   rehome_authority_name(slice->authority)));
		else if (rows->n == 1 || error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		else
			rehome_problem(&problems, error->sqlerrcode, error->hint, "Slice \"%s\" of migration \"%s\": %s%s%s", slice->name,
						   slice->migration->name, error->message, error->detail ? ": " : "", error->detail ? error->detail : "");
		if (call.nonatomic)
			rehome_call_commit(&call);
	}
	rehome_problems_raise(&problems, "%d of %d slices could not be recovered", problems.n, rows->n);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_pause);

/*
 * rehome_pause(migration, slice, reason text)
 */
Datum
rehome_pause(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *reason = REHOME_ARG_TEXT(2);
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	foreach(lc, named_slices(fcinfo))
	{
		RehomeSlice *slice = lfirst(lc);

		rehome_slice_require_not_ended(slice, "pause");
		if (rehome_spi("UPDATE rehome.slice SET paused = true, reason = $2 WHERE id = $1 AND NOT paused",
					   "it", slice->id, reason ? reason : "paused by hand")->processed == 0)
			ereport(NOTICE, errmsg("slice \"%s\" is paused already", slice->name));
		else
			rehome_event(slice->migration->name, slice->name, "paused",
						 reason ? reason : "paused by hand", NULL);
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_resume);

/*
 * rehome_resume(migration, slice)
 */
Datum
rehome_resume(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	foreach(lc, named_slices(fcinfo))
	{
		RehomeSlice *slice = lfirst(lc);
		bool		active = slice->state != REHOME_PLANNED && slice->state != REHOME_COMPLETED &&
			slice->state != REHOME_CANCELLED;

		if (!slice->paused)
			ereport(NOTICE, errmsg("slice \"%s\" is not paused", slice->name));
		else
		{
			rehome_spi("UPDATE rehome.slice SET paused = false, reason = NULL,"
					   " database_id = rehome.database_identity() WHERE id = $1", "i", slice->id);
			rehome_event(slice->migration->name, slice->name, "resumed", slice->restored ?
						 "resumed in a restored database" : "resumed", NULL);
		}
		if (active && slice->continuous)
			rehome_worker_request(slice);
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
