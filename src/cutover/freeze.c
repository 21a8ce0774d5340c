/*-------------------------------------------------------------------------
 *
 * freeze.c
 *	  What cutover and rollback share: locks, the freeze and its limit.
 *
 * Before a lock that keeps writers out is asked for, SHARE UPDATE EXCLUSIVE
 * is taken.  Writers do not mind it, neither held nor waited for, but
 * autovacuum does: a wait of deadlock_timeout makes it give way.  Otherwise
 * it would be in the way of the real lock, which never waits that long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "capture/capture.h"
#include "catalog/pg_inherits.h"
#include "cutover/cutover.h"
#include "errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/resowner.h"

/* How long to wait for autovacuum to give way; writers are not affected. */
#define AUTOVACUUM_TIMEOUT 10000

/*
 * rehome_slice_connect connects to a slice's source and makes sure that it is
 * the one it began with.
 */
RehomeConn *
rehome_slice_connect(RehomeSlice *slice, const char *purpose)
{
	RehomeConn *conn = rehome_conn_open(slice->migration->serverid, slice->migration->owner,
										psprintf("%s %s/%s", purpose, slice->migration->name, slice->name));

	rehome_source_check_identity(conn, slice->migration);
	return conn;
}

/*
 * rehome_freeze_begin notes that writers wait from now on.
 */
void
rehome_freeze_begin(RehomeFreeze *freeze)
{
	freeze->began = GetCurrentTimestamp();
	freeze->event = 0;
}

static int64
freeze_ms(RehomeFreeze *freeze)
{
	return TimestampDifferenceMilliseconds(freeze->began, GetCurrentTimestamp());
}

/*
 * rehome_freeze_check raises when writers have waited long enough.
 */
void
rehome_freeze_check(RehomeFreeze *freeze, const char *step)
{
	if (freeze_ms(freeze) <= rehome_freeze_timeout)
		return;
	ereport(ERROR,
			errcode(ERRCODE_REHOME_FREEZE_TIMEOUT),
			errmsg("writers would have waited longer than rehome.freeze_timeout (%d ms)",
				   rehome_freeze_timeout),
			errdetail("%lld ms had passed after: %s. They go on as if nothing had been.",
					  (long long) freeze_ms(freeze), step),
			errhint("Try again at a quieter time, or raise rehome.freeze_timeout."));
}

/*
 * rehome_freeze_detail returns the detail of the event that ends a freeze:
 * its length so far, and the rows of the final batch.
 */
char *
rehome_freeze_detail(RehomeFreeze *freeze, int64 rows)
{
	return psprintf("{\"freeze\": \"%.3f seconds\", \"rows\": " INT64_FORMAT "}",
					freeze_ms(freeze) / 1000.0, rows);
}

/*
 * rehome_freeze_record corrects the length stored with the event, once both
 * sides have committed, and tells it.
 */
void
rehome_freeze_record(RehomeFreeze *freeze)
{
	char	   *length = psprintf("%.3f seconds", freeze_ms(freeze) / 1000.0);

	rehome_spi("UPDATE rehome.event SET detail = jsonb_set(detail, '{freeze}', to_jsonb($2))"
			   " WHERE id = $1", "lt", freeze->event, length);
	ereport(NOTICE,
			errmsg("writers waited for %s", length));
}

/*
 * lock_all locks the tables and their partitions within what is left of ms.
 */
static void
lock_all(List *maps, LOCKMODE mode, int ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	int			level = NewGUCNestLevel();
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		ListCell   *lc2;
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		(void) set_config_option("lock_timeout", psprintf("%ld", Max(left, 1)), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		LockRelationOid(map->target, mode);
		foreach(lc2, find_all_inheritors(map->target, NoLock, NULL))
			LockRelationOid(lfirst_oid(lc2), mode);
	}
	AtEOXact_GUC(true, level);
}

/*
 * local_blockers describes who holds locks on the targets that keep us out.
 */
static char *
local_blockers(List *maps)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		ListCell   *lc2;

		foreach(lc2, find_all_inheritors(((RehomeTableMap *) lfirst(lc))->target, NoLock, NULL))
			oids = lappend(oids, psprintf("%u", lfirst_oid(lc2)));
	}
	return rehome_spi_value("SELECT string_agg(format('pid %s (%s) holds %s on %s%s: %s', l.pid,"
							" coalesce(a.usename, a.backend_type), l.mode, l.relation::regclass,"
							" coalesce(', in a transaction for ' || date_trunc('milliseconds', clock_timestamp() - a.xact_start), ''),"
							" coalesce(nullif(left(a.query, 200), ''), '?')), E'\\n')"
							" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
							" WHERE l.granted AND l.locktype = 'relation' AND l.pid <> pg_backend_pid()"
							" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
							" AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')"
							" AND l.relation = ANY ($1::oid[])", "t", rehome_name_array(oids));
}

/*
 * rehome_targets_locked tries once to lock the targets against writers, to
 * the end of the transaction, waiting no longer than rehome.lock_timeout in
 * all.  On failure none is locked and *blockers says who was in the way.
 */
bool
rehome_targets_locked(List *maps, char **blockers)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		lock_all(maps, ShareUpdateExclusiveLock, AUTOVACUUM_TIMEOUT);
		lock_all(maps, ShareRowExclusiveLock, rehome_lock_timeout);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		FreeErrorData(error);
		locked = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (!locked)
		*blockers = local_blockers(maps);
	return locked;
}
