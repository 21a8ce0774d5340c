/*-------------------------------------------------------------------------
 *
 * structure.c
 *	  Tables that are not what they were: finding what has changed.
 *
 * What a table looked like when it was last found in order (its OID and its
 * columns, by number) is kept in rehome.table_map.  A fingerprint per slice
 * and side tells cheaply whether anything has changed; then the tables are
 * looked at one by one.  A change that the map does not notice, as a column
 * that nobody maps, is noted in rehome.drift and things go on.  Any other
 * pauses the table map, and that one only: it keeps its position, and is left
 * out of batches until rehome.resume_table() (apply/resume.c).
 *
 * Pausing is part of the batch's transaction.  If that fails, the next one
 * finds the same.  After cutover it is not: the source commits first there, and
 * its position must not pass a table of which this side does not know that it
 * was left out.  So that is committed before the next batch begins (reverse.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "capture/capture.h"
#include "capture/sql/structure.sql.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Of difference_query: what a column was, and what it is; NULL: not there. */
typedef struct Difference
{
	char	   *was;
	char	   *is;
	char	   *was_type;
	char	   *is_type;
	bool		was_not_null;
	bool		is_not_null;
	bool		is_default;		/* has a default */
	bool		reused;			/* what it was called, another column is now */
	bool		rewritten;		/* its values are computed, or spelled, differently */
} Difference;

/* Of a column o that is n now, and key its number: its name is another one's. */
#define REUSED "EXISTS (SELECT FROM jsonb_each($2::jsonb -> 'columns') AS r(k, v)" \
	" WHERE r.k <> key AND r.v ->> 'name' = o.value ->> 'name')"

/*
 * It is computed, or labels of its type are called, differently; or it was given
 * a type, perhaps the same one, and other values with it: then its definition was
 * written anew, and the table.  VACUUM FULL does but the latter, SET STATISTICS the
 * former; the fingerprints have the files, too, so that each is seen by itself,
 * unless both come between two looks.
 */
#define REWRITTEN "(o.value ->> 'expression' IS DISTINCT FROM n.value ->> 'expression'" \
	" OR (o.value ->> 'made' <> n.value ->> 'made' AND EXISTS (SELECT FROM jsonb_each_text($1::jsonb -> 'files') AS a" \
	"  JOIN jsonb_each_text($2::jsonb -> 'files') AS b ON b.key = a.key AND b.value <> a.value))" \
	" OR EXISTS (SELECT FROM jsonb_each_text(nullif(o.value -> 'labels', 'null')) AS a" \
	"  JOIN jsonb_each_text(nullif(n.value -> 'labels', 'null')) AS b ON b.key = a.key AND b.value <> a.value))"

static const char *const difference_query =
	"SELECT o.value ->> 'name', n.value ->> 'name', o.value ->> 'type', n.value ->> 'type',"
	" o.value ->> 'not_null', n.value ->> 'not_null', n.value ->> 'default',"
	" " REUSED ","
	" o.value IS NOT NULL AND n.value IS NOT NULL AND " REWRITTEN
	" FROM jsonb_each($1::jsonb -> 'columns') AS o FULL JOIN jsonb_each($2::jsonb -> 'columns') AS n USING (key)"
	/* new labels of an enum change no value */
	" WHERE o.value - 'labels' - 'made' IS DISTINCT FROM n.value - 'labels' - 'made' OR " REWRITTEN " ORDER BY key::int";

/*
 * rehome_structure_lossy tells whether a column of one look is gone in the
 * other, of another type, computed or spelled differently, or not the one that
 * has its name: values may be others that no trigger has seen.
 */
bool
rehome_structure_lossy(const char *before, const char *after)
{
	return before == NULL ||
		rehome_spi("SELECT FROM jsonb_each($1::jsonb -> 'columns') AS o LEFT JOIN jsonb_each($2::jsonb -> 'columns') AS n USING (key)"
				   " WHERE n.value ->> 'type' IS DISTINCT FROM o.value ->> 'type' OR " REUSED " OR " REWRITTEN, "tt", before, after)->n > 0;
}

