/*-------------------------------------------------------------------------
 *
 * rule_value.c
 *	  SQL functions that column rules on numbers, times and any type are made
 *	  of.
 *
 * All are immutable, but for rule_local_time: what time it is somewhere is
 * said by tables that change.  What they cannot take is refused with
 * ERRCODE_REHOME_REFUSED, for the column's error policy to decide.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "errors.h"
#include "fmgr.h"
#include "mapping/rule.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* Microseconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_DIFFERENCE \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* So many digits always fit an int64. */
#define MAX_DIGITS 18

static char *
text_of(Oid type, Datum value)
{
	Oid			output;
	bool		varlena;

	getTypeOutputInfo(type, &output, &varlena);
	return OidOutputFunctionCall(output, value);
}

PG_FUNCTION_INFO_V1(rehome_rule_valid);

/*
 * rehome_rule_valid(value anyelement, valid boolean, rule text) returns the
 * value, unless it is not valid; unknown is valid, as for CHECK.
 */
Datum
rehome_rule_valid(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(1) && !PG_GETARG_BOOL(1))
		rehome_rule_refuse_value(psprintf("does not satisfy %s",
										  PG_ARGISNULL(2) ? "NULL" : text_to_cstring(PG_GETARG_TEXT_PP(2))),
								 PG_ARGISNULL(0) ? "NULL" :
								 text_of(get_fn_expr_argtype(fcinfo->flinfo, 0), PG_GETARG_DATUM(0)));
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

PG_FUNCTION_INFO_V1(rehome_rule_range);

/*
 * rehome_rule_range(value, lo, hi anyelement, action text): what is outside
 * is refused, made null, or set to the bound (clamp).  A null bound is none, a
 * null action is to refuse.
 */
Datum
rehome_rule_range(PG_FUNCTION_ARGS)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	TypeCacheEntry *cache = fcinfo->flinfo->fn_extra;
	char	   *action;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (cache == NULL)
	{
		cache = lookup_type_cache(type, TYPECACHE_CMP_PROC_FINFO);
		if (!OidIsValid(cache->cmp_proc_finfo.fn_oid))
			ereport(ERROR,
					errcode(ERRCODE_UNDEFINED_FUNCTION),
					errmsg("values of type %s have no order", format_type_be(type)));
		fcinfo->flinfo->fn_extra = cache;
	}
	action = PG_ARGISNULL(3) ? "refuse" : text_to_cstring(PG_GETARG_TEXT_PP(3));
	for (int bound = 1; bound <= 2; bound++)
	{
		int			order;

		if (PG_ARGISNULL(bound))
			continue;
		order = DatumGetInt32(FunctionCall2Coll(&cache->cmp_proc_finfo, PG_GET_COLLATION(),
												PG_GETARG_DATUM(0), PG_GETARG_DATUM(bound)));
		if (bound == 1 ? order >= 0 : order <= 0)
			continue;
		if (strcmp(action, "null") == 0)
			PG_RETURN_NULL();
		if (strcmp(action, "clamp") == 0)
			PG_RETURN_DATUM(PG_GETARG_DATUM(bound));
		rehome_rule_refuse_value("is out of range", text_of(type, PG_GETARG_DATUM(0)));
	}
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/*
 * is_zero_date tells whether text begins with a date whose year, month or day
 * is zero: 0000-00-00, 2020-00-15.
 */
static bool
is_zero_date(const char *p)
{
	int			part[3];

	while (isspace((unsigned char) *p))
		p++;
	for (int i = 0; i < 3; i++)
	{
		const char *start = p;

		part[i] = 0;
		while (isdigit((unsigned char) *p) && p - start < 6)
			part[i] = part[i] * 10 + (*p++ - '0');
		if (p == start || (i < 2 && *p != '-' && *p != '/' && *p != '.'))
			return false;
		p++;
		if (i == 2 && isdigit((unsigned char) p[-1]))
			return false;
	}
	return part[0] == 0 || part[1] == 0 || part[2] == 0;
}

PG_FUNCTION_INFO_V1(rehome_rule_zero_date);

/*
 * rehome_rule_zero_date(value text, instead text) returns instead for a zero
 * date.
 */
Datum
rehome_rule_zero_date(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!is_zero_date(text_to_cstring(PG_GETARG_TEXT_PP(0))))
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(1));
}

PG_FUNCTION_INFO_V1(rehome_rule_local_time);

/*
 * rehome_rule_local_time(value text, zone text) reads a time: in that zone, or
 * in the one that the text names itself.
 */
