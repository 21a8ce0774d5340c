/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  Merging at the source what a batch back has staged there.
 *
 * The staging table has what a row is ('u'), and which keys have none any more
 * ('d').  Two kinds of rows are on one side only, and stay so: those that were
 * refused on their way to the target, whose keys are staged ('q') where what has
 * no row staged is to be deleted; and those that the target has kept although
 * they are gone here (on_delete => 'ignore').
 *
 * A row of the source that its table's filter does not let through is none of
 * the migration's, unless a batch back has written it so: what was brought to
 * the target, or made there, belongs to the target whatever it is changed to.
 * Which rows these are is in a table of keys at the source, which changes in the
 * transaction that writes the rows; it is emptied when the source has authority
 * again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/merge.h"
#include "miscadmin.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/*
 * rehome_merge_compose writes the statements that merge a staging table.
 */
void
rehome_merge_compose(RehomeConn *conn, RehomeReturn *ret)
{
	RehomeInverse *inverse = ret->inverse;
	RehomeTableMap *map = inverse->mapping->map;
	StringInfoData set;
	char	   *replaced;		/* a unique value changes */
	char	   *out;			/* takes such rows out */
	const char *visible = "";	/* rows that are the migration's */
	const char *still_there = "";
	char	   *ours = NULL;

	ret->join = rehome_inverse_key_condition(inverse, "r", "s");
	rehome_inverse_describe(conn, inverse);

	if (map->filter != NULL)
	{
		ret->passes = psprintf("EXISTS (SELECT FROM (SELECT %s) AS source WHERE %s)",
							   rehome_inverse_local_names(inverse), map->filter);
		ours = psprintf("EXISTS (SELECT FROM %s AS o WHERE %s)", ret->outside, rehome_inverse_key_is(inverse, "r", "o"));
		visible = psprintf(" AND (%s OR %s)", ret->passes, ours);
	}
	initStringInfo(&set);
	for (int i = 0; i < inverse->ncolumns; i++)
		if (inverse->columns[i].carried && !inverse->columns[i].identity_always)
			appendStringInfo(&set, "%s%s = s.%s", set.len ? ", " : "",
							 quote_identifier(inverse->columns[i].remote),
							 quote_identifier(inverse->columns[i].remote));
	ret->visible = visible;
	ret->set = set.len > 0 ? set.data : NULL;
	replaced = psprintf("ROW(%s)::record *<> ROW(%s)::record",
						rehome_quote_list(inverse->fragile, "r."), rehome_quote_list(inverse->fragile, "s."));
	out = psprintf("DELETE FROM %s r USING %s s WHERE s.rehome_op = 'u' AND %s AND %s%s",
				   ret->relation, ret->stage, ret->join, replaced, visible);
	if (inverse->fragile != NIL && inverse->stays != NIL)
		ret->exchange = psprintf("WITH gone AS (%s RETURNING r.*)"
								 " INSERT INTO %s (%s, %s) OVERRIDING SYSTEM VALUE SELECT %s, %s FROM gone JOIN %s s ON s.rehome_op = 'u' AND %s"
								 " WHERE (SELECT count(*) FROM gone) >= 0", out,
								 ret->relation, rehome_inverse_columns(inverse, "", false), rehome_quote_list(inverse->stays, ""),
								 rehome_inverse_columns(inverse, "s.", false), rehome_quote_list(inverse->stays, "gone."),
								 ret->stage, rehome_inverse_key_condition(inverse, "gone", "s"));
	else if (inverse->fragile != NIL)
	{
		ret->replaced = replaced;
		ret->upsert[0] = out;
	}
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

	ret->taken = rehome_taken_back(ret);

	/* a row may be gone by one spelling of its key and have come by another */
	if (rehome_mapping_source_spelled(inverse->mapping) != NULL || rehome_mapping_target_spelled(inverse->mapping) != NULL)
		still_there = psprintf(" AND NOT EXISTS (SELECT FROM %s u WHERE u.rehome_op = 'u' AND %s)", ret->stage,
							   rehome_inverse_key_condition(inverse, "u", "s"));
	if (ret->everything)
		/* a row without a key never was at the target */
		ret->erase = psprintf("DELETE FROM %s r WHERE NOT EXISTS (SELECT FROM %s s WHERE %s) AND ROW(%s) IS NOT NULL%s",
							  ret->relation, ret->stage, ret->join, rehome_inverse_keys(inverse, "r."), visible);
	else
		/* what is spelled differently here is not the row that is gone there */
		ret->erase = psprintf("DELETE FROM %s r USING %s s WHERE s.rehome_op = 'd' AND %s%s%s%s",
							  ret->relation, ret->stage, ret->join, visible, still_there,
							  inverse->looser == NIL ? "" : psprintf(" AND NOT %s", rehome_spelled_apart(inverse, "r", "s")));
	if (map->filter != NULL)
		ret->hidden = psprintf("SELECT string_agg(ROW(%s)::text, ', ') FROM %s s WHERE s.rehome_op = 'u'"
							   " AND EXISTS (SELECT FROM %s r WHERE %s AND NOT %s AND NOT %s)",
							   rehome_inverse_columns(inverse, "s.", true), ret->stage, ret->relation,
							   ret->join, ret->passes, ours);
}

