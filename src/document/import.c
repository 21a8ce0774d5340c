/*-------------------------------------------------------------------------
 *
 * import.c
 *	  rehome.import_migration(): what rehome.export_migration() wrote, defined
 *	  again.
 *
 * The form of the definition is checked first, then each table and each
 * column is defined as add_table() and map_column() would, in a
 * subtransaction of its own, so that everything that is wrong is told in one
 * error.  That error takes all of it back.
 *
 * A rule's expression is what will be evaluated.  The kind, parameters and
 * validation that it was once made of are kept with it as they are.
 *
 * Checks, queries, criteria and drift policies are what the functions that
 * state them make of them.  A drift policy is in force once the copy is done.
 *
 * Columns that the definition does not name are left out: nothing is mapped
 * because its name happens to be the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/define.h"
#include "catalog/namespace.h"
#include "derive/derive.h"
#include "document/document.h"
#include "document/sql/import_problems.sql.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "trust/trust.h"
#include "util/attempt.h"
#include "util/name.h"
#include "util/problems.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

/* Columns of table_sql. */
enum
{
	TABLE_SOURCE, TABLE_SOURCE_SCHEMA, TABLE_SOURCE_TABLE, TABLE_TARGET, TABLE_KEY, TABLE_FILTER, TABLE_COLUMNS,
	TABLE_ON_ERROR, TABLE_ON_DELETE, TABLE_DELETE_COLUMN, TABLE_DELETE_ARCHIVE, TABLE_DRIFT_POLICY
};

static const char *const table_sql =
	"SELECT CASE WHEN jsonb_typeof(t -> 'source') = 'string' THEN t ->> 'source' END,"
	" t #>> '{source,schema}', t #>> '{source,table}', t ->> 'target',"
	" (SELECT array_agg(k ORDER BY n) FROM jsonb_array_elements_text(nullif(t -> 'key', 'null')) WITH ORDINALITY AS e(k, n)),"
	" t ->> 'filter', t -> 'columns', coalesce(t ->> 'on_error', 'fail'), coalesce(t ->> 'on_delete', 'delete'),"
	" t ->> 'delete_column', t ->> 'delete_archive', coalesce(t ->> 'drift_policy', 'reject')"
	" FROM jsonb_array_elements($1::jsonb #> ARRAY['slices', $2, 'tables']) WITH ORDINALITY AS e(t, n) ORDER BY n";

/* Columns of column_sql. */
enum
{
	COLUMN_NAME, COLUMN_EXPRESSION, COLUMN_INVERSE, COLUMN_INVERSE_COLUMN, COLUMN_OWNER, COLUMN_NOTE,
	COLUMN_KIND, COLUMN_PARAMS, COLUMN_VALIDATION, COLUMN_ON_ERROR, COLUMN_SOURCE_COLUMN
};

static const char *const column_sql =
	"SELECT c ->> 'column', c ->> 'expression', c ->> 'inverse', c ->> 'inverse_column', c ->> 'owner', c ->> 'note',"
	" c ->> 'kind', c -> 'params', c ->> 'validation', c ->> 'on_error', c ->> 'source_column'"
	" FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS e(c, n) ORDER BY n";

/* Columns of derived_sql. */
enum
{
	DERIVED_NAME, DERIVED_TARGET, DERIVED_KEY, DERIVED_COLUMNS, DERIVED_QUERY, DERIVED_SEARCH_PATH,
	DERIVED_WRITE_BACK, DERIVED_NOTE, DERIVED_AFFECTED
};

static const char *const derived_sql =
	"SELECT d ->> 'name', d ->> 'target', (SELECT array_agg(k ORDER BY n) FROM jsonb_array_elements_text(nullif(d -> 'key', 'null')) WITH ORDINALITY AS e(k, n)),"
	" (SELECT array_agg(k ORDER BY n) FROM jsonb_array_elements_text(nullif(d -> 'columns', 'null')) WITH ORDINALITY AS e(k, n)),"
	" d ->> 'query', d ->> 'search_path', d ->> 'write_back', d ->> 'note', d -> 'affected'"
	" FROM jsonb_array_elements(nullif($1::jsonb #> ARRAY['slices', $2, 'derived'], 'null')) WITH ORDINALITY AS e(d, n) ORDER BY n";

