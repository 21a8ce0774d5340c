/*-------------------------------------------------------------------------
 *
 * target.c
 *	  Guard, change tables and capture triggers on target tables.
 *
 * The guard is made when the copy starts, capture at the first cutover, before
 * anybody waits for that; cutover and rollback then only enable and disable
 * triggers, which is transactional and takes SHARE ROW EXCLUSIVE, so readers
 * go on.  Being catalog state and not a row somewhere, it is seen by
 * transactions with old snapshots too.
 *
 * Plain tables have a guard per statement, partitioned tables one per row,
 * which reaches every partition.  TRUNCATE of a partition fires that
 * partition's triggers only, so every partition has its own.
 *
 * Where the drift policy lets writes pass, other triggers take the guard's
 * place, which record them (drift.c): what lets them pass is catalog state
 * too.
 *
 * The change tables, and the sequences with which the guard counts what it
 * refuses, are made and owned by the extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "capture/capture.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "errors.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "remote/query.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

/*
 * rehome_target_change_table returns the unqualified name of a map's change
 * table in schema rehome_change.
 */
char *
rehome_target_change_table(RehomeTableMap *map)
{
	return psprintf("change_%d", map->id);
}

/*
 * rehome_target_changed tells whether the active snapshot has changes of a
 * target that a position of this server has not seen.  A statement for each of
 * thousands of change tables would take longer to plan than to run.
 */
bool
rehome_target_changed(RehomeTableMap *map, const char *position)
{
	Relation	rel = table_openrv(makeRangeVar("rehome_change", rehome_target_change_table(map), -1), AccessShareLock);
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ScanKeyData since;
	SysScanDesc scan;
	HeapTuple	tuple;

	/* what is below was seen by all who could */
	ScanKeyInit(&since, 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(strtoi64(position, NULL, 10)));
	scan = systable_beginscan(rel, indexes ? linitial_oid(indexes) : InvalidOid, indexes != NIL,
							  GetActiveSnapshot(), 1, &since);
	while (!found && (tuple = systable_getnext(scan)) != NULL)
	{
		bool		null;

		CHECK_FOR_INTERRUPTS();
		found = !rehome_position_sees(position, DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &null)));
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return found;
}

/*
 * trigger_args returns "'change_1', 'key', '1', ..." for a map's capture trigger.
 */
static char *
trigger_args(RehomeTableMap *map)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfoString(&buf, quote_literal_cstr(rehome_target_change_table(map)));
	foreach(lc, map->key)
		appendStringInfo(&buf, ", %s, '%d'", quote_literal_cstr(lfirst(lc)), get_attnum(map->target, lfirst(lc)));
	return buf.data;
}

/* A trigger of ours. */
typedef struct TriggerDefinition
{
	const char *name;
	const char *when;
	const char *level;
	const char *call;
	bool		enabled;
	bool		outdated;		/* if it is there */
} TriggerDefinition;

/*
 * make_triggers creates those of n triggers that are wanted and not there, or
 * outdated.
 */
static void
make_triggers(Oid relid, const TriggerDefinition *triggers, const bool *wanted, int n)
{
	char	   *relation = rehome_relation_name(relid);
	StringInfoData alter;

	initStringInfo(&alter);
	for (int i = 0; i < n; i++)
	{
		const TriggerDefinition *t = &triggers[i];

		if (!wanted[i] || (!t->outdated && OidIsValid(get_trigger_oid(relid, t->name, true))))
			continue;
		rehome_spi(psprintf("CREATE OR REPLACE TRIGGER %s %s ON %s FOR EACH %s EXECUTE FUNCTION rehome.%s",
							t->name, t->when, relation, t->level, t->call), "");
		appendStringInfo(&alter, "%s%s TRIGGER %s", alter.len ? ", " : "",
						 t->enabled ? "ENABLE ALWAYS" : "DISABLE", t->name);
	}
	if (alter.len > 0)
		rehome_spi(psprintf("ALTER TABLE %s %s", relation, alter.data), "");
}

/*
 * rehome_target_key_columns returns the columns "key1 type, key2 type, ..." of
 * a table that holds keys of a target: of the types beneath domains, compared
 * as the target compares them.
 */
