/*-------------------------------------------------------------------------
 *
 * source.c
 *	  Change capture and fence at the source.
 *
 * What is made there, and how, is in remote/sql/source_schema.sql; this file
 * calls it.  A transaction takes no longer than a few tables' CREATE TRIGGERs
 * (INSTALL_TIME), so that no writer waits longer for it, and each request waits no
 * longer than rehome.lock_timeout: behind a request that waits, every writer
 * of the table waits too.  Every call can be repeated.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "errors.h"
#include "guc.h"
#include "remote/query.h"
#include "remote/sql/source_schema.sql.h"
#include "util/debug_point.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long, in milliseconds, one transaction may go on creating captures. */
#define INSTALL_TIME 50

/* Serializes the creation of schema rehome_source. */
#define SCHEMA_LOCK "SELECT pg_advisory_xact_lock(5391175)"

/*
 * rehome_source_identity returns which cluster, timeline and database the
 * connection has reached; NULL for a standby, which has no timeline of its
 * own.  The control file would tell the timeline of the last checkpoint only.
 */
char *
rehome_source_identity(RehomeConn *conn)
{
	return rehome_conn_value(conn,
							 "SELECT CASE WHEN NOT pg_is_in_recovery() THEN s.system_identifier"
							 " || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) || '/' || d.oid END"
							 " FROM pg_control_system() s, pg_database d"
							 " WHERE d.datname = current_database()", "");
}

/*
 * rehome_slice_connect connects to a slice's source and makes sure that it is
 * the one it began with, and that we are not in our own way there.
 */
RehomeConn *
rehome_slice_connect(RehomeSlice *slice, const char *purpose)
{
	RehomeConn *conn;

	if (rehome_conn_moves(slice->id))
		ereport(ERROR,
				errcode(ERRCODE_REHOME_ILLEGAL_STATE),
				errmsg("authority over slice \"%s\" of migration \"%s\" moves with the end of this transaction",
					   slice->name, slice->migration->name),
				errhint("COMMIT first, or ROLLBACK."));
	conn = rehome_migration_connect(slice->migration,
									psprintf("%s %s/%s", purpose, slice->migration->name, slice->name));
	rehome_source_check_identity(conn, slice);
	return conn;
}

/*
 * rehome_source_check_identity raises when the source is not the one that
 * capture was installed on: positions mean nothing anywhere else.
 */
void
rehome_source_check_identity(RehomeConn *conn, RehomeSlice *slice)
{
	RehomeMigration *migration = slice->migration;
	char	   *identity = rehome_source_identity(conn);

	if (identity == NULL)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the source of migration \"%s\" is a standby", migration->name),
				errdetail("Server \"%s\" leads to a server that is in recovery and cannot be written.", migration->server),
				errhint("Point it at the primary: ALTER SERVER %s OPTIONS (SET host '...');",
						quote_identifier(migration->server)));
	if (migration->source_id == NULL || strcmp(identity, migration->source_id) == 0)
		return;
	ereport(ERROR,
			errcode(ERRCODE_REHOME_POSITION_LOST),
			errmsg("the source of migration \"%s\" is not the one it began with", migration->name),
			errdetail("Identity (system/timeline/database) was %s and is %s: it was promoted, restored or replaced.",
					  migration->source_id, identity),
			slice->authority == REHOME_TARGET ?
			errhint("Nothing can be brought back to it: CALL rehome.complete(%s, local_only => true).",
					quote_literal_cstr(migration->name)) :
			errhint("Transactions may be missing there. CALL rehome.cancel(%s, local_only => true) and begin again.",
					quote_literal_cstr(migration->name)));
}

/*
 * rehome_source_flushed makes sure that the source's log is on disk up to
 * lsn: a synchronous commit of our own forces it, on a connection of its own
 * when this one is in a transaction.
 */
