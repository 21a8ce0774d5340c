/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Merged identities: several source rows that are one and the same.
 *
 * Two derivations and, for each reference, one more:
 *
 *	crosswalk	source_key -> canonical_key: of the rows that match, the one
 *				with the least key stands for all
 *	target		one row a canonical key, each column chosen from the rows that
 *				were merged
 *	reference	a column of another target, through the crosswalk
 *
 * The rows themselves are moved one by one into a landing table, and so all of
 * it is exact at each position: a row that no longer matches is taken out of
 * the merge by the batch that brings its change, with everything that refers
 * to it.
 *
 * Rows match when the expression has the same value, as text; a null matches
 * nothing.  A table of overrides gives rows another value: the same to two
 * rows to merge them, one of its own, or null, to a row to keep it apart.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/define.h"
#include "derive/derive.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

typedef struct Identity
{
	char	   *entity;
	Oid			landing;
	char	   *key;			/* of the landing table, quoted */
	Oid			crosswalk;
	Oid			target;
	char	   *match;
	Oid			overrides;		/* or InvalidOid */
} Identity;

/*
 * only_key returns the single column of a table's primary key, or raises.
 */
static char *
only_key(Oid relid)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
					  " WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1", "o", relid);
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				errmsg("table %s has no primary key of one column", rehome_relation_name(relid)));
	return rows->value[0][0];
}

/*
 * require_columns adds columns that a table lacks.
 */
static void
require_columns(RehomeProblems *problems, Oid relid, const char *first, const char *second)
{
	const char *names[] = {first, second};

	for (int i = 0; i < lengthof(names); i++)
		if (get_attnum(relid, names[i]) <= 0)
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL, "Table %s has no column \"%s\".",
						   rehome_relation_name(relid), names[i]);
}

/*
 * valued returns the landing table's rows as (key, value): what they match by.
 */
static char *
valued(Identity *identity)
{
	return psprintf("(SELECT %s AS key, (%s)::text AS value FROM %s)", identity->key, identity->match,
					rehome_relation_name(identity->landing));
}

/*
 * members returns a query for the keys of the rows that match by a value.
 */
static char *
members(Identity *identity, const char *value)
{
	char	   *overrides;

	if (!OidIsValid(identity->overrides))
		return psprintf("SELECT m.key FROM %s AS m WHERE m.value = %s", valued(identity), value);
	overrides = rehome_relation_name(identity->overrides);
	return psprintf("SELECT m.key FROM %s AS m WHERE m.value = %s"
					" AND NOT EXISTS (SELECT FROM %s AS o WHERE o.source_key = m.key)"
					" UNION ALL SELECT o.source_key FROM %s AS o WHERE o.match_value = %s"
					" AND EXISTS (SELECT FROM %s AS l WHERE l.%s = o.source_key)",
					valued(identity), value, overrides, overrides, value,
					rehome_relation_name(identity->landing), identity->key);
}

/*
 * value_of returns the value that the landing table's row of a key has by
 * itself, or by the overrides, which may say that it has none.
 */
static char *
value_of(Identity *identity, const char *key, const char *value)
{
	char	   *overrides;

	if (!OidIsValid(identity->overrides))
		return pstrdup(value);
	overrides = rehome_relation_name(identity->overrides);
	return psprintf("CASE WHEN EXISTS (SELECT FROM %s AS o WHERE o.source_key = %s)"
					" THEN (SELECT o.match_value FROM %s AS o WHERE o.source_key = %s) ELSE %s END",
					overrides, key, overrides, key, value);
}

/*
 * affected_json returns {"table": "query", ...} of one table, or two.
 */
static char *
affected_json(Oid first, const char *first_query, Oid second, const char *second_query)
{
	return rehome_spi_value("SELECT jsonb_object_agg(t, q) FROM (VALUES ($1, $2), ($3, $4)) AS v(t, q) WHERE t IS NOT NULL", "tttt",
							rehome_relation_name(first), first_query,
							OidIsValid(second) ? rehome_relation_name(second) : NULL, second_query);
}

