/*-------------------------------------------------------------------------
 *
 * reverse_position.c
 *	  How far the source has what was written at the target since the cutover,
 *	  and whether the tables of both sides still fit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "apply/apply.h"
#include "capture/capture.h"
#include "commands/dbcommands.h"
#include "errors.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "util/call.h"
#include "util/spi.h"
#include "utils/builtins.h"

/*
 * take_parts makes the partitions on record those that the source has had rows of,
 * by map, as JSON.  What is on record here may be older: our transaction may have
 * failed when that at the source was done.
 */
static void
take_parts(List *maps, const char *parts)
{
	RehomeRows *rows;
	ListCell   *lc;

	if (strcmp(parts, "{}") == 0)
		return;
	rows = rehome_spi("SELECT key, value FROM jsonb_each_text($1::jsonb)", "t", parts);
	for (int r = 0; r < rows->n; r++)
		foreach(lc, maps)
		{
			RehomeTableMap *map = lfirst(lc);

			if (map->id == rehome_int(rows->value[r][0]) &&
				(map->target_parts == NULL || strcmp(rows->value[r][1], map->target_parts) != 0))
				rehome_target_note_parts(map, rows->value[r][1]);
		}
}

/*
 * rehome_reverse_position returns the target snapshot the source has reached,
 * and locks the row that says so; NULL when the source has authority (again).
 * With maps to ask about, it notes which writes to their tables the source has
 * refused since.  Of maps, the partitions on record become those of that snapshot.
 */
char *
rehome_reverse_position(RehomeConn *conn, RehomeSlice *slice, List *ask, List *maps)
{
	RehomeRows *rows;
	char	   *self;

	rows = rehome_conn_query(conn, "SELECT reverse_position, authority, holder,"
							 " CASE WHEN $3::int[] <> '{}' THEN rehome_source.refused($1, $3::int[]) END, reverse_parts FROM rehome_source.slice"
							 " WHERE token = $1 AND slice = $2::int FOR UPDATE",
							 "tit", slice->migration->token, slice->id, rehome_map_ids(ask));
	self = rehome_spi_value("SELECT rehome.database_identity()", "");
	if (rows->n == 0 || rows->value[0][0] == NULL)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("the source does not know how far the changes of slice \"%s\" were brought back",
					   slice->name),
				errhint("Its schema rehome_source was changed or removed; the slice cannot be rolled back."));
	if (strcmp(rows->value[0][1], "target") != 0)
		return NULL;
	if (rows->value[0][2] == NULL || strcmp(rows->value[0][2], self) != 0)
		ereport(ERROR,
				errcode(ERRCODE_REHOME_POSITION_LOST),
				errmsg("another database has authority over slice \"%s\"", slice->name),
				errdetail("The source gave it up to %s; this is %s, a copy of it.",
						  rows->value[0][2] ? rows->value[0][2] : "?", self),
				errhint("Go on with the original. If it is lost, and this copy has everything it had, at the source: UPDATE rehome_source.slice SET holder = %s WHERE token = %s AND slice = %d;",
						quote_literal_cstr(self), quote_literal_cstr(slice->migration->token), slice->id));
	if (rows->value[0][3] != NULL)
		rehome_refused_note(slice, ask, "source", rows->value[0][3]);
	take_parts(maps, rows->value[0][4]);
	return rows->value[0][0];
}

/*
 * rehome_reverse_reached returns the position alone, or NULL when the source
 * knows of none or has authority, and waits for nobody: who has that row may be
 * waiting for what we have here.
 */
char *
rehome_reverse_reached(RehomeConn *conn, RehomeSlice *slice)
{
	RehomeRows *rows = rehome_conn_query(conn, "SELECT reverse_position FROM rehome_source.slice"
										 " WHERE token = $1 AND slice = $2::int AND authority = 'target'",
										 "ti", slice->migration->token, slice->id);

	return rows->n > 0 ? rows->value[0][0] : NULL;
}

/*
 * rehome_reverse_inspect finds out whether the targets, and with source also
 * the tables at the source, are what they were, and pauses those that cannot go
 * on; new partitions of targets get their triggers.  True when there are any of
 * either: the caller commits before he lets a batch begin.
 */
bool
rehome_reverse_inspect(RehomeConn *conn, RehomeSlice *slice, List *maps, bool source)
{
	List	   *left = rehome_maps_running(maps);
	int			n = list_length(left);

	slice->reverse_position = rehome_reverse_reached(conn, slice);
	if (slice->reverse_position == NULL)
		return false;			/* a batch says what that means */
	left = rehome_target_inspect(slice, left);
	if (source)
		rehome_source_inspect_back(conn, slice, left);
	left = rehome_maps_running(left);
	if (list_length(left) == n)
		return rehome_target_cover(slice, left);
	rehome_commit_durably();
	return true;
}

/*
 * rehome_reverse_inspected does that for a call that may commit, both sides
 * included, and returns the maps as they are then.
 */
List *
rehome_reverse_inspected(RehomeCall *call, RehomeConn *conn, RehomeSlice *slice, List *maps, const char *doing)
{
	if (!rehome_reverse_inspect(conn, slice, maps, true))
		return maps;
	rehome_call_commit(call);
	rehome_slice_work_lock(slice);
	rehome_slice_require(slice, doing, REHOME_CUT_OVER, REHOME_CUT_OVER);
	rehome_slice_require_running(slice);
	return rehome_table_maps_require(slice);
}

/*
 * rehome_new_home returns what the fence tells clients.
 */
char *
rehome_new_home(RehomeMigration *migration)
{
	char		host[256];

	if (migration->home != NULL)
		return migration->home;
	if (gethostname(host, sizeof(host)) != 0)
		strlcpy(host, "?", sizeof(host));
	host[sizeof(host) - 1] = '\0';
	return psprintf("database \"%s\" on %s port %d", get_database_name(MyDatabaseId), host,
					PostPortNumber);
}

/*
 * rehome_raise_both raises because the source, too, says that it has
 * authority.
 */
void
rehome_raise_both(RehomeSlice *slice)
{
	ereport(ERROR,
			errcode(ERRCODE_REHOME_IN_DOUBT),
			errmsg("both sides claim authority over slice \"%s\"", slice->name),
			errdetail("This database is cut over, yet the source's fence is open: it was changed or restored by hand, or by another copy of this database."),
			errhint("Keep writers off the source, and close its fence there: SELECT rehome_source.set_fence(%s, %d, true, %s); Then what was written here is brought there, and rehome.verify() names the rows that were written there.",
					quote_literal_cstr(slice->migration->token), slice->id,
					quote_literal_cstr(rehome_new_home(slice->migration))));
}
