/*-------------------------------------------------------------------------
 *
 * rule.c
 *	  Column rules: from a kind and its parameters to one SQL expression.
 *
 * A rule is a step, or several that each take what the one before gave.  A
 * step wraps the SQL of the value so far; what comes out is parsed like any
 * expression a DBA could have written, so copy, sync, verification and
 * rollback know nothing of kinds.  Steps on text work on the value's text;
 * at the end it is cast to the target's type, without its length, which the
 * assignment then checks: a cast would cut the text.
 *
 * Parameters come from JSON.  All that is wrong with them is reported
 * together.  Whatever they bring into the SQL is a quoted literal, or an
 * expression that has been parsed by itself.
 *
 * This module reads the system catalogs and nothing else: no SPI, no libpq.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "mapping/mapping.h"
#include "mapping/rule.h"
#include "mapping/rule_param.h"
#include "mapping/rule_private.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_type.h"
#include "util/attempt.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* What blanks are, as a SQL literal. */
#define BLANKS "E' \\t\\n\\r\\f\\x0b'"

typedef void (*Step) (RehomeRuleCompiler *c, JsonbContainer *params);

/*
 * rehome_rule_bad notes what is wrong with a rule's parameters.
 */
void
rehome_rule_bad(RehomeRuleCompiler *c, const char *text)
{
	rehome_problem(c->problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "%s", text);
}

/*
 * rehome_rule_literal returns a text, or NULL, as a SQL literal.
 */
char *
rehome_rule_literal(const char *text)
{
	return text ? psprintf("%s::pg_catalog.text", quote_literal_cstr(text)) : pstrdup("NULL::pg_catalog.text");
}

/*
 * rehome_rule_type returns a column's type as SQL, without its length.
 */
