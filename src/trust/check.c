/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Checks of the business, of other systems, of the application.
 *
 * A check has a query for each side, whose results are compared by key, or
 * for one side, which has to find nothing, or none: then another system
 * reports the result.  Every result is kept; the last one counts, until it is
 * too old.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "trust/sides.h"
#include "trust/sql/compare_results.sql.h"
#include "trust/trust.h"
#include "util/attempt.h"
#include "util/sink.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "verify/discrepancy.h"

/* A row as an object; of the first also as one that has each of its columns. */
#define CHECK_ROW "to_jsonb(\"rehome row\"), CASE WHEN row_number() OVER () = 1 THEN to_json(\"rehome row\") END"

typedef struct RehomeCheck
{
	int			id;
	char	   *name;
	char	   *layer;
	char	   *source_sql;		/* or NULL */
	char	   *target_sql;
	char	   *key;			/* text of a text[], or NULL */
	char	   *tolerance;
	RehomeStated stated;
} RehomeCheck;

typedef struct CheckResult
{
	const char *status;
	char	   *source_rows;	/* numbers as text, or NULL */
	char	   *target_rows;
	char	   *differences;
	char	   *evidence;
	char	   *message;
} CheckResult;

/*
 * require_tolerance raises unless each tolerance is a number, a percentage or
 * an interval, naming all that are not.
 */
static void
require_tolerance(const char *tolerance)
{
	RehomeProblems problems;
	RehomeRows *rows;

	rehome_problems_init(&problems);
	if (!rehome_bool(rehome_spi_value("SELECT jsonb_typeof($1::jsonb) = 'object'", "t", tolerance)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("tolerance is not an object"),
				errdetail("It is: %s", tolerance),
				errhint("It has a member for each column: {\"total\": 0.01, \"rate\": \"1%%\", \"at\": \"1 second\"}."));
	rows = rehome_spi("SELECT key, value FROM jsonb_each($1::jsonb)"
					  " WHERE NOT CASE jsonb_typeof(value) WHEN 'number' THEN value::numeric >= 0"
					  " WHEN 'string' THEN value #>> '{}' ~ '^[0-9]+([.][0-9]+)? *%$'"
					  " OR value #>> '{}' ~* '^[0-9]+([.][0-9]+)? *(microsecond|millisecond|second|minute|hour|day)s?$'"
					  " ELSE false END ORDER BY key", "t", tolerance);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE,
					   "A tolerance is a number, a percentage such as \"1%\", or a time such as \"1 second\".",
					   "%s: %s", rows->value[i][0], rows->value[i][1]);
	rehome_problems_raise(&problems, "these are no tolerances");
}

/*
 * rehome_define_check stores a check, if it is one.
 */
void
rehome_define_check(RehomeMigration *migration, RehomeCheckStated *check)
{
	RehomeSlice *slice = linitial(rehome_slices_get(migration, check->slice));
	char	   *sql[2] = {check->sql[0], check->sql[1]};

	if (!rehome_bool(rehome_spi_value("SELECT $1 IN ('business', 'integration', 'application', 'structure')", "t", check->layer)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("unknown layer \"%s\"", check->layer),
				errhint("Layers are business, integration, application and structure."));
	require_tolerance(check->tolerance);
	rehome_trust_interval(check->valid_for, "valid_for");
	for (int side = 0; side < 2; side++)
		if (sql[side] != NULL)
		{
			rehome_stated_require_select(sql[side], side == 0 ? "source_sql" : "target_sql");
			sql[side] = rehome_stated_trim(sql[side]);
		}
	if ((sql[0] == NULL || sql[1] == NULL) && (check->key != NULL || strcmp(check->tolerance, "{}") != 0))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("check \"%s\" compares nothing: it needs no key and no tolerance", check->name),
				errhint("Give both source_sql and target_sql, or leave key and tolerance out."));
	if (rehome_spi("SELECT 1 FROM rehome.check_definition WHERE migration_id = $1 AND name = $2::name", "it",
				   migration->id, check->name)->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("check \"%s\" of migration \"%s\" already exists", check->name, migration->name),
				errhint("SELECT rehome.drop_check(%s, %s);", quote_literal_cstr(migration->name), quote_literal_cstr(check->name)));
	rehome_spi("INSERT INTO rehome.check_definition (migration_id, slice_id, name, layer, source_sql, target_sql, key,"
			   " tolerance, search_path, valid_for, description)"
			   " VALUES ($1, $2, $3::name, $4, $5, $6, $7::text[], $8::jsonb, $9, $10::interval, $11)", "iittttttttt",
			   migration->id, slice->id, check->name, check->layer, sql[0], sql[1], check->key, check->tolerance,
			   check->search_path, check->valid_for, check->description);
}