/* Columns of check_sql. */
enum
{
	CHECK_SLICE, CHECK_NAME, CHECK_LAYER, CHECK_SOURCE_SQL, CHECK_TARGET_SQL, CHECK_KEY, CHECK_TOLERANCE,
	CHECK_SEARCH_PATH, CHECK_VALID_FOR, CHECK_DESCRIPTION, CHECK_EVERY
};

static const char *const check_sql =
	"SELECT c ->> 'slice', c ->> 'name', c ->> 'layer', c ->> 'source_sql', c ->> 'target_sql',"
	" (SELECT array_agg(k ORDER BY n) FROM jsonb_array_elements_text(nullif(c -> 'key', 'null')) WITH ORDINALITY AS e(k, n)),"
	" coalesce(nullif(c -> 'tolerance', 'null'), '{}'), c ->> 'search_path', c ->> 'valid_for', c ->> 'description', c ->> 'every'"
	" FROM jsonb_array_elements(nullif($1::jsonb -> 'checks', 'null')) WITH ORDINALITY AS e(c, n) ORDER BY n";

/* Columns of query_sql. */
enum
{
	QUERY_SLICE, QUERY_NAME, QUERY_SOURCE_SQL, QUERY_TARGET_SQL, QUERY_SEARCH_PATH, QUERY_FACTOR, QUERY_NOISE,
	QUERY_EVERY
};

static const char *const query_sql =
	"SELECT q ->> 'slice', q ->> 'name', q ->> 'source_sql', q ->> 'target_sql', q ->> 'search_path',"
	" q ->> 'factor', q ->> 'noise', q ->> 'every'"
	" FROM jsonb_array_elements(nullif($1::jsonb -> 'queries', 'null')) WITH ORDINALITY AS e(q, n) ORDER BY n";

/* Columns of criterion_sql. */
enum
{
	CRITERION_METRIC, CRITERION_COMPARATOR, CRITERION_THRESHOLD, CRITERION_BLOCKING, CRITERION_OWNER,
	CRITERION_MAX_AGE
};

static const char *const criterion_sql =
	"SELECT k ->> 'metric', k ->> 'comparator', k ->> 'threshold', (k ->> 'blocking')::boolean, k ->> 'owner', k ->> 'max_age'"
	" FROM jsonb_array_elements(nullif($1::jsonb -> 'criteria', 'null')) WITH ORDINALITY AS e(k, n) ORDER BY n";

/* Columns of redaction_sql. */
enum
{
	REDACTION_TARGET, REDACTION_COLUMNS
};

static const char *const redaction_sql =
	"SELECT r ->> 'target', (SELECT array_agg(c ORDER BY n) FROM jsonb_array_elements_text(nullif(r -> 'columns', 'null')) WITH ORDINALITY AS e(c, n))"
	" FROM jsonb_array_elements(nullif($1::jsonb -> 'redactions', 'null')) WITH ORDINALITY AS e(r, n) ORDER BY n";

/*
 * An import in progress; the last are the table, the column, the derivation,
 * or the check, query, criterion or redaction in hand.
 */
typedef struct Import
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeProblems problems;
	RehomeRows *schemas;		/* old name, new name */
	RehomeRows *imported;		/* source schema, local schema */

	RehomeSlice *slice;
	char	  **derived;
	char	  **table;
	int			map_id;
	char	  **column;
	char	  **stated;
} Import;

/*
 * attempt does a part of the import and adds what it raised, if it did, to
 * the problems.
 */
static bool
attempt(Import *import, void (*work) (void *arg), const char *what)
{
	ErrorData  *error = rehome_attempt(work, import);

	if (error == NULL)
		return true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTERNAL_ERROR)
		ReThrowError(error);
	if (error->detail != NULL)
		rehome_problem(&import->problems, error->sqlerrcode, error->hint, "%s: %s: %s", what,
					   error->message, error->detail);
	else
		rehome_problem(&import->problems, error->sqlerrcode, error->hint, "%s: %s", what, error->message);
	return false;
}

/*
 * find_relation looks a local relation up by the name in the definition, in
 * the schema that takes the place of its own.
 */
static Oid
find_relation(Import *import, const char *name)
{
	List	   *names = textToQualifiedNameList(cstring_to_text(name));
	RangeVar   *var = makeRangeVarFromNameList(names);

	if (var->schemaname == NULL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("name \"%s\" has no schema", name));
	for (int i = 0; i < import->schemas->n; i++)
		if (strcmp(import->schemas->value[i][0], var->schemaname) == 0)
		{
			var->schemaname = import->schemas->value[i][1];
			break;
		}
	return RangeVarGetRelid(var, NoLock, false);
}

