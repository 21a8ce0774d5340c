/*-------------------------------------------------------------------------
 *
 * define_derived.c
 *	  Stating derivations: add_derived(), drop_derived().
 *
 * What a query reads is found by analyzing it; the caller adds what is hidden
 * in functions, and which keys a change of an input touches.  Where columns
 * are derived, the target is an input as well: a row of it that is taken out
 * and put in again has lost them.  Everything is checked before anything is
 * stored; then the triggers are made, and a note that everything is to be
 * derived, in one transaction.  The next batch, or the end of the copy,
 * derives.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "capture/capture.h"
#include "catalog/catalog.h"
#include "catalog/define.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "derive/derive.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "remote/query.h"
#include "rewrite/rewriteHandler.h"
#include "util/name.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

/*
 * analyze returns the row type of a query that is stated; in *inputs, if that
 * is not NULL, the relations it reads, those behind views included; and in
 * *mutable, if that is not NULL, whether functions may read more.
 */
static TupleDesc
analyze(const RehomeStated *stated, const char *sql, List **inputs, bool *mutable)
{
	MemoryContext context = CurrentMemoryContext;
	int			level = rehome_stated_enter(stated);
	SPIPlanPtr	plan;
	CachedPlanSource *source;
	TupleDesc	desc;
	RehomeAs	as;
	ListCell   *lc;

	rehome_become(&as, stated->owner);
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare a query: %s", SPI_result_code_string(SPI_result));
	MemoryContextSwitchTo(context);
	source = linitial(SPI_plan_get_plan_sources(plan));
	desc = CreateTupleDescCopy(source->resultDesc);
	if (mutable != NULL)
		*mutable = contain_mutable_functions((Node *) source->query_list);
	foreach(lc, source->relationOids)
	{
		Oid			relid = lfirst_oid(lc);

		if (inputs != NULL && get_rel_relkind(relid) != RELKIND_VIEW && !IsCatalogRelationOid(relid))
			*inputs = list_append_unique_oid(*inputs, relid);
	}
	SPI_freeplan(plan);
	rehome_become_self(&as);
	rehome_stated_leave(level);
	return desc;
}

/*
 * rehome_affected_reads tells whether what a change of an input affects depends
 * on more than the row that has changed: on what others write, too.
 */
bool
rehome_affected_reads(const RehomeStated *stated, Oid input, const char *affected)
{
	List	   *inputs = NIL;
	bool		mutable;

	(void) analyze(stated, psprintf("SELECT a.* FROM (SELECT (NULL::%s).*) AS t CROSS JOIN LATERAL (%s\n) AS a",
									rehome_relation_name(input), affected), &inputs, &mutable);
	return inputs != NIL || mutable;
}

/*
 * primary_key returns the names (char *) of a table's primary key.
 */
static List *
primary_key(Oid relid)
{
	return rehome_name_list(rehome_spi_value("SELECT coalesce(array_agg(a.attname ORDER BY k.n), '{}') FROM pg_index i,"
											 " unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n), pg_attribute a"
											 " WHERE i.indrelid = $1 AND i.indisprimary AND a.attrelid = $1 AND a.attnum = k.attnum",
											 "o", relid));
}

/*
 * check_columns compares the columns of the query with those of the target;
 * without columns given, the query's are the derivation's.
 */