void
rehome_source_flushed(RehomeConn *conn, RehomeSlice *slice, const char *lsn, bool in_transaction)
{
	static const char *const reached = "SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn";
	/* a transaction that has not written anything commits asynchronously */
	static const char *const force = "SELECT pg_logical_emit_message(true, 'pg_rehome', '')";

	if (rehome_bool(rehome_conn_value(conn, reached, "t", lsn)))
		return;
	if (in_transaction)
	{
		RehomeConn *other = rehome_slice_connect(slice, "flush");

		rehome_conn_exec(other, force);
		rehome_conn_close(other);
	}
	else
		rehome_conn_exec(conn, force);
	if (!rehome_bool(rehome_conn_value(conn, reached, "t", lsn)))
		ereport(ERROR,
				errcode(ERRCODE_IO_ERROR),
				errmsg("the source does not flush its log"),
				errdetail("It has not reached %s although a commit was confirmed; synchronous_commit or fsync must be at odds with that.", lsn));
}

/*
 * is_lock_failure tells a lock that was not had in time from other errors.
 */
static bool
is_lock_failure(const RehomeRemoteError *error)
{
	return strcmp(error->sqlstate, "55P03") == 0 || strcmp(error->sqlstate, "57014") == 0 ||
		strcmp(error->sqlstate, "40P01") == 0;
}

/*
 * blockers describes who keeps us out of the tables, or readers, a line each,
 * by a lock, or by waiting for one of all; NULL when they are gone already.
 */
static char *
blockers(RehomeConn *conn, List *maps, bool readers)
{
	if (maps == NIL)
		return NULL;
	return rehome_conn_value(conn,
							 psprintf("SELECT string_agg(format('%%s %%s %%s on %%s%%s%%s', CASE WHEN l.pid IS NULL THEN format('prepared transaction %%L (%%s)', x.gid, x.owner)"
									  "  ELSE format('pid %%s (%%s)', l.pid, coalesce(a.usename, '?')) END, CASE WHEN l.granted THEN 'holds' ELSE 'waits for' END, l.mode, l.relation::regclass,"
									  " coalesce(', in a transaction for ' || date_trunc('milliseconds', clock_timestamp() - coalesce(a.xact_start, x.prepared)), ''),"
									  " " REHOME_RUNNING_SQL "), E'\\n')"
									  " FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_prepared_xacts x ON " REHOME_IS_PREPARED_SQL
									  " WHERE (l.granted OR l.mode = 'AccessExclusiveLock') AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()"
									  " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
									  " AND l.mode %s"
									  " AND l.relation IN (SELECT p FROM unnest(ARRAY[%s]::regclass[]) AS r, rehome_source.partition_tree(r) AS p WHERE r IS NOT NULL)",
									  readers ? "= 'AccessExclusiveLock'" : "NOT IN ('AccessShareLock', 'RowShareLock')",
									  rehome_remote_relations(maps, true)), "");
}

/*
 * rehome_source_raise_locked raises because the source's tables could not be
 * locked, and says who is in the way; of readers, if it was to read them.
 */
void
rehome_source_raise_locked(RehomeConn *conn, List *maps, bool readers)
{
	char	   *who = blockers(conn, maps, readers);

	ereport(ERROR,
			errcode(ERRCODE_REHOME_LOCK_TIMEOUT),
			errmsg("could not lock %s at the source", rehome_remote_relations(maps, false)),
			errdetail_internal("%s", who ? who : "Whoever held the lock has gone meanwhile."),
			errhint("Try again when that transaction has ended, or raise rehome.lock_timeout (now %d ms) or rehome.lock_retries (now %d).",
					rehome_lock_timeout, rehome_lock_retries));
}

/*
 * run_with_locks runs a statement that locks source tables, under
 * lock_timeout, in a transaction of its own, again and again until it gets
 * them or the tries are used up.  Returns its rows.
 */
static RehomeRows *
run_with_locks(RehomeConn *conn, const char *sql, List *maps)
{
	for (int attempt = 0;; attempt++)
	{
		RehomeRemoteError error;
		RehomeRows *rows;

		rehome_conn_begin(conn, "");
		rehome_conn_exec(conn, psprintf("SET LOCAL lock_timeout = %d", rehome_lock_timeout));
		rows = rehome_conn_try(conn, sql, &error);
		if (rows != NULL)
		{
			rehome_conn_commit(conn);
			return rows;
		}
		if (!is_lock_failure(&error))
			rehome_conn_raise(conn, &error, sql);
		rehome_conn_rollback(conn);
		if (attempt >= rehome_lock_retries)
			rehome_source_raise_locked(conn, maps, false);
		rehome_back_off(attempt);
	}
}