PG_FUNCTION_INFO_V1(rehome_add_check);

/*
 * rehome_add_check(migration name, name name, layer text, source_sql text,
 * target_sql text, key text[], tolerance jsonb, slice name, valid_for
 * interval, description text)
 */
Datum
rehome_add_check(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeCheckStated check = {0};

	check.name = REHOME_ARG_NAME(1);
	check.layer = rehome_trust_required(fcinfo, 2, "the layer");
	check.sql[0] = REHOME_ARG_TEXT(3);
	check.sql[1] = REHOME_ARG_TEXT(4);
	check.key = PG_ARGISNULL(5) ? NULL : rehome_trust_array(fcinfo, 5, "a column of the key");
	check.tolerance = PG_ARGISNULL(6) ? "{}" : DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(6)));
	check.slice = REHOME_ARG_NAME(7);
	check.description = REHOME_ARG_TEXT(9);
	if (check.name == NULL || check.name[0] == '\0' || check.slice == NULL)
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the check's name and slice must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	check.valid_for = PG_ARGISNULL(8) ? NULL : DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(8)));
	check.search_path = rehome_stated_path(&call);
	rehome_define_check(migration, &check);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * require_check raises unless the migration has a check of that name; returns
 * its id.
 */
static int
require_check(RehomeMigration *migration, const char *name)
{
	RehomeRows *rows = rehome_spi("SELECT id FROM rehome.check_definition WHERE migration_id = $1 AND name = $2::name",
								  "it", migration->id, name);

	if (rows->n == 0)
	{
		char	   *known = rehome_spi_value("SELECT string_agg(quote_ident(name), ', ' ORDER BY name) FROM rehome.check_definition WHERE migration_id = $1",
											 "i", migration->id);

		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("check \"%s\" of migration \"%s\" does not exist", name, migration->name),
				errhint("Existing checks: %s.", known ? known : "none"));
	}
	return rehome_int(rows->value[0][0]);
}

PG_FUNCTION_INFO_V1(rehome_drop_check);

/*
 * rehome_drop_check(migration name, name name)
 */
Datum
rehome_drop_check(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the check's name must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	rehome_spi("DELETE FROM rehome.check_definition WHERE id = $1", "i",
			   require_check(migration, NameStr(*PG_GETARG_NAME(1))));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_report_check);

/*
 * rehome_report_check(migration name, name name, passed boolean, evidence jsonb)
 */