static void
check_columns(RehomeDerivation *d, Relation target, TupleDesc desc, RehomeProblems *problems)
{
	List	   *given = NIL;
	ListCell   *lc;

	for (int i = 0; i < desc->natts; i++)
	{
		char	   *name = NameStr(TupleDescAttr(desc, i)->attname);
		AttrNumber	attnum = get_attnum(RelationGetRelid(target), name);

		if (attnum <= 0 || TupleDescAttr(RelationGetDescr(target), attnum - 1)->attgenerated != '\0')
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, "Name the query's columns as the target's.",
						   "The query gives \"%s\", which is not a column of \"%s\" that can be written.", name,
						   RelationGetRelationName(target));
		else if (rehome_name_listed(given, name))
			rehome_problem(problems, ERRCODE_DUPLICATE_COLUMN, NULL, "The query gives \"%s\" twice.", name);
		else
			given = lappend(given, pstrdup(name));
	}
	foreach(lc, d->key)
		if (!rehome_name_listed(given, lfirst(lc)))
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL, "The query does not give the key column \"%s\".",
						   (char *) lfirst(lc));
	if (d->whole)
	{
		foreach(lc, given)
			if (!rehome_name_listed(d->key, lfirst(lc)))
				d->columns = lappend(d->columns, lfirst(lc));
		for (int i = 0; i < RelationGetDescr(target)->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), i);

			if (att->attnotnull && !att->atthasdef && att->attidentity == '\0' && !att->attisdropped &&
				!rehome_name_listed(given, NameStr(att->attname)))
				rehome_problem(problems, ERRCODE_NOT_NULL_VIOLATION, NULL,
							   "Column \"%s\" must not be null, and the query does not give it.", NameStr(att->attname));
		}
		return;
	}
	foreach(lc, d->columns)
		if (!rehome_name_listed(given, lfirst(lc)) || rehome_name_listed(d->key, lfirst(lc)))
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL,
						   rehome_name_listed(d->key, lfirst(lc)) ? "Column \"%s\" is part of the key." :
						   "The query does not give \"%s\".", (char *) lfirst(lc));
	foreach(lc, given)
		if (!rehome_name_listed(d->columns, lfirst(lc)) && !rehome_name_listed(d->key, lfirst(lc)))
			rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
						   "The query gives \"%s\", which is neither part of the key nor one of the columns.",
						   (char *) lfirst(lc));
}

/*
 * check_target adds what keeps the target, or its columns, from being derived.
 */
static void
check_target(RehomeDerivation *d, RehomeSlice *slice, Relation target, RehomeProblems *problems)
{
	RehomeRows *rows;
	AclMode		needed = ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE;
	char	   *unlogged = rehome_target_unlogged(d->target);

	if (unlogged != NULL)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE,
					   psprintf("ALTER TABLE %s SET LOGGED;", unlogged),
					   "Table %s is unlogged: a crash of this server would empty it, and nothing would tell.", unlogged);
	if (pg_class_aclmask(d->target, d->stated.owner, needed, ACLMASK_ALL) != needed)
		rehome_problem(problems, ERRCODE_INSUFFICIENT_PRIVILEGE, NULL,
					   "The migration's owner %s may not read and write \"%s\".",
					   GetUserNameFromId(d->stated.owner, false), RelationGetRelationName(target));
	rows = rehome_spi("SELECT m.name, s.name, t.id, s.id FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id"
					  " JOIN rehome.migration m ON m.id = s.migration_id"
					  " WHERE t.target = $1 AND s.state NOT IN ('completed', 'cancelled')", "o", d->target);
	for (int i = 0; i < rows->n; i++)
	{
		RehomeRows *columns;

		if (d->whole)
		{
			rehome_problem(problems, ERRCODE_OBJECT_IN_USE, "Derive single columns of it: columns => ARRAY[...].",
						   "Rows of \"%s\" are moved by slice \"%s\" of migration \"%s\".",
						   RelationGetRelationName(target), rows->value[i][1], rows->value[i][0]);
			continue;
		}
		/* once that slice has been cut over, they are the application's */
		if (rehome_int(rows->value[i][3]) != slice->id)
			rehome_problem(problems, ERRCODE_OBJECT_IN_USE,
						   strcmp(rows->value[i][0], slice->migration->name) != 0 ? NULL :
						   psprintf("Have it derive them: slice => %s.", quote_literal_cstr(rows->value[i][1])),
						   "Rows of \"%s\" are moved by slice \"%s\" of migration \"%s\", so no other can derive columns of it.",
						   RelationGetRelationName(target), rows->value[i][1], rows->value[i][0]);
		columns = rehome_spi("SELECT c.\"column\" FROM rehome.column_map c WHERE c.table_map_id = $1 AND c.kind <> 'skip'"
							 " AND c.\"column\" = ANY ($2::name[]) ORDER BY 1", "it", rehome_int(rows->value[i][2]),
							 rehome_name_array(d->columns));
		for (int c = 0; c < columns->n; c++)
			rehome_problem(problems, ERRCODE_OBJECT_IN_USE, "Leave it out there first: rehome.map_column(..., NULL).",
						   "A rule of migration \"%s\" fills \"%s\".", rows->value[i][0], columns->value[c][0]);
	}
	rows = rehome_spi("SELECT d.name, m.name FROM rehome.derivation d JOIN rehome.migration m ON m.id = d.migration_id"
					  " JOIN rehome.slice s ON s.id = d.slice_id WHERE d.target = $1 AND (d.whole OR $2 OR d.columns && $3::name[])"
					  " AND s.state NOT IN ('completed', 'cancelled')", "obt", d->target, d->whole, rehome_name_array(d->columns));
	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_OBJECT_IN_USE, NULL, "\"%s\" is derived already: \"%s\" of migration \"%s\".",
					   RelationGetRelationName(target), rows->value[i][0], rows->value[i][1]);
	if (d->whole && problems->n == 0 &&
		rehome_spi_as(d->stated.owner, false, psprintf("SELECT 1 FROM %s LIMIT 1", rehome_relation_name(d->target)))->n > 0)
		rehome_problem(problems, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					   "TRUNCATE it, or derive single columns of it: columns => ARRAY[...].",
					   "Table %s has rows, which the query would take away.", rehome_relation_name(d->target));
}

