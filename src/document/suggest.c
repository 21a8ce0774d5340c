/*-------------------------------------------------------------------------
 *
 * suggest.c
 *	  rehome.suggest_mapping(): which table, and which column, may come from
 *	  which; with a confidence, a reason, and the SQL that adopts it.
 *
 * Tables are paired by their names and by how well their columns find each
 * other; columns by names, types and keys.  The best pair is taken first, and
 * each side has one partner at most.  Where a pair needs a cast that an
 * assignment would not make, values of the source are tried, as the
 * migration's owner.  Columns that add_table() would copy by itself are not
 * suggested.
 *
 * Nothing is written: whoever agrees runs the SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "document/document.h"
#include "document/similar.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "util/attempt.h"
#include "util/name.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/varlena.h"

/* Below these, a pair is not worth telling. */
#define LEAST_TABLE 0.4
#define LEAST_COLUMN 0.55

/* What a column's confidence is made of. */
#define WEIGHT_NAME 0.75
#define WEIGHT_TYPE 0.2
#define WEIGHT_KEY 0.05

typedef struct Column
{
	char	   *name;
	List	   *words;
	List	   *own_words;		/* without those of its table */
	Oid			type;
	int32		typmod;
	bool		in_key;
	bool		taken;			/* has its partner, or needs none */
} Column;

typedef struct Table
{
	Oid			relid;
	List	   *words;
	int			ncolumns;
	Column	   *columns;
	bool		taken;
} Table;

/* A source column for a target column. */
typedef struct Match
{
	Column	   *from;
	Column	   *to;
	double		confidence;
	char	   *expression;
	char	   *reason;
} Match;

typedef struct Suggester
{
	RehomeSink	sink;
	RehomeMigration *migration;
	int64		sample;
} Suggester;

/*
 * read_table reads what is known of a relation.
 */
static Table *
read_table(Oid relid)
{
	Table	   *table = palloc0(sizeof(Table));
	Relation	rel = relation_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *key = rel->rd_rel->relkind == RELKIND_RELATION || rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY) : NULL;

	table->relid = relid;
	table->words = rehome_name_words(RelationGetRelationName(rel));
	table->columns = palloc0(sizeof(Column) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Column	   *column;

		if (att->attisdropped || att->attgenerated != '\0')
			continue;
		column = &table->columns[table->ncolumns++];
		column->name = pstrdup(NameStr(att->attname));
		column->words = rehome_name_words(column->name);
		column->own_words = rehome_words_without(column->words, table->words);
		column->type = att->atttypid;
		column->typmod = att->atttypmod;
		column->in_key = bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, key);
	}
	relation_close(rel, AccessShareLock);
	return table;
}

/*
 * find_tables returns the tables (Table *) of a schema, or the one named.
 */
static List *
find_tables(Suggester *s, const char *name, bool source)
{
	RehomeRows *rows;
	List	   *tables = NIL;
	char		kind;
	Oid			relid;

	rows = rehome_spi("SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
					  " LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid"
					  " WHERE n.nspname = $1 AND NOT c.relispartition AND CASE WHEN $2 <> 0 THEN f.ftserver = $2"
					  "  ELSE c.relkind IN ('r', 'p') OR ($3 AND c.relkind IN ('v', 'm', 'f')) END"
					  " ORDER BY c.relname", "tob", name, source ? s->migration->serverid : InvalidOid, source);
	for (int i = 0; i < rows->n; i++)
		tables = lappend(tables, read_table((Oid) rehome_int64(rows->value[i][0])));
	if (tables != NIL)
		return tables;
	if (OidIsValid(get_namespace_oid(name, true)))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg(source ? "schema \"%s\" has no tables of the source" : "schema \"%s\" has no tables", name),
				source && s->migration->server ?
				errhint("IMPORT FOREIGN SCHEMA ... FROM SERVER %s INTO %s;", quote_identifier(s->migration->server),
						quote_identifier(name)) : 0);
	relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, true);
	if (!OidIsValid(relid))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("there is no schema and no table \"%s\"", name),
				errhint("Name a table with its schema."));
	kind = get_rel_relkind(relid);
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		!(source && (kind == RELKIND_FOREIGN_TABLE || kind == RELKIND_VIEW || kind == RELKIND_MATVIEW)))
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("\"%s\" is not a table", name));
	return list_make1(read_table(relid));
}

