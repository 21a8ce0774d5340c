/*-------------------------------------------------------------------------
 *
 * rule_measure.c
 *	  Column rules of kinds "timestamp" and "number".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mapping/mapping.h"
#include "mapping/rule_param.h"
#include "mapping/rule_private.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * is_number tells whether a column's values are numbers whose text says all
 * of them.
 */
static bool
is_number(Relation rel, AttrNumber attnum)
{
	Oid			type = attnum > 0 ? TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid : InvalidOid;

	return rehome_is_integer(type) || type == NUMERICOID;
}

/*
 * keeps_units tells whether a column's times have all of a count since 1970: to
 * the second, or to so many parts of it.
 */
static bool
keeps_units(Form_pg_attribute att, int per_second)
{
	int32		typmod = att->atttypmod;
	Oid			type = getBaseTypeAndTypmod(att->atttypid, &typmod);

	return (type == TIMESTAMPOID || type == TIMESTAMPTZOID) &&
		(typmod < 0 || typmod >= (per_second == 1 ? 0 : per_second == 1000 ? 3 : 6));
}

/*
 * append_range bounds a typed value by parameters min and max.
 */
static void
append_range(RehomeRuleCompiler *c, JsonbContainer *params, const char *type)
{
	char	   *lo = rehome_param_text(c->problems, params, "min");
	char	   *hi = rehome_param_text(c->problems, params, "max");
	char	   *action = rehome_param_choice(c->problems, params, "out_of_range", "refuse, null, clamp");

	if (lo == NULL && hi == NULL)
	{
		if (action != NULL)
			rehome_rule_bad(c, "Parameter \"out_of_range\" needs \"min\" or \"max\".");
		return;
	}
	c->back = false;
	rehome_rule_set_typed(c, psprintf("rehome.rule_range(%s, %s::%s, %s::%s, %s)", c->value.sql,
						  lo ? quote_literal_cstr(lo) : "NULL", type, hi ? quote_literal_cstr(hi) : "NULL", type,
						  rehome_rule_literal(action ? action : "refuse")));
}

/*
 * rehome_rule_timestamp is the step of kind "timestamp".
 */
void
rehome_rule_timestamp(RehomeRuleCompiler *c, JsonbContainer *params)
{
	char	   *unit = rehome_param_choice(c->problems, params, "unit", "seconds, millis, micros");
	char	   *zone = rehome_param_text(c->problems, params, "zone");
	char	   *format = rehome_param_text(c->problems, params, "format");
	JsonbValue *zero = rehome_param(params, "zero");
	JsonbValue *sentinels = rehome_param(params, "sentinels");
	AttrNumber	attnum = c->source_column ? get_attnum(RelationGetRelid(c->rule->source), c->source_column) : 0;
	char	   *column = rehome_rule_compared(c);
	char	   *sql;
	const char *type = "pg_catalog.timestamptz";
	int			per_second = unit == NULL ? 0 : unit[1] == 'e' ? 1 : unit[2] == 'l' ? 1000 : 1000000;

	rehome_param_known(c->problems, params, "timestamp", "unit, zone, format, zero, sentinels, min, max, out_of_range");
	if (unit != NULL && (zone != NULL || format != NULL))
		rehome_rule_bad(c, "Parameter \"unit\" counts from the epoch; \"zone\" and \"format\" are for text and local times.");
	if (zone != NULL && pg_tzset(zone) == NULL)
		rehome_rule_bad(c, psprintf("Time zone \"%s\" is not known.", zone));
	if (zone != NULL && format != NULL && (strstr(format, "TZ") || strstr(format, "tz") || strstr(format, "OF")))
		rehome_rule_bad(c, "Parameter \"zone\" is for local times, and \"format\" reads a zone.");
	if (unit == NULL || zero != NULL || sentinels != NULL || rehome_param(params, "min") || rehome_param(params, "max"))
		c->back = false;
	if (unit != NULL && c->value.column && zero == NULL && sentinels == NULL && is_number(c->rule->source, attnum))
		sql = c->value.sql;		/* not by way of text */
	else
		sql = rehome_rule_as_text(c);
	if (zero != NULL)
	{
		char	   *text = rehome_param_is_scalar(zero) ? rehome_param_scalar(zero) : NULL;

		if (!rehome_param_is_scalar(zero))
			rehome_rule_bad(c, "Parameter \"zero\" is not null, refuse or a date.");
		if (text == NULL || strcmp(text, "refuse") != 0)
			sql = psprintf("rehome.rule_zero_date(%s, %s)", sql,
						   rehome_rule_literal(text && strcmp(text, "null") == 0 ? NULL : text));
	}
	if (sentinels != NULL && sentinels->type == jbvBinary && JsonContainerIsObject(sentinels->val.binary.data))
	{
		JsonbIterator *it = JsonbIteratorInit(sentinels->val.binary.data);
		JsonbValue	v;
		StringInfoData when;
		char	   *from = NULL;

		rehome_rule_cases(&when, column, sql);
		for (JsonbIteratorToken t = JsonbIteratorNext(&it, &v, true); t != WJB_DONE;
			 t = JsonbIteratorNext(&it, &v, true))
			if (t == WJB_KEY)
				from = pnstrdup(v.val.string.val, v.val.string.len);
			else if (t == WJB_VALUE && rehome_param_is_scalar(&v))
				rehome_rule_case(&when, column, c, from, rehome_param_scalar(&v));
			else if (t == WJB_VALUE)
				rehome_rule_bad(c, psprintf("Sentinel \"%s\" stands for what is neither text, number, boolean nor null.", from));
		if (JsonContainerSize(sentinels->val.binary.data) > 0)
			sql = psprintf("%s ELSE %s END", when.data, sql);
	}
	else if (sentinels != NULL)
		rehome_rule_bad(c, "Parameter \"sentinels\" is not an object of values and what they stand for.");
	if (unit != NULL)
		sql = psprintf("rehome.rule_epoch((%s)::pg_catalog.numeric, %d)", sql, per_second);
	else if (zone != NULL && format == NULL)
		sql = psprintf("rehome.rule_local_time(%s, %s)", sql, rehome_rule_literal(zone));
	else if (format != NULL)
	{
		/* sessions are in UTC: digits without a zone are those of UTC here */
		sql = psprintf("pg_catalog.to_timestamp(%s, %s)", sql, rehome_rule_literal(format));
		if (zone != NULL)
			sql = psprintf("pg_catalog.timezone(%s, pg_catalog.timezone('UTC', %s))", rehome_rule_literal(zone), sql);
	}
	else
	{
		if (TupleDescAttr(RelationGetDescr(c->rule->target), c->rule->attnum - 1)->atttypid != TIMESTAMPTZOID)
			type = "pg_catalog.timestamp";
		sql = psprintf("(%s)::%s", sql, type);
	}
	rehome_rule_set_typed(c, sql);
	append_range(c, params, type);
	if (c->back && !c->many && attnum > 0)
	{
		bool		whole = rehome_is_integer(TupleDescAttr(RelationGetDescr(c->rule->source), attnum - 1)->atttypid);

		if (keeps_units(TupleDescAttr(RelationGetDescr(c->rule->target), c->rule->attnum - 1), whole ? per_second : 1000000))
			c->rule->inverse = psprintf("(pg_catalog.%s(EXTRACT(epoch FROM target.%s) * %d))::pg_catalog.text::%s",
										whole ? "floor" : "trim_scale",
										quote_identifier(c->rule->column), per_second, rehome_rule_type(c->rule->source, attnum));
	}
	rehome_rule_set_typed(c, psprintf("(%s)::%s", c->value.sql, rehome_rule_type(c->rule->target, c->rule->attnum)));
}

