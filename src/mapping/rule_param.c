/*-------------------------------------------------------------------------
 *
 * rule_param.c
 *	  Parameters of column rules, as JSON has them.
 *
 * What is wrong with one is added to the problems of the whole rule.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mapping/rule_param.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/varlena.h"

static void
bad(RehomeProblems *problems, const char *text)
{
	rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "%s", text);
}

/*
 * rehome_param returns a parameter, NULL when it is not given.
 */
JsonbValue *
rehome_param(JsonbContainer *params, const char *name)
{
	return params == NULL ? NULL : getKeyJsonValueFromContainer(params, name, strlen(name), NULL);
}

/*
 * rehome_param_scalar returns a JSON scalar as text; NULL for null.
 */
char *
rehome_param_scalar(JsonbValue *v)
{
	switch (v->type)
	{
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

bool
rehome_param_is_scalar(JsonbValue *v)
{
	return v->type == jbvString || v->type == jbvNumeric || v->type == jbvBool || v->type == jbvNull;
}

/*
 * rehome_param_text returns a scalar parameter's text; NULL when it is not given.
 */
char *
rehome_param_text(RehomeProblems *problems, JsonbContainer *params, const char *name)
{
	JsonbValue *v = rehome_param(params, name);

	if (v == NULL)
		return NULL;
	if (!rehome_param_is_scalar(v) || v->type == jbvNull)
	{
		bad(problems, psprintf("Parameter \"%s\" is not a text, number or boolean.", name));
		return NULL;
	}
	return rehome_param_scalar(v);
}

bool
rehome_param_flag(RehomeProblems *problems, JsonbContainer *params, const char *name)
{
	JsonbValue *v = rehome_param(params, name);

	if (v != NULL && v->type != jbvBool)
		bad(problems, psprintf("Parameter \"%s\" is not true or false.", name));
	return v != NULL && v->type == jbvBool && v->val.boolean;
}

/*
 * rehome_param_choice returns a parameter that is one of some words ("a, b, c"); NULL
 * when it is not given.
 */
char *
rehome_param_choice(RehomeProblems *problems, JsonbContainer *params, const char *name, const char *words)
{
	char	   *text = rehome_param_text(problems, params, name);
	List	   *list;
	ListCell   *lc;

	if (text == NULL || !SplitIdentifierString(pstrdup(words), ',', &list))
		return NULL;
	foreach(lc, list)
		if (strcmp(lfirst(lc), text) == 0)
			return text;
	bad(problems, psprintf("Parameter \"%s\" is \"%s\", not one of %s.", name, text, words));
	return NULL;
}

/*
 * rehome_param_known complains of parameters that a kind does not have.
 */
void
rehome_param_known(RehomeProblems *problems, JsonbContainer *params, const char *kind, const char *known)
{
	JsonbIterator *it;
	JsonbValue	v;
	List	   *names;

	if (params == NULL)
		return;
	if (!SplitIdentifierString(pstrdup(known), ',', &names))
		elog(ERROR, "bad list of parameters");
	it = JsonbIteratorInit(params);
	for (JsonbIteratorToken t = JsonbIteratorNext(&it, &v, true); t != WJB_DONE;
		 t = JsonbIteratorNext(&it, &v, true))
	{
		bool		found = false;
		ListCell   *lc;

		if (t != WJB_KEY)
			continue;
		foreach(lc, names)
			found = found || (strlen(lfirst(lc)) == v.val.string.len &&
							  strncmp(lfirst(lc), v.val.string.val, v.val.string.len) == 0);
		if (!found && !(v.val.string.len == 4 && strncmp(v.val.string.val, "kind", 4) == 0))
			bad(problems, psprintf("Kind \"%s\" has no parameter \"%.*s\"; it has: %s.", kind,
							v.val.string.len, v.val.string.val, known[0] ? known : "none"));
	}
}
