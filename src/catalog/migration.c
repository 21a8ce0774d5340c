/*-------------------------------------------------------------------------
 *
 * migration.c
 *	  Reading and changing migrations, slices and table maps.
 *
 * Two locks guard a slice:
 *
 *	- the work lock, a heavyweight lock held to the end of the transaction by
 *	  whoever moves rows or authority of the slice (copy, batch, verification,
 *	  cutover, rollback, recover, complete, cancel).  It is taken first, and
 *	  everything read before is read again.  Two of them never overlap, so a
 *	  batch never meets a cutover half way.
 *	- the row lock on rehome.slice, taken by the UPDATE that changes it.
 *
 * pause() takes only the row lock, so it never waits for a batch's reading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/migration.h"
#include "commands/async.h"
#include "errors.h"
#include "foreign/foreign.h"
#include "guc.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/problems.h"
#include "util/spi.h"
#include "util/wait.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/* The work lock of slice n is the advisory lock (WORK_LOCK_CLASS, n). */
#define WORK_LOCK_CLASS 0x5252

static int64 last_event = 0;

#define MIGRATION_COLUMNS \
	"SELECT m.id, m.name, m.server, m.owner::oid, m.token, m.home, m.source_id," \
	" s.oid, f.fdwname" \
	" FROM rehome.migration m" \
	" LEFT JOIN pg_foreign_server s ON s.srvname = m.server" \
	" LEFT JOIN pg_foreign_data_wrapper f ON f.oid = s.srvfdw "

#define SLICE_COLUMNS \
	"SELECT s.id, s.name, s.state, s.authority, s.paused, s.reason, s.position, s.error," \
	" s.database_id <> rehome.database_identity(), s.migration_id, s.continuous, s.source_print, s.one_way, s.throttled, s.maps_version, s.target_print, s.copy_run" \
	" FROM rehome.slice s "

#define TABLE_MAP_COLUMNS \
	"SELECT t.id, t.slice_id, t.source::oid, t.target::oid, t.key, t.source_key," \
	" t.source_equal, t.filter, t.source_parts, t.source_bounds, t.source_print, t.target_parts," \
	" t.drift_policy, t.paused, t.reason, t.position, t.source_columns, t.target_columns," \
	" t.on_error, t.on_delete, t.delete_column, t.delete_archive::oid" \
	" FROM rehome.table_map t "

#define COLUMN_MAP_COLUMNS \
	"SELECT c.\"column\", c.kind, c.expression, c.inverse_column, c.inverse, c.on_error, t.id" \
	" FROM rehome.column_map c" \
	" JOIN rehome.table_map t ON t.id = c.table_map_id" \
	" LEFT JOIN pg_attribute a ON a.attrelid = t.target::oid AND a.attname = c.\"column\" "

#define COLUMN_MAP_ORDER " ORDER BY t.id, a.attnum, c.\"column\""

static RehomeMigration *
migration_from_row(char **v)
{
	RehomeMigration *m = palloc0(sizeof(RehomeMigration));

	m->id = rehome_int(v[0]);
	m->name = v[1];
	m->server = v[2];
	m->owner = (Oid) rehome_int64(v[3]);
	m->token = v[4];
	m->home = v[5];
	m->source_id = v[6];
	m->serverid = (Oid) rehome_int64(v[7]);
	/* of a server that is gone nobody knows; who connects to it is told so */
	m->live = m->server != NULL && (v[8] == NULL || strcmp(v[8], "postgres_fdw") == 0);
	return m;
}

/*
 * rehome_migration_get returns the migration of that name, or raises.
 */
RehomeMigration *
rehome_migration_get(const char *name)
{
	RehomeRows *rows = rehome_spi(MIGRATION_COLUMNS "WHERE m.name = $1::name", "t", name);

	if (rows->n == 0)
	{
		char	   *known = rehome_spi_value("SELECT string_agg(quote_ident(name), ', ' ORDER BY name) FROM rehome.migration", "");

		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("migration \"%s\" does not exist", name),
				known ? errhint("Existing migrations: %s.", known) :
				errhint("SELECT rehome.create_migration(%s, '<server>', '<reason>');",
						quote_literal_cstr(name)));
	}
	return migration_from_row(rows->value[0]);
}

/*
 * rehome_migration_argument returns the migration that argument 0 of a SQL
 * function names.
 */
