/*-------------------------------------------------------------------------
 *
 * target_parts.c
 *	  Partitions of a target that come and go while the source has authority.
 *
 * No trigger tells of either, and the triggers against TRUNCATE do not come by
 * themselves.  So which partitions a target has is on record from the copy on
 * (rehome.table_map.target_parts), each with the transaction that attached it.
 * One that was made as a partition has had the guard for rows from the first
 * moment, and as long as it has its first file nobody has emptied it: it gets
 * the other triggers, and that is all.  One that was attached brings rows of
 * which nothing is known, and one that is gone has taken its rows along: then
 * the table is read as a whole.
 *
 * After cutover it is the position back that knows of them (apply/reverse.c), at
 * the source, where it changes; what is on record here follows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

/*
 * rehome_target_note_parts puts on record which partitions a target has, as
 * rehome_target_partitions() says it.
 */
void
rehome_target_note_parts(RehomeTableMap *map, const char *parts)
{
	rehome_spi("UPDATE rehome.table_map SET target_parts = $2 WHERE id = $1", "it", map->id, parts);
	map->target_parts = MemoryContextStrdup(GetMemoryChunkContext(map), parts);
}

/*
 * rehome_target_note_partitions puts on record which partitions the targets
 * have: what is in them is as it should be, or about to be read.
 */
void
rehome_target_note_partitions(List *maps)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (get_rel_relkind(map->target) == RELKIND_PARTITIONED_TABLE)
			rehome_target_note_parts(map, rehome_target_partitions(map->target, NULL));
	}
}

/*
 * rehome_target_let_write takes the guard out of the way of those who write to a
 * target that has authority, if nobody is in ours.
 */
void
rehome_target_let_write(RehomeTableMap *map)
{
	if (rehome_target_try_lock(map, ShareRowExclusiveLock))
		rehome_target_guard_switch(map, false);
}

/*
 * is_fresh tells whether a partition was made as one, and not attached, which
 * rewrites all its columns, and whether it has the file it was made with, which
 * TRUNCATE replaces.
 */
static bool
is_fresh(Oid relid)
{
	return rehome_spi("SELECT FROM pg_class c JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = 'tableoid'"
					  " WHERE c.oid = $1 AND (c.relkind = 'p' OR c.relfilenode = c.oid)"
					  " AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0"
					  "  AND a.xmin = s.xmin AND a.cmin = s.cmin)", "o", relid)->n > 0;
}

/*
 * changes_of says what has happened to the partitions since those on record, as
 * far as that may have changed rows; NULL when it has not.
 */
static char *
changes_of(RehomeTableMap *map, char *parts)
{
	List	   *before = NIL;
	List	   *now;
	StringInfoData what;
	ListCell   *lc;

	initStringInfo(&what);
	if (map->target_parts != NULL)
		(void) SplitIdentifierString(pstrdup(map->target_parts), ',', &before);
	(void) SplitIdentifierString(pstrdup(parts), ',', &now);
	foreach(lc, now)
	{
		Oid			relid = atooid(lfirst(lc));

		CHECK_FOR_INTERRUPTS();
		if (rehome_name_listed(before, lfirst(lc)) || is_fresh(relid) ||
			(map->target_parts == NULL && OidIsValid(get_trigger_oid(relid, "rehome_guard_truncate", true))))
			continue;
		appendStringInfo(&what, "%spartition %s was attached, or emptied before it had its guard",
						 what.len ? "; " : "", rehome_relation_name(relid));
	}
	foreach(lc, before)
	{
		Oid			relid = atooid(lfirst(lc));

		if (rehome_name_listed(now, lfirst(lc)))
			continue;
		appendStringInfo(&what, "%s%s was %s", what.len ? "; " : "",
						 get_rel_name(relid) ? psprintf("partition %s", rehome_relation_name(relid)) :
						 psprintf("the partition with OID %u", relid),
						 get_rel_name(relid) ? "detached" : "dropped");
	}
	return what.len ? what.data : NULL;
}

/*
 * rehome_target_settle finds out whether a target has other partitions than
 * those on record, gives them their guard, and has the table read as a whole by
 * this batch if rows may have come or gone with them.  False when somebody is in
 * the way, whom a batch does not wait for: there is to be another look.
 */
bool
rehome_target_settle(RehomeSlice *slice, RehomeTableMap *map)
{
	char	   *parts;
	char	   *what;

	if (get_rel_relkind(map->target) != RELKIND_PARTITIONED_TABLE)
		return true;
	parts = rehome_target_partitions(map->target, NULL);
	if (map->target_parts != NULL && strcmp(parts, map->target_parts) == 0)
		return true;
	if (!rehome_target_try_lock(map, ShareRowExclusiveLock))
		return false;
	/* as of now, when nobody can do any more to them */
	what = changes_of(map, rehome_target_partitions(map->target, NULL));
	rehome_target_guard(slice, list_make1(map));
	rehome_target_note_partitions(list_make1(map));
	if (what != NULL)
		rehome_map_reread(slice, map, "partitions changed", what);
	return true;
}
