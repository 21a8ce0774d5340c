/*-------------------------------------------------------------------------
 *
 * reverse.c
 *	  One batch from target back to source, exactly once, after cutover.
 *
 * The same scheme as forward.c with the sides exchanged: the change tables
 * are here, the position is there (rehome_source.slice.reverse_position), and
 * moves in the transaction that brings the rows.  Rows are computed by the
 * inverse maps, sent as COPY text into a staging table, and merged from it
 * with set-based SQL.
 *
 * The fence at the source lets this transaction pass, and capture ignores
 * it: both know it by the role and a row of rehome_source.applying that only
 * that role can write, and that is gone when the transaction ends.
 *
 * Where the role may set session_replication_role, no trigger and no foreign
 * key of the source fires.  Where it may not, they do, and order matters:
 * parents before children for what comes, children before parents for what
 * goes, and what a constraint refuses is tried again after the rest.
 * Whatever the source still refuses is raised, and nothing is lost:
 * the change tables keep the keys.
 *
 * A table that is paused by itself is left out.  The position at the source is
 * that of all others; its own is here, in rehome.table_map, and so is known
 * before the other passes it: that it is paused commits before the next batch
 * begins (rehome_reverse_inspect).  When it goes on it is brought from there.
 * That this is done commits here, after the source: if it is lost, the same
 * rows are brought once more, which does no harm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/apply.h"
#include "apply/inverse.h"
#include "apply/touched.h"
#include "capture/capture.h"
#include "guc.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/position.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* So many rows staged are worth a look by ANALYZE. */
#define LARGE_STAGE 5000

/* Rows fetched at once from a local cursor. */
#define FETCH_ROWS 1000

/* The position that has seen nothing. */
#define EMPTY_POSITION "0:0:"

/* One table's part of a batch back. */
typedef struct Return
{
	RehomeInverse *inverse;
	const char *since;			/* what the source has of it, the target's snapshot */
	bool		everything;		/* truncated here, or partitions are gone */
	List	   *added;			/* partitions whose rows count as changed */
	char	   *relation;		/* at the source */
	char	   *stage;
	bool		large;			/* much is staged: see stage_all() */
	char	   *join;			/* r.key = s.key */
	char	   *upsert[3];		/* delete fragile, update, insert; NULL: not needed */
	char	   *erase;
	char	   *replaced;		/* condition: the row is taken out and put back; NULL: none is */
	char	   *set;			/* assignments of the update; NULL: none */
	const char *visible;		/* condition on r: the filter lets it through; or "" */
	char	   *hidden;			/* keys taken by rows the filter hides; NULL: no filter */
} Return;

/*
 * append_escaped appends a value as COPY text wants it.
 */
static void
append_escaped(StringInfo line, const char *value)
{
	for (const char *c = value; *c; c++)
	{
		switch (*c)
		{
			case '\\':
				appendStringInfoString(line, "\\\\");
				break;
			case '\n':
				appendStringInfoString(line, "\\n");
				break;
			case '\r':
				appendStringInfoString(line, "\\r");
				break;
			case '\t':
				appendStringInfoString(line, "\\t");
				break;
			default:
				appendStringInfoChar(line, *c);
		}
	}
}

/*
 * send_rows copies the rows of a local query, run as owner, into the open
 * COPY.
 */
static int64
send_rows(RehomeConn *conn, const char *select, Oid owner)
{
	Portal		cursor;
	SPITupleTable *table;
	StringInfoData line;
	RehomeAs	as;
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome row sent", ALLOCSET_DEFAULT_SIZES);
	int64		n = 0;

	initStringInfo(&line);
	rehome_become(&as, owner);
	cursor = rehome_cursor_open(select);
	while ((table = rehome_cursor_fetch(cursor, FETCH_ROWS)) != NULL)
	{
		for (uint64 i = 0; i < table->numvals; i++)
		{
			/* what types' output functions leave behind is much */
			MemoryContext old = MemoryContextSwitchTo(row);

			resetStringInfo(&line);
			for (int c = 1; c <= table->tupdesc->natts; c++)
			{
				char	   *value = SPI_getvalue(table->vals[i], table->tupdesc, c);

				if (c > 1)
					appendStringInfoChar(&line, '\t');
				if (value == NULL)
					appendStringInfoString(&line, "\\N");
				else
					append_escaped(&line, value);
			}
			appendStringInfoChar(&line, '\n');
			MemoryContextSwitchTo(old);
			MemoryContextReset(row);
			rehome_conn_copy_put(conn, line.data, line.len);
			n++;
		}
		SPI_freetuptable(table);
	}
	SPI_cursor_close(cursor);
	rehome_become_self(&as);
	MemoryContextDelete(row);
	pfree(line.data);
	return n;
}