RehomeMigration *
rehome_migration_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the migration's name must be given"));
	return rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));
}

RehomeMigration *
rehome_migration_by_id(int id)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *rows = rehome_spi_kept(&plan, MIGRATION_COLUMNS "WHERE m.id = $1", "i", id);

	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("migration %d does not exist", id));
	return migration_from_row(rows->value[0]);
}

static void
slice_from_row(RehomeSlice *s, char **v)
{
	s->id = rehome_int(v[0]);
	s->name = v[1];
	s->state = rehome_state_parse(v[2]);
	s->authority = rehome_authority_parse(v[3]);
	s->restored = rehome_bool(v[8]);
	s->paused = rehome_bool(v[4]) || s->restored;
	s->reason = v[5];
	s->position = v[6];
	s->error = v[7];
	s->continuous = rehome_bool(v[10]);
	s->source_print = v[11];
	s->one_way = rehome_bool(v[12]);
	s->throttled = v[13];
	s->maps_version = rehome_int64(v[14]);
	s->target_print = v[15];
	s->copy_run = rehome_int64(v[16]);
}

/*
 * rehome_slices_get returns one slice of a migration, or all of them when
 * slice is NULL, by id.
 */
List *
rehome_slices_get(RehomeMigration *migration, const char *slice)
{
	RehomeRows *rows = rehome_spi(SLICE_COLUMNS
								  "WHERE s.migration_id = $1 AND ($2 IS NULL OR s.name = $2::name) ORDER BY s.id",
								  "it", migration->id, slice);
	List	   *slices = NIL;

	if (rows->n == 0)
	{
		char	   *known = rehome_spi_value("SELECT string_agg(quote_ident(name), ', ' ORDER BY name) FROM rehome.slice WHERE migration_id = $1",
											 "i", migration->id);

		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("slice \"%s\" of migration \"%s\" does not exist",
					   slice ? slice : "*", migration->name),
				errhint("Existing slices: %s.", known ? known : "none"));
	}
	for (int i = 0; i < rows->n; i++)
	{
		RehomeSlice *s = palloc0(sizeof(RehomeSlice));

		slice_from_row(s, rows->value[i]);
		s->migration = migration;
		slices = lappend(slices, s);
	}
	return slices;
}

/*
 * slice_row reads a slice by its id: a row of SLICE_COLUMNS, or none.
 */
static RehomeRows *
slice_row(int id)
{
	static SPIPlanPtr plan = NULL;

	return rehome_spi_kept(&plan, SLICE_COLUMNS "WHERE s.id = $1", "i", id);
}

/*
 * rehome_slice_by_id returns a slice with its migration, or NULL when there
 * is none (any more).
 */
RehomeSlice *
rehome_slice_by_id(int id)
{
	RehomeRows *rows = slice_row(id);
	RehomeSlice *s;

	if (rows->n == 0)
		return NULL;
	s = palloc0(sizeof(RehomeSlice));
	slice_from_row(s, rows->value[0]);
	s->migration = rehome_migration_by_id(rehome_int(rows->value[0][9]));
	return s;
}

/*
 * column_of returns the name of the column of the source that an expression is as
 * it is, or NULL.  One that is validated is none, though its kind is copy.
 */
static char *
column_of(const char *expression)
{
	List	   *names;
	const char *name;

	if (!SplitIdentifierString(pstrdup(expression), '.', &names) || names == NIL)
		return NULL;
	name = quote_identifier(llast(names));
	return strlen(name) <= strlen(expression) && strcmp(expression + strlen(expression) - strlen(name), name) == 0 ?
		llast(names) : NULL;
}

/*
 * add_columns attaches to a table map its column maps: those of rows, of
 * COLUMN_MAP_COLUMNS, that begin at the index given.  Returns where those of
 * the next begin.
 */
static int
add_columns(RehomeTableMap *map, RehomeRows *rows, int i)
{
	/* of a map that is made at this moment, and was not seen */
	while (i < rows->n && rehome_int(rows->value[i][6]) < map->id)
		i++;
	for (; i < rows->n && rehome_int(rows->value[i][6]) == map->id; i++)
	{
		char	  **v = rows->value[i];
		RehomeColumnMap *c = palloc0(sizeof(RehomeColumnMap));

		c->name = v[0];
		c->rule = v[1];
		c->kind = v[2] == NULL ? REHOME_SKIP :
			strcmp(v[1], "copy") == 0 && column_of(v[2]) != NULL ? REHOME_COPY : REHOME_EXPRESSION;
		c->expression = v[2];
		c->inverse_column = v[3];
		c->inverse = v[4];
		c->on_error = v[5];
		map->columns = lappend(map->columns, c);
	}
	return i;
}

