/*-------------------------------------------------------------------------
 *
 * suggest.c
 *	  Checks that schema and data call for.
 *
 * Of each mapped table: totals of its amounts by month, how often each value
 * of a state occurs, the first and last of its times; what the source promises
 * with unique and foreign keys; and the source's most expensive queries.
 *
 * A suggestion compares the source's columns with the target's, not with what
 * the rules make of them: a rule that is wrong is what a check should find.
 * Where a rule changes what a column means on purpose, the check fails until
 * somebody states it otherwise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "mapping/mapping.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "remote/connection.h"
#include "remote/query.h"
#include "trust/sql/source_rules.sql.h"
#include "trust/sql/top_queries.sql.h"
#include "trust/trust.h"
#include "util/sink.h"
#include "util/name.h"
#include "util/stated.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* A mapped table, as suggestions see it. */
typedef struct Subject
{
	RehomeSlice *slice;
	RehomeMapping *mapping;
	char	   *schema;			/* at the source */
	char	   *table;
	RehomeRemoteTable *remote;	/* NULL: the source is in this database */
	char	   *source;			/* FROM clause, with the filter */
	char	   *target;
	List	   *few;			/* target columns with few values */
} Subject;

/* What a column may be good for. */
typedef enum Role
{
	ROLE_AMOUNT, ROLE_TIME, ROLE_STATE
} Role;

/*
 * source_column returns what the source (as the foreign table names it) has
 * for a target column: the column of that name, or the one it is a copy of;
 * NULL when there is none.
 */
static const char *
source_column(Subject *subject, RehomeMappedColumn *column)
{
	TupleDesc	desc = subject->mapping->source_desc;

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && strcmp(NameStr(TupleDescAttr(desc, i)->attname), column->name) == 0)
			return NameStr(TupleDescAttr(desc, i)->attname);
	return column->plain ? NameStr(TupleDescAttr(desc, column->plain - 1)->attname) : NULL;
}

/*
 * target_column returns the target column for a column as the source names
 * it, or NULL.
 */
static char *
target_column(Subject *subject, const char *name)
{
	for (int i = 0; i < subject->mapping->ncolumns; i++)
	{
		RehomeMappedColumn *column = &subject->mapping->columns[i];
		const char *local = source_column(subject, column);

		if (local == NULL)
			continue;
		if (strcmp(subject->remote ? rehome_remote_column(subject->remote, local) : local, name) == 0)
			return column->name;
	}
	return NULL;
}

/*
 * target_columns does so for all of them; NIL when one has none.
 */
static List *
target_columns(Subject *subject, const char *names)
{
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, rehome_name_list(names))
	{
		char	   *column = target_column(subject, lfirst(lc));

		if (column == NULL)
			return NIL;
		columns = lappend(columns, column);
	}
	return columns;
}

/*
 * from_source returns a FROM clause in which columns have the foreign table's
 * names.
 */
static char *
from_source(Subject *subject)
{
	StringInfoData sql;
	RehomeTableMap *map = subject->mapping->map;
	bool		renamed = false;

	initStringInfo(&sql);
	for (int i = 0; subject->remote != NULL && i < subject->remote->natts; i++)
		renamed = renamed || (subject->remote->local[i] != NULL && strcmp(subject->remote->local[i], subject->remote->remote[i]) != 0);
	if (renamed)
		rehome_remote_from(&sql, subject->remote, NULL, false);
	else
		appendStringInfo(&sql, "%s AS source", quote_qualified_identifier(subject->schema, subject->table));
	if (map->filter != NULL)
		appendStringInfo(&sql, " WHERE (%s)", map->filter);
	return sql.data;
}

