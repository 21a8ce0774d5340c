/*-------------------------------------------------------------------------
 *
 * forward.c
 *	  One batch from source to target, exactly once.
 *
 * A batch takes the target from the source's state at snapshot S0 (the
 * slice's position) to its state at S1:
 *
 *	source, one REPEATABLE READ transaction:
 *		S1 := its snapshot
 *		K  := distinct keys in the change tables, visible in S1, not in S0
 *		the rows of K as of S1, and which of K have none
 *	target, one transaction:
 *		delete, update, insert (apply.c); what is derived of them (derive.c);
 *		position := S1
 *
 * If anything dies before the target's commit, the position is still S0 and
 * the next batch covers the same changes and more; reading rows and not
 * changes makes that harmless.  If it dies after, the batch is done.  Change
 * rows are pruned only up to a position the target has flushed to disk.
 *
 * The tables have their turns one after the other (turn.c).
 *
 * TRUNCATE is not MVCC-safe: a table truncated after S1 was taken, but before
 * it was read, reads as empty although S1 still has its rows.  So what is to be
 * read is locked first, ACCESS SHARE, all at once, and compared: the table and
 * the files it has now with those it had in S1.  If they differ, or a lock has
 * to be waited for, the batch begins again, with a new S1.
 *
 * Then the targets are locked, all at once as well.  On neither side is a table
 * waited for with another one in hand: who keeps us out of the one may be going
 * to ask for the other, and his would be the transaction that a deadlock ends;
 * through two sessions of ours at the source it would not even be seen.
 *
 * Changing the set of a table's partitions is not MVCC-safe either, and that
 * lock does not keep new ones out.  So partitioned tables are compared after
 * they were read.  What was applied of one does no harm: rows are compared with
 * what is there.  Where it could do harm (unique values, rows in quarantine, a
 * table read as a whole) that is looked at before anything is applied; for all
 * others at once, at the end.  Tables that were locked before S1 was taken need
 * no look.
 *
 * A partition that is attached brings rows, one that is detached takes rows
 * away, and no trigger tells.  So the position includes which partitions
 * there were (rehome.table_map.source_parts), and their bounds.  When there are
 * more, K has all keys of those, too; when some are gone, what is within their
 * bounds is compared (repartition.c).  Either is done in a batch that looks the
 * tables over, which also finds a partition that had been detached for a while:
 * its triggers are others.  And before it takes S1 new partitions get the
 * triggers that do not come by themselves, so that nothing happens to them
 * unseen once they are on record.
 *
 * What S1 sees need not be on the source's disk: with synchronous_commit off
 * a transaction is visible before it is durable.  If the source then crashed,
 * rows would be left here that it has lost, and the ids of lost transactions,
 * taken for seen, would be given to others.  So S1 becomes the position only
 * once the source has flushed everything up to a point after S1 was taken.
 *
 * Capture can be switched off behind our back: by a table put in the place of
 * another, by ALTER TABLE ... DISABLE TRIGGER.  At least once a second, and
 * always under the locks of a cutover, a fingerprint of tables and triggers is
 * compared with the one on record.
 *
 * A table that was paused by itself is left out: it stays at the position it
 * has reached, and its change table is not pruned.  When it goes on it is
 * brought from there, with the others, to S1, in one batch.
 *
 * The work lock of the slice is held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/apply.h"
#include "apply/repartition.h"
#include "apply/touched.h"
#include "apply/turn.h"
#include "capture/capture.h"
#include "catalog/pg_class.h"
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
#include "utils/syscache.h"

/*
 * Tells, in one round trip, the snapshot, who has authority, how far the log
 * was pruned, where the source's log is, its fingerprint if that is asked for,
 * and what has become of each table since its position.  Parameters: token,
 * slice, whether to take the fingerprint; the table maps, their positions,
 * their tables' names, and the partitions of each, null where there are none;
 * whether those to be read are to be locked; whether another session may want
 * the snapshot, which it may only when there are several of them.
 */
static const char *const poll_query =
	"SELECT txid_current_snapshot(), s.authority, s.pruned, pg_current_wal_insert_lsn(),"
	" CASE WHEN $3::boolean THEN rehome_source.fingerprint($1, $2::int, $6::text[]) END,"
	" c.flags, CASE WHEN $9::boolean AND length(replace(c.flags, '-', '')) > 1 THEN pg_export_snapshot() END,"
	" CASE WHEN $8::boolean AND c.flags ~ '[^-]' THEN rehome_source.hold(ARRAY(SELECT r FROM unnest($6::text[],"
	" string_to_array(c.flags, NULL)) AS u(r, flag) WHERE flag <> '-'), true) END"
	" FROM rehome_source.slice s,"
	" (SELECT rehome_source.changed($1, $4::int[], $5::text[], $6::text[], $7::text[]) AS flags OFFSET 0) AS c"
	" WHERE s.token = $1 AND s.slice = $2::int";