/*
 * define_crosswalk states which row stands for which.
 */
static void
define_crosswalk(RehomeMigration *migration, Identity *identity, const char *slice, const char *search_path)
{
	RehomeDerivation d = {0};
	char	   *row_value = psprintf("(SELECT (%s)::text FROM (SELECT t.*) AS t)", identity->match);
	char	   *landing_changed;
	char	   *override_changed = NULL;

	d.name = psprintf("%s crosswalk", identity->entity);
	d.target = identity->crosswalk;
	d.key = list_make1("source_key");
	d.stated.owner = migration->owner;
	d.stated.search_path = search_path;
	d.query = psprintf("SELECT l.key AS source_key, coalesce((SELECT g.key FROM (%s) AS g ORDER BY g.key LIMIT 1), l.key) AS canonical_key"
					   " FROM %s AS l",
					   members(identity, value_of(identity, "l.key", "l.value")), valued(identity));

	/* the row itself, and all that match it, as it was or as it is */
	landing_changed = psprintf("SELECT t.%s UNION %s UNION %s", identity->key, members(identity, row_value),
							   members(identity, value_of(identity, psprintf("t.%s", identity->key), row_value)));
	if (OidIsValid(identity->overrides))
		override_changed = psprintf("SELECT t.source_key UNION %s UNION %s", members(identity, "t.match_value"),
									members(identity, psprintf("(SELECT r.value FROM %s AS r WHERE r.key = t.source_key)",
															   valued(identity))));
	rehome_define_derived(migration, &d, slice,
						  affected_json(identity->landing, landing_changed, identity->overrides, override_changed),
						  InvalidOid, psprintf("identity %s: which row stands for which", identity->entity));
}

/*
 * survivor returns the expression that chooses a column's value from the rows
 * l that were merged; by default the first that is not null, the canonical
 * row's before the others'.
 */
static char *
survivor(Identity *identity, const char *column, char **rule, RehomeProblems *problems)
{
	char	   *value = psprintf("l.%s", quote_identifier(column));
	char	   *key = psprintf("l.%s", identity->key);

	if (rule[0] == NULL || strcmp(rule[0], "first") == 0)
		return psprintf("rehome.survivor(%s ORDER BY %s)", value, key);
	if (strcmp(rule[0], "newest") == 0 || strcmp(rule[0], "oldest") == 0 || strcmp(rule[0], "rank") == 0)
	{
		bool		newest = strcmp(rule[0], "newest") == 0;

		if (rule[1] == NULL)
			rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "Rule \"%s\" of \"%s\" needs \"by\".", rule[0], column);
		return psprintf("rehome.survivor(%s ORDER BY (%s) %s, %s)", value, rule[1] ? rule[1] : "NULL",
						newest ? "DESC NULLS LAST" : "ASC NULLS LAST", key);
	}
	if (strcmp(rule[0], "sum") == 0 || strcmp(rule[0], "min") == 0 || strcmp(rule[0], "max") == 0)
		return psprintf("%s(%s)", rule[0], value);
	if (strcmp(rule[0], "expression") == 0)
	{
		if (rule[2] == NULL)
			rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "Rule \"expression\" of \"%s\" needs \"expression\".", column);
		return psprintf("(%s)", rule[2] ? rule[2] : "NULL");
	}
	rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE,
				   "Rules are first, newest, oldest, rank (with \"by\"), sum, min, max and expression.",
				   "Unknown rule \"%s\" of \"%s\".", rule[0], column);
	return value;
}

/*
 * define_merged states what is left of the rows that were merged.
 */