/*
 * find_source returns the relation that a table of the definition comes from.
 */
static Oid
find_source(Import *import)
{
	char	  **t = import->table;

	if (t[TABLE_SOURCE] != NULL)
		return find_relation(import, t[TABLE_SOURCE]);
	for (int i = 0; i < import->imported->n; i++)
		if (strcmp(import->imported->value[i][0], t[TABLE_SOURCE_SCHEMA]) == 0)
		{
			char	   *schema = import->imported->value[i][1];
			Oid			relid = get_relname_relid(t[TABLE_SOURCE_TABLE], get_namespace_oid(schema, false));

			if (OidIsValid(relid))
				return relid;
		}
	ereport(ERROR,
			errcode(ERRCODE_UNDEFINED_TABLE),
			errmsg("the source has no table %s",
				   quote_qualified_identifier(t[TABLE_SOURCE_SCHEMA], t[TABLE_SOURCE_TABLE])));
}

/*
 * left_to_default tells whether a column that the definition leaves out needs
 * no saying so: it computes itself; or it may not be left out, and is waiting
 * for map_column() here as it was there.
 */
static bool
left_to_default(Relation target, const char *column)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(target), column);
	Form_pg_attribute att;

	if (attnum <= 0)
		return false;
	att = TupleDescAttr(RelationGetDescr(target), attnum - 1);
	return att->attgenerated != '\0' ||
		(att->attnotnull && !att->atthasdef && att->attidentity == '\0');
}

/*
 * define_table defines the table in hand without any column; for attempt.
 */
static void
define_table(void *arg)
{
	Import	   *import = arg;
	Oid			source = find_source(import);
	Oid			target = find_relation(import, import->table[TABLE_TARGET]);
	Relation	rel = relation_open(target, AccessShareLock);
	RehomeRows *stated = palloc0(sizeof(RehomeRows));

	/* every column is stated: those of the definition will be, others stay out */
	stated->nfields = 1;
	stated->value = palloc(sizeof(char **) * Max(RelationGetNumberOfAttributes(rel), 1));
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (att->attisdropped)
			continue;
		stated->value[stated->n] = palloc(sizeof(char *));
		stated->value[stated->n++][0] = pstrdup(NameStr(att->attname));
	}
	relation_close(rel, NoLock);
	import->map_id = rehome_define_table(&import->call, import->slice, source, target,
										 import->table[TABLE_KEY] ? rehome_name_list(import->table[TABLE_KEY]) : NIL,
										 import->table[TABLE_FILTER], stated,
										 import->table[TABLE_SOURCE] == NULL);
	rehome_spi("UPDATE rehome.table_map SET drift_policy = $2 WHERE id = $1", "it", import->map_id, import->table[TABLE_DRIFT_POLICY]);
}

/*
 * define_table_rule states the rule of the table in hand, whose columns have
 * theirs; for attempt.
 */
static void
define_table_rule(void *arg)
{
	Import	   *import = arg;

	rehome_define_table_rule(import->migration, rehome_table_map_by_id(import->map_id),
							 import->table[TABLE_ON_ERROR], import->table[TABLE_ON_DELETE], import->table[TABLE_DELETE_COLUMN],
							 import->table[TABLE_DELETE_ARCHIVE] == NULL ? InvalidOid :
							 find_relation(import, import->table[TABLE_DELETE_ARCHIVE]));
}

/*
 * define_column defines the column in hand; for attempt.
 */
static void
define_column(void *arg)
{
	Import	   *import = arg;
	char	  **c = import->column;
	RehomeTableMap *map = rehome_table_map_by_id(import->map_id);

	if (c[COLUMN_EXPRESSION] == NULL && c[COLUMN_INVERSE] == NULL)
	{
		Relation	target = relation_open(map->target, AccessShareLock);
		bool		stays = left_to_default(target, c[COLUMN_NAME]);

		relation_close(target, NoLock);
		if (stays)
			return;
	}
	rehome_define_column(&import->call, import->migration, map, c[COLUMN_NAME], c[COLUMN_EXPRESSION],
						 c[COLUMN_INVERSE], c[COLUMN_INVERSE_COLUMN], c[COLUMN_NOTE]);
	rehome_spi("UPDATE rehome.column_map SET kind = coalesce($3, kind), params = $4::jsonb, validation = $5,"
			   " owner = coalesce($6::regrole, owner), source_column = $7::name WHERE table_map_id = $1 AND \"column\" = $2::name",
			   "itttttt", import->map_id, c[COLUMN_NAME], c[COLUMN_KIND], c[COLUMN_PARAMS],
			   c[COLUMN_VALIDATION], c[COLUMN_OWNER], c[COLUMN_SOURCE_COLUMN]);
	rehome_define_policy(import->migration, map, c[COLUMN_NAME], c[COLUMN_ON_ERROR]);
}