/*
 * check_statements adds what keeps the triggers on an input, which fire for
 * statements that name it, from seeing all changes of the rows that a query
 * reads there.  What its slice moves, the slice alone writes to, by its name.
 */
static void
check_statements(RehomeSlice *slice, Oid relid, RehomeProblems *problems)
{
	char	   *name = rehome_relation_name(relid);
	RehomeRows *rows;

	if (has_superclass(relid) &&
		rehome_spi("SELECT FROM rehome.table_map WHERE slice_id = $1 AND target = $2", "io", slice->id, relid)->n == 0)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, get_rel_relispartition(relid) ? "Derive from the table that it is a part of." :
					   "Derive from a table that inherits from none.",
					   "Rows of %s can be changed through the table that it is a part of: such changes cannot be noted.", name);
	if (get_rel_relkind(relid) == RELKIND_RELATION && find_inheritance_children(relid, NoLock) != NIL)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, "Derive from a table that is partitioned, or that none inherits from.",
					   "Rows of %s are rows of tables that inherit from it: their changes cannot be noted.", name);
	rows = rehome_spi("SELECT t.target FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id"
					  " WHERE t.target <> $1::oid AND t.target IN (SELECT relid FROM pg_partition_tree($1))"
					  " AND s.state NOT IN ('completed', 'cancelled') ORDER BY t.target::text", "o", relid);
	for (int i = 0; i < rows->n; i++)
		rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, "Move the partitioned table, or derive from its partitions.",
					   "Rows of %s are moved into its partition %s: their changes cannot be noted.", name, rows->value[i][0]);
}

/*
 * check_inputs adds what keeps changes of the inputs from being noted.
 */
static void
check_inputs(RehomeDerivation *d, RehomeSlice *slice, RehomeProblems *problems)
{
	ListCell   *lc;

	if (d->inputs == NIL)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "The query reads no table.");
	foreach(lc, d->inputs)
	{
		Oid			relid = lfirst_oid(lc);
		char		relkind = get_rel_relkind(relid);
		char	   *name = rehome_relation_name(relid);
		/* the target has our triggers anyhow */
		AclMode		needed = relid == d->target ? ACL_SELECT : ACL_SELECT | ACL_TRIGGER;

		if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
			rehome_problem(problems, ERRCODE_WRONG_OBJECT_TYPE, "Move it into a table here, and derive from that.",
						   "%s is not a table: its changes cannot be noted.", name);
		else if (d->whole && relid == d->target)
			rehome_problem(problems, ERRCODE_INVALID_OBJECT_DEFINITION, NULL,
						   "The query reads %s, the table it makes.", name);
		check_statements(slice, relid, problems);
		if (pg_class_aclmask(relid, d->stated.owner, needed, ACLMASK_ALL) != needed)
			rehome_problem(problems, ERRCODE_INSUFFICIENT_PRIVILEGE,
						   psprintf("GRANT SELECT, TRIGGER ON %s TO %s;", name,
									quote_identifier(GetUserNameFromId(d->stated.owner, false))),
						   "The migration's owner %s may not read %s and put triggers on it.",
						   GetUserNameFromId(d->stated.owner, false), name);
	}
}

