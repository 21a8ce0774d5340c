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
 * it: both know it by the login (another one than before makes itself known to
 * them first) and a row of rehome_source.applying that only that role can write,
 * and that is gone when the transaction ends.
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
#include "apply/merge.h"
#include "apply/touched.h"
#include "capture/capture.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "guc.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/debug_point.h"
#include "util/position.h"
#include "util/spi.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

/* So many rows staged are worth a look by ANALYZE. */
#define LARGE_STAGE 5000

/* What the change table says of single rows. */
#define ANY_ROW "NOT IN ('t', 'l')"

/* The position that has seen nothing. */
#define EMPTY_POSITION "0:0:"

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
	while ((table = rehome_cursor_fetch(cursor, REHOME_FETCH_ROWS)) != NULL)
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
 * logged_keys makes the keys that the change table has since a position, by what
 * ops tells, visible to SQL as "rehome_logged".  They are read as the extension's
 * owner, as they are, so that the migration's owner needs no rights on the change
 * table.
 */
static Tuplestorestate *
logged_keys(RehomeMapping *mapping, const char *since, const char *ops)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	desc;
	StringInfoData sql;
	int64		n;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	rehome_append_keys(&sql, mapping->nkey, NULL);
	appendStringInfo(&sql, " FROM rehome_change.%s WHERE %s AND op %s",
					 quote_identifier(rehome_target_change_table(mapping->map)),
					 rehome_position_unseen(since), ops);
	n = rehome_rows_read(sql.data, store, &desc);
	rehome_rows_register("rehome_logged", desc, store, n);
	return store;
}

static void
forget_keys(Tuplestorestate *store, const char *name)
{
	rehome_rows_unregister(name);
	tuplestore_end(store);
}

/*
 * changed_keys makes the target keys changed since a position, by what ops (a
 * condition without its left side) tells, and all in the partitions of added,
 * visible to SQL as name, under the target's column names, until forget_keys().
 * What is done with their values, and read of partitions, is the owner's doing.
 */
static Tuplestorestate *
changed_keys(RehomeMapping *mapping, Oid owner, const char *since, List *added, const char *ops, const char *name)
{
	RehomeTableMap *map = mapping->map;
	Tuplestorestate *logged = logged_keys(mapping, since, ops);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	desc;
	StringInfoData sql;
	RehomeAs	as;
	int64		n;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	foreach(lc, map->key)
		appendStringInfo(&sql, "%skey%d AS %s", foreach_current_index(lc) > 0 ? ", " : "",
						 foreach_current_index(lc) + 1, quote_identifier(lfirst(lc)));
	appendStringInfoString(&sql, " FROM (SELECT ");
	rehome_append_keys(&sql, mapping->nkey, NULL);
	appendStringInfoString(&sql, " FROM rehome_logged");
	foreach(lc, added)
		appendStringInfo(&sql, " UNION ALL SELECT %s FROM ONLY %s", rehome_quote_list(map->key, ""),
						 rehome_relation_name(lfirst_oid(lc)));
	appendStringInfoString(&sql, ") AS changed GROUP BY ");
	rehome_append_keys(&sql, mapping->nkey, rehome_mapping_target_spelled(mapping));
	rehome_become(&as, owner);
	n = rehome_rows_read(sql.data, store, &desc);
	rehome_become_self(&as);
	forget_keys(logged, "rehome_logged");
	rehome_rows_register(name, desc, store, n);
	return store;
}

/*
 * may_read_partitions tells whether a role sees all rows of partitions where they
 * are asked for by themselves: those of somebody else it reads through the table.
 */
