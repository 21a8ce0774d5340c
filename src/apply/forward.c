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
 * The tables are read and applied one after the other, so that what is on
 * hand at any time is one table's part of the batch.  Of a table without
 * unique values besides the key it is but a few thousand rows: they are
 * applied while the source looks up the next, so that both sides work.  Keys
 * come in order, which spares both sides' caches.
 *
 * TRUNCATE is not MVCC-safe: a table truncated after S1 was taken, but before
 * it was read, reads as empty although S1 still has its rows.  So is changing
 * the set of a table's partitions.  Reading holds ACCESS SHARE, so it
 * suffices to compare afterwards the files the table has now with those it
 * had in S1; if they differ the batch begins again, with a new S1.  What was
 * applied of it does no harm: rows are compared with what is there.  Where it
 * could do harm (unique values, rows in quarantine, a table read as a whole)
 * that is looked at before anything is applied; for all other tables at once,
 * at the end.  Tables that were locked before S1 was taken need no look.
 *
 * A partition that is attached brings rows, one that is detached takes rows
 * away, and no trigger tells.  So the position includes which partitions
 * there were (rehome.table_map.source_parts), and when they are others, the
 * table is read as a whole, as after a TRUNCATE.
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

#include "apply/apply.h"
#include "apply/touched.h"
#include "capture/capture.h"
#include "copy/sieve.h"
#include "copy/stream.h"
#include "derive/derive.h"
#include "errors.h"
#include "guc.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/*
 * Rows that are applied at once: about as many as fit into the buffers of a
 * socket, so that the source goes on meanwhile.
 */
#define APPLY_ROWS 1000

/* Rows in quarantine that are asked for at once. */
#define RETRY_KEYS 500

/*
 * Rows that another row's change may have cured: unique and exclusion
 * constraints.  A batch looks at no more than a thousand.
 */
#define CURABLE "q.id IN (SELECT id FROM rehome.quarantine c WHERE c.target = q.target" \
	" AND c.sqlstate IN ('23505', '23P01') ORDER BY c.last_seen LIMIT 1000)"

/*
 * Tells, in one round trip, the snapshot, who has authority, how far the log
 * was pruned, where the source's log is, its fingerprint if that is asked for,
 * and what has become of each table since its position.  Parameters: token,
 * slice, whether to take the fingerprint; the table maps, their positions,
 * their tables' names, and the partitions of each, an empty string where there
 * are none.
 */
static const char *const poll_query =
	"SELECT txid_current_snapshot(), s.authority, s.pruned, pg_current_wal_insert_lsn(),"
	" CASE WHEN $3::boolean THEN rehome_source.fingerprint($1, $2::int, $6::text[]) END,"
	" rehome_source.changed($1, $4::int[], $5::text[], $6::text[], $7::text[])"
	" FROM rehome_source.slice s WHERE s.token = $1 AND s.slice = $2::int";

static char *
relation_names(List *maps)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		names = lappend(names, rehome_remote_relation(rehome_remote_table(((RehomeTableMap *) lfirst(lc))->source)));
	return rehome_name_array(names);
}

/*
 * position_of returns the position a table is at: the slice's, unless it has
 * been paused by itself and is catching up.
 */
static char *
position_of(RehomeSlice *slice, RehomeTableMap *map)
{
	return map->position ? map->position : slice->position;
}

/*
 * poll_source asks that about the maps.
 */
static RehomeRows *
poll_source(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	List	   *ids = NIL;
	List	   *positions = NIL;
	List	   *parts = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		ids = lappend(ids, psprintf("%d", map->id));
		positions = lappend(positions, position_of(slice, map));
		parts = lappend(parts, map->source_parts ? map->source_parts : "");
	}
	return rehome_conn_query_prepared(conn, poll_query, "tibtttt", slice->migration->token, slice->id,
									  !slice->lazy_position, rehome_name_array(ids), rehome_name_array(positions),
									  relation_names(maps), rehome_name_array(parts));
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
	if (poll->value[0][2] != NULL &&
		rehome_position_xmax(poll->value[0][2]) > rehome_position_xmax(slice->position))
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the change log of slice \"%s\" no longer reaches back to its position", slice->name),
				errdetail("Position is %s, but the log was pruned up to %s, by this database before it was restored or by a copy of it.",
						  slice->position, poll->value[0][2]),
				errhint("CALL rehome.cancel(%s) and begin again.",
						quote_literal_cstr(slice->migration->name)));
}