/*
 * create_capture_sql calls create_capture for one map; patient as it says.
 */
static char *
create_capture_sql(RehomeSlice *slice, RehomeTableMap *map, bool patient)
{
	RehomeRemoteTable *table = rehome_remote_table(map->source);

	return psprintf("SELECT * FROM rehome_source.create_capture(%s, %d, %d, %s, %s::name[], %s)",
					quote_literal_cstr(slice->migration->token), slice->id, map->id,
					quote_literal_cstr(rehome_remote_relation(table)),
					quote_literal_cstr(rehome_remote_key_array(map, table)),
					patient ? "true" : "false");
}

/*
 * learn takes over what create_capture has returned for a map.
 */
static void
learn(RehomeSlice *slice, RehomeTableMap *map, RehomeRows *rows)
{
	map->source_equal = rehome_name_list(rows->value[0][0]);
	if (slice->position == NULL)
	{
		map->source_parts = rows->value[0][1];
		map->source_bounds = rows->value[0][2];
	}
}

/*
 * install_some creates the capture of maps from index first on, no more than
 * limit, in one transaction, as many as there is time for: writers of the
 * first wait for the last.  When a lock cannot be had nothing is created.
 * Returns how many were, or would have been.
 */
static int
install_some(RehomeConn *conn, RehomeSlice *slice, List *maps, int first, int limit, bool *done)
{
	TimestampTz began = GetCurrentTimestamp();
	int			n = 0;

	rehome_conn_begin(conn, "");
	/* flushed before the first position is stored, with everything it sees */
	rehome_conn_exec(conn, psprintf("SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = %d",
									Min(rehome_lock_timeout, INSTALL_TIME)));
	*done = false;
	do
	{
		RehomeTableMap *map = list_nth(maps, first + n);
		RehomeRemoteError error;
		char	   *sql = create_capture_sql(slice, map, false);
		RehomeRows *rows = rehome_conn_try(conn, sql, &error);

		if (rows == NULL)
		{
			if (!is_lock_failure(&error))
				rehome_conn_raise(conn, &error, sql);
			rehome_conn_rollback(conn);
			return n;
		}
		learn(slice, map, rows);
		n++;
	} while (n < limit && first + n < list_length(maps) &&
			 !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), INSTALL_TIME));
	rehome_conn_commit(conn);
	*done = true;
	return n;
}

/*
 * rehome_source_remember notes which source a migration begins with; false when
 * that has been done.
 */
bool
rehome_source_remember(RehomeConn *conn, RehomeMigration *migration)
{
	if (migration->source_id != NULL)
		return false;
	migration->source_id = rehome_source_identity(conn);
	rehome_spi("UPDATE rehome.migration SET source_id = $2 WHERE id = $1", "it",
			   migration->id, migration->source_id);
	return true;
}

/*
 * inspect_tables asks what rehome_source.inspect() says of each map's table:
 * rows of its fingerprint, and what is wrong with it, or NULL.
 */
static RehomeRows *
inspect_tables(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	return rehome_conn_query(conn, "SELECT i.print, i.damage FROM unnest($2::int[], $3::text[], $4::text[]) WITH ORDINALITY AS u(map, name, parts, n),"
							 " rehome_source.inspect($1, u.map, u.name, u.parts) AS i ORDER BY u.n", "tttt",
							 slice->migration->token, rehome_map_ids(maps), rehome_remote_names(maps), rehome_map_source_parts(maps));
}

/*
 * record_captures stores what has been learned of maps.
 */
static void
record_captures(List *maps)
{
	List	   *equal = NIL;
	List	   *bounds = NIL;
	ListCell   *lc;

	foreach(lc, maps)
	{
		equal = lappend(equal, rehome_name_array(((RehomeTableMap *) lfirst(lc))->source_equal));
		bounds = lappend(bounds, ((RehomeTableMap *) lfirst(lc))->source_bounds);
	}
	rehome_spi("UPDATE rehome.table_map t SET source_equal = u.equal::text[], source_parts = u.parts, source_bounds = u.bounds::jsonb"
			   " FROM unnest($1::int[], $2::text[], $3::text[], $4::text[]) AS u(id, equal, parts, bounds) WHERE t.id = u.id", "tttt",
			   rehome_map_ids(maps), rehome_name_array(equal), rehome_map_source_parts(maps), rehome_name_array(bounds));
}

