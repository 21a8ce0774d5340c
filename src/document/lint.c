/*-------------------------------------------------------------------------
 *
 * lint.c
 *	  rehome.lint_mapping(): what is wrong, or risky, about the rules of a
 *	  migration, by reading the catalogs and a sample of the source's rows.
 *
 * Each row of the sample goes through the compiled rules, as it would in a
 * copy.  What a rule refuses, rounds, or makes null where it may not, is told
 * by the row's key.  What they give is then looked at together, as SQL sees
 * it: unique indexes, check constraints, foreign keys (lint_sample.c).
 *
 * Nothing is written.  Rows are read through the relation that the table map
 * names, as the migration's owner, and so are the rules evaluated.  Memory
 * does not grow with the sample: rows are kept in a tuplestore.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "catalog/redaction.h"
#include "document/lint.h"
#include "document/sql/lint_rules.sql.h"
#include "guc.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "util/attempt.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

/* One rule being tried. */
typedef struct Rule
{
	RehomeMappedColumn *column;
	ExprState  *value;
	ExprState  *lost;			/* whether a value is not what it was; NULL: cannot be */
	bool		not_null;
	bool		enumeration;
	int64		refused;		/* rows told of, and beyond that counted */
	int64		nulls;
	int64		rounded;
} Rule;

/* A row of the sample being tried. */
typedef struct Trial
{
	RehomeLint *lint;
	RehomeProjector *projector;
	Rule	   *rules;
	int			from;			/* the rules tried */
	int			to;
	Datum	   *values;
	bool	   *nulls;
	bool	   *lost;
} Trial;

/*
 * rehome_lint_put puts a finding.
 */
void
rehome_lint_put(RehomeLint *lint, const char *severity, const char *column, const char *name,
				const char *key, const char *detail, const char *hint)
{
	char	   *values[7];

	values[0] = unconstify(char *, severity);
	values[1] = rehome_relation_name(lint->map->target);
	values[2] = unconstify(char *, column);
	values[3] = unconstify(char *, name);
	values[4] = unconstify(char *, key);
	values[5] = unconstify(char *, detail);
	values[6] = unconstify(char *, hint);
	rehome_sink_put(&lint->sink, values);
}

/*
 * rehome_lint_row puts a finding about a row, if there have not been too many
 * of its kind, and counts it in *n.  The detail may quote the row.
 */
void
rehome_lint_row(RehomeLint *lint, int64 *n, const char *column, const char *name,
				const char *key, const char *detail, const char *hint)
{
	if ((*n)++ < rehome_max_discrepancies)
		rehome_lint_put(lint, "error", column, name, key, lint->redacted ? REHOME_REDACTED_MESSAGE : detail, hint);
}

/*
 * rehome_lint_rest tells how many rows have not been listed.
 */
void
rehome_lint_rest(RehomeLint *lint, int64 n, const char *column, const char *name)
{
	if (n > rehome_max_discrepancies)
		rehome_lint_put(lint, "error", column, name, NULL,
						psprintf(INT64_FORMAT " more rows are not listed", n - rehome_max_discrepancies),
						"Raise rehome.max_discrepancies to see them.");
}

/*
 * append_json appends a value as JSON.
 */
static void
append_json(StringInfo json, Oid type, Datum value, bool isnull)
{
	Oid			output;
	bool		varlena;
	char	   *text;

	if (isnull)
	{
		appendStringInfoString(json, "null");
		return;
	}
	getTypeOutputInfo(type, &output, &varlena);
	text = OidOutputFunctionCall(output, value);
	if (rehome_is_integer(type))
		appendStringInfoString(json, text);
	else if (type == BOOLOID)
		appendStringInfoString(json, DatumGetBool(value) ? "true" : "false");
	else
		escape_json(json, text);
}

/*
 * rehome_lint_source_key returns the key of the row in the slot, as the source names it:
 * the text of a JSON object.
 */