/*
 * find_function looks a function of two rows of a relation up by the name in
 * the definition.
 */
static Oid
find_function(Import *import, char *name, Oid relid)
{
	List	   *names = textToQualifiedNameList(cstring_to_text(name));
	Oid			types[2] = {get_rel_type_id(relid), get_rel_type_id(relid)};

	for (int i = 0; i < import->schemas->n; i++)
		if (strcmp(import->schemas->value[i][0], strVal(linitial(names))) == 0)
		{
			linitial(names) = makeString(import->schemas->value[i][1]);
			break;
		}
	return LookupFuncName(names, 2, types, false);
}

/*
 * path_here returns a search_path of the definition with the names that
 * schemas have here, and pg_temp last.  What is read on both sides looks for
 * a schema's own name, too, after the one it has here.
 */
static char *
path_here(Import *import, const char *stated, bool both)
{
	StringInfoData path;
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(pstrdup(stated), ',', &names))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("malformed search_path \"%s\"", stated));
	initStringInfo(&path);
	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		bool		renamed = false;

		if (name[0] == '\0' || strcmp(name, "pg_temp") == 0)
			continue;
		for (int i = 0; i < import->schemas->n && !renamed; i++)
			if (strcmp(import->schemas->value[i][0], name) == 0)
			{
				appendStringInfo(&path, "%s, ", quote_identifier(import->schemas->value[i][1]));
				renamed = true;
			}
		if (!renamed || both)
			appendStringInfo(&path, "%s, ", quote_identifier(name));
	}
	appendStringInfoString(&path, "pg_temp");
	return path.data;
}

/*
 * define_derived defines the derivation in hand; for attempt.  Its queries
 * are taken as they are; schemas that have other names are replaced in the
 * path they are read with.
 */
static void
define_derived(void *arg)
{
	Import	   *import = arg;
	char	  **v = import->derived;
	RehomeDerivation d = {0};
	RehomeRows *inputs;
	char	   *affected = "{}";

	d.name = v[DERIVED_NAME];
	d.target = find_relation(import, v[DERIVED_TARGET]);
	d.key = rehome_name_list(v[DERIVED_KEY]);
	d.columns = rehome_name_list(v[DERIVED_COLUMNS]);
	d.query = v[DERIVED_QUERY];
	d.stated.owner = import->migration->owner;
	d.stated.search_path = path_here(import, v[DERIVED_SEARCH_PATH], false);
	inputs = rehome_spi("SELECT key, value FROM jsonb_each_text($1::jsonb)", "t", v[DERIVED_AFFECTED]);
	for (int i = 0; i < inputs->n; i++)
		affected = rehome_spi_value("SELECT $1::jsonb || jsonb_build_object($2, $3)", "ttt", affected,
									rehome_relation_name(find_relation(import, inputs->value[i][0])), inputs->value[i][1]);
	rehome_define_derived(import->migration, &d, import->slice->name, affected,
						  v[DERIVED_WRITE_BACK] ? find_function(import, v[DERIVED_WRITE_BACK], d.target) : InvalidOid,
						  v[DERIVED_NOTE]);
}

/*
 * import_slice defines the n-th slice of the definition.  Returns the tables.
 */
static int
import_slice(Import *import, const char *definition, int n, const char *name)
{
	RehomeRows *tables;
	RehomeRows *derived;

	if (strcmp(name, "main") != 0)
		rehome_spi("INSERT INTO rehome.slice (migration_id, name) VALUES ($1, $2::name)", "it",
				   import->migration->id, name);
	import->slice = linitial(rehome_slices_get(import->migration, name));
	tables = rehome_spi(table_sql, "tt", definition, psprintf("%d", n));
	for (int i = 0; i < tables->n; i++)
	{
		RehomeRows *columns;

		CHECK_FOR_INTERRUPTS();
		import->table = tables->value[i];
		if (!attempt(import, define_table, import->table[TABLE_TARGET]))
			continue;
		columns = rehome_spi(column_sql, "t", import->table[TABLE_COLUMNS]);
		for (int c = 0; c < columns->n; c++)
		{
			import->column = columns->value[c];
			(void) attempt(import, define_column,
						   psprintf("%s.%s", import->table[TABLE_TARGET],
									quote_identifier(import->column[COLUMN_NAME])));
		}
		(void) attempt(import, define_table_rule, import->table[TABLE_TARGET]);
	}
	derived = rehome_spi(derived_sql, "tt", definition, psprintf("%d", n));
	for (int i = 0; i < derived->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		import->derived = derived->value[i];
		(void) attempt(import, define_derived, import->derived[DERIVED_NAME]);
	}
	return tables->n;
}