/*
 * rehome_source_damage says what keeps the capture or fence of a map from
 * working; NULL if they do.
 */
char *
rehome_source_damage(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	return inspect_tables(conn, slice, list_make1(map))->value[0][1];
}

/*
 * rehome_source_put_back makes the capture of a map anew, in one transaction,
 * so that nothing is written in between without being captured, and raises when
 * that does not mend it.  What was captured before is gone: the table has to be
 * read as a whole.
 */
void
rehome_source_put_back(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	char	   *relation = rehome_remote_relation(rehome_remote_table(map->source));
	char	   *sql = psprintf("SELECT rehome_source.drop_capture(%s, %d, %s); %s",
							   quote_literal_cstr(slice->migration->token), map->id,
							   quote_literal_cstr(relation), create_capture_sql(slice, map, true));
	char	   *damage;

	/* the key may have other operators now */
	learn(slice, map, run_with_locks(conn, sql, list_make1(map)));
	record_captures(list_make1(map));
	damage = rehome_source_damage(conn, slice, map);
	if (damage != NULL)
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("capture and fence of %s cannot be put back", relation),
				errdetail("At the source %s; the connecting role does not own the table.", damage),
				errhint("Let its owner do it there: ALTER TABLE %s ENABLE TRIGGER USER;", relation));
}

/*
 * record_sources stores what the tables look like, and their triggers, before
 * the first position: what is not as it was then has been touched.
 */
static void
record_sources(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeRows *rows = inspect_tables(conn, slice, maps);
	List	   *prints = NIL;
	bool		renewed = false;
	ListCell   *lc;

	/* damaged since an attempt that went no further than this one has come */
	foreach(lc, maps)
		if (rows->value[foreach_current_index(lc)][1] != NULL)
		{
			rehome_source_put_back(conn, slice, lfirst(lc));
			renewed = true;
		}
	if (renewed)
		rows = inspect_tables(conn, slice, maps);
	for (int i = 0; i < rows->n; i++)
		prints = lappend(prints, rows->value[i][0]);
	rehome_spi("UPDATE rehome.table_map t SET source_print = u.print, source_columns = u.columns::jsonb"
			   " FROM unnest($1::int[], $2::text[], $3::text[]) AS u(id, print, columns) WHERE t.id = u.id", "ttt",
			   rehome_map_ids(maps), rehome_name_array(prints), rehome_name_array(rehome_structures(conn, maps)));
}

/*
 * rehome_source_install creates capture and fence (open) for the maps of a
 * slice, and stores what it learns.  That the slice is copying, and from which
 * source, is committed already, so that a crash leaves a trace of what has to
 * be cleaned up.
 */
void
rehome_source_install(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	RehomeMigration *migration = slice->migration;

	rehome_conn_begin(conn, "");
	rehome_conn_exec(conn, SCHEMA_LOCK);
	rehome_conn_exec(conn, sql_source_schema);
	if (rehome_conn_query(conn, "SELECT 1 FROM rehome_source.slice WHERE token = $1 AND slice = $2::int",
						  "ti", migration->token, slice->id)->n == 0)
		rehome_conn_query(conn, "SELECT rehome_source.set_fence($1, $2::int, false, '')",
						  "ti", migration->token, slice->id);
	rehome_conn_commit(conn);
	rehome_source_check_identity(conn, slice);
	rehome_debug_point("source-prepared");

	for (int i = 0; i < list_length(maps);)
	{
		bool		done;
		int			n = install_some(conn, slice, maps, i, list_length(maps), &done);

		if (!done && n > 0)		/* those before the one that is locked */
			n = install_some(conn, slice, maps, i, n, &done);
		if (!done)
		{
			/* one by itself, as patiently as the settings say */
			RehomeTableMap *map = list_nth(maps, i);

			learn(slice, map, run_with_locks(conn, create_capture_sql(slice, map, true), list_make1(map)));
			n = 1;
		}
		i += n;
	}
	record_captures(maps);
	if (slice->position == NULL)
		record_sources(conn, slice, maps);
}

/*
 * rehome_source_mend lets the capture of a slice's tables go on where columns
 * of the key have other names now: until then writes of these tables fail.
 * Triggers that are not ENABLE ALWAYS any more are so again, where the role may
 * say so.  conn is in no read only transaction.  Returns those that cannot go
 * on, as (map, damage): they note nothing.
 */