char *
rehome_lint_source_key(RehomeTableMap *map, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	StringInfoData json;
	ListCell   *lc;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	foreach(lc, map->source_key)
		for (int i = 0; i < desc->natts; i++)
			if (!TupleDescAttr(desc, i)->attisdropped &&
				strcmp(NameStr(TupleDescAttr(desc, i)->attname), lfirst(lc)) == 0)
			{
				if (json.len > 1)
					appendStringInfoString(&json, ", ");
				escape_json(&json, lfirst(lc));
				appendStringInfoString(&json, ": ");
				append_json(&json, TupleDescAttr(desc, i)->atttypid, slot->tts_values[i], slot->tts_isnull[i]);
			}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/*
 * may_round tells whether values of a type can lose a part of themselves on
 * their way into a column without an error.
 */
static bool
may_round(Oid type)
{
	char		category;
	bool		preferred;

	get_type_category_preferred(type, &category, &preferred);
	return category == TYPCATEGORY_NUMERIC || category == TYPCATEGORY_DATETIME ||
		category == TYPCATEGORY_TIMESPAN;
}

/*
 * lost_expression builds the question whether a value, brought back to the
 * type it came from, is another; NULL when it cannot be asked.
 */
static Expr *
lost_expression(RehomeMappedColumn *column, Relation source)
{
	Node	   *raw = rehome_expression_parse(column->expression, source, "source");
	Oid			type = exprType(raw);
	Oid			equal = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	Node	   *back;

	if (!may_round(type) || !may_round(column->type) || !OidIsValid(equal) ||
		!func_strict(get_opcode(equal)))
		return NULL;
	back = coerce_to_target_type(NULL, (Node *) copyObject(column->expr), column->type, type, -1,
								 COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
	if (back == NULL)
		return NULL;
	return expression_planner(makeBoolExpr(NOT_EXPR,
										   list_make1(make_opclause(equal, BOOLOID, false, (Expr *) raw,
																	(Expr *) back, InvalidOid, InvalidOid)), -1));
}

/*
 * make_rules prepares the rules of a compiled map to be tried one by one.
 */
static Rule *
make_rules(RehomeMapping *mapping, RehomeProjector *projector)
{
	Relation	source = relation_open(mapping->map->source, AccessShareLock);
	Relation	target = relation_open(mapping->map->target, AccessShareLock);
	Rule	   *rules = palloc0(sizeof(Rule) * Max(mapping->ncolumns, 1));
	MemoryContext old = MemoryContextSwitchTo(projector->estate->es_query_cxt);

	for (int c = 0; c < mapping->ncolumns; c++)
	{
		RehomeMappedColumn *column = &mapping->columns[c];
		Expr	   *lost = lost_expression(column, source);

		rules[c].column = column;
		rules[c].value = ExecInitExpr(column->expr, NULL);
		rules[c].lost = lost ? ExecInitExpr(lost, NULL) : NULL;
		rules[c].not_null = TupleDescAttr(RelationGetDescr(target), column->attnum - 1)->attnotnull;
		rules[c].enumeration = type_is_enum(getBaseType(column->type));
	}
	MemoryContextSwitchTo(old);
	relation_close(target, AccessShareLock);
	relation_close(source, AccessShareLock);
	return rules;
}

/*
 * try_rules evaluates some rules on the row at hand; for rehome_attempt.
 */
static void
try_rules(void *arg)
{
	Trial	   *trial = arg;
	ExprContext *econtext = trial->projector->econtext;
	MemoryContext old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);

	for (int c = trial->from; c < trial->to; c++)
	{
		Rule	   *rule = &trial->rules[c];
		bool		isnull;

		trial->values[c] = ExecEvalExpr(rule->value, econtext, &trial->nulls[c]);
		trial->lost[c] = rule->lost != NULL && DatumGetBool(ExecEvalExpr(rule->lost, econtext, &isnull)) && !isnull;
	}
	MemoryContextSwitchTo(old);
}

/*
 * judge_error names the lint that an error of a rule is.
 */
static const char *
judge_error(Rule *rule, ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE:
		case ERRCODE_STRING_DATA_RIGHT_TRUNCATION:
		case ERRCODE_DATETIME_FIELD_OVERFLOW:
		case ERRCODE_INTERVAL_FIELD_OVERFLOW:
			return "narrowing";
		case ERRCODE_INVALID_TEXT_REPRESENTATION:
			return rule->enumeration ? "unlisted value" : "invalid value";
		case ERRCODE_NOT_NULL_VIOLATION:
			return "null";
		case ERRCODE_CHECK_VIOLATION:
			return "check";
		default:
			return "invalid value";
	}
}

/*
 * try_row tries all rules on the row at hand and tells what is wrong with
 * it.  True when every rule gave a value.
 */
