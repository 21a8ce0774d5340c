/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The work of a copy: chunks and indexes, by as many workers as there are.
 *
 * Workers find their work in rehome.chunk and rehome.saved_object: each takes
 * a row with FOR UPDATE SKIP LOCKED, does it, marks it and commits.  A worker
 * that dies gives its row back by dying.  Nothing is kept in shared memory.
 *
 * The leader holds the source transaction whose snapshot the workers import,
 * and a session lock by which they notice that it is gone.  Each piece of
 * work takes the slice's work lock in share mode, so that cancel can come in
 * between, and looks whether the slice is still being copied.  By then another
 * may be the leader, to whose plan the snapshot of the first is nothing: a
 * table that was rewritten meanwhile has no rows there.  So each plan, which
 * is made under the work lock, counts up the slice's copy_run, and a worker
 * that was told another number ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "capture/capture.h"
#include "compat.h"
#include "copy/copy.h"
#include "copy/stream.h"
#include "errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "remote/query.h"
#include "remote/throttle.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "util/debug_point.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

/* The lock of a copy's leader is the advisory lock (LEADER_LOCK_CLASS, slice). */
#define LEADER_LOCK_CLASS 0x5253

PGDLLEXPORT void rehome_copy_worker_main(Datum arg);

static void
leader_tag(LOCKTAG *tag, int slice_id)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, LEADER_LOCK_CLASS, slice_id, REHOME_LOCK_SPACE);
}

/*
 * rehome_copy_lead makes this session the leader of a slice's copy, unless
 * another is.
 */