static void
define_merged(RehomeMigration *migration, Identity *identity, const char *slice, const char *search_path,
			  const char *survivorship, Oid write_back, const char *note)
{
	RehomeDerivation d = {0};
	RehomeProblems problems;
	RehomeRows *columns;
	RehomeRows *unknown;
	StringInfoData sql;
	char	   *crosswalk = rehome_relation_name(identity->crosswalk);
	char	   *key = only_key(identity->target);

	rehome_problems_init(&problems);
	unknown = rehome_spi("SELECT key FROM jsonb_object_keys($1::jsonb) AS key WHERE NOT EXISTS (SELECT FROM pg_attribute a"
						 " WHERE a.attrelid = $2 AND a.attname = key AND a.attnum > 0 AND NOT a.attisdropped) ORDER BY key", "to",
						 survivorship, identity->target);
	for (int i = 0; i < unknown->n; i++)
		rehome_problem(&problems, ERRCODE_UNDEFINED_COLUMN, NULL, "There is a rule for \"%s\", which is not a column of the target.",
					   unknown->value[i][0]);
	columns = rehome_spi("SELECT a.attname, s.rule ->> 'rule', s.rule ->> 'by', s.rule ->> 'expression'"
						 " FROM pg_attribute a CROSS JOIN LATERAL (SELECT CASE jsonb_typeof($2::jsonb -> a.attname::text) WHEN 'string'"
						 "  THEN jsonb_build_object('rule', $2::jsonb -> a.attname::text) ELSE $2::jsonb -> a.attname::text END AS rule) AS s"
						 " WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attname <> $3::name"
						 " AND (s.rule IS NOT NULL OR EXISTS (SELECT FROM pg_attribute l WHERE l.attrelid = $4 AND l.attname = a.attname"
						 "  AND l.attnum > 0 AND NOT l.attisdropped)) ORDER BY a.attnum", "otto",
						 identity->target, survivorship, key, identity->landing);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT x.canonical_key AS %s", quote_identifier(key));
	for (int i = 0; i < columns->n; i++)
	{
		char	  **v = columns->value[i];

		if ((v[1] == NULL || strcmp(v[1], "expression") != 0) && get_attnum(identity->landing, v[0]) <= 0)
			rehome_problem(&problems, ERRCODE_UNDEFINED_COLUMN, "Give it rule \"expression\", over the rows l.",
						   "The landing table has no column \"%s\".", v[0]);
		appendStringInfo(&sql, ", %s AS %s", survivor(identity, v[0], v + 1, &problems), quote_identifier(v[0]));
	}
	rehome_problems_raise(&problems, "cannot merge into %s", rehome_relation_name(identity->target));
	appendStringInfo(&sql, " FROM %s AS x JOIN %s AS l ON l.%s = x.source_key GROUP BY x.canonical_key",
					 crosswalk, rehome_relation_name(identity->landing), identity->key);
	d.name = identity->entity;
	d.target = identity->target;
	d.query = sql.data;
	d.stated.owner = migration->owner;
	d.stated.search_path = search_path;
	rehome_define_derived(migration, &d, slice,
						  affected_json(identity->landing,
										psprintf("SELECT x.canonical_key FROM %s AS x WHERE x.source_key = t.%s", crosswalk, identity->key),
										identity->crosswalk, "SELECT t.canonical_key"),
						  write_back, note ? note : psprintf("identity %s: what is left of merged rows", identity->entity));
}

PG_FUNCTION_INFO_V1(rehome_add_identity);

/*
 * rehome_add_identity(migration name, entity name, landing regclass,
 *					   crosswalk regclass, target regclass, match text,
 *					   survivorship jsonb, overrides regclass,
 *					   write_back regproc, note text)
 */