/*
 * changed_keys makes the target keys changed since a position (with gone_only
 * those that may be without a row), and all in the partitions of added, visible
 * to SQL as rehome_keys, under the target's column names, until forget_keys().
 * They are read here, as the extension's owner, so that the migration's owner,
 * who runs the inverse expressions, needs no rights on the change table.
 */
static Tuplestorestate *
changed_keys(RehomeMapping *mapping, const char *since, List *added, bool gone_only)
{
	RehomeTableMap *map = mapping->map;
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	desc;
	Portal		cursor;
	SPITupleTable *table;
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	foreach(lc, map->key)
		appendStringInfo(&sql, "%skey%d AS %s", foreach_current_index(lc) > 0 ? ", " : "",
						 foreach_current_index(lc) + 1, quote_identifier(lfirst(lc)));
	appendStringInfoString(&sql, " FROM (SELECT ");
	rehome_append_keys(&sql, mapping->nkey, NULL);
	appendStringInfo(&sql, " FROM rehome_change.%s WHERE %s AND op %s",
					 quote_identifier(rehome_target_change_table(map)),
					 rehome_position_unseen(since), gone_only ? "= 'd'" : "<> 't'");
	foreach(lc, added)
		appendStringInfo(&sql, " UNION ALL SELECT %s FROM ONLY %s", rehome_quote_list(map->key, ""),
						 rehome_relation_name(lfirst_oid(lc)));
	appendStringInfoString(&sql, ") AS changed GROUP BY ");
	rehome_append_keys(&sql, mapping->nkey, rehome_mapping_target_spelled(mapping));
	cursor = rehome_cursor_open(sql.data);
	desc = CreateTupleDescCopy(cursor->tupDesc);
	while ((table = rehome_cursor_fetch(cursor, FETCH_ROWS)) != NULL)
	{
		for (uint64 i = 0; i < table->numvals; i++)
			tuplestore_puttuple(store, table->vals[i]);
		SPI_freetuptable(table);
	}
	SPI_cursor_close(cursor);
	rehome_rows_register("rehome_keys", desc, store, tuplestore_tuple_count(store));
	return store;
}

static void
forget_keys(Tuplestorestate *store)
{
	rehome_rows_unregister("rehome_keys");
	tuplestore_end(store);
}

/*
 * spelled_alike returns " AND t.key = k.key ..." of the key columns of which
 * the target takes several spellings for one value: those are two keys to a
 * source that does not.
 */
static char *
spelled_alike(RehomeMapping *mapping, const char *t, const char *k)
{
	Bitmapset  *spelled = rehome_mapping_target_spelled(mapping);
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = -1; (i = bms_next_member(spelled, i)) >= 0;)
	{
		const char *name = quote_identifier(mapping->key[i]->name);

		appendStringInfo(&sql, " AND %s",
						 rehome_spelled_alike(psprintf("%s.%s", t, name), psprintf("%s.%s", k, name)));
	}
	return sql.data;
}

/*
 * stage_changes sends rows ('u') and gone keys ('d') of one table into its
 * staging table at the source.
 */
static int64
stage_changes(RehomeConn *conn, Return *ret, Oid owner)
{
	RehomeInverse *inverse = ret->inverse;
	RehomeMapping *mapping = inverse->mapping;
	char	   *target = rehome_target_name(mapping);
	Tuplestorestate *keys = NULL;
	StringInfoData sql;
	int64		n;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT 'u', %s FROM %s AS target",
					 rehome_inverse_expressions(inverse, false), target);
	if (!ret->everything)
	{
		keys = changed_keys(mapping, ret->since, ret->added, false);
		appendStringInfo(&sql, " WHERE EXISTS (SELECT FROM rehome_keys AS k WHERE %s)",
						 rehome_key_condition(mapping, "target", "k"));
	}
	rehome_conn_copy_in(conn, psprintf("COPY %s (rehome_op, %s) FROM STDIN", ret->stage,
									   rehome_inverse_columns(inverse, "", false)));
	n = send_rows(conn, sql.data, owner);
	rehome_conn_copy_in_end(conn);

	if (ret->everything)
		return n;
	forget_keys(keys);
	keys = changed_keys(mapping, ret->since, NIL, true);
	if (tuplestore_tuple_count(keys) > 0)
	{
		resetStringInfo(&sql);
		appendStringInfo(&sql, "SELECT 'd', %s FROM rehome_keys AS target"
						 " WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s%s)",
						 rehome_inverse_expressions(inverse, true), target,
						 rehome_key_condition(mapping, "t", "target"), spelled_alike(mapping, "t", "target"));
		rehome_conn_copy_in(conn, psprintf("COPY %s (rehome_op, %s) FROM STDIN", ret->stage,
										   rehome_inverse_columns(inverse, "", true)));
		n += send_rows(conn, sql.data, owner);
		rehome_conn_copy_in_end(conn);
	}
	forget_keys(keys);
	return n;
}