/*
 * source_select starts "SELECT source columns FROM the source table".
 */
static char *
source_select(StringInfo sql, RehomeMapping *mapping, List *columns)
{
	appendStringInfo(sql, "SELECT %s FROM ", rehome_quote_list(columns, "source."));
	rehome_remote_from(sql, rehome_remote_table(mapping->map->source), NULL, false);
	return sql->data;
}

/*
 * read_gone stores the keys (as the target knows them) of changed rows that
 * the source no longer has, or that the filter no longer lets through.
 */
static void
read_gone(RehomeConn *conn, RehomeSlice *slice, RehomeChange *change)
{
	RehomeTableMap *map = change->mapping->map;
	RehomeProjector *projector = rehome_projector_key(change->mapping);
	StringInfoData sql;
	int			n = list_length(map->source_key);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int k = 1; k <= n; k++)
		appendStringInfo(&sql, "%sk.key%d", k > 1 ? ", " : "", k);
	appendStringInfoString(&sql, " FROM ");
	rehome_changed_keys(&sql, slice->migration, map, position_of(slice, map), map->filter == NULL);
	appendStringInfoString(&sql, " AS k WHERE NOT EXISTS (SELECT FROM ");
	rehome_remote_from(&sql, rehome_remote_table(map->source), NULL, false);
	appendStringInfoString(&sql, " WHERE ");
	rehome_join_key(&sql, map, "source", "k");
	if (map->filter != NULL)
		appendStringInfo(&sql, " AND (%s)", map->filter);
	appendStringInfoChar(&sql, ')');
	change->ngone = rehome_stream_gone(conn, sql.data, change->mapping, projector,
									   rehome_receive_store, change->gone);
	rehome_projector_end(projector);
}

/*
 * apply_rows brings the rows on hand into the target, and lets go of them.
 */
static void
apply_rows(RehomeSlice *slice, RehomeChange *change)
{
	RehomeApplying applying;

	if (change->nrows == 0)
		return;
	rehome_applying_begin(&applying, slice->migration->owner);
	if (change->everything && change->present == NULL)
		change->touched += rehome_apply_insert(change->mapping, change->rows, change->nrows);
	else
		change->touched += rehome_apply_rows(change->mapping, change->rows, change->nrows);
	rehome_applying_end(&applying);
	rehome_touched_keys(change->mapping, change->mapping->mapped_desc, change->rows, change->nrows);
	tuplestore_clear(change->rows);
	change->nread += change->nrows;
	change->nrows = 0;
	CommandCounterIncrement();
}

/* Where the rows of a stream go. */
typedef struct Sink
{
	RehomeSlice *slice;
	RehomeChange *change;
	MemoryContext context;		/* for the time of one application */
} Sink;

/*
 * keep_key remembers the key of a row that the source has.
 */
static void
keep_key(RehomeChange *change, TupleTableSlot *row)
{
	RehomeMapping *mapping = change->mapping;
	Datum	   *values = palloc(sizeof(Datum) * mapping->nkey);
	bool	   *nulls = palloc(sizeof(bool) * mapping->nkey);

	for (int k = 0; k < mapping->nkey; k++)
	{
		int			i = mapping->key[k] - mapping->columns;

		values[k] = row->tts_values[i];
		nulls[k] = row->tts_isnull[i];
	}
	tuplestore_putvalues(change->present, mapping->key_desc, values, nulls);
	change->npresent++;
	pfree(values);
	pfree(nulls);
}

/*
 * receive_change keeps a row, and applies what is there when it is enough; a
 * RehomeReceive.
 */
static void
receive_change(TupleTableSlot *row, void *arg)
{
	Sink	   *sink = arg;
	MemoryContext old;

	tuplestore_puttupleslot(sink->change->rows, row);
	if (sink->change->present != NULL)
		keep_key(sink->change, row);
	if (++sink->change->nrows < APPLY_ROWS || !sink->change->by_parts)
		return;
	old = MemoryContextSwitchTo(sink->context);
	apply_rows(sink->slice, sink->change);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sink->context);
}

/*
 * flush_changes applies the rows on hand, as part of a set that may be undone.
 */
static void
flush_changes(void *arg)
{
	Sink	   *sink = arg;

	apply_rows(sink->slice, sink->change);
}

