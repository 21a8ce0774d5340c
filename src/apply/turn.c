/*-------------------------------------------------------------------------
 *
 * turn.c
 *	  One table's turn in a batch from source to target.
 *
 * What is on hand at any time is one table's part of the batch.  Of a table
 * without unique values besides the key it is but a few thousand rows: they
 * are applied while the source looks up the next, so that both sides work.
 * Keys come in order, which spares both sides' caches.
 *
 * Before its first row comes the source has all of a table's changed keys to
 * put in order, for which the target would have to wait.  So where there is
 * much to do, the rows of the table that is next are asked for while those of
 * this one are applied, in a second session on the same snapshot: it gets as
 * far as the socket takes.  The two exchange their parts from table to table.
 * At the time of each question one of them is idle:
 *
 *	before its rows are read	the one they will not come from
 *	after that					the one they came from
 *
 * Nothing depends on the second session: without it, each table waits for its
 * own turn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/touched.h"
#include "apply/turn.h"
#include "capture/capture.h"
#include "copy/known.h"
#include "copy/stream.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * Rows that are applied at once: about as many as fit into the buffers of a
 * socket, so that the source goes on meanwhile.
 */
#define APPLY_ROWS 1000


/* Rows in quarantine that are asked for at once. */
#define RETRY_KEYS 500

/*
 * Rows that another row's change may have cured: unique and exclusion
 * constraints.  A batch looks at no more than a thousand; $3 is the target,
 * since as of q they would be looked for anew for each row.
 */
#define CURABLE_ROWS 1000
#define CURABLE_WHERE " c.contents = '' AND c.sqlstate IN ('23505', '23P01')"
#define CURABLE "q.id IN (SELECT c.id FROM rehome.quarantine c WHERE c.target = $3 AND" CURABLE_WHERE \
	" ORDER BY c.last_seen LIMIT " CppAsString2(CURABLE_ROWS) ")"

/* Keeps a subquery from being made a join of: it is asked for each key. */
#define LOOKED_UP " OFFSET 0"

/*
 * select_from starts "SELECT source columns FROM".
 */
static void
select_from(StringInfo sql, RehomeMapping *mapping)
{
	appendStringInfo(sql, "SELECT %s FROM ", rehome_quote_list(rehome_mapping_source_columns(mapping), "source."));
}

/*
 * more_rows lists the FROM items of rows that changed without a trigger.
 */
static List *
more_rows(RehomeTurn *turn)
{
	return turn->moved ? turn->moved->rows : NIL;
}

/*
 * gone_query returns the query for the keys of changed rows, each spelling of the
 * columns of spelled by itself, that the source no longer has, of the columns of
 * alike spelled as they are, or that the filter no longer lets through.
 */
static char *
gone_query(RehomeTurn *turn, Bitmapset *spelled, Bitmapset *alike)
{
	RehomeTableMap *map = turn->map;
	StringInfoData sql;
	int			n = list_length(map->source_key);

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int k = 1; k <= n; k++)
		appendStringInfo(&sql, "%sk.key%d", k > 1 ? ", " : "", k);
	appendStringInfoString(&sql, " FROM ");
	rehome_changed_keys(&sql, turn->slice->migration, map, spelled, rehome_position_of(turn->slice, map), more_rows(turn), map->filter == NULL);
	appendStringInfoString(&sql, " AS k WHERE NOT EXISTS (SELECT FROM ");
	rehome_remote_from(&sql, rehome_remote_table(map->source), NULL, false);
	appendStringInfoString(&sql, " WHERE ");
	rehome_join_key(&sql, map, alike, "source", "k");
	if (map->filter != NULL)
		appendStringInfo(&sql, " AND (%s)", map->filter);
	appendStringInfoString(&sql, turn->seems_empty ? LOOKED_UP ")" : ")");
	return sql.data;
}

/*
 * receive_nothing is a RehomeReceive.
 */
static void
receive_nothing(TupleTableSlot *row, void *arg)
{
}

/*
 * read_gone stores these keys, as the target knows them.  A key that is spelled
 * differently now is gone, to a target to which that is another one; the row
 * comes with those that were changed.  Where it is none to the target, it depends
 * on the source whether it is the same row (taken.c).  To the quarantine it always
 * is gone: it has keys as they are spelled, and lets go of those that come by here.
 */
