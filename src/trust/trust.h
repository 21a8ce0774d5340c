/*-------------------------------------------------------------------------
 *
 * trust.h
 *	  Whether the target can be trusted: checks, queries run on both sides,
 *	  structure, criteria, and the gates they make.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_TRUST_H
#define REHOME_TRUST_H

#include "catalog/migration.h"
#include "util/problems.h"
#include "util/sink.h"
#include "util/spi.h"

extern char *rehome_trust_array(FunctionCallInfo fcinfo, int n, const char *what);
extern char *rehome_trust_required(FunctionCallInfo fcinfo, int n, const char *what);

/* criterion.c: columns of sql/scorecard.sql */
enum
{
	SCORE_METRIC, SCORE_VALUE, SCORE_COMPARATOR, SCORE_THRESHOLD, SCORE_VERDICT, SCORE_BLOCKING,
	SCORE_OWNER, SCORE_MEASURED_AT, SCORE_DETAIL
};

extern RehomeRows *rehome_scorecard_rows(RehomeMigration *migration, const char *slice_id);

/* check.c and query.c */
extern int	rehome_checks_run(RehomeCall *call, RehomeSink *sink, RehomeSlice *slice, const char *names);
extern int	rehome_queries_run(RehomeCall *call, RehomeSink *sink, RehomeSlice *slice,
							   const char *names, int repetitions);

/* schedule.c */
extern bool rehome_schedule_due(RehomeSlice *slice);
extern void rehome_schedule_run(RehomeCall *call, RehomeSlice *slice);

/* gate.c */
extern void rehome_trust_gates(RehomeSlice *slice, RehomeProblems *problems);

#endif							/* REHOME_TRUST_H */
