/*-------------------------------------------------------------------------
 *
 * saved_object.c
 *	  Taking indexes and constraints off a target for the load, and putting
 *	  them back.
 *
 * Definitions are stored in rehome.saved_object in the transaction that drops
 * them, so no crash or cancel can lose one.  What is stored is the complete
 * story: definition with storage options and tablespace, comments, CLUSTER
 * mark, replica identity, statistics targets.
 *
 * The key is taken off too, unless something other than the foreign keys
 * being dropped depends on it.  Partitioned targets, and partitions, keep
 * theirs; so do small tables, for which it would cost more than it saves.
 *
 * Putting back goes in two steps, so that all of a table's indexes can be
 * built at once, by several workers, while other tables still load:
 *
 *	build		create_sql: CREATE INDEX, also for a unique constraint
 *	finish		finish_sql, table by table: attach constraints to their indexes
 *				(this wants ACCESS EXCLUSIVE, for a moment), comments and the rest
 *
 * Foreign keys come when all tables are finished: all are added NOT VALID in
 * one transaction, which is their build, and then each is validated.
 *
 * built_at and rebuilt_at commit together with what they tell.  After a crash
 * whatever has no mark has not been done.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "capture/capture.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/redaction.h"
#include "copy/copy.h"
#include "errors.h"
#include "guc.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "util/attempt.h"
#include "util/debug_point.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

/*
 * What to take off the targets $1 (oid[]): constraints but checks, and
 * indexes that stand on no constraint; not those of an extension, and not
 * those something else depends on.  Of the targets $2 (oid[]) only foreign
 * keys.  Columns: kind, oid, table, name, index, whether the constraint can
 * be attached to an index built before, what it says after its columns, and
 * what building costs, per byte of the table, compared with a btree.
 */
static const char *const candidates =
"WITH target AS (SELECT c.oid, c.oid <> ALL ($2::oid[]) AS large FROM unnest($1::oid[]) AS u(oid) JOIN pg_class c USING (oid)"
"  WHERE c.relkind = 'r' AND NOT c.relispartition),"
" fk AS (SELECT k.oid, k.conrelid FROM pg_constraint k JOIN target t ON t.oid = k.conrelid"
"  WHERE k.contype = 'f'),"
" used AS (SELECT d.classid, d.objid, d.refclassid, d.refobjid FROM pg_depend d"
"  WHERE d.deptype IN ('n', 'a') AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT oid FROM fk))),"
" cost AS (SELECT c.oid, CASE am.amname WHEN 'gin' THEN 8 WHEN 'gist' THEN 6 WHEN 'spgist' THEN 5 WHEN 'brin' THEN 0.2 ELSE 1 END AS factor"
"  FROM pg_class c JOIN pg_am am ON am.oid = c.relam WHERE c.relkind = 'i')"
" SELECT 'foreign key', fk.oid, fk.conrelid, k.conname, NULL::oid, NULL::text, NOT k.convalidated, 0.5"
"  FROM fk JOIN pg_constraint k USING (oid) WHERE k.conparentid = 0"
" UNION ALL"
" SELECT 'constraint', k.oid, k.conrelid, k.conname, k.conindid,"
"  CASE WHEN k.contype IN ('p', 'u') AND coalesce(to_jsonb(k)->>'conperiod', 'false') = 'false'"
"   THEN format('%s USING INDEX %I%s%s', CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, i.relname,"
"    CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END, CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END) END,"
"  false, cost.factor"
"  FROM pg_constraint k JOIN target t ON t.oid = k.conrelid JOIN pg_class i ON i.oid = k.conindid JOIN cost ON cost.oid = i.oid"
"  WHERE t.large AND k.contype IN ('p', 'u', 'x') AND NOT EXISTS (SELECT FROM used u"
"   WHERE (u.refclassid = 'pg_constraint'::regclass AND u.refobjid = k.oid)"
"   OR (u.refclassid = 'pg_class'::regclass AND u.refobjid = k.conindid))"
" UNION ALL"
" SELECT 'index', i.indexrelid, i.indrelid, c.relname, i.indexrelid, NULL, false, cost.factor"
"  FROM pg_index i JOIN target t ON t.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid JOIN cost ON cost.oid = c.oid"
"  WHERE t.large AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))"
"  AND NOT EXISTS (SELECT FROM used u WHERE u.refclassid = 'pg_class'::regclass AND u.refobjid = i.indexrelid)"
"  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.deptype = 'e')";

