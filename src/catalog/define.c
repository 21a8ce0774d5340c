/*-------------------------------------------------------------------------
 *
 * define.c
 *	  The SQL functions that define a migration: nothing moves yet.
 *
 * All are refused to anybody who could not act as the migration's owner,
 * since rules run with that role's rights.  Slices and rules can be changed
 * while the slice is planned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/define.h"
#include "catalog/namespace.h"
#include "compat.h"
#include "errors.h"
#include "foreign/foreign.h"
#include "mapping/mapping.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/*
 * rehome_required_name returns a name argument, or raises when it is null.
 */
char *
rehome_required_name(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n) || NameStr(*PG_GETARG_NAME(n))[0] == '\0')
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must be given", what));
	return pstrdup(NameStr(*PG_GETARG_NAME(n)));
}

Oid
rehome_required_relation(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("%s must be given", what));
	if (get_rel_name(PG_GETARG_OID(n)) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", PG_GETARG_OID(n)));
	return PG_GETARG_OID(n);
}

static RehomeSlice *
one_slice(RehomeMigration *migration, const char *name)
{
	return linitial(rehome_slices_get(migration, name));
}

/*
 * forget_namesake takes away what is on record of rows by the name of a
 * migration that was dropped: what somebody decided then is not decided now.
 */
static void
forget_namesake(const char *name)
{
	uint64		n;

	rehome_spi("DELETE FROM rehome.discrepancy_history WHERE discrepancy IN"
			   " (SELECT id FROM rehome.discrepancy WHERE migration = $1::name)", "t", name);
	n = rehome_spi("DELETE FROM rehome.discrepancy WHERE migration = $1::name", "t", name)->processed;
	n += rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name", "t", name)->processed;
	n += rehome_spi("DELETE FROM rehome.drift WHERE migration = $1::name", "t", name)->processed;
	if (n > 0)
		ereport(NOTICE,
				errmsg(UINT64_FORMAT " discrepancies, refused rows and drifts of an earlier migration \"%s\" are forgotten",
					   n, name));
}

/*
 * rehome_define_migration opens a frame, and in it creates a migration owned
 * by the caller, with one slice, main.
 */
void
rehome_define_migration(RehomeCall *call, FunctionCallInfo fcinfo, const char *name,
						const char *server, const char *reason, const char *home)
{
	char	   *owner;
	char	   *id;

	if (reason == NULL || strspn(reason, " \t\r\n") == strlen(reason))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("a migration needs a reason"),
				errhint("Say in one sentence why the data moves; it is what the log will show."));
	if (server != NULL)
	{
		ForeignServer *fs = GetForeignServerByName(server, true);

		if (fs == NULL)
			ereport(ERROR,
					errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("server \"%s\" does not exist", server),
					errhint("CREATE SERVER %s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '...', dbname '...');",
							quote_identifier(server)));
		if (!rehome_may_use_server(fs->serverid, GetUserId()))
			ereport(ERROR,
					errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("permission denied for foreign server \"%s\"", server),
					errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s;", quote_identifier(server),
							quote_identifier(GetUserNameFromId(GetUserId(), false))));
		if (strcmp(GetForeignDataWrapper(fs->fdwid)->fdwname, "postgres_fdw") == 0)
			(void) rehome_user_mapping(GetUserId(), fs);	/* raises when there is none */
	}

	rehome_call_begin(call, fcinfo);
	owner = GetUserNameFromId(call->caller, false);
	if (rehome_spi("SELECT 1 FROM rehome.migration WHERE name = $1::name", "t", name)->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("migration \"%s\" already exists", name));
	id = rehome_spi_value("INSERT INTO rehome.migration (name, server, reason, home, owner, token)"
						  " VALUES ($1::name, $2::name, $3, $4, $5::regrole,"
						  " substr(md5(rehome.database_identity() || $1 || clock_timestamp()::text), 1, 8))"
						  " RETURNING id",
						  "ttttt", name, server, reason, home, quote_identifier(owner));
	forget_namesake(name);
	rehome_spi("INSERT INTO rehome.slice (migration_id, name) VALUES ($1::int, 'main')", "i",
			   rehome_int(id));
	rehome_event(name, NULL, "defined", psprintf("migration created: %s", reason), NULL);
}