static const char *const drift_policies[] = {
	[REHOME_DRIFT_REJECT] = "reject",
	[REHOME_DRIFT_RECORD] = "record",
	[REHOME_DRIFT_REPAIR] = "repair",
};

const char *
rehome_drift_policy_name(RehomeDriftPolicy policy)
{
	return drift_policies[policy];
}

/*
 * rehome_drift_policy_parse returns the policy of that name, or raises.
 */
RehomeDriftPolicy
rehome_drift_policy_parse(const char *name)
{
	for (int i = 0; i < lengthof(drift_policies); i++)
		if (strcmp(name, drift_policies[i]) == 0)
			return (RehomeDriftPolicy) i;
	ereport(ERROR,
			errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("unknown drift policy \"%s\"", name),
			errhint("Policies are reject, record and repair."));
}

static RehomeTableMap *
table_map_from_row(char **v)
{
	RehomeTableMap *map = palloc0(sizeof(RehomeTableMap));

	map->unpruned = 1;		/* nobody knows */
	map->id = rehome_int(v[0]);
	map->slice_id = rehome_int(v[1]);
	map->source = (Oid) rehome_int64(v[2]);
	map->target = (Oid) rehome_int64(v[3]);
	map->key = rehome_name_list(v[4]);
	map->source_key = rehome_name_list(v[5]);
	map->source_equal = rehome_name_list(v[6]);
	map->filter = v[7];
	map->source_parts = v[8];
	map->source_bounds = v[9];
	map->source_print = v[10];
	map->target_parts = v[11];
	map->drift_policy = rehome_drift_policy_parse(v[12]);
	map->paused = rehome_bool(v[13]);
	map->reason = v[14];
	map->position = v[15];
	map->source_columns = v[16];
	map->target_columns = v[17];
	map->quarantine = strcmp(v[18], "quarantine") == 0;
	map->on_delete = v[19][0];
	map->delete_column = v[20];
	map->delete_archive = (Oid) rehome_int64(v[21]);
	return map;
}

/*
 * with_columns attaches the column maps of a single table map.
 */
static RehomeTableMap *
with_columns(RehomeTableMap *map)
{
	static SPIPlanPtr plan = NULL;

	(void) add_columns(map, rehome_spi_kept(&plan, COLUMN_MAP_COLUMNS "WHERE t.id = $1" COLUMN_MAP_ORDER, "i", map->id), 0);
	return map;
}

/*
 * rehome_table_maps_get returns the table maps of a slice, by id, with their
 * columns.
 */
List *
rehome_table_maps_get(RehomeSlice *slice)
{
	RehomeRows *rows = rehome_spi(TABLE_MAP_COLUMNS "WHERE t.slice_id = $1 ORDER BY t.id",
								  "i", slice->id);
	RehomeRows *columns = rehome_spi(COLUMN_MAP_COLUMNS "WHERE t.slice_id = $1" COLUMN_MAP_ORDER,
									 "i", slice->id);
	List	   *maps = NIL;
	int			column = 0;

	for (int i = 0; i < rows->n; i++)
	{
		RehomeTableMap *map = table_map_from_row(rows->value[i]);

		column = add_columns(map, columns, column);
		maps = lappend(maps, map);
	}
	return maps;
}

/*
 * rehome_copied_column returns which column of the source, by its local name, a
 * column has as it is; NULL when it is made otherwise.
 */
char *
rehome_copied_column(RehomeColumnMap *column)
{
	return column->kind == REHOME_COPY ? column_of(column->expression) : NULL;
}

/*
 * rehome_map_ids returns the ids of table maps as the text of an int[].
 */
char *
rehome_map_ids(List *maps)
{
	List	   *ids = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		ids = lappend(ids, psprintf("%d", ((RehomeTableMap *) lfirst(lc))->id));
	return rehome_name_array(ids);
}

/*
 * rehome_map_source_parts returns the partitions that table maps have on
 * record, as the text of a text[].
 */