static Subject *
make_subject(RehomeSlice *slice, RehomeTableMap *map)
{
	Subject    *subject = palloc0(sizeof(Subject));

	subject->slice = slice;
	subject->mapping = rehome_mapping_compile(map, slice->migration->owner);
	if (slice->migration->live)
	{
		subject->remote = rehome_remote_table(map->source);
		subject->schema = subject->remote->schema;
		subject->table = subject->remote->table;
	}
	else
	{
		subject->schema = get_namespace_name(get_rel_namespace(map->source));
		subject->table = get_rel_name(map->source);
	}
	subject->source = from_source(subject);
	subject->target = rehome_relation_name(map->target);
	return subject;
}

/*
 * suggest writes a suggestion down, unless it has been adopted already.
 */
static void
suggest(Subject *subject, const char *kind, const char *what, const char *layer, const char *source_sql,
		const char *target_sql, const char *key, const char *reason)
{
	char	   *name = psprintf("%s: %s", subject->target, what);

	if (strlen(name) >= NAMEDATALEN)
		name = psprintf("#%d: %s", subject->mapping->map->id, what);
	if (strlen(name) >= NAMEDATALEN)
	{
		/* two that begin alike are two */
		int			kept = pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1 - 9);

		name = psprintf("%.*s %08x", kept, name, hash_bytes((const unsigned char *) what, (int) strlen(what)));
	}
	rehome_spi("INSERT INTO rehome.check_suggestion AS s (migration_id, slice_id, kind, name, layer, source_sql, target_sql, key, reason)"
			   " VALUES ($1, $2, $3, $4::name, $5, $6, $7, $8::text[], $9)"
			   " ON CONFLICT (migration_id, name) DO UPDATE SET layer = excluded.layer, source_sql = excluded.source_sql,"
			   " target_sql = excluded.target_sql, key = excluded.key, reason = excluded.reason, suggested_at = clock_timestamp()"
			   " WHERE s.adopted_at IS NULL", "iittttttt", subject->slice->migration->id, subject->slice->id, kind, name,
			   layer, source_sql, target_sql, key, reason);
}

static bool
is_time(Oid type)
{
	return type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID;
}

static bool
has_role(Subject *subject, RehomeMappedColumn *column, Role role)
{
	char		category;
	bool		preferred;
	Oid			type = getBaseType(column->type);
	ListCell   *lc;

	get_type_category_preferred(type, &category, &preferred);
	switch (role)
	{
		case ROLE_AMOUNT:
			/* fractions are amounts; whole numbers by their name only */
			if (column->key > 0 || category != TYPCATEGORY_NUMERIC)
				return false;
			return type == NUMERICOID || type == MONEYOID || type == FLOAT4OID || type == FLOAT8OID ||
				rehome_bool(rehome_spi_value("SELECT $1 ~* '(amount|total|price|cost|sum|qty|quantity|balance|fee|tax|cents|units|count|bytes|milliseconds)'", "t", column->name));
		case ROLE_TIME:
			return is_time(type);
		case ROLE_STATE:
			if (column->key > 0)
				return false;
			if (type == BOOLOID || category == TYPCATEGORY_ENUM)
				return true;
			if (category != TYPCATEGORY_STRING)
				return false;
			foreach(lc, subject->few)
				if (strcmp(lfirst(lc), column->name) == 0)
					return true;
			return rehome_bool(rehome_spi_value("SELECT $1 ~* '(^|_)(status|state|type|kind|class|category|country|currency|level)$'", "t", column->name));
	}
	return false;
}

/*
 * columns_for lists the columns that play a role and that both sides have.
 */
static List *
columns_for(Subject *subject, Role role)
{
	List	   *columns = NIL;

	for (int i = 0; i < subject->mapping->ncolumns; i++)
	{
		RehomeMappedColumn *column = &subject->mapping->columns[i];

		if (source_column(subject, column) != NULL && has_role(subject, column, role))
			columns = lappend(columns, column);
	}
	return columns;
}

/*
 * side_name returns what a side calls a column, quoted.
 */
static const char *
side_name(Subject *subject, RehomeMappedColumn *column, bool source)
{
	return quote_identifier(source ? source_column(subject, column) : column->name);
}

/*
 * side_type returns the type that a side's column has.
 */