/*
 * poll_source asks that about the maps.
 */
static RehomeRows *
poll_source(RehomeConn *conn, RehomeSlice *slice, List *maps, bool lock, bool share)
{
	List	   *positions = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		positions = lappend(positions, rehome_position_of(slice, lfirst(lc)));
	return rehome_conn_query_prepared(conn, poll_query, "tibttttbb", slice->migration->token, slice->id,
									  !slice->lazy_position, rehome_map_ids(maps), rehome_name_array(positions),
									  rehome_remote_names(maps), rehome_map_source_parts(maps), lock, share);
}

/*
 * check_source raises when the source is not as this slice knows it: fenced,
 * taken back to an earlier state, or pruned beyond our position by somebody
 * else.
 */
static void
check_source(RehomeSlice *slice, RehomeRows *poll)
{
	if (poll->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the source does not know slice \"%s\" of migration \"%s\" (any more)",
					   slice->name, slice->migration->name),
				errhint("Its change capture was removed: CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)));
	if (strcmp(poll->value[0][1], "source") != 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_IN_DOUBT),
				errmsg("the source has given up authority over slice \"%s\", but this database has not taken it",
					   slice->name),
				errdetail("A cutover was interrupted between its two commits; neither side accepts writes."),
				errhint("CALL rehome.recover(%s);", quote_literal_cstr(slice->migration->name)));
	/* a snapshot never ends before an earlier one, not even after a crash */
	if (rehome_position_xmax(poll->value[0][0]) < rehome_position_xmax(slice->position))
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the source of migration \"%s\" has gone back behind the position of slice \"%s\"",
					   slice->migration->name, slice->name),
				errdetail("Position is %s, but the source is at %s: it was restored from a backup.",
						  slice->position, poll->value[0][0]),
				errhint("The target has rows that the source has lost. CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)));
	if (poll->value[0][2] != NULL && !rehome_position_covers(slice->position, poll->value[0][2]))
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the change log of slice \"%s\" no longer reaches back to its position", slice->name),
				errdetail("Position is %s, but the log was pruned up to %s, by this database before it was restored or by a copy of it.",
						  slice->position, poll->value[0][2]),
				errhint("CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)));
}

/*
 * rehome_forward_stale compares the files of a table, and its partitions,
 * with those it had in the snapshot of the transaction open on conn.
 */
bool
rehome_forward_stale(RehomeConn *conn, RehomeTableMap *map)
{
	return rehome_bool(rehome_conn_value(conn, "SELECT rehome_source.changed_since_snapshot($1::regclass)",
										 "t", rehome_remote_relation(rehome_remote_table(map->source))));
}

/*
 * raise_stale raises because a table is stale.
 */
pg_noreturn static void
raise_stale(RehomeTableMap *map, const char *doing)
{
	ereport(ERROR,
			errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			errmsg("table %s was truncated or repartitioned at the source while %s",
				   rehome_relation_name(map->target), doing),
			errhint("Try again."));
}

/*
 * any_stale tells whether one of the tables is stale.
 */
static bool
any_stale(RehomeConn *conn, List *maps)
{
	return maps != NIL &&
		rehome_bool(rehome_conn_value(conn, "SELECT EXISTS (SELECT FROM unnest($1::text[]) AS t(name)"
									  " WHERE rehome_source.changed_since_snapshot(t.name::regclass))",
									  "t", rehome_remote_names(maps)));
}

/* A table that is to be moved. */
typedef struct Due
{
	RehomeTableMap *map;
	char		flag;			/* what the poll says of it */
	bool		seems_empty;	/* to the source's planner */
	RehomeRepartition *moved;	/* partitions that came or went; NULL: none did, or all is read */
	int32		pages;			/* of the target */
} Due;

static int
larger_first(const void *a, const void *b)
{
	const Due  *left = a;
	const Due  *right = b;

	if (left->pages != right->pages)
		return left->pages > right->pages ? -1 : 1;
	return left->map->id - right->map->id;
}

