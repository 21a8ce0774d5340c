/*-------------------------------------------------------------------------
 *
 * query.c
 *	  Queries of the application, run on both sides.
 *
 * Each is run once for its rows, which are compared as they are, whatever
 * their order.  Then each side times it by itself, with EXPLAIN (ANALYZE,
 * TIMING OFF), in turns, and the fastest of the repetitions counts: neither the
 * network nor who had the cold cache is measured.  The planner has the settings
 * that a client of that server would have.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "guc.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "trust/sides.h"
#include "trust/sql/compare_rows.sql.h"
#include "trust/trust.h"
#include "util/sink.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

typedef struct RehomeQuery
{
	int			id;
	char	   *name;
	char	   *sql[2];			/* source, target */
	double		factor;
	double		noise;
	RehomeStated stated;
} RehomeQuery;

typedef struct QueryResult
{
	const char *status;
	int64		rows[2];
	int64		different;
	double		ms[2];
	char	   *plan[2];
	bool		slower;
	char	   *only;			/* rows that only one side has, or NULL */
	char	   *message;
} QueryResult;

/*
 * require_limits raises unless factor and noise are what they may be.
 */
static void
require_limits(RehomeQueryStated *query)
{
	if (!(query->factor >= 1) || !(query->noise >= 0) || isinf(query->factor) || isinf(query->noise))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("factor must be at least 1 and noise at least 0, and neither may be infinite"));
}

/*
 * rehome_define_query stores a query, if it is one.
 */
void
rehome_define_query(RehomeMigration *migration, RehomeQueryStated *query)
{
	RehomeSlice *slice = linitial(rehome_slices_get(migration, query->slice));

	require_limits(query);
	rehome_stated_require_select(query->sql[0], "source_sql");
	rehome_stated_require_select(query->sql[1], "target_sql");
	if (rehome_spi("SELECT 1 FROM rehome.query_definition WHERE migration_id = $1 AND name = $2::name", "it",
				   migration->id, query->name)->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("query \"%s\" of migration \"%s\" already exists", query->name, migration->name),
				errhint("SELECT rehome.drop_query(%s, %s);", quote_literal_cstr(migration->name), quote_literal_cstr(query->name)));
	rehome_spi("INSERT INTO rehome.query_definition (migration_id, slice_id, name, source_sql, target_sql, search_path, factor, noise)"
			   " VALUES ($1, $2, $3::name, $4, $5, $6, $7::float8, $8::float8)", "iitttttt",
			   migration->id, slice->id, query->name, rehome_stated_trim(query->sql[0]), rehome_stated_trim(query->sql[1]),
			   query->search_path, psprintf("%.17g", query->factor), psprintf("%.17g", query->noise));
}

PG_FUNCTION_INFO_V1(rehome_add_query);

/*
 * rehome_add_query(migration name, name name, source_sql text, target_sql
 * text, slice name, factor float8, noise float8)
 */
