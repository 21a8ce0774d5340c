/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  What all background workers have in common, and starting one.
 *
 * There is one sync worker a slice: it holds a session lock, and one that
 * finds the lock taken goes away.  Sessions ask for a worker; it is started
 * when their transaction commits.  Whether or not the library is preloaded
 * makes no difference to it; the launcher (launcher.c) only starts again
 * what a crash or a reboot has ended.
 *
 * Workers must not keep anybody from DROP DATABASE: once a second they look
 * whether somebody waits for, or holds, the database's lock, and leave if so.
 * They do that when they rest, when they wait for the source or read from it,
 * and the leader of a copy for all its workers; not in the middle of a
 * statement here, like one that derives data for minutes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/redaction.h"
#include "commands/async.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "remote/connection.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "util/spi.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "worker/sync.h"
#include "worker/worker.h"

/* The lock of a slice's sync worker is the advisory lock (class, slice). */
#define SYNC_LOCK_CLASS 0x5254

/* Workers to be started at commit. */
typedef struct Request
{
	int			slice_id;
	char	   *name;
} Request;

static List *requests = NIL;

/*
 * rehome_worker_define fills in what all our background workers share.  The
 * postmaster does not restart them: the launcher knows better when.
 */
void
rehome_worker_define(BackgroundWorker *worker, const char *type, const char *name,
					 const char *function)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "pg_rehome", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_name, name, sizeof(worker->bgw_name));
	strlcpy(worker->bgw_type, type, sizeof(worker->bgw_type));
}

/*
 * What the database, or the server, may have set for its sessions, and what a
 * worker cannot live with, or has settings of its own for; autovacuum's workers
 * do the same.  Not every version has all of them.
 */
static const char *const overridden[][2] = {
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"lock_timeout", "0"},
	{"transaction_timeout", "0"},
};

/*
 * rehome_worker_attach makes this background worker a session of a database,
 * as the bootstrap superuser.  Returns a memory context that lives as long
 * as the worker.
 */
MemoryContext
rehome_worker_attach(Oid database)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	for (int i = 0; i < lengthof(overridden); i++)
		if (GetConfigOption(overridden[i][0], true, false) != NULL)
			SetConfigOption(overridden[i][0], overridden[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_SESSION);
	pgstat_report_appname(MyBgworkerEntry->bgw_name);
	context = AllocSetContextCreate(TopMemoryContext, "pg_rehome worker", ALLOCSET_DEFAULT_SIZES);

	/* a frame that commits keeps its state in the portal's memory */
	PortalContext = context;
	rehome_conn_wait_hook = rehome_worker_yield_database;
	return context;
}

/*
 * rehome_database_in_demand tells whether somebody wants this database for
 * himself, as DROP DATABASE does.
 */
bool
rehome_database_in_demand(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, AccessShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, AccessShareLock, true);
	return false;
}

/*
 * rehome_worker_yield_database ends this worker if its database is wanted.
 */
void
rehome_worker_yield_database(void)
{
	if (!rehome_database_in_demand())
		return;
	ereport(LOG,
			errmsg("%s stops: its database is wanted exclusively", MyBgworkerEntry->bgw_name));
	proc_exit(0);
}

/*
 * rehome_worker_is_wanted tells whether this database has the extension still;
 * without it there is nothing for a worker to do, and nothing to read.
 */
bool
rehome_worker_is_wanted(void)
{
	return OidIsValid(get_extension_oid("pg_rehome", true));
}

/*
 * log_error, called in a PG_CATCH, logs the error and aborts.  The error state
 * is clean afterwards.
 */
static ErrorData *
log_error(MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	EmitErrorReport();
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(context);
	return error;
}

/*
 * record_error records an error in the slice, in a transaction of its own.
 */
static void
record_error(int slice_id, const ErrorData *error, MemoryContext context)
{
	RehomeCall	call;
	RehomeSlice *slice;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	if (!rehome_worker_is_wanted())
	{
		CommitTransactionCommand();
		return;
	}
	rehome_call_begin(&call, NULL);
	slice = rehome_slice_by_id(slice_id);
	if (slice != NULL)
	{
		char	   *message = error->message;

		if (error->detail != NULL)
			message = psprintf("%s (%s)", message, rehome_without_queries(error->detail));
		message = rehome_recorded_message(slice->migration, error->sqlerrcode, message);
		if (slice->error == NULL || strcmp(slice->error, message) != 0)
		{
			rehome_slice_set_error(slice_id, message);
			rehome_event(slice->migration->name, slice->name, "error", message, NULL);
		}
	}
	rehome_call_end(&call);
	CommitTransactionCommand();
}

/*
 * rehome_worker_report, called in a PG_CATCH, logs the error, aborts, and
 * records it in the slice.  The error state is clean afterwards.  Where the
 * record cannot be made, say because the migration's server has another name,
 * the log has both errors, and the worker goes on trying.
 */
void
rehome_worker_report(int slice_id, MemoryContext context)
{
	MemoryContext report = AllocSetContextCreate(context, "pg_rehome error", ALLOCSET_SMALL_SIZES);
	ErrorData  *error = log_error(report);

	PG_TRY();
	{
		record_error(slice_id, error, report);
	}
	PG_CATCH();
	{
		(void) log_error(report);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	MemoryContextDelete(report);
}

/*
 * rehome_worker_claim makes this process the slice's sync worker; false when
 * there is one.
 */
bool
rehome_worker_claim(int slice_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, SYNC_LOCK_CLASS, slice_id, REHOME_LOCK_SPACE);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * rehome_worker_runs tells whether a slice has a sync worker.
 */
bool
rehome_worker_runs(int slice_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, SYNC_LOCK_CLASS, slice_id, REHOME_LOCK_SPACE);
	if (LockAcquire(&tag, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ShareLock, true);
	return false;
}

/*
 * rehome_worker_start starts a sync worker; false when no slot is free.
 */
bool
rehome_worker_start(Oid database, int slice_id, const char *name)
{
	BackgroundWorker worker;

	rehome_worker_define(&worker, "pg_rehome sync", name, "rehome_sync_worker_main");
	worker.bgw_main_arg = Int32GetDatum(slice_id);
	memcpy(worker.bgw_extra, &database, sizeof(database));
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/*
 * rehome_worker_request notes that the slice is to have a sync worker, and
 * has one started when the current transaction commits.
 */
void
rehome_worker_request(RehomeSlice *slice)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Request    *request = palloc(sizeof(Request));

	rehome_spi("UPDATE rehome.slice SET continuous = true WHERE id = $1 AND NOT continuous", "i", slice->id);
	slice->continuous = true;
	request->slice_id = slice->id;
	request->name = psprintf("pg_rehome sync %s/%s", slice->migration->name, slice->name);
	requests = lappend(requests, request);
	MemoryContextSwitchTo(old);
}

static void
start_requested(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event == XACT_EVENT_COMMIT)
		foreach(lc, requests)
		{
			Request    *request = lfirst(lc);

			if (!rehome_worker_start(MyDatabaseId, request->slice_id, request->name))
				ereport(WARNING,
						errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("out of background worker slots: \"%s\" was not started", request->name),
						errhint("Raise max_worker_processes; with pg_rehome in shared_preload_libraries the launcher tries again."));
		}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		requests = NIL;
}

/*
 * rehome_worker_init registers the callback; called from _PG_init.
 */
void
rehome_worker_init(void)
{
	RegisterXactCallback(start_requested, NULL);
}