char *
rehome_map_source_parts(List *maps)
{
	List	   *parts = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		parts = lappend(parts, ((RehomeTableMap *) lfirst(lc))->source_parts);
	return rehome_name_array(parts);
}

/*
 * rehome_map_targets returns the targets of table maps as the text of an oid[].
 */
char *
rehome_map_targets(List *maps)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, maps)
		oids = lappend(oids, psprintf("%u", ((RehomeTableMap *) lfirst(lc))->target));
	return rehome_name_array(oids);
}

/*
 * rehome_table_map_exists tells whether both relations of a map do.
 */
bool
rehome_table_map_exists(RehomeTableMap *map)
{
	return get_rel_name(map->source) != NULL && get_rel_name(map->target) != NULL;
}

/*
 * rehome_table_maps_require is rehome_table_maps_get for whoever is going to
 * use the relations: raises with all that have been dropped.
 */
List *
rehome_table_maps_require(RehomeSlice *slice)
{
	List	   *maps = rehome_table_maps_get(slice);
	RehomeProblems problems;
	ListCell   *lc;

	rehome_problems_init(&problems);
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		char	   *hint = NULL;

		if (slice->authority == REHOME_SOURCE)
			hint = psprintf("CALL rehome.cancel(%s, %s); and define it anew.",
							quote_literal_cstr(slice->migration->name),
							quote_literal_cstr(slice->name));
		if (get_rel_name(map->target) == NULL)
			rehome_problem(&problems, ERRCODE_UNDEFINED_TABLE, hint,
						   "The target of source %s, with OID %u, was dropped.",
						   rehome_relation_name(map->source), map->target);
		if (get_rel_name(map->source) == NULL)
			rehome_problem(&problems, ERRCODE_UNDEFINED_TABLE, hint,
						   "The source of target %s, with OID %u, was dropped.",
						   rehome_relation_name(map->target), map->source);
	}
	rehome_problems_raise(&problems, "tables of slice \"%s\" of migration \"%s\" do not exist any more",
						  slice->name, slice->migration->name);
	return maps;
}

RehomeTableMap *
rehome_table_map_by_id(int id)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *rows = rehome_spi_kept(&plan, TABLE_MAP_COLUMNS "WHERE t.id = $1", "i", id);

	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("table map %d does not exist", id));
	return with_columns(table_map_from_row(rows->value[0]));
}

/*
 * rehome_table_map_of returns a migration's map of a target table, or raises.
 */
RehomeTableMap *
rehome_table_map_of(RehomeMigration *migration, Oid target)
{
	RehomeRows *rows = rehome_spi(TABLE_MAP_COLUMNS
								  "JOIN rehome.slice s ON s.id = t.slice_id"
								  " WHERE s.migration_id = $1 AND t.target = $2",
								  "io", migration->id, target);

	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("table \"%s\" is not a target of migration \"%s\"",
					   get_rel_name(target), migration->name),
				errhint("SELECT rehome.add_table(%s, '<source>', '<target>');",
						quote_literal_cstr(migration->name)));
	return with_columns(table_map_from_row(rows->value[0]));
}

/*
 * rehome_require_owner refuses a change of a definition by anybody who could
 * not act as the migration's owner: its expressions run with that role's
 * rights.
 */
void
rehome_require_owner(RehomeCall *call, RehomeMigration *migration)
{
	if (!has_privs_of_role(call->caller, migration->owner))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be owner of migration \"%s\"", migration->name),
				SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(migration->owner)) ?
				errdetail("Its rules run with the rights of role \"%s\".",
						  GetUserNameFromId(migration->owner, false)) :
				errdetail("That role does not exist any more."));
}

/* What acquire is to lock, waiting how long. */
typedef struct WorkLockRequest
{
	LOCKTAG		tag;
	LOCKMODE	mode;
	int			timeout;		/* milliseconds */
} WorkLockRequest;

static void
acquire(void *arg)
{
	WorkLockRequest *request = arg;
	int			level = NewGUCNestLevel();

	rehome_limit_lock_waits(request->timeout);
	(void) LockAcquire(&request->tag, request->mode, false, false);
	AtEOXact_GUC(true, level);
}

/*
 * work_lock_holders describes who has the work lock, a line each; NULL when
 * nobody has any more.
 */
