/*-------------------------------------------------------------------------
 *
 * recover.c
 *	  Ending what a crash left between two commits.
 *
 * The two sides each know who they think has authority: rehome.slice here,
 * rehome_source.slice there.  With the work lock held nobody is in the
 * middle of moving it, so what disagrees was interrupted:
 *
 *	 here			there		means							ending
 *	 syncing		target		cutover died between commits	undo: open the fence
 *	 rolling_back	target		rollback died between commits	give back again
 *	 rolling_back	source		only the last note is missing	syncing
 *
 * Each can itself be interrupted and done again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/inverse.h"
#include "capture/capture.h"
#include "cutover/cutover.h"
#include "cutover/sql/inexact.sql.h"
#include "errors.h"
#include "guc.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/spi.h"
#include "utils/builtins.h"

/*
 * has_own_triggers tells whether something else happened at the source when
 * changes were brought back: triggers that fire in replica role too, or that our
 * role may not keep from firing.  They write what nobody has captured.
 */
static bool
has_own_triggers(RehomeConn *conn, List *maps)
{
	return rehome_bool(rehome_conn_value(conn, "SELECT EXISTS (SELECT FROM unnest($1::text[]) AS u(name), rehome_source.partition_tree(to_regclass(u.name)) AS p(oid)"
										 " JOIN pg_trigger g ON g.tgrelid = p.oid WHERE NOT g.tgisinternal AND g.tgname NOT LIKE 'rehome\\_%'"
										 " AND CASE WHEN $2::boolean THEN g.tgenabled IN ('A', 'R') ELSE g.tgenabled <> 'D' END)",
										 "tb", rehome_remote_names(maps), rehome_inverse_may_bypass(conn)));
}

/*
 * reread_lossy has the next batch read those tables as a whole whose target
 * rows may be other now than the map makes them from the source; or all of them.
 */
static void
reread_lossy(RehomeSlice *slice, bool all)
{
	uint64		n;

	n = rehome_spi(psprintf("UPDATE rehome.table_map SET source_print = 'lossy' WHERE id IN (%s)", sql_inexact),
				   "ib", slice->id, all)->processed;
	if (n > 0)
		rehome_spi("UPDATE rehome.slice SET source_print = 'lossy' WHERE id = $1", "i", slice->id);
}

/*
 * rehome_give_back brings the last changes to the source and opens its
 * fence, in a transaction it leaves open, and makes the source snapshot from
 * before the opening the slice's position.  *tail is the SQL to run right
 * before that transaction commits.  False, with nothing changed, when the
 * source has authority already.
 */
bool
rehome_give_back(RehomeConn *conn, RehomeSlice *slice, List *maps, char **tail)
{
	if (rehome_reverse_batch(conn, slice, maps, NULL, true, NULL) < 0)
		return false;
	rehome_refused_end(slice, "source", "rolled back");
	*tail = rehome_sequences_to_source(conn, slice, maps);
	rehome_slice_set_position(slice, rehome_conn_value(conn, "SELECT txid_current_snapshot()", ""), 0, 0);
	/* nobody has looked at the source's keys since the cutover */
	(void) rehome_source_mend(conn, slice);
	/* should we be lost before the COMMIT, the source ends this by itself */
	rehome_conn_query(conn, "SELECT rehome_source.set_fence($1, $2::int, false, ''),"
					  " set_config('idle_in_transaction_session_timeout', $3, true)", "tii",
					  slice->migration->token, slice->id, rehome_freeze_timeout);
	reread_lossy(slice, has_own_triggers(conn, maps));
	rehome_commit_durably();
	return true;
}

/*
 * rehome_source_authority returns who the source thinks has authority:
 * "source", "target", or NULL when it does not know the slice.  A COMMIT may
 * still be on its way there from a session of ours that has ended here; the
 * row lock waits for what becomes of that transaction, which the source ends
 * itself when it hears no more (rehome.freeze_timeout).
 */
char *
rehome_source_authority(RehomeConn *conn, RehomeSlice *slice)
{
	RehomeRows *rows;

	if (rehome_conn_query(conn, "SELECT 1 WHERE to_regclass('rehome_source.slice') IS NOT NULL", "")->n == 0)
		return NULL;
	rows = rehome_conn_query(conn, "SELECT authority FROM rehome_source.slice WHERE token = $1 AND slice = $2::int FOR UPDATE",
							 "ti", slice->migration->token, slice->id);
	return rows->n > 0 ? rows->value[0][0] : NULL;
}