static Oid
side_type(Subject *subject, RehomeMappedColumn *column, bool source)
{
	Oid			relid = source ? subject->mapping->map->source : subject->mapping->map->target;

	return getBaseType(get_atttype(relid, get_attnum(relid, source ? source_column(subject, column) : column->name)));
}

/*
 * total returns the sum of a side's column.  That of floating point numbers
 * depends on the order of the rows, which is not the same on both sides.
 */
static char *
total(Subject *subject, RehomeMappedColumn *column, bool source)
{
	Oid			type = side_type(subject, column, source);

	return psprintf("sum(%s%s)", side_name(subject, column, source), type == FLOAT4OID || type == FLOAT8OID ? "::numeric" : "");
}

static void
suggest_totals(Subject *subject)
{
	List	   *amounts = columns_for(subject, ROLE_AMOUNT);
	List	   *times = columns_for(subject, ROLE_TIME);
	char	   *sql[2];

	if (amounts == NIL)
		return;
	for (int side = 0; side < 2; side++)
	{
		bool		source = side == 0;
		StringInfoData text;
		ListCell   *lc;

		initStringInfo(&text);
		appendStringInfoString(&text, "SELECT ");
		if (times != NIL)
			appendStringInfo(&text, "date_trunc('month', %s)::date AS \"month of it\", ",
							 side_name(subject, linitial(times), source));
		appendStringInfoString(&text, "count(*) AS \"rows in all\"");
		foreach(lc, amounts)
			appendStringInfo(&text, ", %s AS %s", total(subject, lfirst(lc), source), side_name(subject, lfirst(lc), false));
		appendStringInfo(&text, " FROM %s%s", source ? subject->source : subject->target,
						 times != NIL ? " GROUP BY 1" : "");
		sql[side] = text.data;
	}
	suggest(subject, "check", times != NIL ? "totals by month" : "totals", "business", sql[0], sql[1],
			times != NIL ? "{\"month of it\"}" : NULL, "amounts add up");
}

static void
suggest_states(Subject *subject)
{
	ListCell   *lc;

	foreach(lc, columns_for(subject, ROLE_STATE))
	{
		RehomeMappedColumn *column = lfirst(lc);
		const char *name = quote_identifier(column->name);

		suggest(subject, "check", psprintf("by %s", column->name), "business",
				psprintf("SELECT %s AS %s, count(*) AS \"rows in all\" FROM %s GROUP BY 1",
						 side_name(subject, column, true), name, subject->source),
				psprintf("SELECT %s, count(*) AS \"rows in all\" FROM %s GROUP BY 1", name, subject->target),
				rehome_name_array(list_make1(column->name)), "each value occurs as often");
	}
}

static void
suggest_times(Subject *subject)
{
	List	   *times = columns_for(subject, ROLE_TIME);
	char	   *sql[2];

	if (times == NIL)
		return;
	for (int side = 0; side < 2; side++)
	{
		StringInfoData text;
		ListCell   *lc;

		initStringInfo(&text);
		foreach(lc, times)
		{
			RehomeMappedColumn *column = lfirst(lc);
			const char *name = side_name(subject, column, side == 0);
			/* a time without a zone is one of UTC, but is not written like it */
			Oid			type = side_type(subject, column, true);
			const char *as = type != side_type(subject, column, false) && is_time(type) ? "::timestamptz" : "";

			appendStringInfo(&text, "%smin(%s)%s AS %s, ", text.len ? ", " : "SELECT ", name, as,
							 quote_identifier(psprintf("first %s", column->name)));
			appendStringInfo(&text, "max(%s)%s AS %s", name, as, quote_identifier(psprintf("last %s", column->name)));
		}
		appendStringInfo(&text, " FROM %s", side == 0 ? subject->source : subject->target);
		sql[side] = text.data;
	}
	suggest(subject, "check", "first and last", "business", sql[0], sql[1], NULL, "times reach as far");
}

/*
 * suggest_unique asserts at the target that columns are unique which are so at
 * the source.
 */