Datum
rehome_add_query(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeQueryStated query = {0};

	query.name = REHOME_ARG_NAME(1);
	query.sql[0] = rehome_trust_required(fcinfo, 2, "source_sql");
	query.sql[1] = PG_ARGISNULL(3) ? query.sql[0] : REHOME_ARG_TEXT(3);
	query.slice = REHOME_ARG_NAME(4);
	if (query.name == NULL || query.name[0] == '\0' || query.slice == NULL || PG_ARGISNULL(5) || PG_ARGISNULL(6))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the query's name, slice, factor and noise must be given"));
	query.factor = PG_GETARG_FLOAT8(5);
	query.noise = PG_GETARG_FLOAT8(6);
	require_limits(&query);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	query.search_path = rehome_stated_path(&call);
	rehome_define_query(migration, &query);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

static void
require_query(RehomeMigration *migration, const char *name)
{
	char	   *known;

	if (rehome_spi("SELECT 1 FROM rehome.query_definition WHERE migration_id = $1 AND name = $2::name",
				   "it", migration->id, name)->n > 0)
		return;
	known = rehome_spi_value("SELECT string_agg(quote_ident(name), ', ' ORDER BY name) FROM rehome.query_definition WHERE migration_id = $1",
							 "i", migration->id);
	ereport(ERROR,
			errcode(ERRCODE_UNDEFINED_OBJECT),
			errmsg("query \"%s\" of migration \"%s\" does not exist", name, migration->name),
			errhint("Existing queries: %s.", known ? known : "none"));
}

PG_FUNCTION_INFO_V1(rehome_drop_query);

/*
 * rehome_drop_query(migration name, name name)
 */
Datum
rehome_drop_query(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the query's name must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	require_query(migration, NameStr(*PG_GETARG_NAME(1)));
	rehome_spi("DELETE FROM rehome.query_definition WHERE migration_id = $1 AND name = $2::name", "it",
			   migration->id, NameStr(*PG_GETARG_NAME(1)));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * to_texts makes the text of a JSON array of the rows' texts.
 */
static char *
to_texts(RehomeRows *rows)
{
	StringInfoData array;

	initStringInfo(&array);
	appendStringInfoChar(&array, '[');
	for (int i = 0; i < rows->n; i++)
	{
		if (i > 0)
			appendStringInfoChar(&array, ',');
		escape_json(&array, rows->value[i][0] ? rows->value[i][0] : "");
	}
	appendStringInfoChar(&array, ']');
	return array.data;
}

/*
 * time_side runs a query on one side and keeps its time if it was the fastest
 * so far; NULL or what went wrong.
 */
static char *
time_side(RehomeSides *sides, RehomeQuery *query, int side, QueryResult *result)
{
	RehomeRows *rows;
	char	   *wrong;
	double		ms;

	wrong = rehome_sides_run(sides, side == 0, &query->stated,
							 psprintf("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) %s", query->sql[side]), &rows);
	if (wrong != NULL)
		return wrong;
	ms = rehome_float8(rehome_spi_value("SELECT $1::jsonb->0->>'Execution Time'", "t", rows->value[0][0]));
	if (result->plan[side] == NULL || ms < result->ms[side])
	{
		result->ms[side] = ms;
		result->plan[side] = rows->value[0][0];
	}
	return NULL;
}

/*
 * run_query runs one query on both sides.
 */
static void
run_query(RehomeSides *sides, RehomeQuery *query, int repetitions, QueryResult *result)
{
	char	   *texts[2];
	RehomeRows *rows;

	result->status = "error";
	for (int side = 0; side < 2; side++)
	{
		result->message = rehome_sides_rows(sides, side == 0, &query->stated, "\"rehome row\"::text",
											query->sql[side], &rows);
		if (result->message != NULL)
			return;
		result->rows[side] = rows->n;
		texts[side] = to_texts(rows);
	}
	for (int i = 0; i < repetitions; i++)
		for (int side = 0; side < 2; side++)
		{
			CHECK_FOR_INTERRUPTS();
			result->message = time_side(sides, query, side, result);
			if (result->message != NULL)
				return;
		}
	result->slower = result->ms[1] > result->ms[0] * query->factor && result->ms[1] - result->ms[0] > query->noise;
	if (strcmp(texts[0], texts[1]) != 0)
	{
		rows = rehome_spi(sql_compare_rows, "tt", texts[0], texts[1]);
		result->different = rehome_int64(rows->value[0][0]);
		result->only = result->different > 0 ? rows->value[0][1] : NULL;
	}
	result->status = result->different == 0 ? "equal" : "different";
	if (result->different > 0)
		result->message = psprintf(INT64_FORMAT " rows differ", result->different);
	if (result->slower)
		result->message = psprintf("%s%s%.1f ms instead of %.1f ms", result->message ? result->message : "",
								   result->message ? "; " : "", result->ms[1], result->ms[0]);
}

/*
 * keep stores one result and puts its row.
 */
static void
keep(RehomeSink *sink, RehomeSides *sides, RehomeQuery *query, QueryResult *result)
{
	bool		ran = strcmp(result->status, "error") != 0;
	char	   *counts[3] = {psprintf(INT64_FORMAT, result->rows[0]), psprintf(INT64_FORMAT, result->rows[1]),
		psprintf(INT64_FORMAT, result->different)};
	char	   *times[3] = {psprintf("%.3f", result->ms[0]), psprintf("%.3f", result->ms[1]),
		psprintf("%.3f", result->ms[1] / Max(result->ms[0], 0.001))};

	rehome_spi("INSERT INTO rehome.query_result (query_id, status, source_rows, target_rows, rows_different,"
			   " source_ms, target_ms, ratio, slower, evidence, message, snapshot)"
			   " VALUES ($1, $2, $3::bigint, $4::bigint, $5::bigint, $6::float8, $7::float8, $8::float8, $9,"
			   " nullif(jsonb_strip_nulls(jsonb_build_object('only', $10::jsonb, 'source_plan', $11::jsonb, 'target_plan', $12::jsonb)), '{}'), $13, $14)",
			   "itttttttbttttt", query->id, result->status, ran ? counts[0] : NULL, ran ? counts[1] : NULL,
			   ran ? counts[2] : NULL, ran ? times[0] : NULL, ran ? times[1] : NULL, ran ? times[2] : NULL,
			   result->slower, result->only, result->slower ? result->plan[0] : NULL,
			   result->slower ? result->plan[1] : NULL, result->message, sides->snapshot);
	if (sink == NULL)
		return;
	rehome_sink_put(sink, (char *[]) {sides->slice->name, query->name, (char *) result->status,
										 ran ? counts[0] : NULL, ran ? counts[1] : NULL, ran ? counts[2] : NULL,
										 ran ? times[0] : NULL, ran ? times[1] : NULL, ran ? times[2] : NULL,
										 result->slower ? "t" : "f", result->message});
}

static List *
queries_of(RehomeSlice *slice, const char *names)
{
	RehomeRows *rows;
	List	   *queries = NIL;

	rows = rehome_spi("SELECT id, name, source_sql, target_sql, factor, noise, search_path FROM rehome.query_definition"
					  " WHERE slice_id = $1 AND ($2 IS NULL OR name = ANY ($2::name[])) ORDER BY id", "it", slice->id, names);
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		RehomeQuery *query = palloc0(sizeof(RehomeQuery));

		query->id = rehome_int(v[0]);
		query->name = v[1];
		query->sql[0] = v[2];
		query->sql[1] = v[3];
		query->factor = rehome_float8(v[4]);
		query->noise = rehome_float8(v[5]);
		query->stated.owner = slice->migration->owner;
		query->stated.search_path = v[6];
		query->stated.timeout = rehome_check_timeout;
		query->stated.as_client = true;
		queries = lappend(queries, query);
	}
	return queries;
}

/*
 * rehome_queries_run runs the queries of a slice, or those with names; keeps
 * the results, and puts them if there is a sink.  Returns how many there were.
 */
int
rehome_queries_run(RehomeCall *call, RehomeSink *sink, RehomeSlice *slice, const char *names, int repetitions)
{
	List	   *queries = queries_of(slice, names);
	MemoryContext context;
	RehomeSides *sides;
	int			different = 0;
	int			slower = 0;
	ListCell   *lc;

	if (queries == NIL)
		return 0;
	sides = rehome_sides_freeze(call, slice, "run_queries");
	context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome query", ALLOCSET_DEFAULT_SIZES);
	foreach(lc, queries)
	{
		QueryResult result = {0};
		MemoryContext old = MemoryContextSwitchTo(context);

		run_query(sides, lfirst(lc), repetitions, &result);
		different += strcmp(result.status, "equal") != 0;
		slower += result.slower;
		keep(sink, sides, lfirst(lc), &result);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	rehome_event(slice->migration->name, slice->name, "queried",
				 psprintf("%d queries at %s: %d not equal, %d slower", list_length(queries), sides->snapshot, different, slower), NULL);
	rehome_sides_release(sides);
	return list_length(queries);
}

PG_FUNCTION_INFO_V1(rehome_run_queries);

/*
 * rehome_run_queries(migration name, slice name, names name[], repetitions int)
 */
Datum
rehome_run_queries(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	RehomeMigration *migration;
	char	   *names = PG_ARGISNULL(2) ? NULL : rehome_trust_array(fcinfo, 2, "the queries");
	int			n = 0;
	ListCell   *lc;

	if (PG_ARGISNULL(3) || PG_GETARG_INT32(3) < 1 || PG_GETARG_INT32(3) > 1000)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("repetitions must be between 1 and 1000"));
	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	if (names != NULL)
		foreach(lc, rehome_name_list(names))
			require_query(migration, lfirst(lc));
	foreach(lc, rehome_slices_named(migration, REHOME_ARG_NAME(1)))
		n += rehome_queries_run(&call, &sink, lfirst(lc), names, PG_GETARG_INT32(3));
	if (n == 0)
		ereport(NOTICE,
				errmsg("there is no query to run"),
				errhint("SELECT rehome.add_query(%s, '<name>', '<query>');", quote_literal_cstr(migration->name)));
	rehome_call_end(&call);
	return (Datum) 0;
}
