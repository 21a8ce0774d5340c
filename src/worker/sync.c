/*-------------------------------------------------------------------------
 *
 * sync.c
 *	  The sync worker: one a slice, doing whatever its state asks for.
 *
 * Each round reads the slice, runs the handler of its state in a frame of its
 * own, and commits.  An error ends the round, not the worker: it is recorded
 * in the slice (rehome.status shows it, and since when), the connection to
 * the source is closed, and the next round comes after a pause that doubles up
 * to rehome.retry_max.
 *
 * The worker ends when the slice is gone, or the extension with it, paused, or
 * in a state without a handler.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/memutils.h"
#include "worker/sync.h"

/*
 * nap waits, looking once a second whether the database is wanted.
 */
static void
nap(long ms)
{
	do
	{
		rehome_pause_for(Min(ms, 1000L));
		rehome_worker_yield_database();
		ms -= 1000L;
	} while (ms > 0);
}

/*
 * back_off waits after an error; a cancel ends the wait and nothing else.
 */
static void
back_off(long ms)
{
	PG_TRY();
	{
		nap(ms);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
}

/*
 * forget drops what was kept, after an error or a change of state.
 */
static void
forget(RehomeWorkerState *worker)
{
	MemoryContextReset(worker->context);
	MemoryContextReset(worker->maps_context);
	worker->maps = NIL;
	worker->idle_snapshot = NULL;
	worker->prune_position = NULL;
	worker->prune_wanted = false;
	worker->prune_lsn = InvalidXLogRecPtr;
	worker->positioned_at = 0;
}

/*
 * one_round runs one step of the slice; returns the pause that follows, or
 * -1 when there is nothing left to do for a worker.
 */
static long
one_round(RehomeWorkerState *worker, int slice_id, MemoryContext round)
{
	RehomeCall	call;
	RehomeSlice *slice;
	RehomeHandler handler = NULL;
	long		pause = -1;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(round);
	if (!rehome_worker_is_wanted())
	{
		CommitTransactionCommand();
		return -1;
	}
	rehome_call_begin(&call, NULL);
	slice = rehome_slice_by_id(slice_id);
	if (slice != NULL && !slice->paused)
		handler = rehome_handler(slice->state, worker->in_doubt);
	if (handler != NULL)
	{
		if (slice->state != worker->state)
			forget(worker);
		worker->state = slice->state;
		pause = handler(worker, &call, slice);
	}
	rehome_call_end(&call);
	CommitTransactionCommand();
	return pause;
}

/*
 * rehome_sync_worker_main is the sync worker; its argument is the slice's id.
 */
void
rehome_sync_worker_main(Datum arg)
{
	int			slice_id = DatumGetInt32(arg);
	RehomeWorkerState worker = {0};
	Oid			database;
	MemoryContext context;
	MemoryContext round;
	volatile long backoff = 0;		/* survives the longjmp */

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	context = rehome_worker_attach(database);
	round = AllocSetContextCreate(context, "pg_rehome round", ALLOCSET_DEFAULT_SIZES);
	worker.context = AllocSetContextCreate(context, "pg_rehome kept", ALLOCSET_DEFAULT_SIZES);
	worker.maps_context = AllocSetContextCreate(context, "pg_rehome maps", ALLOCSET_DEFAULT_SIZES);
	PortalContext = round;
	if (!rehome_worker_claim(slice_id))
		proc_exit(0);

	for (;;)
	{
		volatile long pause = 0;

		MemoryContextReset(round);
		PG_TRY();
		{
			pause = one_round(&worker, slice_id, round);
			backoff = 0;
			if (pause > 0)
			{
				pgstat_report_activity(STATE_IDLE, NULL);
				nap(pause);
			}
		}
		PG_CATCH();
		{
			worker.in_doubt = geterrcode() == ERRCODE_REHOME_IN_DOUBT && !worker.in_doubt;
			rehome_worker_report(slice_id, context);
			/* a nap that was cancelled was in no transaction to be aborted */
			rehome_conn_close_all();
			worker.conn = NULL;
			forget(&worker);
			backoff = backoff == 0 ? Min(500L, rehome_retry_max) : Min(backoff * 2, rehome_retry_max);
			pause = 0;
			if (!worker.in_doubt)
				back_off(backoff);
		}
		PG_END_TRY();
		if (pause < 0)
			break;
	}
	proc_exit(0);
}