PG_FUNCTION_INFO_V1(rehome_create_migration);

/*
 * rehome_create_migration(migration name, server name, reason text, home text)
 */
Datum
rehome_create_migration(PG_FUNCTION_ARGS)
{
	RehomeCall	call;

	rehome_define_migration(&call, fcinfo, rehome_required_name(fcinfo, 0, "the migration's name"),
							REHOME_ARG_NAME(1), REHOME_ARG_TEXT(2), REHOME_ARG_TEXT(3));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_add_slice);

/*
 * rehome_add_slice(migration name, slice name, filter text)
 */
Datum
rehome_add_slice(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	char	   *slice = rehome_required_name(fcinfo, 1, "the slice's name");
	RehomeMigration *migration;

	if (!PG_ARGISNULL(2))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("a slice with a row filter is not supported"),
				errdetail("Authority is held per table: two slices cannot share one."),
				errhint("Give each slice tables of its own."));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_get(name);
	rehome_require_owner(&call, migration);
	if (rehome_spi("SELECT 1 FROM rehome.slice WHERE migration_id = $1 AND name = $2::name",
				   "it", migration->id, slice)->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("slice \"%s\" of migration \"%s\" already exists", slice, name));
	rehome_spi("INSERT INTO rehome.slice (migration_id, name) VALUES ($1, $2::name)",
			   "it", migration->id, slice);
	rehome_event(name, slice, "defined", "slice added", NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_add_table);

/*
 * rehome_add_table(migration name, source regclass, target regclass,
 *					key name[], filter text, slice name, columns jsonb)
 */