/*
 * check_write_back adds what is wrong with the function for the way back, if
 * there is one, and stores its name.
 */
static void
check_write_back(RehomeDerivation *d, Oid function, RehomeProblems *problems)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	Oid			row = get_rel_type_id(d->target);

	if (!OidIsValid(function))
		return;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	d->write_back = quote_qualified_identifier(get_namespace_name(proc->pronamespace), NameStr(proc->proname));
	if (proc->prokind != PROKIND_FUNCTION || proc->pronargs != 2 || proc->proargtypes.values[0] != row ||
		proc->proargtypes.values[1] != row)
		rehome_problem(problems, ERRCODE_INVALID_FUNCTION_DEFINITION,
					   psprintf("CREATE FUNCTION %s(old_row %s, new_row %s) RETURNS void ...", d->write_back,
								rehome_relation_name(d->target), rehome_relation_name(d->target)),
					   "Function %s does not take two rows of the target.", d->write_back);
	ReleaseSysCache(tuple);
}

/*
 * made_anew returns what a change of the target affects when its columns are
 * derived and the query does not read it: a row that has just been made lacks
 * them.  Where they have defaults, that does not show, and it is any row.
 */
static char *
made_anew(RehomeDerivation *d)
{
	Relation	target = relation_open(d->target, NoLock);
	StringInfoData sql;
	const char *joint = " WHERE ";
	bool		shows = true;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s", rehome_quote_list(d->key, "t."));
	foreach(lc, d->columns)
		shows = shows && build_column_default(target, get_attnum(d->target, lfirst(lc))) == NULL;
	if (shows)
		foreach(lc, d->columns)
		{
			appendStringInfo(&sql, "%st.%s IS NULL", joint, quote_identifier(lfirst(lc)));
			joint = " AND ";
		}
	relation_close(target, NoLock);
	return sql.data;
}

/*
 * store_inputs stores the inputs and what their changes touch: affected is
 * an object of queries by table name, as the caller's path finds them.  A
 * target whose columns are derived is an input, too.
 */
static void
store_inputs(RehomeDerivation *d, const char *affected, RehomeProblems *problems)
{
	RehomeRows *rows = rehome_spi("SELECT key, value #>> '{}', jsonb_typeof(value) FROM jsonb_each($1::jsonb) ORDER BY key", "t", affected);
	ListCell   *lc;

	for (int i = 0; i < rows->n; i++)
	{
		char	   *query = rows->value[i][1];
		char	   *relation = rehome_stated_run(&d->stated, "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", rows->value[i][0])->value[0][0];
		Oid			relid = relation ? (Oid) rehome_int64(relation) : InvalidOid;
		TupleDesc	desc;

		if (!OidIsValid(relid))
		{
			rehome_problem(problems, ERRCODE_UNDEFINED_TABLE, NULL, "Relation \"%s\" does not exist.", rows->value[i][0]);
			continue;
		}
		d->inputs = list_append_unique_oid(d->inputs, relid);
		if (query != NULL)
		{
			if (strcmp(rows->value[i][2], "string") != 0)
			{
				rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
							   "What a change of %s affects is not a query: %s", rows->value[i][0], query);
				continue;
			}
			rehome_stated_require_select(query, psprintf("what a change of %s affects", rows->value[i][0]));
			query = rehome_stated_trim(query);
			desc = analyze(&d->stated, psprintf("SELECT a.* FROM %s AS t CROSS JOIN LATERAL (%s\n) AS a",
												rehome_relation_name(relid), query), NULL, NULL);
			if (desc->natts != list_length(d->key))
				rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
							   "What a change of %s affects has %d columns, the key has %d.", rows->value[i][0],
							   desc->natts, list_length(d->key));
		}
		if (problems->n == 0)
			rehome_spi("INSERT INTO rehome.derivation_input (derivation_id, input, affected) VALUES ($1, $2, $3)", "iot",
					   d->id, relid, query);
	}
	if (problems->n > 0)
		return;
	if (!d->whole && d->inputs != NIL && !list_member_oid(d->inputs, d->target))
	{
		d->inputs = lappend_oid(d->inputs, d->target);
		rehome_spi("INSERT INTO rehome.derivation_input (derivation_id, input, affected) VALUES ($1, $2, $3)", "iot",
				   d->id, d->target, made_anew(d));
	}
	foreach(lc, d->inputs)
		rehome_spi("INSERT INTO rehome.derivation_input (derivation_id, input) VALUES ($1, $2) ON CONFLICT DO NOTHING",
				   "io", d->id, lfirst_oid(lc));
}

