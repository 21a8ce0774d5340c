/*-------------------------------------------------------------------------
 *
 * cutover.c
 *	  Authority moves from source to target.
 *
 * In order, with the locks each step takes:
 *
 *	 drain		batches until one is small (work lock; committing in between
 *				when the call may)
 *	 gates		all that can be known before; all failures in one error
 *	 prepare	capture on the targets, switched off; then drain again
 *	 targets	SHARE ROW EXCLUSIVE here, so that nothing waits for autovacuum
 *				or an index build once writers wait
 *	 lock		SHARE ROW EXCLUSIVE at the source, before its transaction takes
 *				a snapshot: from here to the end writers wait (the freeze)
 *	 final		the last batch, in that transaction, and what is derived of it
 *	 sequences	carried over
 *	 fence		closed at the source, in the same transaction
 *	 switch		guard off, capture on, state cut_over: all local
 *
 * Then the source commits (XACT_EVENT_PRE_COMMIT), then the target.  What if
 * it dies in between?
 *
 *	- before the source commits: both roll back; writers go on.
 *	- after the source, before the target: the fence is closed and the guard
 *	  still on, so neither side takes writes.  A live session opens the fence
 *	  again at once (remote/xact.c); after a crash, the worker's next batch
 *	  meets a source that says "target" and recovers the same way.
 *	- after the target: done.
 *
 * So BEGIN; CALL rehome.cutover('m'); ROLLBACK; leaves no trace.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "apply/inverse.h"
#include "capture/capture.h"
#include "catalog/definition.h"
#include "copy/copy.h"
#include "cutover/cutover.h"
#include "derive/derive.h"
#include "errors.h"
#include "guc.h"
#include "monitor/preflight.h"
#include "remote/query.h"
#include "trust/trust.h"
#include "util/debug_point.h"
#include "util/position.h"
#include "util/problems.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "worker/worker.h"

/*
 * add_drift adds what keeps targets from being what the source makes them.
 */
static void
add_drift(RehomeProblems *problems, RehomeSlice *slice)
{
	RehomeRows *rows = rehome_spi("SELECT target, coalesce(reason, 'it has not caught up yet'), quote_literal(target) FROM rehome.table_map"
								  " WHERE slice_id = $1 AND (paused OR position IS NOT NULL) ORDER BY id", "i", slice->id);
	ListCell   *lc;

	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_REHOME_GATE,
					   psprintf("SELECT rehome.resume_table(%s, %s);",
								quote_literal_cstr(slice->migration->name), rows->value[i][2]),
					   "Table %s is paused: %s.", rows->value[i][0], rows->value[i][1]);
	foreach(lc, rehome_drift_open(slice))
		rehome_problem(problems, ERRCODE_REHOME_GATE,
					   psprintf("SELECT rehome.repair_drift(%s); or rehome.accept_drift(%s);",
								quote_literal_cstr(slice->migration->name),
								quote_literal_cstr(slice->migration->name)),
					   "%s", (char *) lfirst(lc));
}

/*
 * add_quarantined adds the rows in quarantine that nobody has accepted.
 */
static void
add_quarantined(RehomeProblems *problems, RehomeSlice *slice)
{
	RehomeRows *rows = rehome_spi("SELECT q.target, count(*) FROM rehome.quarantine q"
								  " WHERE q.migration = $1::name AND q.slice = $2::name AND NOT q.accepted"
								  " GROUP BY q.target ORDER BY q.target::text", "tt", slice->migration->name, slice->name);

	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_REHOME_GATE,
					   "Repair them, or decide to go without: SELECT rehome.accept_quarantine(...);",
					   "%s rows in quarantine for %s.", rows->value[i][1], rows->value[i][0]);
}

/*
 * check_gates raises with everything that stands in the way of the cutover.  What
 * it takes to find out, tens of kilobytes a table, is let go of.
 */
