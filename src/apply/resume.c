/*-------------------------------------------------------------------------
 *
 * resume.c
 *	  One table of a slice that is paused by hand, and goes on.
 *
 * The way from paused to behind (capture/table_pause.c) is
 * rehome.resume_table().  What it does at the source (making capture anew)
 * commits there at once, and is done again, with the same result, if the
 * transaction here fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/inverse.h"
#include "capture/capture.h"
#include "errors.h"
#include "mapping/mapping.h"
#include "remote/query.h"
#include "util/name.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/builtins.h"

/*
 * require_way raises unless the slice is one whose tables are moved, one way or
 * the other.
 */
static void
require_way(RehomeSlice *slice)
{
	rehome_slice_require(slice, "pause or resume a table of", REHOME_SYNCING, REHOME_CUT_OVER);
	rehome_slice_require_way_back(slice, "pause or resume a table of");
}

/*
 * named_map returns the map that arguments 0 (migration) and 1 (target)
 * name, and its slice, whose work lock it takes with lock.
 */
static RehomeTableMap *
named_map(RehomeCall *call, FunctionCallInfo fcinfo, bool lock, RehomeSlice **slice)
{
	RehomeMigration *migration;
	RehomeTableMap *map;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("migration and target must be given"));
	migration = rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));
	map = rehome_table_map_of(migration, PG_GETARG_OID(1));
	*slice = rehome_slice_by_id(map->slice_id);
	if (lock)
	{
		rehome_slice_work_lock(*slice);
		map = rehome_table_map_of(migration, PG_GETARG_OID(1));
	}
	require_way(*slice);
	return map;
}

/*
 * position_now returns where the tables of a slice are, at least.
 */
static char *
position_now(RehomeSlice *slice)
{
	RehomeConn *conn;
	char	   *position;

	if (slice->state == REHOME_SYNCING)
		return slice->position;
	conn = rehome_slice_connect(slice, "pause");
	position = rehome_reverse_reached(conn, slice);
	if (position == NULL)
		rehome_raise_both(slice);
	rehome_conn_close(conn);
	return position;
}

PG_FUNCTION_INFO_V1(rehome_pause_table);

/*
 * rehome_pause_table(migration name, target regclass, reason text)
 *
 * A batch that is under way is not waited for: it brings the table further
 * than the position noted here, and the same changes are applied again.
 */
Datum
rehome_pause_table(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSlice *slice;
	RehomeTableMap *map;
	char	   *reason = PG_ARGISNULL(2) ? pstrdup("paused by hand") : text_to_cstring(PG_GETARG_TEXT_PP(2));

	rehome_call_begin(&call, fcinfo);
	map = named_map(&call, fcinfo, false, &slice);
	/* the slice's row first, as a batch does */
	rehome_slice_maps_changed(slice);
	rehome_slice_reread(slice);
	require_way(slice);			/* authority may have moved while we waited */
	if (rehome_spi("UPDATE rehome.table_map SET paused = true, reason = $2, position = coalesce(position, $3)"
				   " WHERE id = $1 AND NOT paused", "itt", map->id, reason, position_now(slice))->processed == 0)
		ereport(NOTICE, errmsg("table %s is paused already", rehome_relation_name(map->target)));
	else
		rehome_event(slice->migration->name, slice->name, "paused",
					 psprintf("table %s: %s", rehome_relation_name(map->target), reason), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * require_columns raises when the source lacks columns that the foreign table
 * declares, or the target some that the map fills.
 */
static void
require_columns(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);
	char	   *relation = rehome_remote_relation(table);
	RehomeProblems problems;
	List	   *names = NIL;
	RehomeRows *rows;

	(void) rehome_mapping_compile(map, slice->migration->owner);	/* raises when it cannot be */
	for (int i = 0; i < table->natts; i++)
		if (table->remote[i] != NULL)
			names = lappend(names, table->remote[i]);
	rows = rehome_conn_query(conn, "SELECT DISTINCT u.name FROM unnest($2::text[]) AS u(name) WHERE NOT EXISTS"
							 " (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attname = u.name"
							 "  AND a.attnum > 0 AND NOT a.attisdropped) ORDER BY 1", "tt", relation, rehome_name_array(names));
	rehome_problems_init(&problems);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_UNDEFINED_COLUMN,
					   "Bring it back; or tell the foreign table what it is called now; or leave it out or compute it with rehome.map_column(), and drop it from the foreign table.",
					   "Column %s does not exist any more.", quote_identifier(rows->value[i][0]));
	rehome_problems_raise(&problems, "table %s at the source does not have what target %s is made of",
						  relation, rehome_relation_name(map->target));
}