Datum
rehome_add_table(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	Oid			source = rehome_required_relation(fcinfo, 1, "the source");
	Oid			target = rehome_required_relation(fcinfo, 2, "the target");
	List	   *key = NIL;
	char	   *filter = REHOME_ARG_TEXT(4);
	char	   *slice = rehome_required_name(fcinfo, 5, "the slice");
	char	   *json = PG_ARGISNULL(6) ? NULL : OidOutputFunctionCall(F_JSONB_OUT, PG_GETARG_DATUM(6));
	RehomeRows *columns = NULL;
	RehomeMigration *migration;

	if (!PG_ARGISNULL(3))
		key = rehome_name_list(OidOutputFunctionCall(F_ARRAY_OUT, PG_GETARG_DATUM(3)));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_get(name);
	rehome_require_owner(&call, migration);
	if (json != NULL &&
		strcmp(rehome_spi_value("SELECT jsonb_typeof($1::jsonb)", "t", json), "object") != 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("columns must be an object of columns and expressions"),
				errhint("As in: columns => '{\"full_name\": \"first || last\"}'."));
	if (json != NULL)
	{
		columns = rehome_spi("SELECT key, value #>> '{}', jsonb_typeof(value) FROM jsonb_each($1::jsonb)", "t", json);
		for (int c = 0; c < columns->n; c++)
			if (strcmp(columns->value[c][2], "string") != 0 && strcmp(columns->value[c][2], "null") != 0)
				ereport(ERROR,
						errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the expression of column \"%s\" must be a string, not a JSON %s",
							   columns->value[c][0], columns->value[c][2]),
						errhint("As in: columns => '{\"full_name\": \"first || last\"}'; null leaves a column out."));
	}
	(void) rehome_define_table(&call, one_slice(migration, slice), source, target,
							   key, filter, columns, false);
	rehome_event(name, slice, "defined",
				 psprintf("table %s added", get_rel_name(target)), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * local_foreign_tables lists the server's foreign tables in a schema.
 */
static RehomeRows *
local_foreign_tables(RehomeMigration *migration, const char *schema)
{
	return rehome_spi("SELECT c.oid, c.relname FROM pg_class c"
					  " JOIN pg_namespace n ON n.oid = c.relnamespace"
					  " LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid"
					  " WHERE n.nspname = $1 AND CASE WHEN $2 = 0"
					  " THEN c.relkind IN ('r', 'p') AND NOT c.relispartition"
					  " ELSE f.ftserver = $2 END ORDER BY c.relname",
					  "to", schema, migration->serverid);
}

/*
 * free_schema returns a name for a schema that has none yet, the one given, cut
 * and numbered if need be.  One that is there has been imported before, from
 * this schema of the source or from one of nearly the same name, and may be in
 * use.
 */
static char *
free_schema(const char *wanted)
{
	char	   *name = NULL;

	for (int i = 1; name == NULL || OidIsValid(get_namespace_oid(name, true)); i++)
	{
		char	   *number = i == 1 ? "" : psprintf("_%d", i);

		CHECK_FOR_INTERRUPTS();
		name = psprintf("%.*s%s", pg_mbcliplen(wanted, strlen(wanted), NAMEDATALEN - 1 - strlen(number)), wanted, number);
	}
	return name;
}

/*
 * rehome_define_import makes foreign tables of the tables of a source schema,
 * or of those of them that are in wanted (char *) unless it is NIL, in a
 * schema of their own, whose name it returns.
 */
char *
rehome_define_import(RehomeMigration *migration, const char *schema, List *wanted)
{
	RehomeConn *conn = rehome_migration_connect(migration, "define");
	char	   *local;
	RehomeRows *rows;
	StringInfoData tables;
	RehomeAs	as;

	if (rehome_conn_query(conn, "SELECT 1 FROM pg_namespace WHERE nspname = $1", "t", schema)->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_SCHEMA_NAME),
				errmsg("schema \"%s\" does not exist", schema),
				errdetail("There is no schema of that name at the source, and no local one with foreign tables of server \"%s\".",
						  migration->server));
	rows = rehome_conn_query(conn, "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
							 " WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
							 " AND ($2::name[] IS NULL OR c.relname = ANY ($2::name[]))"
							 " ORDER BY relname", "tt", schema, wanted == NIL ? NULL : rehome_name_array(wanted));
	rehome_conn_close(conn);
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg(wanted == NIL ? "schema \"%s\" of the source has no tables" :
					   "schema \"%s\" of the source has none of the tables", schema));
	initStringInfo(&tables);
	for (int i = 0; i < rows->n; i++)
		appendStringInfo(&tables, "%s%s", i > 0 ? ", " : "", quote_identifier(rows->value[i][0]));

	local = free_schema(psprintf("rehome_%s_%s", migration->token, schema));
	rehome_spi(psprintf("CREATE SCHEMA %s AUTHORIZATION %s",
						quote_identifier(local),
						quote_identifier(GetUserNameFromId(migration->owner, false))), "");
	rehome_become(&as, migration->owner);
	rehome_spi(psprintf("IMPORT FOREIGN SCHEMA %s LIMIT TO (%s) FROM SERVER %s INTO %s"
						" OPTIONS (import_default 'false', import_generated 'false', import_not_null 'false')",
						quote_identifier(schema), tables.data,
						quote_identifier(migration->server), quote_identifier(local)), "");
	rehome_become_self(&as);
	return local;
}

PG_FUNCTION_INFO_V1(rehome_add_schema);

/*
 * rehome_add_schema(migration name, source_schema name, target_schema name,
 *					 slice name)
 * maps every table of the source schema to its namesake in the target schema
 * and returns how many.  source_schema is a local schema that holds foreign
 * tables of the server, or the name of a schema at the source, which is then
 * imported.
 */