/* The columns of candidates. */
enum
{
	KIND, OBJECT, TABLE, NAME, INDEX, ATTACH, NOT_VALID, FACTOR
};

/*
 * Everything that hangs on index $1 (may be null) of table $2 or on constraint
 * $3 (may be null) and that its definition does not say.
 */
static const char *const attachments =
"SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, $2::regclass, obj_description(k.oid, 'pg_constraint'))"
"  FROM pg_constraint k WHERE k.oid = $3 AND obj_description(k.oid, 'pg_constraint') IS NOT NULL"
" UNION ALL"
" SELECT format('COMMENT ON INDEX %s IS %L', $1::regclass, obj_description($1, 'pg_class'))"
"  WHERE obj_description($1, 'pg_class') IS NOT NULL"
" UNION ALL"
" SELECT format('ALTER TABLE %s CLUSTER ON %I', $2::regclass, c.relname)"
"  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indexrelid = $1 AND i.indisclustered"
" UNION ALL"
" SELECT format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', $2::regclass, c.relname)"
"  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indexrelid = $1 AND i.indisreplident"
" UNION ALL"
" SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', $1::regclass, a.attnum, to_jsonb(a)->>'attstattarget')"
"  FROM pg_attribute a WHERE a.attrelid = $1 AND (to_jsonb(a)->>'attstattarget')::int >= 0";

/*
 * save stores one object's definition and drops it; v is a row of candidates.
 */
static void
save(RehomeTableMap *map, char **v)
{
	static SPIPlanPtr hanging = NULL;
	const char *kind = v[KIND];
	Oid			oid = (Oid) rehome_int64(v[OBJECT]);
	Oid			relid = (Oid) rehome_int64(v[TABLE]);
	Oid			index = (Oid) rehome_int64(v[INDEX]);
	bool		is_index = strcmp(kind, "index") == 0;
	char	   *table = rehome_relation_name(relid);
	char	   *drop;
	char	   *create;
	List	   *ending = NIL;
	RehomeRows *more;

	if (is_index)
	{
		drop = psprintf("DROP INDEX %s",
						quote_qualified_identifier(get_namespace_name(get_rel_namespace(oid)), v[NAME]));
		create = pg_get_indexdef_string(oid);
	}
	else
	{
		drop = psprintf("ALTER TABLE %s DROP CONSTRAINT %s", table, quote_identifier(v[NAME]));
		create = pg_get_constraintdef_command(oid);
	}
	if (v[ATTACH] != NULL)
	{
		create = pg_get_indexdef_string(index);
		ending = lappend(ending, psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s", table,
										  quote_identifier(v[NAME]), v[ATTACH]));
	}
	else if (strcmp(kind, "constraint") == 0)
	{
		/* only as a whole, and with the table to itself */
		ending = lappend(ending, create);
		create = NULL;
	}
	else if (strcmp(kind, "foreign key") == 0 && !rehome_bool(v[NOT_VALID]))
	{
		create = psprintf("%s NOT VALID", create);
		ending = lappend(ending, psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", table,
										  quote_identifier(v[NAME])));
	}
	more = rehome_spi_kept(&hanging, attachments, "ooo", index, relid, is_index ? InvalidOid : oid);
	for (int i = 0; i < more->n; i++)
		ending = lappend(ending, more->value[i][0]);
	rehome_spi("INSERT INTO rehome.saved_object (slice_id, table_map_id, kind, relation, name, drop_sql, create_sql, finish_sql, weight)"
			   " VALUES ($1, $2, $3, $4, $5::name, $6, $7::text[], $8::text[], $9::float8)",
			   "iitottttt", map->slice_id, map->id, kind, relid, v[NAME], drop,
			   rehome_name_array(create ? list_make1(create) : NIL), rehome_name_array(ending), v[FACTOR]);
	rehome_spi(drop, "");
}

/*
 * rehome_saved_take drops and stores what can be of all targets of a slice,
 * but of the small ones only foreign keys.  These go first, since the keys
 * they refer to can then go too.
 */
void
rehome_saved_take(List *maps, List *small)
{
	RehomeRows *rows = rehome_spi(candidates, "tt", rehome_map_targets(maps), rehome_map_targets(small));

	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < rows->n; i++)
		{
			ListCell   *lc;

			if ((strcmp(rows->value[i][KIND], "foreign key") == 0) != (pass == 0))
				continue;
			foreach(lc, maps)
			{
				RehomeTableMap *map = lfirst(lc);

				if (map->target == (Oid) rehome_int64(rows->value[i][TABLE]))
					save(map, rows->value[i]);
			}
		}
}