/* How the planner is kept from going through one table for each row of another. */
#define NO_LOOPS "SET LOCAL enable_nestloop = off"
#define LOOPS "SET LOCAL enable_nestloop TO DEFAULT"

/*
 * careful returns statements that join a table with what is staged of it; NULL
 * stays NULL.
 */
static char *
careful(RehomeReturn *ret, char *sql)
{
	if (sql == NULL || !ret->seems_empty)
		return sql;
	return psprintf(NO_LOOPS "; %s; " LOOPS, sql);
}

/*
 * rehome_merge_note_outside writes down, after the merge, which of the rows that
 * were staged the filter does not let through now, and forgets the others.
 */
void
rehome_merge_note_outside(RehomeConn *conn, RehomeReturn *ret)
{
	RehomeInverse *inverse = ret->inverse;
	StringInfoData keys;

	if (ret->outside == NULL)
		return;
	if (ret->everything)
		rehome_conn_exec(conn, psprintf("DELETE FROM %s", ret->outside));
	else
		rehome_conn_exec(conn, psprintf("DELETE FROM %s o USING %s s WHERE s.rehome_op IN ('u', 'd') AND %s",
										ret->outside, ret->stage, rehome_inverse_key_is(inverse, "s", "o")));
	initStringInfo(&keys);
	rehome_append_keys(&keys, list_length(inverse->mapping->map->source_key), NULL);
	rehome_conn_exec(conn, careful(ret, psprintf("INSERT INTO %s (%s) SELECT %s FROM %s r JOIN %s s ON %s WHERE s.rehome_op = 'u' AND NOT %s",
												 ret->outside, keys.data, rehome_inverse_keys(inverse, "r."), ret->relation,
												 ret->stage, ret->join, ret->passes)));
}

/* Keys in quarantine that are sent to the source at once. */
#define REFUSED_KEYS 10000

/*
 * spare_refused is rehome_merge_spare_refused() for some of the rows.
 */