static bool
may_read_partitions(List *partitions, Oid role)
{
	ListCell   *lc;

	foreach(lc, partitions)
		if (pg_class_aclcheck(lfirst_oid(lc), role, ACL_SELECT) != ACLCHECK_OK ||
			check_enable_rls(lfirst_oid(lc), role, true) != RLS_NONE)
			return false;
	return true;
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
 * is_misjudged tells whether the planner takes a target, or a partition of it, for
 * empty that is not: what analyzed it came while rows were being loaded.  It goes
 * through all keys for each row then.
 */
static bool
is_misjudged(Oid target)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(target, AccessShareLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);
		bool		misjudged = rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rel->relpages > 0 && rel->rd_rel->reltuples == 0;

		table_close(rel, NoLock);
		if (misjudged)
			return true;
	}
	return false;
}

/*
 * stage_changes sends rows ('u') and gone keys ('d') of one table into its
 * staging table at the source.  A row that is marked as gone has none there; one
 * that may have been kept although it is gone is staged as one ('o') that is not
 * to be made.
 */
static int64
stage_changes(RehomeConn *conn, RehomeReturn *ret, Oid owner)
{
	RehomeInverse *inverse = ret->inverse;
	RehomeMapping *mapping = inverse->mapping;
	RehomeTableMap *map = mapping->map;
	char	   *target = rehome_live_rows(mapping);
	bool		ignores = map->on_delete == 'i' && !ret->lost;
	Tuplestorestate *keys = NULL;
	Tuplestorestate *fresh = NULL;
	StringInfoData sql;
	int64		n;

	if (ignores)
		fresh = changed_keys(mapping, owner, ret->since, ret->added, "= 'i'", "rehome_new_keys");
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s, %s FROM %s AS target",
					 ignores ? "CASE WHEN rehome_fresh.is THEN 'u' ELSE 'o' END" : "'u'",
					 rehome_inverse_expressions(inverse, false), target);
	/* a join: of an EXISTS the planner goes through all keys for each row, if it expects few rows */
	if (ignores)
		appendStringInfo(&sql, " LEFT JOIN (SELECT %1$s, true AS is FROM rehome_new_keys AS k GROUP BY %1$s) AS rehome_fresh ON %2$s",
						 rehome_quote_list(map->key, "k."), rehome_key_condition(mapping, "target", "rehome_fresh"));
	if (!ret->everything)
	{
		keys = changed_keys(mapping, owner, ret->since, ret->added, ANY_ROW, "rehome_keys");
		appendStringInfo(&sql, " WHERE EXISTS (SELECT FROM rehome_keys AS k WHERE %s)",
						 rehome_key_condition(mapping, "target", "k"));
	}
	rehome_conn_copy_in(conn, psprintf("COPY %s (rehome_op, %s) FROM STDIN", ret->stage,
									   rehome_inverse_columns(inverse, "", false)));
	n = send_rows(conn, sql.data, owner);
	rehome_conn_copy_in_end(conn);
	if (ignores)
		forget_keys(fresh, "rehome_new_keys");

	if (ret->everything)
		return n;
	forget_keys(keys, "rehome_keys");
	keys = changed_keys(mapping, owner, ret->since, NIL, map->on_delete == 'm' ? ANY_ROW : "= 'd'", "rehome_keys");
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
	forget_keys(keys, "rehome_keys");
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
		RehomeReturn *ret = lfirst(lc);

		if (clear)
			appendStringInfo(&sql, "%s %s;", ret->large ? "TRUNCATE" : "DELETE FROM", ret->stage);
		else
			appendStringInfo(&sql, "SELECT rehome_source.create_stage(%s, %d, %s::regclass);",
							 quote_literal_cstr(slice->migration->token), ret->inverse->mapping->map->id,
							 quote_literal_cstr(ret->relation));
		if (!clear && ret->outside != NULL)
			appendStringInfo(&sql, "SELECT rehome_source.create_outside(%s, %d);",
							 quote_literal_cstr(slice->migration->token), ret->inverse->mapping->map->id);
	}
	if (clear)
		appendStringInfoString(&sql, "DELETE FROM rehome_source.applying WHERE xid = txid_current()");
	rehome_conn_exec(conn, sql.data);
}

