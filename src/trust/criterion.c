/*-------------------------------------------------------------------------
 *
 * criterion.c
 *	  The scorecard: what is measured, against what was asked for.
 *
 * Measures are read from what is on record (sql/scorecard.sql): nothing is
 * verified, run or compared here.  The gates of the cutover read the same
 * rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "guc.h"
#include "trust/sql/scorecard.sql.h"
#include "trust/trust.h"
#include "util/sink.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/*
 * rehome_scorecard_rows returns the scorecard of a migration, or of one slice
 * (slice_id is the text of its id or NULL), with the columns of scorecard.sql.
 */
RehomeRows *
rehome_scorecard_rows(RehomeMigration *migration, const char *slice_id)
{
	return rehome_spi(sql_scorecard, "iti", migration->id, slice_id, rehome_freeze_timeout);
}

PG_FUNCTION_INFO_V1(rehome_scorecard);

/*
 * rehome_scorecard(migration name, slice name)
 */
Datum
rehome_scorecard(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	RehomeMigration *migration;
	RehomeRows *rows;
	char	   *slice_id = NULL;

	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	if (!PG_ARGISNULL(1))
	{
		RehomeSlice *slice = linitial(rehome_slices_get(migration, NameStr(*PG_GETARG_NAME(1))));

		slice_id = psprintf("%d", slice->id);
	}
	rows = rehome_scorecard_rows(migration, slice_id);
	for (int i = 0; i < rows->n; i++)
		rehome_sink_put(&sink, rows->value[i]);
	rehome_call_end(&call);
	return (Datum) 0;
}

/*
 * require_comparison raises unless there is something to compare with.
 */
static void
require_comparison(RehomeCriterionStated *criterion)
{
	const char *comparator = criterion->comparator;
	const char *threshold = criterion->threshold;

	if (strspn(comparator, "<=>") != strlen(comparator) || strlen(comparator) > 2 ||
		(strlen(comparator) == 2 && (comparator[0] == '=' || comparator[1] != '=')))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("unknown comparator \"%s\"", comparator),
				errhint("Comparators are <, <=, =, >= and >."));
	if (strchr("+-0123456789", threshold[0]) == NULL || strcmp(threshold + 1, "Infinity") == 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the threshold is no number: %s", threshold));
}

/*
 * require_metric raises unless something of that name is measured.
 */
static void
require_metric(RehomeMigration *migration, const char *metric)
{
	RehomeRows *rows = rehome_scorecard_rows(migration, NULL);
	bool		known = false;

	for (int i = 0; i < rows->n && !known; i++)
		known = strcmp(rows->value[i][SCORE_METRIC], metric) == 0;
	if (!known)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("unknown metric \"%s\"", metric),
				errhint("SELECT metric FROM rehome.scorecard(%s);", quote_literal_cstr(migration->name)));
}

/*
 * rehome_define_criterion stores a criterion.  The check or query that it is
 * about need not be there (any more); another metric has to.
 */
void
rehome_define_criterion(RehomeMigration *migration, RehomeCriterionStated *criterion)
{
	require_comparison(criterion);
	rehome_trust_interval(criterion->max_age, "max_age");
	if (strncmp(criterion->metric, "check.", 6) != 0 && strncmp(criterion->metric, "query.", 6) != 0)
		require_metric(migration, criterion->metric);
	rehome_spi("INSERT INTO rehome.criterion AS k (migration_id, metric, comparator, threshold, blocking, owner, max_age)"
			   " VALUES ($1, $2, $3, $4::numeric, $5, $6, $7::interval)"
			   " ON CONFLICT (migration_id, metric) DO UPDATE SET comparator = excluded.comparator, threshold = excluded.threshold,"
			   " blocking = excluded.blocking, owner = excluded.owner, max_age = excluded.max_age", "itttbtt",
			   migration->id, criterion->metric, criterion->comparator, criterion->threshold, criterion->blocking,
			   criterion->owner, criterion->max_age);
}

PG_FUNCTION_INFO_V1(rehome_set_criterion);

/*
 * rehome_set_criterion(migration name, metric text, comparator text,
 * threshold numeric, blocking boolean, owner text, max_age interval)
 */
Datum
rehome_set_criterion(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeCriterionStated criterion = {0};

	criterion.metric = rehome_trust_required(fcinfo, 1, "the metric");
	criterion.comparator = rehome_trust_required(fcinfo, 2, "the comparator");
	if (PG_ARGISNULL(3) || PG_ARGISNULL(4))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the threshold, and whether it is blocking, must be given"));
	criterion.threshold = DatumGetCString(DirectFunctionCall1(numeric_out, PG_GETARG_DATUM(3)));
	criterion.blocking = PG_GETARG_BOOL(4);
	criterion.owner = REHOME_ARG_TEXT(5);
	require_comparison(&criterion);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	criterion.max_age = PG_ARGISNULL(6) ? NULL : DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(6)));
	require_metric(migration, criterion.metric);
	rehome_define_criterion(migration, &criterion);
	rehome_event(migration->name, NULL, "criterion",
				 psprintf("%s %s %s%s", criterion.metric, criterion.comparator, criterion.threshold,
						  criterion.blocking ? ", blocking" : ""), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_drop_criterion);

/*
 * rehome_drop_criterion(migration name, metric text)
 */
Datum
rehome_drop_criterion(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *metric = rehome_trust_required(fcinfo, 1, "the metric");

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	if (rehome_spi("DELETE FROM rehome.criterion WHERE migration_id = $1 AND metric = $2", "it",
				   migration->id, metric)->processed == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("migration \"%s\" has no criterion for \"%s\"", migration->name, metric));
	rehome_event(migration->name, NULL, "criterion", psprintf("no criterion for %s any more", metric), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