/*
 * is_epoch tells whether a type can be a number of seconds for another.
 */
static bool
is_epoch(Oid from, Oid to)
{
	return (from == INT4OID || from == INT8OID || from == NUMERICOID) &&
		(to == TIMESTAMPTZOID || to == TIMESTAMPOID);
}

/*
 * types_alike returns how well values of one type go into the other.
 */
static double
types_alike(Column *from, Column *to)
{
	Oid			function;

	if (from->type == to->type)
		return 1;
	if (can_coerce_type(1, &from->type, &to->type, COERCION_ASSIGNMENT))
		return TypeCategory(from->type) == TypeCategory(to->type) ? 0.9 : 0.6;
	if (find_coercion_pathway(to->type, from->type, COERCION_EXPLICIT, &function) != COERCION_PATH_NONE)
		return 0.5;
	return is_epoch(from->type, to->type) ? 0.4 : 0;
}

/*
 * match_columns judges a pair of columns; confidence 0 when it is none.
 */
static double
match_columns(Column *from, Column *to, double *alike)
{
	double		type = types_alike(from, to);

	*alike = rehome_words_alike(from->words, to->words);
	*alike = Max(*alike, 0.95 * rehome_words_alike(from->own_words, to->own_words));
	*alike = Max(*alike, 0.95 * rehome_words_alike(from->own_words, to->words));
	*alike = Max(*alike, 0.95 * rehome_words_alike(from->words, to->own_words));
	if (type == 0 || *alike == 0)
		return 0;
	return WEIGHT_NAME * *alike + WEIGHT_TYPE * type + WEIGHT_KEY * (from->in_key == to->in_key ? 1 : 0);
}

/*
 * cover returns how much of the target's columns the source could fill, and
 * the other way round: from 0 to 1.
 */
static double
cover(Table *source, Table *target)
{
	double		sum = 0;

	for (int t = 0; t < target->ncolumns; t++)
	{
		double		best = 0;
		double		alike;

		for (int f = 0; f < source->ncolumns; f++)
			best = Max(best, match_columns(&source->columns[f], &target->columns[t], &alike));
		if (best >= LEAST_COLUMN)
			sum += best;
	}
	return 2 * sum / Max(source->ncolumns + target->ncolumns, 1) > 1 ? 1 :
		2 * sum / Max(source->ncolumns + target->ncolumns, 1);
}

/* A query for one value, for rehome_attempt. */
typedef struct Question
{
	char	   *sql;
	RehomeRows *answer;
} Question;

static void
ask(void *arg)
{
	Question   *question = arg;

	question->answer = rehome_spi_read(question->sql, "");
}

/*
 * ask_sample evaluates an expression over values of a source column, as the
 * migration's owner; NULL when it raises.
 */
static RehomeRows *
ask_sample(Suggester *s, Table *source, Column *from, const char *expressions)
{
	Question	question;
	RehomeAs	as;
	ErrorData  *error;

	question.sql = psprintf("SELECT %s FROM (SELECT %s FROM %s LIMIT " INT64_FORMAT ") AS sample WHERE %s IS NOT NULL",
							expressions, quote_identifier(from->name), rehome_relation_name(source->relid),
							s->sample, quote_identifier(from->name));
	rehome_become(&as, s->migration->owner);
	error = rehome_attempt(ask, &question);
	rehome_become_self(&as);
	if (error == NULL)
		return question.answer;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
		ReThrowError(error);
	return NULL;
}

/*
 * try_values finds the expression of a match, and lets values of the source
 * speak for it or against it.
 */
