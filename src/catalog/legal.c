/*-------------------------------------------------------------------------
 *
 * legal.c
 *	  What may be asked of a slice now: each raises when it may not, and says
 *	  what may be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/migration.h"
#include "errors.h"
#include "utils/builtins.h"

/*
 * rehome_slice_require raises unless the slice is in state a or b, naming
 * the state it found and the calls that are legal from there.
 */
void
rehome_slice_require(RehomeSlice *slice, const char *call,
					 RehomeState a, RehomeState b)
{
	if (slice->state == a || slice->state == b)
		return;
	ereport(ERROR,
			errcode(ERRCODE_REHOME_ILLEGAL_STATE),
			errmsg("cannot %s slice \"%s\" of migration \"%s\" while it is %s",
				   call, slice->name, slice->migration->name,
				   rehome_state_name(slice->state)),
			errhint("Legal now: %s.", slice->state == REHOME_CUT_OVER && slice->one_way ? "rehome.complete()" :
					rehome_state_calls(slice->state, slice->migration->live)));
}

/*
 * rehome_slice_require_not_ended raises when the slice has.
 */
void
rehome_slice_require_not_ended(RehomeSlice *slice, const char *call)
{
	if (rehome_slice_ended(slice))
		rehome_slice_require(slice, call, REHOME_PLANNED, REHOME_PLANNED);
}

/*
 * rehome_slice_require_running raises when the slice is paused.
 */
void
rehome_slice_require_running(RehomeSlice *slice)
{
	if (!slice->paused)
		return;
	ereport(ERROR,
			errcode(ERRCODE_REHOME_PAUSED),
			errmsg("slice \"%s\" of migration \"%s\" is paused",
				   slice->name, slice->migration->name),
			errdetail("Reason: %s.", slice->restored ?
					  "this database is a restored copy of the one the slice ran in" :
					  slice->reason ? slice->reason : "none given"),
			errhint("SELECT rehome.resume(%s, %s);",
					quote_literal_cstr(slice->migration->name),
					quote_literal_cstr(slice->name)));
}

/*
 * rehome_slice_require_way_back raises when the slice was cut over one way.
 */
void
rehome_slice_require_way_back(RehomeSlice *slice, const char *call)
{
	if (slice->state == REHOME_CUT_OVER && slice->one_way)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_ILLEGAL_STATE),
				errmsg("cannot %s slice \"%s\" of migration \"%s\": it was cut over one way",
					   call, slice->name, slice->migration->name),
				errdetail("Nothing that was written since has been brought back to the source."),
				errhint("CALL rehome.complete(%s, %s);", quote_literal_cstr(slice->migration->name),
						quote_literal_cstr(slice->name)));
}
