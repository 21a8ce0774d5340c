/*-------------------------------------------------------------------------
 *
 * slices.c
 *	  Which slices of a migration a call is about that names one, or none.
 *
 * None means all: but not those that have ended, and, for a call that has to
 * do with rows, not one that has no tables while others have.  Slice main is
 * there from the start, whether it is used or not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/migration.h"
#include "util/spi.h"

/*
 * not_ended lists those of the slices that have not ended; all that there are,
 * where none is left.
 */
static List *
not_ended(List *slices)
{
	List	   *left = NIL;
	ListCell   *lc;

	foreach(lc, slices)
		if (!rehome_slice_ended(lfirst(lc)))
			left = lappend(left, lfirst(lc));
	return left != NIL ? left : slices;
}

/*
 * rehome_slices_named returns one slice of a migration, or all of them that have
 * not ended when slice is NULL; all that there are, where none is left.
 */
List *
rehome_slices_named(RehomeMigration *migration, const char *slice)
{
	List	   *slices = rehome_slices_get(migration, slice);

	return slice != NULL ? slices : not_ended(slices);
}

/*
 * rehome_slice_unused tells whether a slice has no tables, and others of its
 * migration have.
 */
bool
rehome_slice_unused(RehomeSlice *slice)
{
	return slice->state == REHOME_PLANNED &&
		rehome_spi("SELECT FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id"
				   " WHERE s.migration_id = $1 HAVING bool_and(s.id <> $2)", "ii", slice->migration->id, slice->id)->n > 0;
}

/*
 * rehome_slices_moved is rehome_slices_named for a call that moves or compares
 * rows, or moves authority: where no slice is named, one that has no tables is
 * left out, if others have some.
 */
List *
rehome_slices_moved(RehomeMigration *migration, const char *slice)
{
	List	   *slices = rehome_slices_get(migration, slice);
	ListCell   *lc;

	if (slice != NULL)
		return slices;
	foreach(lc, slices)
		if (rehome_slice_unused(lfirst(lc)))
		{
			ereport(NOTICE, errmsg("slice \"%s\" has no tables, and is left out", ((RehomeSlice *) lfirst(lc))->name));
			slices = foreach_delete_current(slices, lc);
		}
	return not_ended(slices);
}