/*
 * define_check defines the check in hand; for attempt.
 */
static void
define_check(void *arg)
{
	Import	   *import = arg;
	char	  **v = import->stated;
	RehomeCheckStated check = {0};

	check.slice = v[CHECK_SLICE];
	check.name = v[CHECK_NAME];
	check.layer = v[CHECK_LAYER];
	check.sql[0] = v[CHECK_SOURCE_SQL];
	check.sql[1] = v[CHECK_TARGET_SQL];
	check.key = v[CHECK_KEY];
	check.tolerance = v[CHECK_TOLERANCE];
	check.search_path = path_here(import, v[CHECK_SEARCH_PATH], true);
	check.valid_for = v[CHECK_VALID_FOR];
	check.description = v[CHECK_DESCRIPTION];
	rehome_define_check(import->migration, &check);
	if (v[CHECK_EVERY] != NULL)
		rehome_define_schedule(import->migration, true, check.name, v[CHECK_EVERY]);
}

/*
 * define_query defines the query in hand; for attempt.
 */
static void
define_query(void *arg)
{
	Import	   *import = arg;
	char	  **v = import->stated;
	RehomeQueryStated query = {0};

	query.slice = v[QUERY_SLICE];
	query.name = v[QUERY_NAME];
	query.sql[0] = v[QUERY_SOURCE_SQL];
	query.sql[1] = v[QUERY_TARGET_SQL];
	query.search_path = path_here(import, v[QUERY_SEARCH_PATH], true);
	query.factor = rehome_float8(v[QUERY_FACTOR]);
	query.noise = rehome_float8(v[QUERY_NOISE]);
	rehome_define_query(import->migration, &query);
	if (v[QUERY_EVERY] != NULL)
		rehome_define_schedule(import->migration, false, query.name, v[QUERY_EVERY]);
}

/*
 * define_criterion defines the criterion in hand; for attempt.
 */
static void
define_criterion(void *arg)
{
	Import	   *import = arg;
	char	  **v = import->stated;
	RehomeCriterionStated criterion = {0};

	criterion.metric = v[CRITERION_METRIC];
	criterion.comparator = v[CRITERION_COMPARATOR];
	criterion.threshold = v[CRITERION_THRESHOLD];
	criterion.blocking = rehome_bool(v[CRITERION_BLOCKING]);
	criterion.owner = v[CRITERION_OWNER];
	criterion.max_age = v[CRITERION_MAX_AGE];
	rehome_define_criterion(import->migration, &criterion);
}

/*
 * define_redaction redacts the columns of the target in hand; for attempt.
 */
static void
define_redaction(void *arg)
{
	Import	   *import = arg;

	rehome_define_redaction(import->migration, find_relation(import, import->stated[REDACTION_TARGET]),
							import->stated[REDACTION_COLUMNS] ? import->stated[REDACTION_COLUMNS] : "{}");
}

/*
 * import_stated defines what sql, one of the above, finds in the definition;
 * criteria after the checks and queries that they are about.
 */
static void
import_stated(Import *import, const char *definition, const char *sql, int name, const char *what,
			  void (*define) (void *arg))
{
	RehomeRows *rows = rehome_spi(sql, "t", definition);

	for (int i = 0; i < rows->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		import->stated = rows->value[i];
		(void) attempt(import, define, psprintf("%s %s", what, quote_identifier(import->stated[name])));
	}
}

/*
 * import_schemas makes the foreign tables that add_schema() had made, and
 * fills in import->imported.
 */