Datum
rehome_report_check(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	int			id;
	char	   *name = REHOME_ARG_NAME(1);
	char	   *evidence = PG_ARGISNULL(3) ? NULL : DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(3)));

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the check's name, and whether it passed, must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	id = require_check(migration, name);
	if (!rehome_bool(rehome_spi_value("SELECT source_sql IS NULL AND target_sql IS NULL FROM rehome.check_definition WHERE id = $1", "i", id)))
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("check \"%s\" of migration \"%s\" is not one that others report", name, migration->name),
				errdetail("It has queries of its own."),
				errhint("SELECT * FROM rehome.run_checks(%s, names => ARRAY[%s]::name[]);",
						quote_literal_cstr(migration->name), quote_literal_cstr(name)));
	rehome_spi("INSERT INTO rehome.check_result (check_id, status, evidence, reported_by)"
			   " VALUES ($1, CASE WHEN $2 THEN 'passed' ELSE 'failed' END, $3::jsonb, $4::name)", "ibtt",
			   id, PG_GETARG_BOOL(2), evidence, rehome_actor());
	rehome_event(migration->name, NULL, "checked",
				 psprintf("check %s was reported as %s", name, PG_GETARG_BOOL(2) ? "passed" : "failed"), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * to_array makes the text of a JSON array of rows, each the text of an object.
 */
static char *
to_array(RehomeRows *rows, int limit)
{
	StringInfoData array;

	initStringInfo(&array);
	appendStringInfoChar(&array, '[');
	for (int i = 0; i < Min(rows->n, limit); i++)
		appendStringInfo(&array, "%s%s", i > 0 ? "," : "", rows->value[i][0]);
	appendStringInfoChar(&array, ']');
	return array.data;
}

/*
 * ambiguous_columns names the columns that a result has more than once: of
 * these, an object has the last only.
 */
static char *
ambiguous_columns(RehomeRows *rows)
{
	return rows->n == 0 ? NULL :
		rehome_spi_value("SELECT string_agg(c, ', ' ORDER BY c) FROM (SELECT c FROM json_object_keys($1::json) AS c GROUP BY c HAVING count(*) > 1) AS x",
						 "t", rows->value[0][1]);
}

/*
 * absent_columns names the columns of key and tolerance that a result lacks.
 */
static char *
absent_columns(RehomeCheck *check, const char *rows)
{
	return rehome_spi_value("SELECT string_agg(c, ', ' ORDER BY c) FROM (SELECT unnest($2::text[]) UNION SELECT jsonb_object_keys($3::jsonb)) AS x(c)"
							" WHERE jsonb_array_length($1::jsonb) > 0 AND NOT $1::jsonb->0 ? c", "ttt",
							rows, check->key, check->tolerance);
}

/* A comparison, for rehome_attempt. */
typedef struct Comparison
{
	RehomeCheck *check;
	RehomeRows *source;
	RehomeRows *target;
	CheckResult *result;
} Comparison;

/*
 * compare compares two results.
 */
static void
compare(void *arg)
{
	RehomeCheck *check = ((Comparison *) arg)->check;
	RehomeRows *source = ((Comparison *) arg)->source;
	RehomeRows *target = ((Comparison *) arg)->target;
	CheckResult *result = ((Comparison *) arg)->result;
	char	   *rows[2] = {to_array(source, source->n), to_array(target, target->n)};
	RehomeRows *differences;
	char	   *summary;

	for (int side = 0; side < 2; side++)
	{
		const char *name = side == 0 ? "source" : "target";
		char	   *ambiguous = ambiguous_columns(side == 0 ? source : target);
		char	   *absent = absent_columns(check, rows[side]);

		if (ambiguous != NULL)
			result->message = psprintf("%s: the result has several columns of the same name: %s", name, ambiguous);
		else if (absent != NULL)
			result->message = psprintf("%s: the result lacks columns of key or tolerance: %s", name, absent);
		if (result->message != NULL)
			return;
	}
	differences = rehome_spi(sql_compare_results, "tttt", rows[0], rows[1], check->key, check->tolerance);
	result->status = differences->n == 0 ? "passed" : "failed";
	result->differences = psprintf("%d", differences->n);
	if (differences->n == 0)
		return;
	result->evidence = "[]";
	for (int i = 0; i < Min(differences->n, REHOME_EVIDENCE_ROWS); i++)
	{
		char	  **v = differences->value[i];

		result->evidence = rehome_spi_value("SELECT $1::jsonb || jsonb_strip_nulls(jsonb_build_object('kind', $2, 'key', nullif($3::jsonb, '{}'),"
											" 'columns', to_jsonb($4::text[]), 'source', $5::jsonb, 'target', $6::jsonb))", "tttttt",
											result->evidence, v[0], v[1], v[2], v[3], v[4]);
	}
	summary = rehome_spi_value("SELECT string_agg(format('%s %s', n, kind), ', ' ORDER BY kind) FROM"
							   " (SELECT e->>'kind' AS kind, count(*) AS n FROM jsonb_array_elements($1::jsonb) AS e GROUP BY 1) AS k", "t",
							   result->evidence);
	result->message = differences->n > REHOME_EVIDENCE_ROWS ? psprintf("%d rows differ", differences->n) : summary;
}

/*
 * compare_sides does it.  The texts of two rows may be no dates, or no times
 * that can be compared: that is a result of this check, and no other's.
 */
static void
compare_sides(RehomeCheck *check, RehomeRows *source, RehomeRows *target, CheckResult *result)
{
	Comparison	comparison = {check, source, target, result};
	ErrorData  *error = rehome_attempt(compare, &comparison);

	if (error == NULL)
		return;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(error);
	result->status = "error";
	result->differences = result->evidence = NULL;
	result->message = psprintf("the results cannot be compared: %s", error->message);
}

/*
 * run_check runs one check.
 */
static void
run_check(RehomeSides *sides, RehomeCheck *check, CheckResult *result)
{
	RehomeRows *source = NULL;
	RehomeRows *target = NULL;

	result->status = "error";
	if (check->source_sql != NULL)
		result->message = rehome_sides_rows(sides, true, &check->stated, CHECK_ROW, check->source_sql, &source);
	if (result->message == NULL && check->target_sql != NULL)
		result->message = rehome_sides_rows(sides, false, &check->stated, CHECK_ROW, check->target_sql, &target);
	if (result->message != NULL)
		return;
	result->source_rows = source ? psprintf("%d", source->n) : NULL;
	result->target_rows = target ? psprintf("%d", target->n) : NULL;
	if (source != NULL && target != NULL)
		compare_sides(check, source, target, result);
	else
	{
		RehomeRows *found = source ? source : target;

		if (found == NULL)
			elog(ERROR, "a check without any query was run");
		result->status = found->n == 0 ? "passed" : "failed";
		result->differences = psprintf("%d", found->n);
		if (found->n > 0)
		{
			result->evidence = to_array(found, REHOME_EVIDENCE_ROWS);
			result->message = psprintf("%d rows that should not be", found->n);
		}
	}
}

/*
 * checks_of returns the checks of a slice that have queries, those named in
 * names (the text of a name[]) or all.
 */
static List *
checks_of(RehomeSlice *slice, const char *names)
{
	RehomeRows *rows;
	List	   *checks = NIL;

	rows = rehome_spi("SELECT id, name, layer, source_sql, target_sql, key, tolerance, search_path"
					  " FROM rehome.check_definition WHERE slice_id = $1 AND (source_sql IS NOT NULL OR target_sql IS NOT NULL)"
					  " AND ($2 IS NULL OR name = ANY ($2::name[])) ORDER BY id", "it", slice->id, names);
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		RehomeCheck *check = palloc0(sizeof(RehomeCheck));

		check->id = rehome_int(v[0]);
		check->name = v[1];
		check->layer = v[2];
		check->source_sql = v[3];
		check->target_sql = v[4];
		check->key = v[5];
		check->tolerance = v[6];
		check->stated.owner = slice->migration->owner;
		check->stated.search_path = v[7];
		check->stated.timeout = rehome_check_timeout;
		checks = lappend(checks, check);
	}
	return checks;
}