/*
 * rehome_structures returns what the maps' sources look like, or, without a
 * connection, their targets: the text of a jsonb each, or NULL.
 */
List *
rehome_structures(RehomeConn *conn, List *maps)
{
	List	   *structures = NIL;
	RehomeRows *rows;

	if (conn != NULL)
		rows = rehome_conn_query(conn, sql_structure, "t", rehome_remote_names(maps));
	else
	{
		List	   *names = NIL;
		ListCell   *lc;

		foreach(lc, maps)
			names = lappend(names, rehome_relation_name(((RehomeTableMap *) lfirst(lc))->target));
		rows = rehome_spi(sql_structure, "t", rehome_name_array(names));
	}
	for (int i = 0; i < rows->n; i++)
		structures = lappend(structures, rows->value[i][0]);
	return structures;
}

/*
 * keep copies a string to where the map lives.
 */
static char *
keep(RehomeTableMap *map, const char *text)
{
	return MemoryContextStrdup(GetMemoryChunkContext(map), text);
}

/*
 * record notes one difference; resolution is NULL when it is open.
 */
static void
record(RehomeSlice *slice, RehomeTableMap *map, const char *side, const char *kind,
	   const char *object, const char *what, const char *hint, const char *resolution)
{
	rehome_spi("INSERT INTO rehome.drift (migration, slice, side, kind, object, target, detail, resolved_at, resolution)"
			   " VALUES ($1::name, $2::name, $3, $4, $5, $6, jsonb_strip_nulls(jsonb_build_object('what', $7, 'hint', $8)),"
			   " CASE WHEN $9 IS NOT NULL THEN clock_timestamp() END, $9)", "tttttottt",
			   slice->migration->name, slice->name, side, kind, object, map->target, what, hint, resolution);
}

/*
 * rehome_map_pause leaves a map out of batches from now on.  With lossy, it will
 * have to be read as a whole when it goes on.
 */
void
rehome_map_pause(RehomeSlice *slice, RehomeTableMap *map, const char *reason, bool lossy)
{
	bool		back = slice->state == REHOME_CUT_OVER;
	const char *position = map->position ? map->position : back ? slice->reverse_position : slice->position;

	Assert(position != NULL);
	rehome_slice_maps_changed(slice);	/* the slice's row before the map's, as everybody does */
	if (back && lossy)
		rehome_target_log_all(map);
	rehome_spi("UPDATE rehome.table_map SET paused = true, reason = $2, position = $3,"
			   " source_print = CASE WHEN $4 THEN 'lossy' ELSE source_print END WHERE id = $1", "ittb",
			   map->id, reason, position, lossy && !back);
	map->position = keep(map, position);
	map->reason = keep(map, reason);
	map->paused = true;
	rehome_event(slice->migration->name, slice->name, "paused",
				 psprintf("table %s: %s", rehome_relation_name(map->target), reason), NULL);
}

/*
 * resume_hint returns the call that lets a map go on.
 */
static char *
resume_hint(RehomeSlice *slice, RehomeTableMap *map)
{
	return psprintf("SELECT rehome.resume_table(%s, %s);", quote_literal_cstr(slice->migration->name),
					quote_literal_cstr(rehome_relation_name(map->target)));
}

/*
 * rehome_map_lost pauses a map for a reason that is not a column's; what was
 * written since is not known.
 */
void
rehome_map_lost(RehomeSlice *slice, RehomeTableMap *map, const char *side,
				const char *kind, const char *what, const char *hint)
{
	char	   *relation = strcmp(side, "target") == 0 ? rehome_relation_name(map->target) :
		rehome_remote_relation(rehome_remote_table(map->source));

	record(slice, map, side, kind, relation, what,
		   psprintf("%s %s", hint, resume_hint(slice, map)), NULL);
	rehome_map_pause(slice, map, psprintf("at the %s %s", side, what), true);
}

