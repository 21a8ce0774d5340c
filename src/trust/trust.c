/*-------------------------------------------------------------------------
 *
 * trust.c
 *	  What the functions of trust/ share: arguments in, rows out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "trust/trust.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * rehome_trust_migration returns the migration that argument 0 names.
 */
RehomeMigration *
rehome_trust_migration(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the migration's name must be given"));
	return rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));
}

/*
 * rehome_trust_array returns the text of argument n, an array that may not be
 * null, empty, or have nulls.
 */
char *
rehome_trust_array(FunctionCallInfo fcinfo, int n, const char *what)
{
	ArrayType  *array = PG_ARGISNULL(n) ? NULL : PG_GETARG_ARRAYTYPE_P(n);
	Oid			out;
	bool		varlena;

	if (array == NULL || ARR_NDIM(array) == 0 || array_contains_nulls(array))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must be given", what));
	getTypeOutputInfo(get_fn_expr_argtype(fcinfo->flinfo, n), &out, &varlena);
	return OidOutputFunctionCall(out, PointerGetDatum(array));
}

/*
 * rehome_trust_required returns a text argument that may not be empty.
 */
char *
rehome_trust_required(FunctionCallInfo fcinfo, int n, const char *what)
{
	char	   *value = TRUST_TEXT(n);

	if (value == NULL || strspn(value, " \t\r\n") == strlen(value))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must be given", what));
	return value;
}

/*
 * rehome_trust_put adds a row to a set-returning function's result, from the
 * text of its values.
 */
void
rehome_trust_put(FunctionCallInfo fcinfo, char **values)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	AttInMetadata *in = TupleDescGetAttInMetadata(rsinfo->setDesc);

	tuplestore_puttuple(rsinfo->setResult, BuildTupleFromCStrings(in, values));
}