/*
 * boolean_sql reads the spellings of a boolean.
 */
static char *
boolean_sql(const char *value)
{
	return psprintf("CASE WHEN pg_catalog.lower(pg_catalog.btrim(%s)) IN ('t', 'true', 'y', 'yes', 'on', '1', '-1', 'j', 'ja', 'o', 'oui', 's', 'si', 'x', 'wahr', 'vrai') THEN 'true'::pg_catalog.text"
					" WHEN pg_catalog.lower(pg_catalog.btrim(%s)) IN ('f', 'false', 'n', 'no', 'off', '0', 'nein', 'non', 'falsch', 'faux', '') THEN 'false'::pg_catalog.text"
					" ELSE rehome.rule_refuse(%s, 'is no spelling of a boolean'::pg_catalog.text) END",
					value, value, value);
}

/*
 * rehome_rule_numeric is the step of kind "number".
 */
void
rehome_rule_numeric(RehomeRuleCompiler *c, JsonbContainer *params)
{
	char	   *decimal = rehome_param_text(c->problems, params, "decimal");
	char	   *grouping = rehome_param_text(c->problems, params, "grouping");
	char	   *bits = rehome_param_choice(c->problems, params, "unsigned", "\"8\", \"16\", \"32\", \"64\"");
	char	   *nan = rehome_param_choice(c->problems, params, "nan", "null, refuse, keep");
	bool		money = rehome_param_flag(c->problems, params, "money");
	char	   *sql = rehome_rule_as_text(c);

	rehome_param_known(c->problems, params, "number", "money, decimal, grouping, unsigned, boolean, nan, min, max, out_of_range");
	c->back = false;
	if (rehome_param_flag(c->problems, params, "boolean"))
	{
		rehome_rule_set_text(c, boolean_sql(sql));
		return;
	}
	if (decimal && grouping && strcmp(decimal, grouping) == 0)
		rehome_rule_bad(c, "Parameters \"decimal\" and \"grouping\" are the same.");
	if (nan != NULL && strcmp(nan, "keep") != 0)
		sql = psprintf("CASE WHEN pg_catalog.lower(pg_catalog.btrim(%s)) IN ('nan', 'inf', '+inf', '-inf', 'infinity', '+infinity', '-infinity') THEN %s ELSE %s END",
					   sql, nan[0] == 'n' ? rehome_rule_literal(NULL) :
					   psprintf("rehome.rule_refuse(%s, %s)", sql, rehome_rule_literal("is not a number")), sql);
	if (money || decimal || grouping)
		sql = psprintf("rehome.rule_number(%s, %s, %s)", sql, rehome_rule_literal(decimal ? decimal : "."),
					   rehome_rule_literal(grouping ? grouping : decimal && decimal[0] == ',' ? "." : ","));
	else
		sql = psprintf("(%s)::pg_catalog.numeric", sql);
	if (bits != NULL)
		sql = psprintf("rehome.rule_unsigned(%s, %s)", sql, bits);
	rehome_rule_set_typed(c, sql);
	append_range(c, params, "pg_catalog.numeric");

	/* by way of text: a fraction must not be rounded away on its way to an integer */
	rehome_rule_set_text(c, psprintf("(pg_catalog.trim_scale(%s))::pg_catalog.text", c->value.sql));
}