Datum
rehome_add_identity(PG_FUNCTION_ARGS)
{
	Identity	identity = {0};
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeProblems problems;
	RehomeSlice *slice;
	char	   *survivorship = PG_ARGISNULL(6) ? "{}" : DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(6)));
	char	   *search_path;

	identity.entity = rehome_required_name(fcinfo, 1, "the entity");
	identity.landing = rehome_required_relation(fcinfo, 2, "the landing table");
	identity.crosswalk = rehome_required_relation(fcinfo, 3, "the crosswalk");
	identity.target = rehome_required_relation(fcinfo, 4, "the target");
	identity.match = REHOME_ARG_TEXT(5);
	identity.overrides = PG_ARGISNULL(7) ? InvalidOid : PG_GETARG_OID(7);
	if (identity.match == NULL)
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("what rows match by must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	rehome_stated_require_expression(identity.match, "what rows match by");
	search_path = rehome_stated_path(&call);
	slice = rehome_slice_by_id(rehome_table_map_of(migration, identity.landing)->slice_id);
	identity.key = pstrdup(quote_identifier(only_key(identity.landing)));
	rehome_problems_init(&problems);
	require_columns(&problems, identity.crosswalk, "source_key", "canonical_key");
	if (OidIsValid(identity.overrides))
		require_columns(&problems, identity.overrides, "source_key", "match_value");
	rehome_problems_raise(&problems, "cannot merge rows of %s", rehome_relation_name(identity.landing));

	define_crosswalk(migration, &identity, slice->name, search_path);
	define_merged(migration, &identity, slice->name, search_path, survivorship,
				  PG_ARGISNULL(8) ? InvalidOid : PG_GETARG_OID(8), REHOME_ARG_TEXT(9));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_add_identity_reference);

/*
 * rehome_add_identity_reference(migration name, entity name, target regclass,
 *								 "column" name, legacy_column name,
 *								 write_back regproc)
 */
Datum
rehome_add_identity_reference(PG_FUNCTION_ARGS)
{
	RehomeDerivation d = {0};
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeRows *crosswalk;
	RehomeTableMap *map;
	char	   *entity = rehome_required_name(fcinfo, 1, "the entity");
	Oid			target = rehome_required_relation(fcinfo, 2, "the target");
	char	   *column = rehome_required_name(fcinfo, 3, "the column");
	const char *legacy = quote_identifier(rehome_required_name(fcinfo, 4, "the column with the source's key"));
	char	   *key;
	char	   *name = rehome_relation_name(target);
	char	   *query;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	crosswalk = rehome_spi("SELECT d.target::oid FROM rehome.derivation d"
						   " WHERE d.migration_id = $1 AND d.name = ($2 || ' crosswalk')::name", "it", migration->id, entity);
	if (crosswalk->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("identity \"%s\" of migration \"%s\" does not exist", entity, migration->name),
				errhint("SELECT rehome.add_identity(%s, %s, ...);", quote_literal_cstr(migration->name), quote_literal_cstr(entity)));
	d.name = psprintf("%s.%s", get_rel_name(target), column);
	d.target = target;
	d.columns = list_make1(column);
	map = rehome_table_map_of(migration, target);
	d.key = map->key;
	d.stated.owner = migration->owner;
	d.stated.search_path = rehome_stated_path(&call);
	key = rehome_quote_list(d.key, "t.");
	d.query = psprintf("SELECT %s, x.canonical_key AS %s FROM %s AS t JOIN %s AS x ON x.source_key = t.%s", key,
					   quote_identifier(column), name, rehome_relation_name((Oid) rehome_int64(crosswalk->value[0][0])), legacy);
	query = psprintf("SELECT %s FROM %s AS r WHERE r.%s = t.source_key", rehome_quote_list(d.key, "r."), name, legacy);
	rehome_define_derived(migration, &d, rehome_slice_by_id(map->slice_id)->name,
						  affected_json(target, psprintf("SELECT %s", key), (Oid) rehome_int64(crosswalk->value[0][0]), query),
						  PG_ARGISNULL(5) ? InvalidOid : PG_GETARG_OID(5),
						  psprintf("reference to identity %s, from %s", entity, legacy));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_rule_first);

/*
 * rehome_rule_first(value anyelement, next_value anyelement): the first; strict, so that as a
 * transition function it keeps the first value that is not null.
 */
Datum
rehome_rule_first(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}