Datum
rehome_add_schema(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	char	   *source_schema = rehome_required_name(fcinfo, 1, "the source schema");
	char	   *target_schema = rehome_required_name(fcinfo, 2, "the target schema");
	char	   *slice_name = rehome_required_name(fcinfo, 3, "the slice");
	RehomeMigration *migration;
	RehomeSlice *slice;
	RehomeRows *tables;
	RehomeProblems problems;
	List	   *sources = NIL;
	List	   *targets = NIL;
	Oid			target_ns;
	int			missing;
	bool		imported = false;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_get(name);
	rehome_require_owner(&call, migration);
	slice = one_slice(migration, slice_name);
	rehome_slice_require(slice, "add a schema to", REHOME_PLANNED, REHOME_PLANNED);
	target_ns = get_namespace_oid(target_schema, true);
	if (!OidIsValid(target_ns))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_SCHEMA_NAME),
				errmsg("schema \"%s\" does not exist", target_schema),
				errhint("Create the target's tables first, as with pg_dump --schema-only."));

	tables = local_foreign_tables(migration, source_schema);
	if (tables->n == 0 && migration->live)
	{
		tables = local_foreign_tables(migration, rehome_define_import(migration, source_schema, NIL));
		imported = true;
	}
	if (tables->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("schema \"%s\" has no tables of the source", source_schema));

	rehome_problems_init(&problems);
	for (int i = 0; i < tables->n; i++)
	{
		Oid			target = get_relname_relid(tables->value[i][1], target_ns);

		if (!OidIsValid(target))
		{
			rehome_problem(&problems, ERRCODE_UNDEFINED_TABLE,
						   "Create them first, as with pg_dump --schema-only, or add the tables you want one by one with rehome.add_table().",
						   "Table \"%s\" does not exist in schema \"%s\".",
						   tables->value[i][1], target_schema);
			continue;
		}
		sources = lappend_oid(sources, (Oid) rehome_int64(tables->value[i][0]));
		targets = lappend_oid(targets, target);
	}
	missing = problems.n;
	rehome_define_tables(&call, slice, sources, targets, imported, &problems);
	if (problems.n == missing)
		rehome_problems_raise(&problems, "schema \"%s\" lacks tables of the source", target_schema);
	rehome_problems_raise(&problems, "cannot map the tables of schema \"%s\" to those of \"%s\"",
						  source_schema, target_schema);
	rehome_event(name, slice_name, "defined",
				 psprintf("%d tables of schema %s added", tables->n, source_schema), NULL);
	rehome_call_end(&call);
	PG_RETURN_INT32(tables->n);
}

/*
 * parse_as_caller parses an expression under the definer's search_path.
 */
static Node *
parse_as_caller(RehomeCall *call, const char *text, Relation rel, const char *alias)
{
	int			level = NewGUCNestLevel();
	Node	   *expr;

	(void) set_config_option("search_path", call->search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	expr = rehome_expression_parse(text, rel, alias);
	AtEOXact_GUC(true, level);
	return expr;
}

/*
 * store_source_key records which source columns the key is computed from.  To
 * parse an expression is to run the owner's code: a literal's type may check it.
 */
static void
store_source_key(RehomeTableMap *map, Relation source, Oid owner)
{
	List	   *names = NIL;
	RehomeAs	as;
	ListCell   *lc;
	ListCell   *lc2;

	map = rehome_table_map_by_id(map->id);
	rehome_become(&as, owner);
	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);

		if (!rehome_name_listed(map->key, column->name) || column->expression == NULL)
			continue;
		foreach(lc2, rehome_expression_columns(rehome_expression_parse(column->expression, source, "source"), source))
		{
			bool		seen = false;
			ListCell   *lc3;

			foreach(lc3, names)
				seen = seen || strcmp(lfirst(lc3), lfirst(lc2)) == 0;
			if (!seen)
				names = lappend(names, lfirst(lc2));
		}
	}
	rehome_become_self(&as);
	rehome_spi("UPDATE rehome.table_map SET source_key = $2::name[] WHERE id = $1",
			   "it", map->id, rehome_name_array(names));
}

