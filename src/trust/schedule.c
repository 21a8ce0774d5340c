/*-------------------------------------------------------------------------
 *
 * schedule.c
 *	  Checks and queries that are run by the sync worker, every so often.
 *
 * The worker runs what is due when it is not behind: after a batch of few
 * rows, since a source that is always written to may never have one of none.
 * Before anything is run, when it will be due next is committed; so what
 * raises, or takes the server with it, is not tried again at once, and sync goes
 * on.  What a check or query finds, errors too, is a result like any other and
 * kept as such.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "errors.h"
#include "trust/trust.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/* How often each side times a query. */
#define REPETITIONS 3

/* The two kinds, each with its table. */
static const struct
{
	const char *what;
	const char *table;
	const char *runnable;		/* condition: it is not reported by others */
}			kinds[] = {
	{"check", "rehome.check_definition", "(source_sql IS NOT NULL OR target_sql IS NOT NULL)"},
	{"query", "rehome.query_definition", "true"},
};

/*
 * unknown_names adds the names that nothing to be run has.
 */
static void
unknown_names(RehomeMigration *migration, int kind, const char *names, RehomeProblems *problems)
{
	RehomeRows *rows;

	if (names == NULL)
		return;
	rows = rehome_spi(psprintf("SELECT quote_ident(n.name), EXISTS (SELECT FROM %s d WHERE d.migration_id = $1 AND d.name = n.name::name)"
							   " FROM unnest($2::text[]) AS n(name) WHERE NOT EXISTS (SELECT FROM %s d"
							   "  WHERE d.migration_id = $1 AND d.name = n.name::name AND %s)",
							   kinds[kind].table, kinds[kind].table, kinds[kind].runnable), "it", migration->id, names);
	for (int i = 0; i < rows->n; i++)
		if (rehome_bool(rows->value[i][1]))
			rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
						   "Check %s has no query: another system reports it.", rows->value[i][0]);
		else
			rehome_problem(problems, ERRCODE_UNDEFINED_OBJECT, NULL, "There is no %s %s.", kinds[kind].what, rows->value[i][0]);
}

/*
 * out_of_range adds that an interval is shorter than what a worker can do, or
 * longer than what can be added to a time.
 */
static void
out_of_range(const char *every, RehomeProblems *problems)
{
	if (every == NULL)
		return;
	if (!rehome_bool(rehome_spi_value("SELECT $1::interval >= '1 second'", "t", every)))
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "every is %s; it is at least a second.", every);
	else if (!rehome_trust_interval_fits(every))
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "every is %s; it is at most %s.", every,
					   REHOME_TRUST_LONGEST);
}

/*
 * rehome_define_schedule says how often one check, or else query, is run.
 */
void
rehome_define_schedule(RehomeMigration *migration, bool check, const char *name, const char *every)
{
	RehomeProblems problems;
	int			kind = check ? 0 : 1;

	rehome_problems_init(&problems);
	out_of_range(every, &problems);
	unknown_names(migration, kind, rehome_name_array(list_make1(pstrdup(name))), &problems);
	rehome_problems_raise(&problems, "it cannot be scheduled like this");
	rehome_spi(psprintf("UPDATE %s SET every = $3::interval, due_at = clock_timestamp() WHERE migration_id = $1 AND name = $2::name",
						kinds[kind].table), "itt", migration->id, name, every);
}

PG_FUNCTION_INFO_V1(rehome_set_schedule);

/*
 * rehome_set_schedule(migration name, every interval, checks name[], queries
 * name[]): returns how many are concerned.
 */
Datum
rehome_set_schedule(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeProblems problems;
	char	   *every;
	char	   *names[lengthof(kinds)];
	bool		all = PG_ARGISNULL(2) && PG_ARGISNULL(3);
	uint64		n = 0;

	names[0] = PG_ARGISNULL(2) ? NULL : rehome_trust_array(fcinfo, 2, "the checks");
	names[1] = PG_ARGISNULL(3) ? NULL : rehome_trust_array(fcinfo, 3, "the queries");
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	every = PG_ARGISNULL(1) ? NULL : DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(1)));
	rehome_problems_init(&problems);
	out_of_range(every, &problems);
	for (int kind = 0; kind < lengthof(kinds); kind++)
		unknown_names(migration, kind, names[kind], &problems);
	rehome_problems_raise(&problems, "the schedule of migration \"%s\" cannot be set like this", migration->name);
	for (int kind = 0; kind < lengthof(kinds); kind++)
		if (all || names[kind] != NULL)
			n += rehome_spi(psprintf("UPDATE %s SET every = $2::interval, due_at = CASE WHEN $2 IS NOT NULL THEN clock_timestamp() END"
									 " WHERE migration_id = $1 AND ($3 IS NULL OR name = ANY ($3::name[])) AND %s",
									 kinds[kind].table, kinds[kind].runnable), "itt", migration->id, every, names[kind])->processed;
	rehome_event(migration->name, NULL, "scheduled",
				 every == NULL ? psprintf(UINT64_FORMAT " checks and queries are not scheduled any more", n) :
				 psprintf(UINT64_FORMAT " checks and queries every %s", n, every), NULL);
	rehome_call_end(&call);
	PG_RETURN_INT32((int32) n);
}

/*
 * rehome_schedule_due tells whether something of a slice is to be run.
 */
bool
rehome_schedule_due(RehomeSlice *slice)
{
	return rehome_bool(rehome_spi_value("SELECT EXISTS (SELECT FROM rehome.check_definition WHERE slice_id = $1 AND due_at <= clock_timestamp())"
										" OR EXISTS (SELECT FROM rehome.query_definition WHERE slice_id = $1 AND due_at <= clock_timestamp())",
										"i", slice->id));
}

/*
 * rehome_schedule_run runs it.  Commits before, and in between.
 */
void
rehome_schedule_run(RehomeCall *call, RehomeSlice *slice)
{
	char	   *names[lengthof(kinds)] = {NULL};

	for (int kind = 0; kind < lengthof(kinds); kind++)
		names[kind] = rehome_spi_value(psprintf("WITH due AS (UPDATE %s SET due_at = clock_timestamp() + every"
												" WHERE slice_id = $1 AND due_at <= clock_timestamp() RETURNING name)"
												" SELECT array_agg(name) FROM due", kinds[kind].table), "i", slice->id);
	rehome_call_commit(call);
	slice->lazy_position = false;
	if (names[0] != NULL)
	{
		(void) rehome_checks_run(call, NULL, slice, names[0]);
		rehome_call_commit(call);
	}
	if (names[1] != NULL)
		(void) rehome_queries_run(call, NULL, slice, names[1], REPETITIONS);
}