static void
read_gone(RehomeTurn *turn, RehomeConn *conn)
{
	RehomeMapping *mapping = turn->mapping;
	RehomeProjector *projector = rehome_projector_key(mapping);
	Bitmapset  *spelled = rehome_mapping_source_spelled(mapping);
	Bitmapset  *spellings = rehome_mapping_source_spellings(mapping);

	turn->ngone = rehome_stream_gone(conn, gone_query(turn, spelled, rehome_may_be_taken(mapping) ? NULL : spelled),
									 mapping, projector, rehome_receive_store, turn->gone);
	if (rehome_may_be_taken(mapping))
	{
		mapping->respelled = tuplestore_begin_heap(false, false, work_mem);
		mapping->nrespelled = rehome_stream_gone(conn, gone_query(turn, spelled, spelled), mapping, projector,
												 rehome_receive_store, mapping->respelled);
		if (mapping->nrespelled == turn->ngone)
			mapping->nrespelled = 0;	/* the same */
	}
	if (turn->sieve != NULL && rehome_known_any(turn->sieve) && !bms_equal(spelled, spellings))
		(void) rehome_stream_gone(conn, gone_query(turn, spellings, spellings), mapping, projector, receive_nothing, NULL);
	rehome_projector_end(projector);
}

/*
 * apply_rows brings the rows on hand into the target, and lets go of them.
 */
static void
apply_rows(RehomeTurn *turn)
{
	RehomeApplying applying;

	if (turn->nrows == 0)
		return;
	rehome_applying_begin(&applying, turn->slice->migration->owner, turn->map);
	if (turn->everything && turn->present == NULL)
		turn->touched += rehome_apply_insert(turn->mapping, turn->rows, turn->nrows);
	else
		turn->touched += rehome_apply_rows(turn->mapping, turn->rows, turn->nrows);
	rehome_applying_end(&applying);
	rehome_touched_keys(turn->mapping, turn->mapping->mapped_desc, turn->rows, turn->nrows);
	tuplestore_clear(turn->rows);
	turn->nread += turn->nrows;
	turn->nrows = 0;
	CommandCounterIncrement();
}

/*
 * append_changed appends the keys of changed rows, as "k".
 */
static void
append_changed(StringInfo sql, RehomeTurn *turn)
{
	rehome_changed_keys(sql, turn->slice->migration, turn->map, NULL, rehome_position_of(turn->slice, turn->map),
						more_rows(turn), false);
	appendStringInfoString(sql, " AS k");
}

/*
 * rows_query returns the query for changed rows as the source has them; after
 * a TRUNCATE for all rows.
 */
static char *
rows_query(RehomeTurn *turn)
{
	RehomeTableMap *map = turn->map;
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	StringInfoData sql;

	initStringInfo(&sql);
	select_from(&sql, turn->mapping);
	if (turn->everything)
		rehome_remote_from(&sql, table, NULL, false);
	else if (turn->seems_empty)
	{
		append_changed(&sql, turn);
		appendStringInfoString(&sql, " CROSS JOIN LATERAL (SELECT * FROM ");
		rehome_remote_from(&sql, table, NULL, false);
		appendStringInfoString(&sql, " WHERE ");
		rehome_join_key(&sql, map, NULL, "source", "k");
		appendStringInfoString(&sql, LOOKED_UP ") AS source");
	}
	else
	{
		rehome_remote_from(&sql, table, NULL, false);
		appendStringInfoString(&sql, " JOIN ");
		append_changed(&sql, turn);
		appendStringInfoString(&sql, " ON ");
		rehome_join_key(&sql, map, NULL, "source", "k");
	}
	if (map->filter != NULL)
		appendStringInfo(&sql, " WHERE (%s)", map->filter);
	return sql.data;
}

/*
 * other_session returns the session that is not the one given; NULL when there
 * is none.
 */
static RehomeConn *
other_session(RehomeSessions *sessions, RehomeConn *conn)
{
	RehomeRemoteError error;
	char	   *begin;

	if (conn == sessions->second)
		return sessions->conn;
	if (sessions->second != NULL || sessions->snapshot == NULL)
		return sessions->second;
	begin = psprintf("SET TRANSACTION SNAPSHOT %s; LOCK TABLE %s IN ACCESS SHARE MODE NOWAIT",
					 quote_literal_cstr(sessions->snapshot), rehome_remote_relations(sessions->maps, false));
	sessions->snapshot = NULL;
	sessions->second = rehome_conn_another(conn);
	if (sessions->second == NULL)
		return NULL;
	rehome_conn_begin_read(sessions->second);

	/*
	 * Of several hosts it may have come to another one.  Or DDL waits for a
	 * lock of the first session: behind it, this one would wait for ourselves.
	 */
	if (rehome_conn_try(sessions->second, begin, &error) == NULL)
	{
		rehome_conn_close(sessions->second);
		sessions->second = NULL;
	}
	return sessions->second;
}