char *
rehome_target_key_columns(RehomeTableMap *map)
{
	StringInfoData columns;
	ListCell   *lc;

	initStringInfo(&columns);
	foreach(lc, map->key)
	{
		AttrNumber	attnum = get_attnum(map->target, lfirst(lc));
		int			k = foreach_current_index(lc) + 1;
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(map->target, attnum, &type, &typmod, &collation);
		type = getBaseTypeAndTypmod(type, &typmod);
		appendStringInfo(&columns, "%skey%d %s", k > 1 ? ", " : "", k, format_type_with_typemod(type, typmod));
		if (OidIsValid(collation))
			appendStringInfo(&columns, " COLLATE %s",
							 rehome_spi_value("SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname)"
											  " FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace"
											  " WHERE c.oid = $1", "o", collation));
	}
	return columns.data;
}

/*
 * key_is_whole tells whether the target has all columns of the key.
 */
static bool
key_is_whole(RehomeTableMap *map)
{
	ListCell   *lc;

	foreach(lc, map->key)
		if (get_attnum(map->target, lfirst(lc)) <= 0)
			return false;
	return true;
}

/*
 * moved_key tells whether the key is not where the capture trigger, made at an
 * earlier cutover, looks for it: taken away since, and put back.
 */
static bool
moved_key(RehomeTableMap *map)
{
	Relation	rel;
	bool		moved = false;

	if (!key_is_whole(map))
		return false;
	rel = table_open(map->target, NoLock);
	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];
		ListCell   *lc;

		if (strcmp(trigger->tgname, "rehome_capture") != 0)
			continue;
		moved = trigger->tgnargs != 1 + 2 * list_length(map->key);
		foreach(lc, map->key)
		{
			int			k = 1 + 2 * foreach_current_index(lc);

			moved = moved || strcmp(trigger->tgargs[k], lfirst(lc)) != 0 ||
				atoi(trigger->tgargs[k + 1]) != get_attnum(map->target, lfirst(lc));
		}
	}
	table_close(rel, NoLock);
	return moved;
}

/*
 * drop_outdated drops the change table of an earlier cutover, of which nobody
 * will ask for anything, if the key has other types now.
 */
static void
drop_outdated(RehomeTableMap *map)
{
	char	   *name = rehome_target_change_table(map);
	Oid			change = get_relname_relid(name, get_namespace_oid("rehome_change", false));
	bool		same = true;
	ListCell   *lc;

	if (!OidIsValid(change) || !key_is_whole(map))
		return;
	foreach(lc, map->key)
		same = same && get_atttype(change, foreach_current_index(lc) + 3) ==
			getBaseType(get_atttype(map->target, get_attnum(map->target, lfirst(lc))));
	if (!same)
		rehome_spi(psprintf("DROP TABLE %s", quote_qualified_identifier("rehome_change", name)), "");
}