/*
 * make_stages makes the staging tables at the source, where they are not there
 * yet; with clear it empties them again, and the transaction is ours no more.
 */
static void
make_stages(RehomeConn *conn, RehomeSlice *slice, List *returns, bool clear)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, returns)
	{
		Return	   *ret = lfirst(lc);

		if (clear)
			appendStringInfo(&sql, "%s %s;", ret->large ? "TRUNCATE" : "DELETE FROM", ret->stage);
		else
			appendStringInfo(&sql, "SELECT rehome_source.create_stage(%s, %d, %s::regclass);",
							 quote_literal_cstr(slice->migration->token), ret->inverse->mapping->map->id,
							 quote_literal_cstr(ret->relation));
	}
	if (clear)
		appendStringInfoString(&sql, "DELETE FROM rehome_source.applying WHERE xid = txid_current()");
	rehome_conn_exec(conn, sql.data);
}

/*
 * stage_all stages all tables.  A staging table is empty most of the time, and
 * that is what statistics say of it, for good where old snapshots have kept dead
 * rows in it: a plan for one row would go through the source's table for each of
 * many thousands.  So where there are many they are counted; and as the next
 * batch may be a small one, nothing is left of that in the end.
 */
static int64
stage_all(RehomeConn *conn, List *returns, Oid owner)
{
	int64		n = 0;
	ListCell   *lc;

	foreach(lc, returns)
	{
		Return	   *ret = lfirst(lc);
		int64		staged = stage_changes(conn, ret, owner);

		ret->large = staged >= LARGE_STAGE;
		if (ret->large)
			rehome_conn_exec(conn, psprintf("ANALYZE %s", ret->stage));
		n += staged;
	}
	return n;
}

/*
 * compose writes the statements that merge a staging table.
 */