/*
 * ask_ahead asks for the rows of the turn that comes next, once, if the batch
 * is worth it.
 */
static void
ask_ahead(RehomeTurn *turn)
{
	RehomeTurn *next = turn->next;
	RehomeConn *conn;
	MemoryContext old;

	if (next == NULL || turn->earlier + turn->nread + turn->nrows < REHOME_MANY_ROWS)
		return;
	turn->next = NULL;
	conn = other_session(turn->sessions, turn->conn);
	if (conn == NULL)
		return;
	old = MemoryContextSwitchTo(next->context);
	next->conn = conn;
	next->ahead = rehome_reader_send(conn, next->map->source, rehome_mapping_source_columns(next->mapping),
									 rows_query(next));
	MemoryContextSwitchTo(old);
}

/* Where the rows of a stream go. */
typedef struct Sink
{
	RehomeTurn *turn;
	MemoryContext context;		/* for the time of one application */
} Sink;

/*
 * keep_key remembers the key of a row that the source has.
 */
static void
keep_key(RehomeTurn *turn, TupleTableSlot *row)
{
	RehomeMapping *mapping = turn->mapping;
	Datum	   *values = palloc(sizeof(Datum) * mapping->nkey);
	bool	   *nulls = palloc(sizeof(bool) * mapping->nkey);

	for (int k = 0; k < mapping->nkey; k++)
	{
		int			i = mapping->key[k] - mapping->columns;

		values[k] = row->tts_values[i];
		nulls[k] = row->tts_isnull[i];
	}
	tuplestore_putvalues(turn->present, mapping->key_desc, values, nulls);
	turn->npresent++;
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
	RehomeTurn *turn = sink->turn;
	MemoryContext old;

	tuplestore_puttupleslot(turn->rows, row);
	if (turn->present != NULL)
		keep_key(turn, row);
	turn->nrows++;
	ask_ahead(turn);
	if (turn->nrows < APPLY_ROWS || !turn->by_parts)
		return;
	old = MemoryContextSwitchTo(sink->context);
	apply_rows(turn);
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
	MemoryContext old = MemoryContextSwitchTo(sink->context);

	apply_rows(sink->turn);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sink->context);
}

/*
 * reset_changes forgets the rows of a set that was undone, and all that was in
 * the works when it failed.
 */
static void
reset_changes(void *arg)
{
	Sink	   *sink = arg;

	tuplestore_clear(sink->turn->rows);
	sink->turn->nrows = 0;
	(void) SPI_unregister_relation("rehome_rows");
	(void) SPI_unregister_relation(REHOME_RESPELLED);
	MemoryContextReset(sink->context);
}

/*
 * remove_change takes away the target's version of a row that is refused.
 */
static void
remove_change(TupleTableSlot *key, void *arg)
{
	Sink	   *sink = arg;
	RehomeTurn *turn = sink->turn;
	MemoryContext old = MemoryContextSwitchTo(sink->context);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	RehomeApplying applying;

	tuplestore_puttupleslot(store, key);
	rehome_applying_begin(&applying, turn->slice->migration->owner, turn->map);
	turn->touched += rehome_apply_refused(turn->mapping, store, 1);
	rehome_applying_end(&applying);
	rehome_touched_keys(turn->mapping, turn->mapping->key_desc, store, 1);
	tuplestore_end(store);
	CommandCounterIncrement();
	MemoryContextSwitchTo(old);
	MemoryContextReset(sink->context);
}

/*
 * sieve_changes sets up what becomes of rows that are refused; NULL for a
 * table whose rows are not.
 */
static RehomeSieve *
sieve_changes(RehomeTurn *turn)
{
	RehomeTaker *taker;
	Sink	   *sink;

	if (!turn->mapping->tolerant)
		return NULL;
	taker = palloc0(sizeof(RehomeTaker));
	sink = palloc0(sizeof(Sink));
	sink->turn = turn;
	sink->context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome part of a batch",
										  ALLOCSET_DEFAULT_SIZES);
	*taker = (RehomeTaker) {receive_change, flush_changes, reset_changes, remove_change, sink};
	return rehome_sieve_begin(turn->slice, turn->mapping, taker, false);
}