bool
rehome_copy_lead(int slice_id)
{
	LOCKTAG		tag;

	leader_tag(&tag, slice_id);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
rehome_copy_unlead(int slice_id)
{
	LOCKTAG		tag;

	leader_tag(&tag, slice_id);
	LockRelease(&tag, ExclusiveLock, true);
}

/*
 * leader_is_gone tells whether nobody leads the copy any more.
 */
static bool
leader_is_gone(int slice_id)
{
	LOCKTAG		tag;

	leader_tag(&tag, slice_id);
	if (LockAcquire(&tag, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	LockRelease(&tag, ShareLock, true);
	return true;
}

/*
 * chunk_select returns what to read for a chunk.
 */
static char *
chunk_select(RehomeSlice *slice, RehomeMapping *mapping, List *columns, char **chunk,
			 bool resumed)
{
	RehomeTableMap *map = mapping->map;
	StringInfoData sql;
	const char *sep = " WHERE ";

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM ", rehome_quote_list(columns, "source."));
	rehome_remote_from(&sql, rehome_remote_table(map->source),
					   quote_qualified_identifier(chunk[2], chunk[3]), true);
	if (chunk[4] != NULL)
	{
		appendStringInfo(&sql, "%ssource.ctid >= '(%s,0)'::tid", sep, chunk[4]);
		sep = " AND ";
		if (chunk[5] != NULL)
			appendStringInfo(&sql, "%ssource.ctid < '(%s,0)'::tid", sep, chunk[5]);
	}
	if (map->filter != NULL)
	{
		appendStringInfo(&sql, "%s(%s)", sep, map->filter);
		sep = " AND ";
	}
	if (resumed)
	{
		appendStringInfo(&sql, "%sNOT EXISTS (SELECT FROM ", sep);
		rehome_changed_keys(&sql, slice->migration, map, NULL, slice->position, NIL, false);
		appendStringInfoString(&sql, " AS k WHERE ");
		rehome_join_key(&sql, map, NULL, "source", "k");
		appendStringInfoChar(&sql, ')');
	}
	return sql.data;
}

/* The chunks that are left, and the one of them that most work waits for. */
#define CHUNKS_TODO " WHERE c.slice_id = $1 AND c.done_at IS NULL"
#define CHUNKS_IN_ORDER " ORDER BY -c.weight, c.id LIMIT 1"

/* Takes one of a table of which several may be loaded at once. */
#define TAKE_FREELY(beyond) \
	"SELECT c.id, c.table_map_id, c.part_schema, c.part_table, c.lo, c.hi FROM rehome.chunk c" CHUNKS_TODO beyond \
	" AND (SELECT t.on_error FROM rehome.table_map t WHERE t.id = c.table_map_id) <> 'quarantine'" \
	CHUNKS_IN_ORDER " FOR UPDATE SKIP LOCKED"

/*
 * take_chunk takes, to the end of the transaction, the chunk that most work
 * waits for and that nobody works on; NULL if there is none.  A table whose
 * unique values are checked as it loads is one worker's at a time: two that
 * wait for each other's rows would be a deadlock.
 *
 * last is the chunk that this transaction took before, 0 for none.  Those
 * before it in the order are ours, or another's who has not committed: with
 * small tables there are hundreds of them, each a lock to be tried.
 */
static char **
take_chunk(RehomeSlice *slice, int64 last)
{
	static SPIPlanPtr first = NULL;
	static SPIPlanPtr next = NULL;
	static SPIPlanPtr quarantined = NULL;
	RehomeRows *rows;

	if (last == 0)
		rows = rehome_spi_kept(&first, TAKE_FREELY(""), "i", slice->id);
	else
		rows = rehome_spi_kept(&next, TAKE_FREELY(" AND (-c.weight, c.id) > ((SELECT -b.weight FROM rehome.chunk b WHERE b.id = $2), $2)"),
							   "il", slice->id, last);
	if (rows->n == 0)
		rows = rehome_spi_kept(&quarantined, "SELECT c.id, c.table_map_id, c.part_schema, c.part_table, c.lo, c.hi"
							   " FROM rehome.chunk c JOIN rehome.table_map t ON t.id = c.table_map_id" CHUNKS_TODO
							   " AND t.on_error = 'quarantine'" CHUNKS_IN_ORDER " FOR NO KEY UPDATE SKIP LOCKED", "i", slice->id);
	return rows->n > 0 ? rows->value[0] : NULL;
}

/*
 * copy_chunks copies chunks, one after the other, until rehome.chunk_time has
 * passed: so a transaction holds many small tables, or as much of a large one
 * as can be read in that time, whatever the speed of the source.  False if
 * there was nothing to copy.
 */
static bool
copy_chunks(RehomeConn *conn, RehomeSlice *slice, bool resumed)
{
	static SPIPlanPtr mark = NULL;
	TimestampTz began = GetCurrentTimestamp();
	MemoryContext table = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome table copied",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome chunk",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RehomeMapping *mapping = NULL;
	List	   *columns = NIL;
	char	  **chunk;
	int64		last = 0;
	int			level = NewGUCNestLevel();

	/* as they are loaded in; each change of it would have all plans made anew */
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	while ((chunk = take_chunk(slice, last)) != NULL)
	{
		int64		bytes = 0;
		int64		n;

		/* one table's chunks often come together, as those of its partitions */
		if (mapping == NULL || mapping->map->id != rehome_int(chunk[1]))
		{
			MemoryContextReset(table);
			MemoryContextSwitchTo(table);
			mapping = rehome_mapping_compile(rehome_table_map_by_id(rehome_int(chunk[1])), slice->migration->owner);
			columns = rehome_mapping_source_columns(mapping);
			MemoryContextSwitchTo(context);
			rehome_target_require_logged(mapping->map->target);
		}
		n = rehome_load_chunk(conn, slice, mapping,
							  chunk_select(slice, mapping, columns, chunk, resumed), columns, &bytes);
		rehome_debug_point("chunk-loaded");
		last = rehome_int64(chunk[0]);
		rehome_spi_kept(&mark, "UPDATE rehome.chunk SET rows = $2, bytes = $3, done_at = clock_timestamp() WHERE id = $1",
						"lll", last, n, bytes);
		MemoryContextReset(context);
		if (TimestampDifferenceExceeds(began, GetCurrentTimestamp(), rehome_chunk_time))
			break;
	}
	AtEOXact_GUC(true, level);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	MemoryContextDelete(table);
	return last != 0;
}

/*
 * chunk_weight returns the greatest weight of the chunks that are left,
 * whoever may be at them; 0 when there are none.
 */
static double
chunk_weight(RehomeSlice *slice)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *rows = rehome_spi_kept(&plan, "SELECT c.weight FROM rehome.chunk c" CHUNKS_TODO CHUNKS_IN_ORDER, "i", slice->id);

	return rows->n > 0 ? rehome_float8(rows->value[0][0]) : 0;
}

/*
 * wait_for_others waits until somebody else's piece of work ends; false when
 * there is nothing left to wait for.
 */
static bool
wait_for_others(RehomeSlice *slice, bool resumed)
{
	return rehome_spi("SELECT FROM rehome.chunk c" CHUNKS_TODO CHUNKS_IN_ORDER " FOR UPDATE", "i", slice->id)->n > 0 ||
		rehome_spi("SELECT FROM rehome.table_map WHERE slice_id = $1 AND copied_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE",
				   "i", slice->id)->n > 0 ||
		rehome_spi("SELECT FROM rehome.saved_object WHERE slice_id = $1 AND rebuilt_at IS NULL"
				   " AND deferred IS NULL AND NOT ($2 AND kind = 'foreign key') LIMIT 1 FOR UPDATE", "ib", slice->id, resumed)->n > 0;
}

/*
 * one_piece does the piece of work that is most urgent, and may be done;
 * false if there is none.  When the copy was resumed, rows that foreign keys
 * refer to may still be missing: these keys are the leader's, later.
 */
static bool
one_piece(RehomeConn *conn, RehomeSlice *slice, bool resumed)
{
	return rehome_saved_build_one(slice, chunk_weight(slice)) ||
		copy_chunks(conn, slice, resumed) ||
		rehome_saved_build_one(slice, 0) ||
		rehome_saved_finish_one(slice) ||
		(!resumed && rehome_saved_key_one(slice)) ||
		wait_for_others(slice, resumed);
}

/*
 * rehome_copy_work does pieces of work until there are none.  The frame may
 * commit.  leading says that this is the leader itself, for want of workers.
 */
void
rehome_copy_work(RehomeCall *call, const RehomeCopyJob *job, bool leading)
{
	MemoryContext piece = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome copy piece",
												ALLOCSET_DEFAULT_SIZES);
	RehomeConn *conn = NULL;
	bool		more = true;

	while (more)
	{
		RehomeSlice *slice;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(piece);
		call->context = piece;
		MemoryContextSwitchTo(piece);
		slice = rehome_slice_by_id(job->slice_id);
		if (slice == NULL)
			break;
		rehome_slice_work_share(slice);
		if (slice->state != REHOME_COPYING || slice->paused || slice->copy_run != job->run ||
			(!leading && leader_is_gone(job->slice_id)))
			break;
		if (conn == NULL)
		{
			conn = rehome_slice_connect(slice, "copy");
			rehome_conn_begin_read(conn);	/* the leader's lock is waited for, perhaps */
			/* a chunk, of whatever size it seems, is held against all keys that have changed */
			rehome_conn_exec(conn, psprintf("SET TRANSACTION SNAPSHOT %s%s", quote_literal_cstr(job->snapshot),
											job->resumed ? "; SET LOCAL enable_nestloop = off" : ""));
		}
		if (rehome_slice_throttled(slice, rehome_throttle_reason(conn)))
		{
			rehome_call_commit(call);
			rehome_call_rest(call);
			rehome_pause_for(REHOME_THROTTLE_NAP);
		}
		/* a piece may be long: that there is no reason any more is committed first */
		else if (slice->throttled == NULL)
			more = one_piece(conn, slice, job->resumed);
		rehome_call_commit(call);
	}
	if (conn != NULL)
		rehome_conn_close(conn);
	call->context = MemoryContextGetParent(piece);
	MemoryContextSwitchTo(call->context);
	MemoryContextDelete(piece);
}

/*
 * adopt_settings gives a worker the settings of its leader, and remembers
 * with how many it shares the rate.
 */
static void
adopt_settings(const RehomeCopyJob *job)
{
	const struct
	{
		const char *name;
		int			value;
	}			settings[] = {
		{"rehome.chunk_time", job->chunk_time},
		{"rehome.lock_timeout", job->lock_timeout},
		{"rehome.maintenance_work_mem", job->maintenance_work_mem},
		{"rehome.max_rate", job->max_rate},
		{"rehome.max_replica_lag", job->max_replica_lag},
		{"rehome.max_source_backends", job->max_source_backends},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i].name, psprintf("%d", settings[i].value), PGC_USERSET, PGC_S_SESSION);
	rehome_throttle_sharers = Max(job->workers, 1);
}