static void
check_gates(RehomeConn *conn, RehomeSlice *slice, List *maps, bool one_way)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome gates", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RehomeProblems problems;
	RehomeRows *rows;
	ListCell   *lc;

	rehome_problems_init(&problems);
	add_drift(&problems, slice);
	rehome_derive_gates(slice, false, &problems);
	rows = rehome_spi("SELECT format('%s of %s %s', o.name, o.relation, coalesce('is not valid: ' || o.deferred, 'has not been rebuilt.'))"
					  " FROM rehome.saved_object o JOIN rehome.table_map t ON t.id = o.table_map_id"
					  " WHERE t.slice_id = $1 AND o.rebuilt_at IS NULL ORDER BY o.id", "i", slice->id);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_REHOME_GATE, NULL, "%s", rows->value[i][0]);
	rehome_trust_gates(slice, &problems);
	add_quarantined(&problems, slice);
	rows = rehome_spi("SELECT t.target FROM rehome.table_map t WHERE t.slice_id = $1 AND t.copied_at IS NOT NULL"
					  " AND t.rules_hash <> rehome.rules_hash(t.id) ORDER BY t.target::text", "i", slice->id);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_REHOME_GATE,
					   "Read the table again with rehome.recopy(), or show with rehome.verify() that it makes no difference.",
					   "%s was made by other rules than it has now.", rows->value[i][0]);

	rehome_key_gates(conn, slice, rehome_maps_running(maps), &problems);
	foreach(lc, rehome_preflight_switch(conn, slice, rehome_maps_running(maps)))
	{
		RehomeFinding *finding = lfirst(lc);

		if (strcmp(finding->severity, "error") != 0 ||
			(one_way && strcmp(finding->check, "reverse") == 0))
			continue;
		rehome_problem(&problems, ERRCODE_REHOME_GATE, finding->hint, "%s: %s",
					   finding->object, finding->detail);
	}
	rehome_problems_raise(&problems, "slice \"%s\" of migration \"%s\" cannot be cut over",
						  slice->name, slice->migration->name);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * require_cutover raises unless the slice can be cut over at all; false, with
 * a notice, when it has been: by an earlier call, or by one that ran beside
 * ours and was faster.
 */
static bool
require_cutover(RehomeSlice *slice)
{
	if (slice->state == REHOME_CUT_OVER)
	{
		ereport(NOTICE, errmsg("slice \"%s\" is cut over already", slice->name));
		return false;
	}
	rehome_slice_require(slice, "cut over", REHOME_SYNCING, REHOME_SYNCING);
	rehome_slice_require_running(slice);
	if (!slice->migration->live)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("the source of migration \"%s\" can only be copied from", slice->migration->name),
				errdetail("It cannot be fenced, so authority cannot be taken from it."),
				errhint("CALL rehome.complete(%s);", quote_literal_cstr(slice->migration->name)));
	return true;
}

/*
 * commit_between commits what has been done, if the call may, and takes the
 * slice and its maps again, as they are then; false when another session has cut
 * it over meanwhile.
 */
static bool
commit_between(RehomeCall *call, RehomeSlice *slice, List **maps)
{
	if (!call->nonatomic)
		return true;
	rehome_call_commit(call);
	rehome_slice_work_lock(slice);
	if (!require_cutover(slice))
		return false;
	*maps = rehome_table_maps_require(slice);
	return true;
}

/*
 * drain runs batches until one is small; false when the slice has been cut
 * over meanwhile.
 */
static bool
drain(RehomeCall *call, RehomeConn *conn, RehomeSlice *slice, List **maps)
{
	for (int i = 0; i < REHOME_MAX_DRAINS; i++)
	{
		RehomeBatch batch;

		rehome_forward_batch(conn, slice, *maps, false, NIL, &batch);
		if (!commit_between(call, slice, maps))
			return false;
		if (batch.nrows <= rehome_cutover_backlog)
			break;
	}
	return true;
}