static void
suggest_unique(Subject *subject, const char *name, const char *names)
{
	List	   *columns = target_columns(subject, names);
	char	   *list = rehome_quote_list(columns, "");
	StringInfoData known;
	ListCell   *lc;

	if (columns == NIL)
		return;
	initStringInfo(&known);
	foreach(lc, columns)
		appendStringInfo(&known, "%s%s IS NOT NULL", known.len ? " AND " : "", quote_identifier(lfirst(lc)));
	suggest(subject, "check", psprintf("unique %s", list), "application", NULL,
			psprintf("SELECT %s, count(*) AS \"rows in all\" FROM %s WHERE %s GROUP BY %s HAVING count(*) > 1",
					 list, subject->target, known.data, list), NULL,
			psprintf("the source has %s", name));
}

/*
 * suggest_foreign asserts that rows of the target have the parents that the
 * source's foreign key promises.
 */
static void
suggest_foreign(Subject *subject, Subject *parent, const char *name, const char *names, const char *parent_names)
{
	List	   *columns = target_columns(subject, names);
	List	   *others = target_columns(parent, parent_names);
	StringInfoData shown;
	StringInfoData known;
	StringInfoData same;
	ListCell   *a;
	ListCell   *b;

	if (columns == NIL || others == NIL)
		return;
	initStringInfo(&shown);
	appendStringInfoString(&shown, rehome_quote_list(subject->mapping->map->key, "c."));
	initStringInfo(&known);
	initStringInfo(&same);
	forboth(a, columns, b, others)
	{
		bool		in_key = false;
		ListCell   *k;

		foreach(k, subject->mapping->map->key)
			in_key = in_key || strcmp(lfirst(k), lfirst(a)) == 0;
		if (!in_key)
			appendStringInfo(&shown, ", c.%s", quote_identifier(lfirst(a)));
		appendStringInfo(&known, "c.%s IS NOT NULL AND ", quote_identifier(lfirst(a)));
		appendStringInfo(&same, "%sp.%s = c.%s", same.len ? " AND " : "", quote_identifier(lfirst(b)),
						 quote_identifier(lfirst(a)));
	}
	suggest(subject, "check", psprintf("parents by %s", rehome_quote_list(columns, "")), "application", NULL,
			psprintf("SELECT %s FROM %s AS c WHERE %sNOT EXISTS (SELECT FROM %s AS p WHERE %s)",
					 shown.data, subject->target, known.data, parent->target, same.data), NULL,
			psprintf("the source has foreign key %s", name));
}

/*
 * tell_skipped says which of the source's queries nothing was made of.
 * *skipped lists the first of n, a line each.
 */
static void
tell_skipped(RehomeMigration *migration, const char *kind, int64 n, const char *skipped)
{
	if (strcmp(kind, "hidden") == 0)
		ereport(NOTICE,
				errmsg(INT64_FORMAT " statements in pg_stat_statements of the source were skipped: the connecting role may not read their text", n),
				errhint("GRANT pg_read_all_stats to it there."));
	else if (strcmp(kind, "parameters") == 0)
		ereport(NOTICE,
				errmsg(INT64_FORMAT " queries of the source were skipped: their values are parameters", n),
				errdetail_internal("%s", skipped),
				errhint("With values put in: SELECT rehome.add_query(%s, '<name>', '<query>');",
						quote_literal_cstr(migration->name)));
	else
		ereport(NOTICE,
				errmsg(INT64_FORMAT " queries of the source were skipped: they took less of its time", n));
}

/*
 * suggest_queries makes queries of those that cost the source most, and tells
 * of those it cannot make any of.
 */
