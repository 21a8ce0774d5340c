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
 * theirs.
 *
 * Copy workers rebuild indexes and unique constraints table by table while
 * other tables still load; foreign keys come last, by the leader.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "copy/copy.h"
#include "errors.h"
#include "util/attempt.h"
#include "util/debug_point.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

/*
 * What to take off the targets $1 (oid[]): constraints but checks, and
 * indexes that stand on no constraint; not those of an extension, and not
 * those something else depends on.
 */
static const char *const candidates =
"WITH target AS (SELECT c.oid FROM unnest($1::oid[]) AS u(oid) JOIN pg_class c USING (oid)"
"  WHERE c.relkind = 'r' AND NOT c.relispartition),"
" fk AS (SELECT k.oid, k.conrelid FROM pg_constraint k JOIN target t ON t.oid = k.conrelid"
"  WHERE k.contype = 'f'),"
" used AS (SELECT d.classid, d.objid, d.refclassid, d.refobjid FROM pg_depend d"
"  WHERE d.deptype IN ('n', 'a') AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT oid FROM fk)))"
" SELECT 'foreign key', 'pg_constraint'::regclass::oid, fk.oid, fk.conrelid, k.conname, NULL::oid"
"  FROM fk JOIN pg_constraint k USING (oid) WHERE k.conparentid = 0"
" UNION ALL"
" SELECT 'constraint', 'pg_constraint'::regclass::oid, k.oid, k.conrelid, k.conname, k.conindid"
"  FROM pg_constraint k JOIN target t ON t.oid = k.conrelid"
"  WHERE k.contype IN ('p', 'u', 'x') AND NOT EXISTS (SELECT FROM used u"
"   WHERE (u.refclassid = 'pg_constraint'::regclass AND u.refobjid = k.oid)"
"   OR (u.refclassid = 'pg_class'::regclass AND u.refobjid = k.conindid))"
" UNION ALL"
" SELECT 'index', 'pg_class'::regclass::oid, i.indexrelid, i.indrelid, c.relname, i.indexrelid"
"  FROM pg_index i JOIN target t ON t.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid"
"  WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))"
"  AND NOT EXISTS (SELECT FROM used u WHERE u.refclassid = 'pg_class'::regclass AND u.refobjid = i.indexrelid)"
"  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.deptype = 'e')";

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
 * save stores one object's definition and drops it.
 */
static void
save(RehomeTableMap *map, char **v)
{
	const char *kind = v[0];
	Oid			oid = (Oid) rehome_int64(v[2]);
	Oid			relid = (Oid) rehome_int64(v[3]);
	bool		is_index = strcmp(kind, "index") == 0;
	Oid			index = (Oid) rehome_int64(v[5]);
	char	   *table = rehome_relation_name(relid);
	char	   *drop;
	List	   *create;
	RehomeRows *more;

	if (is_index)
	{
		drop = psprintf("DROP INDEX %s",
						quote_qualified_identifier(get_namespace_name(get_rel_namespace(oid)), v[4]));
		create = list_make1(pg_get_indexdef_string(oid));
	}
	else
	{
		drop = psprintf("ALTER TABLE %s DROP CONSTRAINT %s", table, quote_identifier(v[4]));
		create = list_make1(pg_get_constraintdef_command(oid));
	}
	more = rehome_spi(attachments, "ooo", index, relid, is_index ? InvalidOid : oid);
	for (int i = 0; i < more->n; i++)
		create = lappend(create, more->value[i][0]);
	rehome_spi("INSERT INTO rehome.saved_object (table_map_id, kind, relation, name, drop_sql, create_sql)"
			   " VALUES ($1, $2, $3, $4::name, $5, $6::text[])",
			   "itottt", map->id, kind, relid, v[4], drop, rehome_name_array(create));
	rehome_spi(drop, "");
}

/*
 * rehome_saved_take drops and stores what can be of all targets of a slice.
 * Foreign keys go first, since the keys they refer to can then go too.
 */