Datum
rehome_rule_local_time(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	pg_tz	   *zone = pg_tzset(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	pg_tz	   *saved = session_timezone;
	Datum		result;

	if (zone == NULL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("time zone \"%s\" is not known", text_to_cstring(PG_GETARG_TEXT_PP(1))));
	PG_TRY();
	{
		session_timezone = zone;
		result = DirectFunctionCall3(timestamptz_in, CStringGetDatum(value),
									 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	}
	PG_FINALLY();
	{
		session_timezone = saved;
	}
	PG_END_TRY();
	PG_RETURN_DATUM(result);
}

PG_FUNCTION_INFO_V1(rehome_rule_epoch);

/*
 * rehome_rule_epoch(value numeric, unit int) returns the time so many units,
 * of which a second has unit, after 1970-01-01 UTC.  Exact to the microsecond.
 */
Datum
rehome_rule_epoch(PG_FUNCTION_ARGS)
{
	Datum		value = PG_GETARG_DATUM(0);
	int			unit = PG_GETARG_INT32(1);
	Datum		micros;
	TimestampTz result;
	int64		n;

	if (unit < 1 || USECS_PER_SEC % unit != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a second has no %d units that are whole microseconds", unit),
				errhint("It has 1, 1000 or 1000000."));
	if (numeric_is_nan(DatumGetNumeric(value)) || numeric_is_inf(DatumGetNumeric(value)))
		rehome_rule_refuse_value("is no time", text_of(NUMERICOID, value));
	micros = DirectFunctionCall2(numeric_mul, value,
								 NumericGetDatum(int64_to_numeric(USECS_PER_SEC / unit)));
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, DirectFunctionCall1(numeric_abs, micros),
										  NumericGetDatum(int64_to_numeric(PG_INT64_MAX)))) > 0)
		rehome_rule_refuse_value("is out of range", text_of(NUMERICOID, value));
	n = DatumGetInt64(DirectFunctionCall1(numeric_int8, micros));
	if (n < PG_INT64_MIN + EPOCH_DIFFERENCE || !IS_VALID_TIMESTAMP(n - EPOCH_DIFFERENCE))
		rehome_rule_refuse_value("is out of range", text_of(NUMERICOID, value));
	result = n - EPOCH_DIFFERENCE;
	PG_RETURN_TIMESTAMPTZ(result);
}

PG_FUNCTION_INFO_V1(rehome_rule_unsigned);

/*
 * rehome_rule_unsigned(value numeric, bits int) reads a negative number as
 * the unsigned one of so many bits that was stored in its place.
 */
Datum
rehome_rule_unsigned(PG_FUNCTION_ARGS)
{
	Datum		value = PG_GETARG_DATUM(0);
	int			bits = PG_GETARG_INT32(1);
	Datum		size;

	if (bits < 2 || bits > 64 || bits % 2 != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("no integer has %d bits", bits),
				errhint("It has 8, 16, 24, 32 or 64."));
	size = NumericGetDatum(int64_to_numeric(INT64CONST(1) << (bits / 2)));
	size = DirectFunctionCall2(numeric_mul, size, size);
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, value, NumericGetDatum(int64_to_numeric(0)))) < 0)
		value = DirectFunctionCall2(numeric_add, value, size);
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, value, NumericGetDatum(int64_to_numeric(0)))) < 0 ||
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, value, size)) >= 0)
		rehome_rule_refuse_value(psprintf("is no unsigned number of %d bits", bits),
								 text_of(NUMERICOID, PG_GETARG_DATUM(0)));
	PG_RETURN_DATUM(value);
}

/*
 * character returns the Unicode character at p, of the database's encoding if
 * that is no Unicode.
 */
static pg_wchar
character(const char *p)
{
	return GetDatabaseEncoding() == PG_UTF8 ? utf8_to_unicode((const unsigned char *) p) : (unsigned char) *p;
}

/*
 * blank_length returns how many bytes at p are one blank, also one that keeps
 * a line together; 0: none.
 */
static int
blank_length(const char *p)
{
	pg_wchar	c = character(p);

	if (isspace((unsigned char) *p) || c == 0xA0 || (GetDatabaseEncoding() == PG_UTF8 && (c == 0x2009 || c == 0x202F)))
		return pg_mblen(p);
	return 0;
}

/*
 * minus_length returns how many bytes at p are a minus sign, or the dash that
 * is set in its place; 0: none.
 */
static int
minus_length(const char *p)
{
	pg_wchar	c = character(p);

	return *p == '-' || (GetDatabaseEncoding() == PG_UTF8 && (c == 0x2212 || c == 0x2013)) ? pg_mblen(p) : 0;
}

/*
 * currency_length returns how many bytes at p are a currency: a sign, a code
 * of three letters (ISO 4217), or an abbreviation that is in use; 0: none.
 * What makes another number of it is none: per cent, thousands, cents.
 */