static void
spare_refused(RehomeConn *conn, RehomeSlice *slice, RehomeReturn *ret, const char *refused)
{
	RehomeInverse *inverse = ret->inverse;
	RehomeTableMap *map = inverse->mapping->map;
	char	   *keys;
	char	   *staged;
	char	   *replaced;
	const char *apart = NULL;
	StringInfoData list;

	keys = psprintf("jsonb_array_elements($1::jsonb) AS q, LATERAL jsonb_populate_record(NULL::%s, q -> 'key') AS k",
					rehome_change_table(slice->migration, map));
	if (inverse->looser != NIL)
		apart = rehome_spelled_apart_key(inverse, "s", "k");
	staged = psprintf("EXISTS (SELECT FROM %s s WHERE s.rehome_op IN ('u', 'd') AND %s%s)", ret->stage,
					  rehome_inverse_key_is(inverse, "s", "k"), apart ? psprintf(" AND (s.rehome_op = 'u' OR NOT %s)", apart) : "");
	replaced = rehome_conn_value(conn, psprintf("SELECT array_agg(q ->> 'id') FROM %s WHERE %s", keys, staged), "t", refused);
	if (replaced != NULL)
		rehome_spi("DELETE FROM rehome.quarantine WHERE id = ANY ($1::bigint[])", "t", replaced);
	initStringInfo(&list);
	rehome_append_keys(&list, list_length(map->source_key), NULL);
	if (replaced != NULL && apart != NULL)
		rehome_conn_query(conn, psprintf("INSERT INTO %s (rehome_op, %s) SELECT 'd', %s FROM %s WHERE EXISTS"
										 " (SELECT FROM %s s WHERE s.rehome_op = 'u' AND %s AND %s)", ret->stage,
										 rehome_inverse_keys(inverse, ""), list.data, keys, ret->stage,
										 rehome_inverse_key_is(inverse, "s", "k"), apart), "t", refused);
	if (ret->everything)
		rehome_conn_query(conn, psprintf("INSERT INTO %s (rehome_op, %s) SELECT 'q', %s FROM %s WHERE NOT %s", ret->stage,
										 rehome_inverse_keys(inverse, ""), list.data, keys, staged), "t", refused);
}

/*
 * rehome_merge_spare_refused sees to rows that are in quarantine: they are no
 * rows of the target that are gone.  Where there is one with such a key now, it
 * takes the place of the one that was refused, which leaves the quarantine; also
 * if it is spelled differently, and the source takes both for one.  One without a
 * key, or a part of it, is like none.
 */