/*
 * reset_changes forgets the rows of a set that was undone.
 */
static void
reset_changes(void *arg)
{
	Sink	   *sink = arg;

	tuplestore_clear(sink->change->rows);
	sink->change->nrows = 0;
	(void) SPI_unregister_relation("rehome_rows");
}

/*
 * remove_change takes away the target's version of a row that is refused.
 */
static void
remove_change(TupleTableSlot *key, void *arg)
{
	Sink	   *sink = arg;
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	RehomeApplying applying;

	tuplestore_puttupleslot(store, key);
	rehome_applying_begin(&applying, sink->slice->migration->owner);
	sink->change->touched += rehome_apply_gone(sink->change->mapping, store, 1);
	rehome_applying_end(&applying);
	rehome_touched_keys(sink->change->mapping, sink->change->mapping->key_desc, store, 1);
	tuplestore_end(store);
	CommandCounterIncrement();
}

/*
 * sieve_changes sets up what becomes of rows that are refused; NULL for a
 * table whose rows are not.
 */
static RehomeSieve *
sieve_changes(RehomeSlice *slice, RehomeChange *change)
{
	RehomeTaker *taker;
	Sink	   *sink;

	if (!change->mapping->tolerant)
		return NULL;
	taker = palloc0(sizeof(RehomeTaker));
	sink = palloc0(sizeof(Sink));
	sink->slice = slice;
	sink->change = change;
	sink->context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome part of a batch",
										  ALLOCSET_DEFAULT_SIZES);
	*taker = (RehomeTaker) {receive_change, flush_changes, reset_changes, remove_change, sink};
	return rehome_sieve_begin(slice, change->mapping, taker, false);
}

/*
 * move_quarantined reads rows that are in quarantine again, by key, those of
 * the condition (SQL over rehome.quarantine q) only, and applies what is good
 * now.  What the source no longer has leaves the quarantine.  Returns the
 * number of rows that are asked for.
 */
static int64
move_quarantined(RehomeConn *conn, RehomeSlice *slice, RehomeChange *change, const char *condition,
				 const char *rule)
{
	RehomeTableMap *map = change->mapping->map;
	List	   *columns = rehome_mapping_source_columns(change->mapping);
	RehomeProjector *projector;
	RehomeRows *rows;
	RehomeAs	as;

	rows = rehome_spi(psprintf("SELECT q.id, (SELECT array_agg(q.source_key->>k ORDER BY n)"
							   " FROM unnest($4::text[]) WITH ORDINALITY AS u(k, n)) FROM rehome.quarantine q"
							   " WHERE q.migration = $1::name AND q.slice = $2::name AND q.target = $3"
							   " AND q.source_key IS NOT NULL AND ($5 IS NULL OR q.rule = $5) AND %s ORDER BY q.id", condition),
					  "ttott", slice->migration->name, slice->name, map->target,
					  rehome_name_array(map->source_key), rule);
	rehome_become(&as, slice->migration->owner);
	projector = rehome_projector_mapped(change->mapping);
	for (int from = 0; from < rows->n; from += RETRY_KEYS)
	{
		StringInfoData sql;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&sql);
		source_select(&sql, change->mapping, columns);
		appendStringInfoString(&sql, " WHERE (");
		for (int i = from; i < Min(from + RETRY_KEYS, rows->n); i++)
		{
			ListCell   *lc;

			appendStringInfoString(&sql, i > from ? " OR (" : "(");
			foreach(lc, rehome_name_list(rows->value[i][1]))
				appendStringInfo(&sql, "%ssource.%s = %s", foreach_current_index(lc) > 0 ? " AND " : "",
								 quote_identifier(list_nth(map->source_key, foreach_current_index(lc))),
								 quote_literal_cstr(lfirst(lc) ? lfirst(lc) : ""));
			appendStringInfoChar(&sql, ')');
		}
		appendStringInfoChar(&sql, ')');
		if (map->filter != NULL)
			appendStringInfo(&sql, " AND (%s)", map->filter);
		(void) rehome_sieve_stream(conn, sql.data, change->mapping, columns, projector, NULL);
	}
	rehome_projector_end(projector);
	rehome_become_self(&as);
	apply_rows(slice, change);
	return rows->n;
}

