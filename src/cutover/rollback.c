/*-------------------------------------------------------------------------
 *
 * rollback.c
 *	  Authority goes back from target to source, with the writes made since.
 *
 *	 drain		batches back until one is small
 *	 lock		SHARE ROW EXCLUSIVE on the targets: writers wait (the freeze)
 *	 give back	the last batch, the fence opened, all in one source transaction
 *				that stays open (recover.c)
 *	 switch		guard on, capture off, state rolling_back: authority is nobody's
 *
 * Then the target commits, and right after it the source (with the
 * sequences).  What if it dies in between?
 *
 *	- before the target commits: both roll back; writers go on here.
 *	- after the target, before the source: rolling_back is on disk, the guard
 *	  is on, the fence still closed.  The change tables still have what the
 *	  lost source transaction brought.  recover does it again.
 *	- after the source: recover sees that it has taken over, and all that is
 *	  left is to say so: state syncing, at the source snapshot taken before
 *	  the fence opened.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "capture/capture.h"
#include "cutover/cutover.h"
#include "derive/derive.h"
#include "errors.h"
#include "guc.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/name.h"
#include "util/problems.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "worker/worker.h"

/*
 * rolled_back tells whether the last switch of authority was a rollback.
 */
static bool
rolled_back(RehomeSlice *slice)
{
	RehomeRows *rows = rehome_spi("SELECT e.kind FROM rehome.event e JOIN rehome.migration m ON m.name = e.migration"
								  " WHERE m.id = $1 AND e.slice = $2::name AND e.kind IN ('cutover', 'rollback')"
								  " AND e.at >= m.created_at ORDER BY e.id DESC LIMIT 1", "it",
								  slice->migration->id, slice->name);

	return rows->n > 0 && strcmp(rows->value[0][0], "rollback") == 0;
}

/*
 * take_slice takes the work lock, and raises unless the slice can be rolled
 * back; false, with a notice, when it has been: by an earlier call, or by one
 * that ran beside ours and was faster.
 */
static bool
take_slice(RehomeCall *call, RehomeSlice *slice)
{
	RehomeState before = slice->state;

	rehome_slice_work_lock(slice);
	if (slice->state == REHOME_ROLLING_BACK && before == REHOME_CUT_OVER && call->nonatomic)
	{
		/* who did that meanwhile has yet to note the end; whoever comes first */
		rehome_recover_slice(slice);
		rehome_call_commit(call);
		rehome_slice_work_lock(slice);
	}
	if (slice->state == REHOME_SYNCING && rolled_back(slice))
	{
		ereport(NOTICE, errmsg("slice \"%s\" is rolled back already", slice->name));
		return false;
	}
	rehome_slice_require(slice, "roll back", REHOME_CUT_OVER, REHOME_CUT_OVER);
	rehome_slice_require_running(slice);
	rehome_slice_require_way_back(slice, "roll back");
	return true;
}

/*
 * require_tables raises when tables are paused by themselves: the source lacks
 * what was written to them since.  With caught_up, also when one has not caught
 * up yet: that it has is committed here before the source commits, and so must
 * not be part of the switch.
 */
static void
require_tables(RehomeSlice *slice, List *maps, bool caught_up)
{
	RehomeProblems problems;
	ListCell   *lc;

	rehome_problems_init(&problems);
	rehome_maps_paused(slice, maps, &problems);
	foreach(lc, caught_up ? rehome_maps_behind(maps) : NIL)
		rehome_problem(&problems, ERRCODE_REHOME_PAUSED,
					   psprintf("CALL rehome.sync(%s);", quote_literal_cstr(slice->migration->name)),
					   "%s was paused, and has not caught up yet.",
					   rehome_relation_name(((RehomeTableMap *) lfirst(lc))->target));
	rehome_problems_raise(&problems, "slice \"%s\" of migration \"%s\" cannot be rolled back: the source lacks changes of its tables",
						  slice->name, slice->migration->name);
}

/*
 * claim_tables keeps tables from being paused until the switch, and returns the
 * maps as they are; it waits for who is pausing one no longer than
 * rehome.lock_timeout.
 */
static List *
claim_tables(RehomeSlice *slice)
{
	int			level = NewGUCNestLevel();
	List	   *maps;

	rehome_limit_lock_waits(rehome_lock_timeout);
	rehome_slice_maps_changed(slice);
	AtEOXact_GUC(true, level);
	maps = rehome_table_maps_require(slice);
	require_tables(slice, maps, true);
	return maps;
}

/*
 * drain brings batches back until one is small; false when the slice has been
 * rolled back meanwhile.
 */
static bool
drain(RehomeCall *call, RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	for (int i = 0; i < REHOME_MAX_DRAINS && call->nonatomic; i++)
	{
		int64		n = rehome_reverse_batch(conn, slice, maps, NULL, false, NULL);

		if (n < 0)
			rehome_raise_both(slice);
		rehome_call_commit(call);
		if (!take_slice(call, slice))
			return false;
		if (n <= rehome_cutover_backlog)
			break;
	}
	return true;
}

/*
 * rehome_rollback_slice rolls a slice back.  When the frame may commit, it is
 * syncing again when this returns; else the worker completes it after the
 * caller's COMMIT.
 */
void
rehome_rollback_slice(RehomeCall *call, RehomeSlice *slice)
{
	RehomeFreeze freeze = {0};
	RehomeConn *conn;
	List	   *maps;
	char	   *tail;

	if (!take_slice(call, slice))
		return;
	maps = rehome_table_maps_require(slice);
	conn = rehome_slice_connect(slice, "rollback");
	if (call->nonatomic && rehome_reverse_inspect(conn, slice, maps, true))
	{
		rehome_call_commit(call);
		if (!take_slice(call, slice))
		{
			rehome_conn_close(conn);
			return;
		}
	}
	require_tables(slice, maps, !call->nonatomic);

	ereport(NOTICE, errmsg("slice \"%s\": draining back to the source", slice->name));
	if (!drain(call, conn, slice, maps))
	{
		rehome_conn_close(conn);
		return;
	}
	maps = claim_tables(slice);
	slice->reverse_position = rehome_reverse_reached(conn, slice);
	rehome_targets_lock(list_concat_copy(maps, rehome_derived_maps(slice)), ShareRowExclusiveLock);
	rehome_freeze_begin(&freeze, 0);
	/* DDL may have had its turn since; what is wrong with the source is raised below */
	if (slice->reverse_position != NULL)
		(void) rehome_target_inspect(slice, maps);
	require_tables(slice, maps, true);
	rehome_debug_point("frozen");
	if (!rehome_give_back(conn, slice, maps, &tail))
		rehome_raise_both(slice);
	rehome_freeze_check(&freeze, "the final batch");

	rehome_target_install(slice, maps, false);	/* for partitions added since */
	rehome_target_switch(maps, true, false);
	rehome_derived_switch(slice, true, false);
	rehome_derive_again(slice);
	rehome_slice_set_state(slice, REHOME_ROLLING_BACK, "rollback", "authority has left the target",
						   rehome_freeze_detail(&freeze, 0));
	freeze.event = rehome_last_event();
	rehome_worker_request(slice);
	rehome_freeze_check(&freeze, "the switch");
	rehome_conn_commit_after_local(conn, slice->id, tail);
	if (call->nonatomic)
	{
		rehome_call_commit(call);
		rehome_freeze_record(&freeze);
		rehome_slice_work_wait(slice);
		if (slice->state == REHOME_ROLLING_BACK)
			rehome_recover_slice(slice);
		rehome_call_commit(call);
	}
}
