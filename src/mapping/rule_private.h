/*-------------------------------------------------------------------------
 *
 * rule_private.h
 *	  What the files that compile column rules share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_RULE_PRIVATE_H
#define REHOME_RULE_PRIVATE_H

#include "lib/stringinfo.h"
#include "mapping/rule.h"

/* The value as far as the steps have got. */
typedef struct RehomeRuleValue
{
	char	   *sql;			/* NULL: nothing yet */
	bool		text;			/* of type text, to be cast at the end */
	bool		column;			/* the bare source column */
} RehomeRuleValue;

/* A rule and what its steps have made so far. */
typedef struct RehomeRuleCompiler
{
	RehomeRule *rule;
	RehomeProblems *problems;
	RehomeRuleValue value;
	char	   *source_column;	/* NULL: none */
	bool		many;			/* there are other steps */
	bool		back;			/* so far, an inverse may be found */
	bool		skip;			/* leave the column out */
} RehomeRuleCompiler;

/* rule.c */
extern void rehome_rule_bad(RehomeRuleCompiler *c, const char *text);
extern char *rehome_rule_literal(const char *text);
extern char *rehome_rule_type(Relation rel, AttrNumber attnum);
extern char *rehome_rule_as_text(RehomeRuleCompiler *c);
extern void rehome_rule_set_text(RehomeRuleCompiler *c, char *sql);
extern void rehome_rule_set_typed(RehomeRuleCompiler *c, char *sql);
extern char *rehome_rule_compared(RehomeRuleCompiler *c);
extern void rehome_rule_cases(StringInfo sql, const char *column, const char *value);
extern void rehome_rule_case(StringInfo sql, const char *column, RehomeRuleCompiler *c, const char *from, const char *to);

/* rule_measure.c */
extern void rehome_rule_timestamp(RehomeRuleCompiler *c, JsonbContainer *params);
extern void rehome_rule_numeric(RehomeRuleCompiler *c, JsonbContainer *params);

#endif							/* REHOME_RULE_PRIVATE_H */