static void
make_change_table(RehomeTableMap *map)
{
	char	   *name = quote_qualified_identifier("rehome_change", rehome_target_change_table(map));

	if (rehome_spi("SELECT 1 WHERE to_regclass($1) IS NOT NULL", "t", name)->n > 0)
		return;
	rehome_spi(psprintf("CREATE TABLE %s (xid bigint NOT NULL, op \"char\" NOT NULL, %s)",
						name, rehome_target_key_columns(map)), "");
	/* where all tables are published, rows could not be deleted else */
	rehome_spi(psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", name), "");
	rehome_spi(psprintf("CREATE INDEX ON %s (xid)", name), "");
}

/*
 * rehome_target_log_all notes in a map's change table ('l') that any of its rows
 * may have changed, and no row there may tell.
 */
void
rehome_target_log_all(RehomeTableMap *map)
{
	rehome_spi(psprintf("INSERT INTO rehome_change.%s (xid, op) VALUES (pg_current_xact_id()::text::bigint, 'l')",
						rehome_target_change_table(map)), "");
}

/*
 * make_counter creates the sequence that counts what a map's guard refuses.
 */
static void
make_counter(RehomeTableMap *map)
{
	char	   *name = psprintf("rehome_change.refused_%d", map->id);

	if (rehome_spi("SELECT 1 WHERE to_regclass($1) IS NOT NULL", "t", name)->n == 0)
		rehome_spi(psprintf("CREATE SEQUENCE %s", name), "");
}

/*
 * needs_row_guard tells whether rows of a target can be written without firing
 * its triggers for each statement: by way of another table, or by a subscription.
 */
static bool
needs_row_guard(Oid target)
{
	static SPIPlanPtr plan = NULL;

	return get_rel_relkind(target) == RELKIND_PARTITIONED_TABLE || has_superclass(target) ||
		rehome_spi_kept(&plan, "SELECT FROM pg_subscription_rel WHERE srrelid = $1", "o", target)->n > 0;
}

/*
 * guard_is_blind tells whether the guard is one for each statement where it has
 * to be for each row.
 */
static bool
guard_is_blind(Oid target)
{
	Oid			guard = get_trigger_oid(target, "rehome_guard", true);

	return OidIsValid(guard) && needs_row_guard(target) &&
		rehome_spi("SELECT FROM pg_trigger WHERE oid = $1 AND tgtype & 1 = 0", "o", guard)->n > 0;
}

static void
install(RehomeSlice *slice, List *maps, bool guarded, bool capturing)
{
	char	   *migration = quote_literal_cstr(slice->migration->name);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext table = AllocSetContextCreate(context, "pg_rehome target installed", ALLOCSET_DEFAULT_SIZES);
	ListCell   *lc;

	MemoryContextSwitchTo(table);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	   *guard = map->id == 0 ? psprintf("guard(%s)", migration) : psprintf("guard(%s, %d)", migration, map->id);
		char	   *capture = psprintf("capture(%s)", trigger_args(map));
		char	   *record = psprintf("record_drift(%d)", map->id);
		/* until the copy is done, everything is refused */
		bool		recording = map->drift_policy != REHOME_DRIFT_REJECT &&
			(slice->state == REHOME_SYNCING || slice->state == REHOME_CUT_OVER);
		TriggerDefinition rows[] = {
			{"rehome_guard", "BEFORE INSERT OR UPDATE OR DELETE", needs_row_guard(map->target) ? "ROW" : "STATEMENT", guard, guarded && !recording, guard_is_blind(map->target)},
			{"rehome_capture", "AFTER INSERT OR UPDATE OR DELETE", "ROW", capture, !guarded, guarded && moved_key(map)},
			{"rehome_drift", "AFTER INSERT OR UPDATE OR DELETE", "ROW", record, guarded},
		};
		TriggerDefinition truncates[] = {
			{"rehome_guard_truncate", "BEFORE TRUNCATE", "STATEMENT", guard, guarded && !recording},
			{"rehome_capture_truncate", "AFTER TRUNCATE", "STATEMENT", capture, !guarded},
			{"rehome_drift_truncate", "AFTER TRUNCATE", "STATEMENT", record, guarded},
		};
		bool		wanted[] = {true, capturing, recording};
		List	   *tree = find_all_inheritors(map->target, NoLock, NULL);
		ListCell   *lc2;

		if (map->id != 0)		/* not a derived table */
			make_counter(map);
		if (capturing && guarded)
			drop_outdated(map);
		if (capturing)
			make_change_table(map);
		make_triggers(map->target, rows, wanted, lengthof(wanted));
		foreach(lc2, tree)
			make_triggers(lfirst_oid(lc2), truncates, wanted, lengthof(wanted));
		MemoryContextReset(table);
	}
	MemoryContextSwitchTo(context);
	MemoryContextDelete(table);
}

/*
 * rehome_target_guard puts the guard, switched on, on the targets of a slice,
 * which the caller has locked.
 */
void
rehome_target_guard(RehomeSlice *slice, List *maps)
{
	install(slice, maps, true, false);
}

/*
 * rehome_target_install puts guard and capture on the targets of a slice,
 * which the caller has locked: with guarded the guard is on, else capture.
 * What is there already is left as it is, so that a second call adds what is
 * missing, as on new partitions.
 */
void
rehome_target_install(RehomeSlice *slice, List *maps, bool guarded)
{
	install(slice, maps, guarded, true);
}

/*
 * rehome_target_covered tells whether every partition of the targets has its
 * triggers.
 */
bool
rehome_target_covered(List *maps)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		ListCell   *lc2;

		foreach(lc2, find_all_inheritors(((RehomeTableMap *) lfirst(lc))->target, AccessShareLock, NULL))
			if (!OidIsValid(get_trigger_oid(lfirst_oid(lc2), "rehome_guard_truncate", true)) ||
				!OidIsValid(get_trigger_oid(lfirst_oid(lc2), "rehome_capture_truncate", true)))
				return false;
	}
	return true;
}

/*
 * rehome_target_unlogged returns the name of the table, or of a partition of
 * it, that is unlogged: a crash of this server empties it, and nothing that is
 * on record about its rows tells.  NULL if there is none.  It locks nothing:
 * all targets are looked at in one transaction, which would wait for one with
 * others in hand.
 */