RehomeRows *
rehome_source_mend(RehomeConn *conn, RehomeSlice *slice)
{
	return rehome_conn_query(conn, "SELECT map, damage FROM rehome_source.mend($1, $2::int)", "ti",
							 slice->migration->token, slice->id);
}

/*
 * mend_beside does that while a transaction is open on the slice's connection.
 */
static RehomeRows *
mend_beside(RehomeSlice *slice)
{
	RehomeConn *conn = rehome_slice_connect(slice, "mend");
	RehomeRows *broken;

	/* who works on the same there may be waiting for what that transaction has */
	rehome_conn_exec(conn, psprintf("SET lock_timeout = %d", rehome_lock_timeout));
	broken = rehome_source_mend(conn, slice);

	rehome_conn_close(conn);
	return broken;
}

/*
 * is_part_of tells whether a table's fingerprint is another one but for that of
 * partitions which are gone.
 */
static bool
is_part_of(const char *print, const char *of)
{
	return rehome_bool(rehome_spi_value("SELECT string_to_array($1, ',') <@ string_to_array($2, ',')", "tt", print, of));
}

/*
 * rehome_source_inspect, called when the slice's fingerprint is another than
 * the one on record, finds the tables whose own has changed.  Those where
 * capture or fence do not work any more, or whose columns are not what the
 * map reads, are paused by themselves (structure.c); during a copy it raises.
 * Capture is mended first, at once, and whatever becomes of this transaction:
 * the source's users wait for it.
 * When triggers have been touched, what was written meanwhile may have
 * escaped: *touched gets the maps, to be read as a whole.  True when the
 * slice's fingerprint is to be stored.
 */
bool
rehome_source_inspect(RehomeConn *conn, RehomeSlice *slice, List *maps,
					  const char *print, List **touched)
{
	List	   *structures;
	RehomeRows *broken;
	RehomeRows *rows;
	ListCell   *lc;

	*touched = NIL;
	if (slice->source_print != NULL && strcmp(slice->source_print, print) == 0)
		return false;
	broken = mend_beside(slice);
	structures = rehome_structures(conn, maps);
	rows = inspect_tables(conn, slice, maps);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	   *print_now = rows->value[foreach_current_index(lc)][0];
		char	   *damage = rows->value[foreach_current_index(lc)][1];

		for (int i = 0; i < broken->n; i++)
			if (rehome_int(broken->value[i][0]) == map->id)
				damage = broken->value[i][1];
		if (damage != NULL && slice->state == REHOME_SYNCING)
		{
			rehome_map_lost(slice, map, "source", "capture lost", damage,
							"What was written since cannot be known: resuming it makes the triggers again and reads the table as a whole.");
			continue;
		}
		if (damage != NULL)
			ereport(ERROR,
					errcode(ERRCODE_REHOME_POSITION_LOST),
					errmsg("changes of %s are not captured any more", rehome_remote_relation(rehome_remote_table(map->source))),
					errdetail("At the source %s.", damage),
					errhint("What was written since cannot be known: CALL rehome.cancel(%s) and begin again.",
							quote_literal_cstr(slice->migration->name)));
		if (slice->state == REHOME_SYNCING &&
			rehome_structure_changed(slice, map, true, list_nth(structures, foreach_current_index(lc))))
			continue;
		if (map->source_print != NULL && strcmp(map->source_print, print_now) == 0)
			continue;
		if (map->source_print != NULL && !is_part_of(print_now, map->source_print))
			*touched = lappend(*touched, map);
		rehome_spi("UPDATE rehome.table_map SET source_print = $2 WHERE id = $1", "it",
				   map->id, print_now);
		map->source_print = MemoryContextStrdup(GetMemoryChunkContext(map), print_now);
	}
	rehome_slice_maps_changed(slice);	/* for whoever keeps them in memory */
	return true;
}

/*
 * rehome_source_inspect_back does the same after cutover, when rows go to the
 * source: it pauses the tables that have lost capture or fence, which must be
 * there when authority goes back, or that cannot take the rows.
 */