/*
 * move_quarantined reads rows that are in quarantine again, by key, those of
 * the condition (SQL over rehome.quarantine q) only, and applies what is good
 * now.  Rows whose key is null are read together, once, so that they can be counted.  What the source no longer has leaves the quarantine.  Returns the
 * number of rows that are asked for.
 */
static int64
move_quarantined(RehomeTurn *turn, const char *condition, const char *rule)
{
	RehomeTableMap *map = turn->map;
	RehomeSlice *slice = turn->slice;
	RehomeProjector *projector;
	RehomeRows *rows;
	int64		n = 0;
	RehomeAs	as;
	MemoryContext part = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome rows read again", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;

	rows = rehome_spi(psprintf("SELECT min(q.id), (SELECT array_agg(q.source_key->>k ORDER BY n)"
							   " FROM unnest($4::text[]) WITH ORDINALITY AS u(k, n)), count(*) FROM rehome.quarantine q"
							   " WHERE q.migration = $1::name AND q.slice = $2::name AND q.target = $3"
							   " AND q.source_key IS NOT NULL AND ($5 IS NULL OR q.rule = $5) AND %s GROUP BY q.source_key ORDER BY 1", condition),
					  "ttott", slice->migration->name, slice->name, map->target,
					  rehome_name_array(map->source_key), rule);
	turn->sieve->again = true;
	rehome_become(&as, slice->migration->owner);
	projector = rehome_projector_mapped(turn->mapping);
	for (int from = 0; from < rows->n; from += RETRY_KEYS)
	{
		StringInfoData sql;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(part);
		initStringInfo(&sql);
		select_from(&sql, turn->mapping);
		rehome_remote_from(&sql, rehome_remote_table(map->source), NULL, false);
		appendStringInfoString(&sql, " WHERE (");
		for (int i = from; i < Min(from + RETRY_KEYS, rows->n); i++)
		{
			ListCell   *lc;

			n += rehome_int64(rows->value[i][2]);
			appendStringInfoString(&sql, i > from ? " OR (" : "(");
			foreach(lc, rehome_name_list(rows->value[i][1]))
			{
				int			k = foreach_current_index(lc);

				/* the literal takes the type on the operator's other side */
				appendStringInfo(&sql, "%ssource.%s %s", k > 0 ? " AND " : "",
								 quote_identifier(list_nth(map->source_key, k)),
								 lfirst(lc) == NULL ? "IS NULL" :
								 psprintf("%s %s", rehome_source_equal(map, k), quote_literal_cstr(lfirst(lc))));
			}
			appendStringInfoChar(&sql, ')');
		}
		appendStringInfoChar(&sql, ')');
		if (map->filter != NULL)
			appendStringInfo(&sql, " AND (%s)", map->filter);
		(void) rehome_sieve_stream(turn->conn, sql.data, turn->mapping,
								   rehome_mapping_source_columns(turn->mapping), projector, NULL);
		MemoryContextSwitchTo(old);
		MemoryContextReset(part);
	}
	MemoryContextDelete(part);
	rehome_projector_end(projector);
	rehome_become_self(&as);
	apply_rows(turn);
	turn->sieve->again = false;
	return n;
}

/*
 * cure tries rows again that another row's change may have cured: all of them
 * where what was absent went last, and may have been in the way of any row by a
 * key that is spelled differently.  Those that are refused still are the last to
 * be looked at again.
 */
static void
cure(RehomeTurn *turn)
{
	int64		n = CURABLE_ROWS;

	if (turn->present != NULL && rehome_may_be_taken(turn->mapping))
		n = rehome_int64(rehome_spi_value("SELECT count(*) FROM rehome.quarantine c WHERE c.target = $1 AND" CURABLE_WHERE, "o",
										  turn->map->target));
	for (int64 tried = 0; tried < n; tried += CURABLE_ROWS)
		(void) move_quarantined(turn, CURABLE, NULL);
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
	RehomeTurn	turn = {.slice = slice,.map = map,.conn = conn,.by_parts = true};
	char	   *began = rehome_spi_value("SELECT clock_timestamp()", "");

	turn.mapping = rehome_mapping_compile(map, slice->migration->owner);
	turn.mapping->tolerant = true;
	turn.rows = tuplestore_begin_heap(false, false, work_mem);
	rehome_targets_lock(list_make1(map), RowExclusiveLock);
	rehome_touched_mark(slice, list_make1(map));
	rehome_touched_check(turn.mapping);
	turn.sieve = sieve_changes(&turn);
	*asked = move_quarantined(&turn, "true", rule);
	rehome_sieve_end(turn.sieve);
	rehome_apply_end(turn.mapping);
	rehome_touched_bound(map, turn.nread);
	tuplestore_end(turn.rows);
	CommandCounterIncrement();
	rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name AND target = $3"
			   " AND source_key IS NOT NULL AND ($4 IS NULL OR rule = $4) AND last_seen < $5::timestamptz", "ttott",
			   slice->migration->name, slice->name, map->target, rule, began);
	*refused = rehome_int64(rehome_spi_value("SELECT count(*) FROM rehome.quarantine WHERE migration = $1::name"
											 " AND slice = $2::name AND target = $3 AND last_seen >= $4::timestamptz", "ttot",
											 slice->migration->name, slice->name, map->target, began));
}