/*
 * rehome_copy_worker_main is a copy worker.
 */
void
rehome_copy_worker_main(Datum arg)
{
	RehomeCopyJob job;
	RehomeCall	call;
	MemoryContext context;

	memcpy(&job, MyBgworkerEntry->bgw_extra, sizeof(job));
	context = rehome_worker_attach(job.database);
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION);
	adopt_settings(&job);

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		MemoryContextSwitchTo(context);
		rehome_call_begin(&call, NULL);
		rehome_copy_work(&call, &job, false);
		rehome_call_end(&call);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		rehome_worker_report(job.slice_id, context);
		proc_exit(1);
	}
	PG_END_TRY();
	proc_exit(0);
}

/*
 * launch_one starts a worker; NULL when there is no slot for it.
 */
static BackgroundWorkerHandle *
launch_one(const RehomeCopyJob *job, RehomeSlice *slice)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	rehome_worker_define(&worker, "pg_rehome copy",
						 psprintf("pg_rehome copy %s/%s", slice->migration->name, slice->name),
						 "rehome_copy_worker_main");
	worker.bgw_notify_pid = MyProcPid;
	StaticAssertStmt(sizeof(RehomeCopyJob) <= BGW_EXTRALEN, "job does not fit");
	memcpy(worker.bgw_extra, job, sizeof(*job));
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * wait_for_worker waits until a worker has ended.  When somebody wants the
 * database for himself, the leader, if it is a background worker, has all of
 * them ended and ends too: they themselves do not look while they build an
 * index.
 */