/*
 * rehome_checks_run runs the checks of a slice, or those with names; keeps the
 * results, and puts them if there is a sink.  Returns how many there were.
 */
int
rehome_checks_run(RehomeCall *call, RehomeSink *sink, RehomeSlice *slice, const char *names)
{
	List	   *checks = checks_of(slice, names);
	MemoryContext context;
	MemoryContext old;
	RehomeSides *sides;
	int			wrong = 0;
	ListCell   *lc;

	if (checks == NIL)
		return 0;
	sides = rehome_sides_freeze(call, slice, "run_checks");
	context = AllocSetContextCreate(CurrentMemoryContext, "pg_rehome check", ALLOCSET_DEFAULT_SIZES);
	foreach(lc, checks)
	{
		RehomeCheck *check = lfirst(lc);
		CheckResult result = {0};
		TimestampTz began = GetCurrentTimestamp();
		char	   *elapsed;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(context);
		run_check(sides, check, &result);
		elapsed = psprintf(INT64_FORMAT " microseconds", GetCurrentTimestamp() - began);
		if (strcmp(result.status, "passed") != 0)
			wrong++;
		rehome_spi("INSERT INTO rehome.check_result (check_id, status, source_rows, target_rows, differences, evidence, message, snapshot, elapsed, reported_by)"
				   " VALUES ($1, $2, $3::bigint, $4::bigint, $5::bigint, $6::jsonb, $7, $8, $9::interval, $10::name)", "ittttttttt",
				   check->id, result.status, result.source_rows, result.target_rows, result.differences,
				   result.evidence, result.message, sides->snapshot, elapsed, rehome_actor());
		MemoryContextSwitchTo(old);
		if (sink != NULL)
			rehome_sink_put(sink, (char *[]) {slice->name, check->name, check->layer, (char *) result.status,
											 result.source_rows, result.target_rows, result.differences, result.message, elapsed});
		MemoryContextReset(context);
	}
	rehome_event(slice->migration->name, slice->name, "checked", wrong == 0 ?
				 psprintf("%d checks passed at %s", list_length(checks), sides->snapshot) :
				 psprintf("%d of %d checks did not pass at %s", wrong, list_length(checks), sides->snapshot), NULL);
	rehome_sides_release(sides);
	return list_length(checks);
}

PG_FUNCTION_INFO_V1(rehome_run_checks);

/*
 * rehome_run_checks(migration name, slice name, names name[])
 */
Datum
rehome_run_checks(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	RehomeMigration *migration;
	char	   *names = PG_ARGISNULL(2) ? NULL : rehome_trust_array(fcinfo, 2, "the checks");
	int			n = 0;
	ListCell   *lc;

	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	if (names != NULL)
		foreach(lc, rehome_name_list(names))
			(void) require_check(migration, lfirst(lc));
	foreach(lc, rehome_slices_named(migration, REHOME_ARG_NAME(1)))
		n += rehome_checks_run(&call, &sink, lfirst(lc), names);
	if (n == 0)
		ereport(NOTICE,
				errmsg("there is no check to run"),
				errhint("SELECT * FROM rehome.suggest_checks(%s);", quote_literal_cstr(migration->name)));
	rehome_call_end(&call);
	return (Datum) 0;
}
