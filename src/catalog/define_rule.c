/*-------------------------------------------------------------------------
 *
 * define_rule.c
 *	  The SQL functions that state rules: add_rule() for a column,
 *	  set_table_rule() for a table, recopy() after a change.
 *
 * Rules can be changed while the slice is planned, and while it is syncing.
 * In the second case the target's rows were made by other rules: the table
 * map is stale (its rules_hash is not that of its rules) until recopy() has
 * the next batch read the table as a whole, and a stale table map keeps the
 * slice from being cut over.  What the key is computed from cannot change
 * any more then: capture logs just that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/define.h"
#include "catalog/pg_type.h"
#include "errors.h"
#include "mapping/mapping.h"
#include "mapping/rule.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * rehome_define_may_change raises unless a column's rule can be changed now,
 * and has a running worker learn of the change.
 */
void
rehome_define_may_change(RehomeSlice *slice, RehomeTableMap *map, const char *column)
{
	ListCell   *lc;

	rehome_slice_require(slice, "change the rules of", REHOME_PLANNED, REHOME_SYNCING);
	if (slice->state == REHOME_PLANNED)
		return;
	(void) rehome_table_maps_require(slice);
	foreach(lc, map->key)
		if (column != NULL && strcmp(lfirst(lc), column) == 0)
			ereport(ERROR,
					errcode(ERRCODE_REHOME_ILLEGAL_STATE),
					errmsg("cannot change the rule of key column \"%s\" while slice \"%s\" is %s",
						   column, slice->name, rehome_state_name(slice->state)),
					errdetail("Changes are captured by the key as it was defined."),
					errhint("CALL rehome.cancel(%s, %s); and define it anew.",
							quote_literal_cstr(slice->migration->name), quote_literal_cstr(slice->name)));
	rehome_slice_maps_changed(slice);
	if (map->paused)
		/* by itself: it is read as a whole when it goes on */
		rehome_spi("UPDATE rehome.table_map SET source_print = 'lossy' WHERE id = $1", "i", map->id);
}

/*
 * check_policy adds what is wrong with a column's error policy.
 */
static void
check_policy(RehomeRule *rule, const char *on_error, bool in_key, RehomeProblems *problems)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rule->target), rule->attnum - 1);

	if (on_error == NULL)
		return;
	if (strcmp(on_error, "fail") != 0 && strcmp(on_error, "null") != 0 &&
		strcmp(on_error, "default") != 0 && strcmp(on_error, "quarantine") != 0)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "Error policy \"%s\" is not one of fail, null, default, quarantine.", on_error);
	if (strcmp(on_error, "null") == 0 && (att->attnotnull || in_key))
		rehome_problem(problems, ERRCODE_NOT_NULL_VIOLATION, NULL,
					   "Column \"%s\" may not be null, so its error policy cannot be null.", rule->column);
	if (strcmp(on_error, "default") == 0)
	{
		Node	   *value = build_column_default(rule->target, rule->attnum);

		if (in_key || value == NULL)
			rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
						   in_key ? "Key column \"%s\" cannot have the error policy default." :
						   "Column \"%s\" has no default, so its error policy cannot be default.", rule->column);
		else if (contain_volatile_functions(value))
			rehome_problem(problems, ERRCODE_INVALID_OBJECT_DEFINITION, NULL,
						   "The default of column \"%s\" is volatile: copy, sync and verification would each get another.",
						   rule->column);
	}
	if (rule->quarantine && strcmp(on_error, "quarantine") != 0)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "Unlisted values are to go to quarantine, but the error policy is %s.", on_error);
}

/*
 * require_live adds that a source that is copied but once, in one statement,
 * can have no policy other than fail.
 */
static void
require_live(RehomeMigration *migration, const char *on_error, RehomeProblems *problems)
{
	if (!migration->live && on_error != NULL && strcmp(on_error, "fail") != 0)
		rehome_problem(problems, ERRCODE_FEATURE_NOT_SUPPORTED, NULL,
					   "The source of migration \"%s\" can only be copied from, in one statement: its error policy is fail.",
					   migration->name);
}

/*
 * rehome_define_policy states the error policy of a column that has its rule.
 */