static void
compose(RehomeConn *conn, Return *ret)
{
	RehomeInverse *inverse = ret->inverse;
	RehomeTableMap *map = inverse->mapping->map;
	StringInfoData set;
	List	   *fragile;
	const char *visible = "";	/* rows that the filter lets through */
	const char *still_there = "";

	ret->join = rehome_inverse_key_condition(inverse, "r", "s");
	rehome_inverse_describe(conn, inverse);

	if (map->filter != NULL)
		visible = psprintf(" AND EXISTS (SELECT FROM (SELECT %s) AS source WHERE %s)",
						   rehome_inverse_local_names(inverse), map->filter);
	initStringInfo(&set);
	for (int i = 0; i < inverse->ncolumns; i++)
		if (inverse->columns[i].carried && !inverse->columns[i].identity_always)
			appendStringInfo(&set, "%s%s = s.%s", set.len ? ", " : "",
							 quote_identifier(inverse->columns[i].remote),
							 quote_identifier(inverse->columns[i].remote));
	ret->visible = visible;
	ret->set = set.len > 0 ? set.data : NULL;
	fragile = inverse->fragile;
	if (fragile != NIL && inverse->complete)
		ret->replaced = psprintf("ROW(%s)::record *<> ROW(%s)::record",
								 rehome_quote_list(fragile, "r."), rehome_quote_list(fragile, "s."));
	if (fragile != NIL && inverse->complete)
		ret->upsert[0] = psprintf("DELETE FROM %s r USING %s s WHERE s.rehome_op = 'u' AND %s AND ROW(%s)::record *<> ROW(%s)::record%s",
								  ret->relation, ret->stage, ret->join,
								  rehome_quote_list(fragile, "r."), rehome_quote_list(fragile, "s."), visible);
	if (set.len > 0)
		ret->upsert[1] = psprintf("UPDATE %s r SET %s FROM %s s WHERE s.rehome_op = 'u' AND %s AND ROW(%s)::record *<> ROW(%s)::record%s",
								  ret->relation, set.data, ret->stage, ret->join,
								  rehome_inverse_columns(inverse, "r.", false),
								  rehome_inverse_columns(inverse, "s.", false), visible);
	/* sorted, so that the search is over when the table begins to grow: a plan for an empty one goes through it for each row */
	ret->upsert[2] = psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s s"
							  " WHERE s.rehome_op = 'u' AND NOT EXISTS (SELECT FROM %s r WHERE %s) ORDER BY s.ctid",
							  ret->relation, rehome_inverse_columns(inverse, "", false),
							  rehome_inverse_columns(inverse, "s.", false), ret->stage,
							  ret->relation, ret->join);

	/* a row may be gone by one spelling of its key and have come by another */
	if (rehome_mapping_source_spelled(inverse->mapping) != NULL || rehome_mapping_target_spelled(inverse->mapping) != NULL)
		still_there = psprintf(" AND NOT EXISTS (SELECT FROM %s u WHERE u.rehome_op = 'u' AND %s)", ret->stage,
							   rehome_inverse_key_condition(inverse, "u", "s"));
	if (ret->everything)
		ret->erase = psprintf("DELETE FROM %s r WHERE NOT EXISTS (SELECT FROM %s s WHERE %s)%s",
							  ret->relation, ret->stage, ret->join, visible);
	else
		ret->erase = psprintf("DELETE FROM %s r USING %s s WHERE s.rehome_op = 'd' AND %s%s%s",
							  ret->relation, ret->stage, ret->join, visible, still_there);
	if (map->filter != NULL)
		ret->hidden = psprintf("SELECT string_agg(ROW(%s)::text, ', ') FROM %s s WHERE s.rehome_op = 'u'"
							   " AND EXISTS (SELECT FROM %s r WHERE %s AND NOT EXISTS"
							   "  (SELECT FROM (SELECT %s) AS source WHERE %s))",
							   rehome_inverse_columns(inverse, "s.", true), ret->stage, ret->relation,
							   ret->join, rehome_inverse_local_names(inverse), map->filter);
}

/*
 * parents_first sorts the tables so that what a foreign key of the source
 * refers to comes before what refers to it; cycles in any order.
 */
static List *
parents_first(RehomeConn *conn, List *returns)
{
	StringInfoData names;
	RehomeRows *rows;
	List	   *sorted = NIL;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, returns)
		appendStringInfo(&names, "%s(%s::regclass::oid, %d)", names.len ? ", " : "",
						 quote_literal_cstr(((Return *) lfirst(lc))->relation),
						 foreach_current_index(lc));
	rows = rehome_conn_query(conn,
							 psprintf("WITH RECURSIVE t(oid, n) AS (VALUES %s),"
									  " fk AS (SELECT DISTINCT c.conrelid, c.confrelid FROM pg_constraint c"
									  "  JOIN t a ON a.oid = c.conrelid JOIN t b ON b.oid = c.confrelid"
									  "  WHERE c.contype = 'f' AND c.conrelid <> c.confrelid),"
									  " depth(oid, d) AS (SELECT oid, 0 FROM t UNION"
									  "  SELECT fk.conrelid, d + 1 FROM depth JOIN fk ON fk.confrelid = depth.oid"
									  "  WHERE d < (SELECT count(*) FROM t))"
									  " SELECT n FROM t JOIN depth USING (oid) GROUP BY n ORDER BY max(d), n", names.data), "");
	for (int i = 0; i < rows->n; i++)
		sorted = lappend(sorted, list_nth(returns, rehome_int(rows->value[i][0])));
	return sorted;
}

/*
 * check_hidden raises when a row to be brought back has the key of one that
 * the row filter has left at the source.
 */
static void
check_hidden(RehomeConn *conn, Return *ret)
{
	char	   *keys;

	if (ret->hidden == NULL || (keys = rehome_conn_value(conn, ret->hidden, "")) == NULL)
		return;
	ereport(ERROR,
			errcode(ERRCODE_UNIQUE_VIOLATION),
			errmsg("rows written to \"%s\" since cutover have keys that rows outside the filter have at the source",
				   get_rel_name(ret->inverse->mapping->map->target)),
			errdetail("Keys: %s.", keys),
			errhint("Change these keys at the target; the rows at the source are not part of the migration."));
}