/*
 * prepare does what need not wait until writers wait: drains, looks at the
 * gates, and makes the targets' capture, if the call may commit.  With many
 * tables that takes a while in which changes pile up at the source, so then
 * it drains again.  False when the slice has been cut over meanwhile.
 */
static bool
prepare(RehomeCall *call, RehomeConn *conn, RehomeSlice *slice, List **maps, bool one_way)
{
	ereport(NOTICE, errmsg("slice \"%s\": draining", slice->name));
	for (;;)
	{
		if (!drain(call, conn, slice, maps))
			return false;
		rehome_derive(slice, true);
		rehome_saved_validate(slice);
		check_gates(conn, slice, *maps, one_way);
		if (!call->nonatomic || rehome_target_covered(*maps))
			return true;
		rehome_targets_lock(*maps, ShareRowExclusiveLock);
		rehome_target_install(slice, *maps, true);
		if (!commit_between(call, slice, maps))
			return false;
	}
}

/*
 * freeze_source opens the transaction at the source and locks its tables.
 * Before each attempt it drains once more: what has come while the gates were
 * looked at and the targets locked would be brought over while writers wait.
 */
static void
freeze_source(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeFreeze *freeze)
{
	char	   *blockers = NULL;
	RehomeBatch batch;

	for (int attempt = 0;; attempt++)
	{
		rehome_forward_batch(conn, slice, maps, false, NIL, &batch);
		rehome_conn_begin(conn, "ISOLATION LEVEL REPEATABLE READ");
		if (rehome_source_locked(conn, slice, maps, &blockers))
			break;
		if (attempt >= rehome_lock_retries)
			ereport(ERROR,
					errcode(ERRCODE_REHOME_LOCK_TIMEOUT),
					errmsg("could not lock the source's tables within %d ms in %d tries",
						   rehome_lock_timeout, attempt + 1),
					errdetail_internal("%s", blockers ? blockers : "Whoever held the lock has gone meanwhile."),
					errhint("Nothing has changed. Try again when that transaction has ended, or raise rehome.lock_timeout or rehome.lock_retries."));
		ereport(NOTICE,
				errmsg("could not lock the source's tables within %d ms, trying again", rehome_lock_timeout),
				blockers ? errdetail_internal("%s", blockers) : 0);
		rehome_back_off(attempt);
	}
	rehome_freeze_begin(freeze, 1000);
}

/*
 * require_untaken raises when another migration has authority over one of the
 * tables: two targets would be written, and neither could bring its changes back
 * through the other's fence.  The tables are locked, so no other can take it now.
 * Fences of migrations that are complete count, too.
 */
static void
require_untaken(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeRows *rows = rehome_source_taken(conn, slice, maps);
	StringInfoData taken;

	initStringInfo(&taken);
	for (int i = 0; i < rows->n; i++)
		appendStringInfo(&taken, "%sTable %s has moved to %s.", i > 0 ? "\n" : "", rows->value[i][0], rows->value[i][1]);
	if (rows->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_GATE),
				errmsg("slice \"%s\" of migration \"%s\" cannot be cut over: another migration has authority over its tables",
					   slice->name, slice->migration->name),
				errdetail_internal("%s", taken.data),
				errhint("Roll that one back first, or cancel this one."));
}

/*
 * close_fence closes the fence at the source, and notes there from where
 * changes will come back, and to whom authority goes.
 */
static void
close_fence(RehomeConn *conn, RehomeSlice *slice)
{
	RehomeMigration *migration = slice->migration;
	char	   *token = quote_literal_cstr(migration->token);

	rehome_conn_exec(conn, psprintf("SELECT rehome_source.set_fence(%s, %d, true, %s);"
									"UPDATE rehome_source.slice SET reverse_position = %s, reverse_parts = '{}', holder = %s, holder_xid = " UINT64_FORMAT
									" WHERE token = %s AND slice = %d",
									token, slice->id, quote_literal_cstr(rehome_new_home(migration)),
									quote_literal_cstr(rehome_position_now()),
									quote_literal_cstr(rehome_spi_value("SELECT rehome.database_identity()", "")),
									U64FromFullTransactionId(GetTopFullTransactionId()), token, slice->id));
}