static char *
work_lock_holders(RehomeSlice *slice)
{
	return rehome_spi_value("SELECT string_agg(format('pid %s (%s) works on it%s%s%s', l.pid,"
							" coalesce(a.usename, a.backend_type, '?'),"
							" coalesce(', in a transaction for ' || date_trunc('milliseconds', clock_timestamp() - a.xact_start), ''),"
							" CASE WHEN coalesce(a.query, '') = '' THEN ': ' || nullif(a.application_name, '') END, " REHOME_RUNNING_SQL "), E'\\n' ORDER BY l.pid)"
							" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
							" WHERE l.granted AND l.locktype = 'advisory' AND l.pid <> pg_backend_pid()"
							" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
							" AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid = $3",
							"iii", WORK_LOCK_CLASS, slice->id, REHOME_LOCK_SPACE);
}

/*
 * work_lock waits in the lock's queue, so that a worker, which only ever
 * tries, cannot take it before us again and again.  A session waits as long
 * as it would for tables, and then says who is in its way; with patient, or
 * in a background worker, which nobody waits for, there is no limit.
 */
static void
work_lock(RehomeSlice *slice, LOCKMODE mode, bool patient)
{
	WorkLockRequest request = {.mode = mode};
	ErrorData  *error;
	char	   *holders;

	if (RecoveryInProgress())
		ereport(ERROR,
				errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				errmsg("cannot work on slice \"%s\" of migration \"%s\" during recovery",
					   slice->name, slice->migration->name),
				errdetail("This server is a standby."),
				errhint("Connect to its primary."));
	/* what is read again under the lock is to be as it is now */
	if (!patient && IsolationUsesXactSnapshot())
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("cannot work on slice \"%s\" of migration \"%s\" in a transaction of isolation level %s",
					   slice->name, slice->migration->name,
					   IsolationIsSerializable() ? "SERIALIZABLE" : "REPEATABLE READ"),
				errdetail("It sees the state of the slice, and what others have written to its tables, as they were when it began."),
				errhint("BEGIN ISOLATION LEVEL READ COMMITTED, or SET default_transaction_isolation TO 'read committed'."));
	SET_LOCKTAG_ADVISORY(request.tag, MyDatabaseId, WORK_LOCK_CLASS, slice->id, REHOME_LOCK_SPACE);
	request.timeout = (int) Min((int64) rehome_lock_timeout * (rehome_lock_retries + 1), INT_MAX);
	if (patient || MyBackendType != B_BACKEND)
		(void) LockAcquire(&request.tag, mode, false, false);
	else if (LockAcquire(&request.tag, mode, false, true) == LOCKACQUIRE_NOT_AVAIL &&
			 (error = rehome_attempt(acquire, &request)) != NULL)
	{
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		holders = work_lock_holders(slice);
		ereport(ERROR,
				errcode(ERRCODE_REHOME_LOCK_TIMEOUT),
				errmsg("could not lock slice \"%s\" of migration \"%s\" within %d ms",
					   slice->name, slice->migration->name, request.timeout),
				errdetail_internal("%s", holders ? holders : "Whoever held the lock has gone meanwhile."),
				errhint("Try again when that transaction has ended, end it with pg_cancel_backend(), or raise rehome.lock_timeout (now %d ms) or rehome.lock_retries (now %d).",
						rehome_lock_timeout, rehome_lock_retries));
	}
	rehome_slice_reread(slice);
}

/*
 * rehome_slice_work_lock takes the work lock to the end of the transaction
 * and reads the slice again.  It waits for the lock, but not for ever: raises
 * with who has it after rehome.lock_timeout times one more than
 * rehome.lock_retries.
 */
void
rehome_slice_work_lock(RehomeSlice *slice)
{
	work_lock(slice, ExclusiveLock, false);
}

/*
 * rehome_slice_work_wait is the same without a limit: where authority has
 * moved already, and an error would be a lie.
 */
void
rehome_slice_work_wait(RehomeSlice *slice)
{
	work_lock(slice, ExclusiveLock, true);
}

/*
 * rehome_slice_work_share is like rehome_slice_work_lock for work that is
 * done in parallel: the chunks of a copy.
 */
void
rehome_slice_work_share(RehomeSlice *slice)
{
	work_lock(slice, ShareLock, false);
}

/*
 * rehome_slice_try_work_lock takes the work lock if nobody has it.
 */