/*
 * source_columns_used lists the columns of the source that are read: all that
 * the foreign table declares, by the names they have there.  char *.
 */
static List *
source_columns_used(RehomeTableMap *map)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	List	   *used = NIL;

	for (int i = 0; i < table->natts; i++)
		if (table->remote[i] != NULL)
			used = lappend(used, table->remote[i]);
	return used;
}

/*
 * target_columns_used lists the columns of the target that a map fills.
 */
static List *
target_columns_used(RehomeTableMap *map)
{
	List	   *used = NIL;
	ListCell   *lc;

	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);

		if (column->kind != REHOME_SKIP)
			used = lappend(used, column->name);
	}
	return used;
}

/*
 * is_required tells whether no row can do without the column.
 */
static bool
is_required(Difference *d)
{
	return d->is_not_null && !d->is_default;
}

/*
 * follow returns the statement that tells the foreign table what a column of the
 * source is called now.
 */
static char *
follow(RehomeTableMap *map, const char *was, const char *is)
{
	RehomeRows *rows = rehome_spi("SELECT quote_ident(a.attname), CASE WHEN o.name IS NULL THEN 'ADD' ELSE 'SET' END FROM pg_attribute a"
								  " LEFT JOIN LATERAL (SELECT substr(o, length('column_name=') + 1) FROM unnest(a.attfdwoptions) AS o"
								  "  WHERE strpos(o, 'column_name=') = 1) AS o(name) ON true"
								  " WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(o.name, a.attname) = $2",
								  "ot", map->source, was);

	return psprintf("ALTER FOREIGN TABLE %s ALTER COLUMN %s OPTIONS (%s column_name %s);", rehome_relation_name(map->source),
					rows->n > 0 ? rows->value[0][0] : "...", rows->n > 0 ? rows->value[0][1] : "SET", quote_literal_cstr(is));
}

/*
 * judge says what a difference of the source, or the target, is, and what to do
 * about it: true when the map cannot go on with it.  back when rows come from
 * the target.  *lossy when values may have changed.
 */
static bool
judge(RehomeTableMap *map, Difference *d, bool source, bool back, List *used, const char **kind, char **what, const char **hint, bool *lossy)
{
	bool		matters = rehome_name_listed(used, d->was);
	bool		filled = source == back;	/* rows are inserted there */

	*hint = NULL;
	*lossy = false;
	if (d->was == NULL)
	{
		*kind = "column added";
		*what = psprintf("column %s of type %s was added", quote_identifier(d->is), d->is_type);
		if (is_required(d) && filled)
			*hint = back ? "It may not be null and has no default: give it one, or let it be null." :
				"Give it a default, or let it be null, or map it with rehome.map_column().";
		else if (is_required(d) && !back)
			*hint = "It may not be null and has no default: rows that are brought back after a cutover would be refused.";
		/* rows that come could not be inserted */
		return is_required(d) && filled;
	}
	if (d->is == NULL)
	{
		*kind = "column dropped";
		*what = psprintf("column %s was dropped", quote_identifier(d->was));
		*lossy = matters;
		*hint = back ? "Bring it back." : source ? "Bring it back; or leave it out or compute it with rehome.map_column(), and drop it from the foreign table." :
			"Bring it back, or leave it out with rehome.map_column().";
	}
	else if (strcmp(d->was, d->is) != 0)
	{
		*kind = "column renamed";
		*what = psprintf("column %s was renamed to %s", quote_identifier(d->was), quote_identifier(d->is));
		/* until that was noticed, the other one's values have come in its place */
		*lossy = d->reused;
		if (d->was_type != NULL && strcmp(d->was_type, d->is_type) != 0)
		{
			*what = psprintf("%s and is of type %s instead of %s", *what, d->is_type, d->was_type);
			*lossy = true;
		}
		*hint = source && !back ? psprintf("Rename it back, or tell the foreign table: %s", follow(map, d->was, d->is)) :
			"Rename it back.";
	}
	else if (strcmp(d->was_type, d->is_type) != 0)
	{
		*kind = "column retyped";
		*what = psprintf("column %s is of type %s instead of %s", quote_identifier(d->is), d->is_type, d->was_type);
		*hint = back ? (source ? "Make sure that it holds what comes back." : "Make sure that the source can hold it.") :
			source ? "Give the foreign table's column a type that holds its values, with the target's if need be." :
			"Make sure that it holds what the rule gives.";
		*lossy = true;
	}
	else if (d->rewritten)
	{
		*kind = "column rewritten";
		*what = psprintf("column %s, or its type, was defined anew: its values may be others", quote_identifier(d->is));
		*lossy = matters;
		return false;
	}
	else
	{
		*kind = "column changed";
		*what = psprintf("column %s %s", quote_identifier(d->is),
						 d->was_not_null == d->is_not_null ? (d->is_default ? "has a default" : "has no default any more") :
						 d->is_not_null ? "may not be null any more" : "may be null");
		return false;
	}
	return matters;
}