/*
 * statements lists what merges the staging tables, in the order in which it
 * would work if every change were by itself: what goes, children first, and
 * what comes, parents first.
 */
static List *
statements(List *returns, bool bypass)
{
	List	   *list = NIL;
	ListCell   *lc;

	if (bypass)
		foreach(lc, returns)
			list = lappend(list, ((Return *) lfirst(lc))->erase);
	foreach(lc, returns)
	{
		Return	   *ret = lfirst(lc);

		/* where foreign keys fire, children may refer to a row taken out */
		for (int i = bypass ? 0 : 1; i < lengthof(ret->upsert); i++)
			if (ret->upsert[i] != NULL)
				list = lappend(list, ret->upsert[i]);
	}
	for (int i = list_length(returns) - 1; i >= 0 && !bypass; i--)
		list = lappend(list, ((Return *) list_nth(returns, i))->erase);
	return list;
}

/*
 * take_out, when nothing else gets on, deletes rows that are to change a
 * unique column, so that values can be exchanged between them; their table's
 * insert brings them back.  Rows that others refer to cannot go.  Adds what
 * is to run again to *pending; false when no table's rows could be taken out.
 */
static bool
take_out(RehomeConn *conn, List *returns, List **pending)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, returns)
	{
		Return	   *ret = lfirst(lc);
		RehomeRemoteError error;

		if (ret->upsert[0] == NULL)
			continue;
		rehome_conn_exec(conn, "SAVEPOINT merge");
		if (!rehome_conn_try(conn, ret->upsert[0], &error))
		{
			rehome_conn_exec(conn, "ROLLBACK TO merge");
			continue;
		}
		ret->upsert[0] = NULL;	/* once is enough */
		*pending = list_append_unique_ptr(*pending, ret->upsert[2]);
		any = true;
	}
	return any;
}

/*
 * all_at_once returns one statement that merges all tables.  A foreign key
 * without ON DELETE action is checked at the end of it, when everything
 * is in place; nothing is inserted before everything that goes is gone.
 */
static char *
all_at_once(List *returns)
{
	StringInfoData sql;
	StringInfoData cleared;
	ListCell   *lc;

	initStringInfo(&sql);
	initStringInfo(&cleared);
	foreach(lc, returns)
	{
		Return	   *ret = lfirst(lc);
		int			i = foreach_current_index(lc);

		appendStringInfo(&sql, "%s erase%d AS (%s RETURNING 1)", i > 0 ? "," : "WITH", i, ret->erase);
		appendStringInfo(&cleared, "%s(SELECT count(*) FROM erase%d)", i > 0 ? " + " : "", i);
		if (ret->replaced == NULL)
			continue;
		appendStringInfo(&sql, ", out%d AS (DELETE FROM %s r USING %s s WHERE s.rehome_op = 'u' AND %s AND %s%s RETURNING 1)",
						 i, ret->relation, ret->stage, ret->join, ret->replaced, ret->visible);
		appendStringInfo(&cleared, " + (SELECT count(*) FROM out%d)", i);
	}
	appendStringInfo(&sql, ", cleared AS (SELECT %s AS n)", cleared.data);
	foreach(lc, returns)
	{
		Return	   *ret = lfirst(lc);
		int			i = foreach_current_index(lc);
		const char *stays = ret->replaced ? psprintf(" AND NOT (%s)", ret->replaced) : "";

		if (ret->set != NULL)
			appendStringInfo(&sql, ", change%d AS (UPDATE %s r SET %s FROM %s s WHERE s.rehome_op = 'u' AND %s"
							 " AND ROW(%s)::record *<> ROW(%s)::record%s%s RETURNING 1)",
							 i, ret->relation, ret->set, ret->stage, ret->join,
							 rehome_inverse_columns(ret->inverse, "r.", false),
							 rehome_inverse_columns(ret->inverse, "s.", false), stays, ret->visible);
		appendStringInfo(&sql, ", add%d AS (INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s s"
						 " WHERE s.rehome_op = 'u' AND (SELECT n FROM cleared) >= 0"
						 " AND NOT EXISTS (SELECT FROM %s r WHERE %s%s) ORDER BY s.ctid RETURNING 1)",
						 i, ret->relation, rehome_inverse_columns(ret->inverse, "", false),
						 rehome_inverse_columns(ret->inverse, "s.", false), ret->stage,
						 ret->relation, ret->join, stays);
	}
	appendStringInfoString(&sql, " SELECT 1");
	return sql.data;
}

