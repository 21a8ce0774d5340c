/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Starting sync workers again after a crash or a reboot.
 *
 * With the library in shared_preload_libraries a launcher runs.  It is
 * connected to no database and reads only which databases exist.  For each
 * one of rehome.databases it starts, every rehome.launcher_naptime, a starter
 * that connects, starts a sync worker for every slice that should have one
 * and has none, and ends.  So no slot and no connection is held in between,
 * and none in a template.
 *
 * What is locked in one database must not keep the workers of all others from
 * being started.  So a starter waits for no lock any longer than a moment; and
 * one that does not get as far as that, or is slow for another reason, is ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "compat.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "worker/sync.h"

/* How long a starter may wait for a lock, and how long for all it does, in milliseconds. */
#define STARTER_LOCK_TIMEOUT "1000"
#define STARTER_TIME 5000

PGDLLEXPORT void rehome_launcher_main(Datum arg);
PGDLLEXPORT void rehome_starter_main(Datum arg);

/*
 * rehome_launcher_register registers the launcher; only while preloading.
 */
void
rehome_launcher_register(void)
{
	BackgroundWorker worker;

	rehome_worker_define(&worker, "pg_rehome launcher", "pg_rehome launcher", "rehome_launcher_main");
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}

/*
 * wanted_databases returns the OIDs of those databases of rehome.databases
 * that exist and take connections, in the current memory context.
 */
static List *
wanted_databases(void)
{
	List	   *names;
	List	   *oids = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	if (!SplitIdentifierString(pstrdup(rehome_databases), ',', &names))
	{
		ereport(LOG,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("invalid list in rehome.databases: \"%s\"", rehome_databases));
		return NIL;
	}
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);
		ListCell   *lc;

		if (!db->datallowconn || db->datistemplate)
			continue;
		foreach(lc, names)
			if (strcmp(lfirst(lc), NameStr(db->datname)) == 0)
				oids = lappend_oid(oids, db->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return oids;
}

/*
 * has_ended waits until a background worker has ended; false when that takes
 * longer.
 */
static bool
has_ended(BackgroundWorkerHandle *handle, long ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	pid_t		pid;

	while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, REHOME_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * run_starter starts a starter and waits until it has ended, or had the time to.
 */
static void
run_starter(Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	rehome_worker_define(&worker, "pg_rehome starter", "pg_rehome starter", "rehome_starter_main");
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		ereport(LOG,
				errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				errmsg("pg_rehome launcher: out of background worker slots"),
				errhint("Raise max_worker_processes."));
		return;
	}
	if (!has_ended(handle, STARTER_TIME))
	{
		ereport(LOG,
				errcode(ERRCODE_QUERY_CANCELED),
				errmsg("pg_rehome launcher: the starter for database %u did not end within %d ms", database, STARTER_TIME),
				errhint("Somebody may hold a lock there that all sessions wait for."));
		TerminateBackgroundWorker(handle);
	}
	pfree(handle);
}

/*
 * rehome_launcher_main is the launcher.
 */
void
rehome_launcher_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	context = AllocSetContextCreate(TopMemoryContext, "pg_rehome launcher", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		List	   *databases;
		ListCell   *lc;

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		MemoryContextSwitchTo(context);
		databases = wanted_databases();
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
		foreach(lc, databases)
			run_starter(lfirst_oid(lc));
		MemoryContextReset(context);

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 rehome_launcher_naptime, REHOME_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/*
 * rehome_starter_main is a starter; its argument is the database.
 */
void
rehome_starter_main(Datum arg)
{
	MemoryContext context = rehome_worker_attach(DatumGetObjectId(arg));
	RehomeCall	call;

	SetConfigOption("lock_timeout", STARTER_LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	if (rehome_worker_is_wanted())
	{
		RehomeRows *rows;

		rehome_call_begin(&call, NULL);
		rows = rehome_spi("SELECT s.id, m.name, s.name FROM rehome.slice s"
						  " JOIN rehome.migration m ON m.id = s.migration_id"
						  " WHERE s.continuous AND NOT s.paused AND NOT (s.one_way AND s.state = 'cut_over') AND s.database_id = rehome.database_identity()"
						  " AND s.state IN ('copying', 'syncing', 'cutting_over', 'cut_over', 'rolling_back')"
						  " AND m.server IN (SELECT srvname FROM pg_foreign_server v"
						  "  JOIN pg_foreign_data_wrapper w ON w.oid = v.srvfdw WHERE w.fdwname = 'postgres_fdw')"
						  " ORDER BY s.id", "");
		for (int i = 0; i < rows->n; i++)
		{
			int			id = rehome_int(rows->value[i][0]);

			if (!rehome_worker_runs(id) &&
				!rehome_worker_start(MyDatabaseId, id,
									 psprintf("pg_rehome sync %s/%s", rows->value[i][1], rows->value[i][2])))
				ereport(LOG,
						errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("pg_rehome: out of background worker slots for slice \"%s\" of migration \"%s\"",
							   rows->value[i][2], rows->value[i][1]),
						errhint("Raise max_worker_processes."));
		}
		rehome_call_end(&call);
	}
	CommitTransactionCommand();
	proc_exit(0);
}
