/*-------------------------------------------------------------------------
 *
 * lint_sample.c
 *	  What the rows of a sample are to each other, and to other tables: unique
 *	  indexes, check constraints, foreign keys.
 *
 * The rows are seen by SQL under the name rehome_sample, as the columns of
 * the target, so equality is that of the target's types and collations.
 * Parents of foreign keys are looked up where they come from: at the source,
 * through the parent's own rules, if this migration moves them; else in the
 * table that is here.
 *
 * The caller is the migration's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "catalog/redaction.h"
#include "document/lint.h"
#include "document/sql/lint_constraints.sql.h"
#include "guc.h"
#include "miscadmin.h"
#include "util/attempt.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* Columns of lint_constraints.sql. */
enum
{
	CON_KIND, CON_NAME, CON_COLUMNS, CON_EXPRESSIONS, CON_CONDITION, CON_NULLS_EQUAL,
	CON_PARENT, CON_PARENT_COLUMNS
};

/* Distinct keys that are looked up at the source one by one. */
#define LOOKUP_KEYS 10000

/* A query on the sample, for rehome_attempt: key and detail of each bad row. */
typedef struct SampleQuery
{
	char	   *sql;
	RehomeRows *rows;
} SampleQuery;

static void
run_query(void *arg)
{
	SampleQuery	   *query = arg;

	query->rows = rehome_spi_read(query->sql, "");
}

/*
 * put_rows runs a query and puts a finding for each of its rows: key, detail,
 * and whether the rows differ.  What is not going to be listed is counted
 * where it is found.
 */
static void
put_rows(RehomeLint *lint, char *sql, const char *column, const char *name, const char *constraint,
		 const char *hint)
{
	SampleQuery		query = {.sql = psprintf("SELECT *, count(*) OVER () FROM (%s) AS bad(key, detail, differ) LIMIT %d",
										 sql, Max(rehome_max_discrepancies, 1))};
	ErrorData  *error = rehome_attempt(run_query, &query);
	int64		n = 0;

	if (error != NULL)
	{
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		rehome_lint_put(lint, "warning", column, name, NULL,
						psprintf("%s could not be checked: %s", constraint, lint->redacted ? REHOME_REDACTED_MESSAGE : error->message), NULL);
		return;
	}
	for (int i = 0; i < query.rows->n; i++)
		rehome_lint_row(lint, &n, column, rehome_bool(query.rows->value[i][2]) ? "case or collation" : name,
						query.rows->value[i][0], query.rows->value[i][1], hint);
	if (query.rows->n > 0)
		rehome_lint_rest(lint, rehome_int64(query.rows->value[0][3]), column, name);
}

/*
 * check_unique looks for rows of the sample that a unique index would not
 * take side by side.
 */
static void
check_unique(RehomeLint *lint, char **con)
{
	List	   *columns = rehome_name_list(con[CON_COLUMNS]);
	List	   *expressions = rehome_name_list(con[CON_EXPRESSIONS]);
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT " REHOME_LINT_KEY ", rehome_text || ' is one of ' || rehome_n || %s, rehome_differ",
					 quote_literal_cstr(psprintf(" rows that %s takes for equal", con[CON_NAME])));
	appendStringInfoString(&sql, " FROM (SELECT " REHOME_LINT_KEY ", rehome_text, count(*) OVER w AS rehome_n,"
						   " min(rehome_text) OVER w <> max(rehome_text) OVER w AS rehome_differ"
						   " FROM (SELECT *, ROW(");
	foreach(lc, columns)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	appendStringInfoString(&sql, ")::text COLLATE \"C\" AS rehome_text FROM rehome_sample) AS s");
	appendStringInfo(&sql, " WHERE (%s)", con[CON_CONDITION] ? con[CON_CONDITION] : "true");
	if (rehome_bool(con[CON_NULLS_EQUAL]))
		appendStringInfoString(&sql, " AND " REHOME_LINT_WHOLE);	/* a null may stand for what was refused */
	else
		foreach(lc, expressions)
			appendStringInfo(&sql, " AND (%s) IS NOT NULL", (char *) lfirst(lc));
	appendStringInfoString(&sql, " WINDOW w AS (PARTITION BY ");
	foreach(lc, expressions)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	appendStringInfoString(&sql, ")) AS u WHERE rehome_n > 1 ORDER BY 2, 1");
	put_rows(lint, sql.data, linitial(columns), "duplicate", con[CON_NAME],
			 "Decide which of them stays, or make them differ with an expression.");
}

/*
 * check_check looks for rows of the sample that a check constraint refuses.
 */
static void
check_check(RehomeLint *lint, char **con)
{
	List	   *columns = rehome_name_list(con[CON_COLUMNS]);
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT " REHOME_LINT_KEY ", %s || ROW(",
					 quote_literal_cstr(psprintf("%s refuses ", con[CON_NAME])));
	foreach(lc, columns)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	appendStringInfo(&sql, ")::text, false FROM rehome_sample WHERE NOT (%s) ORDER BY 1", con[CON_CONDITION]);
	put_rows(lint, sql.data, columns == NIL ? NULL : linitial(columns), "check", con[CON_NAME],
			 "State with a rule what becomes of such a value, or correct it at the source.");
}