void
rehome_saved_take(RehomeSlice *slice, List *maps)
{
	List	   *oids = NIL;
	RehomeRows *rows;
	ListCell   *lc;

	foreach(lc, maps)
		oids = lappend(oids, psprintf("%u", ((RehomeTableMap *) lfirst(lc))->target));
	rows = rehome_spi(candidates, "t", rehome_name_array(oids));
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < rows->n; i++)
		{
			if ((strcmp(rows->value[i][0], "foreign key") == 0) != (pass == 0))
				continue;
			foreach(lc, maps)
			{
				RehomeTableMap *map = lfirst(lc);

				if (map->target == (Oid) rehome_int64(rows->value[i][3]))
					save(map, rows->value[i]);
			}
		}
}

/*
 * rebuild runs the statements of one object as the migration's owner, whose
 * functions an index may call.
 */
static void
rebuild(RehomeSlice *slice, char **v)
{
	RehomeAs	as;
	ListCell   *lc;

	rehome_debug_point("rebuild");
	rehome_become(&as, slice->migration->owner);
	foreach(lc, rehome_name_list(v[1]))
		rehome_spi(lfirst(lc), "");
	rehome_become_self(&as);
	rehome_spi("UPDATE rehome.saved_object SET rebuilt_at = clock_timestamp() WHERE id = $1::bigint",
			   "t", v[0]);
}

/* An object to rebuild. */
typedef struct Rebuild
{
	RehomeSlice *slice;
	char	  **v;				/* id, create_sql, name, relation */
} Rebuild;

static void
rebuild_work(void *arg)
{
	Rebuild    *object = arg;

	rebuild(object->slice, object->v);
}

/*
 * try_rebuild does the same in a subtransaction, and turns an error into a
 * warning and an event.
 */
static void
try_rebuild(RehomeSlice *slice, char **v)
{
	Rebuild		object = {slice, v};
	ErrorData  *error = rehome_attempt(rebuild_work, &object);

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	ereport(WARNING,
			errcode(error->sqlerrcode),
			errmsg("\"%s\" of \"%s\" could not be rebuilt: %s", v[2], v[3], error->message),
			errhint("Its definition stays in rehome.saved_object; CALL rehome.cancel() again tries again."));
	rehome_event(slice->migration->name, slice->name, "error",
				 psprintf("%s of %s could not be rebuilt: %s", v[2], v[3], error->message), NULL);
	FreeErrorData(error);
}

/*
 * rehome_saved_rebuild_one rebuilds one index or unique constraint of a table
 * that is loaded, if there is one nobody works on; false if there is none.
 */
bool
rehome_saved_rebuild_one(RehomeSlice *slice)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT o.id, o.create_sql FROM rehome.saved_object o"
					  " JOIN rehome.table_map t ON t.id = o.table_map_id"
					  " WHERE t.slice_id = $1 AND o.kind <> 'foreign key' AND o.rebuilt_at IS NULL"
					  " AND NOT EXISTS (SELECT FROM rehome.chunk c WHERE c.table_map_id = t.id AND c.done_at IS NULL)"
					  " ORDER BY o.id LIMIT 1 FOR UPDATE OF o SKIP LOCKED", "i", slice->id);
	if (rows->n == 0)
		return false;
	rebuild(slice, rows->value[0]);
	return true;
}

/*
 * rehome_saved_rebuild rebuilds everything that is still missing, foreign
 * keys last, in the current transaction.  With keep_going what cannot be
 * rebuilt is warned of, and stays on record; else it raises.
 */
void
rehome_saved_rebuild(RehomeSlice *slice, bool keep_going)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT o.id, o.create_sql, o.name, o.relation FROM rehome.saved_object o"
					  " JOIN rehome.table_map t ON t.id = o.table_map_id"
					  " WHERE t.slice_id = $1 AND o.rebuilt_at IS NULL"
					  " ORDER BY o.kind = 'foreign key', o.id", "i", slice->id);
	for (int i = 0; i < rows->n; i++)
	{
		if (!keep_going)
			rebuild(slice, rows->value[i]);
		else
			try_rebuild(slice, rows->value[i]);
	}
}