/*
 * rehome_define_derived states a derivation: wanted has its name, target, key
 * (NIL: the primary key), columns (NIL: whole rows), query, path and owner;
 * function is for the way back, or InvalidOid.
 */
void
rehome_define_derived(RehomeMigration *migration, RehomeDerivation *d, const char *slice_name, const char *affected, Oid function, const char *note)
{
	RehomeSlice *slice = linitial(rehome_slices_get(migration, slice_name));
	RehomeProblems problems;
	Relation	target;
	TupleDesc	desc;

	rehome_slice_work_lock(slice);
	rehome_slice_require(slice, "derive data of", REHOME_PLANNED, REHOME_SYNCING);
	rehome_stated_require_select(d->query, "the query");
	d->query = rehome_stated_trim(d->query);
	if (rehome_spi("SELECT FROM rehome.derivation WHERE migration_id = $1 AND name = $2::name", "it", migration->id, d->name)->n > 0)
		ereport(ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("derived data \"%s\" of migration \"%s\" already exists", d->name, migration->name),
				errhint("SELECT rehome.drop_derived(%s, %s);", quote_literal_cstr(migration->name), quote_literal_cstr(d->name)));
	target = relation_open(d->target, AccessShareLock);
	if (target->rd_rel->relkind != RELKIND_RELATION && target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				errcode(ERRCODE_WRONG_OBJECT_TYPE),
				errmsg("\"%s\" is not a table", RelationGetRelationName(target)));
	rehome_problems_init(&problems);
	d->whole = d->columns == NIL;
	if (d->key == NIL)
		d->key = primary_key(d->target);
	rehome_define_check_key(target, d->key, &problems);
	desc = analyze(&d->stated, d->query, &d->inputs, NULL);
	check_columns(d, target, desc, &problems);
	check_target(d, slice, target, &problems);
	check_write_back(d, function, &problems);
	if (problems.n == 0)
	{
		/* that the query's types fit the target's */
		(void) analyze(&d->stated, rehome_derivation_sql(d, rehome_derivation_mapping(d), false), NULL, NULL);
		d->id = rehome_int(rehome_spi_value("INSERT INTO rehome.derivation (migration_id, slice_id, name, target, whole, key, columns,"
											" query, search_path, write_back, note)"
											" VALUES ($1, $2, $3::name, $4, $5, $6::name[], $7::name[], $8, $9, $10, $11) RETURNING id",
											"iitobtttttt", migration->id, slice->id, d->name, d->target, d->whole,
											rehome_name_array(d->key), rehome_name_array(d->columns), d->query,
											d->stated.search_path, d->write_back, note));
	}
	store_inputs(d, affected, &problems);
	check_inputs(d, slice, &problems);
	rehome_problems_raise(&problems, "cannot derive \"%s\"", RelationGetRelationName(target));
	relation_close(target, NoLock);

	(void) rehome_derivations_get(slice);	/* raises when they are in a circle */
	rehome_spi("INSERT INTO rehome.derivation_pending (derivation_id) VALUES ($1)", "i", d->id);
	rehome_targets_lock(rehome_derivation_maps(d), ShareRowExclusiveLock);
	rehome_derivation_install(slice, d);
	rehome_event(migration->name, slice->name, "defined",
				 psprintf("%s of %s are derived", d->whole ? "rows" : "columns", rehome_relation_name(d->target)), NULL);
}

