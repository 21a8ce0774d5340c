/*-------------------------------------------------------------------------
 *
 * rule_param.h
 *	  Parameters of column rules, as JSON has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_RULE_PARAM_H
#define REHOME_RULE_PARAM_H

#include "util/problems.h"
#include "utils/jsonb.h"

extern JsonbValue *rehome_param(JsonbContainer *params, const char *name);
extern char *rehome_param_scalar(JsonbValue *v);
extern bool rehome_param_is_scalar(JsonbValue *v);
extern char *rehome_param_text(RehomeProblems *problems, JsonbContainer *params, const char *name);
extern bool rehome_param_flag(RehomeProblems *problems, JsonbContainer *params, const char *name);
extern char *rehome_param_choice(RehomeProblems *problems, JsonbContainer *params, const char *name,
								 const char *words);
extern void rehome_param_known(RehomeProblems *problems, JsonbContainer *params, const char *kind,
							   const char *known);

#endif							/* REHOME_RULE_PARAM_H */
