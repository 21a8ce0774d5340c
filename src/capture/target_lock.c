/*-------------------------------------------------------------------------
 *
 * target_lock.c
 *	  Locks on the targets and their partitions, waited for briefly.
 *
 * Who keeps us out is named.  Locks for the time of a switch, against writers,
 * are asked for one after the other, within rehome.lock_timeout for all of them;
 * those of batches and readers all at once, none being waited for with another
 * in hand.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "catalog/pg_inherits.h"
#include "compat.h"
#include "errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

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

		if (get_rel_name(map->target) == NULL)
			continue;			/* dropped: cancel does without it */
		rehome_limit_lock_waits(left);
		LockRelationOid(map->target, mode);
		foreach(lc2, find_all_inheritors(map->target, NoLock, NULL))
			LockRelationOid(lfirst_oid(lc2), mode);
	}
	AtEOXact_GUC(true, level);
}

/*
 * rehome_local_blockers describes who keeps us out of the relations (their OIDs as
 * texts), by a lock, or by waiting for one of all; or says that they have gone.
 */
char *
rehome_local_blockers(List *oids, LOCKMODE mode)
{
	const char *harmless =
		mode == AccessExclusiveLock ? "{}" :
		mode == RowExclusiveLock ? "{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock}" :
		mode == AccessShareLock ? "{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock}" :
		"{AccessShareLock,RowShareLock}";

	return rehome_spi_value("SELECT coalesce(string_agg(format('%s %s %s on %s%s%s', CASE WHEN l.pid IS NULL THEN format('prepared transaction %L (%s)', x.gid, x.owner)"
							"  ELSE format('pid %s (%s)', l.pid, coalesce(a.usename, a.backend_type)) END, CASE WHEN l.granted THEN 'holds' ELSE 'waits for' END, l.mode, l.relation::regclass,"
							" coalesce(', in a transaction for ' || date_trunc('milliseconds', clock_timestamp() - coalesce(a.xact_start, x.prepared)), ''),"
							" " REHOME_RUNNING_SQL "), E'\\n'), 'Whoever held the lock has gone meanwhile.')"
							" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_prepared_xacts x ON " REHOME_IS_PREPARED_SQL
							" WHERE (l.granted OR l.mode = 'AccessExclusiveLock') AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()"
							" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
							" AND l.mode <> ALL ($2::text[])"
							" AND l.relation = ANY ($1::oid[])", "tt", rehome_name_array(oids), harmless);
}

/*
 * relations_of lists the targets and their partitions, as texts.
 */
static List *
relations_of(List *maps)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		ListCell   *lc2;

		if (get_rel_name(((RehomeTableMap *) lfirst(lc))->target) == NULL)
			continue;
		foreach(lc2, find_all_inheritors(((RehomeTableMap *) lfirst(lc))->target, NoLock, NULL))
			oids = lappend(oids, psprintf("%u", lfirst_oid(lc2)));
	}
	return oids;
}

/* What lock_targets is to lock. */
typedef struct LockRequest
{
	List	   *maps;
	LOCKMODE	mode;
} LockRequest;

static void
lock_targets(void *arg)
{
	LockRequest *request = arg;

	if (request->mode > ShareUpdateExclusiveLock)
		lock_all(request->maps, ShareUpdateExclusiveLock, REHOME_AUTOVACUUM_TIMEOUT);
	lock_all(request->maps, request->mode, rehome_lock_timeout);
}

/*
 * had tells whether an attempt to lock has succeeded; it raises what is no
 * matter of locks.
 */
static bool
had(ErrorData *error)
{
	if (error == NULL)
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/*
 * locked tries once to lock the targets, to the end of the transaction,
 * waiting no longer than rehome.lock_timeout in all.  On failure none is
 * locked.
 */
static bool
locked(List *maps, LOCKMODE mode)
{
	LockRequest request = {maps, mode};

	return had(rehome_attempt(lock_targets, &request));
}

/*
 * rehome_targets_blocked is what follows a failed attempt, the first being 0:
 * a NOTICE that names who is in the way, or, when there were as many as
 * rehome.lock_retries allows, an error.
 */
void
rehome_targets_blocked(int attempt, const char *blockers)
{
	if (attempt >= rehome_lock_retries)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_LOCK_TIMEOUT),
				errmsg("could not lock the target tables within %d ms in %d tries",
					   rehome_lock_timeout, attempt + 1),
				errdetail_internal("%s", blockers),
				errhint("Nothing has changed. Try again when that transaction has ended, or raise rehome.lock_timeout or rehome.lock_retries."));
	ereport(NOTICE,
			errmsg("could not lock the target tables within %d ms, trying again", rehome_lock_timeout),
			errdetail_internal("%s", blockers));
}

/*
 * try_lock tries once to lock the targets and their partitions
 * to the end of the transaction.  Returns NULL, or who is in the way.
 *
 * For a lock that keeps writers out, first comes SHARE UPDATE EXCLUSIVE.
 * Writers do not mind it, neither held nor waited for, but autovacuum does: a
 * wait of deadlock_timeout makes it give way.  Otherwise it would be in the
 * way of the real lock, which never waits that long.
 */