/*
 * rehome_names_argument returns an argument of type name[]; null gives NIL.
 */
List *
rehome_names_argument(FunctionCallInfo fcinfo, int n, const char *what)
{
	List	   *names;
	ListCell   *lc;

	if (PG_ARGISNULL(n))
		return NIL;
	names = rehome_name_list(OidOutputFunctionCall(F_ARRAY_OUT, PG_GETARG_DATUM(n)));
	foreach(lc, names)
		if (lfirst(lc) == NULL)
			ereport(ERROR,
					errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("%s must not have nulls", what));
	return names;
}

PG_FUNCTION_INFO_V1(rehome_add_derived);

/*
 * rehome_add_derived(migration name, name name, target regclass, query text,
 *					  affected jsonb, columns name[], key name[],
 *					  write_back regproc, slice name, note text)
 */
Datum
rehome_add_derived(PG_FUNCTION_ARGS)
{
	RehomeDerivation d = {0};
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *affected = PG_ARGISNULL(4) ? "{}" : DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(4)));

	d.name = rehome_required_name(fcinfo, 1, "the name of the derived data");
	d.target = rehome_required_relation(fcinfo, 2, "the target");
	d.query = REHOME_ARG_TEXT(3);
	if (d.query == NULL || PG_ARGISNULL(8))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the query and the slice must be given"));
	d.columns = rehome_names_argument(fcinfo, 5, "columns");
	d.key = rehome_names_argument(fcinfo, 6, "key");
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	d.stated.owner = migration->owner;
	d.stated.search_path = rehome_stated_path(&call);
	if (!rehome_bool(rehome_spi_value("SELECT jsonb_typeof($1::jsonb) = 'object'", "t", affected)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("affected is not an object"),
				errdetail("It is: %s", affected),
				errhint("It has a member for each table the query reads: {\"app.line\": \"SELECT t.product_id\"}."));
	rehome_define_derived(migration, &d, NameStr(*PG_GETARG_NAME(8)), affected,
						  PG_ARGISNULL(7) ? InvalidOid : PG_GETARG_OID(7), REHOME_ARG_TEXT(9));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_drop_derived);

/*
 * rehome_drop_derived(migration name, name name)
 */
Datum
rehome_drop_derived(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *name = rehome_required_name(fcinfo, 1, "the name of the derived data");
	RehomeRows *rows;
	RehomeSlice *slice;
	ListCell   *lc;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	rows = rehome_spi("SELECT slice_id FROM rehome.derivation WHERE migration_id = $1 AND name = $2::name", "it", migration->id, name);
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("derived data \"%s\" of migration \"%s\" does not exist", name, migration->name),
				errhint("SELECT * FROM rehome.derived;"));
	slice = rehome_slice_by_id(rehome_int(rows->value[0][0]));
	rehome_slice_work_lock(slice);
	foreach(lc, rehome_derivations_get(slice))
	{
		RehomeDerivation *d = lfirst(lc);

		if (strcmp(d->name, name) != 0)
			continue;
		if (slice->state != REHOME_COMPLETED && slice->state != REHOME_CANCELLED)
		{
			rehome_slice_require(slice, "derive data of", REHOME_PLANNED, REHOME_SYNCING);
			rehome_targets_lock(rehome_derivation_maps(d), AccessExclusiveLock);
			rehome_derivation_remove(d);
		}
		rehome_spi("DELETE FROM rehome.derivation WHERE id = $1", "i", d->id);
		rehome_event(migration->name, slice->name, "defined", psprintf("%s is derived no more", name), NULL);
	}
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