/*
 * keys_wait tells whether every foreign key to the tables, when a row it
 * refers to is deleted, is checked at the end of the statement, and does
 * nothing else.  No row they refer to is updated: its key stays, and a row
 * that changes another unique column is taken out and put back.
 */
static bool
keys_wait(RehomeConn *conn, List *returns)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, returns)
		appendStringInfo(&names, "%s%s::regclass", names.len ? ", " : "",
						 quote_literal_cstr(((Return *) lfirst(lc))->relation));
	return rehome_bool(rehome_conn_value(conn,
										 psprintf("SELECT NOT EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f'"
												  " AND c.confrelid = ANY (ARRAY[%s]) AND c.confdeltype <> 'a')",
												  names.data), ""));
}

/*
 * merge_all runs all statements in one round trip; false, with nothing done,
 * when one was refused.
 */
static bool
merge_all(RehomeConn *conn, List *statements)
{
	StringInfoData sql;
	RehomeRemoteError error;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SET CONSTRAINTS ALL DEFERRED; SAVEPOINT merge");
	foreach(lc, statements)
		appendStringInfo(&sql, "; %s", (char *) lfirst(lc));
	if (rehome_conn_try(conn, sql.data, &error))
		return true;
	/* one by one they tell which; but time that is up is up */
	if (strncmp(error.sqlstate, "57", 2) == 0)
		rehome_conn_raise(conn, &error, sql.data);
	rehome_conn_exec(conn, "ROLLBACK TO merge");
	return false;
}

/*
 * merge runs the statements, all at once if that goes.  Where the source's
 * triggers and foreign keys fire, one may have to wait for another that comes later: those that a
 * constraint refuses are tried again as long as others succeed.  When none
 * does, unique values are exchanged by taking rows out, and what foreign keys
 * still refuse is tried in a single statement.
 */
static void
merge(RehomeConn *conn, List *returns)
{
	bool		bypass = rehome_bool(rehome_conn_value(conn, "SELECT current_setting('session_replication_role') = 'replica'", ""));
	List	   *pending = statements(bypass ? returns : parents_first(conn, returns), bypass);
	ListCell   *lc;

	foreach(lc, returns)
		check_hidden(conn, lfirst(lc));
	if (merge_all(conn, pending))
		return;
	while (pending != NIL)
	{
		List	   *refused = NIL;
		RehomeRemoteError error;

		foreach(lc, pending)
		{
			rehome_conn_exec(conn, "SAVEPOINT merge");
			if (rehome_conn_try(conn, lfirst(lc), &error))
				continue;
			if (strncmp(error.sqlstate, "23", 2) != 0)
				rehome_conn_raise(conn, &error, lfirst(lc));
			rehome_conn_exec(conn, "ROLLBACK TO merge");
			refused = lappend(refused, lfirst(lc));
		}
		if (refused != NIL && list_length(refused) == list_length(pending) &&
			(bypass || !take_out(conn, returns, &refused)))
		{
			if (!bypass && keys_wait(conn, returns))
			{
				rehome_conn_exec(conn, "SAVEPOINT merge");
				if (rehome_conn_try(conn, all_at_once(returns), &error))
					return;
			}
			if (error.hint == NULL && !bypass)
				error.hint = "Let the connecting role bypass foreign keys and triggers: GRANT SET ON PARAMETER session_replication_role (PostgreSQL 15), or make it a superuser.";
			rehome_conn_raise(conn, &error, linitial(refused));
		}
		pending = refused;
	}
}

/*
 * rehome_reverse_batch brings the source from its position to a snapshot of
 * the target: the one given, or, when that is NULL, one taken now.  With
 * keep_open the source transaction stays open,
 * still recognised as ours.  Returns the rows sent; -1, with the transaction
 * open, when the source says that it has authority.
 */