static bool
try_row(Trial *trial, int nrules, const char *key)
{
	RehomeLint *lint = trial->lint;
	ErrorData  *error;
	bool		refused = false;

	trial->from = 0;
	trial->to = nrules;
	error = rehome_attempt(try_rules, trial);
	for (int c = 0; c < nrules; c++)
	{
		Rule	   *rule = &trial->rules[c];
		char	   *expression = rule->column->expression;

		if (error != NULL)
		{
			ErrorData  *mine;

			trial->from = c;
			trial->to = c + 1;
			mine = rehome_attempt(try_rules, trial);
			if (mine != NULL)
			{
				if (ERRCODE_TO_CATEGORY(mine->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
					ERRCODE_TO_CATEGORY(mine->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
					ReThrowError(mine);
				refused = true;
				trial->nulls[c] = true;
				rehome_lint_row(lint, &rule->refused, rule->column->name, judge_error(rule, mine), key,
								psprintf("rule %s: %s", expression, mine->message),
								"State with the rule what becomes of such a value, or correct it at the source.");
				continue;
			}
		}
		if (trial->nulls[c] && rule->not_null)
			rehome_lint_row(lint, &rule->nulls, rule->column->name, "null", key,
							psprintf("rule %s gives null, and the column may not be null", expression),
							"State a value for nulls, as with coalesce(), or drop the column's NOT NULL.");
		if (trial->lost[c])
		{
			Oid			output;
			bool		varlena;

			getTypeOutputInfo(rule->column->type, &output, &varlena);
			rehome_lint_row(lint, &rule->rounded, rule->column->name, "precision", key,
							psprintf("rule %s: what arrives is %s, which is not all of the value", expression,
									 OidOutputFunctionCall(output, trial->values[c])),
							"Raise the column's precision, or round in the expression, so that it is meant.");
		}
	}
	return !refused;
}

/*
 * sample_query returns the query for the rows of the sample, shaped like the
 * source relation; columns that nobody needs are null.
 */
static char *
sample_query(RehomeLint *lint, RehomeMapping *mapping)
{
	RehomeTableMap *map = lint->map;
	char	   *estimate;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM %s AS source",
					 rehome_source_row(mapping, rehome_mapping_source_columns(mapping)), rehome_relation_name(map->source));

	/* a local table has more to it than its first blocks */
	estimate = rehome_spi_value("SELECT CASE WHEN relkind IN ('r', 'm') AND reltuples > $2 * 2.0"
								" THEN (200.0 * $2 / reltuples)::text END FROM pg_class WHERE oid = $1",
								"ol", map->source, lint->sample);
	if (lint->sample >= 0 && estimate != NULL)
		appendStringInfo(&sql, " TABLESAMPLE SYSTEM (%s) REPEATABLE (0)", estimate);
	if (map->filter != NULL)
		appendStringInfo(&sql, " WHERE (%s)", map->filter);
	if (lint->sample >= 0)
		appendStringInfo(&sql, " LIMIT " INT64_FORMAT, lint->sample);
	return sql.data;
}

/*
 * sample_desc describes the rows kept: the mapped columns, and the key as the
 * source names it.
 */
static TupleDesc
sample_desc(RehomeMapping *mapping)
{
	TupleDesc	desc = CreateTemplateTupleDesc(mapping->ncolumns + 2);

	for (int c = 0; c < mapping->ncolumns; c++)
		TupleDescCopyEntry(desc, c + 1, mapping->mapped_desc, c + 1);
	TupleDescInitEntry(desc, mapping->ncolumns + 1, REHOME_LINT_KEY, TEXTOID, -1, 0);
	TupleDescInitEntry(desc, mapping->ncolumns + 2, REHOME_LINT_WHOLE, BOOLOID, -1, 0);
	return desc;
}

/*
 * try_sample sends the sample through the rules and leaves what they give in
 * lint->rows.
 */
static void
try_sample(RehomeLint *lint, RehomeMapping *mapping)
{
	Trial		trial = {.lint = lint};
	Portal		cursor = rehome_cursor_open(sample_query(lint, mapping));
	SPITupleTable *table;

	trial.projector = rehome_projector_mapped(mapping);
	trial.rules = make_rules(mapping, trial.projector);
	trial.values = palloc0(sizeof(Datum) * (mapping->ncolumns + 2));
	trial.nulls = palloc0(sizeof(bool) * (mapping->ncolumns + 2));
	trial.lost = palloc0(sizeof(bool) * Max(mapping->ncolumns, 1));
	lint->desc = sample_desc(mapping);
	lint->rows = tuplestore_begin_heap(false, false, work_mem);
	lint->nrows = 0;

	while ((table = rehome_cursor_fetch(cursor, REHOME_FETCH_ROWS)) != NULL)
	{
		for (uint64 i = 0; i < table->numvals; i++)
		{
			TupleTableSlot *slot = trial.projector->source;
			MemoryContext old;
			char	   *key;

			CHECK_FOR_INTERRUPTS();
			ResetPerTupleExprContext(trial.projector->estate);
			old = MemoryContextSwitchTo(GetPerTupleMemoryContext(trial.projector->estate));
			ExecClearTuple(slot);
			heap_deform_tuple(table->vals[i], table->tupdesc, slot->tts_values, slot->tts_isnull);
			ExecStoreVirtualTuple(slot);
			key = rehome_lint_source_key(lint->map, slot);
			trial.values[mapping->ncolumns + 1] = BoolGetDatum(try_row(&trial, mapping->ncolumns, key));
			trial.values[mapping->ncolumns] = CStringGetTextDatum(key);
			tuplestore_putvalues(lint->rows, lint->desc, trial.values, trial.nulls);
			lint->nrows++;
			MemoryContextSwitchTo(old);
		}
		SPI_freetuptable(table);
	}
	SPI_cursor_close(cursor);
	for (int c = 0; c < mapping->ncolumns; c++)
	{
		Rule	   *rule = &trial.rules[c];

		rehome_lint_rest(lint, rule->refused, rule->column->name, "invalid value");
		rehome_lint_rest(lint, rule->nulls, rule->column->name, "null");
		rehome_lint_rest(lint, rule->rounded, rule->column->name, "precision");
	}
	rehome_projector_end(trial.projector);
}

/*
 * put_unread tells of source columns that no rule reads.
 */
static void
put_unread(RehomeLint *lint, RehomeMapping *mapping)
{
	List	   *read = rehome_mapping_source_columns(mapping);

	for (int i = 0; i < mapping->source_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(mapping->source_desc, i);
		bool		found = att->attisdropped;
		ListCell   *lc;

		foreach(lc, read)
			found = found || strcmp(lfirst(lc), NameStr(att->attname)) == 0;
		if (!found)
			rehome_lint_put(lint, "info", NULL, "unread", NULL,
							psprintf("no rule reads column %s of the source", quote_identifier(NameStr(att->attname))),
							"Map it to a column, or be sure that it can be left behind.");
	}
}

static void
compile(void *arg)
{
	RehomeLint *lint = arg;

	lint->mapping = rehome_mapping_compile(lint->map, lint->migration->owner);
}

/*
 * key_is_ruled tells whether every column of the key has a rule, without
 * which a map cannot be compiled.
 */
static bool
key_is_ruled(RehomeTableMap *map)
{
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, map->key)
	{
		bool		ruled = false;

		foreach(lc2, map->columns)
		{
			RehomeColumnMap *column = lfirst(lc2);

			ruled = ruled || (strcmp(column->name, lfirst(lc)) == 0 && column->expression != NULL);
		}
		if (!ruled)
			return false;
	}
	return true;
}

/*
 * lint_map reads the sample of one table map.
 */
static void
lint_map(RehomeLint *lint)
{
	ErrorData  *error;
	RehomeAs	as;

	if (!key_is_ruled(lint->map))
		return;					/* told already, by its column */
	error = rehome_attempt(compile, lint);
	if (error != NULL)
	{
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		rehome_lint_put(lint, "error", NULL, "does not fit", NULL, error->message,
						"Take back what was done to the tables, or state the rule again.");
		return;
	}
	put_unread(lint, lint->mapping);
	if (lint->sample == 0)
		return;
	rehome_become(&as, lint->migration->owner);
	try_sample(lint, lint->mapping);
	rehome_lint_sample(lint);
	rehome_become_self(&as);
	tuplestore_end(lint->rows);
}

PG_FUNCTION_INFO_V1(rehome_lint_mapping);

/*
 * rehome_lint_mapping(migration name, sample bigint)
 */
Datum
rehome_lint_mapping(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeLint	lint = {0};
	RehomeRows *rows;
	ListCell   *lc;

	lint.sample = PG_ARGISNULL(1) ? -1 : PG_GETARG_INT64(1);
	if (!PG_ARGISNULL(1) && lint.sample < 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("sample must not be negative"),
				errhint("0 reads no rows, NULL reads all."));
	rehome_sink_begin(&lint.sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	lint.migration = rehome_migration_argument(fcinfo);
	rows = rehome_spi(sql_lint_rules, "i", lint.migration->id);
	foreach(lc, rehome_slices_get(lint.migration, NULL))
		if (!rehome_slice_ended(lfirst(lc)))
			lint.maps = list_concat(lint.maps, rehome_table_maps_require(lfirst(lc)));
	foreach(lc, lint.maps)
	{
		lint.map = lfirst(lc);
		lint.redacted = rehome_redacted_columns(lint.map->target) != NIL;
		for (int i = 0; i < rows->n; i++)
			if ((Oid) rehome_int64(rows->value[i][1]) == lint.map->target)
				rehome_lint_put(&lint, rows->value[i][0], rows->value[i][2], rows->value[i][3], NULL,
								rows->value[i][4], rows->value[i][5]);
		lint_map(&lint);
	}
	rehome_call_end(&call);
	return (Datum) 0;
}