/*
 * move_rows brings over the changed rows, or all.
 */
static void
move_rows(RehomeTurn *turn)
{
	RehomeProjector *projector = rehome_projector_mapped(turn->mapping);
	RehomeReader *ahead = turn->ahead;
	Sink		sink = {turn};

	sink.context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome part of a batch",
										 ALLOCSET_DEFAULT_SIZES);
	if (ahead != NULL)
	{
		turn->ahead = NULL;
		(void) rehome_stream_sent(ahead, turn->mapping, projector, receive_change, &sink);
	}
	else
		(void) rehome_stream(turn->conn, rows_query(turn), turn->mapping,
							 rehome_mapping_source_columns(turn->mapping), projector, receive_change, &sink, NULL);
	rehome_projector_end(projector);
}

/*
 * apply_gone takes away what is known to be gone before any row comes: the keys
 * on hand, or everything.
 */
static void
apply_gone(RehomeTurn *turn)
{
	RehomeApplying applying;

	rehome_applying_begin(&applying, turn->slice->migration->owner, turn->map);
	if (!turn->everything)
		turn->touched += rehome_apply_gone_treated(turn->mapping, turn->gone, turn->ngone, false);
	else if (turn->present == NULL)
		turn->touched += rehome_apply_delete_all(turn->mapping);
	rehome_applying_end(&applying);
	if (!turn->everything)
		rehome_touched_keys(turn->mapping, turn->mapping->key_desc, turn->gone, turn->ngone);
	CommandCounterIncrement();
}

/*
 * apply_absent takes away what is not among the rows that have come: of all, or
 * of what is within the bounds of partitions that are gone.
 */
static void
apply_absent(RehomeTurn *turn)
{
	RehomeApplying applying;
	int64		n = 0;

	if (turn->present == NULL)
		return;
	rehome_applying_begin(&applying, turn->slice->migration->owner, turn->map);
	if (turn->everything)
		turn->touched += rehome_apply_gone_treated(turn->mapping, turn->present, turn->npresent, true);
	else
	{
		tuplestore_clear(turn->gone);
		PushActiveSnapshot(GetLatestSnapshot());
		n = rehome_absent_keys(turn->mapping, turn->moved->within, turn->present, turn->npresent, turn->gone);
		PopActiveSnapshot();
		turn->touched += rehome_apply_gone_treated(turn->mapping, turn->gone, n, false);
	}
	rehome_applying_end(&applying);
	if (!turn->everything)
		rehome_touched_keys(turn->mapping, turn->mapping->key_desc, turn->gone, n);
	turn->ngone += n;
	CommandCounterIncrement();
}

/*
 * rehome_turn_begin gets a table, whose target is locked, ready for its turn; flag
 * is what the poll says of it, and moved tells of partitions that came or went.
 */
RehomeTurn *
rehome_turn_begin(RehomeSlice *slice, RehomeTableMap *map, char flag, RehomeRepartition *moved,
				  RehomeSessions *sessions)
{
	MemoryContext context;
	MemoryContext old;
	RehomeTurn *turn;
	bool		fragile;

	context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome batch table", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	turn = palloc0(sizeof(RehomeTurn));
	turn->slice = slice;
	turn->map = map;
	turn->flag = flag;
	turn->moved = moved;
	turn->context = context;
	turn->sessions = sessions;
	turn->conn = sessions->conn;
	turn->mapping = rehome_mapping_compile(map, slice->migration->owner);
	fragile = rehome_apply_is_fragile(turn->mapping);
	turn->everything = flag == 't' || flag == 'p';
	/* what only the target has of its rows is not to be lost; and most may be as they are here */
	if (turn->everything ?
		map->on_delete != 'd' || rehome_apply_keeps(turn->mapping) || (flag == 'p' && !fragile) :
		moved != NULL && moved->within != NULL)
		turn->present = tuplestore_begin_heap(false, false, work_mem);
	/*
	 * With quarantine, what meets another row half way is tried again in the
	 * end.  Else what is absent goes first where rows may meet it.
	 */
	turn->by_parts = map->quarantine || (turn->everything && turn->present == NULL) ||
		(!fragile && (turn->present == NULL || !rehome_may_be_taken(turn->mapping)));
	turn->gone = tuplestore_begin_heap(false, false, work_mem);
	turn->rows = tuplestore_begin_heap(false, false, work_mem);
	if (turn->everything)
		rehome_touched_all(map, "all of it was read again since");
	else
		rehome_touched_check(turn->mapping);
	MemoryContextSwitchTo(old);
	return turn;
}