void
rehome_define_policy(RehomeMigration *migration, RehomeTableMap *map, const char *column, const char *on_error)
{
	RehomeRule	rule = {.column = (char *) column};
	RehomeProblems problems;

	rehome_problems_init(&problems);
	rule.target = relation_open(map->target, AccessShareLock);
	rule.attnum = get_attnum(map->target, column);
	check_policy(&rule, on_error, rehome_name_listed(map->key, column), &problems);
	require_live(migration, on_error, &problems);
	rehome_problems_raise(&problems, "cannot set the error policy of column \"%s\" of \"%s\"",
						  column, RelationGetRelationName(rule.target));
	relation_close(rule.target, NoLock);
	rehome_spi("UPDATE rehome.column_map SET on_error = $3 WHERE table_map_id = $1 AND \"column\" = $2::name",
			   "itt", map->id, column, on_error);
}

PG_FUNCTION_INFO_V1(rehome_add_rule);

/*
 * rehome_add_rule(migration name, target regclass, "column" name, kind text,
 *				   params jsonb, source_column name, validation text,
 *				   on_error text, inverse text, inverse_column name, note text)
 * states how a target column is produced, by a rule of one of the kinds.
 */
Datum
rehome_add_rule(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	Oid			target_oid = rehome_required_relation(fcinfo, 1, "the target");
	char	   *column = rehome_required_name(fcinfo, 2, "the column");
	RehomeRule	rule = {.column = column,.kind = REHOME_ARG_TEXT(3),
		.params = PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4),
	.source_column = REHOME_ARG_NAME(5),.validation = REHOME_ARG_TEXT(6)};
	char	   *on_error = REHOME_ARG_TEXT(7);
	char	   *inverse = REHOME_ARG_TEXT(8);
	char	   *inverse_column = REHOME_ARG_NAME(9);
	char	   *note = REHOME_ARG_TEXT(10);
	RehomeMigration *migration;
	RehomeSlice *slice;
	RehomeTableMap *map;
	RehomeProblems problems;
	RehomeAs	as;
	bool		in_key = false;

	if (rule.kind == NULL)
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the kind of rule must be given"));
	rehome_call_begin(&call, fcinfo);
	map = rehome_define_open(&call, name, target_oid, &slice);
	migration = slice->migration;
	rehome_define_may_change(slice, map, column);

	rule.search_path = call.search_path;
	rule.source = relation_open(map->source, AccessShareLock);
	rule.target = relation_open(map->target, AccessShareLock);
	rule.attnum = get_attnum(map->target, column);
	if (rule.attnum <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("column \"%s\" of \"%s\" does not exist", column, RelationGetRelationName(rule.target)));
	in_key = rehome_name_listed(map->key, column);
	rehome_problems_init(&problems);
	rehome_become(&as, migration->owner);
	rehome_rule_compile(&rule, &problems);
	rehome_become_self(&as);
	if (rule.quarantine && on_error == NULL)
		on_error = "quarantine";
	check_policy(&rule, on_error, in_key, &problems);
	require_live(migration, on_error, &problems);
	rehome_problems_raise(&problems, "cannot make a rule of kind \"%s\" for column \"%s\" of \"%s\"",
						  rule.kind, column, RelationGetRelationName(rule.target));
	if (inverse == NULL && rule.inverse != NULL)
	{
		inverse = rule.inverse;
		inverse_column = rule.source_column ? pstrdup(rule.source_column) : column;
	}
	rehome_define_column(&call, migration, map, column, rule.expression, inverse, inverse_column, note);
	rehome_spi("UPDATE rehome.column_map SET kind = $3, params = $4::jsonb, validation = $5, on_error = $6, source_column = $7::name"
			   " WHERE table_map_id = $1 AND \"column\" = $2::name", "itttttt",
			   map->id, column, rule.kind,
			   rule.params ? JsonbToCString(NULL, &rule.params->root, VARSIZE(rule.params)) : NULL,
			   rule.validation, on_error, rule.source_column);
	relation_close(rule.target, NoLock);
	relation_close(rule.source, NoLock);
	rehome_event(name, slice->name, "defined",
				 psprintf("column %s.%s: %s", get_rel_name(target_oid), column, rule.kind), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

/*
 * check_archive adds what keeps rows of the target from being put into a table
 * each time they are deleted.
 */
static void
check_archive(RehomeTableMap *map, Oid archive, RehomeProblems *problems)
{
	Relation	rel = relation_open(map->target, AccessShareLock);
	Relation	into = relation_open(archive, AccessShareLock);
	const char *hint = psprintf("CREATE TABLE ... (LIKE %s);", rehome_relation_name(map->target));
	ListCell   *lc;

	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		AttrNumber	attnum = get_attnum(archive, NameStr(att->attname));

		if (att->attisdropped)
			continue;
		if (attnum <= 0)
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, hint,
						   "Archive \"%s\" has no column \"%s\".", get_rel_name(archive), NameStr(att->attname));
		else if (TupleDescAttr(RelationGetDescr(into), attnum - 1)->attgenerated != '\0' ||
				 TupleDescAttr(RelationGetDescr(into), attnum - 1)->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
			rehome_problem(problems, ERRCODE_GENERATED_ALWAYS, hint,
						   "Column \"%s\" of archive \"%s\" makes its values itself.", NameStr(att->attname), get_rel_name(archive));
	}
	foreach(lc, RelationGetIndexList(into))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		bool		repeats = index->rd_index->indisunique || index->rd_index->indisexclusion;

		/* a column of the archive's own may tell one deletion from another */
		for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			if (index->rd_index->indkey.values[i] != 0 &&
				get_attnum(map->target, get_attname(archive, index->rd_index->indkey.values[i], false)) <= 0)
				repeats = false;
		if (repeats)
			rehome_problem(problems, ERRCODE_INVALID_OBJECT_DEFINITION, hint,
						   "Index \"%s\" of archive \"%s\" is unique: a row that is deleted twice would stop sync.",
						   RelationGetRelationName(index), get_rel_name(archive));
		index_close(index, AccessShareLock);
	}
	relation_close(into, AccessShareLock);
	relation_close(rel, AccessShareLock);
	if (archive == map->target)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL, "\"%s\" cannot be its own archive.",
					   get_rel_name(map->target));
}

