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
extern bool rehome_trust_interval_fits(const char *interval);
extern void rehome_trust_interval(const char *interval, const char *what);

/* What an interval has to be that is added to times. */
#define REHOME_TRUST_LONGEST "10000 years"

/* criterion.c: columns of sql/scorecard.sql */
enum
{
	SCORE_METRIC, SCORE_VALUE, SCORE_COMPARATOR, SCORE_THRESHOLD, SCORE_VERDICT, SCORE_BLOCKING,
	SCORE_OWNER, SCORE_MEASURED_AT, SCORE_DETAIL
};

extern RehomeRows *rehome_scorecard_rows(RehomeMigration *migration, const char *slice_id);

/* Checks, queries and criteria as they are stated; texts as in the catalog. */
typedef struct RehomeCheckStated
{
	char	   *slice;
	char	   *name;
	char	   *layer;
	char	   *sql[2];			/* source, target; either may be NULL */
	char	   *key;			/* of a text[], or NULL */
	char	   *tolerance;		/* of a jsonb */
	char	   *search_path;
	char	   *valid_for;
	char	   *description;
} RehomeCheckStated;

typedef struct RehomeQueryStated
{
	char	   *slice;
	char	   *name;
	char	   *sql[2];
	char	   *search_path;
	double		factor;
	double		noise;
} RehomeQueryStated;

typedef struct RehomeCriterionStated
{
	char	   *metric;
	char	   *comparator;
	char	   *threshold;
	bool		blocking;
	char	   *owner;
	char	   *max_age;
} RehomeCriterionStated;

extern void rehome_define_check(RehomeMigration *migration, RehomeCheckStated *check);
extern void rehome_define_query(RehomeMigration *migration, RehomeQueryStated *query);
extern void rehome_define_criterion(RehomeMigration *migration, RehomeCriterionStated *criterion);
extern void rehome_define_schedule(RehomeMigration *migration, bool check, const char *name,
								   const char *every);

/* check.c and query.c */
extern int	rehome_checks_run(RehomeCall *call, RehomeSink *sink, RehomeSlice *slice, const char *names);
extern int	rehome_queries_run(RehomeCall *call, RehomeSink *sink, RehomeSlice *slice,
							   const char *names, int repetitions);

/* redact.c */
extern void rehome_define_redaction(RehomeMigration *migration, Oid target, const char *columns);

/* schedule.c */
extern bool rehome_schedule_due(RehomeSlice *slice);
extern void rehome_schedule_run(RehomeCall *call, RehomeSlice *slice);

/* gate.c */
extern void rehome_trust_gates(RehomeSlice *slice, RehomeProblems *problems);

#endif							/* REHOME_TRUST_H */