/*
 * parent_map returns this migration's map of a table, or NULL.
 */
static RehomeTableMap *
parent_map(RehomeLint *lint, Oid parent)
{
	ListCell   *lc;

	foreach(lc, lint->maps)
		if (((RehomeTableMap *) lfirst(lc))->target == parent)
			return lfirst(lc);
	return NULL;
}

/*
 * rule_of returns the rule of a column; NULL when there is none.
 */
static RehomeColumnMap *
rule_of(RehomeTableMap *map, const char *column)
{
	ListCell   *lc;

	foreach(lc, map->columns)
	{
		RehomeColumnMap *c = lfirst(lc);

		if (strcmp(c->name, column) == 0 && c->expression != NULL)
			return c;
	}
	return NULL;
}

/*
 * lookup_condition returns a condition that brings a parent's few keys over
 * instead of all, when the key is a plain column; else an empty text.
 */
static char *
lookup_condition(RehomeColumnMap *rule, const char *child)
{
	RehomeRows *keys;
	StringInfoData sql;

	if (rule->kind != REHOME_COPY)
		return "";
	keys = rehome_spi_read(psprintf("SELECT DISTINCT quote_literal(%s::text) FROM rehome_sample"
									" WHERE %s IS NOT NULL LIMIT %d", child, child, LOOKUP_KEYS + 1), "");
	if (keys->n == 0 || keys->n > LOOKUP_KEYS)
		return "";
	initStringInfo(&sql);
	for (int i = 0; i < keys->n; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? psprintf(" AND source.%s IN (", rule->expression) : ", ", keys->value[i][0]);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/*
 * check_foreign_key looks for rows of the sample without their parent.
 */
static void
check_foreign_key(RehomeLint *lint, char **con)
{
	Oid			parent = (Oid) rehome_int64(con[CON_PARENT]);
	RehomeTableMap *map = parent_map(lint, parent);
	List	   *columns = rehome_name_list(con[CON_COLUMNS]);
	List	   *parent_columns = rehome_name_list(con[CON_PARENT_COLUMNS]);
	StringInfoData sql;
	StringInfoData match;
	ListCell   *lc;
	ListCell   *lc2;

	initStringInfo(&match);
	forboth(lc, columns, lc2, parent_columns)
	{
		AttrNumber	attnum = get_attnum(parent, lfirst(lc2));
		RehomeColumnMap *rule = map ? rule_of(map, lfirst(lc2)) : NULL;
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (map != NULL && rule == NULL)
			return;				/* told of already: it has no rule */
		get_atttypetypmodcoll(parent, attnum, &type, &typmod, &collation);
		appendStringInfo(&match, " AND s.%s %s ", quote_identifier(lfirst(lc)),
						 rehome_equality_operator(parent, attnum));
		if (rule != NULL)
			appendStringInfo(&match, "(%s)::%s", rule->expression, format_type_with_typemod(type, typmod));
		else
			appendStringInfo(&match, "source.%s", quote_identifier(lfirst(lc2)));
	}
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT s." REHOME_LINT_KEY ", %s || ROW(",
					 quote_literal_cstr(psprintf("%s: there is no %s with ", con[CON_NAME], rehome_relation_name(parent))));
	foreach(lc, columns)
		appendStringInfo(&sql, "%ss.%s", foreach_current_index(lc) > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	appendStringInfoString(&sql, ")::text, false FROM rehome_sample AS s WHERE true");
	foreach(lc, columns)
		appendStringInfo(&sql, " AND s.%s IS NOT NULL", quote_identifier(lfirst(lc)));
	appendStringInfo(&sql, " AND NOT EXISTS (SELECT FROM %s AS source WHERE true",
					 rehome_relation_name(map ? map->source : parent));
	if (map != NULL && map->filter != NULL)
		appendStringInfo(&sql, " AND (%s)", map->filter);
	if (map != NULL && list_length(columns) == 1)
		appendStringInfoString(&sql, lookup_condition(rule_of(map, linitial(parent_columns)),
													  quote_identifier(linitial(columns))));
	appendStringInfo(&sql, "%s) ORDER BY 1", match.data);
	put_rows(lint, sql.data, linitial(columns), "orphan", con[CON_NAME],
			 "Bring the parent, correct the row at the source, or leave such rows out with a filter.");
}

/*
 * rehome_lint_sample checks the rows of lint->rows against the target's
 * constraints.
 */
void
rehome_lint_sample(RehomeLint *lint)
{
	List	   *names = NIL;
	RehomeRows *constraints;

	for (int c = 0; c < lint->mapping->ncolumns; c++)
		names = lappend(names, lint->mapping->columns[c].name);
	constraints = rehome_spi_read(sql_lint_constraints, "ot", lint->map->target, rehome_name_array(names));
	rehome_rows_register("rehome_sample", lint->desc, lint->rows, lint->nrows);
	for (int i = 0; i < constraints->n; i++)
	{
		char	  **con = constraints->value[i];

		CHECK_FOR_INTERRUPTS();
		if (con[CON_KIND][0] == 'u')
			check_unique(lint, con);
		else if (con[CON_KIND][0] == 'c')
			check_check(lint, con);
		else
			check_foreign_key(lint, con);
	}
	rehome_rows_unregister("rehome_sample");
}
