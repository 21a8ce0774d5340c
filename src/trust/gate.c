/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  What keeps a slice from being cut over, as far as trust goes.
 *
 * Only what is on record is looked at: a gate asks nothing of the source and
 * compares nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "errors.h"
#include "trust/trust.h"
#include "util/spi.h"
#include "utils/builtins.h"

static void
discrepancies(RehomeSlice *slice, RehomeProblems *problems)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT d.target, count(*) FROM rehome.discrepancy d"
					  " WHERE d.migration = $1::name AND d.slice = $2::name AND d.resolved_at IS NULL"
					  " AND d.blocking AND NOT EXISTS (SELECT FROM rehome.acceptance a WHERE a.id = d.acceptance)"
					  " GROUP BY d.target ORDER BY d.target::text", "tt", slice->migration->name, slice->name);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_REHOME_GATE,
					   "Verify again after repairing them: SELECT * FROM rehome.verify(...); or let them stay: SELECT rehome.accept(...);",
					   "%s open discrepancies in %s.", rows->value[i][1], rows->value[i][0]);
}

/*
 * criteria adds those that are blocking and not met, unmeasured ones included.
 */
static void
criteria(RehomeSlice *slice, RehomeProblems *problems)
{
	RehomeRows *rows = rehome_scorecard_rows(slice->migration, psprintf("%d", slice->id));

	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];

		if (v[SCORE_VERDICT] == NULL || !rehome_bool(v[SCORE_BLOCKING]) ||
			strcmp(v[SCORE_VERDICT], "passed") == 0)
			continue;
		rehome_problem(problems, ERRCODE_REHOME_GATE,
					   psprintf("SELECT * FROM rehome.scorecard(%s);", quote_literal_cstr(slice->migration->name)),
					   "Criterion %s %s %s: %s%s%s%s.", v[SCORE_METRIC], v[SCORE_COMPARATOR], v[SCORE_THRESHOLD],
					   v[SCORE_VALUE] == NULL ? "unmeasured" :
					   psprintf("%s, it is %s", v[SCORE_VERDICT], v[SCORE_VALUE]),
					   v[SCORE_DETAIL] ? " (" : "", v[SCORE_DETAIL] ? v[SCORE_DETAIL] : "", v[SCORE_DETAIL] ? ")" : "");
	}
}

/*
 * rehome_trust_gates adds everything that stands in the way.
 */
void
rehome_trust_gates(RehomeSlice *slice, RehomeProblems *problems)
{
	discrepancies(slice, problems);
	criteria(slice, problems);
}