/*
 * find_empty finds out of which tables the source's planner expects no rows.
 */
static void
find_empty(RehomeConn *conn, List *returns)
{
	List	   *relations = NIL;
	RehomeRows *rows;
	ListCell   *lc;

	foreach(lc, returns)
		relations = lappend(relations, ((RehomeReturn *) lfirst(lc))->relation);
	rows = rehome_conn_query(conn, "SELECT rehome_source.seems_empty(r::regclass) FROM unnest($1::text[]) WITH ORDINALITY AS u(r, n) ORDER BY n",
							 "t", rehome_name_array(relations));
	foreach(lc, returns)
	{
		char	   *pages = rows->value[foreach_current_index(lc)][0];

		((RehomeReturn *) lfirst(lc))->empty_pages = pages ? rehome_int64(pages) : -1;
	}
}

/*
 * stage_all stages all tables.  A staging table is empty most of the time, and
 * that is what statistics say of it, for good where old snapshots have kept dead
 * rows in it: a plan for one row would go through the source's table for each of
 * many thousands.  So where there are many they are counted; and as the next
 * batch may be a small one, nothing is left of that in the end.  A table of the
 * source that its planner takes for empty is joined as a whole, unless it is so
 * large that its rows are looked up all the same.
 */
static int64
stage_all(RehomeConn *conn, RehomeSlice *slice, List *returns)
{
	int64		n = 0;
	ListCell   *lc;

	foreach(lc, returns)
	{
		RehomeReturn *ret = lfirst(lc);
		int			guc_level = NewGUCNestLevel();
		int64		staged;

		if (is_misjudged(ret->inverse->mapping->map->target))
			(void) set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		staged = stage_changes(conn, ret, slice->migration->owner);
		AtEOXact_GUC(true, guc_level);
		ret->large = staged >= LARGE_STAGE;
		/* a page more for each row, and these are looked up */
		ret->seems_empty = ret->empty_pages >= 0 && ret->empty_pages < Max(staged, 1000);
		if (ret->large)
			rehome_conn_exec(conn, psprintf("ANALYZE %s", ret->stage));
		if (ret->inverse->mapping->map->on_delete == 'i')
			rehome_merge_spare_ignored(conn, ret);
		rehome_merge_spare_refused(conn, slice, ret);
		n += staged;
	}
	return n;
}

/*
 * rehome_reverse_batch brings the source from its position to a snapshot of
 * the target: the one given, or, when that is NULL, one taken now.  With
 * keep_open the source transaction stays open, still recognised as ours; it
 * commits before this one where a snapshot was given, and after it where not
 * (rollback).  Where uncovered is not NULL it is told whether there are
 * partitions that want triggers first, and then nothing else is done: a table
 * would have to be brought as a whole.  Returns the rows sent; -1, with the
 * transaction open, when the source says that it has authority.
 */