/*
 * check_inverse parses the inverse of a column map and finds the source
 * column it restores.  Returns its normalized text.
 */
static char *
check_inverse(RehomeCall *call, const char *inverse, char **inverse_column, Node *expr,
			  Relation source, Relation target)
{
	Node	   *back = parse_as_caller(call, inverse, target, "target");
	List	   *reads = rehome_expression_columns(expr, source);
	AttrNumber	attnum;

	if (*inverse_column == NULL)
	{
		if (list_length(reads) != 1)
			ereport(ERROR,
					errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("inverse_column must be given"),
					errdetail("The expression reads %d source columns.", list_length(reads)));
		*inverse_column = linitial(reads);
	}
	attnum = get_attnum(RelationGetRelid(source), *inverse_column);
	if (attnum <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("column \"%s\" of source \"%s\" does not exist",
					   *inverse_column, RelationGetRelationName(source)));
	(void) rehome_expression_coerce(back, source, attnum);
	return rehome_expression_deparse(back, target, "target");
}

/*
 * forget_column takes away the rule of a column that the target no longer has;
 * false if there is none.
 */
static bool
forget_column(RehomeTableMap *map, const char *column)
{
	return rehome_spi("DELETE FROM rehome.column_map WHERE table_map_id = $1 AND \"column\" = $2::name",
					  "it", map->id, column)->processed > 0;
}

/*
 * rehome_define_column states how a target column is produced, also of one that
 * was added since the table was mapped; a null expression leaves it out.
 */
void
rehome_define_column(RehomeCall *call, RehomeMigration *migration, RehomeTableMap *map,
					 const char *column, char *expression, char *inverse,
					 char *inverse_column, const char *note)
{
	Relation	source;
	Relation	target;
	Form_pg_attribute att;
	AttrNumber	attnum;
	const char *kind = "skip";
	bool		in_key = rehome_name_listed(map->key, column);

	attnum = get_attnum(map->target, column);
	if (attnum <= 0 && expression == NULL && inverse == NULL && inverse_column == NULL &&
		!in_key && forget_column(map, column))
		return;
	source = relation_open(map->source, AccessShareLock);
	target = relation_open(map->target, AccessShareLock);
	if (attnum <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("column \"%s\" of \"%s\" does not exist", column,
					   RelationGetRelationName(target)));
	att = TupleDescAttr(RelationGetDescr(target), attnum - 1);

	if (att->attgenerated != '\0')
		ereport(ERROR,
				errcode(ERRCODE_GENERATED_ALWAYS),
				errmsg("column \"%s\" of \"%s\" is a generated column", column,
					   RelationGetRelationName(target)),
				errhint("It computes itself; leave it out."));
	if (expression != NULL &&
		rehome_spi("SELECT FROM rehome.derivation d JOIN rehome.slice s ON s.id = d.slice_id WHERE d.target = $1 AND $2::name = ANY (d.columns)"
				   " AND s.state NOT IN ('completed', 'cancelled')", "ot", map->target, column)->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_IN_USE),
				errmsg("column \"%s\" of \"%s\" is derived", column, RelationGetRelationName(target)),
				errhint("SELECT rehome.drop_derived(...); first, or leave the column out."));
	if (expression != NULL && map->on_delete == 'm' && map->delete_column != NULL && strcmp(map->delete_column, column) == 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("column \"%s\" of \"%s\" marks rows that are gone at the source", column,
					   RelationGetRelationName(target)),
				errhint("SELECT rehome.set_table_rule(..., on_delete => 'delete'); first, or leave the column out."));
	if (expression == NULL && (inverse != NULL || inverse_column != NULL))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a column that is left out has no inverse"));
	if (expression == NULL && in_key)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				errmsg("key column \"%s\" of \"%s\" cannot be left out", column,
					   RelationGetRelationName(target)));
	if (expression == NULL && att->attnotnull && !att->atthasdef && att->attidentity == '\0')
		ereport(ERROR,
				errcode(ERRCODE_NOT_NULL_VIOLATION),
				errmsg("column \"%s\" of \"%s\" cannot be left out", column,
					   RelationGetRelationName(target)),
				errdetail("It may not be null and has no default."),
				errhint("Map it to an expression, give it a default, or drop its NOT NULL."));
	if (expression != NULL)
	{
		RehomeAs	as;
		Node	   *expr;

		/* parsing and planning run functions of the expression already */
		rehome_become(&as, migration->owner);
		expr = parse_as_caller(call, expression, source, "source");
		(void) rehome_expression_coerce(expr, target, attnum);
		expression = rehome_expression_deparse(expr, source, "source");
		kind = IsA(expr, Var) ? "copy" : "expression";
		if (in_key && rehome_expression_columns(expr, source) == NIL)
			ereport(ERROR,
					errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					errmsg("key column \"%s\" of \"%s\" cannot be a constant", column,
						   RelationGetRelationName(target)));
		if (inverse != NULL)
			inverse = check_inverse(call, inverse, &inverse_column, expr, source, target);
		else if (inverse_column != NULL)
			ereport(ERROR,
					errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("inverse_column needs an inverse"));
		rehome_become_self(&as);
	}
	rehome_spi("INSERT INTO rehome.column_map (table_map_id, \"column\", kind, expression, inverse, inverse_column, note, owner)"
			   " VALUES ($1, $2::name, $3, $4, $5, $6::name, $7, $8::regrole)"
			   " ON CONFLICT (table_map_id, \"column\") DO UPDATE SET kind = excluded.kind, expression = excluded.expression,"
			   " inverse = excluded.inverse, inverse_column = excluded.inverse_column, note = excluded.note,"
			   " params = NULL, source_column = NULL, validation = NULL, on_error = NULL",
			   "ittttttt", map->id, column, kind, expression, inverse, inverse_column, note,
			   quote_identifier(GetUserNameFromId(migration->owner, false)));
	store_source_key(map, source, migration->owner);
	relation_close(target, AccessShareLock);
	relation_close(source, AccessShareLock);
}