/*
 * switch_over is what happens while writers wait: final batch, sequences,
 * fence, switch.  The source's transaction is left to the local commit.
 */
static void
switch_over(RehomeConn *conn, RehomeSlice *slice, List *maps, bool one_way,
			RehomeFreeze *freeze)
{
	RehomeMigration *migration = slice->migration;
	RehomeBatch batch;
	RehomeProblems problems;
	ListCell   *lc;

	rehome_debug_point("frozen");
	if (!rehome_forward_try(conn, slice, maps, true, true, NIL, &batch))
		elog(ERROR, "the last batch of locked tables was not applied");
	rehome_derive(slice, true);
	rehome_problems_init(&problems);
	/* what has come since the gates were looked at */
	add_drift(&problems, slice);
	add_quarantined(&problems, slice);
	rehome_derive_gates(slice, true, &problems);
	rehome_problems_raise(&problems, "slice \"%s\" of migration \"%s\" cannot be cut over",
						  slice->name, migration->name);
	rehome_freeze_check(freeze, "the final batch");
	rehome_sequences_to_target(conn, slice, maps);
	rehome_freeze_check(freeze, "the sequences");

	require_untaken(conn, slice, maps);
	close_fence(conn, slice);
	foreach(lc, maps)
		rehome_target_note_parts(lfirst(lc), rehome_target_partitions(((RehomeTableMap *) lfirst(lc))->target, NULL));
	rehome_target_switch(maps, false, !one_way);
	rehome_refused_end(slice, "target", "cut over");
	rehome_derived_switch(slice, false, !one_way);
	rehome_spi("UPDATE rehome.slice SET one_way = $2 WHERE id = $1", "ib", slice->id, one_way);
	rehome_slice_set_state(slice, REHOME_CUT_OVER, "cutover", "authority is with the target",
						   rehome_freeze_detail(freeze, batch.nrows));
	freeze->event = rehome_last_event();
	if (!one_way)
		rehome_worker_request(slice);
	rehome_freeze_check(freeze, "the switch");
	rehome_position_flush();	/* recover asks what became of this transaction */
	rehome_commit_durably();
	rehome_conn_commit_before_local(conn, slice->id,
									psprintf("BEGIN; SELECT rehome_source.set_fence(%s, %d, false, ''); COMMIT",
											 quote_literal_cstr(migration->token), slice->id));
}

/*
 * rehome_cutover_slice cuts a slice over.  When the frame may commit, it is
 * committed when this returns; else it is with the caller's COMMIT.  With
 * one_way there is no way back, and nothing is captured for one.
 */
void
rehome_cutover_slice(RehomeCall *call, RehomeSlice *slice, bool one_way)
{
	RehomeFreeze freeze = {0};
	RehomeConn *conn;
	List	   *maps;

	rehome_slice_work_lock(slice);
	if (!require_cutover(slice))
		return;
	maps = rehome_table_maps_require(slice);
	conn = rehome_slice_connect(slice, "cutover");
	if (!prepare(call, conn, slice, &maps, one_way))
	{
		rehome_conn_close(conn);
		return;
	}
	rehome_targets_lock(list_concat_copy(maps, rehome_derived_maps(slice)), ShareRowExclusiveLock);
	rehome_target_install(slice, maps, true);
	freeze.rules = rehome_rules_hash(slice);

	freeze_source(conn, slice, maps, &freeze);
	PG_TRY();
	{
		switch_over(conn, slice, maps, one_way, &freeze);
	}
	PG_CATCH();
	{
		rehome_freeze_rethrow(&freeze);
	}
	PG_END_TRY();
	if (call->nonatomic)
	{
		rehome_call_commit(call);
		rehome_freeze_record(&freeze);
		rehome_call_commit(call);
	}
}