static void
try_values(Suggester *s, Table *source, Match *match, const char *name_reason)
{
	char	   *column = quote_identifier(match->from->name) == match->from->name ?
		match->from->name : pstrdup(quote_identifier(match->from->name));
	char	   *type = format_type_with_typemod(match->to->type, match->to->typmod);
	char	   *from_type = format_type_with_typemod(match->from->type, match->from->typmod);
	RehomeRows *answer;

	match->expression = column;
	match->reason = psprintf("%s; %s into %s", name_reason, from_type, type);
	if (match->from->type == match->to->type && match->from->typmod == match->to->typmod)
		match->reason = psprintf("%s; both are %s", name_reason, type);
	if (can_coerce_type(1, &match->from->type, &match->to->type, COERCION_ASSIGNMENT))
		return;

	if (is_epoch(match->from->type, match->to->type))
	{
		const char *unit = NULL;

		match->expression = psprintf("to_timestamp(%s)", column);
		if (s->sample == 0)
			return;
		answer = ask_sample(s, source, match->from,
							psprintf("count(*), CASE WHEN min(%s) >= 1e8 AND max(%s) < 1e10 THEN 'seconds'"
									 " WHEN min(%s) >= 1e11 AND max(%s) < 1e13 THEN 'milliseconds' END",
									 column, column, column, column));
		if (answer != NULL)
			unit = answer->value[0][1];
		if (unit != NULL && unit[0] == 'm')
			match->expression = psprintf("to_timestamp(%s / 1000.0)", column);
		if (match->to->type == TIMESTAMPOID)
			match->expression = psprintf("%s AT TIME ZONE 'UTC'", match->expression);
		if (unit != NULL)
		{
			match->confidence = Min(match->confidence + 0.1, 0.99);
			match->reason = psprintf("%s; %s values look like %s since 1970", match->reason,
									 answer->value[0][0], unit);
		}
		else
		{
			match->confidence /= 2;
			match->reason = psprintf("%s; its values do not look like seconds since 1970", match->reason);
		}
		return;
	}
	match->expression = psprintf("%s::%s", column, type);
	if (s->sample == 0)
		return;
	answer = ask_sample(s, source, match->from, psprintf("count(%s::%s)", column, type));
	if (answer != NULL && rehome_int64(answer->value[0][0]) > 0)
	{
		match->confidence = Min(match->confidence + 0.1, 0.99);
		match->reason = psprintf("%s; %s values can be cast", match->reason, answer->value[0][0]);
	}
	else if (answer == NULL)
	{
		match->confidence /= 2;
		match->reason = psprintf("%s; not all values can be cast", match->reason);
	}
}

/*
 * pair_columns pairs the columns of two tables that have no partner yet, the
 * best first.  Returns Match *.
 */
static List *
pair_columns(Suggester *s, Table *source, Table *target)
{
	List	   *matches = NIL;

	for (;;)
	{
		Match	   *best = palloc0(sizeof(Match));
		double		best_alike = 0;
		bool		key = false;

		for (int t = 0; t < target->ncolumns; t++)
			for (int f = 0; f < source->ncolumns; f++)
			{
				Column	   *from = &source->columns[f];
				Column	   *to = &target->columns[t];
				double		alike;
				double		confidence;

				CHECK_FOR_INTERRUPTS();
				if (from->taken || to->taken)
					continue;
				confidence = match_columns(from, to, &alike);
				if (confidence > best->confidence)
				{
					best->from = from;
					best->to = to;
					best->confidence = confidence;
					best_alike = alike;
					key = from->in_key && to->in_key;
				}
			}
		if (best->confidence < LEAST_COLUMN)
			break;
		best->from->taken = best->to->taken = true;
		try_values(s, source, best,
				   psprintf("names are %.0f %% alike%s", best_alike * 100, key ? "; both are in the key" : ""));
		matches = lappend(matches, best);
	}
	return matches;
}

/*
 * take_namesakes marks the columns that add_table() copies by itself.
 * Returns how many.
 */