char *
rehome_target_unlogged(Oid target)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(target, NoLock, NULL))
	{
		char		kind = get_rel_relkind(lfirst_oid(lc));

		if (kind == RELKIND_RELATION && get_rel_persistence(lfirst_oid(lc)) == RELPERSISTENCE_UNLOGGED)
			return rehome_relation_name(lfirst_oid(lc));
	}
	return NULL;
}

/*
 * rehome_target_require_logged raises when the target, or a partition of it,
 * is unlogged.
 */
void
rehome_target_require_logged(Oid target)
{
	char	   *name = rehome_target_unlogged(target);

	if (name != NULL)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("table %s is unlogged", name),
				errdetail("A crash of this server would empty it, and nothing would tell."),
				errhint("ALTER TABLE %s SET LOGGED;", name));
}

/*
 * rehome_target_unidentified returns the target, or its partitions, that are
 * published with updates or deletes and have no replica identity: table,
 * publications.  What a copy has taken off does not count.  It locks nothing.
 */
RehomeRows *
rehome_target_unidentified(RehomeTableMap *map)
{
	static SPIPlanPtr plan = NULL;
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(map->target, NoLock, NULL))
		oids = lappend(oids, psprintf("%u", lfirst_oid(lc)));
	return rehome_spi_kept(&plan, "SELECT c.oid::regclass, string_agg(quote_ident(p.pubname), ', ' ORDER BY p.pubname)"
						   " FROM unnest($1::oid[]) AS l(oid) JOIN pg_class c USING (oid) JOIN pg_publication p ON p.pubupdate OR p.pubdelete"
						   " WHERE c.relkind = 'r' AND pg_relation_is_publishable(c.oid) AND c.relreplident <> 'f'"
						   " AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid"
						   "  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)"
						   " AND (p.puballtables OR EXISTS (SELECT FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_ancestors(c.oid)) AS a"
						   "   JOIN pg_class r USING (oid) WHERE EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = p.oid AND prrelid = r.oid)"
						   "   OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid AND pnnspid = r.relnamespace)))"
						   " AND NOT EXISTS (SELECT FROM rehome.saved_object s WHERE s.table_map_id = $2 AND s.rebuilt_at IS NULL)"
						   " GROUP BY c.oid ORDER BY 1", "ti", rehome_name_array(oids), map->id);
}

/*
 * rehome_target_is_empty tells whether a target has no rows that its owner can
 * see.  For a table without a block, which is what most are before their copy,
 * that is known without a query.
 */
bool
rehome_target_is_empty(Oid target, Oid owner)
{
	Relation	rel = table_open(target, AccessShareLock);
	bool		no_block = rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rel->relam == HEAP_TABLE_AM_OID &&
		RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, NoLock);
	return no_block ||
		rehome_spi_as(owner, false, psprintf("SELECT 1 FROM %s LIMIT 1", rehome_relation_name(target)))->n == 0;
}

/* What is noted instead of partitions, as long as one's TRUNCATE is not captured. */
#define PARTITIONS_UNKNOWN "?"

/*
 * append_partitions appends those of a table, and theirs.
 */
static void						/* NOLINTNEXTLINE(misc-no-recursion): as deep as partitions are */
append_partitions(StringInfo buf, Relation inherits, Oid parent, Snapshot snapshot)
{
	List	   *children = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	ListCell   *lc;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(parent));
	scan = systable_beginscan(inherits, InheritsParentIndexId, true, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_inherits child = (Form_pg_inherits) GETSTRUCT(tuple);

		if (child->inhdetachpending)
			continue;
		appendStringInfo(buf, "%s%u:%u", buf->len ? "," : "", child->inhrelid, HeapTupleHeaderGetRawXmin(tuple->t_data));
		children = lappend_oid(children, child->inhrelid);
	}
	systable_endscan(scan);
	foreach(lc, children)
		append_partitions(buf, inherits, lfirst_oid(lc), snapshot);
}

/*
 * rehome_target_partitions returns which partitions a target has in a snapshot
 * (NULL: now), each with the transaction that attached it: one that was detached
 * for a while has been written to unseen.
 */
char *
rehome_target_partitions(Oid target, Snapshot snapshot)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	StringInfoData buf;

	initStringInfo(&buf);
	append_partitions(&buf, inherits, target, snapshot);
	table_close(inherits, AccessShareLock);
	return buf.data;
}