void
rehome_source_inspect_back(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	List	   *structures = rehome_structures(conn, maps);
	RehomeRows *rows;
	ListCell   *lc;

	/* the fence's triggers are to stand against replica role, too */
	(void) rehome_source_mend(conn, slice);
	rows = inspect_tables(conn, slice, maps);
	foreach(lc, maps)
	{
		char	   *damage = rows->value[foreach_current_index(lc)][1];

		if (damage != NULL)
			rehome_map_lost(slice, lfirst(lc), "source", "capture lost", damage,
							"What was written there since cannot be known: resuming it makes the triggers again and brings the table back as a whole.");
		else
			(void) rehome_structure_changed(slice, lfirst(lc), true, list_nth(structures, foreach_current_index(lc)));
	}
}

/*
 * call_on_partitions returns "SELECT rehome_source.function(...)" of a table.
 */
static char *
call_on_partitions(const char *function, RehomeSlice *slice, RehomeTableMap *map)
{
	return psprintf("SELECT rehome_source.%s(%s, %d, %d, %s)", function, quote_literal_cstr(slice->migration->token),
					slice->id, map->id,
					quote_literal_cstr(rehome_remote_relation(rehome_remote_table(map->source))));
}

/*
 * rehome_source_covered tells whether every partition of a table has the
 * triggers that do not come by themselves.
 */
bool
rehome_source_covered(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	return rehome_bool(rehome_conn_value(conn, call_on_partitions("is_covered", slice, map), ""));
}

/*
 * rehome_source_cover gives them to those that have been added.  locked: in
 * the transaction that is open, which has the table locked against writers.
 */
void
rehome_source_cover(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map, bool locked)
{
	char	   *sql;

	if (rehome_source_covered(conn, slice, map))
		return;
	sql = call_on_partitions("cover_partitions", slice, map);
	if (locked)
		rehome_conn_exec(conn, sql);
	else
		run_with_locks(conn, sql, list_make1(map));
}

/*
 * rehome_source_note_partitions notes which partitions a table has in the
 * snapshot of the transaction that is open on conn, their bounds, and what it
 * looks like with them.
 */
void
rehome_source_note_partitions(RehomeConn *conn, RehomeSlice *slice, RehomeTableMap *map)
{
	MemoryContext context = GetMemoryChunkContext(map);
	RehomeRows *rows;
	char	   *parts;
	char	   *bounds;

	if (map->source_parts == NULL)
		return;
	rows = rehome_conn_query(conn, "SELECT rehome_source.partitions($1::regclass), rehome_source.partition_bounds($1::regclass)", "t",
							 rehome_remote_relation(rehome_remote_table(map->source)));
	parts = rows->value[0][0];
	bounds = rows->value[0][1] ? rows->value[0][1] : "[]";
	/* one that has none is another table, which the next look at the source finds */
	if (parts == NULL)
		return;
	/* one that was detached for a while may have another bound */
	if (strcmp(parts, map->source_parts) == 0 && map->source_bounds != NULL && strcmp(bounds, map->source_bounds) == 0)
		return;
	map->source_parts = MemoryContextStrdup(context, parts);
	map->source_bounds = MemoryContextStrdup(context, bounds);
	map->source_print = MemoryContextStrdup(context, inspect_tables(conn, slice, list_make1(map))->value[0][0]);
	rehome_spi("UPDATE rehome.table_map SET source_parts = $2, source_bounds = $3::jsonb, source_print = $4 WHERE id = $1", "ittt",
			   map->id, map->source_parts, map->source_bounds, map->source_print);
}

/*
 * drop_by_table calls a function of schema rehome_source for each table, in a
 * transaction of its own.
 */
static void
drop_by_table(RehomeConn *conn, const char *function, const char *token, List *maps)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		/* without the foreign table nobody knows what it was called */
		if (get_rel_name(map->source) == NULL)
			run_with_locks(conn, psprintf("SELECT rehome_source.%s(%s, %d, NULL)", function, token, map->id), NIL);
		else
			run_with_locks(conn, psprintf("SELECT rehome_source.%s(%s, %d, to_regclass(%s))",
										  function, token, map->id,
										  quote_literal_cstr(rehome_remote_relation(rehome_remote_table(map->source)))),
						   list_make1(map));
	}
}