static int32
pages_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	int32		pages = 0;

	if (HeapTupleIsValid(tuple))
	{
		pages = ((Form_pg_class) GETSTRUCT(tuple))->relpages;
		ReleaseSysCache(tuple);
	}
	return pages;
}

/*
 * cover_partitions sees to it that those of the tables whose partitions are
 * others now can be read: looked over in this batch, and with triggers on each
 * partition.  False when the batch has to begin again, to have that.
 */
static bool
cover_partitions(RehomeConn *conn, RehomeSlice *slice, List *maps, const char *flags, bool locked,
				 RehomeBatch *batch)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char		flag = pg_tolower((unsigned char) flags[foreach_current_index(lc)]);

		if (flag != 'a' && flag != 'g' && flag != 'p')
			continue;
		if (locked)
			rehome_source_cover(conn, slice, map, true);
		else if (slice->lazy_position || !rehome_source_covered(conn, slice, map))
			batch->uncovered = lappend(batch->uncovered, map);
	}
	if (batch->uncovered != NIL)
		slice->lazy_position = false;
	return batch->uncovered == NIL;
}

/*
 * tables_due returns the tables that have changed, and their number; those of
 * whole as after a TRUNCATE.  The largest are the first: while they are applied, the
 * source can get on with the others.
 */
static Due *
tables_due(RehomeConn *conn, RehomeSlice *slice, List *maps, List *whole, const char *flags, int *n)
{
	Due		   *due = palloc(sizeof(Due) * list_length(maps));
	ListCell   *lc;

	*n = 0;
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char		said = flags[foreach_current_index(lc)];
		char		flag = pg_tolower((unsigned char) said);
		RehomeRepartition *moved = NULL;

		if (list_member_ptr(whole, map))
			flag = flag == 'g' || flag == 'p' ? 'p' : 't';

		/* it may have been paused just now */
		if (flag == '-' || map->paused)
			continue;
		if (flag == 'a' || flag == 'g')
		{
			moved = rehome_repartition(conn, slice, map);
			if (moved == NULL)
				flag = 'p';
		}
		due[(*n)++] = (Due) {map, flag, flag != said, moved, pages_of(map->target)};
	}
	qsort(due, *n, sizeof(Due), larger_first);
	return due;
}

/*
 * take_turns moves the tables that are due, one after the other, each being
 * got ready before the one before it is moved.  False when the batch has to
 * begin again.
 */
static bool
take_turns(RehomeConn *conn, RehomeSlice *slice, const Due *due, int n, List *maps, char *snapshot,
		   bool locked, RehomeBatch *batch)
{
	RehomeSessions sessions = {.conn = conn,.snapshot = snapshot,.maps = maps};
	List	   *unchecked = NIL;
	RehomeTurn *turn = NULL;
	bool		good = true;

	for (int i = 0; good && i <= n; i++)
	{
		RehomeTurn *next = NULL;
		bool		checked;

		if (i < n)
		{
			due[i].map->unpruned++;
			batch->ntables++;
			next = rehome_turn_begin(slice, due[i].map, due[i].flag, due[i].moved, &sessions);
			next->seems_empty = due[i].seems_empty;
		}
		if (turn != NULL)
		{
			good = rehome_turn_take(turn, next, locked, &checked, batch);
			if (good && !checked && !locked)
				unchecked = lappend(unchecked, turn->map);
			rehome_turn_end(turn);
		}
		turn = next;
	}
	if (turn != NULL)
		rehome_turn_end(turn);
	if (sessions.second != NULL)
		rehome_conn_close(sessions.second);
	return good && !any_stale(conn, unchecked);
}

/*
 * start_over has the tables read as a whole the next time, too.
 */
static bool
start_over(List *whole)
{
	ListCell   *lc;

	foreach(lc, whole)
		((RehomeTableMap *) lfirst(lc))->source_print = "";
	return false;
}

/*
 * held_source tells whether what rehome_source.hold() has said, or NULL, is
 * that the tables are held; if they could not be locked it notes so.
 */
static bool
held_source(const char *said, RehomeBatch *batch)
{
	batch->busy = said != NULL && strcmp(said, "busy") == 0;
	return said == NULL || strcmp(said, "held") == 0;
}

/*
 * rehome_forward_try reads and applies a batch in the REPEATABLE READ
 * transaction that is open on the connection, and moves the position; false
 * when it has to begin again, which it never has when the tables were locked
 * before the transaction took its snapshot.  Alone, it takes no second session,
 * which cannot have a snapshot taken after a SAVEPOINT.  The targets of kept are
 * locked as well, so that they can be read afterwards.  The caller sees to it that the
 * source has flushed batch->lsn before the position is committed.
 */
