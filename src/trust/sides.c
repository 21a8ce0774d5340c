/*-------------------------------------------------------------------------
 *
 * sides.c
 *	  Running stated queries on both sides of a slice at one snapshot.
 *
 * Both sides are brought to one snapshot as for a verification, so what the
 * queries tell apart is never lag.  At the source they run in the transaction
 * that holds that snapshot: behind a savepoint, read-only, under
 * statement_timeout, and rolled back whatever they did.  Here they run with
 * the rights of the migration's owner (util/stated.c).
 *
 * Whatever goes wrong with a query is a result.  Only a lost connection, and
 * a cancel, end the call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "trust/sides.h"
#include "util/name.h"
#include "utils/snapmgr.h"
#include "verify/verify.h"

/*
 * rehome_sides_freeze brings both sides of a slice to one snapshot, pushes the
 * local one, and takes the work lock; what is the call's name for errors.
 */
RehomeSides *
rehome_sides_freeze(RehomeCall *call, RehomeSlice *slice, const char *what)
{
	RehomeSides *sides = palloc0(sizeof(RehomeSides));

	rehome_slice_work_lock(slice);
	rehome_slice_require_running(slice);
	rehome_slice_require_way_back(slice, what);
	if (slice->state == REHOME_CUT_OVER)
		rehome_call_require_unwritten(call, psprintf("rehome.%s()", what));
	sides->slice = slice;
	sides->maps = rehome_table_maps_require(slice);
	sides->conn = rehome_verify_freeze(slice, sides->maps, NIL, &sides->snapshot);
	return sides;
}

/*
 * rehome_sides_release lets go of both.  Raises when what was read at the
 * source is not what the snapshot has: TRUNCATE does not mind snapshots.
 */
void
rehome_sides_release(RehomeSides *sides)
{
	ListCell   *lc;

	PopActiveSnapshot();
	if (sides->conn == NULL)
		return;
	if (sides->slice->state == REHOME_CUT_OVER)
		rehome_conn_commit(sides->conn);
	else
		foreach(lc, sides->maps)
			if (!((RehomeTableMap *) lfirst(lc))->paused && rehome_forward_stale(sides->conn, lfirst(lc)))
				ereport(ERROR,
						errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("table %s was truncated or repartitioned at the source while queries ran",
							   rehome_relation_name(((RehomeTableMap *) lfirst(lc))->target)),
						errhint("Run them again."));
	rehome_conn_close(sides->conn);
}

/*
 * run_remote runs a query in the transaction at the source.
 */
static char *
run_remote(RehomeConn *conn, const RehomeStated *stated, const char *sql, RehomeRows **rows)
{
	RehomeRemoteError error;

	rehome_conn_exec(conn, psprintf("SAVEPOINT rehome_stated; SET LOCAL transaction_read_only = on;"
									" SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = %d%s",
									stated->timeout, !stated->as_client ? "" :
									"; SET LOCAL random_page_cost = DEFAULT; SET LOCAL max_parallel_workers_per_gather = DEFAULT"));
	if (stated->as_client && rehome_conn_version(conn) >= 110000)
		rehome_conn_exec(conn, "SET LOCAL jit = DEFAULT");
	rehome_conn_query(conn, "SELECT set_config('search_path', $1, true)", "t", stated->search_path);
	*rows = rehome_conn_try(conn, sql, &error);
	rehome_conn_exec(conn, "ROLLBACK TO SAVEPOINT rehome_stated; RELEASE SAVEPOINT rehome_stated");
	return *rows != NULL ? NULL : psprintf("source: %s", error.message);
}

/*
 * rehome_sides_run runs a query on one side: NULL, with its rows, or what
 * went wrong.
 */
char *
rehome_sides_run(RehomeSides *sides, bool source, const RehomeStated *stated,
				 const char *sql, RehomeRows **rows)
{
	ErrorData  *error;

	if (source && sides->conn != NULL)
		return run_remote(sides->conn, stated, sql, rows);
	error = rehome_stated_try(stated, sql, NULL, rows);
	return error == NULL ? NULL : psprintf("%s: %s", source ? "source" : "target", error->message);
}

/*
 * rehome_sides_rows does the same with an expression over each row of a
 * stated query, "rehome row", and refuses results that are too long.
 */
char *
rehome_sides_rows(RehomeSides *sides, bool source, const RehomeStated *stated,
				  const char *expression, const char *sql, RehomeRows **rows)
{
	char	   *wrong = rehome_sides_run(sides, source, stated,
										 psprintf("SELECT %s FROM (\n%s\n) AS \"rehome row\" LIMIT %d",
												  expression, sql, REHOME_RESULT_ROWS + 1), rows);

	if (*rows != NULL && (*rows)->n > REHOME_RESULT_ROWS)
		wrong = psprintf("%s: the result has more than %d rows", source ? "source" : "target",
						 REHOME_RESULT_ROWS);
	return wrong;
}