bool
rehome_slice_try_work_lock(int slice_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, WORK_LOCK_CLASS, slice_id, REHOME_LOCK_SPACE);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * rehome_slice_reread refreshes what may have changed while waiting.
 */
void
rehome_slice_reread(RehomeSlice *slice)
{
	RehomeRows *rows = slice_row(slice->id);

	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("slice \"%s\" does not exist any more", slice->name));
	slice_from_row(slice, rows->value[0]);
}

/*
 * rehome_slice_maps_changed has a running worker read the slice's table maps
 * again.
 */
void
rehome_slice_maps_changed(RehomeSlice *slice)
{
	rehome_spi("UPDATE rehome.slice SET maps_version = maps_version + 1 WHERE id = $1", "i", slice->id);
}

/*
 * rehome_slice_set_state moves a slice along an edge of the table in state.c
 * and logs it as an event of the kind given: the call that moved it.  detail
 * is the text of a jsonb object or NULL.
 */
void
rehome_slice_set_state(RehomeSlice *slice, RehomeState state, const char *kind,
					   const char *message, const char *detail)
{
	if (!rehome_state_may(slice->state, state))
		elog(ERROR, "no transition from %s to %s",
			 rehome_state_name(slice->state), rehome_state_name(state));
	rehome_spi("UPDATE rehome.slice SET state = $2, authority = $3,"
			   " state_since = clock_timestamp(), error = NULL, error_since = NULL,"
			   " database_id = rehome.database_identity() WHERE id = $1",
			   "itt", slice->id, rehome_state_name(state),
			   rehome_authority_name(rehome_state_authority(state)));
	slice->state = state;
	slice->authority = rehome_state_authority(state);
	rehome_event(slice->migration->name, slice->name, kind, message, detail);
}

/*
 * rehome_slice_set_position records the snapshot the target now equals.
 * rows counts what was applied to get there; pending what is known to be
 * left.  An error that was shown is over.
 */
void
rehome_slice_set_position(RehomeSlice *slice, const char *position,
						  int64 rows, int64 pending)
{
	rehome_spi("UPDATE rehome.slice SET position = $2, position_at = clock_timestamp(),"
			   " rows_applied = rows_applied + $3, batches = batches + 1, pending = $4,"
			   " error = NULL, error_since = NULL WHERE id = $1",
			   "itll", slice->id, position, rows, pending);
	slice->position = pstrdup(position);
}

/*
 * rehome_slice_set_error records why a worker cannot go on; since when is
 * kept over repeats.
 */
void
rehome_slice_set_error(int slice_id, const char *message)
{
	rehome_spi("UPDATE rehome.slice SET error = $2,"
			   " error_since = coalesce(error_since, clock_timestamp())"
			   " WHERE id = $1 AND error IS DISTINCT FROM $2",
			   "it", slice_id, message);
}

/*
 * rehome_slice_throttled records why no work is begun, NULL when it is, if
 * that has changed; true when there is a reason.
 */
bool
rehome_slice_throttled(RehomeSlice *slice, const char *reason)
{
	if ((reason == NULL) != (slice->throttled == NULL) ||
		(reason != NULL && strcmp(reason, slice->throttled) != 0))
		rehome_spi("UPDATE rehome.slice SET throttled = $2 WHERE id = $1", "it", slice->id, reason);
	return reason != NULL;
}

/*
 * rehome_event writes the status log and notifies "rehome" at commit.
 * detail is the text of a jsonb object or NULL.  Returns the event's id.
 */
int64
rehome_event(const char *migration, const char *slice, const char *kind,
			 const char *message, const char *detail)
{
	char	   *id;
	char	   *payload;

	id = rehome_spi_value("INSERT INTO rehome.event (migration, slice, kind, message, detail)"
						  " VALUES ($1::name, $2::name, $3, $4, $5::jsonb) RETURNING id",
						  "ttttt", migration, slice, kind, message, detail);
	payload = rehome_spi_value("SELECT json_build_object('migration', $1, 'slice', $2, 'kind', $3, 'event', $4::bigint)::text",
							   "tttt", migration, slice, kind, id);
	Async_Notify("rehome", payload);
	last_event = rehome_int64(id);
	return last_event;
}

/*
 * rehome_last_event returns the id of the event this session wrote last.
 */
int64
rehome_last_event(void)
{
	return last_event;
}