bool
rehome_forward_try(RehomeConn *conn, RehomeSlice *slice, List *maps, bool locked, bool alone,
				   List *kept, RehomeBatch *batch)
{
	RehomeRows *poll;
	char	   *flags;
	List	   *touched = NIL;
	List	   *moved = NIL;
	bool		inspected = false;
	Due		   *due;
	int			n;
	ListCell   *lc;

	memset(batch, 0, sizeof(*batch));
	maps = rehome_maps_running(maps);
	if (!slice->lazy_position && slice->state == REHOME_SYNCING)
	{
		if (!locked)			/* nobody is to wait for it */
			rehome_refused_at_target(slice, maps);
		maps = rehome_target_inspect(slice, maps);
	}
	poll = poll_source(conn, slice, maps, !locked, !locked && !alone);
	check_source(slice, poll);
	if (!held_source(poll->value[0][7], batch))
		return false;
	flags = poll->value[0][5];
	if (!cover_partitions(conn, slice, maps, flags, locked, batch))
		return false;
	if (poll->value[0][4] != NULL)
		inspected = rehome_source_inspect(conn, slice, maps, poll->value[0][4], &touched);
	batch->position = poll->value[0][0];
	batch->lsn = poll->value[0][3];
	if (touched != NIL && !locked &&
		!held_source(rehome_conn_value(conn, "SELECT rehome_source.hold($1::text[], false)", "t", rehome_remote_names(touched)), batch))
		return start_over(touched);
	due = tables_due(conn, slice, maps, touched, flags, &n);
	for (int i = 0; i < n; i++)
		moved = lappend(moved, due[i].map);
	if (!locked && (batch->blockers = rehome_targets_try_take(moved, kept)) != NULL)
		return start_over(touched);
	if (n > 0)
		rehome_touched_mark(slice, maps);
	if (!take_turns(conn, slice, due, n, moved, poll->value[0][6], locked, batch))
		return start_over(touched);
	foreach(lc, rehome_maps_behind(maps))
		rehome_map_caught_up(lfirst(lc));
	/* while it is copied nothing is noted, and all of it derived at the end */
	if (slice->state != REHOME_COPYING && (batch->ntables > 0 || !slice->lazy_position))
		rehome_derive(slice, false);
	if (inspected)
		rehome_spi("UPDATE rehome.slice SET source_print = $2 WHERE id = $1", "it",
				   slice->id, poll->value[0][4]);
	if (batch->ntables > 0 || !slice->lazy_position)
		rehome_slice_set_position(slice, batch->position, batch->touched, batch->nrows);
	rehome_debug_point("batch-applied");
	return true;
}

/*
 * rehome_forward_batch reads and applies one batch.  With keep_open the
 * source transaction stays open on the batch's snapshot, with no table locked;
 * the targets of kept, which may be read then, are locked here.
 * While it waits to try again, no transaction is open there.
 */
void
rehome_forward_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
					 bool keep_open, List *kept, RehomeBatch *batch)
{
	char	   *drift = rehome_drift_relog(conn, slice, maps);
	ListCell   *lc;

	for (int attempt = 0;; attempt++)
	{
		rehome_conn_begin_read(conn);
		if (keep_open)
			rehome_conn_exec(conn, "SAVEPOINT rehome_batch");
		if (rehome_forward_try(conn, slice, maps, false, keep_open, kept, batch))
			break;
		rehome_conn_rollback(conn);
		foreach(lc, batch->uncovered)
			rehome_source_cover(conn, slice, lfirst(lc), false);
		if (batch->uncovered != NIL)
			continue;
		if (batch->blockers != NULL)
			rehome_targets_blocked(attempt, batch->blockers);
		else if (batch->busy && attempt >= rehome_lock_retries)
			rehome_source_raise_locked(conn, rehome_maps_running(maps), true);
		else if (attempt >= rehome_lock_retries)
			ereport(ERROR,
					errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("tables of slice \"%s\" were truncated or repartitioned at the source during each of %d attempts to read them",
						   slice->name, attempt + 1));
		rehome_back_off(attempt);
	}
	rehome_drift_repaired(drift);
	if (keep_open)
		rehome_conn_exec(conn, "ROLLBACK TO SAVEPOINT rehome_batch; RELEASE SAVEPOINT rehome_batch");
	else
		rehome_conn_commit(conn);
	if (batch->ntables > 0 || !slice->lazy_position)
		rehome_source_flushed(conn, slice, batch->lsn, keep_open);
}