/*
 * run runs stored statements as the migration's owner, whose functions an
 * index may call; parallel says whether they may have helpers.
 */
static void
run(RehomeSlice *slice, const char *statements, bool parallel)
{
	int			level = NewGUCNestLevel();
	RehomeAs	as;
	ListCell   *lc;

	if (!parallel)
		(void) set_config_option("max_parallel_maintenance_workers", "0", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("maintenance_work_mem", psprintf("%d", rehome_maintenance_work_mem),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	rehome_become(&as, slice->migration->owner);
	foreach(lc, rehome_name_list(statements))
		rehome_spi(lfirst(lc), "");
	rehome_become_self(&as);
	AtEOXact_GUC(true, level);
}

/*
 * is_last tells whether, but for the object given, there is nothing in the
 * slice that other workers could load or build.
 */
static bool
is_last(RehomeSlice *slice, const char *id)
{
	return rehome_spi("(SELECT FROM rehome.chunk WHERE slice_id = $1 AND done_at IS NULL ORDER BY -weight, id LIMIT 1)"
					  " UNION ALL (SELECT FROM rehome.saved_object WHERE slice_id = $1 AND rebuilt_at IS NULL"
					  "  AND built_at IS NULL AND kind <> 'foreign key' AND id <> $2::bigint ORDER BY weight DESC, id LIMIT 1)",
					  "it", slice->id, id)->n == 0;
}

/*
 * build does create_sql; an index with helpers, if the other workers have
 * nothing else to do meanwhile.
 */
static void
build(RehomeSlice *slice, const char *id, const char *create_sql, bool is_index)
{
	rehome_debug_point("rebuild");
	run(slice, create_sql, is_index && is_last(slice, id));
	rehome_spi("UPDATE rehome.saved_object SET built_at = clock_timestamp() WHERE id = $1::bigint", "t", id);
}

/*
 * relations_of_key adds to oids what a foreign key is between: relation, and
 * what its create_sql refers to.
 */
static List *
relations_of_key(List *oids, const char *relation, const char *create_sql)
{
	ListCell   *lc;

	oids = list_append_unique_oid(oids, (Oid) rehome_int64(relation));
	foreach(lc, rehome_name_list(create_sql))
	{
		RawStmt    *parsed = linitial_node(RawStmt, raw_parser(lfirst(lc), RAW_PARSE_DEFAULT));
		AlterTableCmd *add = linitial_node(AlterTableCmd, castNode(AlterTableStmt, parsed->stmt)->cmds);

		oids = list_append_unique_oid(oids, RangeVarGetRelid(castNode(Constraint, add->def)->pktable, NoLock, true));
	}
	return oids;
}

/*
 * lock_for_keys locks relations as adding a foreign key does, but without
 * keeping writers waiting behind us: a table that is referred to may have
 * authority, or be none of ours.
 */
static void
lock_for_keys(List *oids)
{
	List	   *maps = NIL;
	ListCell   *lc;

	foreach(lc, oids)
	{
		RehomeTableMap *map = palloc0(sizeof(RehomeTableMap));

		map->target = lfirst_oid(lc);
		maps = lappend(maps, map);
	}
	rehome_targets_lock(maps, ShareRowExclusiveLock);
}

/*
 * finish does finish_sql.
 */
static void
finish(RehomeSlice *slice, const char *id, const char *finish_sql)
{
	run(slice, finish_sql, true);
	rehome_spi("UPDATE rehome.saved_object SET rebuilt_at = clock_timestamp() WHERE id = $1::bigint", "t", id);
}

/*
 * Whether a table map has no chunk left.  Asked like this, it is asked row by
 * row, by the index; NOT EXISTS may be made a join with all chunks, for the
 * sake of one row.
 */
#define TABLE_IS_LOADED(map) \
	"(SELECT 1 FROM rehome.chunk c WHERE c.table_map_id = " map " AND c.done_at IS NULL LIMIT 1) IS NULL"

/*
 * rehome_saved_build_one builds one index of a table that is loaded, the one
 * that is most work, if there is one nobody works on that weighs at least so
 * much; false if there is none.
 */
bool
rehome_saved_build_one(RehomeSlice *slice, double weight)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *rows;

	rows = rehome_spi_kept(&plan, "SELECT o.id, o.create_sql FROM rehome.saved_object o"
						   " WHERE o.slice_id = $1 AND o.kind <> 'foreign key' AND o.rebuilt_at IS NULL AND o.built_at IS NULL"
						   " AND o.weight >= $2::float8 AND " TABLE_IS_LOADED("o.table_map_id")
						   " ORDER BY o.weight DESC, o.id LIMIT 1 FOR UPDATE SKIP LOCKED", "it", slice->id, psprintf("%.17g", weight));
	if (rows->n == 0)
		return false;
	build(slice, rows->value[0][0], rows->value[0][1], true);
	return true;
}

/*
 * rehome_saved_finish_one finishes a table that is loaded and whose indexes
 * are built, and gives the planner its statistics; false if there is none
 * that nobody works on.
 */
bool
rehome_saved_finish_one(RehomeSlice *slice)
{
	static SPIPlanPtr take = NULL;
	static SPIPlanPtr what = NULL;
	static SPIPlanPtr mark = NULL;
	RehomeRows *table;
	RehomeRows *objects;
	RehomeAs	as;

	table = rehome_spi_kept(&take, "SELECT t.id, t.target::oid FROM rehome.table_map t WHERE t.slice_id = $1 AND t.copied_at IS NULL"
							" AND " TABLE_IS_LOADED("t.id")
							" AND (SELECT 1 FROM rehome.saved_object o WHERE o.table_map_id = t.id"
							"  AND o.built_at IS NULL AND o.rebuilt_at IS NULL AND o.kind <> 'foreign key' LIMIT 1) IS NULL"
							" ORDER BY t.id LIMIT 1 FOR UPDATE SKIP LOCKED", "i", slice->id);
	if (table->n == 0)
		return false;
	/* what constraints that are checked later have let in, by workers at the same time */
	rehome_become(&as, slice->migration->owner);
	rehome_check_deferred((Oid) rehome_int64(table->value[0][1]), NULL);
	rehome_become_self(&as);
	objects = rehome_spi_kept(&what, "SELECT id, finish_sql FROM rehome.saved_object WHERE table_map_id = $1::int"
							  " AND rebuilt_at IS NULL AND kind <> 'foreign key' ORDER BY id", "t", table->value[0][0]);
	for (int i = 0; i < objects->n; i++)
		finish(slice, objects->value[i][0], objects->value[i][1]);
	(void) rehome_spi_as(slice->migration->owner, false,
						 psprintf("ANALYZE %s", rehome_relation_name((Oid) rehome_int64(table->value[0][1]))));
	rehome_spi_kept(&mark, "UPDATE rehome.table_map SET copied_at = clock_timestamp(), rules_hash = rehome.rules_hash(id) WHERE id = $1::int",
					"t", table->value[0][0]);
	return true;
}

/* An object to rebuild. */
typedef struct Rebuild
{
	RehomeSlice *slice;
	char	  **v;				/* id, create_sql, finish_sql, built_at, name,
								 * relation, and, unless it is built, its OID if
								 * it is a foreign key */
} Rebuild;

static void
rebuild(void *arg)
{
	Rebuild    *object = arg;

	if (object->v[3] == NULL && object->v[6] != NULL)
		lock_for_keys(relations_of_key(NIL, object->v[6], object->v[1]));
	if (object->v[3] == NULL)
		build(object->slice, object->v[0], object->v[1], object->v[6] == NULL);
	finish(object->slice, object->v[0], object->v[2]);
}

/*
 * defer puts on record why a foreign key is not valid yet.
 */
static char *
defer(RehomeSlice *slice, const char *id, ErrorData *error)
{
	char	   *why = rehome_recorded_message(slice->migration, error->sqlerrcode, error->detail ? error->detail : error->message);

	rehome_spi("UPDATE rehome.saved_object SET deferred = $2 WHERE id = $1::bigint", "tt", id, why);
	return why;
}

/*
 * validate validates a foreign key.  One whose parents are in quarantine is
 * there, and holds for what is written from now on; that all rows satisfy it
 * is found out by the cutover.
 */
static void
validate(RehomeSlice *slice, char **v)
{
	Rebuild		object = {slice, v};
	ErrorData  *error = rehome_attempt(rebuild, &object);

	if (error == NULL)
		return;
	if (error->sqlerrcode != ERRCODE_FOREIGN_KEY_VIOLATION ||
		rehome_spi("SELECT FROM rehome.quarantine WHERE migration = $1::name AND slice = $2::name LIMIT 1", "tt",
				   slice->migration->name, slice->name)->n == 0)
		ReThrowError(error);
	rehome_event(slice->migration->name, slice->name, "deferred",
				 psprintf("%s of %s is not valid yet: %s", v[4], v[5], defer(slice, v[0], error)), NULL);
}

/*
 * rehome_saved_validate validates the foreign keys that the copy could not.
 * What cannot be validated stays on record, and is a gate of the cutover; one
 * that was dropped meanwhile is nobody's any more.
 */
void
rehome_saved_validate(RehomeSlice *slice)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT id, NULL, finish_sql, built_at, name, relation FROM rehome.saved_object"
					  " WHERE slice_id = $1 AND rebuilt_at IS NULL AND deferred IS NOT NULL ORDER BY id", "i", slice->id);
	for (int i = 0; i < rows->n; i++)
	{
		Rebuild		object = {slice, rows->value[i]};
		ErrorData  *error = rehome_attempt(rebuild, &object);

		if (error == NULL)
			rehome_event(slice->migration->name, slice->name, "validated",
						 psprintf("%s of %s is valid", rows->value[i][4], rows->value[i][5]), NULL);
		else if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		else if (error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT)
			rehome_spi("UPDATE rehome.saved_object SET rebuilt_at = clock_timestamp() WHERE id = $1::bigint", "t", rows->value[i][0]);
		else
			(void) defer(slice, rows->value[i][0], error);
	}
}