static void
suggest_queries(RehomeConn *conn, Subject *subject)
{
	RehomeMigration *migration = subject->slice->migration;
	StringInfoData skipped;
	RehomeRows *rows;
	RehomeRemoteError error;
	int64		left = 0;

	rows = rehome_conn_exec(conn, "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
							" WHERE e.extname = 'pg_stat_statements'");
	if (rows->n == 0)
		return;
	rehome_conn_exec(conn, "SAVEPOINT rehome_queries");
	rows = rehome_conn_try(conn, psprintf(sql_top_queries, rows->value[0][0]), &error);
	if (rows == NULL)
	{
		rehome_conn_exec(conn, "ROLLBACK TO SAVEPOINT rehome_queries");
		ereport(NOTICE,
				errmsg("the source's queries could not be read: %s", error.message));
		return;
	}
	initStringInfo(&skipped);
	for (int i = 0; i < rows->n; i++)
	{
		char	  **v = rows->value[i];
		bool		last = i == rows->n - 1 || strcmp(rows->value[i + 1][0], v[0]) != 0;

		if (i == 0 || strcmp(rows->value[i - 1][0], v[0]) != 0)
		{
			left = rehome_int64(v[4]);
			resetStringInfo(&skipped);
		}
		if (strcmp(v[0], "whole") == 0)
		{
			char	   *name = psprintf("query %08x", (uint32) rehome_int64(rehome_spi_value("SELECT hashtext($1)::bigint & 4294967295", "t", v[1])));

			rehome_spi("INSERT INTO rehome.check_suggestion (migration_id, slice_id, kind, name, source_sql, target_sql, reason)"
					   " VALUES ($1, $2, 'query', $3::name, $4, $4, $5) ON CONFLICT (migration_id, name) DO NOTHING", "iittt",
					   migration->id, subject->slice->id, name, v[1],
					   psprintf("%s ms in %s calls at the source", v[3], v[2]));
			left--;
		}
		else
			appendStringInfo(&skipped, "%s%s ms in %s calls: %s", skipped.len ? "\n" : "", v[3], v[2],
							 rehome_spi_value("SELECT left(btrim(regexp_replace($1, '\\s+', ' ', 'g')), 200)", "t", v[1]));
		if (last && left > 0)
			tell_skipped(migration, v[0], left, skipped.data);
	}
}

/*
 * read_rules asks the source about the tables of a slice.
 */
static RehomeRows *
read_rules(RehomeConn *conn, List *subjects)
{
	List	   *schemas = NIL;
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, subjects)
	{
		Subject    *subject = lfirst(lc);

		schemas = lappend(schemas, subject->schema);
		tables = lappend(tables, subject->table);
	}
	if (conn == NULL)
		return rehome_spi(sql_source_rules, "tt", rehome_name_array(schemas), rehome_name_array(tables));
	return rehome_conn_query(conn, sql_source_rules, "tt", rehome_name_array(schemas), rehome_name_array(tables));
}

/*
 * suggest_slice writes down what a slice's tables call for; with queries, also
 * those of its source.  True when it has asked for these.
 */
static bool
suggest_slice(RehomeSlice *slice, bool queries)
{
	List	   *subjects = NIL;
	RehomeConn *conn = NULL;
	RehomeRows *rules;
	ListCell   *lc;

	foreach(lc, rehome_table_maps_require(slice))
		subjects = lappend(subjects, make_subject(slice, lfirst(lc)));
	if (subjects == NIL)
		return false;
	if (slice->migration->live)
	{
		conn = rehome_migration_connect(slice->migration,
										psprintf("suggest %s/%s", slice->migration->name, slice->name));
		rehome_conn_begin(conn, "READ ONLY");
	}
	rules = read_rules(conn, subjects);
	for (int i = 0; i < rules->n; i++)
	{
		char	  **v = rules->value[i];
		Subject    *subject = list_nth(subjects, rehome_int(v[1]));

		if (strcmp(v[0], "few") == 0)
			subject->few = list_concat(subject->few, target_columns(subject, v[3]));
		else if (strcmp(v[0], "unique") == 0)
			suggest_unique(subject, v[2], v[3]);
		else
			suggest_foreign(subject, list_nth(subjects, rehome_int(v[4])), v[2], v[3], v[5]);
	}
	foreach(lc, subjects)
	{
		CHECK_FOR_INTERRUPTS();
		suggest_totals(lfirst(lc));
		suggest_states(lfirst(lc));
		suggest_times(lfirst(lc));
	}
	if (conn == NULL)
		return false;
	if (queries)
		suggest_queries(conn, linitial(subjects));
	rehome_conn_commit(conn);
	rehome_conn_close(conn);
	return queries;
}