static int
take_namesakes(Table *source, Table *target)
{
	int			n = 0;

	for (int t = 0; t < target->ncolumns; t++)
		for (int f = 0; f < source->ncolumns; f++)
			if (strcmp(source->columns[f].name, target->columns[t].name) == 0 &&
				can_coerce_type(1, &source->columns[f].type, &target->columns[t].type, COERCION_ASSIGNMENT))
			{
				source->columns[f].taken = target->columns[t].taken = true;
				n++;
			}
	return n;
}

/*
 * take_ruled marks the columns that have a rule already, or are read by a
 * plain copy.
 */
static void
take_ruled(RehomeTableMap *map, Table *source, Table *target)
{
	ListCell   *lc;

	foreach(lc, map->columns)
	{
		RehomeColumnMap *rule = lfirst(lc);

		for (int t = 0; t < target->ncolumns; t++)
			if (rule->expression != NULL && strcmp(rule->name, target->columns[t].name) == 0)
				target->columns[t].taken = true;
		for (int f = 0; f < source->ncolumns; f++)
			if (rule->kind == REHOME_COPY && rule->expression != NULL &&
				strcmp(rule->expression, quote_identifier(source->columns[f].name)) == 0)
				source->columns[f].taken = true;
	}
}

static void
put(Suggester *s, const char *kind, Table *source, Table *target, Match *match, double confidence,
	const char *reason, const char *sql)
{
	char	   *values[9];

	values[0] = unconstify(char *, kind);
	values[1] = rehome_relation_name(source->relid);
	values[2] = match ? match->from->name : NULL;
	values[3] = rehome_relation_name(target->relid);
	values[4] = match ? match->to->name : NULL;
	values[5] = match ? match->expression : NULL;
	values[6] = psprintf("%.2f", confidence);
	values[7] = unconstify(char *, reason);
	values[8] = unconstify(char *, sql);
	rehome_sink_put(&s->sink, values);
}

/*
 * put_columns puts the columns of a pair of tables.
 */
static void
put_columns(Suggester *s, Table *source, Table *target, List *matches)
{
	ListCell   *lc;

	foreach(lc, matches)
	{
		Match	   *match = lfirst(lc);

		put(s, "column", source, target, match, match->confidence, match->reason,
			psprintf("SELECT rehome.map_column(%s, %s, %s, %s);", quote_literal_cstr(s->migration->name),
					 quote_literal_cstr(rehome_relation_name(target->relid)),
					 quote_literal_cstr(match->to->name), quote_literal_cstr(match->expression)));
	}
}

/*
 * suggest_new puts a pair of tables that are not mapped, with their columns.
 */
static void
suggest_new(Suggester *s, Table *source, Table *target, double confidence)
{
	int			namesakes = take_namesakes(source, target);
	List	   *matches = pair_columns(s, source, target);
	StringInfoData columns;
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&columns);
	foreach(lc, matches)
	{
		Match	   *match = lfirst(lc);

		if (match->confidence < LEAST_COLUMN)
			continue;			/* the values spoke against it */
		appendStringInfoString(&columns, columns.len == 0 ? "{" : ", ");
		escape_json(&columns, match->to->name);
		appendStringInfoString(&columns, ": ");
		escape_json(&columns, match->expression);
	}
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT rehome.add_table(%s, %s, %s", quote_literal_cstr(s->migration->name),
					 quote_literal_cstr(rehome_relation_name(source->relid)),
					 quote_literal_cstr(rehome_relation_name(target->relid)));
	if (columns.len > 0)
		appendStringInfo(&sql, ", columns => %s", quote_literal_cstr(psprintf("%s}", columns.data)));
	appendStringInfoString(&sql, ");");
	put(s, "table", source, target, NULL, confidence,
		psprintf("names are %.0f %% alike; %d columns of the same name and %d like it, of %d",
				 rehome_words_alike(source->words, target->words) * 100, namesakes, list_length(matches),
				 target->ncolumns), sql.data);
	put_columns(s, source, target, matches);
}