static void
import_schemas(Import *import, const char *definition)
{
	RehomeRows *rows;

	rows = rehome_spi("SELECT t #>> '{source,schema}', NULL, array_agg(t #>> '{source,table}')"
					  " FROM jsonb_array_elements($1::jsonb -> 'slices') s, jsonb_array_elements(s -> 'tables') t"
					  " WHERE jsonb_typeof(t -> 'source') = 'object' GROUP BY 1 ORDER BY 1", "t", definition);
	if (rows->n > 0 && !import->migration->live)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the definition needs a server of postgres_fdw"),
				errdetail("Its foreign tables were made by rehome.add_schema()."),
				errhint("rehome.import_migration(..., server => '...') names one."));
	for (int i = 0; i < rows->n; i++)
		rows->value[i][1] = rehome_define_import(import->migration, rows->value[i][0],
												 rehome_name_list(rows->value[i][2]));
	import->imported = rows;
}

/*
 * check_form raises with everything that is wrong with the form of a
 * definition, and of the object of schemas.
 */
static void
check_form(const char *definition, const char *schemas)
{
	RehomeProblems problems;
	RehomeRows *rows;

	rehome_problems_init(&problems);
	rows = rehome_spi(sql_import_problems, "t", definition);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE,
					   "rehome.export_migration() writes what this function reads.",
					   "%s", rows->value[i][0]);
	if (!rehome_bool(rehome_spi_value("SELECT CASE WHEN jsonb_typeof($1::jsonb) <> 'object' THEN false"
									  " ELSE NOT EXISTS (SELECT FROM jsonb_each($1::jsonb) e WHERE jsonb_typeof(e.value) <> 'string') END",
									  "t", schemas)))
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE,
					   "As in: schemas => '{\"old\": \"new\"}'.",
					   "schemas is not an object of schemas and the names they have here.");
	rehome_problems_raise(&problems, "this is not the definition of a migration");
}

PG_FUNCTION_INFO_V1(rehome_import_migration);

/*
 * rehome_import_migration(definition jsonb, migration name, server name,
 *						   schemas jsonb)
 */
Datum
rehome_import_migration(PG_FUNCTION_ARGS)
{
	Import		import = {0};
	char	   *definition;
	char	   *schemas;
	char	  **head;
	RehomeRows *slices;
	int			tables = 0;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the definition must be given"));
	definition = OidOutputFunctionCall(F_JSONB_OUT, PG_GETARG_DATUM(0));
	schemas = PG_ARGISNULL(3) ? "{}" : OidOutputFunctionCall(F_JSONB_OUT, PG_GETARG_DATUM(3));

	rehome_call_begin(&import.call, fcinfo);
	check_form(definition, schemas);
	head = rehome_spi("SELECT d ->> 'migration', d ->> 'server', d ->> 'reason', d ->> 'home'"
					  " FROM (SELECT $1::jsonb AS d) x", "t", definition)->value[0];
	slices = rehome_spi("SELECT s ->> 'slice' FROM jsonb_array_elements($1::jsonb -> 'slices')"
						" WITH ORDINALITY AS e(s, n) ORDER BY n", "t", definition);
	import.schemas = rehome_spi("SELECT key, value FROM jsonb_each_text($1::jsonb)", "t", schemas);
	rehome_call_end(&import.call);

	rehome_define_migration(&import.call, fcinfo,
							PG_ARGISNULL(1) ? head[0] : NameStr(*PG_GETARG_NAME(1)),
							PG_ARGISNULL(2) ? head[1] : NameStr(*PG_GETARG_NAME(2)), head[2], head[3]);
	/* expressions were stored with everything qualified */
	import.call.search_path = "pg_catalog, pg_temp";
	import.migration = rehome_migration_get(PG_ARGISNULL(1) ? head[0] : NameStr(*PG_GETARG_NAME(1)));
	rehome_problems_init(&import.problems);
	import_schemas(&import, definition);
	for (int i = 0; i < slices->n; i++)
		tables += import_slice(&import, definition, i, slices->value[i][0]);
	import_stated(&import, definition, check_sql, CHECK_NAME, "check", define_check);
	import_stated(&import, definition, query_sql, QUERY_NAME, "query", define_query);
	import_stated(&import, definition, criterion_sql, CRITERION_METRIC, "criterion", define_criterion);
	import_stated(&import, definition, redaction_sql, REDACTION_TARGET, "redaction of", define_redaction);
	rehome_problems_raise(&import.problems, "migration \"%s\" cannot be imported", import.migration->name);
	rehome_event(import.migration->name, NULL, "defined", psprintf("imported with %d tables", tables), NULL);
	rehome_call_end(&import.call);
	PG_RETURN_VOID();
}
