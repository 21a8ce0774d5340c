/*-------------------------------------------------------------------------
 *
 * finish.c
 *	  The two ends of a slice, complete and cancel, and of a migration, which
 *	  is forgotten after either.
 *
 * Both commit the local side first, state included, and then clean up at the
 * source, a table at a time under lock_timeout.  If that fails, a warning
 * says so, and calling again goes on: on a slice that is finished they are
 * nothing but that cleanup.
 *
 * cancel first asks the source who has authority: if it gave that up to a
 * cutover that was interrupted, there is something to recover before; complete
 * brings it the last changes.  A source that is gone for good, or is another
 * now, can be asked nothing and told nothing.  Then somebody has to say that
 * this side alone is to be cleaned up (local_only).  Neither takes authority by
 * that: after cancel the worst is that nobody has it, and complete is for a
 * slice whose authority is here.
 *
 * complete leaves one thing at the source: the closed fence.  The old home
 * must not become writable because the migration is over.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "apply/touched.h"
#include "capture/capture.h"
#include "catalog/define.h"
#include "copy/copy.h"
#include "cutover/cutover.h"
#include "derive/derive.h"
#include "errors.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * clean_source removes what is left at the source.
 */
static void
clean_source(RehomeSlice *slice, List *maps, bool keep_fence)
{
	RehomeConn *conn;
	bool		removed;

	if (!slice->migration->live || slice->migration->source_id == NULL)
		return;
	conn = rehome_slice_connect(slice, "cleanup");
	removed = rehome_source_remove(conn, slice, maps, keep_fence);
	rehome_conn_close(conn);
	if (!removed)
		return;
	rehome_event(slice->migration->name, slice->name, "cleanup",
				 keep_fence ? "change capture removed from the source; its fence stays closed" :
				 "capture and fence removed from the source", NULL);
}

/*
 * tell_left_out warns of tables that are paused.  That does not keep a slice
 * from being completed: what cannot be brought back any more would for ever.
 */
static void
tell_left_out(RehomeSlice *slice, List *maps)
{
	RehomeProblems problems;

	rehome_problems_init(&problems);
	rehome_maps_paused(slice, maps, &problems);
	if (problems.n > 0)
		ereport(WARNING,
				errcode(ERRCODE_REHOME_PAUSED),
				errmsg("the old home of slice \"%s\" of migration \"%s\" lacks changes of tables that are paused",
					   slice->name, slice->migration->name),
				errdetail_internal("%s", problems.text.data));
}

/*
 * tell_left_there warns of what stays at a source that nobody has asked.
 */
static void
tell_left_there(RehomeSlice *slice, bool completed)
{
	char	   *name = quote_literal_cstr(slice->migration->name);

	if (slice->migration->live && slice->migration->source_id != NULL)
		ereport(WARNING,
				errmsg("slice \"%s\" of migration \"%s\" is %s on this side only",
					   slice->name, slice->migration->name, completed ? "completed" : "cancelled"),
				errdetail("%s", completed ?
						  "The source has not been brought what was written here since the last batch. If it is still there, its change tables stay, and its fence stays closed." :
						  "If the source is still there, its triggers go on filling change tables, and if a cutover was interrupted its fence is closed."),
				errhint("When it can be reached, CALL rehome.%s(%s, %s); before the migration is dropped; or there, if no other migration is fed from it: DROP SCHEMA rehome_source CASCADE;",
						completed ? "complete" : "cancel", name, quote_literal_cstr(slice->name)));
}

/*
 * bring_last gives the old home everything up to this moment.  Returns the maps,
 * as they are after that.
 */
static List *
bring_last(RehomeCall *call, RehomeSlice *slice)
{
	List	   *maps = rehome_table_maps_require(slice);
	RehomeConn *conn = rehome_slice_connect(slice, "complete");

	if (!slice->one_way)
	{
		maps = rehome_reverse_inspected(call, conn, slice, maps, "complete");
		if (rehome_reverse_batch(conn, slice, maps, NULL, false, NULL) < 0)
			rehome_raise_both(slice);
		tell_left_out(slice, maps);
	}
	rehome_conn_close(conn);
	return maps;
}