static char *
try_lock(List *maps, LOCKMODE mode)
{
	return locked(maps, mode) ? NULL : rehome_local_blockers(relations_of(maps), mode);
}

/*
 * rehome_targets_lock tries again as rehome.lock_retries allows, and raises
 * when it cannot have them.
 */
void
rehome_targets_lock(List *maps, LOCKMODE mode)
{
	char	   *blockers;

	for (int attempt = 0; (blockers = try_lock(maps, mode)) != NULL; attempt++)
	{
		rehome_targets_blocked(attempt, blockers);
		rehome_back_off(attempt);
	}
}

/* A lock on a relation. */
typedef struct RelationLock
{
	Oid			relid;
	LOCKMODE	mode;
} RelationLock;

/*
 * take adds a lock to those taken, unless we have it, or a stronger one; false
 * when it is not free.
 */
static bool
take(RelationLock lock, List **taken)
{
	LOCKTAG		tag;

	/* before 17, it would not count as free if others wait for what we have */
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, lock.relid);
	if (rehome_lock_held(&tag, lock.mode))
		return true;
	if (!ConditionalLockRelationOid(lock.relid, lock.mode))
		return false;
	*taken = lappend(*taken, memcpy(palloc(sizeof(RelationLock)), &lock, sizeof(RelationLock)));
	return true;
}

/*
 * take_all takes locks on the targets and their partitions; false, with *busy,
 * at the first that is not free.
 */
static bool
take_all(List *maps, LOCKMODE mode, List **taken, RelationLock *busy)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		ListCell   *lc2;

		/* the table first: its lock decides which its partitions are */
		*busy = (RelationLock) {((RehomeTableMap *) lfirst(lc))->target, mode};
		if (!take(*busy, taken))
			return false;
		foreach(lc2, find_all_inheritors(busy->relid, NoLock, NULL))
		{
			*busy = (RelationLock) {lfirst_oid(lc2), mode};
			if (!take(*busy, taken))
				return false;
		}
	}
	return true;
}

/*
 * let_go releases locks that were taken.
 */
static void
let_go(List *taken)
{
	ListCell   *lc;

	foreach(lc, taken)
		UnlockRelationOid(((RelationLock *) lfirst(lc))->relid, ((RelationLock *) lfirst(lc))->mode);
}

/*
 * rehome_target_try_lock locks a target and its partitions to the end of the
 * transaction, if they are free; it waits for nobody.
 */
bool
rehome_target_try_lock(RehomeTableMap *map, LOCKMODE mode)
{
	List	   *taken = NIL;
	RelationLock busy;

	if (take_all(list_make1(map), mode, &taken, &busy))
		return true;
	let_go(taken);
	return false;
}

static void
lock_one(void *arg)
{
	RelationLock *lock = arg;

	LockRelationOid(lock->relid, lock->mode);
}

/*
 * wait_for takes one lock, waiting for it until then; false when it cannot be
 * had.
 */
static bool
wait_for(RelationLock *lock, TimestampTz until)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	int			level = NewGUCNestLevel();
	bool		result;

	rehome_limit_lock_waits(left);
	result = had(rehome_attempt(lock_one, lock));
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * rehome_targets_try_take locks the targets that are to be written to, and those
 * of kept, which are to be read, to the end of the transaction, within
 * rehome.lock_timeout.  A snapshot alone does not protect a reader from TRUNCATE
 * and from other partitions.  Returns NULL; or who is in the way, and then none
 * is locked.
 *
 * It waits for none with another one in hand.  Whoever has that one, and goes on
 * to the next, would wait for us, and his would be the transaction that a
 * deadlock ends.
 */
char *
rehome_targets_try_take(List *written, List *kept)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), rehome_lock_timeout);
	ResourceOwner owner = CurrentResourceOwner;
	List	   *taken = NIL;
	RelationLock busy;
	char	   *blockers = NULL;

	/* what wait_for() takes in a subtransaction is the transaction's then, not a portal's */
	CurrentResourceOwner = CurTransactionResourceOwner;
	while (!take_all(written, RowExclusiveLock, &taken, &busy) || !take_all(kept, AccessShareLock, &taken, &busy))
	{
		CHECK_FOR_INTERRUPTS();
		let_go(taken);
		if (GetCurrentTimestamp() >= until || !wait_for(&busy, until))
		{
			blockers = rehome_local_blockers(list_make1(psprintf("%u", busy.relid)), busy.mode);
			break;
		}
		/* with this one in hand, all others are to be free */
		taken = list_make1(memcpy(palloc(sizeof(RelationLock)), &busy, sizeof(RelationLock)));
	}
	CurrentResourceOwner = owner;
	return blockers;
}

/*
 * rehome_target_hold does the same with targets that are only to be read, and
 * tries again as rehome.lock_retries allows; it raises when it cannot have them.
 */
void
rehome_target_hold(List *maps)
{
	char	   *blockers;

	for (int attempt = 0; (blockers = rehome_targets_try_take(NIL, maps)) != NULL; attempt++)
	{
		rehome_targets_blocked(attempt, blockers);
		rehome_back_off(attempt);
	}
}
