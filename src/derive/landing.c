/*-------------------------------------------------------------------------
 *
 * landing.c
 *	  Landing tables: source rows as they are, to derive from.
 *
 * A landing table is made with the columns of the source and mapped column by
 * column, or all but its key as text, so that no value is refused on the way.
 * What is made of it is derived (derive.c), as often as wanted, without
 * reading the source again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/define.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "derive/derive.h"
#include "miscadmin.h"
#include "remote/query.h"
#include "util/name.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * check_landing adds what keeps the table from being made.
 */
static void
check_landing(Relation source, const char *schema, const char *name, List *key, RehomeProblems *problems)
{
	ListCell   *lc;

	if (!OidIsValid(get_namespace_oid(schema, true)))
		rehome_problem(problems, ERRCODE_UNDEFINED_SCHEMA, psprintf("CREATE SCHEMA %s;", quote_identifier(schema)),
					   "Schema \"%s\" does not exist.", schema);
	else if (OidIsValid(get_relname_relid(name, get_namespace_oid(schema, false))))
		rehome_problem(problems, ERRCODE_DUPLICATE_TABLE, "Map it with rehome.add_table(), or choose another name.",
					   "%s exists already.", quote_qualified_identifier(schema, name));
	if (key == NIL)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, "Name the columns that identify a row at the source.",
					   "No key was given.");
	foreach(lc, key)
		if (lfirst(lc) == NULL || get_attnum(RelationGetRelid(source), lfirst(lc)) <= 0)
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL, "Key column \"%s\" is not a column of \"%s\".",
						   lfirst(lc) ? (char *) lfirst(lc) : "NULL", RelationGetRelationName(source));
}

/*
 * create_sql returns the CREATE TABLE, and in *text_columns the names (char *)
 * of the columns that are text here and not at the source.
 */
static char *
create_sql(Relation source, const char *schema, const char *name, List *key, bool as_text, List **text_columns)
{
	TupleDesc	desc = RelationGetDescr(source);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", quote_qualified_identifier(schema, name));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		text = as_text && att->atttypid != TEXTOID && !rehome_name_listed(key, NameStr(att->attname));

		if (att->attisdropped)
			continue;
		appendStringInfo(&sql, "%s %s, ", quote_identifier(NameStr(att->attname)),
						 text ? "text" : format_type_with_typemod(att->atttypid, att->atttypmod));
		if (text)
			*text_columns = lappend(*text_columns, pstrdup(NameStr(att->attname)));
	}
	appendStringInfo(&sql, "PRIMARY KEY (%s))", rehome_quote_list(key, ""));
	return sql.data;
}

PG_FUNCTION_INFO_V1(rehome_land_table);

/*
 * rehome_land_table(migration name, source regclass, landing_schema name,
 *					 landing_table name, key name[], as_text boolean, slice name)
 */
Datum
rehome_land_table(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeSlice *slice;
	RehomeProblems problems;
	Relation	source;
	Oid			source_oid = rehome_required_relation(fcinfo, 1, "the source");
	char	   *schema = rehome_required_name(fcinfo, 2, "the schema of the landing table");
	char	   *name = PG_ARGISNULL(3) ? get_rel_name(source_oid) : NameStr(*PG_GETARG_NAME(3));
	List	   *key = rehome_names_argument(fcinfo, 4, "key");
	bool		as_text = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5);
	char	   *slice_name = rehome_required_name(fcinfo, 6, "the slice");
	List	   *text_columns = NIL;
	Oid			landing;
	RehomeTableMap *map;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	slice = linitial(rehome_slices_get(migration, slice_name));
	rehome_slice_work_lock(slice);
	rehome_slice_require(slice, "define tables of", REHOME_PLANNED, REHOME_PLANNED);
	source = relation_open(source_oid, AccessShareLock);
	rehome_problems_init(&problems);
	check_landing(source, schema, name, key, &problems);
	rehome_problems_raise(&problems, "cannot land \"%s\"", RelationGetRelationName(source));
	(void) rehome_spi_as(migration->owner, false, create_sql(source, schema, name, key, as_text, &text_columns));
	relation_close(source, NoLock);
	landing = get_relname_relid(name, get_namespace_oid(schema, false));
	map = rehome_table_map_by_id(rehome_define_table(&call, slice, source_oid, landing, key, NULL, NULL, false));
	foreach(lc, text_columns)
		rehome_define_column(&call, migration, map, lfirst(lc), psprintf("(%s)::text", quote_identifier(lfirst(lc))), NULL, NULL,
							 "landed as text");
	rehome_event(migration->name, slice->name, "defined",
				 psprintf("%s lands in %s", rehome_relation_name(source_oid), rehome_relation_name(landing)), NULL);
	rehome_call_end(&call);
	PG_RETURN_OID(landing);
}