/*
 * rehome_source_remove takes away what rehome_source_install made; with
 * keep_fence the (closed) fence stays.  The schema goes with its last slice.
 * False when there was nothing to remove.
 */
bool
rehome_source_remove(RehomeConn *conn, RehomeSlice *slice, List *maps, bool keep_fence)
{
	char	   *token = quote_literal_cstr(slice->migration->token);
	List	   *known = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		if (get_rel_name(((RehomeTableMap *) lfirst(lc))->source) != NULL)
			known = lappend(known, lfirst(lc));
	if (rehome_conn_query(conn, "SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
						  " WHERE n.nspname = 'rehome_source'"
						  " AND (p.proname IN (SELECT 'capture_' || $1 || '_' || m FROM unnest($4::int[]) AS m)"
						  "      OR (NOT $2 AND p.proname = 'fence_' || $1 || '_' || $3::text))",
						  "tbit", slice->migration->token, keep_fence, slice->id, rehome_map_ids(maps))->n == 0)
		return false;
	drop_by_table(conn, "drop_capture", token, maps);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);

		if (map->filter != NULL)
			run_with_locks(conn, psprintf("DROP TABLE IF EXISTS %s", rehome_outside_table(slice->migration, map)), NIL);
	}
	if (keep_fence)
		return true;
	drop_by_table(conn, "drop_fence_triggers", token, maps);
	run_with_locks(conn, psprintf("SELECT rehome_source.drop_fence(%s, %d)", token, slice->id), known);
	rehome_conn_begin(conn, "");
	rehome_conn_exec(conn, SCHEMA_LOCK);
	if (rehome_conn_query(conn, "SELECT 1 FROM rehome_source.slice LIMIT 1", "")->n == 0)
		rehome_conn_exec(conn, "DROP SCHEMA rehome_source CASCADE");
	rehome_conn_commit(conn);
	return true;
}

/*
 * rehome_source_locked tries once, in the open transaction, to lock all
 * tables of the maps against writers.  The whole statement may wait no longer
 * than rehome.lock_timeout, however many tables there are.  On failure the
 * transaction has been rolled back, and *blockers says who was in the way.
 */
bool
rehome_source_locked(RehomeConn *conn, RehomeSlice *slice, List *maps, char **who)
{
	RehomeRemoteError error;
	char	   *gentle = psprintf("LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE", rehome_remote_relations(maps, false));
	char	   *sql = psprintf("LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE", rehome_remote_relations(maps, false));

	/*
	 * Autovacuum gives way to the first lock, which writers do not feel.
	 * Should we be lost, be it before we hear of a lock, the source lets its
	 * writers go by itself.
	 */
	rehome_conn_exec(conn, psprintf("SET LOCAL statement_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
									REHOME_AUTOVACUUM_TIMEOUT, rehome_freeze_timeout));
	if (rehome_conn_try(conn, gentle, &error) &&
		rehome_conn_try(conn, psprintf("SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %d",
									   rehome_lock_timeout, rehome_lock_timeout), &error) &&
		rehome_conn_try(conn, sql, &error))
	{
		rehome_conn_exec(conn, psprintf("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = %d",
										rehome_freeze_timeout));
		return true;
	}
	if (!is_lock_failure(&error))
		rehome_conn_raise(conn, &error, sql);
	rehome_conn_rollback(conn);
	*who = blockers(conn, maps, false);
	return false;
}

/*
 * rehome_source_taken returns the tables over which another migration has
 * authority, and where they have moved to.
 */
RehomeRows *
rehome_source_taken(RehomeConn *conn, RehomeSlice *slice, List *maps)
{
	return rehome_conn_query(conn, "SELECT DISTINCT r.name, s.home FROM unnest($3::text[]) AS r(name)"
							 " CROSS JOIN rehome_source.partition_tree(to_regclass(r.name)) AS p JOIN pg_trigger t ON t.tgrelid = p"
							 " JOIN pg_proc f ON f.oid = t.tgfoid AND f.pronamespace = 'rehome_source'::regnamespace"
							 " JOIN rehome_source.slice s ON f.proname = format('fence_%s_%s', s.token, s.slice)"
							 " WHERE s.authority = 'target' AND (s.token, s.slice) <> ($1, $2::int) ORDER BY 1, 2", "tit",
							 slice->migration->token, slice->id, rehome_remote_names(maps));
}