/*
 * rehome_define_open returns the map of a target and its slice, whose work
 * lock it takes, for the migration's owner to change.
 */
RehomeTableMap *
rehome_define_open(RehomeCall *call, const char *name, Oid target, RehomeSlice **slice)
{
	RehomeMigration *migration = rehome_migration_get(name);
	RehomeTableMap *map;

	rehome_require_owner(call, migration);
	map = rehome_table_map_of(migration, target);
	*slice = rehome_slice_by_id(map->slice_id);
	rehome_slice_work_lock(*slice);
	return map;
}

PG_FUNCTION_INFO_V1(rehome_map_column);

/*
 * rehome_map_column(migration name, target regclass, "column" name,
 *					 expression text, inverse text, inverse_column name, note text)
 * states how a target column is produced; a null expression leaves it out.
 */
Datum
rehome_map_column(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	Oid			target_oid = rehome_required_relation(fcinfo, 1, "the target");
	char	   *column = rehome_required_name(fcinfo, 2, "the column");
	char	   *expression = REHOME_ARG_TEXT(3);
	char	   *inverse = REHOME_ARG_TEXT(4);
	char	   *inverse_column = REHOME_ARG_NAME(5);
	char	   *note = REHOME_ARG_TEXT(6);
	RehomeMigration *migration;
	RehomeSlice *slice;
	RehomeTableMap *map;

	rehome_call_begin(&call, fcinfo);
	map = rehome_define_open(&call, name, target_oid, &slice);
	migration = slice->migration;
	rehome_define_may_change(slice, map, column);

	rehome_define_column(&call, migration, map, column, expression, inverse, inverse_column, note);
	rehome_event(name, slice->name, "defined",
				 psprintf("column %s.%s: %s", get_rel_name(target_oid), column,
						  expression ? expression : "left out"), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
