/*-------------------------------------------------------------------------
 *
 * rule.h
 *	  Column rules: from a kind and its parameters to one SQL expression.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_RULE_H
#define REHOME_RULE_H

#include "compat.h"
#include "util/problems.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

/* A rule being compiled. */
typedef struct RehomeRule
{
	const char *column;			/* target column */
	AttrNumber	attnum;			/* its number */
	const char *kind;
	Jsonb	   *params;			/* an object, or NULL; of kind steps an array */
	const char *source_column;	/* NULL: that of the target column's name, if any */
	const char *validation;		/* condition on "value", or NULL */
	const char *search_path;	/* for the user's expressions */
	Relation	source;
	Relation	target;

	/* results */
	char	   *expression;		/* NULL: left out */
	char	   *inverse;		/* found without being told; NULL: none */
	bool		quarantine;		/* a step wants refused rows in quarantine */
} RehomeRule;

extern void rehome_rule_compile(RehomeRule *rule, RehomeProblems *problems);
pg_noreturn extern void rehome_rule_refuse_value(const char *what, const char *value);
extern char *rehome_rule_repair_json(const char *text);

#endif							/* REHOME_RULE_H */