/*
 * check_delete adds what keeps rows that are gone at the source from being
 * treated that way.
 */
static void
check_delete(RehomeTableMap *map, const char *on_delete, const char *delete_column,
			 Oid archive, RehomeProblems *problems)
{
	const char *name = get_rel_name(map->target);
	bool		mark = strcmp(on_delete, "mark") == 0;
	bool		archived = strcmp(on_delete, "archive") == 0;
	ListCell   *lc;

	if (!mark && !archived && strcmp(on_delete, "delete") != 0 && strcmp(on_delete, "ignore") != 0)
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "Treatment \"%s\" is not one of delete, mark, archive, ignore.", on_delete);
	if (mark != (delete_column != NULL))
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "delete_column goes with on_delete => mark, and only with that.");
	if (archived != OidIsValid(archive))
		rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "delete_archive goes with on_delete => archive, and only with that.");
	if (mark && delete_column != NULL)
	{
		AttrNumber	attnum = get_attnum(map->target, delete_column);
		Oid			type = attnum > 0 ? get_atttype(map->target, attnum) : InvalidOid;

		if (attnum <= 0)
			rehome_problem(problems, ERRCODE_UNDEFINED_COLUMN, NULL, "Column \"%s\" of \"%s\" does not exist.",
						   delete_column, name);
		else if (type != BOOLOID && type != TIMESTAMPTZOID && type != TIMESTAMPOID)
			rehome_problem(problems, ERRCODE_DATATYPE_MISMATCH, NULL,
						   "Column \"%s\" of \"%s\" is of type %s: a mark is a boolean or the time.",
						   delete_column, name, format_type_be(type));
		foreach(lc, map->columns)
		{
			RehomeColumnMap *column = lfirst(lc);

			if (strcmp(column->name, delete_column) == 0 && column->kind != REHOME_SKIP)
				rehome_problem(problems, ERRCODE_INVALID_PARAMETER_VALUE,
							   "Leave it out: SELECT rehome.add_rule(..., kind => 'default');",
							   "Column \"%s\" of \"%s\" comes from the source.", delete_column, name);
		}
	}
	if (archived && OidIsValid(archive))
		check_archive(map, archive, problems);
}