/*
 * rehome_saved_key_one does what there is to do for foreign keys once all
 * tables are finished; false if that is nothing, or somebody else's.
 */
bool
rehome_saved_key_one(RehomeSlice *slice)
{
	static SPIPlanPtr left = NULL;
	static SPIPlanPtr add = NULL;
	static SPIPlanPtr next = NULL;
	RehomeRows *rows;
	List	   *relations = NIL;

	if (rehome_spi_kept(&left, "SELECT FROM rehome.table_map WHERE slice_id = $1 AND copied_at IS NULL ORDER BY id LIMIT 1",
						"i", slice->id)->n > 0)
		return false;
	rows = rehome_spi_kept(&add, "SELECT o.id, o.create_sql, o.relation::oid FROM rehome.saved_object o WHERE o.slice_id = $1"
						   " AND o.kind = 'foreign key' AND o.rebuilt_at IS NULL AND o.built_at IS NULL"
						   " ORDER BY o.id FOR UPDATE", "i", slice->id);
	for (int i = 0; i < rows->n; i++)
		relations = relations_of_key(relations, rows->value[i][2], rows->value[i][1]);
	if (rows->n > 0)
		lock_for_keys(relations);
	for (int i = 0; i < rows->n; i++)
		build(slice, rows->value[i][0], rows->value[i][1], false);
	if (rows->n > 0)
		return true;
	rows = rehome_spi_kept(&next, "SELECT o.id, NULL, o.finish_sql, o.built_at, o.name, o.relation FROM rehome.saved_object o"
						   " WHERE o.slice_id = $1 AND o.kind = 'foreign key' AND o.built_at IS NOT NULL AND o.rebuilt_at IS NULL"
						   " AND o.deferred IS NULL ORDER BY o.weight DESC, o.id LIMIT 1 FOR UPDATE SKIP LOCKED", "i", slice->id);
	if (rows->n == 0)
		return false;
	validate(slice, rows->value[0]);
	return true;
}