/*
 * captures_other_key tells whether the columns that are captured as the key
 * are others than those the foreign table says.
 */
static bool
captures_other_key(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	return rehome_conn_query(conn, "SELECT FROM rehome_source.captured WHERE token = $1 AND map = $2::int AND names = $3::name[]",
							 "tit", slice->migration->token, map->id,
							 rehome_remote_key_array(map, rehome_remote_table(map->source)))->n == 0;
}

/*
 * require_childless raises when tables inherit from one on either side.
 */
static void
require_childless(const char *relation, const char *side, const char *child)
{
	if (child == NULL)
		return;
	ereport(ERROR,
			errcode(ERRCODE_WRONG_OBJECT_TYPE),
			errmsg("table %s at the %s has inheritance children", relation, side),
			errdetail("What is written to rows in them does not fire its triggers."),
			errhint("ALTER TABLE %s NO INHERIT %s; and map each table by itself.", child, relation));
}

/* The first table that inherits from $1. */
#define FIRST_CHILD \
	"SELECT min(i.inhrelid::regclass::text) FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent" \
	" WHERE i.inhparent = $1::regclass AND p.relkind = 'r'"

/*
 * mend_source sees to it that the changes of a map's source are captured, once
 * nothing on either side keeps them from being.
 */
static void
mend_source(RehomeSlice *slice, RehomeTableMap *map)
{
	RehomeConn *conn = rehome_slice_connect(slice, "resume");
	char	   *relation = rehome_remote_relation(rehome_remote_table(map->source));

	if (rehome_conn_value(conn, "SELECT to_regclass($1)", "t", relation) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("table %s does not exist at the source any more", relation),
				errhint("If it was renamed, tell the foreign table: ALTER FOREIGN TABLE %s OPTIONS (%s table_name '...');",
						rehome_relation_name(map->source),
						rehome_spi_value("SELECT CASE WHEN bool_or(strpos(o, 'table_name=') = 1) THEN 'SET' ELSE 'ADD' END"
										 " FROM pg_foreign_table f, unnest(f.ftoptions) AS o WHERE f.ftrelid = $1", "o", map->source)));
	require_childless(relation, "source", rehome_conn_value(conn, FIRST_CHILD, "t", relation));
	require_childless(rehome_relation_name(map->target), "target",
					  rehome_spi_value(FIRST_CHILD, "t", rehome_relation_name(map->target)));
	require_columns(conn, slice, map);
	(void) rehome_source_mend(conn, slice);
	if (rehome_source_damage(conn, slice, map) != NULL || captures_other_key(conn, slice, map))
		rehome_source_put_back(conn, slice, map);
	/* what it looks like from now on, also to the next batch */
	rehome_spi("UPDATE rehome.table_map SET source_columns = $2::jsonb WHERE id = $1", "it", map->id,
			   linitial(rehome_structures(conn, list_make1(map))));
	rehome_conn_close(conn);
}

/*
 * mend_target puts back what stands against writes to a map's target.  True
 * when it was not there: what was written meanwhile is not known.
 */
static bool
mend_target(RehomeSlice *slice, RehomeTableMap *map)
{
	List	   *maps = list_make1(map);
	bool		lost;

	rehome_targets_lock(maps, ShareRowExclusiveLock);
	lost = rehome_triggers_lost(maps, false) != NIL ||
		(map->target_parts != NULL && strcmp(map->target_parts, rehome_target_partitions(map->target, NULL)) != 0);
	rehome_target_guard(slice, maps);
	rehome_target_guard_switch(map, true);
	rehome_target_note_partitions(maps);
	rehome_spi("UPDATE rehome.table_map SET target_columns = $2::jsonb WHERE id = $1", "it", map->id,
			   linitial(rehome_structures(NULL, maps)));
	return lost;
}

/*
 * mend sees to it that a map's changes are captured, and its target guarded.
 * Nobody has looked at the tables while it was paused: where their values may
 * be others, it is read as a whole.
 */