/*
 * rehome_forward_retry reads the quarantined rows of a table again, in the
 * source transaction of the slice's position: those that rule refused, or all
 * when it is NULL.  Counts what was asked for, and what is refused still.
 */
void
rehome_forward_retry(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map, const char *rule,
					 int64 *asked, int64 *refused)
{
	RehomeChange change = {0};
	RehomeSieve *sieve;
	char	   *began = rehome_spi_value("SELECT clock_timestamp()", "");

	change.mapping = rehome_mapping_compile(map, slice->migration->owner);
	change.mapping->tolerant = true;
	change.by_parts = true;
	change.rows = tuplestore_begin_heap(false, false, work_mem);
	rehome_targets_lock(list_make1(map), RowExclusiveLock);
	rehome_touched_mark(slice, list_make1(map));
	rehome_touched_check(change.mapping);
	sieve = sieve_changes(slice, &change);
	*asked = move_quarantined(conn, slice, &change, "true", rule);
	rehome_sieve_end(sieve);
	rehome_apply_end(change.mapping);
	rehome_touched_bound(map, change.nread);
	tuplestore_end(change.rows);
	CommandCounterIncrement();
	rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name AND target = $3"
			   " AND source_key IS NOT NULL AND ($4 IS NULL OR rule = $4) AND last_seen < $5::timestamptz", "ttott",
			   slice->migration->name, slice->name, map->target, rule, began);
	*refused = rehome_int64(rehome_spi_value("SELECT count(*) FROM rehome.quarantine WHERE migration = $1::name"
											 " AND slice = $2::name AND target = $3 AND last_seen >= $4::timestamptz", "ttot",
											 slice->migration->name, slice->name, map->target, began));
}

/*
 * move_rows brings over the changed rows as the source has them; after a
 * TRUNCATE all rows.
 */
static void
move_rows(RehomeConn *conn, RehomeSlice *slice, RehomeChange *change)
{
	RehomeTableMap *map = change->mapping->map;
	List	   *columns = rehome_mapping_source_columns(change->mapping);
	RehomeProjector *projector = rehome_projector_mapped(change->mapping);
	Sink		sink = {slice, change};
	StringInfoData sql;

	initStringInfo(&sql);
	source_select(&sql, change->mapping, columns);
	if (!change->everything)
	{
		appendStringInfoString(&sql, " JOIN ");
		rehome_changed_keys(&sql, slice->migration, map, position_of(slice, map), false);
		appendStringInfoString(&sql, " AS k ON ");
		rehome_join_key(&sql, map, "source", "k");
	}
	if (map->filter != NULL)
		appendStringInfo(&sql, " WHERE (%s)", map->filter);
	sink.context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome part of a batch",
										 ALLOCSET_DEFAULT_SIZES);
	(void) rehome_stream(conn, sql.data, change->mapping, columns, projector, receive_change, &sink, NULL);
	rehome_projector_end(projector);
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
 * any_stale tells whether one of the tables is stale.
 */
static bool
any_stale(RehomeConn *conn, List *maps)
{
	return maps != NIL &&
		rehome_bool(rehome_conn_value(conn, "SELECT EXISTS (SELECT FROM unnest($1::text[]) AS t(name)"
									  " WHERE rehome_source.changed_since_snapshot(t.name::regclass))",
									  "t", relation_names(maps)));
}

/*
 * record_parts stores which partitions the table had in the snapshot, and has
 * new ones covered with triggers once the batch is done.
 */
static void
record_parts(RehomeConn *conn, RehomeTableMap *map)
{
	char	   *parts;

	if (map->source_parts == NULL)
		return;
	parts = rehome_conn_value(conn, "SELECT rehome_source.partitions($1::regclass)", "t",
							  rehome_remote_relation(rehome_remote_table(map->source)));
	if (strcmp(parts, map->source_parts) == 0)
		return;
	rehome_spi("UPDATE rehome.table_map SET source_parts = $2 WHERE id = $1", "it", map->id, parts);
	map->source_parts = MemoryContextStrdup(GetMemoryChunkContext(map), parts);
}

/*
 * apply_gone takes away what is gone: the keys on hand, or everything.
 */