/*
 * rehome_saved_rebuild rebuilds everything that is still missing, foreign
 * keys last, in the current transaction: the copy is given up.  What cannot
 * be rebuilt is told of, at the level given, and stays on record; then false.
 */
bool
rehome_saved_rebuild(RehomeSlice *slice, int level)
{
	RehomeRows *rows;
	bool		all = true;

	rows = rehome_spi("SELECT id, create_sql, finish_sql, built_at, name, relation,"
					  " CASE WHEN kind = 'foreign key' THEN relation::oid END FROM rehome.saved_object"
					  " WHERE slice_id = $1 AND rebuilt_at IS NULL"
					  " ORDER BY kind = 'foreign key', id", "i", slice->id);
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		Rebuild		object = {slice, v};
		ErrorData  *error = rehome_attempt(rebuild, &object);

		if (error == NULL)
			continue;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		all = false;
		ereport(level,
				errcode(error->sqlerrcode),
				errmsg("\"%s\" of \"%s\" could not be rebuilt: %s", v[4], v[5], error->message),
				errhint("Its definition stays in rehome.saved_object; CALL rehome.cancel() again tries again."));
		rehome_event(slice->migration->name, slice->name, "error",
					 psprintf("%s of %s could not be rebuilt: %s", v[4], v[5],
							  rehome_recorded_message(slice->migration, error->sqlerrcode, error->message)), NULL);
		FreeErrorData(error);
	}
	return all;
}