static void
mend(RehomeSlice *slice, RehomeTableMap *map)
{
	bool		lossy;
	RehomeRows *now;

	mend_source(slice, map);
	lossy = mend_target(slice, map);
	now = rehome_spi("SELECT source_columns, target_columns FROM rehome.table_map WHERE id = $1", "i", map->id);
	if (lossy || rehome_structure_lossy(map->source_columns, now->value[0][0]) ||
		rehome_structure_lossy(map->target_columns, now->value[0][1]))
		rehome_spi("UPDATE rehome.table_map SET source_print = 'lossy' WHERE id = $1", "i", map->id);
	rehome_spi("UPDATE rehome.slice SET source_print = '' WHERE id = $1", "i", slice->id);
}

/*
 * require_insertable raises when the source has got columns since that it lets
 * nobody leave out.
 */
static void
require_insertable(RehomeTableMap *map, const char *known)
{
	RehomeRows *rows = rehome_spi("SELECT n.value ->> 'name' FROM jsonb_each((SELECT source_columns FROM rehome.table_map WHERE id = $1) -> 'columns') AS n"
								  " WHERE NOT $2::jsonb -> 'columns' ? n.key AND (n.value -> 'not_null')::boolean AND NOT (n.value -> 'default')::boolean"
								  " ORDER BY n.key::int", "it", map->id, known);
	RehomeProblems problems;

	rehome_problems_init(&problems);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_NOT_NULL_VIOLATION, "Give it a default, or let it be null.",
					   "Column %s may not be null and has no default.", quote_identifier(rows->value[i][0]));
	rehome_problems_raise(&problems, "rows of %s could not be inserted at the source", rehome_relation_name(map->target));
}

/*
 * mend_way_back sees to it that the changes of a map's target are captured, and
 * can be brought back, and that the source has its fence.
 */
static void
mend_way_back(RehomeSlice *slice, RehomeTableMap *map)
{
	List	   *maps = list_make1(map);
	char	   *target;

	(void) rehome_inverse_compile(map, slice->migration->owner);	/* raises when it cannot be */
	mend_source(slice, map);
	require_insertable(map, map->source_columns);
	rehome_targets_lock(maps, ShareRowExclusiveLock);
	target = linitial(rehome_structures(NULL, maps));
	/* values may be others that no trigger has seen, here or there */
	if (rehome_triggers_lost(maps, true) != NIL ||
		rehome_spi("SELECT FROM rehome.table_map WHERE id = $1 AND source_columns - 'files' = $2::jsonb - 'files'"
				   " AND $3::jsonb - 'files' = $4::jsonb - 'files'", "ittt",
				   map->id, map->source_columns, target, map->target_columns)->n == 0)
		rehome_target_log_all(map);
	rehome_target_install(slice, maps, false);
	rehome_target_switch(maps, false, true);
	rehome_spi("UPDATE rehome.table_map SET target_columns = $2::jsonb WHERE id = $1", "it", map->id, target);
}

PG_FUNCTION_INFO_V1(rehome_resume_table);

/*
 * rehome_resume_table(migration name, target regclass)
 */
Datum
rehome_resume_table(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSlice *slice;
	RehomeTableMap *map;

	rehome_call_begin(&call, fcinfo);
	map = named_map(&call, fcinfo, true, &slice);
	if (!map->paused)
		ereport(NOTICE, errmsg("table %s is not paused", rehome_relation_name(map->target)));
	else
	{
		rehome_slice_require_running(slice);
		rehome_target_require_logged(map->target);
		if (slice->state == REHOME_CUT_OVER)
			mend_way_back(slice, map);
		else
			mend(slice, map);
		rehome_spi("UPDATE rehome.table_map SET paused = false, reason = NULL WHERE id = $1", "i", map->id);
		rehome_spi("UPDATE rehome.slice SET target_print = '' WHERE id = $1", "i", slice->id);
		rehome_spi("UPDATE rehome.drift SET resolved_at = clock_timestamp(), resolution = 'resumed'"
				   " WHERE migration = $1::name AND slice = $2::name AND target = $3 AND resolved_at IS NULL AND policy IS NULL AND kind <> 'refused'",
				   "tto", slice->migration->name, slice->name, map->target);
		rehome_event(slice->migration->name, slice->name, "resumed",
					 psprintf("table %s", rehome_relation_name(map->target)), NULL);
		rehome_slice_maps_changed(slice);
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