char *
rehome_rule_type(Relation rel, AttrNumber attnum)
{
	return format_type_extended(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid, -1,
								FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

static bool
is_text_type(Oid type)
{
	return type == TEXTOID || type == VARCHAROID || type == BPCHAROID;
}

/*
 * rehome_rule_as_text makes the value text, and returns its SQL.
 */
char *
rehome_rule_as_text(RehomeRuleCompiler *c)
{
	if (c->value.sql == NULL)
	{
		rehome_rule_bad(c, psprintf("Column \"%s\" has no namesake at the source: argument source_column names the column to read.",
						c->rule->column));
		c->value.sql = rehome_rule_literal(NULL);
	}
	else if (!c->value.text)
		c->value.sql = psprintf("(%s)::pg_catalog.text", c->value.sql);
	c->value.text = true;
	c->value.column = false;
	return c->value.sql;
}

/*
 * rehome_rule_compared returns the SQL of the value if that is the bare source
 * column, of a type of which one value has many spellings: literals are then
 * compared as that type, since 0 and 0.00 are one number.  NULL: as text.
 */
char *
rehome_rule_compared(RehomeRuleCompiler *c)
{
	AttrNumber	attnum = c->value.column ? get_attnum(RelationGetRelid(c->rule->source), c->source_column) : 0;

	switch (attnum > 0 ? getBaseType(TupleDescAttr(RelationGetDescr(c->rule->source), attnum - 1)->atttypid) : InvalidOid)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
			return c->value.sql;
		default:
			return NULL;
	}
}

/*
 * rehome_rule_cases begins a CASE over a value: column (see above), or if that is
 * NULL its text.
 */
void
rehome_rule_cases(StringInfo sql, const char *column, const char *value)
{
	initStringInfo(sql);
	appendStringInfo(sql, "CASE%s%s", column ? "" : " ", column ? "" : value);
}

/*
 * rehome_rule_case adds what a value becomes.
 */
void
rehome_rule_case(StringInfo sql, const char *column, RehomeRuleCompiler *c, const char *from, const char *to)
{
	Oid			type;

	if (column == NULL)
	{
		appendStringInfo(sql, " WHEN %s THEN %s", rehome_rule_literal(from), rehome_rule_literal(to));
		return;
	}
	type = get_atttype(RelationGetRelid(c->rule->source), get_attnum(RelationGetRelid(c->rule->source), c->source_column));
	appendStringInfo(sql, " WHEN %s OPERATOR(pg_catalog.=) %s::%s THEN %s", column, quote_literal_cstr(from),
					 format_type_extended(getBaseType(type), -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY),
					 rehome_rule_literal(to));
}

/*
 * rehome_rule_set_text makes SQL of type text the value.
 */
void
rehome_rule_set_text(RehomeRuleCompiler *c, char *sql)
{
	c->value.sql = sql;
	c->value.text = true;
	c->value.column = false;
}

/*
 * rehome_rule_set_typed makes SQL of any other type the value.
 */
void
rehome_rule_set_typed(RehomeRuleCompiler *c, char *sql)
{
	c->value.sql = sql;
	c->value.text = false;
	c->value.column = false;
}

/*
 * own_expression parses what the user wrote, in which "value" is the value so
 * far, and returns it with everything qualified.
 */
static char *
own_expression(RehomeRuleCompiler *c, const char *text, Oid *type)
{
	RehomeRule *rule = c->rule;
	Node	   *value = NULL;
	Node	   *expr;
	int			level;

	if (c->value.sql != NULL)
		value = rehome_expression_parse(c->value.sql, rule->source, "source");
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", rule->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	expr = rehome_expression_parse_value(text, rule->source, "source", value);
	AtEOXact_GUC(true, level);
	*type = exprType(expr);
	return rehome_expression_deparse(expr, rule->source, "source");
}

/*
 * other_sql returns what becomes of a value that is not listed: parameter
 * name is fail, quarantine, keep, null, or {"value": ...}.  Null stays null.
 */
static char *
other_sql(RehomeRuleCompiler *c, JsonbContainer *params, const char *name, const char *value, const char *what)
{
	JsonbValue *v = rehome_param(params, name);
	JsonbValue *given = v && v->type == jbvBinary && JsonContainerIsObject(v->val.binary.data) ?
		rehome_param(v->val.binary.data, "value") : NULL;
	char	   *text;

	if (given != NULL && rehome_param_is_scalar(given))
	{
		c->back = false;
		return psprintf("CASE WHEN %s IS NOT NULL THEN %s END", value, rehome_rule_literal(rehome_param_scalar(given)));
	}
	text = v ? rehome_param_choice(c->problems, params, name, "fail, quarantine, keep, null") : pstrdup("fail");
	if (text == NULL)
		return rehome_rule_literal(NULL);
	if (strcmp(text, "keep") == 0 || strcmp(text, "null") == 0)
	{
		c->back = false;
		return text[0] == 'k' ? pstrdup(value) : rehome_rule_literal(NULL);
	}
	if (strcmp(text, "quarantine") == 0)
		c->rule->quarantine = true;
	return psprintf("rehome.rule_refuse(%s, %s)", value, rehome_rule_literal(what));
}

static void
step_copy(RehomeRuleCompiler *c, JsonbContainer *params)
{
	if (c->value.sql == NULL)
		(void) rehome_rule_as_text(c);
	rehome_param_known(c->problems, params, "copy", "");
}

static void
step_cast(RehomeRuleCompiler *c, JsonbContainer *params)
{
	char	   *type = rehome_param_text(c->problems, params, "type");

	rehome_param_known(c->problems, params, "cast", "type");
	if (c->value.sql == NULL)
		(void) rehome_rule_as_text(c);
	if (type != NULL)
	{
		Oid			typid;
		int32		typmod;
		int			level = NewGUCNestLevel();

		(void) set_config_option("search_path", c->rule->search_path, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		parseTypeString(type, &typid, &typmod, false);
		AtEOXact_GUC(true, level);
		type = format_type_extended(typid, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
		c->back = false;
		rehome_rule_set_typed(c, psprintf("(%s)::%s", c->value.sql, type));
	}
	rehome_rule_set_typed(c, psprintf("(%s)::%s", c->value.sql, rehome_rule_type(c->rule->target, c->rule->attnum)));
}

static void
step_expression(RehomeRuleCompiler *c, JsonbContainer *params)
{
	char	   *text = rehome_param_text(c->problems, params, "expression");
	Oid			type;

	rehome_param_known(c->problems, params, "expression", "expression");
	c->back = false;
	if (text == NULL)
	{
		rehome_rule_bad(c, "Kind \"expression\" needs parameter \"expression\".");
		return;
	}
	rehome_rule_set_typed(c, psprintf("(%s)", own_expression(c, text, &type)));
	c->value.text = type == TEXTOID && c->many;
}

static void
step_constant(RehomeRuleCompiler *c, JsonbContainer *params)
{
	JsonbValue *v = rehome_param(params, "value");

	rehome_param_known(c->problems, params, "constant", "value");
	c->back = false;
	if (v == NULL || (!rehome_param_is_scalar(v) && v->type != jbvBinary))
		rehome_rule_bad(c, "Kind \"constant\" needs parameter \"value\".");
	else if (v->type == jbvBinary)
		rehome_rule_set_text(c, rehome_rule_literal(JsonbToCString(NULL, v->val.binary.data, v->val.binary.len)));
	else
		rehome_rule_set_text(c, rehome_rule_literal(rehome_param_scalar(v)));
}

static void
step_leave_out(RehomeRuleCompiler *c, JsonbContainer *params)
{
	rehome_param_known(c->problems, params, c->rule->kind, "");
	c->skip = true;
	if (c->many)
		rehome_rule_bad(c, "Kinds \"skip\" and \"default\" cannot be one of several steps.");
}

/* A value, and what a column has of it. */
typedef struct Stored
{
	Form_pg_attribute att;
	char	   *given;
	char	   *text;
} Stored;

/*
 * store_value is what becomes of a value in a column, for rehome_attempt.
 */
static void
store_value(void *arg)
{
	Stored	   *stored = arg;
	int32		typmod = stored->att->atttypmod;
	Oid			type = getBaseTypeAndTypmod(stored->att->atttypid, &typmod);
	Oid			function;
	Oid			ioparam;
	bool		varlena;
	Datum		value;

	getTypeInputInfo(type, &function, &ioparam);
	value = OidInputFunctionCall(function, stored->given, ioparam, typmod);
	getTypeOutputInfo(type, &function, &varlena);
	stored->text = OidOutputFunctionCall(function, value);
}

/*
 * value_stored returns the text that a column gives for a value it has been
 * given as text; NULL when it does not take it.
 */
static char *
value_stored(RehomeRuleCompiler *c, char *given)
{
	Stored		stored = {TupleDescAttr(RelationGetDescr(c->rule->target), c->rule->attnum - 1), given};

	return rehome_attempt(store_value, &stored) == NULL ? stored.text : NULL;
}

/*
 * stored_literal is SQL for that text, whatever it depends on.
 */
static char *
stored_literal(RehomeRuleCompiler *c, const char *given)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(c->rule->target), c->rule->attnum - 1);

	if (is_text_type(att->atttypid))
		return rehome_rule_literal(given);
	return psprintf("(%s::%s)::pg_catalog.text", rehome_rule_literal(given),
					format_type_extended(att->atttypid, att->atttypmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

static void
step_value_map(RehomeRuleCompiler *c, JsonbContainer *params)
{
	JsonbValue *map = rehome_param(params, "map");
	char	   *column = rehome_rule_compared(c);
	char	   *value = rehome_rule_as_text(c);
	StringInfoData sql;
	StringInfoData inverse;
	JsonbIterator *it;
	JsonbValue	v;
	char	   *from = NULL;
	List	   *seen = NIL;
	AttrNumber	attnum;

	rehome_param_known(c->problems, params, "value_map", "map, unlisted");
	if (map == NULL || map->type != jbvBinary || !JsonContainerIsObject(map->val.binary.data) ||
		JsonContainerSize(map->val.binary.data) == 0)
	{
		rehome_rule_bad(c, "Kind \"value_map\" needs parameter \"map\", an object of old values and new ones.");
		return;
	}
	rehome_rule_cases(&sql, column, value);
	initStringInfo(&inverse);
	it = JsonbIteratorInit(map->val.binary.data);
	for (JsonbIteratorToken t = JsonbIteratorNext(&it, &v, true); t != WJB_DONE;
		 t = JsonbIteratorNext(&it, &v, true))
	{
		char	   *to;

		if (t == WJB_KEY)
			from = pnstrdup(v.val.string.val, v.val.string.len);
		if (t != WJB_VALUE)
			continue;
		if (!rehome_param_is_scalar(&v))
		{
			rehome_rule_bad(c, psprintf("Value \"%s\" is mapped to what is neither text, number, boolean nor null.", from));
			continue;
		}
		to = rehome_param_scalar(&v);
		rehome_rule_case(&sql, column, c, from, to);
		if (to != NULL && !c->many)
		{
			char	   *stored = value_stored(c, to);

			/* 1.0 and 1.00 are the same number */
			if (stored == NULL || rehome_name_listed(seen, stored))
				c->back = false;
			seen = lappend(seen, stored);
			appendStringInfo(&inverse, " WHEN %s THEN %s", stored_literal(c, to), rehome_rule_literal(from));
		}
		else
			c->back = false;
	}
	appendStringInfo(&sql, " ELSE %s END", other_sql(c, params, "unlisted", value, "is not in the value map"));
	rehome_rule_set_text(c, sql.data);
	attnum = c->source_column ? get_attnum(RelationGetRelid(c->rule->source), c->source_column) : 0;
	if (c->back && !c->many && attnum > 0)
	{
		char	   *back = psprintf("(target.%s)::pg_catalog.text", quote_identifier(c->rule->column));

		c->rule->inverse = psprintf("(CASE %s%s ELSE rehome.rule_refuse(%s, %s) END)::%s", back, inverse.data, back,
									rehome_rule_literal("is not in the value map"), rehome_rule_type(c->rule->source, attnum));
	}
}

/*
 * null_for makes the SQL of a value null where that is what is given; if column
 * is, it stands in a CASE over it, which is to be ended.
 */
static void
null_for(RehomeRuleCompiler *c, const char *column, StringInfo cases, char **value, JsonbValue *given)
{
	if (column != NULL)
		rehome_rule_case(cases, column, c, rehome_param_scalar(given), NULL);
	else
		*value = psprintf("NULLIF(%s, %s)", *value, rehome_rule_literal(rehome_param_scalar(given)));
}

static void
step_null(RehomeRuleCompiler *c, JsonbContainer *params)
{
	JsonbValue *to_null = rehome_param(params, "to_null");
	JsonbValue *null_to = rehome_param(params, "null_to");
	char	   *column = rehome_rule_compared(c);
	char	   *sql = rehome_rule_as_text(c);
	StringInfoData cases;
	int			none;

	rehome_param_known(c->problems, params, "null", "blank_to_null, to_null, null_to");
	c->back = false;
	if (rehome_param_flag(c->problems, params, "blank_to_null"))
		sql = psprintf("rehome.rule_blank_to_null(%s)", sql);
	rehome_rule_cases(&cases, column, sql);
	none = cases.len;
	if (to_null != NULL && rehome_param_is_scalar(to_null) && to_null->type != jbvNull)
		null_for(c, column, &cases, &sql, to_null);
	else if (to_null != NULL && to_null->type == jbvBinary && JsonContainerIsArray(to_null->val.binary.data))
		for (uint32 i = 0; i < JsonContainerSize(to_null->val.binary.data); i++)
		{
			JsonbValue *v = getIthJsonbValueFromContainer(to_null->val.binary.data, i);

			if (!rehome_param_is_scalar(v) || v->type == jbvNull)
				rehome_rule_bad(c, "Parameter \"to_null\" lists what is neither text, number nor boolean.");
			else
				null_for(c, column, &cases, &sql, v);
		}
	else if (to_null != NULL)
		rehome_rule_bad(c, "Parameter \"to_null\" is neither a value nor a list of values.");
	if (cases.len > none)
		sql = psprintf("%s ELSE %s END", cases.data, sql);
	if (null_to != NULL && rehome_param_is_scalar(null_to) && null_to->type != jbvNull)
		sql = psprintf("COALESCE(%s, %s)", sql, rehome_rule_literal(rehome_param_scalar(null_to)));
	else if (null_to != NULL)
		rehome_rule_bad(c, "Parameter \"null_to\" is not a text, number or boolean.");
	rehome_rule_set_text(c, sql);
}

static void
step_text(RehomeRuleCompiler *c, JsonbContainer *params)
{
	char	   *control = rehome_param_choice(c->problems, params, "control", "strip, space, refuse");
	char	   *form = rehome_param_choice(c->problems, params, "normalize", "nfc, nfd, nfkc, nfkd");
	char	   *letters = rehome_param_choice(c->problems, params, "case", "lower, upper");
	char	   *json = rehome_param_choice(c->problems, params, "json", "repair, refuse");
	char	   *trim = rehome_param_choice(c->problems, params, "trim", "both, left, right");
	char	   *sql = rehome_rule_as_text(c);

	rehome_param_known(c->problems, params, "text", "control, html, entities, normalize, collapse, trim, case, json");
	c->back = false;
	if (control)
		sql = psprintf("rehome.rule_control(%s, %s)", sql, rehome_rule_literal(control));
	if (rehome_param_flag(c->problems, params, "html"))
		sql = psprintf("rehome.rule_html(%s)", sql);
	if (rehome_param_flag(c->problems, params, "entities"))
		sql = psprintf("rehome.rule_entities(%s)", sql);
	if (form)
		sql = psprintf("pg_catalog.normalize(%s, %s)", sql, rehome_rule_literal(form));
	if (rehome_param_flag(c->problems, params, "collapse"))
		sql = psprintf("pg_catalog.regexp_replace(%s, '[[:space:]]+', ' ', 'g')", sql);
	if (trim)
		sql = psprintf("pg_catalog.%s(%s, " BLANKS ")",
					   trim[0] == 'b' ? "btrim" : trim[0] == 'l' ? "ltrim" : "rtrim", sql);
	if (letters)
		sql = psprintf("pg_catalog.%s(%s)", letters, sql);
	if (json)
		sql = psprintf("rehome.rule_json(%s, %s)", sql, rehome_rule_literal(json));
	rehome_rule_set_text(c, sql);
}

/*
 * is_unique tells whether a unique index stands on just that column.
 */
static bool
is_unique(Oid relid, AttrNumber attnum)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		unique = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		unique = unique || (index->rd_index->indisunique && index->rd_index->indnkeyatts == 1 &&
							index->rd_index->indkey.values[0] == attnum && index->rd_index->indisvalid &&
							RelationGetIndexPredicate(index) == NIL);
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return unique;
}

static void
step_lookup(RehomeRuleCompiler *c, JsonbContainer *params)
{
	char	   *table = rehome_param_text(c->problems, params, "table");
	char	   *from = rehome_param_text(c->problems, params, "from");
	char	   *to = rehome_param_text(c->problems, params, "to");
	char	   *value = rehome_rule_as_text(c);
	AttrNumber	attnum = c->source_column ? get_attnum(RelationGetRelid(c->rule->source), c->source_column) : 0;
	int			level;
	Oid			relid;
	char	   *crosswalk;

	rehome_param_known(c->problems, params, "lookup", "table, from, to, unlisted");
	if (table == NULL || from == NULL || to == NULL)
	{
		rehome_rule_bad(c, "Kind \"lookup\" needs parameters \"table\", \"from\" and \"to\".");
		return;
	}
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", c->rule->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	relid = RangeVarGetRelid(makeRangeVarFromNameList(RehomeStringToNameList(table)), AccessShareLock, true);
	AtEOXact_GUC(true, level);
	if (!OidIsValid(relid))
	{
		rehome_rule_bad(c, psprintf("Crosswalk \"%s\" does not exist.", table));
		return;
	}
	if (get_attnum(relid, from) <= 0 || get_attnum(relid, to) <= 0)
	{
		rehome_rule_bad(c, psprintf("Crosswalk \"%s\" has no column \"%s\".", table, get_attnum(relid, from) <= 0 ? from : to));
		return;
	}
	if (!is_unique(relid, get_attnum(relid, from)))
		rehome_rule_bad(c, psprintf("No unique index stands on column \"%s\" of crosswalk \"%s\".", from, table));
	crosswalk = psprintf("%s::pg_catalog.regclass",
						 quote_literal_cstr(quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
																	   get_rel_name(relid))));
	rehome_rule_set_text(c, psprintf("COALESCE(rehome.rule_lookup(%s, %s, %s::pg_catalog.name, %s::pg_catalog.name), %s)",
						 value, crosswalk, quote_literal_cstr(from), quote_literal_cstr(to),
						 other_sql(c, params, "unlisted", value, psprintf("is not in crosswalk %s", table))));
	if (c->back && !c->many && attnum > 0 && is_unique(relid, get_attnum(relid, to)))
	{
		char	   *back = psprintf("(target.%s)::pg_catalog.text", quote_identifier(c->rule->column));

		c->rule->inverse = psprintf("(COALESCE(rehome.rule_lookup(%s, %s, %s::pg_catalog.name, %s::pg_catalog.name),"
									" rehome.rule_refuse(%s, %s)))::%s",
									back, crosswalk, quote_literal_cstr(to), quote_literal_cstr(from), back,
									rehome_rule_literal(psprintf("is not in crosswalk %s", table)), rehome_rule_type(c->rule->source, attnum));
	}
}

static const struct
{
	const char *kind;
	Step		step;
}			kinds[] = {
	{"copy", step_copy}, {"cast", step_cast}, {"expression", step_expression},
	{"constant", step_constant}, {"default", step_leave_out}, {"skip", step_leave_out},
	{"value_map", step_value_map}, {"null", step_null}, {"timestamp", rehome_rule_timestamp},
	{"text", step_text}, {"number", rehome_rule_numeric}, {"lookup", step_lookup},
};

static void
one_step(RehomeRuleCompiler *c, const char *kind, JsonbContainer *params)
{
	StringInfoData known;

	for (int i = 0; i < lengthof(kinds); i++)
		if (strcmp(kinds[i].kind, kind) == 0)
		{
			kinds[i].step(c, params);
			return;
		}
	initStringInfo(&known);
	for (int i = 0; i < lengthof(kinds); i++)
		appendStringInfo(&known, "%s, ", kinds[i].kind);
	rehome_rule_bad(c, psprintf("There is no kind \"%s\"; there are: %ssteps.", kind, known.data));
}

static void
all_steps(RehomeRuleCompiler *c, JsonbContainer *steps)
{
	c->many = true;
	c->back = false;
	if (steps == NULL || !JsonContainerIsArray(steps) || JsonContainerIsScalar(steps) ||
		JsonContainerSize(steps) == 0)
	{
		rehome_rule_bad(c, "Kind \"steps\" needs a list of steps, each an object with its kind and parameters.");
		return;
	}
	for (uint32 i = 0; i < JsonContainerSize(steps); i++)
	{
		JsonbValue *v = getIthJsonbValueFromContainer(steps, i);
		JsonbContainer *params = v->type == jbvBinary && JsonContainerIsObject(v->val.binary.data) ?
			v->val.binary.data : NULL;
		JsonbValue *kind = rehome_param(params, "kind");

		if (kind == NULL || kind->type != jbvString)
			rehome_rule_bad(c, psprintf("Step %u is not an object with a kind.", i + 1));
		else
			one_step(c, rehome_param_scalar(kind), params);
	}
}

/*
 * is_lossless tells whether what a cast to another type makes is read back
 * by the first as the same value, whenever the cast succeeds.
 */
static bool
is_lossless(Oid from, Oid to)
{
	bool		from_int = rehome_is_integer(from);
	bool		to_text = to == TEXTOID || to == VARCHAROID;

	if (from == to)
		return true;
	if (from_int && (rehome_is_integer(to) || to == NUMERICOID || to_text))
		return true;
	if ((from == TEXTOID || from == VARCHAROID || from == BPCHAROID) && to_text)
		return true;
	if ((from == UUIDOID || from == BOOLOID || from == NUMERICOID || from == INETOID || from == JSONOID ||
		 from == DATEOID || from == TIMESTAMPOID || get_typtype(from) == TYPTYPE_ENUM) && to_text)
		return true;
	return (from == DATEOID && to == TIMESTAMPOID) || (from == FLOAT4OID && to == FLOAT8OID) ||
		(from == BOOLOID && to == INT4OID) || (from == TIMESTAMPOID && to == TIMESTAMPTZOID) ||
		(from == TIMESTAMPTZOID && to == TIMESTAMPOID);
}

/*
 * rehome_rule_compile fills in the results of a rule, as the migration's
 * owner, whose functions parsing may run; adds what is wrong to problems.
 */
void
rehome_rule_compile(RehomeRule *rule, RehomeProblems *problems)
{
	RehomeRuleCompiler	c = {.rule = rule,.problems = problems,.back = true};
	JsonbContainer *params = rule->params ? &rule->params->root : NULL;
	bool		steps = strcmp(rule->kind, "steps") == 0;
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rule->target), rule->attnum - 1);
	AttrNumber	from = InvalidAttrNumber;

	if (params != NULL && !steps && (!JsonContainerIsObject(params)))
	{
		rehome_rule_bad(&c, "The parameters are not an object.");
		return;
	}
	c.source_column = rule->source_column ? pstrdup(rule->source_column) :
		get_attnum(RelationGetRelid(rule->source), rule->column) > 0 ? pstrdup(rule->column) : NULL;
	if (c.source_column != NULL)
	{
		from = get_attnum(RelationGetRelid(rule->source), c.source_column);
		if (from <= 0)
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL, "Column \"%s\" of source \"%s\" does not exist.",
						   c.source_column, RelationGetRelationName(rule->source));
		else
		{
			c.value.sql = psprintf("source.%s", quote_identifier(c.source_column));
			c.value.column = true;
		}
	}
	if (steps)
		all_steps(&c, params);
	else
		one_step(&c, rule->kind, params);
	if (c.skip || problems->n > 0)
	{
		if (c.skip && rule->validation != NULL)
			rehome_rule_bad(&c, "A column that is left out has nothing to validate.");
		return;
	}
	if (c.value.text && !is_text_type(att->atttypid))
		rehome_rule_set_typed(&c, psprintf("(%s)::%s", c.value.sql, rehome_rule_type(rule->target, rule->attnum)));
	if (rule->validation != NULL)
	{
		Oid			type;
		char	   *valid = own_expression(&c, rule->validation, &type);

		if (type != BOOLOID)
			rehome_rule_bad(&c, psprintf("Validation \"%s\" is of type %s, not boolean.", rule->validation, format_type_be(type)));
		rehome_rule_set_typed(&c, psprintf("rehome.rule_valid(%s, %s, %s)", c.value.sql, valid, rehome_rule_literal(rule->validation)));
	}
	if (strcmp(rule->kind, "cast") == 0 && c.back && from > 0 &&
		is_lossless(TupleDescAttr(RelationGetDescr(rule->source), from - 1)->atttypid, att->atttypid))
		rule->inverse = psprintf("(target.%s)::%s", quote_identifier(rule->column), rehome_rule_type(rule->source, from));
	if (strcmp(rule->kind, "copy") == 0 && rule->validation != NULL && from > 0 &&
		is_lossless(TupleDescAttr(RelationGetDescr(rule->source), from - 1)->atttypid, att->atttypid))
		rule->inverse = psprintf("(target.%s)::%s", quote_identifier(rule->column), rehome_rule_type(rule->source, from));
	rule->expression = c.value.sql;
}