int64
rehome_reverse_batch(RehomeConn *conn, RehomeSlice *slice, List *maps,
					 Snapshot snapshot, bool keep_open, bool *uncovered)
{
	List	   *returns = NIL;
	List	   *asked = maps;
	/* in a rollback writers wait; for a verification, or when it is taken up again, nobody does */
	bool		frozen = keep_open && snapshot == NULL && slice->state == REHOME_CUT_OVER;
	char	   *since;
	char	   *reached;
	StringInfoData noted;		/* partitions that are new to the source, by map, as JSON */
	int64		n = 0;
	ListCell   *lc;

	initStringInfo(&noted);
	maps = rehome_maps_running(maps);
	if (slice->state == REHOME_CUT_OVER)	/* rolling back, capture is off, and nobody writes */
		rehome_target_check_capture(maps);
	rehome_target_hold(maps);
	PushActiveSnapshot(snapshot ? snapshot : GetLatestSnapshot());
	if (uncovered != NULL && (*uncovered = rehome_targets_uncovered(maps, GetActiveSnapshot()) != NIL))
	{
		PopActiveSnapshot();
		return 0;
	}
	reached = rehome_position_of_active();
	rehome_conn_begin(conn, "");
	rehome_conn_exec(conn, psprintf("SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %d",
									rehome_lock_timeout, frozen ? rehome_freeze_timeout : 0));
	since = rehome_reverse_position(conn, slice, slice->lazy_position ? NIL : asked, maps);
	if (since == NULL)
	{
		PopActiveSnapshot();
		return -1;
	}

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		const char *from = map->position ? map->position : since;
		RehomeReturn *ret;
		RehomeRows *all;
		char	   *parts;
		List	   *added = NIL;
		bool		whole = false;
		bool		closed;
		bool		moved = rehome_target_repartitioned(map, GetActiveSnapshot(), &parts, &added, &whole);

		if (moved)
		{
			appendStringInfo(&noted, "%s\"%d\": \"%s\"", noted.len ? ", " : "{", map->id, parts);
			/* what a rollback commits here, before the source commits, is not what that has */
			if (!keep_open || snapshot != NULL)
				rehome_target_note_parts(map, parts);
			rehome_touched_mark(slice, list_make1(map));
			rehome_touched_all(map, "partitions of the target came or went since");
		}
		if (!moved && !rehome_target_changed(map, from))
			continue;
		ret = palloc0(sizeof(RehomeReturn));
		ret->since = from;
		ret->inverse = rehome_inverse_compile(map, slice->migration->owner);
		ret->added = added;
		all = rehome_spi_read(psprintf("SELECT op = 'l' FROM rehome_change.%s WHERE %s AND op IN ('t', 'l') ORDER BY 1 DESC LIMIT 1",
									   rehome_target_change_table(map), rehome_position_unseen(from)), "");
		closed = !may_read_partitions(added, slice->migration->owner);
		ret->everything = all->n > 0 || whole || closed;
		ret->lost = closed || (all->n > 0 && rehome_bool(all->value[0][0]));
		ret->relation = rehome_remote_relation(ret->inverse->table);
		ret->stage = rehome_stage_table(slice->migration, map);
		ret->outside = map->filter ? rehome_outside_table(slice->migration, map) : NULL;
		returns = lappend(returns, ret);
	}
	if (returns != NIL)
	{
		make_stages(conn, slice, returns, false);
		foreach(lc, returns)
			rehome_merge_compose(conn, lfirst(lc));
		rehome_conn_exec(conn, psprintf("SET LOCAL rehome_source.applying = 'on';"
										"SELECT rehome_source.adopt(%1$s, %2$d);"
										"INSERT INTO rehome_source.applying VALUES (txid_current(), %1$s, %2$d)",
										quote_literal_cstr(slice->migration->token), slice->id));
		if (rehome_inverse_may_bypass(conn))
			rehome_conn_exec(conn, "SET LOCAL session_replication_role = replica");
		find_empty(conn, returns);
		n += stage_all(conn, slice, returns);
		rehome_merge(conn, returns);
		foreach(lc, returns)
			rehome_merge_note_outside(conn, lfirst(lc));
		make_stages(conn, slice, returns, true);
	}
	else if (slice->lazy_position && rehome_maps_behind(maps) == NIL)
	{
		PopActiveSnapshot();
		rehome_conn_rollback(conn);
		return 0;
	}
	appendStringInfoString(&noted, noted.len ? "}" : "{}");
	rehome_conn_query(conn, "UPDATE rehome_source.slice SET reverse_position = $3, reverse_parts = reverse_parts || $4::jsonb"
					  " WHERE token = $1 AND slice = $2::int",
					  "titt", slice->migration->token, slice->id, reached, noted.data);
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
		/* what the source defers is to fail while there is still a choice */
		rehome_conn_exec(conn, "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;"
						 " SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0");
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