/*
 * rehome_target_repartitioned tells whether a map's target has other partitions
 * in a snapshot than those on record; if so, *parts gets them, to be noted,
 * *added those that are new, as OIDs, and *whole whether the table has to be read
 * as a whole: partitions are gone, or there are some whose TRUNCATE is not
 * captured.  Such ones are not noted either, so that there is another look when
 * it is.
 */
bool
rehome_target_repartitioned(RehomeTableMap *map, Snapshot snapshot, char **parts, List **added,
							bool *whole)
{
	List	   *before;
	List	   *now;
	ListCell   *lc;

	if (map->target_parts == NULL || (map->target_parts[0] == '\0' && !has_subclass(map->target)))
		return false;
	*parts = rehome_target_partitions(map->target, snapshot);
	if (strcmp(map->target_parts, *parts) == 0)
		return false;
	(void) SplitIdentifierString(pstrdup(map->target_parts), ',', &before);
	(void) SplitIdentifierString(pstrdup(*parts), ',', &now);
	*added = NIL;
	foreach(lc, now)
		if (!rehome_name_listed(before, lfirst(lc)))
			*added = lappend_oid(*added, atooid(lfirst(lc)));
	*whole = list_length(now) - list_length(*added) < list_length(before);
	if (*added == NIL && !*whole)
		return false;
	/* children by inheritance have triggers of their own, if any */
	if (get_rel_relkind(map->target) != RELKIND_PARTITIONED_TABLE)
		*whole = true;
	if (!rehome_target_covered(list_make1(map)))
	{
		*whole = true;
		*parts = PARTITIONS_UNKNOWN;
	}
	return true;
}

/*
 * rehome_targets_uncovered returns the maps whose targets have got partitions
 * since, in a snapshot (NULL: now), that lack the triggers that do not come by
 * themselves.
 */
List *
rehome_targets_uncovered(List *maps, Snapshot snapshot)
{
	List	   *uncovered = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		char	   *parts;
		List	   *added;
		bool		whole;

		if (rehome_target_repartitioned(lfirst(lc), snapshot, &parts, &added, &whole) &&
			strcmp(parts, PARTITIONS_UNKNOWN) == 0)
			uncovered = lappend(uncovered, lfirst(lc));
	}
	return uncovered;
}

/*
 * rehome_target_cover gives partitions added to the targets since cutover
 * these triggers.  True when targets have been locked for that, and are to be
 * let go at once.
 */
bool
rehome_target_cover(RehomeSlice *slice, List *maps)
{
	List	   *uncovered = rehome_targets_uncovered(maps, NULL);

	if (uncovered == NIL)
		return false;
	rehome_targets_lock(uncovered, ShareRowExclusiveLock);
	rehome_target_install(slice, uncovered, false);
	return true;
}

/*
 * rehome_target_check_capture raises when capture is not at work on every
 * target.
 */
void
rehome_target_check_capture(List *maps)
{
	List	   *lost = rehome_triggers_lost(maps, true);
	char	   *name;

	if (lost == NIL)
		return;
	name = rehome_relation_name(((RehomeTableMap *) linitial(lost))->target);
	ereport(ERROR,
			errcode(ERRCODE_REHOME_POSITION_LOST),
			errmsg("changes of %s are not captured any more", name),
			errdetail("Its triggers rehome_capture and rehome_capture_truncate were dropped or disabled."),
			errhint("ALTER TABLE %s ENABLE ALWAYS TRIGGER rehome_capture; and compare with rehome.verify() what was written meanwhile.",
					name));
}

static void
alter_trigger(Oid relid, const char *name, bool enabled)
{
	rehome_spi(psprintf("ALTER TABLE %s %s TRIGGER %s", rehome_relation_name(relid),
						enabled ? "ENABLE ALWAYS" : "DISABLE", name), "");
}

/*
 * switch_guard turns on what stands against writes, or off: the guard, or
 * the triggers that record in its place.
 */
static void
switch_guard(RehomeTableMap *map, Oid relid, bool truncate, bool on)
{
	const char *guard = truncate ? "rehome_guard_truncate" : "rehome_guard";
	const char *drift = truncate ? "rehome_drift_truncate" : "rehome_drift";
	bool		recording = map->drift_policy != REHOME_DRIFT_REJECT;

	alter_trigger(relid, guard, on && !recording);
	if (OidIsValid(get_trigger_oid(relid, drift, true)))
		alter_trigger(relid, drift, on && recording);
}