static void
wait_for_worker(BackgroundWorkerHandle *handle, BackgroundWorkerHandle **all, int n)
{
	pid_t		pid;

	for (;;)
	{
		switch (GetBackgroundWorkerPid(handle, &pid))
		{
			case BGWH_STOPPED:
				return;
			case BGWH_POSTMASTER_DIED:
				proc_exit(1);
			default:
				break;
		}
		if (MyBackendType == B_BG_WORKER && rehome_database_in_demand())
		{
			for (int i = 0; i < n; i++)
				TerminateBackgroundWorker(all[i]);
			rehome_worker_yield_database();
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000, REHOME_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * rehome_copy_launch does the job with rehome.copy_workers background
 * workers and waits for them; here, when none can be had.
 */
void
rehome_copy_launch(RehomeCall *call, RehomeCopyJob *job)
{
	RehomeSlice *slice = rehome_slice_by_id(job->slice_id);
	BackgroundWorkerHandle **handles = palloc0(sizeof(*handles) * Max(rehome_copy_workers, 1));
	volatile int n = 0;

	job->workers = rehome_copy_workers;
	job->chunk_time = rehome_chunk_time;
	job->lock_timeout = rehome_lock_timeout;
	job->maintenance_work_mem = rehome_maintenance_work_mem;
	job->max_rate = rehome_max_rate;
	job->max_replica_lag = rehome_max_replica_lag;
	job->max_source_backends = rehome_max_source_backends;
	PG_TRY();
	{
		while (n < rehome_copy_workers && (handles[n] = launch_one(job, slice)) != NULL)
			n++;
		if (n < rehome_copy_workers)
			ereport(WARNING,
					errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					errmsg("out of background worker slots: copying with %d instead of %d workers",
						   n, rehome_copy_workers),
					errhint("Raise max_worker_processes."));
		/* nothing of ours may keep the workers from committing */
		rehome_call_commit(call);
		if (n == 0)
			rehome_copy_work(call, job, true);
		/* nor keep old row versions alive meanwhile */
		rehome_call_rest(call);
		for (int i = 0; i < n; i++)
			wait_for_worker(handles[i], handles, n);
	}
	PG_CATCH();
	{
		for (int i = 0; i < n; i++)
			TerminateBackgroundWorker(handles[i]);
		PG_RE_THROW();
	}
	PG_END_TRY();
}
