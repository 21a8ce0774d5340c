/*-------------------------------------------------------------------------
 *
 * handlers.c
 *	  What a sync worker does in each state of its slice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "apply/apply.h"
#include "capture/capture.h"
#include "copy/copy.h"
#include "cutover/cutover.h"
#include "guc.h"
#include "miscadmin.h"
#include "remote/throttle.h"
#include "trust/trust.h"
#include "util/spi.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/sync.h"

/*
 * How often change tables are pruned; and how often an unchanged position is
 * stored, and both sides are looked over, however busy they are.
 */
#define PRUNE_INTERVAL 2000
#define POSITION_INTERVAL 1000

/*
 * A batch of as many rows is followed by the next at once.  After one of fewer
 * the worker takes its nap: a row that changes often is then brought but once,
 * and neither side is asked all the time about all tables for the sake of a few.
 */
#define BUSY_ROWS 1000

/* How often the schedule of checks and queries is looked at. */
#define SCHEDULE_INTERVAL 1000

static bool
older_than(TimestampTz since, int ms)
{
	return TimestampDifferenceExceeds(since, GetCurrentTimestamp(), ms);
}

/*
 * get_ready connects, and reads the maps, unless that has been done.
 */
static void
get_ready(RehomeWorkerState *worker, RehomeSlice *slice)
{
	if (worker->conn == NULL)
		worker->conn = rehome_slice_connect(slice, "sync");
	if (worker->maps == NIL || worker->maps_version != slice->maps_version)
	{
		MemoryContext old;

		worker->maps = NIL;
		MemoryContextReset(worker->maps_context);
		old = MemoryContextSwitchTo(worker->maps_context);
		worker->maps = rehome_table_maps_require(slice);
		worker->maps_version = slice->maps_version;
		worker->positioned_at = 0;
		MemoryContextSwitchTo(old);
	}
}

/*
 * copy leads the copy, unless another session does.
 */
static long
copy(RehomeWorkerState *worker, RehomeCall *call, RehomeSlice *slice)
{
	return rehome_copy_slice(call, slice) ? 0 : rehome_naptime;
}

/*
 * nothing_happened tells whether no transaction has ended at the source since
 * a batch found nothing new.  It is all that an idle source is asked, however
 * many tables there are, until the position is due to be stored again.
 */
static bool
nothing_happened(RehomeWorkerState *worker, RehomeSlice *slice)
{
	return slice->lazy_position && worker->idle_snapshot != NULL &&
		strcmp(worker->idle_snapshot,
			   rehome_conn_value(worker->conn, "SELECT txid_current_snapshot()", "")) == 0;
}

/*
 * see_to_schedule runs checks and queries that are due, between two batches.
 */
static void
see_to_schedule(RehomeWorkerState *worker, RehomeCall *call, RehomeSlice *slice)
{
	if (!older_than(worker->scheduled_at, SCHEDULE_INTERVAL))
		return;
	worker->scheduled_at = GetCurrentTimestamp();
	if (rehome_schedule_due(slice))
		rehome_schedule_run(call, slice);
}

/*
 * forward applies one batch, and prunes what an earlier one has left, once
 * that is on disk: batches commit without waiting for it.
 */
static long
forward(RehomeWorkerState *worker, RehomeCall *call, RehomeSlice *slice)
{
	RehomeBatch batch;

	if (!rehome_slice_try_work_lock(slice->id))
		return rehome_naptime;
	rehome_slice_reread(slice);
	if (slice->state != REHOME_SYNCING || slice->paused)
		return 0;
	get_ready(worker, slice);
	if (rehome_slice_throttled(slice, rehome_throttle_reason(worker->conn)))
		return Max(rehome_naptime, REHOME_THROTTLE_NAP);
	if (slice->throttled != NULL)
		return 0;				/* a batch may be long, and the slice's row is locked */
	if (worker->prune_position != NULL && worker->prune_lsn <= GetFlushRecPtr(NULL) &&
		older_than(worker->pruned_at, PRUNE_INTERVAL))
	{
		rehome_forward_prune(worker->conn, slice, worker->maps, worker->prune_position);
		worker->pruned_at = GetCurrentTimestamp();
		pfree(worker->prune_position);
		worker->prune_position = NULL;
	}

	slice->lazy_position = !older_than(worker->positioned_at, POSITION_INTERVAL);
	if (nothing_happened(worker, slice))
	{
		see_to_schedule(worker, call, slice);
		return rehome_naptime;
	}
	rehome_forward_batch(worker->conn, slice, worker->maps, false, NIL, &batch);
	if (worker->idle_snapshot != NULL)
		pfree(worker->idle_snapshot);
	worker->idle_snapshot = batch.ntables > 0 ? NULL : MemoryContextStrdup(worker->context, batch.position);
	if (!slice->lazy_position)
		worker->positioned_at = GetCurrentTimestamp();
	rehome_commit_lazily();
	rehome_call_commit(call);
	/* what came while an earlier position waited to be pruned has its turn, too */
	worker->prune_wanted = worker->prune_wanted || batch.ntables > 0;
	if (worker->prune_wanted && worker->prune_position == NULL && (batch.ntables > 0 || !slice->lazy_position))
	{
		worker->prune_wanted = false;
		rehome_forward_mark(worker->maps);
		worker->prune_position = MemoryContextStrdup(worker->context, batch.position);
		worker->prune_lsn = XactLastCommitEnd;
	}
	if (batch.nrows < BUSY_ROWS)
		see_to_schedule(worker, call, slice);
	return batch.nrows >= BUSY_ROWS ? 0 : rehome_naptime;
}