/*
 * rehome_turn_take moves the table's part of the batch; next is whose turn
 * comes then, or NULL.  False when its partitions were changed meanwhile, so that
 * what has been applied is not what the snapshot has.  It is all of keys that
 * will be read again.  *checked is false when that is to be found out later.
 */
bool
rehome_turn_take(RehomeTurn *turn, RehomeTurn *next, bool locked, bool *checked,
				 RehomeBatch *batch)
{
	RehomeSlice *slice = turn->slice;
	RehomeTableMap *map = turn->map;
	MemoryContext old = MemoryContextSwitchTo(turn->context);
	char	   *began = NULL;
	RehomeAs	as;

	/* rows that may be refused are handled in subtransactions, and read again */
	if (next != NULL && !turn->mapping->tolerant && !next->mapping->tolerant)
		turn->next = next;
	turn->earlier = batch->nrows;
	turn->sieve = sieve_changes(turn);
	if (turn->sieve != NULL)
		began = rehome_spi_value("SELECT clock_timestamp()", "");
	rehome_become(&as, slice->migration->owner);
	if (!turn->everything && (turn->flag != 'u' || map->filter != NULL))
		read_gone(turn, turn->ahead ? other_session(turn->sessions, turn->conn) : turn->conn);
	apply_gone(turn);
	ask_ahead(turn);
	move_rows(turn);
	rehome_become_self(&as);
	rehome_debug_point("batch-read");

	*checked = map->source_parts == NULL || turn->present != NULL || turn->everything || turn->sieve != NULL || !turn->by_parts;
	if (map->source_parts != NULL && *checked && !locked && rehome_forward_stale(turn->conn, map))
	{
		MemoryContextSwitchTo(old);
		return false;
	}
	if (!turn->by_parts)
		apply_absent(turn);		/* makes room for what is new */
	apply_rows(turn);
	if (turn->by_parts)
		apply_absent(turn);
	if (turn->sieve != NULL)
	{
		if (turn->everything)
			rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name AND target = $3"
					   " AND source_key IS NOT NULL AND last_seen < $4::timestamptz", "ttot",
					   slice->migration->name, slice->name, map->target, began);
		else if (turn->sieve->nameless_gone)
		{
			/* those that are left are seen again */
			(void) move_quarantined(turn, "q.contents <> ''", NULL);
			rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name AND target = $3"
					   " AND contents <> '' AND last_seen < $4::timestamptz", "ttot",
					   slice->migration->name, slice->name, map->target, began);
		}
		if (map->quarantine && (!turn->everything || turn->present != NULL))
			cure(turn);
	}
	batch->touched += turn->touched;
	batch->nrows += turn->ngone + turn->nread;
	map->unpruned += turn->ngone + turn->nread;
	rehome_touched_bound(map, turn->ngone + turn->nread);
	if (turn->everything || turn->moved != NULL)
		rehome_source_note_partitions(turn->conn, slice, map);
	if (turn->everything)
		rehome_spi("UPDATE rehome.table_map SET rules_hash = rehome.rules_hash(id) WHERE id = $1", "i", map->id);
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * rehome_turn_end lets go of a turn, taken or not.  A source that was asked
 * for its rows for nothing is told to stop.
 */
void
rehome_turn_end(RehomeTurn *turn)
{
	if (turn->ahead != NULL)
		rehome_reader_stop(turn->ahead);
	if (turn->sieve != NULL)
		rehome_sieve_end(turn->sieve);
	rehome_apply_end(turn->mapping);
	if (turn->present != NULL)
		tuplestore_end(turn->present);
	if (turn->mapping->respelled != NULL)
		tuplestore_end(turn->mapping->respelled);
	tuplestore_end(turn->gone);
	tuplestore_end(turn->rows);
	MemoryContextDelete(turn->context);
}