/*
 * rehome_complete_slice is the point of no return.  With local_only the source
 * is left as it is.
 */
void
rehome_complete_slice(RehomeCall *call, RehomeSlice *slice, bool local_only)
{
	List	   *maps;

	rehome_slice_work_lock(slice);
	maps = rehome_table_maps_get(slice);
	if (slice->state == REHOME_COMPLETED)
		ereport(NOTICE, errmsg("slice \"%s\" is completed already", slice->name));
	else
	{
		rehome_slice_require(slice, "complete", REHOME_CUT_OVER,
							 slice->migration->live ? REHOME_CUT_OVER : REHOME_SYNCING);
		rehome_slice_require_running(slice);
		if (slice->migration->live)
		{
			if (!local_only)
				maps = bring_last(call, slice);
			rehome_targets_lock(list_concat_copy(maps, rehome_derived_maps(slice)), AccessExclusiveLock);
			rehome_target_remove(maps);
			rehome_touched_drop(maps);
		}
		else
			rehome_targets_lock(rehome_derived_maps(slice), AccessExclusiveLock);
		rehome_derived_remove(slice);
		rehome_slice_set_state(slice, REHOME_COMPLETED, "complete",
							   local_only ? "the migration is complete, on this side only" : "the migration is complete", NULL);
		rehome_call_commit(call);
	}
	if (local_only)
		tell_left_there(slice, true);
	else
		clean_source(slice, maps, true);
	rehome_call_commit(call);
}

/*
 * require_source_authority raises when the source has given authority up, to
 * this database or to another: its fence must stay closed.
 */
static void
require_source_authority(RehomeSlice *slice)
{
	RehomeConn *conn;
	char	   *authority;

	if (!slice->migration->live || slice->migration->source_id == NULL)
		return;
	conn = rehome_slice_connect(slice, "cancel");
	authority = rehome_source_authority(conn, slice);
	rehome_conn_close(conn);
	if (authority != NULL && strcmp(authority, "target") == 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_IN_DOUBT),
				errmsg("the source has given up authority over slice \"%s\"", slice->name),
				errdetail("A cutover was interrupted between its two commits, or another copy of this database has taken over."),
				errhint("CALL rehome.recover(%s);", quote_literal_cstr(slice->migration->name)));
}

/*
 * empty_targets takes back a copy that was not finished.
 */
static void
empty_targets(RehomeSlice *slice, List *maps)
{
	RehomeApplying applying;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeMapping mapping = {.map = lfirst(lc)};

		if (get_rel_name(mapping.map->target) == NULL)
			continue;
		rehome_applying_begin(&applying, slice->migration->owner, mapping.map);
		(void) rehome_apply_delete_all(&mapping);
		rehome_applying_end(&applying);
	}
}

/*
 * rehome_cancel_slice removes every artefact on both sides, or with local_only
 * on this one.  Rows of a finished copy stay; those of an unfinished one, whose
 * keys are not even checked, do not.  False when something could not be rebuilt.
 */
bool
rehome_cancel_slice(RehomeCall *call, RehomeSlice *slice, bool local_only)
{
	List	   *maps;
	bool		rebuilt;

	rehome_slice_work_lock(slice);
	maps = rehome_table_maps_get(slice);
	if (slice->state == REHOME_CANCELLED)
	{
		ereport(NOTICE, errmsg("slice \"%s\" is cancelled already", slice->name));
		rebuilt = rehome_saved_rebuild(slice, DEBUG1);
		if (!local_only)
			require_source_authority(slice);
	}
	else
	{
		bool		unfinished = slice->state == REHOME_COPYING;

		if (slice->state != REHOME_PLANNED)
			rehome_slice_require(slice, "cancel", REHOME_COPYING, REHOME_SYNCING);
		if (!local_only)
		{
			if (slice->restored)
				rehome_slice_require_running(slice);	/* the source is somebody else's */
			require_source_authority(slice);
		}
		rehome_targets_lock(list_concat(slice->state == REHOME_PLANNED ? NIL : list_copy(maps), rehome_derived_maps(slice)),
							AccessExclusiveLock);
		rehome_slice_set_state(slice, REHOME_CANCELLED, "cancel",
							   psprintf("cancelled%s%s", local_only ? " on this side only" : "",
										unfinished ? "; the rows copied so far are removed" : ""), NULL);
		rehome_derived_remove(slice);	/* nothing is to be derived of rows that go */
		if (unfinished)
			empty_targets(slice, maps);
		rebuilt = rehome_saved_rebuild(slice, DEBUG1);
		rehome_target_remove(maps);
		rehome_touched_drop(maps);
		rehome_call_commit(call);
	}
	if (local_only)
		tell_left_there(slice, false);
	else
		clean_source(slice, maps, false);
	rehome_call_commit(call);
	return rebuilt;
}