/*
 * see_to_partitions gives partitions added on either side since the cutover
 * their triggers.  True when the targets have been locked for that, and are to
 * be let go at once.
 */
static bool
see_to_partitions(RehomeWorkerState *worker, RehomeSlice *slice)
{
	List	   *maps = rehome_maps_running(worker->maps);
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (map->source_parts != NULL)
			rehome_source_cover(worker->conn, slice, map, false);
	}
	if (rehome_target_covered(maps))
		return false;
	rehome_targets_lock(maps, ShareRowExclusiveLock);
	rehome_target_install(slice, maps, false);
	return true;
}

/*
 * reverse brings one batch back to the source.
 */
static long
reverse(RehomeWorkerState *worker, RehomeCall *call, RehomeSlice *slice)
{
	bool		anew = worker->conn == NULL;	/* at first, and after each error */
	int64		n;

	if (!rehome_slice_try_work_lock(slice->id))
		return rehome_naptime;
	rehome_slice_reread(slice);
	if (slice->one_way)
		return -1;
	if (slice->state != REHOME_CUT_OVER || slice->paused)
		return 0;
	get_ready(worker, slice);
	slice->lazy_position = !older_than(worker->positioned_at, POSITION_INTERVAL);
	if ((anew || !slice->lazy_position) && rehome_reverse_inspect(worker->conn, slice, worker->maps, anew))
		return 0;
	if (worker->uncovered && rehome_target_cover(slice, rehome_maps_running(worker->maps)))
	{
		worker->uncovered = false;
		return 0;
	}
	n = rehome_reverse_batch(worker->conn, slice, worker->maps, NULL, false, &worker->uncovered);
	if (worker->uncovered)
		return 0;
	if (n < 0)
		rehome_raise_both(slice);
	if (n > 0 || !slice->lazy_position)
	{
		rehome_spi("UPDATE rehome.slice SET position_at = clock_timestamp(), error = NULL, error_since = NULL,"
				   " rows_applied = rows_applied + $2, batches = batches + 1 WHERE id = $1",
				   "il", slice->id, n);
	}
	if (!slice->lazy_position)
		worker->positioned_at = GetCurrentTimestamp();
	if (older_than(worker->pruned_at, PRUNE_INTERVAL))
	{
		char	   *reached;

		worker->pruned_at = GetCurrentTimestamp();
		if (see_to_partitions(worker, slice))
			return 0;
		rehome_conn_begin(worker->conn, "");
		reached = rehome_reverse_position(worker->conn, slice, NIL, NIL);
		rehome_conn_commit(worker->conn);
		if (reached != NULL)
			rehome_reverse_prune(slice, worker->maps, reached);
	}
	if (n < BUSY_ROWS)
		see_to_schedule(worker, call, slice);
	return n >= BUSY_ROWS ? 0 : rehome_naptime;
}

/*
 * recover ends what a crash has left between two commits.
 */
static long
recover(RehomeWorkerState *worker, RehomeCall *call, RehomeSlice *slice)
{
	rehome_slice_work_lock(slice);
	rehome_recover_slice(slice);
	worker->in_doubt = false;
	return 0;
}

static const RehomeHandler handlers[] = {
	[REHOME_COPYING] = copy,
	[REHOME_SYNCING] = forward,
	[REHOME_CUTTING_OVER] = recover,
	[REHOME_CUT_OVER] = reverse,
	[REHOME_ROLLING_BACK] = recover,
	[REHOME_CANCELLED] = NULL,
};

/*
 * rehome_handler returns what a worker does in a state; NULL: nothing.
 */
RehomeHandler
rehome_handler(RehomeState state, bool in_doubt)
{
	if (state >= lengthof(handlers) || handlers[state] == NULL)
		return NULL;
	return in_doubt ? recover : handlers[state];
}