/*
 * read_as_whole has the batch that is under way, or the next one, read the table
 * as a whole.
 */
static void
read_as_whole(RehomeSlice *slice, RehomeTableMap *map)
{
	rehome_spi("UPDATE rehome.table_map SET source_print = 'lossy' WHERE id = $1", "i", map->id);
	rehome_spi("UPDATE rehome.slice SET source_print = 'lossy' WHERE id = $1", "i", slice->id);
	map->source_print = keep(map, "lossy");
	slice->source_print = MemoryContextStrdup(GetMemoryChunkContext(slice), "lossy");
}

/*
 * rehome_structure_changed compares what a side of a map looks like now with
 * what it did, notes the differences, and remembers the new look.  If the map
 * cannot go on it is paused, and the old look kept; then true.  If it can, but
 * the values are others now, it is read, or brought back, as a whole; where they
 * are the source's, by a fingerprint that is none.
 */
bool
rehome_structure_changed(RehomeSlice *slice, RehomeTableMap *map, bool source, const char *now)
{
	char	  **known = source ? &map->source_columns : &map->target_columns;
	const char *side = source ? "source" : "target";
	char	   *relation;
	StringInfoData reasons;
	RehomeRows *rows;
	List	   *used;
	bool		back = slice->state == REHOME_CUT_OVER;
	bool		any_lossy = false;
	bool		later = false;

	if (now == NULL || (*known != NULL && strcmp(*known, now) == 0))
		return false;
	initStringInfo(&reasons);
	if (*known != NULL)
	{
		relation = source ? rehome_remote_relation(rehome_remote_table(map->source)) :
			rehome_relation_name(map->target);
		used = source ? source_columns_used(map) : target_columns_used(map);
		rows = rehome_spi(difference_query, "tt", *known, now);
		for (int i = 0; i < rows->n; i++)
		{
			char	  **v = rows->value[i];
			Difference	d = {v[0], v[1], v[2], v[3], rehome_bool(v[4]), rehome_bool(v[5]), rehome_bool(v[6]),
			rehome_bool(v[7]), rehome_bool(v[8])};
			const char *kind;
			char	   *what;
			const char *hint;
			bool		lossy;
			bool		stops = judge(map, &d, source, back, used, &kind, &what, &hint, &lossy);

			record(slice, map, side, kind, psprintf("%s.%s", relation, quote_identifier(d.was ? d.was : d.is)), what,
				   stops ? psprintf("%s Then %s", hint, resume_hint(slice, map)) : hint, stops ? NULL : "compatible");
			/* it will matter after a rollback, and is to be found then */
			later = later || (back && !source && d.was == NULL && is_required(&d));
			any_lossy = any_lossy || lossy;
			if (stops)
				appendStringInfo(&reasons, "%s%s", reasons.len ? "; " : psprintf("at the %s ", side), what);
		}
	}
	if (reasons.len > 0)
	{
		rehome_map_pause(slice, map, reasons.data, any_lossy);
		return true;
	}
	if (later)
		return false;
	rehome_spi(source ? "UPDATE rehome.table_map SET source_columns = $2::jsonb WHERE id = $1" :
			   "UPDATE rehome.table_map SET target_columns = $2::jsonb WHERE id = $1", "it", map->id, now);
	*known = keep(map, now);
	if (any_lossy && source && !back)
		map->source_print = keep(map, "lossy");
	else if (any_lossy && !back)
		read_as_whole(slice, map);
	else if (any_lossy)			/* of either side */
		rehome_target_log_all(map);
	return false;
}