/*
 * suggest_pairs pairs the tables that are not mapped, the best first.
 */
static void
suggest_pairs(Suggester *s, List *sources, List *targets)
{
	bool		forced = list_length(sources) == 1 && list_length(targets) == 1;
	int			nsources = list_length(sources);
	double	   *score = palloc0(sizeof(double) * Max(nsources * list_length(targets), 1));

	for (int f = 0; f < nsources; f++)
		for (int t = 0; t < list_length(targets); t++)
		{
			Table	   *source = list_nth(sources, f);
			Table	   *target = list_nth(targets, t);

			CHECK_FOR_INTERRUPTS();
			if (!source->taken && !target->taken)
				score[t * nsources + f] = 0.5 * rehome_words_alike(source->words, target->words) +
					0.5 * cover(source, target);
		}
	for (;;)
	{
		double		best = forced ? -1 : LEAST_TABLE;
		int			pair = -1;

		for (int i = 0; i < nsources * list_length(targets); i++)
		{
			Table	   *source = list_nth(sources, i % nsources);
			Table	   *target = list_nth(targets, i / nsources);

			if (!source->taken && !target->taken && score[i] > best)
			{
				best = score[i];
				pair = i;
			}
		}
		if (pair < 0)
			break;
		((Table *) list_nth(sources, pair % nsources))->taken = true;
		((Table *) list_nth(targets, pair / nsources))->taken = true;
		suggest_new(s, list_nth(sources, pair % nsources), list_nth(targets, pair / nsources), best);
	}
}

/*
 * suggest_mapped puts columns of the tables that are mapped already, as far
 * as they have no rule, and marks these tables.
 */
static void
suggest_mapped(Suggester *s, List *sources, List *targets)
{
	ListCell   *lc;
	ListCell   *lc2;
	ListCell   *lc3;

	foreach(lc, rehome_slices_get(s->migration, NULL))
		foreach(lc2, rehome_table_maps_get(lfirst(lc)))
		{
			RehomeTableMap *map = lfirst(lc2);
			Table	   *source = NULL;
			Table	   *target = NULL;

			foreach(lc3, sources)
				if (((Table *) lfirst(lc3))->relid == map->source)
					source = lfirst(lc3);
			foreach(lc3, targets)
				if (((Table *) lfirst(lc3))->relid == map->target)
					target = lfirst(lc3);
			if (source != NULL)
				source->taken = true;
			if (target != NULL)
				target->taken = true;
			if (source == NULL || target == NULL)
				continue;
			take_ruled(map, source, target);
			put_columns(s, source, target, pair_columns(s, source, target));
		}
}

PG_FUNCTION_INFO_V1(rehome_suggest_mapping);

/*
 * rehome_suggest_mapping(migration name, source text, target text, sample bigint)
 */
Datum
rehome_suggest_mapping(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	Suggester	s = {0};
	List	   *sources;
	List	   *targets;

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("migration, source, target and sample must be given"));
	s.sample = PG_GETARG_INT64(3);
	if (s.sample < 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("sample must not be negative"),
				errhint("0 reads no rows."));
	rehome_sink_begin(&s.sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	s.migration = rehome_migration_get(NameStr(*PG_GETARG_NAME(0)));
	/* what is named may be anybody's, and to read it runs his code as the owner */
	if (s.sample > 0 && !has_privs_of_role(call.caller, s.migration->owner))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be owner of migration \"%s\" to sample rows", s.migration->name),
				errdetail("They are read with the rights of role \"%s\".",
						  GetUserNameFromId(s.migration->owner, false)),
				errhint("sample => 0 goes by names and types alone."));
	sources = find_tables(&s, text_to_cstring(PG_GETARG_TEXT_PP(1)), true);
	targets = find_tables(&s, text_to_cstring(PG_GETARG_TEXT_PP(2)), false);
	suggest_mapped(&s, sources, targets);
	suggest_pairs(&s, sources, targets);
	rehome_call_end(&call);
	return (Datum) 0;
}