/*
 * require_own_failure raises unless the source gave authority up to a
 * transaction of this very database that is known to have failed.  A copy of
 * this database, restored or promoted, must not open the fence that guards
 * the original.
 */
static void
require_own_failure(RehomeConn *conn, RehomeSlice *slice)
{
	RehomeRows *rows = rehome_conn_query(conn, "SELECT holder, holder_xid FROM rehome_source.slice"
										 " WHERE token = $1 AND slice = $2::int", "ti",
										 slice->migration->token, slice->id);
	char	   *fate = NULL;

	if (rows->value[0][0] != NULL &&
		strcmp(rows->value[0][0], rehome_spi_value("SELECT rehome.database_identity()", "")) == 0)
		fate = rehome_spi_value("SELECT CASE WHEN $1::xid8 < pg_snapshot_xmax(pg_current_snapshot())"
								" THEN pg_xact_status($1::xid8) END", "t", rows->value[0][1]);
	if (fate == NULL || strcmp(fate, "aborted") != 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_IN_DOUBT),
				errmsg("another database has authority over slice \"%s\"", slice->name),
				errdetail("The source gave it up to %s in transaction %s, which is not one that failed here: this is a copy of the database that was cut over.",
						  rows->value[0][0] ? rows->value[0][0] : "?",
						  rows->value[0][1] ? rows->value[0][1] : "?"),
				errhint("Go on with the original. If it is lost, open the source's fence by hand: SELECT rehome_source.set_fence(%s, %d, false, '');",
						quote_literal_cstr(slice->migration->token), slice->id));
}

static void
undo_cutover(RehomeConn *conn, RehomeSlice *slice)
{
	require_own_failure(conn, slice);
	if (slice->state == REHOME_SYNCING)
		rehome_slice_set_state(slice, REHOME_CUTTING_OVER, "recover",
							   "the source has given up authority, but the target has not taken it", NULL);
	rehome_conn_query(conn, "SELECT rehome_source.set_fence($1, $2::int, false, '')", "ti",
					  slice->migration->token, slice->id);
	rehome_slice_set_state(slice, REHOME_SYNCING, "recover", "recovered: the interrupted cutover is undone", NULL);
}

static void
finish_rollback(RehomeConn *conn, RehomeSlice *slice, const char *authority)
{
	if (strcmp(authority, "source") != 0)
	{
		char	   *tail;

		/* the COMMIT that was under way may have arrived while we waited */
		if (rehome_give_back(conn, slice, rehome_table_maps_require(slice), &tail))
		{
			rehome_conn_exec(conn, tail);
			rehome_conn_commit(conn);
			rehome_debug_point("given-back");
		}
	}
	rehome_slice_set_state(slice, REHOME_SYNCING, "recover", "authority is back with the source", NULL);
}

/*
 * rehome_recover_slice compares the two sides and ends what was interrupted.
 * The work lock is held.
 */
void
rehome_recover_slice(RehomeSlice *slice)
{
	RehomeConn *conn;
	char	   *authority;

	if (!slice->migration->live || slice->state == REHOME_PLANNED ||
		slice->state == REHOME_COPYING || slice->state == REHOME_COMPLETED ||
		slice->state == REHOME_CANCELLED)
		return;
	conn = rehome_slice_connect(slice, "recover");
	authority = rehome_source_authority(conn, slice);
	if (authority == NULL)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the source does not know slice \"%s\" of migration \"%s\" (any more)",
					   slice->name, slice->migration->name),
				slice->authority == REHOME_SOURCE ?
				errhint("Its change capture was removed: CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)) : 0);
	switch (slice->state)
	{
		case REHOME_SYNCING:
		case REHOME_CUTTING_OVER:
			if (strcmp(authority, "target") == 0)
				undo_cutover(conn, slice);
			else if (slice->state == REHOME_CUTTING_OVER)
				rehome_slice_set_state(slice, REHOME_SYNCING, "recover", "recovered: the source has authority", NULL);
			break;
		case REHOME_ROLLING_BACK:
			finish_rollback(conn, slice, authority);
			break;
		case REHOME_CUT_OVER:
			if (strcmp(authority, "source") == 0)
				rehome_raise_both(slice);
			break;
		default:
			break;
	}
	rehome_conn_close(conn);
}