/*
 * rehome_define_table_rule states what becomes of rows of a table that are
 * refused, and of rows that are gone; NULL leaves it as it was.
 */
void
rehome_define_table_rule(RehomeMigration *migration, RehomeTableMap *map, const char *on_error,
						 const char *on_delete, const char *delete_column, Oid archive)
{
	RehomeProblems problems;

	rehome_problems_init(&problems);
	if (on_error != NULL && strcmp(on_error, "fail") != 0 && strcmp(on_error, "quarantine") != 0)
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "Error policy \"%s\" of a table is not one of fail, quarantine.", on_error);
	require_live(migration, on_error, &problems);
	if (on_delete != NULL)
		check_delete(map, on_delete, delete_column, archive, &problems);
	else if (delete_column != NULL || OidIsValid(archive))
		rehome_problem(&problems, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
					   "delete_column and delete_archive go with on_delete.");
	rehome_problems_raise(&problems, "cannot set the rule of table \"%s\"", get_rel_name(map->target));
	rehome_spi("UPDATE rehome.table_map SET on_error = coalesce($2, on_error), on_delete = coalesce($3, on_delete),"
			   " delete_column = CASE WHEN $3 IS NULL THEN delete_column ELSE $4::name END,"
			   " delete_archive = CASE WHEN $3 IS NULL THEN delete_archive ELSE nullif($5, 0)::regclass END"
			   " WHERE id = $1", "ittto", map->id, on_error, on_delete, delete_column, archive);
}

PG_FUNCTION_INFO_V1(rehome_set_table_rule);

/*
 * rehome_set_table_rule(migration name, target regclass, on_error text,
 *						 on_delete text, delete_column name, delete_archive regclass)
 * states what becomes of rows that are refused, and of rows that are gone.
 */
Datum
rehome_set_table_rule(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	Oid			target_oid = rehome_required_relation(fcinfo, 1, "the target");
	char	   *on_error = REHOME_ARG_TEXT(2);
	char	   *on_delete = REHOME_ARG_TEXT(3);
	char	   *delete_column = REHOME_ARG_NAME(4);
	Oid			archive = PG_ARGISNULL(5) ? InvalidOid : rehome_required_relation(fcinfo, 5, "the archive");
	RehomeMigration *migration;
	RehomeSlice *slice;
	RehomeTableMap *map;

	rehome_call_begin(&call, fcinfo);
	map = rehome_define_open(&call, name, target_oid, &slice);
	migration = slice->migration;
	rehome_define_may_change(slice, map, NULL);
	rehome_define_table_rule(migration, map, on_error, on_delete, delete_column, archive);
	rehome_event(name, slice->name, "defined",
				 psprintf("table %s: %s%s%s%s", get_rel_name(target_oid), on_error ? "on error " : "",
						  on_error ? on_error : "", on_delete ? " on delete " : "", on_delete ? on_delete : ""), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(rehome_recopy);

/*
 * rehome_recopy(migration name, target regclass) has the next batch read a
 * table as a whole, as after a TRUNCATE at the source.
 */
Datum
rehome_recopy(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	Oid			target_oid = rehome_required_relation(fcinfo, 1, "the target");
	RehomeSlice *slice;
	RehomeTableMap *map;

	rehome_call_begin(&call, fcinfo);
	map = rehome_define_open(&call, name, target_oid, &slice);
	rehome_slice_require(slice, "copy a table again of", REHOME_SYNCING, REHOME_SYNCING);
	rehome_spi("UPDATE rehome.table_map SET source_print = 'recopy' WHERE id = $1", "i", map->id);
	rehome_spi("UPDATE rehome.slice SET source_print = 'recopy' WHERE id = $1", "i", slice->id);
	rehome_slice_maps_changed(slice);
	rehome_event(name, slice->name, "copy",
				 psprintf("table %s is to be copied again with the next batch", get_rel_name(target_oid)), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
