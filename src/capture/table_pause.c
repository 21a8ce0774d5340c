/*-------------------------------------------------------------------------
 *
 * table_pause.c
 *	  Which tables of a slice are paused, and which have yet to catch up.
 *
 * State of a table map in a slice that is syncing:
 *
 *	 running	paused false, position null: at the slice's position
 *	 paused		paused true, position set: no batch touches it.  Its changes stay
 *				in its change table, which is not pruned.
 *	 behind		paused false, position set: the next batch brings it from there
 *				to the batch's snapshot, and with the batch's commit it is running
 *
 * Cutover is refused unless all tables are running.
 *
 * The same in a slice that is cut over, whose tables are brought back; the
 * slice's position is then at the source, and a table's is the snapshot of the
 * target up to which the source has it.  Rollback is refused unless all tables
 * are running.
 *
 * They pause by themselves (structure.c), or by hand, and are resumed by hand
 * (apply/resume.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "errors.h"
#include "util/name.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/builtins.h"

/*
 * rehome_maps_running returns the maps that are not paused.
 */
List *
rehome_maps_running(List *maps)
{
	List	   *running = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		if (!((RehomeTableMap *) lfirst(lc))->paused)
			running = lappend(running, lfirst(lc));
	return running;
}

/*
 * rehome_maps_behind returns the maps that are not at the slice's position:
 * those that have been resumed and not caught up yet.
 */
List *
rehome_maps_behind(List *maps)
{
	List	   *behind = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (!map->paused && map->position != NULL)
			behind = lappend(behind, map);
	}
	return behind;
}

/*
 * rehome_maps_paused adds a problem for each map that is paused.
 */
void
rehome_maps_paused(RehomeSlice *slice, List *maps, RehomeProblems *problems)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (map->paused)
			rehome_problem(problems, ERRCODE_REHOME_PAUSED,
						   psprintf("SELECT rehome.resume_table(%s, %s);", quote_literal_cstr(slice->migration->name),
									quote_literal_cstr(rehome_relation_name(map->target))),
						   "%s: %s.", rehome_relation_name(map->target), map->reason);
	}
}

/*
 * rehome_map_caught_up notes that a batch has brought a map to where the
 * others are.
 */
void
rehome_map_caught_up(RehomeTableMap *map)
{
	rehome_spi("UPDATE rehome.table_map SET position = NULL WHERE id = $1", "i", map->id);
	map->position = NULL;
}