/*
 * rehome_target_guard_switch turns on what the map's drift policy puts up
 * against writes to its target, or all of it off.  The caller holds SHARE
 * ROW EXCLUSIVE.
 */
void
rehome_target_guard_switch(RehomeTableMap *map, bool on)
{
	ListCell   *lc;

	switch_guard(map, map->target, false, on);
	foreach(lc, find_all_inheritors(map->target, NoLock, NULL))
		switch_guard(map, lfirst_oid(lc), true, on);
}

/*
 * rehome_target_switch turns guard and capture of the targets on or off.  The
 * caller holds SHARE ROW EXCLUSIVE on each.
 */
void
rehome_target_switch(List *maps, bool guard, bool capture)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		ListCell   *lc2;

		rehome_target_guard_switch(map, guard);
		alter_trigger(map->target, "rehome_capture", capture);
		foreach(lc2, find_all_inheritors(map->target, NoLock, NULL))
			alter_trigger(lfirst_oid(lc2), "rehome_capture_truncate", capture);
	}
}

/*
 * our_triggers returns the triggers that have been made for maps: table and name.
 * They are known by the function and what it is told, not by where the table is:
 * a partition that was detached keeps those on TRUNCATE.  A guard of derived rows
 * is not told of a map.
 */
static RehomeRows *
our_triggers(List *maps)
{
	List	   *ids = NIL;
	List	   *derived = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		ListCell   *lc2;

		if (map->id != 0)
			ids = lappend(ids, psprintf("%d", map->id));
		else if (get_rel_name(map->target) != NULL)
			foreach(lc2, find_all_inheritors(map->target, AccessShareLock, NULL))
				derived = lappend(derived, psprintf("%u", lfirst_oid(lc2)));
	}
	return rehome_spi("SELECT t.tgrelid, t.tgname FROM pg_trigger t"
					  " JOIN pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = 'rehome'::regnamespace,"
					  " LATERAL (SELECT string_to_array(encode(t.tgargs, 'escape'), '\\000')) AS a(args)"
					  " WHERE t.tgparentid = 0"
					  " AND (CASE p.proname WHEN 'guard' THEN nullif(a.args[2], '') WHEN 'capture' THEN substr(a.args[1], length('change_') + 1)"
					  "   WHEN 'record_drift' THEN a.args[1] END = ANY ($1::text[])"
					  "  OR (p.proname = 'guard' AND t.tgnargs = 1 AND t.tgrelid = ANY ($2::oid[])))"
					  " ORDER BY t.tgrelid, t.oid", "tt", rehome_name_array(ids), rehome_name_array(derived));
}

/*
 * drop_triggers drops those of maps.  A table that is no part of a target any
 * more, if ever it was, is not waited for.
 */
static void
drop_triggers(List *maps)
{
	RehomeRows *triggers = our_triggers(maps);

	for (int i = 0; i < triggers->n; i++)
	{
		Oid			relid = atooid(triggers->value[i][0]);
		char	   *name = triggers->value[i][1];
		char	   *drop = psprintf("DROP TRIGGER %s ON %s", quote_identifier(name), rehome_relation_name(relid));

		CHECK_FOR_INTERRUPTS();
		if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
			ereport(WARNING,
					errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					errmsg("table %s is locked: trigger %s is left there", rehome_relation_name(relid), quote_identifier(name)),
					errhint("%s;", drop));
		else if (OidIsValid(get_trigger_oid(relid, name, true)))
			rehome_spi(drop, "");
	}
}

/*
 * drop_if_there drops what we have made in rehome_change; that most slices have
 * no change tables yet is nothing to be told of.
 */
static void
drop_if_there(const char *kind, const char *name)
{
	if (OidIsValid(get_relname_relid(name, get_namespace_oid("rehome_change", false))))
		rehome_spi(psprintf("DROP %s %s", kind, quote_qualified_identifier("rehome_change", name)), "");
}

/*
 * rehome_target_remove takes triggers and change tables away; what is not
 * there is fine.  The caller holds ACCESS EXCLUSIVE on each.
 */
void
rehome_target_remove(List *maps)
{
	ListCell   *lc;

	drop_triggers(maps);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		drop_if_there("TABLE", rehome_target_change_table(map));
		drop_if_there("SEQUENCE", psprintf("refused_%d", map->id));
	}
}