/*
 * rehome_map_reread notes what has happened to rows of a target, and has the
 * batch that is under way read the table as a whole.
 */
void
rehome_map_reread(RehomeSlice *slice, RehomeTableMap *map, const char *kind, const char *what)
{
	record(slice, map, "target", kind, rehome_relation_name(map->target), what, NULL, "repaired");
	read_as_whole(slice, map);
	rehome_event(slice->migration->name, slice->name, "drift",
				 psprintf("table %s is read as a whole: %s", rehome_relation_name(map->target), what), NULL);
}

/* Tables inherit from the target of t, and their rows are written without its triggers. */
#define HAS_CHILDREN \
	"EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhparent = t.target AND p.relkind = 'r')"

/*
 * The targets, and their partitions, each with whether it has had its triggers:
 * one that is not on record has yet to get some.
 */
#define TREE \
	"WITH RECURSIVE tree AS (SELECT t.id, t.target::oid AS rel, true AS known FROM rehome.table_map t WHERE t.id = ANY ($1::int[])" \
	" UNION ALL SELECT tree.id, i.inhrelid, coalesce(i.inhrelid || ':' || i.xmin = ANY (string_to_array(t.target_parts, ',')), false)" \
	"  FROM tree JOIN rehome.table_map t USING (id) JOIN pg_class c ON c.oid = t.target AND c.relkind = 'p'" \
	"  JOIN pg_inherits i ON i.inhparent = tree.rel) "

/* t has a table r in its tree which ... */
#define SOME_TABLE "EXISTS (SELECT FROM tree r WHERE r.id = t.id AND ("

/* ... has such a trigger g. */
#define SOME_TRIGGER "EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = r.rel AND "

/* ... is not as it should be. */
#define NOT_ENABLED " AND g.tgenabled <> ALL ($2::\"char\"[]))"

/* ... should have all triggers, and has less than two such. */
#define TOO_FEW "r.known AND 2 > (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = r.rel AND g.tgenabled = ANY ($2::\"char\"[]) AND "

#define CAPTURES "g.tgname IN ('rehome_capture', 'rehome_capture_truncate')"
#define GUARDS "g.tgname IN ('rehome_guard', 'rehome_guard_truncate')"
#define GUARDS_AS_ORDERED \
	"g.tgname IN (CASE t.drift_policy WHEN 'reject' THEN 'rehome_guard' ELSE 'rehome_drift' END," \
	"  CASE t.drift_policy WHEN 'reject' THEN 'rehome_guard_truncate' ELSE 'rehome_drift_truncate' END)"

/*
 * triggers_lost is rehome_triggers_lost, where the triggers may be enabled in any of
 * these ways.
 */