PG_FUNCTION_INFO_V1(rehome_suggest_checks);

/*
 * rehome_suggest_checks(migration name)
 */
Datum
rehome_suggest_checks(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeSink	sink;
	RehomeMigration *migration;
	RehomeRows *rows;
	bool		asked = false;	/* one source, one list of queries */
	ListCell   *lc;

	rehome_sink_begin(&sink, fcinfo);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	foreach(lc, rehome_slices_get(migration, NULL))
		if (!rehome_slice_ended(lfirst(lc)))
			asked = suggest_slice(lfirst(lc), !asked) || asked;
	rows = rehome_spi("SELECT kind, name, layer, source_sql, target_sql, key, reason, adopted_at IS NOT NULL"
					  " FROM rehome.check_suggestion WHERE migration_id = $1 ORDER BY kind, name", "i", migration->id);
	for (int i = 0; i < rows->n; i++)
		rehome_sink_put(&sink, rows->value[i]);
	rehome_call_end(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(rehome_adopt_checks);

/*
 * rehome_adopt_checks(migration name, names name[])
 */
Datum
rehome_adopt_checks(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *names = PG_ARGISNULL(1) ? NULL : rehome_trust_array(fcinfo, 1, "the suggestions");
	char	   *path;
	char	   *unknown;
	uint64		n;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	path = rehome_stated_path(&call);
	unknown = rehome_spi_value("SELECT string_agg(quote_ident(i), ', ' ORDER BY i) FROM unnest($2::name[]) AS i WHERE NOT EXISTS"
							   " (SELECT FROM rehome.check_suggestion s WHERE s.migration_id = $1 AND s.name = i)", "it",
							   migration->id, names);
	if (unknown != NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("suggestions of migration \"%s\" do not exist: %s", migration->name, unknown),
				errhint("SELECT name FROM rehome.suggest_checks(%s);", quote_literal_cstr(migration->name)));
	n = rehome_spi("INSERT INTO rehome.check_definition (migration_id, slice_id, name, layer, source_sql, target_sql, key, search_path, valid_for, description)"
				   " SELECT migration_id, slice_id, name, layer, source_sql, target_sql, key, $3, '1 day', reason"
				   " FROM rehome.check_suggestion WHERE migration_id = $1 AND kind = 'check' AND adopted_at IS NULL"
				   " AND ($2 IS NULL OR name = ANY ($2::name[])) ORDER BY id ON CONFLICT (migration_id, name) DO NOTHING", "itt",
				   migration->id, names, path)->processed;
	n += rehome_spi("INSERT INTO rehome.query_definition (migration_id, slice_id, name, source_sql, target_sql, search_path, factor, noise)"
					" SELECT migration_id, slice_id, name, source_sql, target_sql, $3, 2, 1"
					" FROM rehome.check_suggestion WHERE migration_id = $1 AND kind = 'query' AND adopted_at IS NULL"
					" AND ($2 IS NULL OR name = ANY ($2::name[])) ORDER BY id ON CONFLICT (migration_id, name) DO NOTHING", "itt",
					migration->id, names, path)->processed;
	rehome_spi("UPDATE rehome.check_suggestion SET adopted_at = clock_timestamp() WHERE migration_id = $1 AND adopted_at IS NULL"
			   " AND ($2 IS NULL OR name = ANY ($2::name[]))", "it", migration->id, names);
	if (n == 0)
		ereport(NOTICE,
				errmsg("there is nothing to adopt"),
				errhint("SELECT * FROM rehome.suggest_checks(%s);", quote_literal_cstr(migration->name)));
	rehome_call_end(&call);
	PG_RETURN_INT32((int32) n);
}