static void
apply_gone(RehomeSlice *slice, RehomeChange *change)
{
	RehomeApplying applying;

	rehome_applying_begin(&applying, slice->migration->owner);
	if (!change->everything)
		change->touched += rehome_apply_gone_treated(change->mapping, change->gone, change->ngone, false);
	else if (change->present == NULL)
		change->touched += rehome_apply_delete_all(change->mapping);
	else if (change->finished)
		change->touched += rehome_apply_gone_treated(change->mapping, change->present, change->npresent, true);
	rehome_applying_end(&applying);
	if (!change->everything)
		rehome_touched_keys(change->mapping, change->mapping->key_desc, change->gone, change->ngone);
	CommandCounterIncrement();
}

/*
 * move_table moves one table's part of the batch; flag is what the poll says
 * of it.  False when its target could not be locked, which is batch->blockers,
 * or when the table was truncated meanwhile, so that what has been applied is
 * not what the snapshot has.  It is all of keys that will be read again.
 * *checked is false when that is to be found out later.
 */
static bool
move_table(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map, char flag,
		   bool locked, bool *checked, RehomeBatch *batch)
{
	RehomeChange change = {0};
	bool		everything = flag == 't';
	RehomeSieve *sieve;
	char	   *began = NULL;
	RehomeAs	as;

	batch->blockers = rehome_targets_try_lock(list_make1(map), RowExclusiveLock);
	if (batch->blockers != NULL)
		return false;
	change.mapping = rehome_mapping_compile(map, slice->migration->owner);
	change.everything = everything;
	change.by_parts = everything || change.mapping->tolerant || !rehome_apply_is_fragile(change.mapping);
	change.gone = tuplestore_begin_heap(false, false, work_mem);
	change.rows = tuplestore_begin_heap(false, false, work_mem);
	if (everything)
		rehome_touched_all(map, "all of it was read again since");
	else
		rehome_touched_check(change.mapping);
	if (everything && map->on_delete != 'd')
		change.present = tuplestore_begin_heap(false, false, work_mem);
	sieve = sieve_changes(slice, &change);
	if (sieve != NULL)
		began = rehome_spi_value("SELECT clock_timestamp()", "");
	rehome_become(&as, slice->migration->owner);
	if (flag == 'd' || (!everything && map->filter != NULL))
		read_gone(conn, slice, &change);
	apply_gone(slice, &change);
	move_rows(conn, slice, &change);
	rehome_become_self(&as);
	rehome_debug_point("batch-read");

	*checked = everything || sieve != NULL || !change.by_parts;
	if (*checked && !locked && rehome_forward_stale(conn, map))
		return false;
	apply_rows(slice, &change);
	if (change.present != NULL)
	{
		change.finished = true;
		apply_gone(slice, &change);
		tuplestore_end(change.present);
	}
	if (sieve != NULL)
	{
		if (everything)
			rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name AND target = $3"
					   " AND source_key IS NOT NULL AND last_seen < $4::timestamptz", "ttot",
					   slice->migration->name, slice->name, map->target, began);
		else if (map->quarantine)
			(void) move_quarantined(conn, slice, &change, CURABLE, NULL);
		rehome_sieve_end(sieve);
	}
	batch->touched += change.touched;
	batch->nrows += change.ngone + change.nread;
	rehome_touched_bound(map, change.ngone + change.nread);
	if (everything)
	{
		record_parts(conn, map);
		rehome_spi("UPDATE rehome.table_map SET rules_hash = rehome.rules_hash(id) WHERE id = $1", "i", map->id);
	}
	rehome_apply_end(change.mapping);
	tuplestore_end(change.gone);
	tuplestore_end(change.rows);
	return true;
}

/*
 * rehome_forward_try reads and applies a batch in the REPEATABLE READ
 * transaction that is open on the connection, and moves the position; false
 * when it has to begin again, which it never has when the tables were locked
 * before the transaction took its snapshot.  The caller sees to it that the
 * source has flushed batch->lsn before the position is committed.
 */