static List *
triggers_lost(List *maps, bool back, const char *enabled)
{
	List	   *lost = NIL;
	RehomeRows *rows;
	ListCell   *lc;

	rows = rehome_spi(back ?
					  TREE "SELECT t.id FROM rehome.table_map t WHERE t.id = ANY ($1::int[]) AND (" HAS_CHILDREN
					  " OR " SOME_TABLE SOME_TRIGGER CAPTURES NOT_ENABLED
					  "  OR " SOME_TRIGGER GUARDS " AND g.tgenabled <> 'D') OR " TOO_FEW CAPTURES "))))" :
					  TREE "SELECT t.id FROM rehome.table_map t WHERE t.id = ANY ($1::int[]) AND (" HAS_CHILDREN
					  " OR " SOME_TABLE SOME_TRIGGER GUARDS_AS_ORDERED NOT_ENABLED " OR " TOO_FEW GUARDS_AS_ORDERED
					  /* a guard for each statement does not see what is written by way of a parent, or by a subscription */
					  "  AND (g.tgname <> 'rehome_guard' OR g.tgtype & 1 = 1 OR NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = r.rel)"
					  "   AND NOT EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = r.rel))))))",
					  "tt", rehome_map_ids(maps), enabled);
	foreach(lc, maps)
		for (int i = 0; i < rows->n; i++)
			if (rehome_int(rows->value[i][0]) == ((RehomeTableMap *) lfirst(lc))->id)
				lost = lappend(lost, lfirst(lc));
	return lost;
}

/*
 * rehome_triggers_lost lists the maps whose target, or a partition of it, has no
 * guard at work, or what the drift policy puts in its place; after cutover, no
 * capture, or still a guard; or not on all its rows.
 */
List *
rehome_triggers_lost(List *maps, bool back)
{
	return triggers_lost(maps, back, "{A}");
}

/*
 * in_use tells whether a query of this session, which may be the one that called
 * us, has a target or a partition of it open: it cannot be altered then.
 */
static bool
in_use(RehomeTableMap *map)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(map->target, NoLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);
		bool		used = rel->rd_refcnt > 1 || AfterTriggerPendingOnRel(RelationGetRelid(rel));

		table_close(rel, NoLock);
		if (used)
			return true;
	}
	return false;
}

/*
 * guard_again has a guard fire always again that was switched off and on, as ALTER
 * TABLE ... ENABLE TRIGGER ALL does it, and notes that nobody knows what was written
 * meanwhile: a verification tells.  A target that is locked, or in use,
 * has to wait.
 */
static void
guard_again(RehomeSlice *slice, RehomeTableMap *map)
{
	char	   *name = rehome_relation_name(map->target);

	if (!rehome_target_try_lock(map, ShareRowExclusiveLock) || in_use(map))
		return;
	/* what captures is there since a cutover, and was switched on with it */
	if (rehome_target_covered(list_make1(map)))
		rehome_target_switch(list_make1(map), true, false);
	else
		rehome_target_guard_switch(map, true);
	rehome_spi("INSERT INTO rehome.drift (migration, slice, side, kind, object, target, policy, detail)"
			   " VALUES ($1::name, $2::name, 'target', 'guard off', $3, $4, $5, jsonb_build_object('what', $6, 'hint', $7))", "tttottt",
			   slice->migration->name, slice->name, name, map->target,
			   map->drift_policy == REHOME_DRIFT_REPAIR ? "repair" : "record",
			   "the guard was switched off and on again: what was written meanwhile is not known",
			   psprintf("A verification of all rows tells; or have the table read as a whole: SELECT rehome.repair_drift(%s, %s);",
						quote_literal_cstr(slice->migration->name), quote_literal_cstr(name)));
	rehome_event(slice->migration->name, slice->name, "drift",
				 psprintf("table %s: its guard was switched off and on again", name), NULL);
}

/*
 * rehome_target_inspect finds out whether the targets of the maps are what
 * they were, with their guards, or capture, and pauses those that cannot go on.
 * Returns the others.
 */