static int
currency_length(const char *p)
{
	static const char *const words[] = {"kr", "K\xc4\x8d", "z\xc5\x82", "Ft", "Fr", "SFr", "Rs", "R", "RM", "lei", "din",
	"eur", "usd", "gbp", "chf", "Euro", "euro", "euros"};
	static const char *const factors[] = {"MIO", "MRD", "MLN", "MLD", "BIO", "BLN", "TSD", "PCT"};
	pg_wchar	c = character(p);
	bool		code = true;
	int			len = 0;

	if (*p == '$' || (IS_HIGHBIT_SET(*p) && (GetDatabaseEncoding() != PG_UTF8 || c == 0xA3 || c == 0xA5 || c == 0xE3F ||
											  (c >= 0x20A0 && c <= 0x20CF) || c == 0xFDFC)))
		return pg_mblen(p);
	while (isalpha((unsigned char) p[len]) || IS_HIGHBIT_SET(p[len]))
	{
		if (blank_length(p + len) > 0 || minus_length(p + len) > 0)
			break;
		code = code && p[len] >= 'A' && p[len] <= 'Z';
		len += pg_mblen(p + len);
	}
	if (code && len > 0 && (p[len] == '$' || len == 3))
	{
		for (int i = 0; i < lengthof(factors); i++)
			if (strncmp(p, factors[i], 3) == 0)
				return 0;
		return len;
	}
	for (int i = 0; i < lengthof(words); i++)
		if (len == strlen(words[i]) && strncmp(p, words[i], len) == 0)
			return len + (p[len] == '.' ? 1 : 0);
	return 0;
}

PG_FUNCTION_INFO_V1(rehome_rule_number);

/*
 * rehome_rule_number(value text, decimal text, grouping text) reads a number
 * as people write it: currency before or after it, groups of digits, a sign on
 * either side, parentheses for negative.  The last group before the point has
 * three digits, so that a point where groups are expected is not overlooked;
 * those before it two or three, as in India.
 */
Datum
rehome_rule_number(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *decimal = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *grouping = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *digits = palloc(strlen(value) + 3);
	int			len = 1;		/* room for a sign */
	int			scale = 0;		/* digits after the point */
	int64		number = 0;		/* of the first MAX_DIGITS */
	int			group = 0;		/* digits since the last sign between groups */
	int			groups = 0;		/* such signs */
	int			parentheses = 0;	/* that are open */
	bool		negative = false;
	bool		point = false;
	bool		ended = false;	/* something came after the digits */
	bool		signs = false;
	bool		good = true;
	int			n;

	for (const char *p = value; *p != '\0' && good; p += n)
	{
		bool		begun = len > 1;

		n = 1;
		if (isdigit((unsigned char) *p) && !ended)
		{
			digits[len++] = *p;
			if (point)
				scale++;
			else
				group++;
			if (len - 1 <= MAX_DIGITS)
				number = number * 10 + (*p - '0');
		}
		else if (strncmp(p, decimal, strlen(decimal)) == 0 && !point && !ended &&
				 (begun || isdigit((unsigned char) p[strlen(decimal)])))
		{
			n = strlen(decimal);
			digits[len++] = '.';
			point = true;
		}
		else if (begun && !point && !ended && grouping[0] != '\0' &&
				 strncmp(p, grouping, strlen(grouping)) == 0 &&
				 isdigit((unsigned char) p[strlen(grouping)]))
		{
			n = strlen(grouping);
			good = group <= 3 && (groups == 0 || group >= 2);
			groups++;
			group = 0;
		}
		else if (blank_length(p) > 0)
		{
			n = blank_length(p);
			ended = begun;
		}
		else if ((minus_length(p) > 0 || *p == '+' || (*p == '(' && !begun)) && !signs)
		{
			n = *p == '(' || *p == '+' ? 1 : minus_length(p);
			signs = true;
			negative = *p != '+';
			parentheses = *p == '(' ? 1 : 0;
			ended = begun;
		}
		else if (*p == ')' && parentheses == 1 && begun)
		{
			parentheses = 0;
			ended = true;
		}
		else
		{
			n = currency_length(p);
			good = n > 0;
			ended = begun;
		}
	}
	if (!good || len == 1 || parentheses != 0 || (groups > 0 && group != 3))
		rehome_rule_refuse_value("is not a number", value);
	if (len - 1 <= MAX_DIGITS)
		PG_RETURN_NUMERIC(int64_div_fast_to_numeric(negative ? -number : number, scale));
	digits[0] = negative ? '-' : '+';
	digits[len] = '\0';
	PG_RETURN_DATUM(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
										ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}