bool
rehome_forward_try(RehomeConn *conn, RehomeSlice *slice, List *maps, bool locked,
				   RehomeBatch *batch)
{
	RehomeRows *poll;
	List	   *touched = NIL;
	List	   *unchecked = NIL;
	bool		inspected = false;
	bool		stale = false;
	ListCell   *lc;

	memset(batch, 0, sizeof(*batch));
	maps = rehome_maps_running(maps);
	if (!slice->lazy_position && slice->state == REHOME_SYNCING)
	{
		if (!locked)			/* nobody is to wait for it */
			rehome_refused_at_target(slice, maps);
		maps = rehome_target_inspect(slice, maps);
	}
	poll = poll_source(conn, slice, maps);
	check_source(slice, poll);
	if (poll->value[0][4] != NULL)
		inspected = rehome_source_inspect(conn, slice, maps, poll->value[0][4], &touched);
	batch->position = poll->value[0][0];
	batch->lsn = poll->value[0][3];
	if (touched != NIL || strspn(poll->value[0][5], "-") < list_length(maps))
		rehome_touched_mark(slice, maps);
	foreach(lc, maps)
	{
		char		flag = poll->value[0][5][foreach_current_index(lc)];
		MemoryContext context;
		MemoryContext old;
		bool		checked;

		if (stale)
			break;
		if (((RehomeTableMap *) lfirst(lc))->paused)
			continue;			/* just now */
		if (list_member_ptr(touched, lfirst(lc)))
			flag = 't';
		if (flag == '-')
			continue;
		((RehomeTableMap *) lfirst(lc))->unpruned = true;
		batch->ntables++;
		context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome batch table",
										ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(context);
		stale = !move_table(conn, slice, lfirst(lc), flag, locked, &checked, batch);
		MemoryContextSwitchTo(old);
		if (!stale && !checked && !locked)
			unchecked = lappend(unchecked, lfirst(lc));
		if (batch->blockers != NULL)
			batch->blockers = pstrdup(batch->blockers);
		MemoryContextDelete(context);
	}
	if (stale || any_stale(conn, unchecked))
	{
		/* to be read as a whole the next time, too */
		foreach(lc, touched)
			((RehomeTableMap *) lfirst(lc))->source_print = "";
		return false;
	}
	foreach(lc, rehome_maps_behind(maps))
		rehome_map_caught_up(lfirst(lc));
	if (batch->ntables > 0 || !slice->lazy_position)
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
 * source transaction stays open on the batch's snapshot.  While it waits to
 * try again, no transaction is open there.
 */
void
rehome_forward_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
					 bool keep_open, RehomeBatch *batch)
{
	char	   *drift = rehome_drift_relog(conn, slice, maps);

	for (int attempt = 0;; attempt++)
	{
		rehome_conn_begin(conn, "ISOLATION LEVEL REPEATABLE READ, READ ONLY");
		if (rehome_forward_try(conn, slice, maps, false, batch))
			break;
		rehome_conn_rollback(conn);
		if (batch->blockers != NULL)
			rehome_targets_blocked(attempt, batch->blockers);
		else if (attempt >= rehome_lock_retries)
			ereport(ERROR,
					errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("tables of slice \"%s\" were truncated or repartitioned at the source during each of %d attempts to read them",
						   slice->name, attempt + 1));
		rehome_back_off(attempt);
	}
	rehome_drift_repaired(drift);
	if (!keep_open)
		rehome_conn_commit(conn);
	if (batch->ntables > 0 || !slice->lazy_position)
		rehome_source_flushed(conn, slice, batch->lsn, keep_open);
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

		map->prune_due = map->prune_due || map->unpruned;
		map->unpruned = false;
	}
}

/*
 * rehome_forward_prune deletes change rows that no position will ask for
 * again, and sees to new partitions, but not for tables that are behind.
 * position is that of the mark; it must be on disk at the target.
 */
void
rehome_forward_prune(RehomeConn *conn, RehomeSlice *slice, List *maps, const char *position)
{
	ListCell   *lc;

	maps = list_difference_ptr(rehome_maps_running(maps), rehome_maps_behind(maps));
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (map->source_parts != NULL)
			rehome_source_cover(conn, slice, map);
	}
	rehome_conn_begin(conn, "");
	rehome_conn_query(conn, "UPDATE rehome_source.slice SET pruned = $3 WHERE token = $1 AND slice = $2::int",
					  "tit", slice->migration->token, slice->id, position);
	foreach(lc, maps)
		if (((RehomeTableMap *) lfirst(lc))->prune_due)
			rehome_conn_exec(conn, psprintf("DELETE FROM %s WHERE %s",
											rehome_change_table(slice->migration, lfirst(lc)),
											rehome_position_seen(position)));
	rehome_conn_commit(conn);
	foreach(lc, maps)
		((RehomeTableMap *) lfirst(lc))->prune_due = false;
}