/*
 * drop_imported drops the foreign tables add_schema made, as the owner and
 * not what others have made of them, and their schemas when nothing is left
 * in them.
 */
static void
drop_imported(RehomeMigration *migration)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT t.source::oid FROM rehome.table_map t"
					  " JOIN rehome.slice s ON s.id = t.slice_id"
					  " JOIN pg_class c ON c.oid = t.source::oid AND c.relkind = 'f'"
					  " WHERE s.migration_id = $1 AND t.imported", "i", migration->id);
	for (int i = 0; i < rows->n; i++)
		(void) rehome_spi_as(migration->owner, false,
							 psprintf("DROP FOREIGN TABLE %s",
									  rehome_relation_name((Oid) rehome_int64(rows->value[i][0]))));
	rows = rehome_spi("SELECT n.nspname FROM pg_namespace n WHERE strpos(n.nspname, 'rehome_' || $1 || '_') = 1"
					  " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass"
					  "  AND d.refobjid = n.oid)", "t", migration->token);
	for (int i = 0; i < rows->n; i++)
		(void) rehome_spi_as(migration->owner, false,
							 psprintf("DROP SCHEMA %s", quote_identifier(rows->value[i][0])));
}

PG_FUNCTION_INFO_V1(rehome_drop_migration);

/*
 * not_rebuilt returns what was taken off targets that are still there, and is
 * now defined nowhere else, as a JSON object of definitions; NULL if nothing is.
 */
static char *
not_rebuilt(RehomeMigration *migration)
{
	return rehome_spi_value("SELECT jsonb_object_agg(o.name || ' of ' || o.relation, o.create_sql || o.finish_sql) FROM rehome.saved_object o"
							" JOIN rehome.slice s ON s.id = o.slice_id JOIN pg_class c ON c.oid = o.relation::oid"
							" WHERE s.migration_id = $1 AND o.rebuilt_at IS NULL AND (o.kind <> 'foreign key' OR o.built_at IS NULL)"
							" AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = o.name)"
							" AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid"
							"  WHERE i.indrelid = c.oid AND x.relname = o.name)", "i", migration->id);
}

/*
 * rehome_drop_migration(migration name) forgets a migration nothing of which
 * is left on either side: planned, completed or cancelled.
 */
Datum
rehome_drop_migration(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	RehomeMigration *migration;
	char	   *definitions;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_get(name);
	rehome_require_owner(&call, migration);
	foreach(lc, rehome_slices_get(migration, NULL))
	{
		RehomeSlice *slice = lfirst(lc);

		rehome_slice_work_lock(slice);
		if (slice->state != REHOME_CANCELLED)
			rehome_slice_require(slice, "drop", REHOME_PLANNED, REHOME_COMPLETED);
		if (slice->state != REHOME_PLANNED)
			continue;
		/* derivations have triggers from the beginning; complete and cancel take them */
		rehome_targets_lock(rehome_derived_maps(slice), AccessExclusiveLock);
		rehome_derived_remove(slice);
	}
	definitions = not_rebuilt(migration);
	if (definitions != NULL)
		ereport(WARNING,
				errmsg("targets of migration \"%s\" lack what has not been rebuilt", migration->name),
				errdetail_internal("%s", definitions),
				errhint("The definitions are in rehome.event."));
	drop_imported(migration);
	rehome_spi("DELETE FROM rehome.migration WHERE id = $1", "i", migration->id);
	rehome_event(name, NULL, "dropped", "migration dropped",
				 definitions ? psprintf("{\"not_rebuilt\": %s}", definitions) : NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