void
rehome_merge_spare_refused(RehomeConn *conn, RehomeSlice *slice, RehomeReturn *ret)
{
	static SPIPlanPtr plan = NULL;
	RehomeTableMap *map = ret->inverse->mapping->map;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome keys in quarantine", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char	   *last = pstrdup("{}");	/* before any other object */

	while (last != NULL)
	{
		char	  **v;

		CHECK_FOR_INTERRUPTS();
		v = rehome_spi_kept(&plan, psprintf("SELECT jsonb_agg(jsonb_build_object('id', q.id::text, 'key',"
											"  (SELECT jsonb_object_agg('key' || u.n, q.source_key -> u.name)"
											"     FROM unnest($4::text[]) WITH ORDINALITY AS u(name, n)))),"
											" (array_agg(q.source_key ORDER BY q.source_key DESC))[1]"
											" FROM (SELECT c.id, c.source_key FROM rehome.quarantine c"
											"  WHERE c.migration = $1::name AND c.slice = $2::name AND c.target = $3 AND c.contents = ''"
											"  AND c.source_key > $5::jsonb ORDER BY c.source_key LIMIT %d) AS q", REFUSED_KEYS), "ttott",
							slice->migration->name, slice->name, map->target,
							rehome_name_array(map->source_key), last)->value[0];
		if (v[0] != NULL)
			spare_refused(conn, slice, ret, v[0]);
		MemoryContextSwitchTo(old);
		last = v[1] ? pstrdup(v[1]) : NULL;
		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * rehome_merge_spare_ignored lets go of rows ('o', staged as well) that are not
 * new at the target and not to be found here: they were deleted here before
 * cutover, and ignored there.  A row that is spelled differently here is another
 * one: what is spelled anew there counts as new.
 */
void
rehome_merge_spare_ignored(RehomeConn *conn, RehomeReturn *ret)
{
	const char *alike = "";

	if (ret->inverse->looser != NIL)
		alike = psprintf(" AND NOT %s", rehome_spelled_apart(ret->inverse, "r", "s"));
	rehome_conn_exec(conn, careful(ret, psprintf("DELETE FROM %s s WHERE s.rehome_op = 'o' AND NOT EXISTS (SELECT FROM %s r WHERE %s%s);"
												 "UPDATE %s SET rehome_op = 'u' WHERE rehome_op = 'o'",
												 ret->stage, ret->relation, ret->join, alike, ret->stage)));
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
						 quote_literal_cstr(((RehomeReturn *) lfirst(lc))->relation),
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
check_hidden(RehomeConn *conn, RehomeReturn *ret)
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
 * check_taken raises when a row to be brought back has a key that the source
 * takes for that of another row, which the target tells apart.
 */
static void
check_taken(RehomeConn *conn, RehomeReturn *ret)
{
	char	   *keys;

	if (ret->taken == NULL || (keys = rehome_conn_value(conn, ret->taken, "")) == NULL)
		return;
	ereport(ERROR,
			errcode(ERRCODE_UNIQUE_VIOLATION),
			errmsg("rows written to \"%s\" since cutover have keys that the source takes for those of others",
				   get_rel_name(ret->inverse->mapping->map->target)),
			errdetail("Keys: %s.", keys),
			errhint("Change these keys at the target: the source's key compares them more loosely."));
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
			list = lappend(list, careful(lfirst(lc), ((RehomeReturn *) lfirst(lc))->erase));
	foreach(lc, returns)
	{
		RehomeReturn *ret = lfirst(lc);

		if (bypass && ret->exchange != NULL)
			list = lappend(list, ret->exchange);
		/* where foreign keys fire, children may refer to a row taken out */
		for (int i = bypass ? 0 : 1; i < lengthof(ret->upsert); i++)
			if (ret->upsert[i] != NULL)
				list = lappend(list, ret->upsert[i]);
	}
	for (int i = list_length(returns) - 1; i >= 0 && !bypass; i--)
	{
		RehomeReturn *ret = list_nth(returns, i);

		list = lappend(list, careful(ret, ret->erase));
	}
	return list;
}

/*
 * referred_by tells whether foreign keys refer to the tables that do what
 * actions (a condition without its left side) says when a row is deleted.
 */
static bool
referred_by(RehomeConn *conn, List *returns, const char *actions)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, returns)
		appendStringInfo(&names, "%s%s::regclass", names.len ? ", " : "",
						 quote_literal_cstr(((RehomeReturn *) lfirst(lc))->relation));
	return rehome_bool(rehome_conn_value(conn, psprintf("SELECT EXISTS (SELECT FROM pg_constraint c WHERE c.contype = 'f'"
														" AND c.confrelid = ANY (ARRAY[%s]) AND c.confdeltype %s)",
														names.data, actions), ""));
}

/*
 * take_out, when nothing else gets on, deletes rows that are to change a
 * unique column, so that values can be exchanged between them; their table's
 * insert brings them back, or what takes them out does.  Rows that others refer
 * to cannot go, and where others would go with them they must not.  Adds what is
 * to run again to *pending; false when no table's rows could be taken out.
 */
static bool
take_out(RehomeConn *conn, List *returns, List **pending)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, returns)
	{
		RehomeReturn *ret = lfirst(lc);
		char	   *out = ret->exchange ? ret->exchange : ret->upsert[0];
		RehomeRemoteError error;

		if (out == NULL || referred_by(conn, list_make1(ret), "IN ('c', 'n', 'd')"))
			continue;
		rehome_conn_exec(conn, "SAVEPOINT merge");
		if (!rehome_conn_try(conn, out, &error))
		{
			rehome_conn_exec(conn, "ROLLBACK TO merge");
			continue;
		}
		if (out == ret->upsert[0])
			*pending = list_append_unique_ptr(*pending, ret->upsert[2]);
		ret->exchange = ret->upsert[0] = NULL;	/* once is enough */
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
		RehomeReturn *ret = lfirst(lc);
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
		RehomeReturn *ret = lfirst(lc);
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
	foreach(lc, returns)
		if (((RehomeReturn *) lfirst(lc))->seems_empty)
			return careful(lfirst(lc), sql.data);
	return sql.data;
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
 * advice returns what to do about rows that the source refuses, or NULL.  Where
 * its triggers and foreign keys fire, they may be what refuses, or what makes
 * values not unique; the rest is about a row by itself, whoever writes it.
 */
static char *
advice(const char *sqlstate, bool bypass)
{
	if (strcmp(sqlstate, "23502") == 0 || strcmp(sqlstate, "23514") == 0)
		return "The source takes such rows from nobody: change them at the target, or the constraint or the partitions at the source.";
	if (bypass || (strcmp(sqlstate, "23503") != 0 && strcmp(sqlstate, "23505") != 0 &&
				   strcmp(sqlstate, "23P01") != 0 && strcmp(sqlstate, "P0001") != 0))
		return NULL;
	return "Let the connecting role bypass foreign keys and triggers: GRANT SET ON PARAMETER session_replication_role (PostgreSQL 15), or make it a superuser.";
}

/*
 * try_merge runs a statement after a savepoint; when it fails, *error has a hint
 * if we know one.
 */
static bool
try_merge(RehomeConn *conn, const char *sql, bool bypass, RehomeRemoteError *error)
{
	rehome_conn_exec(conn, "SAVEPOINT merge");
	if (rehome_conn_try(conn, sql, error) != NULL)
		return true;
	if (error->hint == NULL)
		error->hint = advice(error->sqlstate, bypass);
	return false;
}

/*
 * rehome_merge runs the statements, all at once if that goes.  Where the source's
 * triggers and foreign keys fire, one may have to wait for another that comes later: those that a
 * constraint refuses are tried again as long as others succeed.  When none
 * does, unique values are exchanged by taking rows out, and what foreign keys
 * still refuse is tried in a single statement, if every one of them, when a row it
 * refers to is deleted, is checked at the end of the statement, and does nothing
 * else.  No row they refer to is updated: its key stays, and a row that changes
 * another unique column is taken out and put back.
 */
void
rehome_merge(RehomeConn *conn, List *returns)
{
	bool		bypass = rehome_bool(rehome_conn_value(conn, "SELECT current_setting('session_replication_role') = 'replica'", ""));
	List	   *pending;
	ListCell   *lc;

	foreach(lc, returns)
	{
		RehomeReturn *ret = lfirst(lc);

		if (ret->seems_empty)
			rehome_conn_exec(conn, NO_LOOPS);
		check_hidden(conn, ret);
		check_taken(conn, ret);
		if (ret->seems_empty)
			rehome_conn_exec(conn, LOOPS);
		for (int i = 0; i < lengthof(ret->upsert); i++)
			ret->upsert[i] = careful(ret, ret->upsert[i]);
		ret->exchange = careful(ret, ret->exchange);
	}
	pending = statements(bypass ? returns : parents_first(conn, returns), bypass);
	if (merge_all(conn, pending))
		return;
	while (pending != NIL)
	{
		List	   *refused = NIL;
		RehomeRemoteError error;

		foreach(lc, pending)
		{
			if (try_merge(conn, lfirst(lc), bypass, &error))
				continue;
			if (strncmp(error.sqlstate, "23", 2) != 0)
				rehome_conn_raise(conn, &error, lfirst(lc));
			rehome_conn_exec(conn, "ROLLBACK TO merge");
			refused = lappend(refused, lfirst(lc));
		}
		if (refused != NIL && list_length(refused) == list_length(pending) &&
			(bypass || !take_out(conn, returns, &refused)))
		{
			if (!bypass && !referred_by(conn, returns, "<> 'a'") && try_merge(conn, all_at_once(returns), bypass, &error))
				return;
			rehome_conn_raise(conn, &error, linitial(refused));
		}
		pending = refused;
	}
}
