/*-------------------------------------------------------------------------
 *
 * trust.c
 *	  Arguments of the functions of trust/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "trust/trust.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * rehome_trust_array returns the text of argument n, an array that may not be
 * null, empty, or have nulls or rows and columns.
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
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("%s must be in an array of one dimension", what));
	getTypeOutputInfo(get_fn_expr_argtype(fcinfo->flinfo, n), &out, &varlena);
	return OidOutputFunctionCall(out, PointerGetDatum(array));
}

/*
 * rehome_trust_required returns a text argument that may not be empty.
 */
char *
rehome_trust_required(FunctionCallInfo fcinfo, int n, const char *what)
{
	char	   *value = REHOME_ARG_TEXT(n);

	if (value == NULL || strspn(value, " \t\r\n") == strlen(value))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must be given", what));
	return value;
}

/*
 * rehome_trust_interval_fits tells whether an interval can be added to the
 * times of results, now and for as long as anybody may ask: one that cannot
 * would make every look at them fail.
 */
bool
rehome_trust_interval_fits(const char *interval)
{
	return rehome_bool(rehome_spi_value("SELECT $1::interval BETWEEN '-" REHOME_TRUST_LONGEST "' AND '" REHOME_TRUST_LONGEST "'",
										"t", interval));
}

/*
 * rehome_trust_interval raises unless an interval fits; NULL does.
 */
void
rehome_trust_interval(const char *interval, const char *what)
{
	if (interval != NULL && !rehome_trust_interval_fits(interval))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("%s is out of range", what),
				errdetail("It is: %s", interval),
				errhint("State at most %s, or NULL for ever.", REHOME_TRUST_LONGEST));
}