int64
rehome_reverse_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
					 Snapshot snapshot, bool keep_open)
{
	List	   *returns = NIL;
	List	   *all = maps;
	char	   *since;
	char	   *reached;
	int64		n = 0;
	ListCell   *lc;

	maps = rehome_maps_running(maps);
	if (slice->state == REHOME_CUT_OVER)	/* rolling back, capture is off, and nobody writes */
		rehome_target_check_capture(maps);
	rehome_target_hold(maps);
	PushActiveSnapshot(snapshot ? snapshot : GetLatestSnapshot());
	reached = rehome_position_of_active();
	rehome_conn_begin(conn, "");
	rehome_conn_exec(conn, psprintf("SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %d",
									rehome_lock_timeout, keep_open ? rehome_freeze_timeout : 0));
	since = rehome_reverse_position(conn, slice, slice->lazy_position ? NIL : all);
	if (since == NULL)
	{
		PopActiveSnapshot();
		return -1;
	}

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		const char *from = map->position ? map->position : since;
		Return	   *ret;
		char	   *parts;
		List	   *added = NIL;
		bool		moved = rehome_target_repartitioned(map, GetActiveSnapshot(), &parts, &added);

		if (moved)
		{
			rehome_spi("UPDATE rehome.table_map SET target_parts = $2 WHERE id = $1", "it", map->id, parts);
			rehome_touched_mark(slice, list_make1(map));
			rehome_touched_all(map, "partitions of the target came or went since");
		}
		if (!moved && !rehome_target_changed(map, from))
			continue;
		if (moved)
			map->target_parts = MemoryContextStrdup(GetMemoryChunkContext(map), parts);
		ret = palloc0(sizeof(Return));
		ret->since = from;
		ret->inverse = rehome_inverse_compile(map, slice->migration->owner);
		ret->added = added;
		ret->everything = (moved && added == NIL) || rehome_spi_read(psprintf("SELECT FROM rehome_change.%s WHERE %s AND op = 't' LIMIT 1",
															rehome_target_change_table(map),
															rehome_position_unseen(from)), "")->n > 0;
		ret->relation = rehome_remote_relation(ret->inverse->table);
		ret->stage = rehome_stage_table(slice->migration, map);
		returns = lappend(returns, ret);
	}
	if (returns != NIL)
	{
		make_stages(conn, slice, returns, false);
		foreach(lc, returns)
			compose(conn, lfirst(lc));
		rehome_conn_exec(conn, psprintf("SET LOCAL rehome_source.applying = 'on';"
										"INSERT INTO rehome_source.applying VALUES (txid_current(), %s, %d)",
										quote_literal_cstr(slice->migration->token), slice->id));
		if (rehome_inverse_may_bypass(conn))
			rehome_conn_exec(conn, "SET LOCAL session_replication_role = replica");
		n += stage_all(conn, returns, slice->migration->owner);
		merge(conn, returns);
		make_stages(conn, slice, returns, true);
	}
	else if (slice->lazy_position && rehome_maps_behind(maps) == NIL)
	{
		PopActiveSnapshot();
		rehome_conn_rollback(conn);
		return 0;
	}
	rehome_conn_query(conn, "UPDATE rehome_source.slice SET reverse_position = $3 WHERE token = $1 AND slice = $2::int",
					  "tit", slice->migration->token, slice->id, reached);
	PopActiveSnapshot();
	if (rehome_maps_behind(maps) != NIL)
		rehome_slice_maps_changed(slice);
	foreach(lc, rehome_maps_behind(maps))
		rehome_map_caught_up(lfirst(lc));
	rehome_position_flush();
	rehome_debug_point("reverse-applied");
	if (!keep_open)
		rehome_conn_commit(conn);
	else
		rehome_conn_exec(conn, "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0");
	return n;
}

/*
 * rehome_reverse_prune deletes change rows of the target that the source has
 * (its commit is done), but those of tables that are not where the others are.
 */
void
rehome_reverse_prune(RehomeSlice *slice, List *maps, const char *position)
{
	List	   *logged = NIL;
	ListCell   *lc;

	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, list_difference_ptr(rehome_maps_running(maps), rehome_maps_behind(maps)))
		if (rehome_target_changed(lfirst(lc), EMPTY_POSITION))
			logged = lappend(logged, lfirst(lc));
	PopActiveSnapshot();
	rehome_touched_mark(slice, logged);
	foreach(lc, logged)
		rehome_touched_captured(lfirst(lc));
	foreach(lc, logged)
		rehome_spi(psprintf("DELETE FROM rehome_change.%s WHERE %s",
							rehome_target_change_table(lfirst(lc)),
							rehome_position_seen(position)), "");
}