List *
rehome_target_inspect(RehomeSlice *slice, List *maps)
{
	List	   *lost;
	List	   *off = NIL;		/* the guard was, and is on again */
	List	   *structures;
	char	   *print;
	bool		back = slice->state == REHOME_CUT_OVER;
	ListCell   *lc;

	print = rehome_spi_value("WITH RECURSIVE part AS (SELECT unnest($1::oid[]) AS oid"
							 "  UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN part ON i.inhparent = part.oid)"
							 " SELECT md5(concat((SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,"
							 "   a.attnotnull, a.atthasdef, a.attisdropped, a.xmin), ',' ORDER BY a.attrelid, a.attnum)"
							 "  FROM pg_attribute a WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0),"
							 " (SELECT string_agg(g.oid || g.tgenabled::text, ',' ORDER BY g.oid)"
							 "  FROM part JOIN pg_trigger g ON g.tgrelid = part.oid WHERE g.tgname LIKE 'rehome\\_%'),"
							 " (SELECT string_agg(concat_ws(' ', i.inhrelid, i.inhparent, i.xmin), ',' ORDER BY i.inhrelid, i.inhparent)"
							 "  FROM pg_inherits i WHERE i.inhrelid IN (SELECT oid FROM part)),"
							 " (SELECT string_agg(s.srrelid::text, ',' ORDER BY s.srrelid) FROM pg_subscription_rel s WHERE s.srrelid = ANY ($1::oid[])),"
							 " (SELECT string_agg(e.oid || e.enumlabel, ',' ORDER BY e.oid) FROM pg_enum e),"
							 " (SELECT string_agg(concat(c.oid, ' ', c.relfilenode, CASE WHEN c.relpersistence = 'u' THEN ' unlogged' END), ',' ORDER BY c.oid)"
							 "  FROM part JOIN pg_class c USING (oid) WHERE c.relkind = 'r')))",
							 "t", rehome_map_targets(maps));
	if (slice->target_print != NULL && strcmp(slice->target_print, print) == 0)
		return maps;
	structures = rehome_structures(NULL, maps);
	lost = rehome_triggers_lost(maps, back);
	if (lost != NIL && !back)
		off = list_difference_ptr(lost, triggers_lost(lost, false, "{A,O}"));
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		bool		changed = rehome_structure_changed(slice, map, false, list_nth(structures, foreach_current_index(lc)));
		char	   *unlogged = rehome_target_unlogged(map->target);

		if (unlogged == NULL && !changed && list_member_ptr(off, map))
		{
			guard_again(slice, map);
			print = "";			/* it is another now; or look again */
			lost = list_delete_ptr(lost, map);
		}
		if (unlogged == NULL && !list_member_ptr(lost, map))
		{
			if (!back && !map->paused && !rehome_target_settle(slice, map))
				print = "";		/* look again */
			continue;
		}
		if (back)
			rehome_target_let_write(map);
		if (changed && back)
			rehome_target_log_all(map);
		else if (changed)
			rehome_spi("UPDATE rehome.table_map SET source_print = 'lossy' WHERE id = $1", "i", map->id);
		else if (unlogged != NULL)
			rehome_map_lost(slice, map, "target", "unlogged", psprintf("%s is unlogged", unlogged),
							back ? "A crash of this server empties it: make it logged again; resuming it brings the table to the source as a whole." :
							"A crash of this server empties it: make it logged again; resuming it reads the table as a whole.");
		else if (back)
			rehome_map_lost(slice, map, "target", "capture lost", "capture is missing or disabled, or does not see what is written to tables that inherit from it",
							"What was written since cannot be known: resuming it puts capture back and brings the table to the source as a whole.");
		else
			rehome_map_lost(slice, map, "target", "guard lost", "the guard is missing or disabled, or does not see what is written by way of a parent, to tables that inherit from it, or by a subscription",
							"What was written since cannot be known: resuming it puts the guard back and reads the table as a whole.");
	}
	rehome_spi("UPDATE rehome.slice SET target_print = $2, maps_version = maps_version + 1 WHERE id = $1",
			   "it", slice->id, print);
	/* the next batch of this transaction need not look again: it may be the one writers wait for */
	slice->target_print = MemoryContextStrdup(GetMemoryChunkContext(slice), print);
	return rehome_maps_running(maps);
}