/*
 * rehome_forward_hold locks the source table of a map, to be read in the
 * snapshot of the transaction that a batch has kept open, until it is let go.
 * Raises when the table is not what the snapshot has: doing says what it is
 * locked for.
 */
void
rehome_forward_hold(RehomeConn *conn, RehomeTableMap *map, const char *doing)
{
	rehome_conn_exec(conn, "SAVEPOINT rehome_hold");
	for (int attempt = 0;; attempt++)
	{
		char	   *said = rehome_conn_value(conn, "SELECT rehome_source.hold($1::text[], true)", "t",
											 rehome_remote_names(list_make1(map)));

		if (strcmp(said, "held") == 0)
			return;
		if (strcmp(said, "stale") == 0)
			raise_stale(map, doing);
		if (attempt >= rehome_lock_retries)
			rehome_source_raise_locked(conn, list_make1(map), true);
		rehome_back_off(attempt);
	}
}

/*
 * rehome_forward_let_go lets go of it.  New partitions it was open to: if there
 * are any, it raises.
 */
void
rehome_forward_let_go(RehomeConn *conn, RehomeTableMap *map, const char *doing)
{
	if (map->source_parts != NULL && rehome_forward_stale(conn, map))
		raise_stale(map, doing);
	rehome_conn_exec(conn, "ROLLBACK TO SAVEPOINT rehome_hold; RELEASE SAVEPOINT rehome_hold");
}

/*
 * rehome_forward_mark notes that change tables are to be pruned up to the
 * position of the batch that was just committed: of those that batches have
 * found something in since the last mark, which of thousands may be a few.
 */
void
rehome_forward_mark(List *maps)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		map->prune_due += map->unpruned;
		map->unpruned = 0;
	}
}

/*
 * delete_pruned deletes the change rows that position has seen, of the maps
 * that have some: of two tables at a time, where that is worth a session.
 */
static void
delete_pruned(RehomeConn *conn, RehomeSlice *slice, List *maps, const char *position)
{
	char	   *seen = rehome_position_seen(position);
	RehomeConn *second = NULL;
	bool		busy = false;
	int64		rows = 0;
	ListCell   *lc;

	foreach(lc, maps)
		rows += ((RehomeTableMap *) lfirst(lc))->prune_due;
	if (rows >= REHOME_MANY_ROWS)
		second = rehome_conn_another(conn);
	if (second != NULL)
		rehome_conn_exec(second, "SET synchronous_commit = off");
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	   *sql;

		if (map->prune_due == 0)
			continue;
		sql = psprintf("DELETE FROM %s WHERE %s", rehome_change_table(slice->migration, map), seen);
		if (second != NULL && !busy)
			rehome_conn_send(second, sql);
		else
			rehome_conn_exec(conn, sql);
		if (busy)
			(void) rehome_conn_receive(second);
		busy = second != NULL && !busy;
	}
	if (busy)
		(void) rehome_conn_receive(second);
	if (second != NULL)
		rehome_conn_close(second);
}

/*
 * rehome_forward_prune deletes change rows that no position will ask for
 * again, but not of tables that are behind.
 * position is that of the mark; it must be on disk at the target.  Nobody
 * waits for the source's disk: what a crash takes back is what came last, and
 * rows are not gone before it is on record that they may be.
 */
void
rehome_forward_prune(RehomeConn *conn, RehomeSlice *slice, List *maps, const char *position)
{
	ListCell   *lc;

	maps = list_difference_ptr(rehome_maps_running(maps), rehome_maps_behind(maps));
	rehome_conn_begin(conn, "");
	rehome_conn_exec(conn, "SET LOCAL synchronous_commit = off");
	rehome_conn_query(conn, "UPDATE rehome_source.slice SET pruned = $3 WHERE token = $1 AND slice = $2::int",
					  "tit", slice->migration->token, slice->id, position);
	rehome_conn_commit(conn);
	rehome_conn_begin(conn, "");
	rehome_conn_exec(conn, "SET LOCAL synchronous_commit = off");
	delete_pruned(conn, slice, maps, position);
	rehome_conn_commit(conn);
	foreach(lc, maps)
		((RehomeTableMap *) lfirst(lc))->prune_due = 0;
}
